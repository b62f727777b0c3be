"""The owners' libraries read our files: safetensors, gguf, and MLX's own loaders."""

from pathlib import Path

import numpy as np
import pytest

from tests.conversions import converted, stored, values
from tests.peers.pinned import DEMO, peer

safetensors = peer("safetensors")
gguf = peer("gguf")

TYPES = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q6_k")


@pytest.mark.parametrize(("name", "given"), [("mlx", {"scheme": "affine4-g64"}), ("out", {"to": "hf"})])
def test_safetensors_reads_every_tensor(tmp_path: Path, name: str, given: dict[str, str]) -> None:
    converted(DEMO, tmp_path / name, **given)
    file = tmp_path / name / "model.safetensors"
    by_hand = stored(tmp_path / name)
    theirs = dict(safetensors.deserialize(file.read_bytes()))
    assert set(theirs) == set(by_hand) and len(theirs) > 40
    for key, tensor in theirs.items():
        ours = by_hand[key]
        assert (tensor["dtype"], tuple(tensor["shape"]), bytes(tensor["data"])) == (ours.dtype, ours.shape, ours.data)
    with safetensors.safe_open(file, framework="numpy") as opened:
        assert opened.metadata() == {"format": "mlx" if name == "mlx" else "pt"}


def test_mlx_reads_every_array(tmp_path: Path) -> None:
    mx = pytest.importorskip("mlx.core")
    converted(DEMO, tmp_path / "mlx", scheme="affine4-g64")
    arrays = mx.load(str(tmp_path / "mlx" / "model.safetensors"))
    assert {name: tuple(array.shape) for name, array in arrays.items()} == {
        name: tensor.shape for name, tensor in stored(tmp_path / "mlx").items()
    }


@pytest.mark.parametrize("scheme", TYPES)
def test_gguf_reads_and_decodes_every_tensor(tmp_path: Path, scheme: str) -> None:
    """gguf's own decoder gives the values that ours gives; metadata are read with their types."""
    output = tmp_path / "out.gguf"
    converted(DEMO, output, scheme=scheme)
    reader, ours = gguf.GGUFReader(output), values(output)
    assert {tensor.name for tensor in reader.tensors} == set(ours)
    for tensor in reader.tensors:
        decoded = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(decoded.reshape(ours[tensor.name].shape), ours[tensor.name]), tensor.name
        assert tensor.data_offset % 32 == 0
    assert reader.fields["general.architecture"].contents() == "qwen3"
    assert reader.fields["qwen3.block_count"].contents() == 4
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == 2048
    assert {field.name for field in reader.fields.values() if field.name.startswith("split.")} == set()
