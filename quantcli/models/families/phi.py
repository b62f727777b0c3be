"""The phi architecture (Phi 1, 1.5 and 2): biases everywhere, attention and MLP in parallel after one norm.

Source: llama.cpp's conversion of PhiForCausalLM; mlx-lm's phi.
"""

from collections.abc import Mapping
from typing import Any

from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import BLOCK, JOINED, LAYER, norm, norm_rows, rows
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
from quantcli.models.sizes import ALWAYS, HIDDEN, INNER, KEYS, QUERIES, VOCAB, Axes
from quantcli.models.stored import Setting, Stored

ATTENTION: dict[str, tuple[str, Axes]] = {
    "self_attn.q_proj": ("attn_q", (QUERIES, HIDDEN)),
    "self_attn.k_proj": ("attn_k", (KEYS, HIDDEN)),
    "self_attn.v_proj": ("attn_v", (KEYS, HIDDEN)),
    "self_attn.dense": ("attn_output", (HIDDEN, QUERIES)),
}
MLP = {"mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down"}
MLP_SHAPES: dict[str, Axes] = {"mlp.fc1": (INNER, HIDDEN), "mlp.fc2": (HIDDEN, INNER)}


def _kv_heads(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return num_key_value_heads = num_attention_heads if config.json lacks it; mlx-lm's default is 32."""
    key = str(KV_HEADS.config)
    return {key: config["num_attention_heads"]} if config.get(key) is None and "num_attention_heads" in config else {}


PHI = Architecture(
    name="phi",
    gguf="phi2",
    model_types={
        "phi": {"layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "partial_rotary_factor": 0.5},
    },
    tensors=(
        Tensor("model.embed_tokens", "token_embd", suffixes=("weight",), shape=(VOCAB, HIDDEN)),
        *norm("model.final_layernorm", "output_norm", bias=True),
        Tensor("lm_head", "output", optional=True, shape=(VOCAB, HIDDEN), bias=ALWAYS),
        *norm_rows({"input_layernorm": "attn_norm"}, bias=True),
        *(
            Tensor(f"{LAYER}.{hf}", f"{BLOCK}.{gguf}", also=JOINED.get(gguf, ()), shape=shape, bias=ALWAYS)
            for hf, (gguf, shape) in ATTENTION.items()
        ),
        *rows(MLP, bias=ALWAYS, shapes=MLP_SHAPES),
    ),
    # llama.cpp's converter computes the width of the MLP and the number of k and v heads, and writes no rotary base.
    keys=(
        CONTEXT,
        EMBEDDING,
        Key(FEED_FORWARD.name, "uint32", lambda h: 4 * h.embedding_length, FEED_FORWARD.config),
        BLOCKS,
        HEADS,
        Key(KV_HEADS.name, "uint32", lambda h: h.heads, KV_HEADS.config, otherwise=HEADS.name),
        layer_norm_eps("layer_norm_eps"),
        ROPE_DIMENSIONS,
    ),
    classes={"phi": "PhiForCausalLM"},
    settings=(
        Setting("hidden_act", "gelu_new"),
        Setting("partial_rotary_factor", Stored.rotary_share),
        Setting("qk_layernorm", False),
    ),
    stores_head=("gguf", "mlx"),
    limits=square("gguf", "mlx"),
    mlx_keys=("partial_rotary_factor",),
    mlx_config=_kv_heads,
)
