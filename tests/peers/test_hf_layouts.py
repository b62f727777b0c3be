"""compressed-tensors and bitsandbytes read what `--to hf` writes, value for value; transformers loads the folders."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.arrays import numpy_dtype
from quantcli.schemes.hf import named
from tests.builders import tiny_llama
from tests.conversions import config, converted, values
from tests.peers.pinned import peer
from tests.peers.quantizers import quantized
from tests.schemes.hf.cases import CASES, DTYPES, SHAPE, matrix

torch = peer("torch")
transformers = peer("transformers")
peer("compressed_tensors")
peer("bitsandbytes")

#: transformers 5.23 expects zero points that are not packed, and refuses these.
REFUSED = ("uint4-g32", "int8-asym-g32")
FOLDERS = (
    "int4-g32", "int3-channel", "int8-g64", "int8-channel", "int8-tensor", "int8-asym-tensor", "fp8-e4m3-tensor",
    "fp8-e4m3-channel", "fp8-e4m3-block128", "mxfp4", "mxfp8", "nvfp4",
)  # fmt: skip
FOUR_BITS = ("nf4-g64", "fp4-g64", "nf4-g32", "nf4-double-g64", "fp4-double-g32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_bytes_are_theirs(name: str, dtype: str) -> None:
    """Every part, and the values that they make of them; runs of 128 cross rows, which bitsandbytes reads wrong."""
    theirs, decoded = quantized(name, dtype)
    scheme = named(name, dtype, SHAPE)
    assert scheme is not None
    given = matrix().astype(numpy_dtype(dtype))
    ready = scheme.prepare(SHAPE, [given])
    ours, _ = ready.encode(given)
    for part, data in theirs.items():
        found = np.ascontiguousarray(ours[part]).tobytes()
        assert found == data or (part == "quant_state" and found.rstrip() == data), part
    assert np.array_equal(ready.decode(ours), decoded)


def folder(tmp_path: Path, name: str) -> Path:
    model = tiny_llama(tmp_path / "in", hidden_size=128, intermediate_size=256, head_dim=32)
    converted(model, tmp_path / "out", to="hf", scheme=name)
    converted(tmp_path / "out", tmp_path / "dense", to="hf", scheme="bf16")
    return tmp_path / "out"


def loaded(path: Path, **options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(str(path), dtype="auto", **options).eval()


def apart(ours: Any, theirs: Any) -> float:
    """Of the logits of two models, relative."""
    with torch.no_grad():
        one, other = (model(torch.arange(1, 40)[None]).logits.float() for model in (ours, theirs))
    return float((one - other).norm() / other.norm())


def holds(model: Any, ours: dict[str, np.ndarray]) -> None:
    """All of its weights are our values, but for the sign of zero."""
    state = model.state_dict()
    for name, wanted in ours.items():
        assert np.array_equal(state[name].float().numpy(), wanted), name


@pytest.mark.parametrize("name", FOLDERS)
def test_transformers_and_the_decompressor(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path, name)
    settings = transformers.CompressedTensorsConfig(run_compressed=False)
    model = loaded(path, quantization_config=settings)
    holds(model, values(path))
    # Activations of 8 bits are rounded as they come.
    assert apart(loaded(path), loaded(tmp_path / "dense")) < 0.1


@pytest.mark.parametrize("name", FOUR_BITS)
def test_transformers_and_bitsandbytes(tmp_path: Path, name: str) -> None:
    from bitsandbytes import functional

    path = folder(tmp_path, name)
    model = loaded(path)
    ours = values(path)
    for module in (m for m in model.named_modules() if type(m[1]).__name__ == "Linear4bit"):
        weight = module[1].weight
        decoded = functional.dequantize_4bit(weight.data, weight.quant_state)
        assert np.array_equal(decoded.float().numpy(), ours[f"{module[0]}.weight"]), module[0]
    assert apart(model, loaded(tmp_path / "dense")) < 0.02


@pytest.mark.parametrize("name", ["fp8-e4m3", "fp8-e5m2"])
def test_bare_floats_are_loaded_as_they_are(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path, name)
    assert "quantization_config" not in config(path)
    holds(loaded(path), values(path))


@pytest.mark.parametrize("name", REFUSED)
def test_packed_zero_points_are_refused_by_this_transformers(tmp_path: Path, name: str) -> None:
    """5.17 with compressed-tensors 0.19 loads them; the decompressor itself is held to them above."""
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        loaded(folder(tmp_path, name))
