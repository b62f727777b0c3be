"""The gpt_neox architecture (GPT-NeoX, Pythia): q, k, v in one matrix, head by head.

Source: llama.cpp's conversion of GPTNeoXForCausalLM; mlx-lm's gpt_neox.
"""

from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import NORM
from quantcli.models.harmless import Harmless
from quantcli.models.keys import BLOCKS, CONTEXT, EMBEDDING, FEED_FORWARD, HEADS, ROPE_DIMENSIONS, Key, layer_norm_eps
from quantcli.models.ops import GroupQkv, Op
from quantcli.models.rope_settings import theta_of
from quantcli.models.sizes import ALWAYS, HIDDEN, INNER, VOCAB, Axes, Need, flag
from quantcli.models.stored import OMITTED, Setting, Stored, has
from quantcli.tokenizers import conventions

BIAS = flag("attention_bias", True)

#: Modules of a layer, Hugging Face's name -> GGUF's name, operations, axes, and when they have a bias.
MODULES: dict[str, tuple[str, tuple[Op, ...], Axes, Need]] = {
    "input_layernorm": ("attn_norm", (), NORM, ALWAYS),
    "post_attention_layernorm": ("ffn_norm", (), NORM, ALWAYS),
    "attention.query_key_value": ("attn_qkv", (GroupQkv(),), (3 * HIDDEN, HIDDEN), BIAS),
    "attention.dense": ("attn_output", (), (HIDDEN, HIDDEN), BIAS),
    "mlp.dense_h_to_4h": ("ffn_up", (), (INNER, HIDDEN), ALWAYS),
    "mlp.dense_4h_to_h": ("ffn_down", (), (HIDDEN, INNER), ALWAYS),
}

GPT_NEOX = Architecture(
    name="gpt_neox",
    gguf="gptneox",
    model_types={
        "gpt_neox": {
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "partial_rotary_factor": 0.25,
            "use_parallel_residual": True,
            "attention_bias": True,
        }
    },
    tensors=(
        Tensor("gpt_neox.embed_in", "token_embd", mlx="model.embed_in", suffixes=("weight",), shape=(VOCAB, HIDDEN)),
        Tensor("gpt_neox.final_layer_norm", "output_norm", mlx="model.final_layer_norm", shape=NORM, bias=ALWAYS),
        Tensor(
            "embed_out", "output", mlx="model.embed_out", suffixes=("weight",), optional=True, shape=(VOCAB, HIDDEN)
        ),
        *(
            Tensor(
                f"gpt_neox.layers.{{i}}.{hf}",
                f"blk.{{i}}.{gguf}",
                ops,
                mlx=f"model.h.{{i}}.{hf}",
                shape=shape,
                bias=bias,
            )
            for hf, (gguf, ops, shape, bias) in MODULES.items()
        ),
    ),
    names={"kv_heads": ("num_attention_heads",), "partial": ("rotary_pct", "partial_rotary_factor")},
    keys=(
        CONTEXT,
        EMBEDDING,
        BLOCKS,
        FEED_FORWARD,
        ROPE_DIMENSIONS,
        HEADS,
        Key("use_parallel_residual", "bool", "use_parallel_residual", required=True),
        layer_norm_eps("layer_norm_eps"),
    ),
    states_file_type=False,
    classes={"gpt_neox": "GPTNeoXForCausalLM"},
    settings=(
        Setting("hidden_act", "gelu"),
        Setting("attention_bias", has("attn_qkv.bias")),
        Setting("rotary_emb_base", theta_of),
        Setting("rotary_pct", Stored.rotary_share),
        Setting("rope_theta", OMITTED),
    ),
    harmless={
        "num_key_value_heads": Harmless("not a key of this family, in which every head has its own keys and values")
    },
    expects=(Setting("hidden_act", ("gelu", "gelu_fast", "gelu_new")),),
    vocabulary=conventions.GPT_NEOX,
    stores_head=("gguf", "mlx"),
    mlx_names={"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"},
)
