"""The codecs alone, against mx.quantize and mx.dequantize on MLX's CPU backend: MB of bf16 weights per CPU second.

CPU seconds of the whole process are counted: a side that uses two threads gains nothing by it. Decoding gives float32
on both sides (MLX is given float32 scales, which is what our `decode` means). GGML's types, which MLX has not, are
ggml.py's matter.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from quantcli.arrays import numpy_dtype, to_mlx
from quantcli.schemes.base import Scheme
from quantcli.schemes.mlx.affine import BITS, Affine
from quantcli.schemes.mlx.mx_floats import MODES, MxFloat


@dataclass(frozen=True)
class Case:
    """A scheme, and how MLX is asked for it."""

    scheme: Scheme
    mlx: dict[str, Any]


def cases() -> list[Case]:
    found = [Case(Affine(bits, 64, "bf16"), {"bits": bits, "group_size": 64}) for bits in BITS if bits > 1]
    return found + [Case(MxFloat(mode), {"mode": mode}) for mode in MODES]


def rate(work: Callable[[], object], megabytes: float, runs: int) -> float:
    """Median megabytes per CPU second; one run before those counted, for compiling and first touches."""
    work()
    costs = []
    for _ in range(runs):
        start = time.process_time()
        work()
        costs.append(time.process_time() - start)
    return megabytes / statistics.median(costs)


def measure(case: Case, values: np.ndarray, runs: int) -> list[float]:
    """Encode by us, encode by MLX, decode by us, decode by MLX."""
    megabytes = values.nbytes / 1e6
    parts, _ = case.scheme.encode(values)
    ours = [
        rate(lambda: case.scheme.encode(values), megabytes, runs),
        rate(lambda: case.scheme.decode(parts), megabytes, runs),
    ]
    dense = to_mlx(values)
    stored = list(mx.quantize(dense, **case.mlx))
    if "mode" not in case.mlx:
        stored[1:] = [part.astype(mx.float32) for part in stored[1:]]
    asked = case.mlx | ({"dtype": mx.float32} if "mode" in case.mlx else {})
    mx.eval(stored)
    return [
        ours[0],
        rate(lambda: mx.eval(mx.quantize(dense, **case.mlx)), megabytes, runs),
        ours[1],
        rate(lambda: mx.eval(mx.dequantize(*stored, **asked)), megabytes, runs),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=2048, help="of the matrix, 2048 columns wide [2048]")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="SCHEME", help="names of schemes [all]")
    given = parser.parse_args()
    mx.set_default_device(mx.cpu)
    values = np.random.default_rng(0).standard_normal((given.rows, 2048), np.float32).astype(numpy_dtype("bf16"))
    print(f"## Codecs\n\nMB of bf16 per CPU second, a {given.rows} x 2048 matrix. Medians of {given.runs}.\n")
    print("| scheme | encode | MLX | ratio | decode | MLX | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for case in cases():
        if given.only is None or case.scheme.name in given.only:
            encode, mlx_encode, decode, mlx_decode = measure(case, values, given.runs)
            print(f"| {case.scheme.name} | {_row(encode, mlx_encode)} | {_row(decode, mlx_decode)} |", flush=True)


def _row(ours: float, theirs: float) -> str:
    return f"{ours:.0f} | {theirs:.0f} | {ours / theirs:.2f}"


if __name__ == "__main__":
    main()
