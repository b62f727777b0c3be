"""The bailing_moe_v2 architecture (Ling 2.0, Ring 2.0): q, k and v in one matrix, routed and shared experts.

The releases have the model_type of the first version, which has another class. transformers has neither class. Source:
llama.cpp's conversion of BailingMoeV2ForCausalLM; mlx-lm's bailing_moe.
"""

from quantcli.models.base import EVERY_KIND, Architecture, Tensor
from quantcli.models.decoder import (
    BLOCK,
    EXPERTS,
    GATED,
    LAYER,
    PRE_NORMS,
    SHAPES,
    experts,
    norm,
    norm_rows,
    rows,
    shared_experts,
)
from quantcli.models.families.glm4_moe import ALL_BLOCKS, IS_NEXT, NEXT_SHAPES, SHARED, SPARSE
from quantcli.models.families.mimo_v2_flash import OF_NEXT
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import (
    DENSE_LAYERS,
    EXPERT_LENGTH,
    EXPERT_NORM,
    EXPERT_SCALE,
    GATING,
    GROUPS,
    HEAD_SIZES,
    RMS_EPS,
    ROPE,
    ROPE_DIMENSIONS,
    SIZES,
    VOCAB_SIZE,
    Key,
    expert_keys,
    gating,
)
from quantcli.models.limits import Limit, square, unknown_to_mlx
from quantcli.models.sizes import HEAD_DIM, HIDDEN, N_EXPERTS, VOCAB, Need, Size, without
from quantcli.models.stored import Setting, Stored
from quantcli.tokenizers import conventions

#: The class's defaults for keys that a config may lack.
DEFAULTS = {"partial_rotary_factor": 0.5, "max_position_embeddings": 32768, "norm_topk_prob": True}
MODULES = {"attention.query_key_value": "attn_qkv", "attention.dense": "attn_output"}
QK = {"attention.query_layernorm": "attn_q_norm", "attention.key_layernorm": "attn_k_norm"}
ATTENTION_SHAPES = {
    "attention.query_key_value": SHAPES["self_attn.qkv_proj"],
    "attention.dense": SHAPES["self_attn.o_proj"],
}


def _shared_length(h: Hyperparameters) -> int:
    """Return the width of the shared experts, which are stored as one MLP."""
    count = h.settings.integer("num_shared_experts", 0, least=0)
    each = h.settings.integer("moe_intermediate_size")
    return h.settings.integer("moe_shared_expert_intermediate_size", count * each, least=0)


def _has_bias(h: Hyperparameters, layer: int) -> bool:
    return SPARSE.holds(h, layer) and h.settings.flag("moe_router_enable_expert_bias", False)


def _has_shared(h: Hyperparameters, layer: int) -> bool:
    return SPARSE.holds(h, layer) and bool(_shared_length(h))


def _has_stored_bias(file: Stored) -> bool:
    return any(name.endswith(".exp_probs_b.bias") for name in file.tensors)


def _score(file: Stored) -> str:
    number = file.integer("expert_gating_func", GATING["sigmoid"])
    names = {code: name for name, code in GATING.items()}
    if number not in names:
        raise file.own.refuse("expert_gating_func", f"expected one of {', '.join(map(str, names))}")
    return names[number]


SHARED_WIDTH = Size(
    "moe_shared_expert_intermediate_size or num_shared_experts * moe_intermediate_size",
    _shared_length,
    "expert_shared_feed_forward_length",
)

BAILING_MOE_V2 = Architecture(
    name="bailing_moe_v2",
    gguf="bailingmoe2",
    model_types={"bailing_moe": DEFAULTS, "bailing_moe_v2": DEFAULTS},
    tensors=(
        Tensor("model.word_embeddings", "token_embd", suffixes=("weight",), shape=(VOCAB, HIDDEN)),
        *norm("model.norm", "output_norm"),
        Tensor("lm_head", "output", suffixes=("weight",), optional=True, shape=(VOCAB, HIDDEN)),
        *norm_rows(PRE_NORMS),
        *norm_rows(QK, shapes=dict.fromkeys(QK, (HEAD_DIM,))),
        *rows(MODULES, shapes=ATTENTION_SHAPES),
        *rows(GATED, needed=without(SPARSE)),
        Tensor(
            f"{LAYER}.mlp.gate",
            f"{BLOCK}.ffn_gate_inp",
            suffixes=("weight",),
            mlx=f"{LAYER}.mlp.gate.gate_proj",
            optional=True,
            shape=(N_EXPERTS, HIDDEN),
            needed=SPARSE,
        ),
        Tensor(
            f"{LAYER}.mlp.gate.expert_bias",
            f"{BLOCK}.exp_probs_b.bias",
            suffixes=("",),
            optional=True,
            f32=True,
            shape=(N_EXPERTS,),
            needed=Need("first_k_dense_replace, moe_router_enable_expert_bias", _has_bias),
        ),
        *rows(
            SHARED,
            needed=Need("first_k_dense_replace, num_shared_experts", _has_shared),
            shapes=shared_experts("mlp.shared_experts", SHARED_WIDTH),
        ),
        *experts(EXPERTS, needed=SPARSE),
        *rows(OF_NEXT, needed=IS_NEXT, shapes=NEXT_SHAPES),
    ),
    mtp=("hf", "gguf"),
    mlx_schemes={"ffn_gate_inp": "affine8-g64"},
    keys=(
        ALL_BLOCKS,
        *SIZES[1:],
        *ROPE,
        RMS_EPS,
        *expert_keys("num_experts"),
        *GROUPS,
        Key("expert_gating_func", "uint32", lambda h: gating(h, "score_function")),
        *HEAD_SIZES,
    ),
    further=(
        ROPE_DIMENSIONS,
        DENSE_LAYERS,
        VOCAB_SIZE,
        EXPERT_LENGTH,
        Key("expert_shared_feed_forward_length", "uint32", _shared_length, "moe_shared_expert_intermediate_size"),
        EXPERT_SCALE,
        Key("expert_shared_count", "uint32", "num_shared_experts"),
        EXPERT_NORM,
        Key("nextn_predict_layers", "uint32", "num_nextn_predict_layers"),
    ),
    classes=dict.fromkeys(("bailing_moe", "bailing_moe_v2"), "BailingMoeV2ForCausalLM"),
    settings=(
        Setting("hidden_act", "silu"),
        Setting("moe_router_enable_expert_bias", _has_stored_bias),
        Setting("num_nextn_predict_layers", lambda file: file.predicting),
        Setting("partial_rotary_factor", Stored.rotary_share),
        Setting("score_function", _score),
        Setting("use_bias", False),
        Setting("use_qk_norm", True),
        Setting("use_qkv_bias", False),
        Setting("use_rmsnorm", True),
    ),
    expects=(
        Setting("moe_router_enable_routed_scaling", True),
        Setting("moe_router_enable_shared_expert", True),
        Setting("norm_head", False),
        Setting("norm_softmax", False),
        Setting("rotary_dim", lambda file: file.integer(ROPE_DIMENSIONS.name, file.head_dim)),
        Setting("router_dtype", "fp32"),
    ),
    vocabulary=conventions.BAILING_MOE_V2,
    stores_head=("gguf",),
    limits=(
        *square("gguf", "mlx"),
        Limit(
            "gguf", lambda h: h.settings.integer("num_shared_experts", 0, least=0) == 1, "num_shared_experts to be 1"
        ),
        unknown_to_mlx("bailing_moe_v2", "bailing_moe_v2"),
    ),
    mlx_scaling=EVERY_KIND,
)
