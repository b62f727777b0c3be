"""The falcon architecture (Falcon 7B, 40B): q, k, v in one matrix, group by group; mlx-lm does not support it.

Falcon 7B has one norm per layer, 40B one for attention and one for the MLP. Source: llama.cpp's conversion of
FalconForCausalLM.
"""

from typing import Any

from quantcli.containers.json_text import Reader
from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import BLOCK, NORM
from quantcli.models.harmless import Harmless
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import BLOCKS, EMBEDDING, HEADS, Key, layer_norm_eps
from quantcli.models.limits import unknown_to_mlx, unset
from quantcli.models.ops import GroupQkv
from quantcli.models.sizes import ALWAYS, HIDDEN, INNER, QKV, VOCAB, Need, flag, without
from quantcli.models.stored import OMITTED, Setting, Stored, has

LAYER = "transformer.h.{i}"


def _kv_heads(config: Reader) -> int:
    """Return the number of key and value heads: 1 with multi_query in the old architecture, else the config's."""
    shared = config.flag("multi_query", True) and not config.flag("new_decoder_architecture", False)
    return 1 if shared else config.integer(config.first("num_kv_heads", "num_attention_heads", "n_head"))


def _feed_forward(config: Reader) -> int:
    return 4 * config.integer("hidden_size")


def _has_two_norms(h: Hyperparameters, layer: int) -> bool:
    new = h.settings.flag("new_decoder_architecture", False)
    return h.settings.integer("num_ln_in_parallel_attn", 2 if new else 1) == 2


BIAS = flag("bias")
TWO_NORMS = Need("num_ln_in_parallel_attn, new_decoder_architecture", _has_two_norms, by_presence=True)
ONE_NORM = without(TWO_NORMS)


def _norm(hf: str, gguf: str, needed: Need, companion: str | None = None) -> Tensor:
    """Return the row for a norm before attention, the MLP or both."""
    return Tensor(
        f"{LAYER}.{hf}", f"{BLOCK}.{gguf}", optional=True, companion=companion, shape=NORM, needed=needed, bias=needed
    )


def _norms(file: Stored) -> Any:
    """Return the number of norms per layer, stated only if the class would assume another number."""
    if file.holds("blk.0.attn_norm_2.weight"):
        return 2
    return 1 if file.own.integer("attention.head_count_kv", 1) > 1 else OMITTED


#: Keys that the class does not read, or not for all of these models.
HARMLESS = {
    "intermediate_size": Harmless("not a key of this family, which uses ffn_hidden_size"),
    "max_position_embeddings": Harmless("not a setting of this family; llama.cpp's converter writes a fixed value"),
    "num_kv_heads": Harmless(
        "multi_query: all query heads share one key/value head",
        lambda config: config.get("multi_query") is True and config.get("new_decoder_architecture") is not True,
    ),
    "num_key_value_heads": Harmless("not a key of this family, which uses num_kv_heads"),
}

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
        Tensor("transformer.word_embeddings", "token_embd", suffixes=("weight",), shape=(VOCAB, HIDDEN)),
        Tensor("transformer.ln_f", "output_norm", shape=NORM, bias=ALWAYS),
        Tensor("lm_head", "output", suffixes=("weight",), optional=True, shape=(VOCAB, HIDDEN)),
        _norm("input_layernorm", "attn_norm", ONE_NORM),
        _norm("ln_mlp", "attn_norm", TWO_NORMS, companion=f"{BLOCK}.attn_norm_2"),
        _norm("ln_attn", "attn_norm_2", TWO_NORMS),
        Tensor(
            f"{LAYER}.self_attention.query_key_value",
            f"{BLOCK}.attn_qkv",
            (GroupQkv(),),
            shape=(QKV, HIDDEN),
            bias=BIAS,
        ),
        Tensor(f"{LAYER}.self_attention.dense", f"{BLOCK}.attn_output", shape=(HIDDEN, HIDDEN), bias=BIAS),
        Tensor(f"{LAYER}.mlp.dense_h_to_4h", f"{BLOCK}.ffn_up", shape=(INNER, HIDDEN), bias=BIAS),
        Tensor(f"{LAYER}.mlp.dense_4h_to_h", f"{BLOCK}.ffn_down", shape=(HIDDEN, INNER), bias=BIAS),
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
    aliases=("RWForCausalLM",),
    settings=(
        Setting("alibi", False),
        Setting("bias", has("attn_qkv.bias")),
        Setting("parallel_attn", True),
        Setting("multi_query", lambda file: file.own.integer("attention.head_count_kv", 1) == 1),
        Setting("new_decoder_architecture", lambda file: file.own.integer("attention.head_count_kv", 1) > 1),
        Setting("num_kv_heads", lambda file: file.own.integer("attention.head_count_kv", 1)),
        Setting("num_ln_in_parallel_attn", _norms),
    ),
    harmless=HARMLESS,
    expects=(Setting("activation", "gelu"), Setting("ff_factor", 4)),
    limits=(*unset("gguf", "bias"), unknown_to_mlx("falcon")),
)
