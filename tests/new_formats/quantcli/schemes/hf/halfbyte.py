"""A made-up layout of Hugging Face folders, the tool halfbyte's: 4 bits a code, two in a byte, a scale for each group.

    weight   u8 (rows, columns / 2)        byte j of a row = code 2j | code 2j+1 << 4
    scales   f16 (rows, columns / group)

value = (code - 8) * scale. A group is a whole number of bytes, and fills rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.schemes.base import Parts, PartSpec, Scheme
from quantcli.schemes.hf.packed import nibbles
from quantcli.schemes.hf.scaled import GROUP, Scaled, Scales, divides


@dataclass(frozen=True, kw_only=True)
class HalfByte(Scaled):
    """`int4-g128` and so on in halfbyte's layout.

    Codes 9 and 6 in a byte; the scale of the group is 0.5:

    >>> scheme = HalfByte(columns=2, scales=Scales("f16", 1, 2))
    >>> scheme.decode({"weight": np.array([[0x69]], np.uint8), "scales": np.float16([[0.5]])}).tolist()
    [[0.5, -1.0]]
    """

    family: str = "halfbyte"

    @property
    def name(self) -> str:
        return f"int4{self.scales.suffix}"

    @property
    def codes_part(self) -> str:
        return "weight"

    @property
    def code_bits(self) -> int:
        return 4

    @property
    def zero(self) -> int:
        return 8

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        return super().unfit(shape) or divides(self.scales, shape)

    def packing(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        return {"weight": PartSpec("u8", (shape[0], shape[1] // 2))}

    def unpack(self, parts: Parts) -> NDArray[np.uint8]:
        return nibbles(parts["weight"])


def listed(columns: int) -> Iterator[Scheme]:
    """The one that the tool makes by default, for rows of so many values."""
    yield HalfByte(columns=columns, scales=Scales("f16", 1, GROUP))
