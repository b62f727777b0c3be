"""What a plan is made of: one step for each weight of the output, one place for each of its bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quantcli.checkpoint import Checkpoint, Passed
from quantcli.convert.planning.devices import ON_CPU, Devices, chosen
from quantcli.convert.planning.request import Request
from quantcli.convert.planning.routes import Route
from quantcli.convert.planning.stamps import Stamp
from quantcli.schemes.base import Grade, Scheme
from quantcli.targets.base import Draft, Left, OutputFile


@dataclass(frozen=True)
class Step:
    """One weight of the output: how it gets its scheme.

    grade: the worst that the formats allow; of a step that was settled, what will come out. via: the dtype that dense
    values are cast to before they are quantized. wanted: the scheme that was asked for where another took its place.
    importance: of the columns, float32 (columns,) or (experts, columns). fused: the steps whose values count for this
    one's global scale too. devices: where it is computed.
    """

    draft: Draft
    scheme: Scheme
    route: Route
    grade: Grade
    reason: str
    via: str | None = None
    wanted: str | None = None
    importance: NDArray[np.float32] | None = None
    fused: tuple[Step, ...] = ()
    devices: Devices = ON_CPU

    @property
    def name(self) -> str:
        return self.draft.name

    def on(self, word: str) -> Step:
        """The step where a word of `--device` (devices.py) has it computed."""
        weight = self.draft.weight
        if weight is None or not self.route.computes:
            return replace(self, devices=ON_CPU)
        return replace(self, devices=chosen(word, weight.scheme, self.scheme))

    @property
    def floor(self) -> Grade:
        """The grade that no look at scales or values can better: what is kept beside a weight is part of its values."""
        return self.draft.inner_grade if self.draft.weight is self.draft.inner else Grade.EXACT


@dataclass(frozen=True)
class Plan:
    """Everything that a run will do. notes: what a summary says beside numbers, one line each.

    left, passed: tensors and files of the source that the output does without.
    """

    source: Checkpoint
    request: Request
    steps: tuple[Step, ...]
    files: tuple[OutputFile, ...]
    warnings: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    left: tuple[Left, ...] = ()
    notes: tuple[str, ...] = ()
    passed: tuple[Passed, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all files of the output, the report aside."""
        return sum(file.size for file in self.files)
