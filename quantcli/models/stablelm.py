"""The stablelm architecture (StableLM 3B, 2): norms with biases; the largest one has a norm for each head of q and k.

Source: llama.cpp's conversion of StableLmForCausalLM.
"""

from dataclasses import replace

from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import (
    BLOCK,
    GATED,
    INVERSE_FREQUENCIES,
    LAYER,
    PRE_NORMS,
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
from quantcli.models.stored import Setting, Stored, has
from quantcli.tokenizers import conventions

#: With parallel residuals there is no norm before the MLP. Head norms are one vector a head, stacked in GGUF.
NORMS = tuple(replace(row, optional="ffn_norm" in row.gguf) for row in norm_rows(PRE_NORMS, bias=True))
HEAD_NORMS = tuple(
    Tensor(
        f"{LAYER}.self_attn.{hf}_layernorm.norms.{{e}}", f"{BLOCK}.attn_{hf}_norm", suffixes=("weight",), optional=True
    )
    for hf in ("q", "k")
)

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
    tensors=(*ends(bias=True), *NORMS, *attention(), *HEAD_NORMS, *rows(GATED)),
    dropped=INVERSE_FREQUENCIES,
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
    settings=(
        Setting("hidden_act", "silu"),
        Setting("partial_rotary_factor", Stored.rotary_share),
        Setting("qk_layernorm", has("attn_q_norm.weight")),
        Setting("use_parallel_residual", lambda file: not file.holds("blk.0.ffn_norm.weight")),
        Setting("use_qkv_bias", has("attn_q.bias")),
    ),
    vocabulary=conventions.STABLELM,
)
