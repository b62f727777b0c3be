"""What transformers and mlx-lm read in a config.json rebuilt from GGUF: the same model as in its own."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.models import config_from_gguf
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
}  # fmt: skip
#: What GGUF does not say of a case; InternLM 3 and Mistral come back as the llama that they are there.
UNSAID = {
    "cohere": {"max_position_embeddings"},
    "falcon": {"max_position_embeddings"},
    "falcon_raw": {"max_position_embeddings", "num_kv_heads"},
    "falcon_mamba": {"mixer_rms_eps"},
    "internlm3": {"model_type", "rope_parameters"},
    "mistral": {"model_type", "sliding_window", "attention_bias", "mlp_bias"},
    "mistral_plain": {"model_type", "sliding_window", "attention_bias", "mlp_bias"},
    "mixtral_window": {"sliding_window"},
    "llama3_odd": {"rope_parameters"},
    "mimo_v2_flash_odd": {"layer_types", "mlp_layer_types"},  # the class does not read what a published config says
    "phimoe": {"rope_parameters"},
    "qwen2_window": {"sliding_window", "use_sliding_window", "layer_types"},
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


#: mlx-lm has no falcon, and no DeepSeek V2 without rope scaling.
UNKNOWN = ("falcon", "falcon_raw", "deepseek_v2_big")


@pytest.mark.parametrize("case", [case for case in CASES if case not in UNKNOWN])
def test_mlx_lm_reads_it(case: str) -> None:
    made = rebuilt(case)
    kind = mlx_lm.utils.MODEL_REMAPPING.get(made["model_type"], made["model_type"])
    model = importlib.import_module(f"mlx_lm.models.{kind}")
    assert model.Model(model.ModelArgs.from_dict(made)).layers
