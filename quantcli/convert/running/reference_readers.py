"""Opening a finished output in the libraries that define its formats, and comparing what they read with the plan.

    *.safetensors   safetensors    dtype and shape of every tensor, their order by offset, the metadata
    *.gguf          PyPI gguf      type, shape, offset and size of every tensor, type and value of every key

`verify` reads an output with the same code that reads sources, so it cannot find mistakes that the writer and the
reader of this project share. The reference is the planned header as `containers` reads it, which `verify` has compared
with the file byte by byte. No tensor data is read.

A type that gguf does not know, or whose block size it has wrong, is not an error but a note: the reader refuses such a
file, so only keys and other tensors are compared, and the file does not count as opened.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from quantcli.arrays import DTYPES
from quantcli.containers import gguf, safetensors
from quantcli.containers.ggml_types import BY_ID
from quantcli.containers.gguf_values import CODES, SMALLEST, VALUE_TYPES, ArrayValue, Value
from quantcli.containers.hostile import Read, shown
from quantcli.convert.planning.steps import Plan
from quantcli.convert.running import gguf_process
from quantcli.convert.running.workplace import surroundings
from quantcli.errors import VerificationFailed
from quantcli.targets.base import OutputFile

#: Name -> fact -> value: what is compared, in the order in which differences are reported.
Facts = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Opened:
    """A reference reader and the files that it opened. notes: what it did not read, and why."""

    name: str
    version: str
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Key:
    """A key's value as gguf's reader returns it: types from outer to inner, bytes of all elements, size of each."""

    types: tuple[str, ...]
    sizes: list[int]
    data: bytes

    @classmethod
    def of(cls, types: tuple[str, ...], elements: Sequence[bytes]) -> _Key:
        return cls(types, [len(element) for element in elements], b"".join(elements))

    def elements(self) -> Iterator[bytes]:
        ends = accumulate(self.sizes)
        return (self.data[end - size : end] for size, end in zip(self.sizes, ends, strict=True))


def check(plan: Plan, path_of: Callable[[str], Path]) -> tuple[Opened, ...]:
    """Open the files of the output, which are at `path_of(name)`, in every reference reader that supports them.

    Raises `VerificationFailed`, naming file, tensor or key, if a reader refuses a file or reads something else than was
    planned, and `Surroundings` if gguf's process dies.
    """
    written = [file for file in plan.files if file.copy_of is None]
    readable = ((read, [file for file in written if file.name.endswith(ending)]) for ending, read in READERS.items())
    return tuple(read(files, path_of) for read, files in readable if files)


def _safetensors(files: Sequence[OutputFile], path_of: Callable[[str], Path]) -> Opened:
    from safetensors import SafetensorError, __version__, safe_open

    reader = f"safetensors {__version__}"
    for file in files:
        path = path_of(file.name)
        planned = safetensors.parse_header(_planned_bytes(file), file.size, str(path))
        try:
            with surroundings(path), safe_open(path, framework="numpy") as opened:
                # In the order of their offsets; a slice has dtype and shape, and reads no data until it is indexed.
                slices = {name: opened.get_slice(name) for name in opened.offset_keys()}
                metadata = opened.metadata() or {}
                seen = {n: {"dtype": s.get_dtype(), "shape": list(s.get_shape())} for n, s in slices.items()}
        except SafetensorError as error:
            raise VerificationFailed(f"{path}: {reader} cannot open it: {error}.") from error
        expected = {
            name: {"dtype": DTYPES[entry.dtype].safetensors, "shape": list(entry.shape)}
            for name, entry in planned.entries.items()
        }
        _compare(path, reader, "tensor", seen, expected)
        _compare_order(path, reader, list(seen), planned.entries)
        texts = ({key: {"value": text} for key, text in side.items()} for side in (metadata, planned.metadata))
        _compare(path, reader, "metadata key", *texts)
    return Opened("safetensors", __version__, tuple(file.name for file in files))


def _compare_order(path: Path, reader: str, seen: list[str], planned: Mapping[str, safetensors.Entry]) -> None:
    """Raise `VerificationFailed` for another order; tensors without bytes have no order at the same offset."""
    places = {name: (entry.offset, entry.nbytes) for name, entry in planned.items()}
    for number, (name, expected) in enumerate(zip(seen, planned, strict=True), 1):
        if places[name] != places[expected]:
            raise VerificationFailed(
                f"{path}: {reader} reads tensor {shown(name)} as number {number} by offset, but the plan has "
                f"{shown(expected)} there."
            )


def _gguf(files: Sequence[OutputFile], path_of: Callable[[str], Path]) -> Opened:
    planned = [gguf.parse(_planned_bytes(file), file.size, path_of(file.name)) for file in files]
    asked = [(file.path, {tensor.type_id for tensor in file.tensors.values()}) for file in planned]
    opened: list[str] = []
    unopened: list[gguf.GgufFile] = []
    is_read = True
    with surroundings(planned[0].path), closing(gguf_process.answers(asked)) as answers:
        version, known = next(answers)
        reader = f"gguf {version}"
        for file, (_, types) in zip(planned, asked, strict=True):
            answer = next(answers)
            if types <= known:
                opened.append(file.path.name)
            else:
                unopened.append(file)
            if not isinstance(answer, str):
                _compare_gguf(file, reader, known, *answer)
            elif types <= known:
                raise VerificationFailed(f"{file.path}: {reader} cannot open it: {answer}.")
            else:
                is_read = False
    return Opened("gguf", version, tuple(opened), tuple(_notes(reader, known, unopened, is_read)))


def _compare_gguf(
    file: gguf.GgufFile,
    reader: str,
    known: Collection[int],
    tensors: Mapping[str, tuple[int, tuple[int, ...], int, int]],
    keys: Mapping[str, tuple[tuple[int, ...], list[int], bytes]],
) -> None:
    """Compare what the reader reads from a file with the plan, except for tensors of types that it does not know."""
    expected = {
        name: _tensor_facts(tensor.type_id, tensor.shape, tensor.offset, tensor.nbytes)
        for name, tensor in file.tensors.items()
        if tensor.type_id in known
    }
    # A type that only the reader knows has no planned size.
    sizeless = {name for name, tensor in file.tensors.items() if tensor.nbytes is None}
    seen = {
        name: _tensor_facts(number, shape, offset, None if name in sizeless else nbytes)
        for name, (number, shape, offset, nbytes) in tensors.items()
    }
    _compare(file.path, reader, "tensor", seen, expected)
    values = {
        name: _Key(tuple(VALUE_TYPES[number] for number in types), sizes, data)
        for name, (types, sizes, data) in keys.items()
    }
    wanted = {name: _planned_key(value) for name, value in file.metadata.items()}
    _compare(file.path, reader, "key", _key_facts(values), _key_facts(wanted))
    for name, key in wanted.items():
        _compare_elements(file.path, reader, name, values[name], key)


def _tensor_facts(type_id: int, shape: tuple[int, ...], offset: int, nbytes: int | None) -> Mapping[str, Any]:
    named = BY_ID[type_id].name if type_id in BY_ID else type_id
    return {"type": named, "shape": list(shape), "offset": offset, "size": nbytes}


def _key_facts(keys: Mapping[str, _Key]) -> Facts:
    return {name: {"type": " of ".join(key.types), "length": len(key.sizes)} for name, key in keys.items()}


def _planned_key(value: Value) -> _Key:
    kind, planned = value
    if isinstance(planned, ArrayValue):
        return _Key.of(("array", *_element_types(planned)), list(_elements(planned)))
    if kind == "string":
        return _Key.of((kind,), [planned if isinstance(planned, bytes) else planned.encode()])
    return _Key.of((kind,), [struct.pack("<" + CODES[kind], planned)])


def _element_types(array: ArrayValue) -> tuple[str, ...]:
    """Return the types in an array; the reader returns none for an empty one."""
    if not array.length:
        return ()
    return (array.element, *(_element_types(array.arrays()[0]) if array.element == "array" else ()))


def _elements(array: ArrayValue) -> Iterator[bytes]:
    """Yield the bytes of each number and text in an array, including those of nested arrays."""
    if array.element == "string":
        yield from array.decode()
    elif array.element == "array":
        for nested in array.arrays():
            yield from _elements(nested)
    else:
        width = SMALLEST[array.element]
        yield from (array.payload[at : at + width] for at in range(0, len(array.payload), width))


def _compare_elements(path: Path, reader: str, name: str, seen: _Key, planned: _Key) -> None:
    if seen == planned:
        return
    pairs = enumerate(zip(seen.elements(), planned.elements(), strict=True))
    index, (theirs, ours) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    of = f"element {index} of " if "array" in planned.types else ""
    kind = planned.types[-1]
    start = _shortly_before_the_first_difference(theirs, ours) if kind == "string" else 0
    where = f" from byte {start} on" if start else ""
    raise VerificationFailed(
        f"{path}: {reader} reads {of}key {shown(name)}{where} as {_shown(theirs[start:], kind)}, but the plan has "
        f"{_shown(ours[start:], kind)}."
    )


def _shortly_before_the_first_difference(one: bytes, other: bytes) -> int:
    same = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))
    return max(0, min(same, len(one), len(other)) - 20)


def _shown(raw: bytes, kind: str) -> str:
    """Return a value for an error message; of a text, its start."""
    if CODES[kind]:
        return shown(struct.unpack("<" + CODES[kind], raw)[0])
    return shown(raw[:60].decode(errors="backslashreplace"))


def _compare(path: Path, reader: str, what: str, seen: Facts, planned: Facts) -> None:
    for name in sorted(planned.keys() ^ seen.keys()):
        reads, has = ("does not read", "has") if name in planned else ("reads", "does not have")
        raise VerificationFailed(f"{path}: {reader} {reads} {what} {shown(name)}, which the plan {has}.")
    for name, facts in planned.items():
        for fact, expected in facts.items():
            if (actual := seen[name][fact]) != expected:
                raise VerificationFailed(
                    f"{path}: {reader} reads {what} {shown(name)} with {fact} {shown(actual)}, but the plan has "
                    f"{shown(expected)}."
                )


def _notes(reader: str, known: Collection[int], unopened: Sequence[gguf.GgufFile], is_read: bool) -> Iterator[str]:
    """Yield one note for all files that the reader cannot open because it does not know a type in them."""
    if not unopened:
        return
    unknown = {t.type_id: t.type_name for file in unopened for t in file.tensors.values() if t.type_id not in known}
    names = ", ".join(unknown[number] or str(number) for number in sorted(unknown))
    first = unopened[0].path.name
    files = first if len(unopened) == 1 else f"{len(unopened)} files (first: {first})"
    rest = "keys and other tensors match the plan" if is_read else "keys and other tensors were not compared"
    yield f"{reader} does not know how GGML type {names} is stored, so it cannot open {files}; {rest}."


def _planned_bytes(file: OutputFile) -> Read:
    """Return a function that reads the planned header, a file's first blob, as if from the file."""
    ((start, header), *_) = file.blobs
    assert start == 0
    return lambda offset, length: header[offset : offset + length]


#: Ending of a file name -> its reader.
READERS: Mapping[str, Callable[[Sequence[OutputFile], Callable[[str], Path]], Opened]] = {
    ".safetensors": _safetensors,
    ".gguf": _gguf,
}
