"""The ernie4_5_moe architecture (ERNIE 4.5 21B-A3B, 300B-A47B): routed and shared experts after some dense layers.

Source: llama.cpp's conversion of Ernie4_5_MoeForCausalLM; mlx-lm's ernie4_5_moe, which does not correct the router's
scores.
"""

from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import (
    BLOCK,
    EXPERTS,
    GATED,
    LAYER,
    PRE_NORMS,
    attention,
    ends,
    experts,
    norm_rows,
    rows,
    shared_experts,
)
from quantcli.models.families.ernie4_5 import BIAS
from quantcli.models.families.glm4_moe import SHARED
from quantcli.models.harmless import Harmless
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import EXPERT_LENGTH, GATING, HEAD_SIZES, RMS_EPS, ROPE, SIZES, Key, expert_keys
from quantcli.models.limits import Limit, unset
from quantcli.models.ops import SingleRow
from quantcli.models.sizes import EXPERT_INNER, N_EXPERTS, ONE, Need, setting, without
from quantcli.models.stored import Setting, Stored


def _is_sparse(h: Hyperparameters, layer: int) -> bool:
    """Return whether a layer has experts: every `moe_layer_interval`-th from the start index to the end index."""
    first = h.settings.integer("moe_layer_start_index", least=0)
    last = h.settings.integer("moe_layer_end_index", -1, least=-1)
    step = h.settings.integer("moe_layer_interval", 1)
    return first <= layer <= (h.layers if last < 0 else last) and (layer + 1) % step == 0


def _shared(h: Hyperparameters) -> int:
    """Return the width of the shared experts that llama.cpp's converter writes."""
    return h.feed_forward_length // h.kv_heads


def _has_shared(h: Hyperparameters, layer: int) -> bool:
    return _is_sparse(h, layer) and h.settings.integer("moe_num_shared_experts", 0, least=0) > 0


def _is_corrected(file: Stored) -> bool:
    """Return whether a file has corrections of the routers' scores."""
    return any(name.endswith(".exp_probs_b.bias") for name in file.tensors)


SPARSE = Need("moe_layer_start_index, moe_layer_end_index, moe_layer_interval", _is_sparse)
SPARSE_SHARED = Need(f"{SPARSE.keys}, moe_num_shared_experts", _has_shared)
#: All routers have a correction, or none has one, as in MLX folders.
CORRECTED = Need(f"{SPARSE.keys}, moe_use_aux_free", _is_sparse, all_or_none=True, claim="moe_use_aux_free")
WIDTH = setting("moe_num_shared_experts") * EXPERT_INNER

ERNIE4_5_MOE = Architecture(
    name="ernie4_5_moe",
    gguf="ernie4_5-moe",
    model_types={
        "ernie4_5_moe": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 4,
            "rope_theta": 5e5,
            "tie_word_embeddings": True,
            "moe_intermediate_size": 1536,
            "moe_k": 6,
            "moe_num_experts": 64,
            "moe_num_shared_experts": 2,
            "moe_layer_start_index": 1,
            "moe_layer_interval": 1,
            "moe_layer_end_index": lambda config: config.integer("num_hidden_layers") - 1,
            "num_experts": lambda config: config.integer("moe_num_experts", least=0),
            "use_bias": lambda config: False,
        }
    },
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS),
        *attention(bias=BIAS),
        *rows(GATED, needed=without(SPARSE), bias=BIAS),
        *rows({"mlp.gate": "ffn_gate_inp"}, needed=SPARSE),
        Tensor(
            f"{LAYER}.mlp.moe_statics.e_score_correction_bias",
            f"{BLOCK}.exp_probs_b.bias",
            (SingleRow(),),
            suffixes=("",),
            optional=True,
            absent_in=("mlx",),
            shape=(ONE, N_EXPERTS),
            needed=CORRECTED,
        ),
        *rows(SHARED, needed=SPARSE_SHARED, shapes=shared_experts("mlp.shared_experts", WIDTH), bias=BIAS),
        *experts(EXPERTS, needed=SPARSE),
    ),
    states_space_prefix=True,
    keys=(*SIZES, *ROPE, RMS_EPS, *HEAD_SIZES),
    further=(
        *expert_keys("moe_num_experts", "moe_k"),
        Key("interleave_moe_layer_step", "uint32", "moe_layer_interval", absent=1),
        Key("leading_dense_block_count", "uint32", "moe_layer_start_index", absent=0),
        EXPERT_LENGTH,
        Key("expert_shared_count", "uint32", "moe_num_shared_experts", absent=0),
        Key(
            "expert_shared_feed_forward_length",
            "uint32",
            lambda h: _shared(h) if h.settings.integer("moe_num_shared_experts", 0, least=0) else None,
        ),
    ),
    classes={"ernie4_5_moe": "Ernie4_5_MoeForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("use_bias", False),
        Setting("moe_layer_end_index", lambda file: file.trunk - 1),
        Setting("moe_use_aux_free", _is_corrected),
    ),
    expects=(
        Setting("moe_gate_act", "softmax"),
        Setting("moe_layer_end_index", lambda file: (file.trunk - 1, -1)),
        Setting("moe_norm_min", 1e-12),
    ),
    harmless={"moe_use_aux_free": Harmless("not read: the tensors show whether routers have a correction bias")},
    constants={"expert_gating_func": GATING["softmax"], "expert_weights_norm": True},
    limits=(
        *unset("mlx", "use_bias"),
        Limit(
            "gguf",
            lambda h: h.settings.integer("moe_layer_interval", 1) == 1,
            "moe_layer_interval to be 1 in this architecture",
        ),
        Limit(
            "gguf",
            lambda h: not h.settings.integer("moe_num_shared_experts", 0, least=0) or _shared(h) == WIDTH.of(h),
            "moe_intermediate_size * moe_num_shared_experts to be intermediate_size / num_key_value_heads",
        ),
    ),
    mlx_keys=(
        "moe_intermediate_size",
        "moe_k",
        "moe_layer_start_index",
        "moe_num_shared_experts",
        "rms_norm_eps",
        "rope_theta",
        "use_bias",
    ),
)
