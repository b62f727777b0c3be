"""The journal: no damaged line of it makes an unwritten tensor count as written."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from quantcli.convert.running import journal
from quantcli.convert.running import run as runner
from tests.builders import tiny_llama
from tests.runs import interrupted, run, tree

BEGIN = {"fingerprint": "f" * 64, "replaces": True, "parts": ["x.gguf"]}
STEP = {"step": 3, "error": [0.5, 2.0, 0.25, 7]}


def chained(*entries: object, chain: bytes = journal.MAGIC) -> bytes:
    """Lines with the checksums that belong to them, behind the magic line."""
    text = journal.MAGIC
    for entry in entries:
        body = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
        chain = hashlib.sha256(chain + body).hexdigest()[:16].encode()
        text += chain + b" " + body + b"\n"
    return text


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny")


class TestParsed:
    def test_a_whole_one(self) -> None:
        text = chained(BEGIN, BEGIN, STEP, {"step": 0, "error": [0, 0, 0, 0]}, {"complete": True})
        begun = journal.parsed(text, 4)
        assert begun.fingerprint == "f" * 64 and begun.replaces and begun.parts == ("x.gguf",)
        assert begun.length == len(text) and begun.complete and not begun.to_confirm and list(begun.done) == [3, 0]
        error = begun.done[3]
        assert (error.squared, error.reference, error.largest, error.saturated) == (0.5, 2.0, 0.25, 7)

    def test_any_flipped_bit_ends_it_there(self) -> None:
        """Each line before the bit counts, none behind it; who began what is known whatever bit it is."""
        text = chained(BEGIN, BEGIN, STEP, {"step": 0, "error": [0, 0, 0, 0]}, {"complete": True, "to_confirm": True})
        ends = [i + 1 for i, byte in enumerate(text) if byte == 10]
        for place in range(len(text)):
            for bit in range(8):
                flipped = text[:place] + bytes([text[place] ^ 1 << bit]) + text[place + 1 :]
                begun = journal.parsed(flipped, 4)
                assert begun.fingerprint == "f" * 64 and begun.replaces and begun.parts == ("x.gguf",)
                line = next(i for i, end in enumerate(ends) if place < end)
                assert list(begun.done) == [3, 0][: max(0, line - 3)] if line else [3, 0]
                assert begun.complete is (line == 0)
                assert begun.length == (len(text) if line == 0 else ends[line - 1] if line > 2 else 0)

    @pytest.mark.parametrize("cut", range(0, 300, 7))
    def test_a_torn_end(self, cut: int) -> None:
        text = chained(BEGIN, BEGIN, STEP)
        begun = journal.parsed(text[: len(text) - cut], 4)
        assert list(begun.done) == ([3] if cut == 0 else [])

    @pytest.mark.parametrize(
        "entry",
        [
            {"step": 4, "error": [0, 0, 0, 0]}, {"step": -1, "error": [0, 0, 0, 0]},
            {"step": True, "error": [0, 0, 0, 0]}, {"step": 1.0, "error": [0, 0, 0, 0]},
            {"step": 1, "error": [0, 0, 0]}, {"step": 1, "error": [0, 0, 0, True]}, {"step": 1, "error": [-1, 0, 0, 0]},
            {"step": 1, "error": [10**400, 0, 0, 0]}, b'{"step": 1, "error": [NaN, 0, 0, 0]}',
            b'{"step": 1, "error": [Infinity, 0, 0, 0]}', b'{"step": 1, "error": ' + b"[" * 100_000,
            b'{"step": 1, "error": ' + b"[" * 200 + b"]" * 200 + b"}", b'{"step": ' + b"1" * 10_000 + b"}", b"[1]",
            b"", b"\xff", {}, {"complete": False}, {"complete": 1}, {"confirmed": "yes"},
        ],
    )  # fmt: skip
    def test_a_line_that_means_nothing_ends_it(self, entry: object) -> None:
        """Though its checksum is right."""
        before = chained(BEGIN, BEGIN, STEP)
        begun = journal.parsed(chained(BEGIN, BEGIN, STEP, entry, {"step": 2, "error": [0, 0, 0, 0]}), 4)
        assert list(begun.done) == [3] and begun.length == len(before)
        assert not begun.complete and not begun.confirmed

    def test_a_line_of_another_journal_ends_it(self) -> None:
        """And so do lines in another order, or one that stands twice."""
        lines = chained(BEGIN, BEGIN, STEP, {"step": 1, "error": [0, 0, 0, 0]}).splitlines(keepends=True)
        other = chained({**BEGIN, "replaces": False}, {**BEGIN, "replaces": False}, STEP).splitlines(keepends=True)
        for text in ([*lines[:3], lines[4], lines[3]], [*lines[:3], other[3]], [*lines[:4], lines[3]]):
            begun = journal.parsed(b"".join(text), 4)
            assert list(begun.done) == [3][: len(text) - 4 if text[3] == lines[3] else 0]

    def test_forgotten_steps_do_not_count(self) -> None:
        begun = journal.parsed(chained(BEGIN, BEGIN, STEP, {"complete": True}, {"forgotten": True}), 4)
        assert begun.done == {} and not begun.complete and begun.fingerprint == "f" * 64

    @pytest.mark.parametrize("parts", [["../x"], ["/x"], [""], [1], "x", None, [["x"]]])
    def test_names_of_parts_stay_in_the_folder(self, parts: object) -> None:
        begin = {**BEGIN, "parts": parts}
        assert journal.parsed(chained(begin, begin), 4).parts == ()


def flips(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """The text with one bit of it flipped, that many times."""
    draw = random.Random(seed)
    for place in draw.sample(range(len(data) * 8), count):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        yield bytes(flipped)


def digits(data: bytes) -> Iterator[bytes]:
    """The text with a step's number made another one by one bit of its first digit."""
    starts = [i + len(b'"step": ') for i in range(len(data)) if data.startswith(b'"step": ', i)]
    for start in starts:
        for bit in range(4):
            digit = data[start] ^ 1 << bit
            if 48 <= digit <= 57:
                yield data[:start] + bytes([digit]) + data[start + 1 :]


@pytest.mark.parametrize(("name", "scheme"), [("out", "affine4-g64"), ("out.gguf", "q4_0")])
def test_resumed_with_a_flipped_bit(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, scheme: str
) -> None:
    """The same bytes come out, whichever bit it is."""
    monkeypatch.setattr(runner, "FLUSH_SECONDS", 0.0)
    run(source, tmp_path / "good" / name, scheme=scheme)
    good = tree(tmp_path / "good" / name)
    interrupted(source, tmp_path / "died" / name, after=11, scheme=scheme)
    died = tmp_path / "died" / f"{name}.partial"
    text = (died / ".journal").read_bytes()
    cases: Sequence[bytes] = [*flips(text, 30, seed=24), *list(digits(text))[:12]]
    assert len(set(cases)) == 42
    for number, flipped in enumerate(cases):
        output = tmp_path / str(number) / name
        shutil.copytree(died, output.with_name(died.name))
        (output.with_name(died.name) / ".journal").write_bytes(flipped)
        run(source, output, scheme=scheme, resume=True)
        assert tree(output) == good, flipped


def test_a_flipped_bit_does_not_hide_that_an_output_may_be_replaced(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FLUSH_SECONDS", 0.0)
    run(source, tmp_path / "good", scheme="affine4-g64")
    run(source, tmp_path / "out", scheme="f16")
    interrupted(source, tmp_path / "out", scheme="affine4-g64", force=True)
    path = tmp_path / "out.partial" / ".journal"
    text = path.read_bytes()
    starts = [0, *(i + 1 for i, byte in enumerate(text) if byte == 10)]
    for start, end in pairwise(starts[:4]):
        shutil.copytree(tmp_path / "out", tmp_path / "copy" / str(start) / "out")
        shutil.copytree(path.parent, tmp_path / "copy" / str(start) / "out.partial")
        place = (start + end) // 2
        damaged = text[:place] + bytes([text[place] ^ 4]) + text[place + 1 :]
        (tmp_path / "copy" / str(start) / "out.partial" / ".journal").write_bytes(damaged)
        run(source, tmp_path / "copy" / str(start) / "out", scheme="affine4-g64", resume=True)
        assert tree(tmp_path / "copy" / str(start) / "out") == tree(tmp_path / "good")
