"""A tensor of one of two compared checkpoints, under the name that both share.

Its values are rows of a stored weight or, for tensors that only GGUF stores, follow from the model's settings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import DTYPES, Array
from quantcli.convert.planning.routes import Route
from quantcli.convert.planning.slabs import Slab, cut, read
from quantcli.dtypes import DENSE_DTYPES
from quantcli.models.translate import Arranged
from quantcli.recipes.base import Subject
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense


@dataclass(frozen=True)
class StoredTensor:
    """Rows of a stored weight. subject: the names that patterns are matched with."""

    name: str
    subject: Subject
    source: Arranged

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def scheme(self) -> Scheme:
        return self.source.weight.scheme

    @property
    def kind(self) -> str:
        """The name of its scheme."""
        return self.scheme.name

    @property
    def stored_name(self) -> str:
        """Its name in the checkpoint."""
        return self.source.weight.name

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.source.weight.nbytes

    @property
    def is_permuted(self) -> bool:
        """Whether its rows are stored in another order."""
        return self.source.rows is not None

    @property
    def decodes(self) -> bool:
        """Whether its values can be computed."""
        if isinstance(self.scheme, Dense):
            return DTYPES[self.scheme.dtype].numpy is not None and self.scheme.dtype != "c64"
        return self.scheme.undecoded is None

    def slabs(self, other: Scheme, budget: int) -> list[Slab]:
        """Return ranges of rows that suit its layout and that of the other side."""
        return cut(self.source, other, Route.REQUANTIZE, budget)

    def decoded(self, slab: Slab) -> Array:
        """Return the values (rows, columns) of a slab in float32; wider dtypes are kept."""
        parts, rows = read(self.source, slab)
        exact = isinstance(self.scheme, Dense) and self.scheme.dtype not in DENSE_DTYPES
        values: Array = parts["weight"] if exact else self.scheme.decode(parts)
        return values if rows is None else values[rows]


@dataclass(frozen=True)
class ComputedTensor:
    """Float32 values that follow from the model's settings, one row."""

    name: str
    subject: Subject
    values: NDArray[np.float32]
    scheme = Dense("f32")
    kind = "computed"
    nbytes = 0
    is_permuted = False
    decodes = True

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def stored_name(self) -> str:
        return self.name

    def slabs(self, other: Scheme, budget: int) -> list[Slab]:
        return [Slab(0, 1)]

    def decoded(self, slab: Slab) -> Array:
        return self.values.reshape(1, -1)


Tensor = StoredTensor | ComputedTensor
