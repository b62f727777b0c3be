"""Running a plan: slabs of weights are converted from their places in the source to those in the output.

    workers take slabs from one list:   read parts -> convert -> write parts      each slab is independent of the others
    the main thread waits, records finished steps in the journal, and stops everything at the first error

On the CPU every worker converts; on the GPU one converts at a time while others read and write. A plan may have steps
of both kinds: slabs are taken in the plan's order, each as soon as its share of the memory is free.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import DTYPES, Array, Device, nonfinite, to_float32
from quantcli.convert.planning import finite
from quantcli.convert.planning.routes import Route, Turn, carry, take_codes, values_of
from quantcli.convert.planning.slabs import (
    GPU_ELEMENTS,
    Slab,
    cut,
    is_blocked,
    is_strided,
    place,
    read,
    rowwise,
    work_bytes,
)
from quantcli.convert.planning.steps import ConstantStep, Plan, Step, WeightStep
from quantcli.convert.running.measure import difference
from quantcli.convert.running.threads import Allowance, in_threads
from quantcli.convert.running.workplace import Workplace, surroundings
from quantcli.errors import NotPossible, Surroundings
from quantcli.schemes.base import DoesNotFit, Error, Grade, Importance, Overflows, Parts
from quantcli.schemes.dense import Dense

#: Bytes of the largest slab on a CPU: larger ones gain nothing and cause cache misses.
CPU_SLAB = 8 << 20

#: The same for weights with strided rows, whose slabs read all stored bytes: few slabs cost less than cold caches.
STRIDED_SLAB = 64 << 20

#: Finished steps are flushed and recorded in the journal together, at most this many seconds apart.
FLUSH_SECONDS = 5.0

#: Called after every slab with the bytes of the output that it wrote and the weight's name.
Progress = Callable[[int, str], None]

R = TypeVar("R")

#: The index of a step in the plan, and a slab of it.
Item = tuple[int, Slab]


@dataclass(frozen=True)
class Resources:
    """What a run may use. max_memory: bytes of all slabs that are processed at a time."""

    max_memory: int
    threads: int

    def in_flight(self, device: Device) -> int:
        """Return the slabs at a time: one per thread on the CPU; on the GPU one read, one converted, one written."""
        return self.threads if device is Device.CPU else 3

    def share(self, device: Device) -> int:
        """Return the bytes that a slab may take."""
        return self.max_memory // self.in_flight(device)


@dataclass
class _Step:
    """A step that is being converted, with the errors of its finished slabs."""

    index: int
    step: Step
    left: int
    errors: dict[tuple[str, int], Error] = field(default_factory=dict)

    @property
    def error(self) -> Error:
        return sum((self.errors[key] for key in sorted(self.errors)), Error())


def write(
    plan: Plan, place_of: Workplace, done: dict[int, Error], resources: Resources, progress: Progress
) -> dict[int, Error]:
    """Write every file of the plan except the steps in `done`; return the error of each step. Raises `QuantError`."""
    lost = {file.name for file in plan.files if not place_of.create(file.name, file.size)}
    for file in plan.files:
        for offset, blob in file.blobs:
            place_of.write(file.name, offset, blob)
        if file.copy_of is not None:
            _copy(file.copy_of, file.name, place_of)
    work = _Work(plan, place_of, resources, progress)
    return work.run({i: error for i, error in done.items() if not lost & work.files_of(plan.steps[i])})


def _copy(source: os.PathLike[str], name: str, place_of: Workplace) -> None:
    with surroundings(Path(source)), open(source, "rb") as handle:
        offset = 0
        while block := handle.read(4 << 20):
            place_of.write(name, offset, block)
            offset += len(block)


class _Work:
    """The state of a run's workers."""

    def __init__(self, plan: Plan, place_of: Workplace, resources: Resources, progress: Progress) -> None:
        self.plan, self.place_of, self.resources, self.progress = plan, place_of, resources, progress
        self.slots = {slot: (file.name, offset) for file in plan.files for slot, offset in file.slots.items()}
        self.allowed = plan.request.allow_nonfinite
        self.ready = Ready(resources)

    def files_of(self, step: Step) -> set[str]:
        """Return the output files that a step writes to."""
        return {self.slots[(step.name, part)][0] for part in step.scheme.layout(step.shape)}

    def run(self, done: dict[int, Error]) -> dict[int, Error]:
        errors = dict(done)
        for index in done:
            self.progress(stored_bytes(self.plan.steps[index]), self.plan.steps[index].name)
        pending = {
            i: _Step(i, step, len(slabs_of(step, self.resources)))
            for i, step in enumerate(self.plan.steps)
            if i not in done
        }
        unflushed = [step for step in pending.values() if step.left == 0]
        errors |= {step.index: Error() for step in unflushed}
        flushed = monotonic()
        try:
            with closing(in_slabs(self.plan, pending, self._one, self.resources)) as results:
                for (index, slab), error in results:
                    step = pending[index]
                    step.errors[(slab.part or "", slab.start)] = error
                    step.left -= 1
                    if step.left == 0:
                        errors[step.index] = step.error
                        unflushed.append(step)
                    if unflushed and monotonic() - flushed > FLUSH_SECONDS:
                        self._flush(unflushed)
                        unflushed, flushed = [], monotonic()
        except (KeyboardInterrupt, Surroundings):
            # Finished steps are recorded, so that --resume continues after them.
            self._flush(unflushed)
            raise
        self._flush(unflushed)
        return errors

    def _flush(self, steps: list[_Step]) -> None:
        names = {name for step in steps for name in self.files_of(step.step)}
        self.place_of.finished([(s.index, s.error) for s in steps], sorted(names))

    def _one(self, item: Item) -> Error:
        """Convert one slab from source to output; return its error."""
        step, slab = self.plan.steps[item[0]], item[1]
        if isinstance(step, ConstantStep):
            self._write(step, slab, step.parts)
            return Error()
        if slab.part is not None:
            return self._copied(step, slab, slab.part)
        return self._converted(step, slab)

    def _converted(self, step: WeightStep, slab: Slab) -> Error:
        with surroundings(source_file(step)):
            parts, rows = read(step.source, slab)
        finite.check(self.plan.source, step, parts, self.allowed)
        try:
            step = self.ready.of(step)
            made, error = make(step, slab, parts, rows, self.ready.turn, self.plan.request.search)
        except DoesNotFit as reason:
            finite.refuse(self.plan.source, step.source.weight, None if self.allowed else step)
            raise NotPossible(f"{step.name}: {reason}. {_hint(step, reason)}") from None
        if not np.isfinite(error.reference) or (step.route is Route.DEQUANTIZE and nonfinite(made["weight"])):
            error = self._finite_error(step, parts, made, rows)
        self._write(step, slab, made)
        return error

    def _write(self, step: Step, slab: Slab, made: Parts) -> None:
        size = 0
        for part, spec in step.scheme.layout(step.shape).items():
            if spec.axis is None and slab.start:
                continue  # the same in every slab
            name, offset = self.slots[(step.name, part)]
            data = np.ascontiguousarray(made[part])
            self.place_of.write(name, offset + place(spec, slab.start), data.view(np.uint8).data)
            size += data.nbytes
        self.progress(size, step.name)

    def _copied(self, step: WeightStep, slab: Slab, part: str) -> Error:
        """Copy a byte range of a part."""
        stored = step.source.weight.parts[part]
        with surroundings(stored.file):
            data = stored.read_bytes(slab.start, slab.stop)
        finite.check(self.plan.source, step, {part: finite.typed(data, stored.dtype)}, self.allowed)
        name, offset = self.slots[(step.name, part)]
        self.place_of.write(name, offset + slab.start, data.data)
        self.progress(data.nbytes, step.name)
        return Error()

    def _finite_error(self, step: WeightStep, parts: Parts, made: Parts, rows: NDArray[np.int64] | None) -> Error:
        """Return the error of finite values if NaN and Inf are copied. Raises if they may not be copied or are new."""
        source = step.source.weight.scheme
        if not finite.carried(step, self.allowed):
            finite.refuse(self.plan.source, step.source.weight, step)
        if not any(source.nonfinite(name, array) for name, array in parts.items()):
            if isinstance(source, Dense):
                raise NotPossible(f"{step.name}: values overflow float32, in which quant computes.")
            raise NotPossible(f"{step.name}: dequantized values overflow {source.values_dtype}.")
        if step.route is Route.REPACK:
            codes = source.codes(parts) if rows is None else take_codes(source.codes(parts), rows)
            return difference(codes.values(), step.scheme.codes(made).values())
        values = to_float32(parts["weight"]) if isinstance(source, Dense) else source.decode(parts)
        return difference(values if rows is None else values[rows], step.scheme.decode(made))


def slabs_of(step: Step, resources: Resources, work: int | None = None) -> list[Slab]:
    """Return the slabs of a step, small enough that those of all workers fit the memory limit."""
    if isinstance(step, ConstantStep):
        return [Slab(0, 1)]
    largest = STRIDED_SLAB if is_strided(step.source) or is_blocked(step.source) else CPU_SLAB
    device = step.devices.made_on
    if device is Device.MLX:
        largest = GPU_ELEMENTS * (work or work_bytes(step.source, step.scheme, step.route))
    return cut(step.source, step.scheme, step.route, min(resources.share(device), largest), work)


def in_slabs(
    plan: Plan, indices: Iterable[int], work: Callable[[Item], R], resources: Resources, bytes_each: int | None = None
) -> Generator[tuple[Item, R], None, None]:
    """Yield each slab of some steps with the result of `work`, as `in_threads` does, within the memory limit.

    bytes_each: bytes per element in addition to its source, by default those of its step's route.
    """
    devices = [step.devices.made_on for step in plan.steps]
    allowance = Allowance(resources.max_memory)

    def admitted() -> Iterator[Item]:
        for index in indices:
            for slab in slabs_of(plan.steps[index], resources, bytes_each):
                allowance.take(resources.share(devices[index]))
                yield index, slab

    def worked(item: Item) -> R:
        try:
            return work(item)
        finally:
            allowance.give_back(resources.share(devices[item[0]]))

    return in_threads(admitted(), worked, max(map(resources.in_flight, devices), default=1))


class Ready:
    """Steps whose schemes are prepared for their weights, each once, by the first slab.

    `turn` gives a GPU to one slab at a time.
    """

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self._gpu = threading.Lock()
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._steps: dict[str, WeightStep] = {}

    def turn(self, device: Device) -> AbstractContextManager[object]:
        """Return the lock that is held while a device computes."""
        return self._gpu if device is Device.MLX else nullcontext()

    def of(self, step: WeightStep) -> WeightStep:
        """Return the step with its scheme prepared to encode or pack slabs."""
        if step.route not in (Route.REPACK, Route.QUANTIZE, Route.REQUANTIZE):
            return step
        with self._lock:
            lock = self._locks.setdefault(step.name, threading.Lock())
        with lock:
            if step.name not in self._steps:
                looks = step.scheme.looks and step.route is not Route.REPACK
                # One order for all steps that share a global scale, which takes the dtype of the last values.
                together = sorted((step, *step.fused), key=lambda one: one.name)
                values = chain.from_iterable(self._values(one) for one in together) if looks else ()
                scheme = step.scheme.prepare(step.shape, values)
                self._steps[step.name] = replace(step, scheme=scheme)
            return self._steps[step.name]

    def _values(self, step: WeightStep) -> Iterator[Array]:
        """Yield the values that slabs are encoded from, in order."""
        for slab in slabs_of(step, self.resources):
            with surroundings(source_file(step)):
                parts, rows = read(step.source, slab)
            yield values_of(
                parts, step.source.weight.scheme, rows=rows, rowwise=rowwise(step.source), via=step.via,
                device=step.devices.decoding, turn=self.turn,
            )[1]  # fmt: skip


def make(
    step: WeightStep, slab: Slab, parts: Parts, rows: NDArray[np.int64] | None, turn: Turn, search: str = "ggml"
) -> tuple[Parts, Error]:
    """Convert a slab's source parts to output parts; return them and the added error. Raises `DoesNotFit`."""
    return carry(
        parts, step.source.weight.scheme, step.scheme, step.route, rows=rows, rowwise=rowwise(step.source),
        via=step.via, measured=step.grade is Grade.CODES_EXACT, devices=step.devices, turn=turn,
        importance=_importance(step, slab), search=search,
    )  # fmt: skip


def _importance(step: WeightStep, slab: Slab) -> Importance | None:
    """Return the importance of a slab's columns: one row for all of its rows; of stacked experts, one for each row."""
    if step.importance is None:
        return None
    if step.importance.ndim == 1:
        return step.importance[None, :]
    return step.importance[np.arange(slab.start, slab.stop) // step.shape[-2]]


def source_file(step: WeightStep) -> Path:
    """Return the file that a step reads, the first of several: errors of the system name it."""
    return next(iter(step.source.weight.parts.values())).file


def stored_bytes(step: Step) -> int:
    """Return the bytes of a weight in the output."""
    layout = step.scheme.layout(step.shape)
    return sum(math.prod(spec.shape) * DTYPES[spec.dtype].bits // 8 for spec in layout.values())


def _hint(step: WeightStep, reason: DoesNotFit) -> str:
    """Return what to do about a weight that does not fit, as a sentence."""
    overflows = isinstance(reason, Overflows)
    if overflows and (isinstance(step.scheme, Dense) or step.via is not None):
        return "Use --dtype f32 or --dtype bf16, which can hold the values."
    if overflows and step.scheme.chosen_scale_dtype not in (None, "f32"):
        return "Use --scale-dtype f32, which can hold the scales."
    dense = "f32" if overflows else step.draft.dense
    return f"Use --override '{step.name}={dense}' to leave this weight dense, or --scheme {dense} for all weights."
