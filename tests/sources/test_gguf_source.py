"""GGUF files as checkpoints: each tensor one part, dense types decoded, others listed."""

from pathlib import Path

import numpy as np
import pytest

from quantcli.containers import gguf_write
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.dense import Dense
from quantcli.schemes.opaque import Opaque
from quantcli.sources.detect import open_source

DATA = Path(__file__).resolve().parent.parent / "data" / "gguf"
SCHEMES = {
    "norm.weight": ("f32", (8,)),
    "half": ("f16", (1, 2, 3)),
    "ids": ("i32", (4,)),
    "blk.0.ffn_down.weight": ("q8_0", (3, 64)),
    "blk.0.attn_q.weight": ("q4_0", (2, 32)),
    "output.weight": ("q6_k", (2, 256)),
    "token_embd.weight": ("q4_1", (5, 32)),
}


def test_every_tensor_is_a_weight_of_one_part() -> None:
    found = open_source(DATA / "small.gguf")
    assert (found.kind, found.names, found.warnings) == ("gguf", "gguf", ())
    assert {name: (w.scheme.name, w.shape) for name, w in found.weights.items()} == SCHEMES
    assert all(len(weight.parts) == 1 for weight in found.weights.values())
    assert found.metadata["general.architecture"].value == "llama"


def test_dense_values_and_blocks_are_what_was_written() -> None:
    from gguf import GGUFReader

    found = open_source(DATA / "small.gguf").weights
    for tensor in GGUFReader(DATA / "small.gguf").tensors:
        (part,) = found[tensor.name].parts.values()
        assert part.read().tobytes() == tensor.data.tobytes(), tensor.name


def test_blocks_decode_as_the_library_does() -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    found = open_source(DATA / "small.gguf").weights
    checked = 0
    for tensor in GGUFReader(DATA / "small.gguf").tensors:
        weight = found[tensor.name]
        if weight.scheme.family != "ggml":
            continue
        with np.errstate(all="ignore"):
            values = weight.scheme.decode({name: part.read() for name, part in weight.parts.items()})
            assert np.array_equal(values, dequantize(tensor.data, tensor.tensor_type), equal_nan=True), tensor.name
        checked += 1
    assert checked == 4


def test_big_endian_files_are_read() -> None:
    """gguf-py swaps dense tensors as it writes them, and leaves blocks as they are."""
    found, other = open_source(DATA / "small-big-endian.gguf"), open_source(DATA / "small.gguf")
    assert {name: (w.scheme.name, w.shape) for name, w in found.weights.items()} == SCHEMES
    for name in ("norm.weight", "half", "ids"):
        assert np.array_equal(found.weights[name].parts["weight"].read(), other.weights[name].parts["weight"].read())


def test_types_that_are_not_decoded_are_listed(tmp_path: Path) -> None:
    header, offsets, size = gguf_write.header(
        {"general.architecture": ("string", "llama")}, [("a.weight", (2, 256), "q8_1"), ("b.weight", (3,), "f32")]
    )
    path = tmp_path / "a.gguf"
    path.write_bytes(header + bytes(size - len(header)))
    found = open_source(path).weights
    assert found["a.weight"].scheme == Opaque("q8_1") and found["b.weight"].scheme == Dense("f32")
    (part,) = found["a.weight"].parts.values()
    assert (part.offset, part.nbytes, found["a.weight"].nbytes) == (offsets["a.weight"], 2 * 36 * 8, 2 * 36 * 8)
    with pytest.raises(NotPossible, match="GGML type q8_1 .*not decoded.*quant schemes"):
        found["a.weight"].scheme.decode({})


def test_a_type_that_nobody_knows_is_listed_by_its_number(tmp_path: Path) -> None:
    header, _, size = gguf_write.header({"general.architecture": ("string", "x")}, [("a.weight", (64,), "f32")])
    path = tmp_path / "a.gguf"
    place = header.index(b"a.weight") + len(b"a.weight") + 4 + 8
    path.write_bytes(header[:place] + (999).to_bytes(4, "little") + header[place + 4 :] + bytes(size - len(header)))
    weight = open_source(path).weights["a.weight"]
    assert weight.scheme.name == "type-999" and weight.nbytes == size - len(header)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes((DATA / "small.gguf").read_bytes()[:-500])
    with pytest.raises(BadInput, match="a.gguf: tensor .*truncated"):
        open_source(path)
