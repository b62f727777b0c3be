"""The falcon architecture (Falcon 7B, 40B): q, k, v in one matrix, group after group; mlx-lm has no such model.

Falcon 7B has one norm a layer, 40B one for attention and one for the MLP. Source: llama.cpp's conversion of
FalconForCausalLM.
"""

from quantcli.models.base import Architecture, Tensor
from quantcli.models.ops import GroupQkv

LAYER, BLOCK = "transformer.h.{i}", "blk.{i}"

FALCON = Architecture(
    name="falcon",
    gguf="falcon",
    model_types={"falcon": {}},
    tensors=(
        Tensor("transformer.word_embeddings", "token_embd", suffixes=("weight",)),
        Tensor("transformer.ln_f", "output_norm"),
        Tensor("lm_head", "output", suffixes=("weight",), optional=True),
        Tensor(f"{LAYER}.ln_mlp", f"{BLOCK}.attn_norm", optional=True),
        Tensor(f"{LAYER}.ln_attn", f"{BLOCK}.attn_norm_2", optional=True),
        Tensor(f"{LAYER}.self_attention.query_key_value", f"{BLOCK}.attn_qkv", (GroupQkv(),)),
        Tensor(f"{LAYER}.self_attention.dense", f"{BLOCK}.attn_output"),
        Tensor(f"{LAYER}.mlp.dense_h_to_4h", f"{BLOCK}.ffn_up"),
        Tensor(f"{LAYER}.mlp.dense_4h_to_h", f"{BLOCK}.ffn_down"),
    ),
)
