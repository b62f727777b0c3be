"""Fuzzed GGUF headers: refused, or a reading that a plain reader agrees with; never a crash, never much memory.

A case is a small sound file (both versions, both byte orders, all value types, arrays in arrays) with up to four edits
of its numbers and bytes, or random bytes behind a sound start. `make test` tries 21,500, `make fuzz` twenty times as
many. Most are drawn twenty at a time from a seed, which costs a tenth of hypothesis's own drawing of each edit.
"""

import json
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from quantcli.checkpoint import Checkpoint
from quantcli.cli.app import app
from quantcli.containers import gguf
from quantcli.containers.gguf_values import VALUE_TYPES, ArrayValue
from quantcli.errors import BadInput, NotPossible
from quantcli.sources.gguf import from_header
from tests.attacks.gguf_files import SAMPLES, Plain, Sample

#: 1 as a rule, 20 under `make fuzz`.
TIMES = settings().max_examples // 100

#: What a number is replaced with: bounds of its own and of wider types, and what counts, lengths, types may be.
TELLING = [
    *range(14), 24, 28, 31, 32, 39, 64, 99, 127, 128, 255, 256, 1000, 65_535, 65_536, 2**20, 2**31 - 1, 2**31,
    2**32 - 1, 2**32, 2**60, 2**61, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1,
]  # fmt: skip
WHAT = ("set", "add", "byte", "cut", "insert", "remove", "repeat")
#: What happens, where, and with what: the second is taken modulo the numbers or bytes that there are.
Edit = tuple[str, int, int]
EDIT = st.tuples(st.sampled_from(WHAT), st.integers(0, 2047), st.sampled_from(TELLING))
CASE = st.tuples(st.sampled_from(SAMPLES), st.lists(EDIT, min_size=1, max_size=4))

#: Beside ten times the file, what a reading takes that does not grow with it.
BESIDE = 64 << 10


def edited(sample: Sample, edits: list[Edit]) -> bytes:
    raw = bytearray(sample.raw)
    for what, where, value in edits:
        at = where % (len(raw) + 1)
        if what in ("set", "add"):
            change(raw, sample, where, value, add=what == "add")
        elif what == "byte":
            raw[at : at + 1] = bytes([value % 256])
        elif what == "cut":
            del raw[at:]
        elif what == "insert":
            raw[at:at] = bytes([value % 256]) * (value % 9)
        elif what == "remove":
            del raw[at : at + value % 40]
        else:
            raw[at:at] = raw[at : at + value % 40]
    return bytes(raw)


def change(raw: bytearray, sample: Sample, where: int, value: int, *, add: bool) -> None:
    """One number set, or moved a little up or down, where the file still reaches so far."""
    at, code = sample.places[where % len(sample.places)]
    width = struct.calcsize("<" + code)
    if at + width > len(raw):
        return
    order = "little" if sample.order == "<" else "big"
    old = int.from_bytes(raw[at : at + width], order) if add else 0
    moved = old + (value % 17 - 8 if add else value)
    raw[at : at + width] = (moved % 256**width).to_bytes(width, order)


def same(ours: Any, theirs: Any) -> bool:
    """Whether a value is what the plain reader found; NaN is NaN."""
    if isinstance(ours, ArrayValue):
        ours = ours.decode()
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, str):
        ours = ours.encode()
    return bool(ours == theirs or (ours != ours and theirs != theirs))


def check(raw: bytes) -> Checkpoint | None:
    """Read the bytes as a file and as a source; None where they are refused."""
    try:
        found = gguf.parse(lambda at, count: raw[at : at + count], len(raw), Path("a.gguf"))
        source = from_header(found, Path("a.gguf"))
    except (BadInput, NotPossible) as error:  # the latter for version 1
        assert str(error).startswith("a.gguf: ") and len(str(error)) < 400 and str(error).isprintable()
        return None
    agrees(found, raw)
    assert list(source.weights) == list(found.tensors)
    for name, weight in source.weights.items():
        (part,) = weight.parts.values()
        assert part.offset == found.tensors[name].offset and part.offset + part.nbytes <= len(raw)
    return source


def agrees(found: gguf.GgufFile, raw: bytes) -> None:
    """Assert that a header says what the plain reader finds, and that its tensors lie apart and in the file."""
    plain = Plain(raw)
    assert (found.version, found.byte_order == "big") == (plain.version, plain.order == ">")
    assert list(found.metadata) == list(plain.metadata) and list(found.tensors) == list(plain.listed)
    for key, value in found.metadata.items():
        kind, theirs = plain.metadata[key]
        assert value.type.partition("[")[0] == VALUE_TYPES[kind] and same(value.value, theirs)
    assert found.data_start == plain.data_start
    assert [(t.shape[::-1], t.type_id, t.offset - found.data_start) for t in found.tensors.values()] == list(
        plain.listed.values()
    )
    end = found.data_start
    for tensor in sorted(found.tensors.values(), key=lambda tensor: (tensor.offset, tensor.nbytes != 0)):
        assert tensor.offset >= end
        end = tensor.offset + (1 if tensor.nbytes is None else tensor.nbytes)
        assert end <= tensor.offset + tensor.span <= len(raw)


def measured(raw: bytes) -> None:
    """`check`, in memory of at most ten times the file."""
    tracemalloc.start()
    check(raw)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 10 * len(raw) + BESIDE


def many(examples: int) -> Any:
    return settings(max_examples=TIMES * examples, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_files_that_are_edited_are_sound(sample: Sample) -> None:
    assert check(sample.raw) is not None


@many(1_000)
@given(CASE)
def test_edited_headers(case: tuple[Sample, list[Edit]]) -> None:
    measured(edited(*case))


def drawn(seed: int, count: int) -> list[bytes]:
    """That many edited files; of half of them one number or byte only, so that more of them are read."""
    draw = random.Random(seed)
    cases = []
    for _ in range(count):
        edits = [
            (draw.choice(WHAT), draw.randrange(2048), draw.choice(TELLING)) for _ in range(draw.choice((1, 1, 2, 4)))
        ]
        cases.append(edited(draw.choice(SAMPLES), edits))
    return cases


@many(1_000)
@given(st.integers(0, 2**32 - 1))
def test_seeds_of_twenty_edited_headers(seed: int) -> None:
    for raw in drawn(seed, 20):
        measured(raw)


@many(500)
@given(st.sampled_from([b"", b"GGUF", *(sample.raw[:24] for sample in SAMPLES)]), st.binary(max_size=300))
def test_random_bytes(start: bytes, rest: bytes) -> None:
    measured(start + rest)


@many(15)
@given(st.integers(0, 2**32 - 1))
def test_what_gguf_py_reads_too(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    library = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("fuzz") / "a.gguf"
    for raw in drawn(seed, 20):
        if check(raw) is None:
            continue
        path.write_bytes(raw)
        try:
            theirs = library.GGUFReader(path)
        except Exception:  # it knows fewer types and makes numpy arrays of sizes as they come
            continue
        ours = gguf.read(path).tensors
        assert [t.name for t in theirs.tensors] == list(ours)
        for tensor in theirs.tensors:
            info = ours[tensor.name]
            assert (info.offset, info.nbytes, info.type_id) == (tensor.data_offset, tensor.n_bytes, tensor.tensor_type)
            assert info.shape == tuple(tensor.shape.tolist()[::-1])


@many(15)
@given(st.integers(0, 2**32 - 1))
def test_through_the_command_line(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.gguf"
    for raw in drawn(seed, 10):
        path.write_bytes(raw)
        result = CliRunner().invoke(app, ["inspect", str(path), "--json"])
        assert result.exception is None or isinstance(result.exception, SystemExit), raw.hex()
        assert result.exit_code in (0, 3), result.stderr
        if result.exit_code == 3:
            assert result.stdout == "" and result.stderr.splitlines()[-1].startswith("error: ")
        elif (told := json.loads(result.stdout))["kind"] == "gguf":
            assert [w["name"] for w in told["weights"]] == list(gguf.read(path).tensors)
