"""Big-endian GGUF files: bytes are swapped as they are read, so that what is made of them is what the other file gives.

The files are written here, by hand; gguf-py's script and a real file of it are the second opinion.
"""

import argparse
import builtins
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.containers import gguf, gguf_write
from quantcli.containers.ggml_types import BY_NAME, swapped
from quantcli.errors import NotPossible
from quantcli.sources.detect import open_source
from tests.conversions import converted, planned

ROWS, COLUMNS = 3, 512
#: Types whose bytes are swapped.
SWAPPED = tuple(name for name, kind in BY_NAME.items() if kind.fields is not None)
#: Those that gguf-py's script swaps.
SCRIPT = ("f32", "f16", "bf16", "q4_0", "q8_0", "q4_k", "q6_k", "tq2_0", "mxfp4", "nvfp4")


def blocks(types: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Random bytes whose floats are finite: name -> (blocks, bytes of one)."""
    random = np.random.default_rng(0)
    found = {}
    for name in types:
        kind = BY_NAME[name]
        found[name] = random.integers(0, 0x70, (ROWS * COLUMNS // kind.block_size, kind.block_bytes), np.uint8)
    return found


def listed(types: tuple[str, ...]) -> list[tuple[str, tuple[int, ...], str]]:
    return [(f"blk.0.{name}.weight", (ROWS, COLUMNS), name) for name in types]


def little(path: Path, types: tuple[str, ...]) -> Path:
    """A file of one weight of each type; its keys have numbers of every width."""
    keys: dict[str, tuple[str, Any]] = {
        "general.architecture": ("string", "mystery"), "a": ("uint16", 513), "b": ("array[float32]", [1.5, 2.5]),
        "c": ("float64", 0.1), "d": ("array[string]", ["x", "yz"]),
    }  # fmt: skip
    head, offsets, size = gguf_write.header(keys, listed(types))
    raw = bytearray(head + bytes(size - len(head)))
    for (name, _, _), data in zip(listed(types), blocks(types).values(), strict=True):
        raw[offsets[name] : offsets[name] + data.size] = data.tobytes()
    path.write_bytes(raw)
    return path


def text(value: str) -> bytes:
    return struct.pack(">Q", len(value)) + value.encode()


def big(path: Path, types: tuple[str, ...]) -> Path:
    """The same file of a big-endian machine; blocks of a type that cannot be swapped as they are."""
    head = b"GGUF" + struct.pack(">IQQ", 3, len(types), 5)
    head += text("general.architecture") + struct.pack(">I", 8) + text("mystery")
    head += text("a") + struct.pack(">IH", 2, 513) + text("b") + struct.pack(">IIQ2f", 9, 6, 2, 1.5, 2.5)
    head += text("c") + struct.pack(">Id", 12, 0.1) + text("d") + struct.pack(">IIQ", 9, 8, 2) + text("x") + text("yz")
    data = b""
    for name, raw in blocks(types).items():
        head += text(f"blk.0.{name}.weight") + struct.pack(">IQQIQ", 2, COLUMNS, ROWS, BY_NAME[name].id, len(data))
        order = swapped(BY_NAME[name])
        data += (raw if order is None else raw[:, order]).tobytes()
        data += bytes(-len(data) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


def test_the_table_covers_every_type_but_one() -> None:
    assert BY_NAME.keys() - set(SWAPPED) == {"iq2_xxs"}
    for name in SWAPPED:
        order = swapped(BY_NAME[name])
        assert order is not None and len(order) == BY_NAME[name].block_bytes
        assert [order[at] for at in order] == list(range(len(order)))


def test_metadata_and_values(tmp_path: Path) -> None:
    types = SWAPPED
    ours, theirs = open_source(big(tmp_path / "b.gguf", types)), open_source(little(tmp_path / "l.gguf", types))
    assert ours.warnings == () and ours.weights.keys() == theirs.weights.keys()
    for name, weight in ours.weights.items():
        assert weight.scheme == theirs.weights[name].scheme
        (part,), (other,) = weight.parts.values(), theirs.weights[name].parts.values()
        assert part.read(1, 3).tobytes() == other.read(1, 3).tobytes(), name
        for start, stop in ((0, 1), (1, 2), (3, part.nbytes - 1), (5, 91), (0, part.nbytes)):
            assert part.read_bytes(start, stop).tobytes() == other.read_bytes(start, stop).tobytes(), name


def test_many_units_are_swapped_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantcli.checkpoint.SWAPPED_BLOCK", 2)
    test_metadata_and_values(tmp_path)


@pytest.mark.parametrize("scheme", [None, "f32"])
def test_what_is_made_of_it_is_what_the_other_file_gives(tmp_path: Path, scheme: str | None) -> None:
    types = ("f16", "bf16", "q4_1", "q5_0", "q4_k") if scheme else tuple(name for name in SWAPPED if name != "f64")
    made = []
    for source in (big(tmp_path / "b.gguf", types), little(tmp_path / "l.gguf", types)):
        (tmp_path / source.stem).mkdir()
        output = tmp_path / source.stem / "out.gguf"
        assert converted(source, output, scheme=scheme)["verified"]
        made.append(output.read_bytes())
    assert made[0] == made[1]


def test_a_copy_is_the_little_endian_file(tmp_path: Path) -> None:
    types = ("f32", "q4_k", "iq1_m", "q8_1")
    converted(big(tmp_path / "b.gguf", types), tmp_path / "out.gguf")
    source, made = little(tmp_path / "l.gguf", types), tmp_path / "out.gguf"
    raw = source.read_bytes()
    found = gguf.read(made).tensors
    for name, tensor in gguf.read(source).tensors.items():
        data = made.read_bytes()[found[name].offset :][: tensor.nbytes]
        assert data == raw[tensor.offset :][: tensor.nbytes], name


@pytest.mark.parametrize("number", [BY_NAME["iq2_xxs"].id, 999])
def test_what_cannot_be_swapped_is_listed_and_refused(tmp_path: Path, number: int) -> None:
    path = big(tmp_path / "b.gguf", ("f32", "iq2_xxs"))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(struct.pack(">QI", ROWS, 16), struct.pack(">QI", ROWS, number)))
    weights = open_source(path).weights
    assert [weight.scheme.name for weight in weights.values()] == ["f32", "iq2_xxs" if number == 16 else "type-999"]
    with pytest.raises(NotPossible, match=r"blk\.0\.iq2_xxs\.weight: .*(iq2_xxs|type-999) .*big-endian"):
        planned(path, tmp_path / "out.gguf")
    with pytest.raises(NotPossible, match="GGML type .*not decoded|big-endian"):
        planned(path, tmp_path / "out.gguf", scheme="q8_0", allow_requantize=True)


def test_as_the_script_of_gguf_swaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = pytest.importorskip("gguf.scripts.gguf_convert_endian")
    from gguf import GGUFReader

    known = [t.name.lower() for t in script.byteswap_tensors]
    types = tuple(name for name in SCRIPT if name in ("f32", "f16", "bf16", *known))
    assert len(types) >= 7
    path = little(tmp_path / "l.gguf", types)
    monkeypatch.setattr(builtins, "input", lambda _: "YES")
    script.convert_byteorder(GGUFReader(path, "r+"), argparse.Namespace(order="big", dry_run=False))
    assert path.read_bytes() == big(tmp_path / "b.gguf", types).read_bytes()


def test_a_real_file(shared: Path, tmp_path: Path) -> None:
    """gguf-py's script made it; converted, it is what its twin becomes, byte for byte."""
    for name in ("micro1-bigendian.gguf", "micro1-v2header.gguf"):
        assert converted(shared / "fixtures/gguf/files" / name, tmp_path / name)["verified"]
    assert (tmp_path / "micro1-bigendian.gguf").read_bytes() == (tmp_path / "micro1-v2header.gguf").read_bytes()
