"""Models that a runtime computes otherwise than transformers: with the same change transformers agrees.

The causes that the families' files state, each shown on reference data. Largest differences are of float32 logits over
the largest logit.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conversions import converted
from tests.peers.pinned import peer

torch = peer("torch")
transformers = peer("transformers")
peer("llama_cpp")
peer("mlx_lm")

from tests.peers.test_architectures import difference, in_mlx_lm  # noqa: E402
from tests.peers.test_llama_cpp import Runner  # noqa: E402

#: The order of sums differs, nothing else.
SAME = 1e-5


def prepared(shared: Path, work: Path, name: str) -> tuple[Path, list[int], np.ndarray]:
    """A case's folder with its tokenizer, the ids of its probe, and the logits of its reference."""
    case = shared / "fixtures" / "arch2" / name
    kind = json.loads((case / "case.json").read_text())["tokenizer"]
    source = work / name
    source.mkdir()
    for file in [case / "config.json", case / "model.safetensors"]:
        shutil.copy(file, source)
    for file in (shared / "fixtures" / "arch" / "_tokenizers" / kind).glob("*[!z]"):
        shutil.copy(file, source)
    probe = np.load(case / "logits.npz")
    return source, probe["input_ids"].reshape(-1).tolist(), probe["logits"].reshape(probe["input_ids"].size, -1)


def logits(source: Path, ids: list[int], change: Callable[[Any], None] = lambda model: None, **settings: Any) -> Any:
    """transformers' logits of a folder, with other settings, of a model that is changed."""
    config = transformers.AutoConfig.from_pretrained(str(source), **settings)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(source), config=config, dtype=torch.float32, attn_implementation="eager"
    )
    change(model.eval())
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def in_llama_cpp(source: Path, work: Path, ids: list[int]) -> np.ndarray:
    converted(source, work / "a.gguf", dtype="f32", check=False)
    return Runner(work / "a.gguf").logits(ids)


def to_root_mean_square(model: Any) -> None:
    """Every LayerNorm divides by the root mean square, and leaves the mean; attention has no factor of its own."""

    def forward(norm: Any) -> Callable[[Any], Any]:
        return lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.eps) * norm.weight + norm.bias

    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.forward = forward(module)
    model.config.rope_parameters["short_mscale"] = 1.0


def softmax_over_all(scores: Any, jitter_eps: float, training: bool, top_k: int = 2) -> tuple[Any, Any]:
    weights, chosen = torch.softmax(scores, -1).topk(top_k, -1)
    return weights / weights.sum(-1, keepdim=True), chosen


def to_long_factors(model: Any) -> None:
    model.config.rope_parameters["short_factor"] = model.config.rope_parameters["long_factor"]


def test_llama_cpp_runs_phimoe_with_the_graph_of_phi3(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, ids, wanted = prepared(shared, tmp_path, "phimoe")
    assert difference(logits(source, ids), wanted) < SAME
    found = in_llama_cpp(source, tmp_path, ids)
    assert difference(found, wanted) > 0.5
    module = transformers.models.phimoe.modeling_phimoe
    monkeypatch.setattr(module, "sparsemixer", softmax_over_all)
    assert difference(found, logits(source, ids, to_root_mean_square)) < SAME


def test_mlx_lm_takes_the_factors_of_long_texts_for_short_ones(shared: Path, tmp_path: Path) -> None:
    source, ids, wanted = prepared(shared, tmp_path, "phimoe")
    converted(source, tmp_path / "mlx", dtype="f32", check=False)
    found = in_mlx_lm(tmp_path / "mlx", ids)
    assert difference(found, wanted) > 0.5
    assert difference(found, logits(source, ids, to_long_factors)) < SAME


def test_transformers_does_not_read_a_published_mimo_config(shared: Path, tmp_path: Path) -> None:
    """Its reference is of another share of rotated elements and of windows with one more token."""
    source, ids, wanted = prepared(shared, tmp_path, "mimo_v2_flash")
    stated = json.loads((source / "config.json").read_text())
    assert difference(logits(source, ids), wanted) < SAME
    kinds = {"full_attention": "rope_theta", "sliding_attention": "swa_rope_theta"}
    share = stated["partial_rotary_factor"]
    parameters = {
        kind: {"rope_type": "default", "rope_theta": stated[key], "partial_rotary_factor": share}
        for kind, key in kinds.items()
    }
    meant = logits(source, ids, rope_parameters=parameters, sliding_window=stated["sliding_window_size"])
    converted(source, tmp_path / "mlx", dtype="f32", check=False)
    for found in (in_llama_cpp(source, tmp_path, ids), in_mlx_lm(tmp_path / "mlx", ids)):
        assert difference(found, wanted) > 0.5
        assert difference(found, meant) < SAME
