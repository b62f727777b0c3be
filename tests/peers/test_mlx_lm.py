"""mlx-lm loads our MLX folders and generates what it should: the source's text, or that of its own conversion."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conversions import converted
from tests.peers.pinned import DEMO, MODELS, peer

mlx_lm = peer("mlx_lm")

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_map  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

#: Largest difference of float32 logits over the largest logit, where both sides compute the same.
SAME = 2e-5


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> None:
    mx.set_default_device(mx.cpu)


def wide(model: Any) -> Any:
    """The model with every floating-point parameter in float32."""
    model.update(
        tree_map(lambda p: p.astype(mx.float32) if mx.issubdtype(p.dtype, mx.floating) else p, model.parameters())
    )
    return model


def logits(model: Any, ids: list[int]) -> np.ndarray:
    return np.array(model(mx.array([ids]))[0].astype(mx.float32))


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    """The next `count` tokens, each the best of a whole forward pass."""
    found = list(ids)
    for _ in range(count):
        found.append(int(mx.argmax(model(mx.array([found]))[0, -1])))
    return found[len(ids) :]


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("dtype", [None, "f32", "f16"])
@pytest.mark.parametrize("name", MODELS)
def test_dense_conversion_generates_the_source_text(shared: Path, tmp_path: Path, name: str, dtype: str | None) -> None:
    folder = shared / "fixtures" / "models" / name
    converted(folder, tmp_path / "out", dtype=dtype)
    model, tokenizer = mlx_lm.load(str(tmp_path / "out"))
    expected = json.loads((folder / "expected_generation.json").read_text())
    assert tokenizer.encode(expected["prompt"]) == expected["prompt_ids"]
    assert greedy(wide(model), expected["prompt_ids"], 40) == expected["new_ids"][:40]
    probe = np.load(folder / "probe_logits.npz")
    difference = apart(logits(model, probe["input_ids"].tolist()), probe["logits"])
    print(f"largest logit difference {difference:.2g}")
    assert difference < (SAME if dtype != "f16" else 1e-3)


QUANTIZED = {
    "affine4-g64": {"q_bits": 4, "q_group_size": 64},
    "affine8-g32": {"q_bits": 8, "q_group_size": 32},
    "affine3-g64": {"q_bits": 3, "q_group_size": 64},
    "mxfp4": {"q_mode": "mxfp4", "q_group_size": 32, "q_bits": 4},
    "nvfp4": {"q_mode": "nvfp4", "q_group_size": 16, "q_bits": 4},
    "mixed_3_6": {"quant_predicate": "mixed_3_6", "q_group_size": 64, "q_bits": 4},
}


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_quantized_generates_as_mlx_lms_own(tmp_path: Path, scheme: str) -> None:
    """The same logits to the last bit, hence the same text."""
    converted(DEMO, tmp_path / "ours", scheme=scheme)
    mlx_lm.convert(str(DEMO), str(tmp_path / "theirs"), quantize=True, **QUANTIZED[scheme])
    ours, tokenizer = mlx_lm.load(str(tmp_path / "ours"))
    theirs, _ = mlx_lm.load(str(tmp_path / "theirs"))
    ids = tokenizer.encode("My dear Mr. Bennet, have you heard")
    assert np.array_equal(logits(ours, ids), logits(theirs, ids))
    texts = [mlx_lm.generate(model, tokenizer, "My dear", max_tokens=40) for model in (ours, theirs)]
    assert texts[0] == texts[1] and len(texts[0]) > 20


def test_overrides_load(tmp_path: Path) -> None:
    """Other bits, other modes and a dense layer in one folder; mlx-lm gives each layer its own."""
    overrides = ("*.down_proj=affine8-g32", "*.layers.1.self_attn.*=mxfp4", "*.layers.2.mlp.up_proj=bf16")
    converted(DEMO, tmp_path / "out", scheme="affine4-g64", overrides=overrides)
    model, _ = mlx_lm.load(str(tmp_path / "out"))
    layers = model.model.layers
    assert (layers[0].mlp.down_proj.bits, layers[0].mlp.down_proj.group_size) == (8, 32)
    assert (layers[1].self_attn.q_proj.mode, layers[0].self_attn.q_proj.mode) == ("mxfp4", "affine")
    assert not hasattr(layers[2].mlp.up_proj, "bits")
    dense, _ = mlx_lm.load(str(DEMO))
    ids = list(range(1, 33))
    assert apart(logits(wide(model), ids), logits(wide(dense), ids)) < 0.2


@pytest.mark.parametrize("spelling", ["config.json", "config-v5.json"])
@pytest.mark.parametrize(
    "case", ["llama", "qwen2", "qwen3", "mistral", "llama_llama3rope", "llama_linear", "llama_yarn"]
)
def test_logits_of_each_architecture(shared: Path, tmp_path: Path, case: str, spelling: str) -> None:
    """In both spellings of config.json: mlx-lm itself misses the rope settings of transformers 5."""
    folder = shared / "fixtures" / "arch" / case
    (tmp_path / "source").mkdir()
    shutil.copyfile(folder / spelling, tmp_path / "source" / "config.json")
    shutil.copyfile(folder / "model.safetensors", tmp_path / "source" / "model.safetensors")
    converted(tmp_path / "source", tmp_path / "out", dtype="f32")
    model, _ = load_model(tmp_path / "out")
    probe = np.load(folder / "logits.npz")
    difference = apart(logits(model, probe["input_ids"].tolist()), probe["logits"])
    print(f"largest logit difference {difference:.2g}")
    assert difference < SAME


@pytest.fixture(scope="module")
def awq(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AutoAWQ's own checkpoint, with the tokenizer that its folder leaves out."""
    folder = tmp_path_factory.mktemp("awq") / "micro-awq"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copyfile(shared / "fixtures" / "quantized" / "autoawq-gemm-g64" / name, folder / name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(shared / "fixtures" / "models" / "micro-llama" / name, folder / name)
    return folder


def test_awq(shared: Path, awq: Path, tmp_path: Path) -> None:
    """With `--dtype f32` its logits are the dense conversion's within 1%; by default (f16 scales) it runs too."""
    ids = np.load(shared / "fixtures" / "models" / "micro-llama" / "probe_logits.npz")["input_ids"].tolist()
    assert len(ids) == 32
    converted(awq, tmp_path / "codes", dtype="f32")
    converted(awq, tmp_path / "dense", scheme="f32")
    codes, _ = mlx_lm.load(str(tmp_path / "codes"))
    dense, _ = mlx_lm.load(str(tmp_path / "dense"))
    assert hasattr(codes.model.layers[0].mlp.up_proj, "bits") and not hasattr(dense.model.layers[0].mlp.up_proj, "bits")
    difference = apart(logits(codes, ids), logits(dense, ids))
    print(f"largest logit difference {difference:.2g}")
    assert difference <= 0.01
    converted(awq, tmp_path / "default")
    model, tokenizer = mlx_lm.load(str(tmp_path / "default"))
    assert apart(logits(model, ids), logits(dense, ids)) < 0.02
    assert len(mlx_lm.generate(model, tokenizer, "It was a fine morning", max_tokens=20)) > 20
