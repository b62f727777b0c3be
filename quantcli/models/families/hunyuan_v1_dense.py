"""The hunyuan_v1_dense architecture (Hunyuan 0.5B to 7B): norms of q and k after the rotation, NTK scaling by alpha.

llama.cpp does not support that scaling: its converter writes the resulting rotary base, and a context of 256K.
Source: llama.cpp's conversion of HunYuanDenseV1ForCausalLM; mlx-lm's hunyuan_v1_dense.
"""

from typing import Any

from quantcli.models.base import Architecture
from quantcli.models.decoder import GATED, PRE_NORMS, attention, ends, norm_rows, rows
from quantcli.models.harmless import LABELS, TOKENIZER, Harmless
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import BLOCKS, CONTEXT, FREQ_BASE, HEAD_SIZES, RMS_EPS, ROPE, SIZES, Key
from quantcli.models.limits import unset
from quantcli.models.rope_settings import rope_scaling, theta_of
from quantcli.models.sizes import ATTENTION_BIAS, HEAD_DIM
from quantcli.models.stored import Setting, Stored, has
from quantcli.tokenizers import conventions

#: The base and the context of released models with scaling; llama.cpp's converter checks the base.
BASE, SCALED_CONTEXT = 10000.0, 1 << 18
#: The default of alpha.
ALPHA = 50.0

QK_NORMS = {"self_attn.query_layernorm": "attn_q_norm", "self_attn.key_layernorm": "attn_k_norm"}
QK_SHAPES = dict.fromkeys(QK_NORMS, (HEAD_DIM,))


def _is_scaled(h: Hyperparameters) -> bool:
    return h.rope.type == "dynamic"


def _exponent(head_dim: int) -> float:
    return head_dim / (head_dim - 2)


def _theta(h: Hyperparameters) -> float:
    """Return the rotary base, scaled by alpha."""
    if not _is_scaled(h):
        return h.rope.theta
    alpha = h.settings.part(h.settings.first("rope_scaling", "rope_parameters")).number("alpha", ALPHA)
    return float(h.rope.theta * alpha ** _exponent(h.head_dim))


def _alpha(file: Stored) -> float | None:
    """Return the alpha that scaled a file's rotary base; None unless it has the scaling type "none" with a factor."""
    if file.own.text("rope.scaling.type", "") != "none" or not file.own.has("rope.scaling.factor"):
        return None
    return float(f"{(theta_of(file) / BASE) ** (1 / _exponent(file.head_dim)):.6g}")


def _scaling(file: Stored) -> dict[str, Any] | None:
    """Return `rope_scaling` as the releases have it; mlx-lm requires these three keys."""
    alpha = _alpha(file)
    return (
        rope_scaling(file)
        if alpha is None
        else {"rope_type": "dynamic", "type": "dynamic", "alpha": alpha, "factor": 1.0}
    )


#: Rotary settings in GGUF: those among the sizes, and those after all other keys.
SCALED_SIZES = (
    BLOCKS,
    Key(CONTEXT.name, "uint32", lambda h: SCALED_CONTEXT if _is_scaled(h) else h.context_length, CONTEXT.config),
    *SIZES[2:],
    *ROPE[:-1],
    Key(FREQ_BASE.name, "float32", _theta),
)
SCALING = (
    Key("rope.scaling.type", "string", lambda h: "none" if _is_scaled(h) else None),
    Key("rope.scaling.factor", "float32", lambda h: 1.0 if _is_scaled(h) else None),
    Key("rope.scaling.original_context_length", "uint32", lambda h: SCALED_CONTEXT if _is_scaled(h) else None),
)
NORMS = (*norm_rows(PRE_NORMS), *norm_rows(QK_NORMS, shapes=QK_SHAPES))
SETTINGS = (
    Setting("hidden_act", "silu"),
    Setting("attention_bias", has("attn_q.bias")),
    Setting("rope_scaling", _scaling),
    Setting("rope_theta", lambda file: theta_of(file) if _alpha(file) is None else BASE),
    Setting("use_qk_norm", True),
)
EXPECTS = (
    Setting("add_classification_head", False),
    Setting("attention_head_dim", lambda file: file.head_dim),
    Setting("max_position_embeddings", lambda file: (file.integer("context_length"), 1 << 15)),
    Setting("norm_type", ("rms", "hf_rms")),
    Setting("position_embedding_xdrope", False),
    Setting("use_cla", False),
    Setting("use_rotary_pos_emb", True),
)
IMAGES = Harmless("for a vision tower, which text models do not have")
#: Settings of other kinds of models that all releases have.
HARMLESS = {
    **dict.fromkeys(("class_num", "dense_list", "pool_type", "skip_cls_token"), LABELS),
    **dict.fromkeys(
        (
            "im_end_id", "im_newline_id", "im_start_id", "image_token_id", "mask_init_id", "org_vocab_size", "pad_id",
            "text_end_id", "text_start_id", "video_end_id", "video_start_id",
        ),
        TOKENIZER,
    ),
    **dict.fromkeys(
        (
            "anyres_pooling_size", "anyres_vit_max_image_size", "anyres_vit_two_views", "num_media_embeds",
            "vit_add_patchemb_bias", "vit_input_resolution", "vit_mapping_type", "vit_norm_type", "vit_patch",
            "vit_remove_prenorm", "vit_token", "vit_type", "vit_used_rms_norm",
        ),
        IMAGES,
    ),
}  # fmt: skip

HUNYUAN_V1_DENSE = Architecture(
    name="hunyuan_v1_dense",
    gguf="hunyuan-dense",
    model_types={"hunyuan_v1_dense": {"rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "use_qk_norm": True}},
    tensors=(
        *ends(),
        *NORMS,
        *attention(bias=ATTENTION_BIAS),
        *rows(GATED),
    ),
    keys=(*SCALED_SIZES, RMS_EPS, *HEAD_SIZES),
    further=SCALING,
    classes={"hunyuan_v1_dense": "HunYuanDenseV1ForCausalLM"},
    settings=SETTINGS,
    expects=EXPECTS,
    harmless=HARMLESS,
    mlx_scaling=("dynamic",),
    vocabulary=conventions.HUNYUAN_DENSE,
    limits=unset("gguf", "attention_bias"),
    mlx_keys=("rms_norm_eps",),
)
