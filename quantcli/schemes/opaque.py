"""GGML types that are listed and copied, not decoded: only the place of their blocks is known.

blocks  u8 (..., bytes per row)     or, for a type without a known block size, u8 (bytes,)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, Device
from quantcli.containers.ggml_types import BY_NAME, has_nonfinite_scale
from quantcli.containers.gguf import MAX_ALIGNMENT
from quantcli.errors import NotPossible
from quantcli.schemes.base import Error, Grade, Grid, Importance, Parts, PartSpec, Scheme


@dataclass(frozen=True)
class Opaque(Scheme):
    """The GGML type `type_name`.

    type_id, span: the number and the stored bytes of a type without a name. big_endian: the bytes are in big-endian
    order and cannot be swapped, so that they are not even copied.
    """

    type_name: str
    span: int | None = None
    type_id: int | None = None
    big_endian: bool = False
    family = "ggml"
    kept_in = ("gguf",)

    @property
    def undecoded(self) -> str:
        return f"GGML type {self.name} is copied, not decoded"

    @property
    def uncopied(self) -> str | None:
        if not self.big_endian:
            return None
        return (
            f"has GGML type {self.name} in big-endian order, which quant cannot convert. Convert the original model on "
            "a little-endian machine"
        )

    @property
    def name(self) -> str:
        return self.type_name

    @property
    def unknown_type(self) -> tuple[int, int] | None:
        return None if self.span is None or self.type_id is None else (self.type_id, self.span)

    @property
    def rounding(self) -> float:
        raise self._refusal()

    def nonfinite(self, part: str, array: Array) -> bool:
        if self.span is not None or self.big_endian:
            return False
        return has_nonfinite_scale(BY_NAME[self.type_name], array)

    def unit(self, part: str) -> int:
        return 1 if self.span is not None else BY_NAME[self.type_name].block_bytes

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        return f"{self.name} cannot be written"

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        if self.span is not None:
            return {"blocks": PartSpec("u8", (self.span,), axis=None)}
        ggml = BY_NAME[self.type_name]
        row = math.prod(shape[-1:]) // ggml.block_size * ggml.block_bytes
        return {"blocks": PartSpec("u8", (*shape[:-1], row))}

    def is_stored_as(self, found: Scheme, shape: tuple[int, ...]) -> bool:
        """Allow padding of the file behind the bytes of a type without a known size."""
        if self.span is None or not isinstance(found, Opaque):
            return super().is_stored_as(found, shape)
        return found.type_id == self.type_id and 0 <= (found.span or 0) - self.span < MAX_ALIGNMENT

    def decode(self, parts: Parts, device: Device = Device.CPU) -> NDArray[np.float32]:
        raise self._refusal()

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        return f"{self.name} cannot be written"

    def encode(
        self,
        values: Array,
        device: Device = Device.CPU,
        importance: Importance | None = None,
        search: str = "ggml",
    ) -> tuple[Parts, Error]:
        raise self._refusal()

    def _refusal(self) -> NotPossible:
        return NotPossible(
            f"GGML type {self.name} can be listed and copied, but not decoded. `quant schemes` lists the types that "
            "can be decoded."
        )
