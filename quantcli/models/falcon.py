"""The falcon architecture (Falcon 7B, 40B): q, k, v in one matrix, group after group; mlx-lm has no such model.

Falcon 7B has one norm a layer, 40B one for attention and one for the MLP. Source: llama.cpp's conversion of
FalconForCausalLM.
"""

from quantcli.models.base import Architecture, Tensor
from quantcli.models.keys import BLOCKS, EMBEDDING, HEADS, Key, layer_norm_eps
from quantcli.models.ops import GroupQkv
from quantcli.models.reader import Reader
from quantcli.models.stored import OMITTED, Setting, has

LAYER, BLOCK = "transformer.h.{i}", "blk.{i}"


def _kv_heads(config: Reader) -> int:
    """Of the first models one for all, of those with the new decoder as many as the config says."""
    shared = config.flag("multi_query", True) and not config.flag("new_decoder_architecture", False)
    return 1 if shared else config.integer(config.first("num_kv_heads", "num_attention_heads", "n_head"))


def _feed_forward(config: Reader) -> int:
    return 4 * config.integer("hidden_size")


FALCON = Architecture(
    name="falcon",
    gguf="falcon",
    model_types={
        "falcon": {
            "layer_norm_epsilon": 1e-5,
            "max_position_embeddings": 2048,
            "n_head_kv": _kv_heads,
            "ffn_hidden_size": _feed_forward,
            "new_decoder_architecture": False,
            "multi_query": True,
            "tie_word_embeddings": True,
        }
    },
    tensors=(
        Tensor("transformer.word_embeddings", "token_embd", suffixes=("weight",)),
        Tensor("transformer.ln_f", "output_norm"),
        Tensor("lm_head", "output", suffixes=("weight",), optional=True),
        Tensor(f"{LAYER}.input_layernorm", f"{BLOCK}.attn_norm", optional=True),
        Tensor(f"{LAYER}.ln_mlp", f"{BLOCK}.attn_norm", optional=True, beside=f"{BLOCK}.attn_norm_2"),
        Tensor(f"{LAYER}.ln_attn", f"{BLOCK}.attn_norm_2", optional=True),
        Tensor(f"{LAYER}.self_attention.query_key_value", f"{BLOCK}.attn_qkv", (GroupQkv(),)),
        Tensor(f"{LAYER}.self_attention.dense", f"{BLOCK}.attn_output"),
        Tensor(f"{LAYER}.mlp.dense_h_to_4h", f"{BLOCK}.ffn_up"),
        Tensor(f"{LAYER}.mlp.dense_4h_to_h", f"{BLOCK}.ffn_down"),
    ),
    names={
        "layers": ("num_hidden_layers", "n_layer"),
        "heads": ("num_attention_heads", "n_head"),
        "kv_heads": ("n_head_kv", "num_kv_heads"),
        "feed_forward_length": ("ffn_hidden_size",),
    },
    keys=(
        Key("context_length", "uint32", lambda h: 2048, "max_position_embeddings"),
        Key("tensor_data_layout", "string", lambda h: "jploski"),
        EMBEDDING,
        Key("feed_forward_length", "uint32", lambda h: 4 * h.embedding_length, "ffn_hidden_size"),
        BLOCKS,
        HEADS,
        Key("attention.head_count_kv", "uint32", lambda h: h.kv_heads),
        layer_norm_eps("layer_norm_epsilon"),
    ),
    classes={"falcon": "FalconForCausalLM"},
    settings=(
        Setting("alibi", False),
        Setting("bias", has("attn_qkv.bias")),
        Setting("parallel_attn", True),
        Setting("multi_query", lambda file: file.own.integer("attention.head_count_kv", 1) == 1),
        Setting("new_decoder_architecture", lambda file: file.own.integer("attention.head_count_kv", 1) > 1),
        Setting("num_kv_heads", lambda file: file.own.integer("attention.head_count_kv", 1)),
        Setting("num_ln_in_parallel_attn", lambda file: 2 if file.holds("blk.0.attn_norm_2.weight") else OMITTED),
    ),
    expects=(Setting("activation", "gelu"), Setting("ff_factor", 4)),
)
