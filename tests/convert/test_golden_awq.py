"""A checkpoint that AutoAWQ 0.2.9 itself made, to MLX, GGUF and dense folders; the truth is what AutoAWQ decodes.

The tool computes in f16: truth = f16((code - zero) * scale). `truth.json` has the SHA-256 of every decoded weight as
float32, `truth.safetensors` some of them as tensors. Codes are unpacked here by hand, from the bytes of both sides.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quantcli.containers import gguf
from quantcli.errors import NotPossible
from tests.builders import AWQ_ORDER
from tests.conversions import config, converted, schemes, stored, values

#: Rows of q and k change places on the way to GGUF, head by head: heads of each in this model.
HEADS = {"attn_q": 4, "attn_k": 2}
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
GROUP = 64


@dataclass(frozen=True)
class Awq:
    """The source folder, and the truth: weight -> hash; some weights -> float32 values."""

    folder: Path
    hashes: dict[str, str]
    tensors: dict[str, np.ndarray]

    def module(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """codes (rows, columns), zeros and float32 scales (rows, groups) of a weight."""
        found, module = stored(self.folder), name.removesuffix(".weight")
        words, zeros = (found[f"{module}.{part}"].array("<u4") for part in ("qweight", "qzeros"))
        return unpacked(words), unpacked(zeros), found[f"{module}.scales"].array("<f2").T.astype(np.float32)


def unpacked(words: np.ndarray) -> np.ndarray:
    """AWQ's words (n, rows / 8) -> (rows, n)."""
    out = np.empty((words.shape[1], 8, words.shape[0]), np.float32)
    for i, row in enumerate(AWQ_ORDER):
        out[:, row] = (words.T >> np.uint32(4 * i)) & np.uint32(15)
    return out.reshape(-1, words.shape[0])


def mlx_codes(words: np.ndarray) -> np.ndarray:
    """MLX's words (rows, columns / 8), the first column lowest."""
    nibbles = (words[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32)) & np.uint32(15)
    return nibbles.reshape(len(words), -1).astype(np.float32)


def sha(array: np.ndarray) -> str:
    """As truth.json's `sha256_f32_no_negative_zero`."""
    return hashlib.sha256((array.astype("<f4") + np.float32(0)).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def awq(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Awq:
    case, folder = shared / "fixtures" / "quantized" / "autoawq-gemm-g64", tmp_path_factory.mktemp("awq") / "micro-awq"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copyfile(case / name, folder / name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(shared / "fixtures" / "models" / "micro-llama" / name, folder / name)
    truth = json.loads((case / "truth.json").read_text())["tensors"]
    tensors = {name: t.array("<f2").astype(np.float32) for name, t in stored(case).items() if name in truth}
    return Awq(folder, {name: entry["sha256_f32_no_negative_zero"] for name, entry in truth.items()}, tensors)


@pytest.fixture(scope="module")
def mlx(awq: Awq) -> Path:
    """Converted as it is by default: f16 scales."""
    output = awq.folder.parent / "mlx"
    report = converted(awq.folder, output)
    assert report["totals"]["routes"] == {"copy": 7, "repack": 14}
    assert report["warnings"] == []
    return output


def test_codes_and_scales_are_untouched_and_biases_rounded_once(awq: Awq, mlx: Path) -> None:
    found = stored(mlx)
    for name in awq.hashes:
        module = name.removesuffix(".weight")
        codes, zeros, scales = awq.module(name)
        assert np.array_equal(mlx_codes(found[f"{module}.weight"].array("<u4")), codes)
        assert np.array_equal(found[f"{module}.scales"].array("<f2").astype(np.float32), scales)
        assert np.array_equal(found[f"{module}.biases"].array("<f2"), (-zeros * scales).astype(np.float16))
    assert config(mlx)["quantization"] == {"group_size": GROUP, "bits": 4, "mode": "affine"}


def test_all_else_is_as_stored(awq: Awq, mlx: Path) -> None:
    before, after = stored(awq.folder), stored(mlx)
    dense = [name for name in before if not name.endswith((".qweight", ".qzeros", ".scales"))]
    assert len(dense) == 7
    assert all(after[name] == before[name] for name in dense)


def test_f32_scales_are_exact(awq: Awq, tmp_path: Path) -> None:
    """-zero * scale and scale * code + bias have at most 16 bits: nothing is rounded before the tool's own f16."""
    converted(awq.folder, tmp_path / "out", scale_dtype="f32")
    decoded = values(tmp_path / "out")
    assert {stored(tmp_path / "out")[f"{n.removesuffix('.weight')}.{part}"].dtype
            for n in awq.hashes for part in ("scales", "biases")} == {"F32"}  # fmt: skip
    assert {name: sha(decoded[name].astype(np.float16)) for name in awq.hashes} == awq.hashes
    for name, truth in awq.tensors.items():
        assert np.array_equal(decoded[name].astype(np.float16), truth.astype(np.float16))


def test_f16_scales_are_within_their_bound(awq: Awq, mlx: Path) -> None:
    """The bias is rounded to f16 and so is the tool's own value: half a unit in the last place of each, no more."""
    decoded = values(mlx)
    apart = 0
    for name in awq.hashes:
        codes, zeros, scales = awq.module(name)
        wide = np.repeat(scales.astype(np.float64), GROUP, axis=1)
        exact = (codes - np.repeat(zeros, GROUP, axis=1)) * wide
        truth = exact.astype(np.float16)
        assert sha(truth) == awq.hashes[name]
        biases = np.repeat((-zeros * scales).astype(np.float16), GROUP, axis=1)
        half_units = (np.spacing(np.abs(truth)).astype(np.float64) + np.spacing(np.abs(biases))) / 2
        float32_sum = np.spacing(np.abs(decoded[name])).astype(np.float64) / 2
        off = np.abs(decoded[name].astype(np.float64) - truth)
        assert (off <= half_units + float32_sum).all()
        apart += int((decoded[name].astype(np.float16) != truth).sum())
    assert apart > 0, "no bias was rounded: the test sees nothing"


@pytest.mark.parametrize(
    ("lossless", "given", "held"),
    [("exact", {}, False), ("codes", {}, True), ("exact", {"scale_dtype": "f32"}, True)],
)
def test_lossless(awq: Awq, tmp_path: Path, lossless: str, given: dict[str, Any], held: bool) -> None:
    if held:
        assert converted(awq.folder, tmp_path / "out", lossless=lossless, **given)["verified"]
        return
    with pytest.raises(NotPossible, match="--scale-dtype f32"):
        converted(awq.folder, tmp_path / "out", lossless=lossless, **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["f16", "f32", "bf16"])
def test_dense_folder_holds_the_truth(awq: Awq, tmp_path: Path, dtype: str) -> None:
    output = tmp_path / "out"
    converted(awq.folder, output, to="hf", scheme=dtype)
    found = stored(output)
    kind = {"f16": "<f2", "f32": "<f4", "bf16": ml_dtypes.bfloat16}[dtype]
    for name, digest in awq.hashes.items():
        codes, zeros, scales = awq.module(name)
        truth = ((codes - np.repeat(zeros, GROUP, axis=1)) * np.repeat(scales, GROUP, axis=1)).astype(np.float16)
        assert sha(truth) == digest
        assert np.array_equal(found[name].array(kind).astype(np.float32), truth.astype(kind).astype(np.float32)), name
    for name, values_of in awq.tensors.items():
        assert np.array_equal(found[name].array(kind), values_of.astype(kind)), name
    assert set(found) == {n for n in stored(awq.folder) if not n.endswith((".qweight", ".qzeros", ".scales"))} | set(
        awq.hashes
    )
    written = config(output)
    assert "quantization_config" not in written
    assert written["torch_dtype"] == {"f16": "float16", "f32": "float32", "bf16": "bfloat16"}[dtype]


def test_hf_without_a_scheme_copies_the_layout(awq: Awq, tmp_path: Path) -> None:
    output = tmp_path / "out"
    report = converted(awq.folder, output, to="hf")
    assert report["totals"]["routes"] == {"copy": 21}
    assert stored(output) == stored(awq.folder)
    assert config(output) == config(awq.folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (output / name).read_bytes() == (awq.folder / name).read_bytes()
    assert converted(awq.folder, tmp_path / "strict", to="hf", strict=True, fallback="none")["verified"]


@pytest.mark.parametrize("given", [{}, {"scheme": "q4_1"}], ids=["keep", "q4_1"])
def test_gguf_holds_the_same_codes(awq: Awq, tmp_path: Path, given: dict[str, Any]) -> None:
    """Q4_1's groups of 32 halve AWQ's of 64: scale, code and rounded minimum are those of MLX's parts."""
    output = tmp_path / "out.gguf"
    report = converted(awq.folder, output, **given)
    assert report["totals"]["routes"]["repack"] == 14
    types, raw = schemes(output), output.read_bytes()
    assert {types[gguf_name(name)] for name in awq.hashes} == {"q4_1"}
    for name in awq.hashes:
        blocks = q4_1_blocks(output, gguf_name(name), raw)
        codes, zeros, scales = (reordered(array, gguf_name(name)) for array in awq.module(name))
        assert np.array_equal(blocks["codes"], codes)
        assert np.array_equal(blocks["d"], np.repeat(scales, 2, axis=1).astype(np.float16))
        assert np.array_equal(blocks["m"], np.repeat((-zeros * scales).astype(np.float16), 2, axis=1))


def gguf_name(name: str) -> str:
    _, _, layer, module = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[module]}.weight"


def reordered(array: np.ndarray, name: str) -> np.ndarray:
    """Rows as llama.cpp's rotary embedding wants them: halves of a head interleaved."""
    heads = HEADS.get(name.split(".")[2])
    if heads is None:
        return array
    return array.reshape(heads, 2, -1, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)


def q4_1_blocks(path: Path, name: str, raw: bytes) -> dict[str, np.ndarray]:
    """d f16, m f16, 16 bytes: byte i holds value i low and value i + 16 high."""
    tensor = gguf.read(path).tensors[name]
    rows, columns = tensor.shape
    kind = np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)])
    blocks = np.frombuffer(raw, kind, rows * columns // 32, tensor.offset).reshape(rows, -1)
    codes = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=2).reshape(rows, columns)
    return {"d": blocks["d"], "m": blocks["m"], "codes": codes}


@pytest.mark.parametrize(("scheme", "name"), [("mxfp4", "out.gguf"), ("affine4-g128", "out"), ("mxfp4", "out")])
def test_another_grid_is_for_dense_weights_only(awq: Awq, tmp_path: Path, scheme: str, name: str) -> None:
    """The embedding and lm_head take it, AWQ's weights keep their codes."""
    report = converted(awq.folder, tmp_path / name, scheme=scheme)
    routes = {w["from"]["name"]: (w["route"], w["scheme"]) for w in report["weights"]}
    kept = "q4_1" if name.endswith(".gguf") else "affine4-g64"
    assert {routes[weight] for weight in awq.hashes} == {("repack", kept)}
    assert routes["model.embed_tokens.weight"] == ("quantize", scheme)
    assert routes["lm_head.weight"] == ("quantize", scheme)
