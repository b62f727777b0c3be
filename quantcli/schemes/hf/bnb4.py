"""bitsandbytes' NF4 and FP4: 4-bit codes of a table, one absolute maximum for each run of values, rows joined.

    weight           (bytes of all codes, 1)    two codes a byte, the FIRST in the high half; mostly u8
    absmax           f32 (runs,)                one for each `block` values, counted through all rows
                     u8 (runs,)                 where they are quantized too: indices into nested_quant_map, then
    nested_absmax    f32 (runs / nested,)       absmax = nested_quant_map[index] * nested_absmax + nested offset
    quant_map        f32 (16,)                  the values of codes, the largest is 1
    nested_quant_map f32 (256,)

    a run of 64 with rows of 96:   |----- row 0 -----|----- row 1 -----|
                                   |-- run 0 --|-- run 1 --|-- run 2 --|

    quant_state      u8 (characters,)           JSON: quant_type, blocksize, dtype, shape and nested settings

value = quant_map[code] * absmax, rounded to the dtype that the tool computes in. Runs that cross the ends of rows are
no grid. Written: the code nearest to value * (1 / absmax); the offset is the mean of all absolute maxima.
Source: bitsandbytes 0.50 (functional.py: quantize_4bit, QuantState, create_dynamic_map; backends/default/ops.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import DTYPES, Array, to_float32
from quantcli.schemes.base import DoesNotFit, Grade, Grid, Parts, PartSpec, Scheme
from quantcli.schemes.facts import Modules
from quantcli.schemes.hf import bitsandbytes, packed, torch_sum
from quantcli.schemes.hf.scaled import Extra, Floats, Scales
from quantcli.schemes.hf.written import Written

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_FP4 = (0.0, 0.0052083334885537624, 0.6666666865348816, 1.0, 0.3333333432674408, 0.5, 0.1666666716337204, 0.25)
FP4 = (*_FP4, 0.0, *(-value for value in _FP4[1:]))
TABLES = {"nf4": NF4, "fp4": FP4}
#: Not how absolute maxima lie, but that they are float32.
PER_ROW = Scales("f32")
ROUNDING = {"nf4": 0.092, "fp4": 0.12}


#: Runs of absolute maxima, where those are quantized; the length of their offset in JSON, filled up with spaces.
NESTED_BLOCK, OFFSET_LENGTH = 256, 24
#: Evenly spaced values from -1 to 1 that absolute maxima are rounded to before their nearest index is looked up.
STEPS = 1 << 16
#: What bitsandbytes takes an absolute maximum of 0 for.
LEAST = np.float32(1e-38)


@dataclass(frozen=True)
class Nested:
    """How absolute maxima are quantized: how many share one scale, and the offset that is added to each.

    An offset of None is in `quant_state`, which is written last.
    """

    block: int
    offset: float | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Bnb4(Written):
    """`nf4-g64`, `fp4-g64`; `nf4-double-g64` where the absolute maxima are quantized.

    quant: of TABLES. values: the stored table. block: values of a run. storage: the dtype that the codes' bytes are
    stored under. full: no run may be cut off, so that a weight of another size is refused.
    """

    quant: str
    block: int
    values: tuple[float, ...]
    nested: Nested | None = None
    storage: str = "u8"
    full: bool = field(default=False, compare=False)
    family: str = "bnb"
    scales: Scales = PER_ROW
    has_own_state = True

    @property
    def name(self) -> str:
        return f"{self.quant}{'-double' if self.nested else ''}-g{self.block}"

    @property
    def codes_part(self) -> str:
        return "weight"

    @property
    def code_bits(self) -> int:
        return 4

    @property
    def table(self) -> tuple[float, ...]:
        return self.values

    @property
    def fixed_group(self) -> int:
        return self.block

    @property
    def rounding(self) -> float:
        return ROUNDING[self.quant]

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        if (reason := super().unfit(shape)) or not self.full or math.prod(shape) % self.block == 0:
            return reason
        return f"its {math.prod(shape)} values are not a multiple of {self.block}"

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        count = math.prod(shape)
        runs = -(-count // self.block)
        unit = 2 * DTYPES[self.storage].bits // 8  # codes in an entry of the weight
        parts = {
            "weight": self._flat(self.storage, (-(-count // unit), 1), unit, axis=0),
            "absmax": self._flat("u8" if self.nested else "f32", (runs,), self.block, axis=1),
        }
        if self.nested:
            nested = (-(-runs // self.nested.block),)
            parts["nested_absmax"] = self._flat("f32", nested, self.block * self.nested.block, axis=1)
            parts["nested_quant_map"] = PartSpec("f32", (256,), axis=None)
        return parts | {extra.part: PartSpec(extra.dtype, extra.shape, axis=None) for extra in self.extras}

    def tensor_name(self, weight: str, part: str) -> str:
        suffixes = bitsandbytes.SUFFIXES | {"quant_state": bitsandbytes.STATE + self.quant}
        return weight.removesuffix(".weight") + suffixes[part]

    @property
    def config_entry(self) -> dict[str, Any]:
        return bitsandbytes.entry(self.quant, self.nested is not None, self.compute)

    def quantization_config(self, modules: Modules, dense: Sequence[str]) -> dict[str, Any]:
        return bitsandbytes.quantization_config(modules, dense)

    @property
    def possible_scales(self) -> tuple[str, ...]:
        return ("u8*f32",) if self.nested else ("f32",)

    @property
    def named_dtype(self) -> str:
        return self.compute or "f32"

    @property
    def unreadable(self) -> str | None:
        if self.block in bitsandbytes.BLOCKS:
            return None
        sizes = ", ".join(map(str, bitsandbytes.BLOCKS))
        return f"bitsandbytes does not read blocks of {self.block} values, only of {sizes}"

    @property
    def loads_experts(self) -> bool:
        return False

    def _flat(self, dtype: str, shape: tuple[int, ...], each: int, axis: int) -> PartSpec:
        """The spec of an array with an entry for each so many values, counted through all rows."""
        whole = math.lcm(self.columns, each)
        return PartSpec(dtype, shape, axis=axis, rows=whole // self.columns, indices=whole // each)

    def _flat_codes(self, parts: Parts) -> NDArray[np.uint8]:
        stored = np.ascontiguousarray(parts["weight"]).reshape(1, -1)
        return packed.nibbles(stored, high_first=True).reshape(-1)

    def unpack(self, parts: Parts) -> NDArray[np.uint8]:
        codes = self._flat_codes(parts)
        self._check_lengths(len(codes), parts["absmax"].size)
        return codes[: len(codes) // self.columns * self.columns].reshape(-1, self.columns)

    def _absmax(self, parts: Parts) -> Floats:
        """float32 (runs,)."""
        if self.nested is None:
            return parts["absmax"].reshape(-1)
        indices = parts["absmax"].reshape(-1)
        shared = np.repeat(parts["nested_absmax"].reshape(-1), self.nested.block)[: len(indices)]
        found: Floats = parts["nested_quant_map"].reshape(-1)[indices] * shared + self._offset(parts)
        return found

    def _offset(self, parts: Parts) -> np.float32:
        if self.nested is not None and self.nested.offset is not None:
            return np.float32(self.nested.offset)
        said = json.loads(np.ascontiguousarray(parts["quant_state"]).tobytes())
        return np.float32(said["nested_offset"])

    def float_scales(self, parts: Parts, rows: int) -> Floats:
        """float32 (rows, groups), or of runs that cross rows (rows, columns)."""
        absmax = self._absmax(parts)
        if self.columns % self.block == 0:
            return absmax.reshape(rows, -1)
        return np.repeat(absmax, self.block)[: rows * self.columns].reshape(rows, self.columns)

    def _placed(self, groups: Floats, parts: Parts) -> Floats:
        return super()._placed(groups, parts) if self.columns % self.block == 0 else groups

    def grid(self) -> Grid | None:
        return super().grid() if self.columns % self.block == 0 else None

    def nonfinite(self, part: str, array: Array) -> bool:
        return part != "weight" and super().nonfinite(part, array)

    def _check_lengths(self, codes: int, runs: int) -> None:
        """Raise `DoesNotFit` if packed codes and absolute maxima are not those of the same values."""
        rows = codes // self.columns
        if -(-rows * self.columns // self.block) != runs:
            raise DoesNotFit(
                f"expected {-(-codes // self.block)} absolute maxima for {codes} packed codes in blocks of "
                f"{self.block}, found {runs}"
            )

    @property
    def is_written(self) -> bool:
        return self.storage == "u8" and self.values == TABLES[self.quant]

    @property
    def looks(self) -> bool:
        return self.nested is not None

    def may_fit(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        return f"the absolute maxima of {self.name} are quantized" if self.nested else super().may_fit(grid, shape)

    def fixed(self, shape: tuple[int, ...]) -> dict[str, Array]:
        state = state_of(self.quant, self.block, self.compute or "f32", shape, 0.0 if self.nested else None)
        parts: dict[str, Array] = {"quant_map": np.asarray(self.values, np.float32), "quant_state": state}
        return parts | {"nested_quant_map": DYNAMIC_MAP} if self.nested else parts

    def prepare(self, shape: tuple[int, ...], slabs: Iterable[Array] = ()) -> Scheme:
        ready = super().prepare(shape)
        if self.nested is None or not isinstance(ready, Bnb4):
            return ready
        absmax = [self._runs(to_float32(slab))[1] for slab in slabs]
        offset = float(torch_sum.mean(np.concatenate(absmax))) if absmax else 0.0
        state = state_of(self.quant, self.block, self.compute or "f32", shape, offset)
        return replace(ready, whole={**ready.whole, "quant_state": state})

    def _runs(self, values: Floats) -> tuple[Floats, Floats]:
        """Values (runs, block), and their absolute maxima (runs,)."""
        runs = np.ascontiguousarray(values).reshape(-1, self.block)
        return runs, np.abs(runs).max(axis=1)

    def rounds(self, values: Floats, dtype: str) -> tuple[NDArray[np.uint8], Floats, Floats | None]:
        runs, absmax = self._runs(values)
        steps = runs * (np.float32(1) / np.maximum(absmax, LEAST))[:, None]
        np.clip(steps, -1, 1, out=steps)
        table = np.asarray(self.values, np.float32)
        order = np.argsort(table, kind="stable").astype(np.uint8)
        ascending = table[order]
        codes = order[np.searchsorted((ascending[:-1] + ascending[1:]) / 2, steps.reshape(-1))]
        return codes.reshape(values.shape), absmax, None

    def to_parts(self, codes: NDArray[np.uint8], scales: Floats, zeros: Floats | None) -> dict[str, Array]:
        flat = codes.reshape(-1)
        parts: dict[str, Array] = {"weight": (flat[::2] << np.uint8(4) | flat[1::2])[:, None]}
        absmax = scales.reshape(-1)
        if self.nested is None:
            return parts | {"absmax": absmax}
        indices, nested = nested_codes(absmax - self._offset(self.whole), self.nested.block)
        return parts | {"absmax": indices, "nested_absmax": nested}


def nested_codes(values: Floats, block: int) -> tuple[NDArray[np.uint8], Floats]:
    """Return indices of DYNAMIC_MAP (n,), and absolute maxima of runs, for float32 (n,).

    Values are rounded to STEPS even ones first, whose nearest indices are in a table, as bitsandbytes does it.
    """
    runs = -(-len(values) // block)
    filled = np.zeros(runs * block, np.float32)
    filled[: len(values)] = values
    absmax = np.abs(filled.reshape(runs, block)).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scaled = (filled * np.repeat(np.float32(1) / absmax, block))[: len(values)]
        steps = (scaled + np.float32(1)) * np.float32((STEPS - 1) / 2) + np.float32(0.5)
    steps = np.clip(np.nan_to_num(steps, nan=0.0), 0, STEPS - 1).astype(np.int64)
    return _nearest()[steps], absmax


def _nearest() -> NDArray[np.uint8]:
    """Return the index in DYNAMIC_MAP of each step from -1 to 1."""
    evenly = np.arange(STEPS, dtype=np.float32) * np.float32(2 / (STEPS - 1)) - np.float32(1)
    between = (DYNAMIC_MAP[:-1] + DYNAMIC_MAP[1:]) / np.float32(2)
    return np.searchsorted(between, evenly).astype(np.uint8)


def _dynamic_map() -> Floats:
    """bitsandbytes' signed 8-bit map: for each power of ten from 1e-6 to 1 twice as many values as for the one before.

    >>> DYNAMIC_MAP[[0, 127, 255]].tolist()
    [-0.992968738079071, 0.0, 1.0]
    """
    found = [np.array([0, 1], np.float32)]
    for power in range(7):
        edges = _linspace(2**power + 1)
        means: Floats = (edges[:-1] + edges[1:]) / np.float32(2)
        means = means * np.float32(10.0 ** (power - 6))
        found += [means, np.negative(means)]
    return np.sort(np.concatenate(found))


def _linspace(count: int) -> Floats:
    """From 0.1 to 1 as torch does it: counted from the nearer end, product and sum rounded to float32 at once."""
    low, high = np.float64(np.float32(0.1)), np.float64(1)
    step = np.float64((np.float32(1) - np.float32(0.1)) / np.float32(count - 1))
    index = np.arange(count)
    return np.where(index < count // 2, low + step * index, high - step * (count - 1 - index)).astype(np.float32)


DYNAMIC_MAP = _dynamic_map()


def state_of(quant: str, block: int, dtype: str, shape: tuple[int, ...], offset: float | None) -> NDArray[np.uint8]:
    """Return the JSON of `quant_state`, uint8 (characters,), equally long for any offset, so that files can be planned.

    >>> state_of("nf4", 64, "bf16", (2, 64), None).tobytes().decode()
    '{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 64]}'
    """
    spelled = bitsandbytes.TORCH_FLOATS[dtype]
    said: dict[str, object] = {"quant_type": quant, "blocksize": block, "dtype": spelled, "shape": list(shape)}
    if offset is None:
        return np.frombuffer(json.dumps(said).encode(), np.uint8)
    said |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": offset}
    text = json.dumps(said)
    length = len(text) - len(json.dumps(offset)) + OFFSET_LENGTH
    return np.frombuffer(text.ljust(length).encode(), np.uint8)


def written(quant: str, block: int, double: bool, dtype: str, shape: tuple[int, ...]) -> Bnb4:
    """Return the scheme as it is written for a weight of this shape, whose values have that dtype."""
    length = len(state_of(quant, block, dtype, shape, 0.0 if double else None))
    return Bnb4(
        columns=shape[-1], quant=quant, block=block, values=TABLES[quant],
        nested=Nested(NESTED_BLOCK) if double else None,
        full=True, compute=dtype, extras=(Extra("quant_map", "f32", (16,)), Extra("quant_state", "u8", (length,))),
    )  # fmt: skip
