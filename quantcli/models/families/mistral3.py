"""The mistral3 architecture: Ministral 3, and Mistral's layers in Mistral Small 3.1 and 3.2, Magistral and Devstral.

Ministral 3 has YaRN, and scales queries beyond the original context. Source: llama.cpp's conversion of
Mistral3ForConditionalGeneration and Ministral3ForCausalLM; transformers' Ministral3Config.
"""

from dataclasses import replace
from typing import Any

from quantcli.models.families.llama import LLAMA
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import Key
from quantcli.models.multimodal import Multimodal
from quantcli.models.rope_settings import rope_scaling, theta_of
from quantcli.models.stored import OMITTED, Setting, Stored

BETA, TEMPERATURE = "llama_4_scaling_beta", "attention.temperature_scale"


def _of_ministral(key: str, h: Hyperparameters) -> float | None:
    """Return a rope setting of Ministral 3; None for other models, whose settings are not written."""
    if h.settings.values.get("model_type") != "ministral3":
        return None
    name = "rope_scaling" if h.settings.values.get("rope_scaling") else "rope_parameters"
    return h.settings.part(name).optional_number(key)


def _is_ministral(file: Stored) -> bool:
    return file.number(TEMPERATURE) is not None


def _rope_parameters(file: Stored) -> Any:
    """Return `rope_parameters`, which Ministral 3's class and mlx-lm read instead of `rope_scaling`."""
    if not _is_ministral(file):
        return OMITTED
    return {**(rope_scaling(file) or {}), "rope_theta": theta_of(file), BETA: file.number(TEMPERATURE)}


MISTRAL3 = replace(
    LLAMA,
    name="mistral3",
    gguf="mistral3",
    model_types={
        "mistral": LLAMA.model_types["mistral"],
        "ministral3": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 262144,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
    },
    further=(
        *LLAMA.further,
        Key("rope.scaling.yarn_log_multiplier", "float32", lambda h: _of_ministral("mscale_all_dim", h)),
        Key(TEMPERATURE, "float32", lambda h: _of_ministral(BETA, h)),
    ),
    classes={"mistral": "MistralForCausalLM", "ministral3": "Ministral3ForCausalLM"},
    kind=lambda file: "ministral3" if _is_ministral(file) else "mistral",
    aliases=(),
    limits=(),
    settings=(
        *LLAMA.settings,
        # The default of Mistral's class is a window of 4096.
        Setting("sliding_window", None),
        Setting("rope_parameters", _rope_parameters),
        Setting("rope_scaling", lambda file: OMITTED if _is_ministral(file) else rope_scaling(file)),
    ),
    multimodal=(
        Multimodal(
            "mistral3",
            "Mistral3ForConditionalGeneration",
            "mistral",
            mlx="language_model.",
            mlx_vlm={"vision_tower.vision_model.": "vision_tower."},
        ),
    ),
    gguf_yarn=("beta_fast", "beta_slow"),
    mlx_ties=("mistral", "ministral3"),
    mlx_keys=("model_type", "rms_norm_eps", "num_key_value_heads", "head_dim", "max_position_embeddings"),
)
