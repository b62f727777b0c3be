"""Reading a finished output back and comparing it with its plan, in two independent ways.

    bytes    every byte is as planned: headers, metadata, copied files, zero padding, and the parts of every weight as a
             second conversion of the source gives them
    values   every dequantized weight is what its grade promises:
             exact         the same float32 values as the source (-0 counts as +0)
             codes-exact   the same codes; values that differ by no more than the run measured
             lossy         values that differ by no more than the run measured

The first finds damage, down to one bit; the second finds a scheme whose encoder and decoder disagree.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import DTYPES, Array, to_float32
from quantcli.checkpoint import Checkpoint, Weight
from quantcli.convert.planning.routes import Route, take_codes
from quantcli.convert.planning.slabs import WORK_BYTES, read
from quantcli.convert.planning.steps import ConstantStep, Plan, Step, WeightStep
from quantcli.convert.running.hashing import READ_AT_ONCE
from quantcli.convert.running.measure import difference
from quantcli.convert.running.run import Item, Ready, Resources, in_slabs, make, source_file
from quantcli.convert.running.workplace import surroundings
from quantcli.errors import QuantError, Surroundings, VerificationFailed
from quantcli.schemes.base import Codes, Error, Grade, Parts
from quantcli.schemes.dense import Dense
from quantcli.sources.detect import open_source
from quantcli.targets.base import OutputFile
from quantcli.virtual import read_rows

#: Relative difference between two measurements of one error, which sum in different orders and precisions.
TOLERANCE = 1e-3


def check(plan: Plan, output: Path, errors: dict[int, Error], resources: Resources) -> None:
    """Raise `VerificationFailed`, naming file and weight, if the output differs from the plan.

    output: the folder, the file, or the first part next to the others.
    """
    sizes = _part_sizes(plan)
    for file in plan.files:
        path = output / file.name if output.is_dir() else output.with_name(file.name)
        _check_file(file, path)
        _check_padding(file, path, sizes)
    try:
        with surroundings(output):
            written = open_source(output)
    except Surroundings:
        raise  # the disk could not be read: that says nothing of what is on it
    except QuantError as error:
        raise VerificationFailed(f"{output}: cannot be read back: {error}") from error
    _check_names(plan, written)
    measured: defaultdict[int, Error] = defaultdict(Error)
    work = partial(_check_slab, plan=plan, written=written, ready=Ready(resources))
    with closing(in_slabs(plan, range(len(plan.steps)), work, resources, WORK_BYTES)) as results:
        for (index, _), distance in results:
            measured[index] += distance
    for index, step in enumerate(plan.steps):
        _check_error(step, measured[index], errors[index])


def _check_file(file: OutputFile, path: Path) -> None:
    """Check the size, and every byte that is known before any weight is read."""
    with surroundings(path), open(path, "rb") as handle:
        size = path.stat().st_size
        if size != file.size:
            raise VerificationFailed(f"{path}: expected {file.size} bytes, found {size}. Convert again.")
        for offset, blob in file.blobs:
            handle.seek(offset)
            if handle.read(len(blob)) != blob:
                raise VerificationFailed(f"{path}: its header or metadata is not what was written. Convert again.")
    if file.copy_of is not None and not _same(file.copy_of, path):
        raise VerificationFailed(f"{path}: differs from {file.copy_of}, of which it is a copy. Convert again.")


def _part_sizes(plan: Plan) -> dict[tuple[str, str], int]:
    """Return (weight, part) -> bytes in the output."""
    return {
        (step.name, part): math.prod(spec.shape) * DTYPES[spec.dtype].bits // 8
        for step in plan.steps
        for part, spec in step.scheme.layout(step.shape).items()
    }


def _check_padding(file: OutputFile, path: Path, sizes: Mapping[tuple[str, str], int]) -> None:
    """Check that all padding is zero. sizes: (weight, part) -> bytes."""
    if file.copy_of is not None:
        return
    taken = [(offset, len(blob)) for offset, blob in file.blobs]
    taken += [(offset, sizes[slot]) for slot, offset in file.slots.items()]
    end = 0
    with surroundings(path), open(path, "rb") as handle:
        for offset, length in sorted([*taken, (file.size, 0)]):
            handle.seek(end)
            while end < offset:
                block = handle.read(min(offset - end, READ_AT_ONCE))
                if not block or block.strip(b"\0"):
                    raise VerificationFailed(f"{path}: its padding at byte {end} is not zero. Convert again.")
                end += len(block)
            end = max(end, offset + length)


def _same(one: Path, other: Path) -> bool:
    with surroundings(one), open(one, "rb") as ours, open(other, "rb") as theirs:
        while block := ours.read(READ_AT_ONCE):
            if theirs.read(READ_AT_ONCE) != block:
                return False
        return not theirs.read(1)


def _check_names(plan: Plan, written: Checkpoint) -> None:
    planned = {step.name: step for step in plan.steps}
    odd = sorted(planned.keys() ^ written.weights.keys())
    if odd:
        side = "plan" if odd[0] in planned else "output"
        raise VerificationFailed(f"{written.root}: {odd[0]} is only in the {side}. Convert again.")
    for name, step in planned.items():
        weight, shape = written.weights[name], step.shape
        if weight.shape != shape or not step.scheme.is_stored_as(weight.scheme, shape):
            raise VerificationFailed(
                f"{written.root}: {name}: expected {step.scheme.name} {list(shape)}, "
                f"found {weight.scheme.name} {list(weight.shape)}. Convert again."
            )


def _check_slab(item: Item, plan: Plan, written: Checkpoint, ready: Ready) -> Error:
    """Check the bytes of a slab; return the error of its values against the source."""
    index, slab = item
    step = plan.steps[index]
    weight = written.weights[step.name]
    if isinstance(step, ConstantStep):
        return _check_bytes(weight, step.parts, {name: part.read() for name, part in weight.parts.items()})
    if slab.part is not None:
        ours = step.source.weight.parts[slab.part].read_bytes(slab.start, slab.stop)
        theirs = weight.parts[slab.part].read_bytes(slab.start, slab.stop)
        return _check_bytes(weight, {slab.part: ours}, {slab.part: theirs})
    with surroundings(source_file(step)):
        parts, rows = read(step.source, slab)
    step = ready.of(step)
    made, _ = make(step, slab, parts, rows, ready.turn, plan.request.search)
    stored = read_rows(weight, weight.scheme.layout(weight.shape), slab.start, slab.stop)
    _check_bytes(weight, made, stored)
    return Error() if step.route is Route.COPY else _difference(step, parts, rows, stored)


def _check_bytes(written: Weight, ours: Parts, theirs: Parts) -> Error:
    for name, part in ours.items():
        if not np.array_equal(_raw(part), _raw(theirs[name])):
            stored = written.parts[name]
            raise VerificationFailed(f"{stored.file}: tensor {stored.name} is not what was written. Convert again.")
    return Error()


def _raw(array: Array) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _difference(step: WeightStep, parts: Parts, rows: NDArray[np.int64] | None, stored: Parts) -> Error:
    """Return the error of a slab against the source. Raises if codes that must be equal are not."""
    source, decoded = step.source.weight.scheme, step.scheme.decode(stored)
    if step.route is Route.REPACK:
        codes = source.codes(parts) if rows is None else take_codes(source.codes(parts), rows)
        written = step.scheme.codes(stored)
        _check_codes(step, codes, written)
        # A repack keeps the meaning of the parameters; a tool may round the values of either side to its dtype.
        return difference(codes.values(), written.values())
    values = to_float32(parts["weight"]) if isinstance(source, Dense) else source.decode(parts)
    return difference(values if rows is None else values[rows], decoded)


def _check_codes(step: WeightStep, ours: Codes, theirs: Codes) -> None:
    """Check the codes that the target stores for those of the source."""
    if not np.array_equal(step.scheme.adapted(ours).codes, theirs.codes):
        raise VerificationFailed(f"{step.name}: its codes differ from the source's. Convert again.")


def _check_error(step: Step, measured: Error, promised: Error) -> None:
    allowed = 0.0 if step.grade is Grade.EXACT else promised.relative_rmse * (1 + TOLERANCE)
    if math.isfinite(measured.squared) and measured.relative_rmse <= allowed:
        return
    raise VerificationFailed(
        f"{step.name}: expected a relative RMSE of at most {allowed:.3g} after {step.route} ({step.grade}), found "
        f"{measured.relative_rmse:.3g}. Convert again."
    )
