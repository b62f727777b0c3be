"""The olmo2 architecture (OLMo 2 and 3): norms after attention and MLP, and over all heads of q and of k.

Source: llama.cpp's conversion of Olmo2ForCausalLM and Olmo3ForCausalLM.
"""

from collections.abc import Mapping
from typing import Any

from quantcli.models.base import EVERY_KIND, Architecture
from quantcli.models.decoder import POST_NORMS, WHOLE_QK_NORMS, decoder
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import (
    HEAD_SIZES,
    LOCAL_FREQ_BASE,
    RMS_EPS,
    ROPE,
    SIZES,
    SLIDING_WINDOW,
    WINDOW_PATTERN,
    Key,
    Read,
    every_fourth_full,
    pattern_of_windows,
)
from quantcli.models.limits import square, unset
from quantcli.models.rope_settings import by_kind_of_layer, theta_of
from quantcli.models.sizes import ATTENTION_BIAS
from quantcli.models.stored import OMITTED, Setting, Stored, has, kinds_of_layers
from quantcli.tokenizers import conventions

#: olmo3's default rotary base for layers with a window, regardless of `rope_theta`.
THETA = 5e5


def _of_olmo3(key: Key, read: Read) -> Key:
    """Return a row for OLMo 3 only: OLMo 2's class ignores settings of windows."""

    def value(h: Hyperparameters) -> Any:
        return read(h) if h.settings.text("model_type", "") == "olmo3" else None

    return Key(key.name, key.type, value, key.back)


def _local_theta(h: Hyperparameters) -> float:
    """Return the rotary base of layers with a window: the one for this kind of layers, else the class's default."""
    return h.settings.part("rope_parameters").part("sliding_attention").number("rope_theta", THETA)


def _by_kind_of_layer(file: Stored) -> Any:
    """Return olmo3's `rope_parameters`, if its class would not derive them from `rope_theta` and `rope_scaling`."""
    theta = theta_of(file)
    local = file.number(LOCAL_FREQ_BASE.name) or theta
    if not file.own.has(SLIDING_WINDOW.name) or local == THETA:
        return OMITTED
    return by_kind_of_layer(file)


def _has_two_bases(config: Mapping[str, Any]) -> bool:
    """Return whether layers with a window have another rotary base; mlx-lm uses one base for all layers."""
    return bool(config.get("rope_local_base_freq", config["rope_theta"]) != config["rope_theta"])


OLMO2 = Architecture(
    name="olmo2",
    gguf="olmo2",
    model_types={
        "olmo2": {"rms_norm_eps": 1e-5, "max_position_embeddings": 2048},
        "olmo3": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "rope_theta": THETA,
            "rope_local_base_freq": THETA,
            "sliding_window": 4096,
            "layer_types": every_fourth_full,
        },
    },
    tensors=decoder(norms=POST_NORMS, qk_norm=True, bias=ATTENTION_BIAS, shapes=WHOLE_QK_NORMS),
    keys=(*SIZES, *ROPE, _of_olmo3(LOCAL_FREQ_BASE, _local_theta), RMS_EPS, *HEAD_SIZES),
    further=(_of_olmo3(SLIDING_WINDOW, lambda h: h.sliding_window), _of_olmo3(WINDOW_PATTERN, pattern_of_windows)),
    classes={"olmo2": "Olmo2ForCausalLM", "olmo3": "Olmo3ForCausalLM"},
    kind=lambda file: "olmo3" if file.own.has("attention.sliding_window") else "olmo2",
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("layer_types", kinds_of_layers),
        Setting("rope_parameters", _by_kind_of_layer),
    ),
    vocabulary=conventions.OLMO,
    stores_head=("gguf",),
    limits=(*square("gguf"), *unset("gguf", "attention_bias")),
    mlx_scaling=EVERY_KIND,
    mlx_unread={LOCAL_FREQ_BASE.name: _has_two_bases},
    mlx_ties=("olmo2",),
)
