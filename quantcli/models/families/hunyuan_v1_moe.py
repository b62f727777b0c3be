"""The hunyuan_v1_moe architecture (Hunyuan A13B): hunyuan_v1_dense with routed experts and a shared one in every layer.

config.json has lists with a value per layer of which GGUF has one value. The model type is `hunyuan` in the code with
which A13B was released, and in MLX folders converted from it; both types are read. mlx-lm supports only `hunyuan`, and
computes other values: it does not divide the weights of the selected experts by their sum, as that code, transformers
and llama.cpp do, and no setting changes that. So both types have a limit for MLX. Hunyuan Large is a `hunyuan` too
(HunYuanForCausalLM: q, k and v in one matrix, layers that share k and v); llama.cpp does not support it. Source:
llama.cpp's conversion of HunYuanMoEV1ForCausalLM; mlx-lm's hunyuan; github.com/Tencent-Hunyuan/Hunyuan-A13B (`models`).
"""

from collections.abc import Mapping
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.errors import NotPossible
from quantcli.models.base import Architecture
from quantcli.models.decoder import EXPERTS, attention, ends, experts, rows, shared_experts
from quantcli.models.families.hunyuan_v1_dense import EXPECTS, HARMLESS, NORMS, SCALED_SIZES, SCALING, SETTINGS
from quantcli.models.families.hy_v3 import SHARED
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import GATING, HEAD_SIZES, RMS_EPS, Key, Read, expert_keys
from quantcli.models.limits import MISCOMPUTED, Limit, unknown_to_mlx, unset
from quantcli.models.sizes import ATTENTION_BIAS, HIDDEN, INNER, N_EXPERTS
from quantcli.models.stored import Setting, Stored
from quantcli.tokenizers import conventions

#: The model type in transformers, and in the code with which A13B was released.
KIND, OWN = "hunyuan_v1_moe", "hunyuan"
CLASS = "HunYuanMoEV1ForCausalLM"

#: Key of config.json with a number per layer -> key of GGUF.
EACH = {
    "moe_intermediate_size": "expert_feed_forward_length",
    "moe_topk": "expert_used_count",
    "num_shared_expert": "expert_shared_count",
}


def _one(key: str) -> Read:
    """Return a function that reads the number that all layers have, and raises `NotPossible` if layers differ."""

    def read(h: Hyperparameters) -> int:
        values = set(h.settings.integers(key)) if isinstance(h.settings.values.get(key), list) else set()
        if len(values) > 1:
            raise NotPossible(f"{h.settings.label}: {key} differs among layers, but GGUF has one value for all layers.")
        return values.pop() if values else h.settings.integer(key)

    return read


def _each(key: str, *, also_one: bool = False) -> Setting:
    """Return the setting that repeats a file's number for each layer. also_one: a single number is accepted too."""

    def value(file: Stored) -> Any:
        number = file.integer(EACH[key], 1)
        numbers = [number] * file.trunk
        return (numbers, number) if also_one else numbers

    return Setting(key, value)


def _topk(h: Hyperparameters) -> Any:
    """Return the number of experts per token. Raises `NotPossible` for a single number in a `hunyuan` model."""
    stated = h.settings.values.get("moe_topk")
    if h.settings.values.get("model_type") == OWN and not isinstance(stated, list):
        raise NotPossible(
            f"{h.settings.label}: moe_topk: expected a list, found {shown(stated)}. With a number, {OWN} models do "
            "not normalize the weights of experts, but llama.cpp does."
        )
    return _one("moe_topk")(h)


DEFAULTS: Mapping[str, Any] = {
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
    "num_experts": 1,
    "moe_topk": 1,
    "num_shared_expert": 1,
    "moe_intermediate_size": lambda config: config.integer("intermediate_size"),
}
READS: Mapping[str, Read] = {key: _topk if key == "moe_topk" else _one(key) for key in EACH}

HUNYUAN_V1_MOE = Architecture(
    name=KIND,
    gguf="hunyuan-moe",
    model_types={
        KIND: {**DEFAULTS, "use_qk_norm": True},
        OWN: {**DEFAULTS, "use_qk_norm": False, "use_mixed_mlp_moe": False},
    },
    tensors=(
        *ends(),
        *NORMS,
        *attention(bias=ATTENTION_BIAS),
        *rows({"mlp.gate.wg": "ffn_gate_inp"}, shapes={"mlp.gate.wg": (N_EXPERTS, HIDDEN)}),
        *rows(SHARED, shapes=shared_experts("mlp.shared_mlp", INNER)),
        *experts(EXPERTS, width=INNER),
    ),
    keys=(*SCALED_SIZES, RMS_EPS, expert_keys("num_experts")[0], *HEAD_SIZES),
    further=(
        Key("expert_shared_feed_forward_length", "uint32", lambda h: h.feed_forward_length),
        *(Key(gguf, "uint32", READS[key]) for key, gguf in EACH.items()),
        *SCALING,
    ),
    classes={KIND: CLASS, OWN: CLASS},
    settings=(*SETTINGS, *(_each(key) for key in EACH)),
    expects=(
        *EXPECTS,
        *(_each(key, also_one=True) for key in EACH),
        Setting("group_limited_greedy", False),
        Setting("moe_drop_tokens", False),
        Setting("moe_layer_num_skipped", 0),
        Setting("moe_random_routing_dropped_token", False),
        Setting("norm_topk_prob", True),
        Setting("routed_scaling_factor", 1.0),
        Setting("use_mixed_mlp_moe", True),
        Setting("use_mla", False),
    ),
    harmless=HARMLESS,
    constants={"expert_gating_func": GATING["softmax"], "expert_weights_norm": True},
    vocabulary=conventions.HUNYUAN_MOE,
    limits=(
        *unset("gguf", "attention_bias"),
        unknown_to_mlx(KIND, KIND),
        Limit(
            "mlx",
            lambda h: h.settings.values.get("model_type") != OWN,
            "weights of experts that are not divided by their sum",
            excludes=(OWN,),
            fault=MISCOMPUTED,
        ),
    ),
)
