"""GGML's types: our CPU kernels against libggml and gguf-py, one thread each, in one process.

`Scheme.encode` and `Scheme.decode` are called as a conversion calls them, ggml's `ggml_quantize_chunk` and the type's
`dequantize_row` through ctypes (the library of llama-cpp-python), gguf-py's `quantize` and `dequantize` where it has
the type.
Every contender makes its own result array. Contenders take turns; a figure is the median of its CPU times (of the
calling thread), and a ratio is the other's time over ours: above 1 we are faster.

    .venv-peers/bin/python benchmarks/ggml.py --only q4_k --runs 9
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before numpy is imported: gguf-py's arithmetic is numpy's.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from quantcli.schemes import ggml
from quantcli.schemes.ggml.blocks import Ggml

Floats = NDArray[np.float32]
Blocks = NDArray[np.uint8]
Work = Callable[[], object]

COLUMNS = 2048
#: A contender's run lasts about this long, so that the clock's steps do not count.
SECONDS = 0.02
#: `ggml_quantize_chunk` does not know it, its row encoder has a name of its own.
BY_ROW = ("q8_k",)


class Library:
    """libggml, through ctypes."""

    def __init__(self, path: Path) -> None:
        self.lib = ctypes.CDLL(str(path))
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        pointers, counts = (ctypes.c_void_p, ctypes.c_void_p), (ctypes.c_int64,) * 3
        self.lib.ggml_quantize_chunk.argtypes = (ctypes.c_int, *pointers, *counts, ctypes.c_void_p)
        self.lib.ggml_version.restype = ctypes.c_char_p

    @property
    def version(self) -> str:
        return str(self.lib.ggml_version().decode())

    def encode(self, scheme: Ggml, values: Floats, importance: Floats | None) -> Blocks:
        kind, (rows, columns) = scheme.ggml_type, values.shape
        blocks = np.empty((rows, columns // kind.block_size * kind.block_bytes), np.uint8)
        if scheme.name in BY_ROW:
            self._row_function("quantize_row_", scheme, "_ref")(values.ctypes.data, blocks.ctypes.data, values.size)
            return blocks
        weights = None if importance is None else importance.ctypes.data
        self.lib.ggml_quantize_chunk(kind.id, values.ctypes.data, blocks.ctypes.data, 0, rows, columns, weights)
        return blocks

    def decode(self, scheme: Ggml, blocks: Blocks, columns: int) -> Floats:
        values = np.empty((blocks.shape[0], columns), np.float32)
        self._row_function("dequantize_row_", scheme)(blocks.ctypes.data, values.ctypes.data, values.size)
        return values

    def _row_function(self, start: str, scheme: Ggml, end: str = "") -> Any:
        name = scheme.name.replace("_k", "_K") if scheme.name.endswith("_k") else scheme.name
        found = self.lib[start + name + end]
        found.restype, found.argtypes = None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        return found


@dataclass(frozen=True)
class Result:
    """Nanoseconds a value of each contender."""

    costs: Mapping[str, float]
    same: bool

    def ratio(self, other: str) -> str:
        return f"{self.costs[other] / self.costs['quant']:.2f}" if other in self.costs else "-"


def library() -> Path:
    """llama-cpp-python's libggml-base, found without importing the package."""
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise SystemExit("llama-cpp-python is not installed here: run this with the Python that `make peers` sets up")
    names = sorted((Path(found.origin).parent / "lib").glob("libggml-base.*"))
    if not names:
        raise SystemExit(f"no libggml-base beside {found.origin}")
    return names[0]


def gguf_type(name: str) -> Any | None:
    """gguf-py's type of that name."""
    import gguf

    return getattr(gguf.GGMLQuantizationType, name.upper(), None)


def spent(work: Work) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def compare(contenders: Mapping[str, Work], values: int, runs: int) -> dict[str, float]:
    """Median nanoseconds a value; each works as often in a round as SECONDS take.

    Each begins its turn with a call that does not count: where the one before has given memory back to the system, as
    gguf-py does, it is the next whose result would have to be mapped anew, a page fault for each 4 KiB.
    """
    often = {}
    for name, work in contenders.items():
        work()
        often[name] = max(1, round(SECONDS / max(1e-6, spent(work))))
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, work in contenders.items():
            work()
            start = time.thread_time()
            for _ in range(often[name]):
                work()
            costs[name].append((time.thread_time() - start) / often[name])
    return {name: 1e9 * statistics.median(found) / values for name, found in costs.items()}


def encode(lib: Library, scheme: Ggml, values: Floats, importance: Floats | None, runs: int) -> Result:
    contenders: dict[str, Work] = {
        "quant": lambda: scheme.encode(values, importance=importance),
        "ggml": lambda: lib.encode(scheme, values, importance),
    }
    kind = gguf_type(scheme.name)
    if importance is None and kind is not None and _works(lambda: _quantize(values[:1], kind)):
        contenders["gguf-py"] = lambda: _quantize(values, kind)
    ours, _ = scheme.encode(values, importance=importance)
    same = np.array_equal(ours["blocks"], lib.encode(scheme, values, importance))
    return Result(compare(contenders, values.size, runs), same)


def decode(lib: Library, scheme: Ggml, blocks: Blocks, columns: int, runs: int) -> Result:
    contenders: dict[str, Work] = {
        "quant": lambda: scheme.decode({"blocks": blocks}),
        "ggml": lambda: lib.decode(scheme, blocks, columns),
    }
    kind = gguf_type(scheme.name)
    if kind is not None and _works(lambda: _dequantize(blocks[:1], kind)):
        contenders["gguf-py"] = lambda: _dequantize(blocks, kind)
    same = np.array_equal(scheme.decode({"blocks": blocks}), lib.decode(scheme, blocks, columns))
    return Result(compare(contenders, blocks.shape[0] * columns, runs), same)


def _quantize(values: Floats, kind: Any) -> Blocks:
    import gguf

    return gguf.quants.quantize(values, kind)


def _dequantize(blocks: Blocks, kind: Any) -> Floats:
    import gguf

    return gguf.quants.dequantize(blocks, kind)


def _works(work: Work) -> bool:
    """Whether gguf-py knows this type."""
    try:
        work()
    except NotImplementedError:
        return False
    return True


def row(lib: Library, scheme: Ggml, rows: int, runs: int) -> str:
    random = np.random.default_rng(0)
    values = random.standard_normal((rows, COLUMNS), np.float32) * np.float32(0.02)
    importance = random.gamma(1.0, size=(1, COLUMNS)).astype(np.float32)
    few = values[: max(1, rows // 4)] if scheme.name.startswith(("iq1", "iq2", "iq3")) else values
    cells, same = [], []
    for matrix in (None, importance):
        others = ("ggml", "gguf-py") if matrix is None else ("ggml",)
        if matrix is None and scheme.needs_importance:
            cells += ["-"] * 3
            continue
        found = encode(lib, scheme, few, matrix, runs)
        cells += [f"{found.costs['quant']:.2f}", *map(found.ratio, others)]
        same.append(found.same)
    blocks = lib.encode(scheme, values[:1].repeat(rows, 0), importance)
    found = decode(lib, scheme, blocks, COLUMNS, runs)
    cells += [f"{found.costs['quant']:.2f}", found.ratio("ggml"), found.ratio("gguf-py")]
    return f"| {scheme.name} | {' | '.join(cells)} | {'yes' if all(same) and found.same else 'no'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=256, help=f"of the matrix, {COLUMNS} columns wide [256]")
    parser.add_argument("--runs", type=int, default=9, help="of each contender [9]")
    parser.add_argument("--only", nargs="+", metavar="TYPE", choices=list(ggml.TYPES), help="names of types [all]")
    given = parser.parse_args()
    lib = Library(library())
    print(
        f"## GGML's types\n\nNanoseconds of CPU a value, one thread; how many times that ggml {lib.version} and gguf-py"
    )
    print(f"take. A float32 matrix of {given.rows} x {COLUMNS}, the codebook types' a quarter of it. Medians of")
    print(f"{given.runs}. The last column: whether bytes and values are ggml's.\n")
    print("| type | encode | ggml | gguf-py | with a matrix | ggml | decode | ggml | gguf-py | same |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | :---: |")
    for name, scheme in ggml.TYPES.items():
        if given.only is None or name in given.only:
            print(row(lib, scheme, given.rows, given.runs), flush=True)


if __name__ == "__main__":
    main()
