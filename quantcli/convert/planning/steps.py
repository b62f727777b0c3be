"""The parts of a plan: a step for each tensor of the output, a place for each of its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quantcli.checkpoint import Checkpoint, Passed
from quantcli.convert.planning.devices import ON_CPU, Devices, chosen
from quantcli.convert.planning.request import Request
from quantcli.convert.planning.routes import Route
from quantcli.convert.planning.stamps import Stamp
from quantcli.models.translate import Arranged
from quantcli.schemes.base import Grade, Parts, Scheme
from quantcli.schemes.dense import Dense
from quantcli.targets.base import Constant, Form, Left, OutputFile, WeightDraft


@dataclass(frozen=True)
class WeightStep:
    """The conversion of a weight of the source to its scheme in the output.

    form: what is read. grade: the worst that the formats allow; after `settle`, the actual one. via: the dtype that
    dense values are cast to before they are quantized. wanted: the requested scheme if another replaces it. importance:
    of the columns, float32 (columns,) or (experts, columns). fused: the steps that share this one's global scale.
    devices: where it is computed.
    """

    draft: WeightDraft
    form: Form
    scheme: Scheme
    route: Route
    grade: Grade
    reason: str
    via: str | None = None
    wanted: str | None = None
    importance: NDArray[np.float32] | None = None
    fused: tuple[WeightStep, ...] = ()
    devices: Devices = ON_CPU

    @property
    def name(self) -> str:
        return self.draft.name

    def on(self, word: str) -> WeightStep:
        """Return the step with the devices that a word of `--device` (devices.py) gives it."""
        devices = chosen(word, self.source.weight.scheme, self.scheme) if self.route.computes else ON_CPU
        return replace(self, devices=devices)

    @property
    def source(self) -> Arranged:
        """The source of its rows."""
        return self.form.source

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def is_encoded(self) -> bool:
        """Whether values are rounded to the scheme, so that new scales are computed."""
        return self.route in (Route.QUANTIZE, Route.REQUANTIZE)

    def sharing(self, others: Sequence[Step]) -> WeightStep:
        """Return the step with those that share its global scale."""
        return replace(self, fused=tuple(of_weights(others)))

    @property
    def floor(self) -> Grade:
        """The best grade that scales and values allow: a stored global scale is part of the values."""
        return self.form.grade

    @property
    def stored(self) -> Scheme:
        """The scheme that its values are stored in, before any conversion while reading."""
        return self.source.weight.made_of or self.source.weight.scheme

    @property
    def was(self) -> str:
        """The name of the scheme that it is read in."""
        return self.source.weight.scheme.name

    def shaped(self, shape: tuple[int, ...]) -> WeightStep:
        """Return the step with another output shape, of as many values in the same order."""
        return replace(self, form=replace(self.form, source=replace(self.source, shape=shape)))


@dataclass(frozen=True)
class ConstantStep:
    """A tensor of the output that the target computes."""

    draft: Constant
    reason: str
    scheme = Dense("f32")
    route = Route.COMPUTE
    grade = floor = Grade.EXACT
    via = None
    wanted = None
    was = None
    is_encoded = False
    devices = ON_CPU

    def on(self, word: str) -> ConstantStep:
        """Return itself: a target computes its constants on the CPU."""
        return self

    def sharing(self, others: Sequence[Step]) -> ConstantStep:
        """Return itself: it has no scales."""
        return self

    def shaped(self, shape: tuple[int, ...]) -> ConstantStep:
        """Return itself: a target computes it in its final shape."""
        return self

    @property
    def name(self) -> str:
        return self.draft.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.draft.shape

    @property
    def parts(self) -> Parts:
        """The stored parts."""
        return self.scheme.encode(self.draft.values.reshape(1, -1))[0]


Step = WeightStep | ConstantStep


def of_weights(steps: Iterable[Step]) -> list[WeightStep]:
    """Return the steps of weights that come from the source."""
    return [step for step in steps if isinstance(step, WeightStep)]


@dataclass(frozen=True)
class Plan:
    """Everything that a run will do. notes: lines of the summary.

    left, passed: tensors and files of the source that are not in the output.
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
        """Bytes of all files of the output, without the report."""
        return sum(file.size for file in self.files)
