"""The hunyuan_v1_moe architecture (Hunyuan A13B): hunyuan_v1_dense with routed experts and a shared one in every layer.

config.json says for each layer what GGUF says once. mlx-lm does not know this model_type. Source: llama.cpp's
conversion of HunYuanMoEV1ForCausalLM.
"""

from typing import Any

from quantcli.errors import NotPossible
from quantcli.models.base import Architecture
from quantcli.models.decoder import EXPERTS, attention, ends, experts, rows, shared_experts
from quantcli.models.families.hunyuan_v1_dense import EXPECTS, NORMS, SCALED_SIZES, SCALING, SETTINGS
from quantcli.models.families.hy_v3 import SHARED
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import GATING, HEAD_SIZES, RMS_EPS, Key, Read, expert_keys
from quantcli.models.limits import unknown_to_mlx, unset
from quantcli.models.sizes import ATTENTION_BIAS, HIDDEN, INNER, N_EXPERTS
from quantcli.models.stored import Setting, Stored
from quantcli.tokenizers import conventions

#: Key of config.json, with a number for each layer -> key of GGUF.
EACH = {
    "moe_intermediate_size": "expert_feed_forward_length",
    "moe_topk": "expert_used_count",
    "num_shared_expert": "expert_shared_count",
}


def _one(key: str) -> Read:
    """The number that all layers have."""

    def read(h: Hyperparameters) -> int:
        values = set(h.settings.integers(key)) if isinstance(h.settings.values.get(key), list) else set()
        if len(values) > 1:
            raise NotPossible(f"{h.settings.label}: {key} differs among layers; GGUF has one value for all of them.")
        return values.pop() if values else h.settings.integer(key)

    return read


def _each(key: str, *, also_one: bool = False) -> Setting:
    """The number that all layers have, for each of them; also_one: or once."""

    def value(file: Stored) -> Any:
        number = file.integer(EACH[key], 1)
        numbers = [number] * file.trunk
        return (numbers, number) if also_one else numbers

    return Setting(key, value)


HUNYUAN_V1_MOE = Architecture(
    name="hunyuan_v1_moe",
    gguf="hunyuan-moe",
    model_types={
        "hunyuan_v1_moe": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "use_qk_norm": True,
            "num_experts": 1,
            "moe_topk": 1,
            "num_shared_expert": 1,
            "moe_intermediate_size": lambda config: config.integer("intermediate_size"),
        }
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
        *(Key(gguf, "uint32", _one(key)) for key, gguf in EACH.items()),
        *SCALING,
    ),
    classes={"hunyuan_v1_moe": "HunYuanMoEV1ForCausalLM"},
    settings=(*SETTINGS, *(_each(key) for key in EACH)),
    expects=(
        *EXPECTS,
        *(_each(key, also_one=True) for key in EACH),
        Setting("group_limited_greedy", False),
        Setting("moe_layer_num_skipped", 0),
        Setting("norm_topk_prob", True),
        Setting("use_cla", False),
        Setting("use_mixed_mlp_moe", True),
    ),
    constants={"expert_gating_func": GATING["softmax"], "expert_weights_norm": True},
    vocabulary=conventions.HUNYUAN_MOE,
    limits=(
        *unset("gguf", "attention_bias"),
        unknown_to_mlx("hunyuan_v1_moe"),
    ),
)
