"""The glm4_moe architecture (GLM-4.5, 4.6): routed and shared experts; GGUF keeps the layer for multi-token prediction.

Source: llama.cpp's conversion of Glm4MoeForCausalLM; mlx-lm's glm4_moe.
"""

from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import (
    BLOCK,
    EXPERTS,
    GATED,
    LAYER,
    QK_NORMS,
    SHAPES,
    attention,
    ends,
    experts,
    norm_rows,
    rows,
    shared_experts,
)
from quantcli.models.families.glm4 import NO_START
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import (
    DENSE_LAYERS,
    EXPERT_LENGTH,
    EXPERT_NORM,
    EXPERT_SCALE,
    FREQ_BASE,
    GATING,
    GROUPS,
    HEAD_SIZES,
    RMS_EPS,
    ROPE,
    ROPE_DIMENSIONS,
    SECTIONS,
    SHARED_EXPERTS,
    SIZES,
    Key,
    expert_keys,
)
from quantcli.models.rope_settings import scaling_with_sections
from quantcli.models.sizes import (
    ATTENTION_BIAS,
    EXPERT_INNER,
    HIDDEN,
    N_EXPERTS,
    NEVER,
    VOCAB,
    Axes,
    Need,
    flag,
    setting,
    without,
)
from quantcli.models.stored import Setting, Stored, has
from quantcli.tokenizers import conventions

SHARED = {
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}

#: Axes of the experts that process every token.
SHARED_SHAPES = shared_experts("mlp.shared_experts", setting("n_shared_experts") * EXPERT_INNER)


def router(needed: Need, correction: Need | None, *, mlx_casts: bool = False) -> tuple[Tensor, ...]:
    """Return the rows for a router and the correction of its scores, which stays float32.

    needed, correction: which layers have them. mlx_casts: as in `Tensor`.
    """
    return (
        *rows({"mlp.gate": "ffn_gate_inp"}, needed=needed),
        Tensor(
            f"{LAYER}.mlp.gate.e_score_correction_bias", f"{BLOCK}.exp_probs_b.bias", suffixes=("",), optional=True,
            f32=True, mlx_casts=mlx_casts, shape=(N_EXPERTS,), needed=correction,
        ),
    )  # fmt: skip


def _is_sparse(h: Hyperparameters, layer: int) -> bool:
    """Return whether a layer has experts: all but the first ones do."""
    return layer >= h.settings.integer("first_k_dense_replace", 0, least=0)


def _has_shared(h: Hyperparameters, layer: int) -> bool:
    return _is_sparse(h, layer) and h.settings.integer("n_shared_experts", 0, least=0) > 0


SPARSE = Need("first_k_dense_replace", _is_sparse)
SPARSE_SHARED = Need("first_k_dense_replace, n_shared_experts", _has_shared)

#: Modules of the layer for multi-token prediction in addition to its norms, attention and experts.
NEXT = {
    "eh_proj": "nextn.eh_proj",
    "embed_tokens": "nextn.embed_tokens",
    "enorm": "nextn.enorm",
    "hnorm": "nextn.hnorm",
    "shared_head.head": "nextn.shared_head_head",
    "shared_head.norm": "nextn.shared_head_norm",
}


NEXT_SHAPES: dict[str, Axes] = {
    "eh_proj": (HIDDEN, 2 * HIDDEN),
    "embed_tokens": (VOCAB, HIDDEN),
    "shared_head.head": (VOCAB, HIDDEN),
}
#: If the layer lacks them, it uses the model's embedding and output matrix.
OWN_ENDS = ("embed_tokens", "shared_head.head")
IS_NEXT = Need("num_hidden_layers, num_nextn_predict_layers", lambda h, layer: layer >= h.layers)
HAS_ENDS = Need("num_hidden_layers", IS_NEXT.holds, all_or_none=True)
#: The rows for such layers.
NEXT_ROWS = (
    *rows({hf: gguf for hf, gguf in NEXT.items() if hf not in OWN_ENDS}, needed=IS_NEXT, shapes=NEXT_SHAPES),
    *rows({hf: NEXT[hf] for hf in OWN_ENDS}, needed=HAS_ENDS, shapes=NEXT_SHAPES),
)


def next_layers(hyperparameters: Hyperparameters) -> int:
    """Return the number of layers for multi-token prediction, which GGUF counts as blocks."""
    return hyperparameters.settings.integer("num_nextn_predict_layers", 0, least=0)


ALL_BLOCKS = Key("block_count", "uint32", lambda h: h.layers + next_layers(h))

GLM4_MOE = Architecture(
    name="glm4_moe",
    gguf="glm4moe",
    model_types={
        "glm4_moe": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "partial_rotary_factor": 0.5,
            "moe_intermediate_size": 1408,
            "n_routed_experts": 128,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 1.0,
            "norm_topk_prob": True,
            "num_nextn_predict_layers": lambda config: config.integer("num_mtp_layers", 1, least=0),
        }
    },
    tensors=(
        *ends(),
        *norm_rows({"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm"}),
        *attention(bias=ATTENTION_BIAS, output_bias=NEVER),
        *(
            Tensor(
                f"{LAYER}.{hf}",
                f"{BLOCK}.{gguf}",
                suffixes=("weight",),
                optional=True,
                shape=SHAPES[hf],
                needed=flag("use_qk_norm"),
            )
            for hf, gguf in QK_NORMS.items()
        ),
        *rows(GATED, needed=without(SPARSE)),
        *router(SPARSE, SPARSE),
        *rows(SHARED, needed=SPARSE_SHARED, shapes=SHARED_SHAPES),
        *experts(EXPERTS, needed=SPARSE),
        *NEXT_ROWS,
    ),
    mtp=("hf", "gguf"),
    mlx_schemes={"ffn_gate_inp": "dense"},
    keys=(
        ALL_BLOCKS,
        *SIZES[1:],
        *ROPE[:-1],
        SECTIONS,
        FREQ_BASE,
        RMS_EPS,
        *expert_keys("n_routed_experts"),
        *GROUPS,
        *HEAD_SIZES,
    ),
    further=(
        ROPE_DIMENSIONS,
        EXPERT_LENGTH,
        SHARED_EXPERTS,
        DENSE_LAYERS,
        Key("expert_gating_func", "uint32", lambda h: GATING["sigmoid"]),
        EXPERT_SCALE,
        EXPERT_NORM,
        Key("nextn_predict_layers", "uint32", "num_nextn_predict_layers"),
    ),
    classes={"glm4_moe": "Glm4MoeForCausalLM"},
    settings=(
        *NO_START,
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("num_nextn_predict_layers", lambda file: file.predicting),
        Setting("partial_rotary_factor", Stored.rotary_share),
        Setting("rope_scaling", scaling_with_sections),
        Setting("use_qk_norm", has("attn_q_norm.weight")),
    ),
    vocabulary=conventions.GLM4_MOE,
    stores_head=("mlx",),
    mlx_nulls=("rope_scaling",),
)
