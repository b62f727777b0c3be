"""DeepSeek V2 and V3: latent attention, routed and shared experts.

`kv_b_proj` holds, head after head, the rows that make keys and those that make values. GGUF, and MLX for V3, have them
apart, the keys' transposed for each head:

    kv_b_proj  (heads * (nope + v), kv_lora)   ->   attn_k_b  (heads, kv_lora, nope)
                                                    attn_v_b  (heads, v, kv_lora)

Source: llama.cpp's conversion of DeepseekV2ForCausalLM and DeepseekV3ForCausalLM; mlx-lm's deepseek_v2, deepseek_v3.
"""

from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import BLOCK, EXPERTS, GATED, LAYER, PRE_NORMS, ends, experts, norm_rows, rows
from quantcli.models.glm4_moe import ROUTER, SHARED
from quantcli.models.ops import PerHead, Take, Transpose

KEYS = (PerHead(), Take(stop="nope_head_dim"), Transpose())
VALUES = (PerHead(), Take(start="nope_head_dim"))

#: Small models have one projection for queries, large ones two with a norm between.
ATTENTION = (
    *rows({"self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.o_proj": "attn_output"}),
    *norm_rows({"self_attn.kv_a_layernorm": "attn_kv_a_norm"}),
    *rows(
        {
            "self_attn.q_proj": "attn_q",
            "self_attn.q_a_proj": "attn_q_a",
            "self_attn.q_a_layernorm": "attn_q_a_norm",
            "self_attn.q_b_proj": "attn_q_b",
        },
        optional=True,
    ),
)


def kv_b(*, split_in_mlx: bool) -> tuple[Tensor, ...]:
    """The rows that share `kv_b_proj`."""
    keys, values = (f"{LAYER}.self_attn.embed_q", f"{LAYER}.self_attn.unembed_out") if split_in_mlx else (None, None)
    hf, weight = f"{LAYER}.self_attn.kv_b_proj", ("weight",)
    return (
        Tensor(hf, f"{BLOCK}.attn_k_b", KEYS, weight, keys, KEYS if split_in_mlx else ()),
        Tensor(hf, f"{BLOCK}.attn_v_b", VALUES, weight, values, VALUES if split_in_mlx else ()),
    )


LAYERS = (
    *ends(),
    *norm_rows(PRE_NORMS),
    *ATTENTION,
    *rows(GATED, optional=True),
    *ROUTER,
    *rows(SHARED, optional=True),
    *experts(EXPERTS),
)

DEEPSEEK_V2 = Architecture(
    name="deepseek_v2",
    gguf="deepseek2",
    model_types={"deepseek_v2": {}},
    tensors=(*LAYERS, *kv_b(split_in_mlx=False)),
    mtp=(),
)

#: In GGUF V3 is known by the function that its router's scores go through: sigmoid, number 2.
DEEPSEEK_V3 = Architecture(
    name="deepseek_v3",
    gguf="deepseek2",
    when=lambda metadata: metadata.get("expert_gating_func") == 2,
    model_types={"deepseek_v3": {}},
    tensors=(*LAYERS, *kv_b(split_in_mlx=True)),
    mtp=(),
)
