"""The qwen3vl and qwen3vlmoe architectures: the text models of Qwen3-VL, which are Qwen3's with M-RoPE.

In models with a tower, experts are stacked and transposed: `experts.gate_up_proj` (experts, in, 2 * out),
`experts.down_proj` (experts, in, out). For text, M-RoPE equals the default rotary embedding, so that a folder converted
from GGUF (without a tower) is Qwen3's. Source: llama.cpp's conversion of Qwen3VLForConditionalGeneration and
Qwen3VLMoeForConditionalGeneration; mlx-lm's qwen3_vl_moe.
"""

from dataclasses import replace

from quantcli.models.decoder import experts_apart, fused_experts, stacked_experts
from quantcli.models.families.qwen2_moe import SPARSE
from quantcli.models.families.qwen2_vl import MLX
from quantcli.models.families.qwen3 import QWEN3
from quantcli.models.families.qwen3_moe import QWEN3_MOE
from quantcli.models.keys import EXPERT_LENGTH, FREQ_BASE, HEAD_SIZES, RMS_EPS, ROPE, SECTIONS, SIZES, Key, expert_keys
from quantcli.models.limits import unknown_to_mlx
from quantcli.models.multimodal import Multimodal, Spelling
from quantcli.models.stored import Setting

#: The tower's layers whose features are added in the text model's first layers; llama.cpp needs their number.
FEATURES = "deepstack_visual_indexes"
DEEPSTACK = Key("n_deepstack_layers", "uint32", lambda h: len(h.settings.integers(FEATURES)))
#: In these architectures llama.cpp interleaves the sections of M-RoPE.
EXPECTS = (Setting("mrope_interleaved", True),)
LIFTED = (("vision_config", FEATURES),)
#: Defaults of the text models' classes that differ from Qwen3's.
ASSUMED = {"max_position_embeddings": 128000, "rope_theta": 5e5}
NESTED = Spelling("model.language_model.", "model.visual.")

#: Settings that mlx-lm's classes of the text models require.
MLX_KEYS = (
    "model_type", "head_dim", "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings", "vocab_size",
)  # fmt: skip

QWEN3_VL = replace(
    QWEN3,
    name="qwen3_vl",
    gguf="qwen3vl",
    model_types={**QWEN3.model_types, "qwen3_vl_text": {**QWEN3.model_types["qwen3"], **ASSUMED}},
    keys=(*SIZES, *ROPE[:-1], SECTIONS, FREQ_BASE, RMS_EPS, *HEAD_SIZES),
    further=(DEEPSTACK,),
    expects=EXPECTS,
    aliases=(),
    mlx_keys=MLX_KEYS,
    limits=(
        *QWEN3.limits,
        unknown_to_mlx("qwen3_vl", "qwen3_vl_text", nested=True),
    ),
    multimodal=(Multimodal("qwen3_vl", "Qwen3VLForConditionalGeneration", "qwen3_vl_text", MLX, LIFTED, NESTED),),
)

QWEN3_VL_MOE = replace(
    QWEN3_MOE,
    name="qwen3_vl_moe",
    gguf="qwen3vlmoe",
    model_types={
        **QWEN3_MOE.model_types,
        "qwen3_vl_moe_text": {
            **QWEN3_MOE.model_types["qwen3_moe"],
            **ASSUMED,
            "num_key_value_heads": 16,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
    },
    tensors=(
        *(row for row in QWEN3_MOE.tensors if not row.read_only),
        *fused_experts("mlp.experts", is_transposed=True),
    ),
    in_towers=(
        *(row for row in QWEN3_MOE.tensors if not row.role.endswith("_exps")),
        *stacked_experts("mlp.experts", is_transposed=True, needed=SPARSE),
        *experts_apart("mlp.experts"),
    ),
    keys=(*SIZES, *ROPE[:-1], SECTIONS, FREQ_BASE, RMS_EPS, *expert_keys("num_experts"), *HEAD_SIZES),
    further=(EXPERT_LENGTH, DEEPSTACK),
    expects=EXPECTS,
    mlx_keys=(
        *MLX_KEYS,
        "decoder_sparse_step",
        "mlp_only_layers",
        "moe_intermediate_size",
        "norm_topk_prob",
        "num_experts",
        "num_experts_per_tok",
    ),
    limits=(
        *QWEN3_MOE.limits,
        unknown_to_mlx("qwen3_vl_moe", "qwen3_vl_moe_text", nested=True),
    ),
    multimodal=(
        Multimodal("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration", "qwen3_vl_moe_text", MLX, LIFTED, NESTED),
    ),
)
