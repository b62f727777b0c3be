"""What transformers and mlx-lm read in a config.json rebuilt from GGUF: the same model as in its own."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.convert.inspecting.architectures import families
from quantcli.models import FAMILIES, config_from_gguf, mlx_keys
from tests.peers.pinned import peer

transformers = peer("transformers")
mlx_lm = peer("mlx_lm")

DATA = Path(__file__).resolve().parent.parent / "data" / "arch"
CASES = sorted(path.name for path in DATA.iterdir())

#: Keys of files and of tokenizers, not of models, and those that no class reads.
ASIDE = {
    "bos_token_id", "eos_token_id",
    "_name_or_path", "architectures", "transformers_version", "quantization_config", "dtype", "hidden_act",
    "hidden_activation",
    "layer_switch", "order_of_interleaved_layers", "position_embedding_type", "use_embedding_sharing",
    "use_gated_activation", "use_parallel_block", "use_parallel_embedding", "aux_loss_alpha", "ep_size", "seq_aux",
    "moe_layer_freq", "model_max_length", "pad_token_id", "pretraining_tp", "head_dim", "num_nextn_predict_layers",
    "sliding_window_pattern", "max_window_layers",
    "attention_head_dim", "attn_output_gate", "cla_share_factor", "full_attention_interval", "load_balance_coeff",
    "mamba_ssm_dtype", "moe_capacity", "moe_layer_num_skipped", "moe_router_enable_expert_bias",
    "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "num_mtp_modules", "qk_norm_type", "scoring_func",
    "topk_method", "use_cla", "use_mixed_mlp_moe",
}  # fmt: skip
#: Of text models in models with towers: GGUF has the text model alone, and a head or none in place of a flag.
NESTED = {"model_type", "rope_parameters", "tie_word_embeddings", "use_sliding_window", "layer_types"}
#: mscale, which counts together with mscale_all_dim only.
YARN = {"rope_parameters"}
#: llama.cpp's converter states the context of 256K that the scaling reaches, in which yarn's settings have no part.
HUNYUAN = {"max_position_embeddings", "rope_parameters"}
#: What GGUF does not say of a case; InternLM 3 and Mistral come back as the llama that they are there.
UNSAID = {
    "arcee": YARN,
    "arcee_tied": YARN,
    "cohere": {"max_position_embeddings"},
    "falcon": {"max_position_embeddings"},
    "falcon_raw": {"max_position_embeddings", "num_kv_heads"},
    "falcon_mamba": {"mixer_rms_eps"},
    "glm4v": NESTED,
    "hunyuan_dense": HUNYUAN,
    "hunyuan_dense_biased": HUNYUAN,
    "hunyuan_moe": HUNYUAN,
    "hunyuan_moe_tied": HUNYUAN,
    "hy_v3": {"first_k_dense_replace"},  # mlp_layer_types says it
    "hy_v3_tied": {"first_k_dense_replace"},
    "internlm3": {"model_type", "rope_parameters"},
    "minimax_m2": {"shared_intermediate_size"},  # transformers' class has no shared experts
    "minimax_m2_deep": {"shared_intermediate_size"},
    "ministral3": {"attention_bias", "mlp_bias"},
    "mistral3": {"attention_bias", "mlp_bias"},
    "mistral3_ministral3": {"attention_bias", "mlp_bias"},
    "mistral": {"model_type", "sliding_window", "attention_bias", "mlp_bias"},
    "mistral_plain": {"model_type", "sliding_window", "attention_bias", "mlp_bias"},
    "mixtral_window": {"sliding_window"},
    "llama3_odd": {"rope_parameters"},
    "mimo_v2_flash_odd": {"layer_types", "mlp_layer_types"},  # the class does not read what a published config says
    "phimoe": {"rope_parameters"},
    "qwen2_5_vl": NESTED,
    "qwen2_vl": NESTED,
    "qwen2_window": {"sliding_window", "use_sliding_window", "layer_types"},
    "qwen3_vl": NESTED,
    "qwen3_vl_biased": NESTED,
    "qwen3_vl_moe": NESTED,
    "qwen3_vl_moe_tied": NESTED,
    "starcoder2": {"sliding_window"},
}


def rebuilt(case: str) -> dict[str, Any]:
    stored = json.loads((DATA / case / "reference.json").read_text())
    metadata = {key: value for key, (_, value) in stored["metadata"].items()}
    shapes = {name: tuple(shape) for name, (_, shape) in stored["tensors"].items()}
    return config_from_gguf(metadata, shapes, stored["values"].__getitem__, "bf16")


def narrow(value: Any) -> Any:
    """A setting with float32's numbers, and scaling under one name."""
    if isinstance(value, dict):
        return {key: narrow(v) for key, v in value.items() if key != "type"}
    return float(np.float32(value)) if isinstance(value, float) else value


def is_known(case: str) -> bool:
    """Whether transformers has a class for a case."""
    config = json.loads((DATA / case / "config.json").read_text())
    return config["model_type"] in transformers.CONFIG_MAPPING


@pytest.mark.parametrize("case", [case for case in CASES if is_known(case)])
def test_transformers_reads_the_same_model(case: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(rebuilt(case)))
    ours, theirs = (
        transformers.AutoConfig.from_pretrained(str(folder)).get_text_config().to_dict()
        for folder in (tmp_path, DATA / case)
    )
    keys = {*ours, *theirs} - ASIDE - UNSAID.get(case, set())
    apart = {key: (ours.get(key), theirs.get(key)) for key in keys if narrow(ours.get(key)) != narrow(theirs.get(key))}
    assert not apart


#: mlx-lm has no DeepSeek V2 without rope scaling, and its olmo asks for another package.
UNKNOWN = ("deepseek_v2_big", "olmo", "olmo_tied")
#: Model types that mlx-lm loads by themselves (tests/peers/test_limits.py holds them to it).
IN_MLX = {kind for family in families() for kind in family.mlx} - {
    one.model_type for family in FAMILIES for one in family.multimodal
}


@pytest.mark.parametrize("case", [one for one in CASES if one not in UNKNOWN and rebuilt(one)["model_type"] in IN_MLX])
def test_mlx_lm_reads_it(case: str) -> None:
    made = {**rebuilt(case), **mlx_keys(rebuilt(case))}
    kind = mlx_lm.utils.MODEL_REMAPPING.get(made["model_type"], made["model_type"])
    model = importlib.import_module(f"mlx_lm.models.{kind}")
    assert model.Model(model.ModelArgs.from_dict(made)).layers
