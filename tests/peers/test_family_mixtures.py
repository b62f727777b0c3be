"""`-s q4_k_m` of a checkpoint with rows of 256 is what llama-quantize makes of its bf16 GGUF, byte for byte.

A model of each family whose types test_published_mixtures.py compares, made small: four layers, four experts, noise.
"""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.arch_models import config_of
from tests.conversions import converted
from tests.convert.test_golden_arch import DATA, hashes, write_tensors
from tests.peers.pinned import peer
from tests.peers.published_sizes import PUBLISHED, Published, is_by_layer
from tests.peers.table_models import tensors
from tests.peers.test_llama_quantize import KEEP, LOG

library = peer("llama_cpp")

LAYERS, WIDTH = 4, 256
#: Settings under all their names, and what a model that has them has here.
SMALL: Mapping[str, Any] = {
    "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "head_dim": 64, "attention_head_dim": 64, "moe_intermediate_size": WIDTH, "shared_intermediate_size": WIDTH,
    "shared_expert_intermediate_size": WIDTH, "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4,
    "moe_num_experts": 4, "num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2, "n_group": 1, "topk_group": 1,
    "q_lora_rank": WIDTH, "kv_lora_rank": WIDTH, "qk_nope_head_dim": 64, "qk_rope_head_dim": 64, "qk_head_dim": 128,
    "v_head_dim": 64, "index_n_heads": 4, "index_head_dim": 64, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 64, "rotary_dim": 32,
    "first_k_dense_replace": 1, "num_dense_layers": 1, "moe_layer_start_index": 1, "moe_layer_end_index": LAYERS - 1,
    "num_attention_groups": 2, "moe_top_k": 2, "share_expert_dim": WIDTH, "swa_head_dim": 64, "swa_v_head_dim": 64,
    "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "moe_layers_enum": "1,2,3",
    "num_attention_heads_per_layer": [4, 8, 8, 8], "partial_rotary_factor": 0.5,
    "attention_other_setting": {"num_attention_heads": 8, "num_attention_groups": 2, "head_dim": 64},
}  # fmt: skip
#: What of a rope scaling has something for each pair of a head's rows, and what it is of heads of 64 rows.
PAIRS: Mapping[str, Any] = {"mrope_section": [8, 12, 12], "short_factor": [1.0] * 32, "long_factor": [1.0] * 32}
MODELS = [(family, name) for family, rows in PUBLISHED.items() for name in [*rows][:1]]


def kind_of(model: Published) -> str:
    """The model's tokenizer, a folder of tests/data/tokenizers/kinds."""
    found = model.tokenizer if model.case is None else reference_of(model.case)["tokenizer"]
    assert isinstance(found, str)
    return found


def reference_of(case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "arch" / case / "reference.json").read_text())
    return found


def vocabulary(model: Published, tokenizer: Path) -> int:
    """How many tokens there are, at most as many as the model's tokenizer has."""
    if model.case is not None:
        return int(config_of(model.case)["vocab_size"])
    stated = json.loads((tokenizer / "tokenizer.json").read_text())
    return len({*stated["model"]["vocab"], *(one["content"] for one in stated["added_tokens"])})


def smaller(settings: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """The settings of a small model of the same kind."""
    layers = settings["num_hidden_layers"]
    made = {key: value[:LAYERS] if is_by_layer(value, layers) else value for key, value in settings.items()}
    made = {key: SMALL.get(key, value) if value else value for key, value in made.items()}
    made["vocab_size"] = vocab_size
    if "num_key_value_heads" in settings:
        is_grouped = settings["num_key_value_heads"] != settings["num_attention_heads"]
        made["num_key_value_heads"] = 2 if is_grouped else SMALL["num_attention_heads"]
    if isinstance(scaling := made.get("rope_scaling"), dict):
        made["rope_scaling"] = {key: PAIRS.get(key, value) for key, value in scaling.items()}
    return made


def small_model(folder: Path, model: Published) -> None:
    """Write a checkpoint of the family."""
    folder.mkdir()
    tokenizer = DATA / "tokenizers" / "kinds" / kind_of(model)
    config, size = model.config, vocabulary(model, tokenizer)
    nested = config.get("text_config")
    config = smaller(config, size) if nested is None else {**config, "text_config": smaller(nested, size)}
    write_tensors(folder, {name: ["BF16", list(shape)] for name, shape in tensors(config, "hf").items()})
    (folder / "config.json").write_text(json.dumps(config))
    for file in tokenizer.glob("*.json"):
        shutil.copy(file, folder)


def quantized(source: Path, output: Path, ftype: int) -> None:
    """What llama-quantize makes of a GGUF file."""
    library.llama_log_set(KEEP, None)
    params = library.llama_model_quantize_default_params()
    params.ftype, params.nthread = ftype, 2
    LOG.clear()
    refused = library.llama_model_quantize(str(source).encode(), str(output).encode(), ctypes.byref(params))
    assert not refused, "".join(LOG)[-500:]


@pytest.mark.parametrize(("family", "name"), MODELS)
def test_bytes_are_llama_quantizes(tmp_path: Path, family: str, name: str) -> None:
    small_model(tmp_path / "model", PUBLISHED[family][name])
    converted(tmp_path / "model", tmp_path / "bf16.gguf", dtype="bf16")
    converted(tmp_path / "model", tmp_path / "ours.gguf", scheme="q4_k_m")
    quantized(tmp_path / "bf16.gguf", tmp_path / "theirs.gguf", 15)
    ours, theirs = hashes(tmp_path / "ours.gguf"), hashes(tmp_path / "theirs.gguf")
    assert ours == theirs and list(ours) == list(theirs)
    assert {"q4_k", "q6_k"} <= {scheme for scheme, _, _ in ours.values()}
