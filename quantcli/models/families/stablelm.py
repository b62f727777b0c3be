"""The stablelm architecture (StableLM 3B, 2): norms with biases; the largest model has a norm for each head of q and k.

Source: llama.cpp's conversion of StableLmForCausalLM.
"""

from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import (
    BLOCK,
    GATED,
    LAYER,
    attention,
    ends,
    norm_rows,
    rows,
)
from quantcli.models.keys import (
    BLOCKS,
    CONTEXT,
    EMBEDDING,
    FEED_FORWARD,
    HEADS,
    KV_HEADS,
    ROPE_DIMENSIONS,
    Key,
    layer_norm_eps,
)
from quantcli.models.limits import square
from quantcli.models.sizes import HEAD_DIM, N_HEADS, N_KV_HEADS, NEVER, Need, flag
from quantcli.models.stored import Setting, Stored, has
from quantcli.tokenizers import conventions

#: With parallel residuals there is no norm before the MLP. Norms of heads are one vector per head, stacked in GGUF.
SERIAL = Need("use_parallel_residual", lambda h, layer: not h.settings.flag("use_parallel_residual", False))
NORMS = (
    *norm_rows({"input_layernorm": "attn_norm"}, bias=True),
    *rows({"post_attention_layernorm": "ffn_norm"}, needed=SERIAL, bias=SERIAL),
)
HEAD_NORMS = tuple(
    Tensor(
        f"{LAYER}.self_attn.{hf}_layernorm.norms.{{e}}", f"{BLOCK}.attn_{hf}_norm", suffixes=("weight",), optional=True,
        shape=(heads, HEAD_DIM), needed=flag("qk_layernorm"),
    )
    for hf, heads in (("q", N_HEADS), ("k", N_KV_HEADS))
)  # fmt: skip

STABLELM = Architecture(
    name="stablelm",
    gguf="stablelm",
    model_types={
        "stablelm": {
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "num_key_value_heads": 32,
            "partial_rotary_factor": 0.25,
            "use_parallel_residual": False,
        }
    },
    tensors=(
        *ends(bias=True),
        *NORMS,
        *attention(bias=flag("use_qkv_bias"), output_bias=NEVER),
        *HEAD_NORMS,
        *rows(GATED),
    ),
    keys=(
        CONTEXT,
        EMBEDDING,
        BLOCKS,
        FEED_FORWARD,
        ROPE_DIMENSIONS,
        HEADS,
        KV_HEADS,
        Key("use_parallel_residual", "bool", "use_parallel_residual"),
        layer_norm_eps("layer_norm_eps"),
    ),
    classes={"stablelm": "StableLmForCausalLM"},
    aliases=("StableLMEpochForCausalLM",),
    settings=(
        Setting("hidden_act", "silu"),
        Setting("partial_rotary_factor", Stored.rotary_share),
        Setting("qk_layernorm", has("attn_q_norm.weight")),
        Setting("use_parallel_residual", lambda file: not file.holds("blk.0.ffn_norm.weight")),
        Setting("use_qkv_bias", has("attn_q.bias")),
    ),
    vocabulary=conventions.STABLELM,
    stores_head=("gguf", "mlx"),
    limits=square("gguf", "mlx"),
)
