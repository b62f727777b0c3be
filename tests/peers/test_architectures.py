"""Tiny models of every family to GGUF and from there to folders: transformers and mlx-lm compute what they did before.

Largest differences are of float32 logits, over the largest logit of the source in transformers.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.models import find
from tests.conversions import config, converted, stored
from tests.peers.pinned import peer

torch = peer("torch")
transformers = peer("transformers")
mlx_lm = peer("mlx_lm")

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_map  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

CASES = (
    "cohere2", "deepseek_v2", "deepseek_v2_lite", "deepseek_v3", "ernie4_5", "falcon", "gemma", "gemma2", "gemma3_text",
    "glm4_moe", "gpt_neox", "gpt_oss", "gpt_oss_mxfp4", "granite", "internlm3", "llama", "llama_linear",
    "llama_llama3rope", "llama_yarn", "mamba", "mistral", "mixtral", "nemotron", "olmo2", "olmo3", "phi3", "qwen2",
    "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "starcoder2",
)  # fmt: skip
IN_MLX_LM = [case for case in CASES if case != "falcon"]
#: Logits of transformers on a folder that came back from GGUF: only the order of its own sums differs.
SAME = 2e-6
#: What mlx-lm computes otherwise than transformers, where its own conversion of the case shows no figure.
MLX_APART = {"gpt_oss": 2.5e-3}
TEXT = "Hello, naïve wörld 東京 12345\n\n  def f(x):"


@dataclass(frozen=True)
class Case:
    """A model with its tokenizer, a folder for what is made of it, and transformers' logits."""

    source: Path
    work: Path
    ids: list[int]
    logits: np.ndarray
    mlx_apart: float


def prepared(shared: Path, work: Path, name: str) -> Case:
    arch = shared / "fixtures" / "arch"
    source = work / name
    source.mkdir()
    kind = json.loads((arch / name / "case.json").read_text())["tokenizer"]
    files = [arch / name / file for file in ("config.json", "generation_config.json", "model.safetensors")]
    for file in [*files, *(arch / "_tokenizers" / kind).glob("*[!z]")]:
        if file.is_file():
            shutil.copy(file, source)
    probe = np.load(arch / name / "logits.npz")
    found = json.loads((arch / name / "mlx_lm.json").read_text()).get("logits") or {}
    apart = MLX_APART.get(name, found.get("max_rel_error", 0.0)) * 1.1 + SAME
    return Case(source, work, probe["input_ids"].tolist(), probe["logits"], apart)


@pytest.fixture(autouse=True)
def on_the_cpu() -> None:
    mx.set_default_device(mx.cpu)
    torch.set_num_threads(1)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    found = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    print(f"largest logit difference {found:.2g}")
    return found


def in_transformers(folder: Path, ids: list[int]) -> np.ndarray:
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "mismatched_keys"))
    with torch.no_grad():
        found: np.ndarray = model.eval().float()(torch.tensor([ids])).logits[0].numpy()
    return found


def wide(model: Any) -> Any:
    """The model with every floating-point parameter in float32: MLX's CPU back end has no experts in fewer bits."""
    model.update(
        tree_map(lambda p: p.astype(mx.float32) if mx.issubdtype(p.dtype, mx.floating) else p, model.parameters())
    )
    return model


def in_mlx_lm(folder: Path, ids: list[int]) -> np.ndarray:
    model, _ = load_model(folder)
    return np.array(wide(model)(mx.array([ids]))[0])


def same_tokens(folder: Path, source: Path) -> None:
    ours, theirs = (transformers.AutoTokenizer.from_pretrained(str(path)) for path in (folder, source))
    assert ours.encode(TEXT) == theirs.encode(TEXT)


@pytest.mark.parametrize("name", CASES)
def test_gguf_to_hf_is_the_source_in_transformers(shared: Path, tmp_path: Path, name: str) -> None:
    """Every tensor is there bit for bit, but those that GGUF has no place for; the report names these."""
    case = prepared(shared, tmp_path, name)
    report = converted(case.source, tmp_path / "model.gguf", dtype="bf16")
    converted(tmp_path / "model.gguf", tmp_path / "hf", to="hf")
    before = stored(case.source)
    dropped = json.loads((shared / "fixtures" / "arch" / name / "transforms.json").read_text())
    gone = set(dropped.get("gguf_dropped_sources", ()))
    assert {tensor["name"] for tensor in report["left_out"]} == gone
    assert stored(tmp_path / "hf") == {name: tensor for name, tensor in before.items() if name not in gone}
    assert difference(in_transformers(tmp_path / "hf", case.ids), case.logits) < SAME
    same_tokens(tmp_path / "hf", case.source)


@pytest.mark.parametrize("name", IN_MLX_LM)
def test_to_mlx_by_either_way(shared: Path, tmp_path: Path, name: str) -> None:
    """mlx-lm computes what it computes with its own conversion, by way of GGUF and from either spelling of config."""
    case = prepared(shared, tmp_path, name)
    converted(case.source, tmp_path / "model.gguf", dtype="bf16")
    converted(tmp_path / "model.gguf", tmp_path / "from-gguf")
    converted(case.source, tmp_path / "direct")
    shutil.copy(shared / "fixtures" / "arch" / name / "config-v5.json", case.source / "config.json")
    converted(case.source, tmp_path / "direct-v5")
    assert stored(tmp_path / "from-gguf") == stored(tmp_path / "direct") == stored(tmp_path / "direct-v5")
    for folder in ("from-gguf", "direct", "direct-v5"):
        assert difference(in_mlx_lm(tmp_path / folder, case.ids), case.logits) < case.mlx_apart
    same_tokens(tmp_path / "from-gguf", case.source)


@pytest.mark.parametrize("scheme", ["q4_0", "q8_0", "q4_k_m"])
@pytest.mark.parametrize("name", IN_MLX_LM)
def test_quantized_gguf_to_mlx(shared: Path, tmp_path: Path, name: str, scheme: str) -> None:
    """mlx-lm generates from it; its logits are those of the GGUF's values, but for types that MLX does not have."""
    case = prepared(shared, tmp_path, name)
    converted(case.source, tmp_path / "model.gguf", scheme=scheme, allow_requantize=True)
    report = converted(tmp_path / "model.gguf", tmp_path / "mlx", scale_dtype="f32")
    converted(tmp_path / "model.gguf", tmp_path / "dense", scheme="f32")
    assert "quantization" in config(tmp_path / "mlx")
    lossy = [weight["name"] for weight in report["weights"] if weight["grade"] == "lossy"]
    found = difference(in_mlx_lm(tmp_path / "mlx", case.ids), in_mlx_lm(tmp_path / "dense", case.ids))
    # What has no place in MLX is decoded: to float16, or to bfloat16 where the family needs it, with 3 bits less.
    architecture = find(config(case.source))
    works = architecture is not None and architecture.sixteen_bits.works("f16", "mlx")
    assert found < ((0.1 if works else 0.2) if lossy else 1e-3)
    model, tokenizer = mlx_lm.load(str(tmp_path / "mlx"))
    known = len(tokenizer.get_vocab())  # noise also speaks tokens that fill up the vocabulary
    never = mx.array([float(number in tokenizer.eos_token_ids) for number in range(known)]) * 1e9  # noise ends at once
    assert mlx_lm.generate(
        wide(model), tokenizer, "Hello", max_tokens=4,
        sampler=lambda scores: mx.argmax(scores[..., :known] - never, axis=-1),
    )  # fmt: skip
