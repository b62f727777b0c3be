"""GGUF files of other layouts: a folder made of one computes what llama.cpp computes of the file, in float32.

Differences are over the largest logit.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conversions import converted, stored
from tests.convert.test_gguf_layouts import EXPERTS, FUSED_QKV, QKV, before_latent_attention
from tests.gguf_files import experts_apart, load, rewritten, split_rows
from tests.peers.pinned import peer

peer("llama_cpp")
peer("torch")

from tests.peers.test_architectures import IN_MLX_LM, Case, difference, in_mlx_lm, in_transformers, prepared  # noqa: E402
from tests.peers.test_llama_cpp import Runner  # noqa: E402

#: Of the cases of the shared folder.
QKV_CASES = sorted({*FUSED_QKV, "internlm3", "llama_llama3rope", "mistral", "olmo3"} & set(IN_MLX_LM))
SAME = 1e-4


def same_logits(file: Path, tmp_path: Path, ids: list[int], apart: float = 0.0, mlx_apart: float = 0.0) -> None:
    """apart, mlx_apart: how far llama.cpp and mlx-lm are from transformers on a file of the usual layout."""
    theirs = Runner(file).logits(ids)
    converted(file, tmp_path / "hf", to="hf", dtype="f32")
    assert difference(in_transformers(tmp_path / "hf", ids), theirs) < max(SAME, 1.1 * apart)
    converted(file, tmp_path / "mlx", dtype="f32")
    assert difference(in_mlx_lm(tmp_path / "mlx", ids), theirs) < max(SAME, 1.1 * (apart + mlx_apart))


def known(shared: Path, case: Case) -> tuple[list[int], float, float]:
    """A case's ids, and how far apart llama.cpp and mlx-lm are on its usual files; most are below 1e-4."""
    found = json.loads((shared / "fixtures" / "arch" / case.source.name / "llama_cpp_error.json").read_text())
    return case.ids, found["f32"]["max_rel_error"], case.mlx_apart


@pytest.mark.parametrize("name", QKV_CASES)
def test_fused_q_k_and_v(shared: Path, tmp_path: Path, name: str) -> None:
    case = prepared(shared, tmp_path, name)
    converted(case.source, tmp_path / "plain.gguf", scheme="f32")
    file = rewritten(tmp_path / "plain.gguf", tmp_path / "fused.gguf", QKV)
    assert "blk.0.attn_qkv.weight" in load(file)[1]
    same_logits(file, tmp_path, *known(shared, case))


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3"])
def test_fused_experts(shared: Path, tmp_path: Path, name: str) -> None:
    """Of the families here, this version of llama.cpp loads DeepSeek's so."""
    case = prepared(shared, tmp_path, name)
    converted(case.source, tmp_path / "plain.gguf", scheme="f32")
    same_logits(rewritten(tmp_path / "plain.gguf", tmp_path / "fused.gguf", EXPERTS), tmp_path, *known(shared, case))


def test_phi3_with_q_k_and_v_apart(shared: Path, tmp_path: Path) -> None:
    case = prepared(shared, tmp_path, "phi3")
    converted(case.source, tmp_path / "plain.gguf", scheme="f32")
    sizes = {key: load(tmp_path / "plain.gguf")[0][f"phi3.{key}"][1] for key in (
        "embedding_length", "attention.head_count", "attention.head_count_kv")}  # fmt: skip
    hidden, heads, groups = sizes.values()
    rows = {"attn_q": hidden, "attn_k": hidden // heads * groups, "attn_v": hidden // heads * groups}
    file = rewritten(tmp_path / "plain.gguf", tmp_path / "apart.gguf", split_rows("attn_qkv", rows))
    same_logits(file, tmp_path, *known(shared, case))


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3"])
def test_deepseek_with_kv_b(shared: Path, tmp_path: Path, name: str) -> None:
    case = prepared(shared, tmp_path, name)
    converted(case.source, tmp_path / "plain.gguf", scheme="f32")
    same_logits(before_latent_attention(tmp_path / "plain.gguf", tmp_path / "old.gguf"), tmp_path, *known(shared, case))


def test_mixtral_with_one_tensor_an_expert(shared: Path, tmp_path: Path) -> None:
    """This version of llama.cpp loads stacked experts only: both files give one folder, which computes what it does."""
    case = prepared(shared, tmp_path, "mixtral")
    converted(case.source, tmp_path / "plain.gguf", scheme="f32")
    converted(rewritten(tmp_path / "plain.gguf", tmp_path / "old.gguf", experts_apart), tmp_path / "old", to="hf")
    same_logits(tmp_path / "plain.gguf", tmp_path, *known(shared, case))
    assert stored(tmp_path / "old") == stored(tmp_path / "hf")


def test_glm4_with_mrope(shared: Path, tmp_path: Path) -> None:
    file = shared / "field" / "gguf" / "glm4-with-mrope.gguf"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    ids = np.random.default_rng(5).integers(0, 360, 24).tolist()
    same_logits(file, tmp_path, ids)


def test_glm4v_as_its_text_folder(shared: Path, tmp_path: Path) -> None:
    """The other way: a text folder with M-RoPE's sections becomes a file whose rows llama.cpp rotates as halves."""
    file = shared / "field" / "gguf" / "glm4-with-mrope.gguf"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    converted(file, tmp_path / "hf", to="hf")
    converted(tmp_path / "hf", tmp_path / "again.gguf", scheme="f32")
    ids = np.random.default_rng(6).integers(0, 360, 24).tolist()
    assert difference(Runner(tmp_path / "again.gguf").logits(ids), Runner(file).logits(ids)) == 0


@pytest.mark.parametrize(
    ("name", "layers"), [("glm4_moe", "3"), ("glm4_moe", "0"), ("deepseek_v3", "0"), ("llama", "1")]
)
def test_pruned_files(shared: Path, tmp_path: Path, name: str, layers: str) -> None:
    """llama.cpp loads a pruned file and computes what the folder made of it computes."""
    case = prepared(shared, tmp_path, name)
    converted(case.source, tmp_path / "plain.gguf", scheme="f32")
    converted(tmp_path / "plain.gguf", tmp_path / "pruned.gguf", prune_layers=layers)
    same_logits(tmp_path / "pruned.gguf", tmp_path, *known(shared, case))
