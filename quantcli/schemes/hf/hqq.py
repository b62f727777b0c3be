"""HQQ along the rows: codes of 1 to 8 bits with a scale and a fractional zero point for each group.

    weight   all groups one below the other, (rows * columns / group, group), then in equal parts, one over the other:
             4 bits, u8   byte [i, j] = codes [i, j] << 4 | codes [i + half, j]
             2, 1 bits    the same in four and eight parts, the first highest;      8 bits as they are
             3 bits, i32  ten parts in a word, the first highest at bit 27, the last group padded
    scale, zero   (rows * columns / group, 1)

value = (code - zero) * scale, each step rounded to the dtype that the tool computes in. The parts are so far from each
other that rows cannot cut them: a weight is read as a whole. Source: hqq 0.2.8 (core/bitpack.py, core/quantize.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import to_float32
from quantcli.schemes.base import Parts, PartSpec, Scheme
from quantcli.schemes.hf.minmax import rounded
from quantcli.schemes.hf.scaled import Floats, Scaled, Scales, divides

#: What the tool calls a packing -> bits of a code, dtype, codes in an entry.
PACKINGS = {
    "8bit_u8": (8, "u8", 1), "4bit_u8": (4, "u8", 2), "3bit_32": (3, "i32", 10), "2bit_u8": (2, "u8", 4),
    "1bit_u8": (1, "u8", 8),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Hqq(Scaled):
    """`uint4-g64` in HQQ's layout; `kind`: of PACKINGS."""

    kind: str
    family: str = "hqq"

    @property
    def name(self) -> str:
        return f"uint{self.code_bits}-g{self.group}"

    @property
    def codes_part(self) -> str:
        return "weight"

    @property
    def code_bits(self) -> int:
        return PACKINGS[self.kind][0]

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        return super().unfit(shape) or divides(self.scales, shape)

    def packing(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        rows, columns = shape
        _, dtype, together = PACKINGS[self.kind]
        entries = -(-rows * columns // self.group // together)
        return {
            "weight": PartSpec(dtype, (entries, self.group), rows=rows, indices=entries),
            "zeros": self.scales_spec(shape),
        }

    def scales_spec(self, shape: tuple[int, ...]) -> PartSpec:
        groups = shape[1] // self.group
        return PartSpec(self.scales.dtype, (shape[0] * groups, 1), indices=groups)

    def unpack(self, parts: Parts) -> NDArray[np.uint8]:
        bits, _, together = PACKINGS[self.kind]
        stored, mask = parts["weight"], (1 << bits) - 1
        shifts = [bits * (together - 1 - part) for part in range(together)]
        whole = np.concatenate([(stored >> shift & mask).astype(np.uint8) for shift in shifts])
        rows = len(parts["scales"]) * self.group // self.columns
        return whole.reshape(-1)[: rows * self.columns].reshape(rows, self.columns)

    def float_scales(self, parts: Parts, rows: int) -> Floats:
        return to_float32(parts["scales"]).reshape(rows, -1)

    def zeros(self, parts: Parts, rows: int) -> Floats:
        return to_float32(parts["zeros"]).reshape(rows, -1)

    def scaled(self, values: Floats, scales: Floats, parts: Parts) -> Floats:
        return super().scaled(rounded(values, self.compute), scales, parts)


def listed(columns: int) -> Iterator[Scheme]:
    """Return one scheme of each packing, for rows of so many values."""
    for kind in PACKINGS:
        yield Hqq(columns=columns, scales=Scales("bf16", 1, 64), kind=kind)
