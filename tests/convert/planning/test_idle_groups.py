"""Padding rows of a vocabulary, whose scales and biases are 0: quantized weights that have them keep their codes."""

from pathlib import Path

import numpy as np
import pytest

from quantcli.sources.detect import open_source
from tests.builders import LLAMA, folder_of, llama_tensors, tiny_llama
from tests.conversions import converted, stored, values

#: Rows at the end of the vocabulary that no token has, and one in its midst.
PADDING = [*range(80, 96), 3]


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    tensors = llama_tensors(LLAMA, np.dtype(np.float16))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name][PADDING] = 0
    return folder_of(tiny_llama(tmp_path / "dense"), tensors, LLAMA)


def blocks(path: Path) -> dict[str, bytes]:
    return {
        name: weight.parts["blocks"].read().tobytes()
        for name, weight in open_source(path).weights.items()
        if "blocks" in weight.parts
    }


def with_codes(folder: Path, out: Path, rng: np.random.Generator) -> Path:
    """The MLX folder with any codes in the padding rows, and zeros of either sign as their scales and biases."""
    found = stored(folder)
    arrays = {
        name: tensor.array({"U32": np.uint32, "F16": np.float16}[tensor.dtype]).copy() for name, tensor in found.items()
    }
    for module in ("model.embed_tokens", "lm_head"):
        assert not arrays[f"{module}.scales"][PADDING].any()
        words = arrays[f"{module}.weight"]
        words[PADDING] = rng.integers(0, 1 << 32, words[PADDING].shape, np.uint32)
        for part in ("scales", "biases"):
            arrays[f"{module}.{part}"][PADDING] = rng.choice(np.float16([0.0, -0.0]), (len(PADDING), 1))
    for file in folder.iterdir():
        if file.suffix != ".safetensors" and file.is_file() and "index" not in file.name:
            out.mkdir(exist_ok=True)
            (out / file.name).write_bytes(file.read_bytes())
    config = (folder / "config.json").read_text()
    folder_of(out, arrays)
    (out / "config.json").write_text(config)
    return out


@pytest.mark.parametrize("name, dtype", [("q4_0", "f16"), ("q5_0", "f16"), ("q8_0", "f16"), ("q8_0", "f32")])
def test_ggml_blocks_come_back_byte_for_byte(dense: Path, tmp_path: Path, name: str, dtype: str) -> None:
    first, mlx, last = tmp_path / "a.gguf", tmp_path / "mlx", tmp_path / "b.gguf"
    converted(dense, first, scheme=name, pure=True)
    converted(first, mlx, lossless="exact", scale_dtype=dtype)
    report = converted(mlx, last, lossless="exact")
    assert {w["scheme"] for w in report["weights"] if w["route"] == "repack"} == {name}
    assert blocks(first) == blocks(last) and len(blocks(first)) == 16


@pytest.mark.parametrize(
    "name, options",
    [
        ("q4_0", {}),
        ("q5_0", {}),
        ("q8_0", {}),
        ("q4_0", {"scheme": "q4_0", "pure": True}),
        ("q8_0", {"lossless": "exact"}),
    ],
)
def test_any_codes_in_mlx_folders(dense: Path, tmp_path: Path, name: str, options: dict[str, object]) -> None:
    """Whatever codes stand in the padding rows, the weight goes to the scheme that it came from."""
    converted(dense, tmp_path / "a.gguf", scheme=name, pure=True)
    converted(tmp_path / "a.gguf", tmp_path / "mlx")
    changed = with_codes(tmp_path / "mlx", tmp_path / "changed", np.random.default_rng(1))
    report = converted(changed, tmp_path / "b.gguf", **options)
    made = {(w["scheme"], w["route"], w["grade"]) for w in report["weights"] if len(w["shape"]) > 1}
    assert made == {(name, "repack", "exact")}
    before, after = values(tmp_path / "a.gguf"), values(tmp_path / "b.gguf")
    assert all(np.array_equal(before[weight], after[weight]) for weight in before)


@pytest.mark.parametrize("scheme", ["int4-g32", "uint4-g32", "int8-g32"])
def test_to_compressed_tensors_and_back(dense: Path, tmp_path: Path, scheme: str) -> None:
    bits = 8 if scheme.startswith("int8") else 4
    converted(dense, tmp_path / "a.gguf", scheme=f"q{bits}_0", pure=True)
    converted(tmp_path / "a.gguf", tmp_path / "mlx")
    changed = with_codes(tmp_path / "mlx", tmp_path / "changed", np.random.default_rng(2))
    report = converted(changed, tmp_path / "hf", scheme=scheme, to="hf")
    assert {w["grade"] for w in report["weights"] if w["route"] == "repack"} == {"exact"}
    back = converted(tmp_path / "hf", tmp_path / "b.gguf")
    assert {w["scheme"] for w in back["weights"] if w["route"] == "repack"} == {f"q{bits}_0"}
