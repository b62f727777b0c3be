"""The deepseek_v32 architecture (DeepSeek V3.2): deepseek_v3 with an indexer that selects the tokens to attend to.

GGUF keeps the layer for multi-token prediction, unlike DeepSeek V3's.

Source: llama.cpp's conversion of DeepseekV32ForCausalLM; mlx-lm's deepseek_v32; transformers' DeepseekV32Config.
"""

from dataclasses import replace
from typing import Any

from quantcli.models.base import Tensor
from quantcli.models.decoder import BLOCK, LAYER, norm
from quantcli.models.families.deepseek import (
    DEEPSEEK_V3,
    FOLLOWING,
    FURTHER,
    KEYS,
    LATENT,
    MLX_KEYS,
    Q_RANK,
    RANKS,
    V3_DEFAULTS,
    first_dense,
    kinds_of_mlp,
)
from quantcli.models.families.glm4_moe import ALL_BLOCKS
from quantcli.models.keys import Key
from quantcli.models.limits import unset
from quantcli.models.sizes import ALWAYS, HIDDEN, Axes, Need, setting
from quantcli.models.stored import Setting

INDEX_HEADS, INDEX_SIZE = setting("index_n_heads"), setting("index_head_dim")
INDEXER: dict[str, tuple[str, Axes]] = {
    "wq_b": ("attn_q_b", (INDEX_HEADS * INDEX_SIZE, Q_RANK)),
    "wk": ("attn_k", (INDEX_SIZE, HIDDEN)),
    "weights_proj": ("proj", (INDEX_HEADS, HIDDEN)),
}


def indexer(needed: Need = ALWAYS) -> tuple[Tensor, ...]:
    """Return the rows for an indexer. needed: which layers have one."""
    hf, gguf = f"{LAYER}.self_attn.indexer", f"{BLOCK}.indexer"
    matrices = tuple(
        Tensor(f"{hf}.{name}", f"{gguf}.{theirs}", (), ("weight",), shape=shape)
        for name, (theirs, shape) in INDEXER.items()
    )
    both = (*matrices, *norm(f"{hf}.k_norm", f"{gguf}.k_norm", bias=True, shape=(INDEX_SIZE,)))
    return both if needed is ALWAYS else tuple(replace(row, optional=True, needed=needed, bias=needed) for row in both)


NEXTN = Key("nextn_predict_layers", "uint32", "num_nextn_predict_layers")
INDEX_KEYS = (
    Key("attention.indexer.head_count", "uint32", "index_n_heads"),
    Key("attention.indexer.key_length", "uint32", "index_head_dim"),
    Key("attention.indexer.top_k", "uint32", "index_topk"),
)
#: Defaults of the class in addition to V3's.
SPARSE_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 163840,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 64,
    "first_k_dense_replace": first_dense(3),
}

DEEPSEEK_V32 = replace(
    DEEPSEEK_V3,
    name="deepseek_v32",
    gguf="deepseek32",
    when=None,
    model_types={"deepseek_v32": V3_DEFAULTS | SPARSE_DEFAULTS},
    tensors=(*DEEPSEEK_V3.tensors, *indexer()),
    mtp=("hf", "gguf"),
    keys=(ALL_BLOCKS, *KEYS[1:], *LATENT),
    further=(*RANKS, *FURTHER, NEXTN, *INDEX_KEYS),
    classes={"deepseek_v32": "DeepseekV32ForCausalLM"},
    expects=(
        *DEEPSEEK_V3.expects,
        *FOLLOWING,
        Setting("indexer_rope_interleave", False),
        Setting("layer_types", lambda file: ["indexed_attention"] * file.trunk),
    ),
    settings=(*DEEPSEEK_V3.settings, Setting("mlp_layer_types", kinds_of_mlp)),
    harmless={},
    limits=unset("gguf", "attention_bias"),
    mlx_keys=MLX_KEYS,
)
