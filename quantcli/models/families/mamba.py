"""The mamba architecture: no attention, a state space model in every layer.

Source: llama.cpp's conversion of MambaForCausalLM; mlx-lm's mamba.
"""

from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import NORM
from quantcli.models.harmless import Harmless
from quantcli.models.keys import BLOCKS, EMBEDDING, RMS_EPS, Key
from quantcli.models.limits import unset
from quantcli.models.ops import DropAxis, MoveAxis, NegExp
from quantcli.models.sizes import ALWAYS, HIDDEN, INNER, ONE, VOCAB, flag, setting
from quantcli.models.stored import OMITTED, Setting, has
from quantcli.tokenizers import conventions

#: The key for norms of B, C and the time step, which falcon_mamba has.
NORMS = "ssm.dt_b_c_rms"
MIXER = "backbone.layers.{i}.mixer"

BIAS = flag("use_bias")
RANK, STATE = setting("time_step_rank"), setting("state_size")

#: Keys that belong to other families.
HARMLESS = {
    "max_position_embeddings": Harmless("not a setting of this family; llama.cpp's converter writes a fixed value"),
    **dict.fromkeys(
        ("num_attention_heads", "num_key_value_heads"), Harmless("not a key of this family, which has no attention")
    ),
}

MAMBA = Architecture(
    name="mamba",
    gguf="mamba",
    model_types={
        "mamba": {
            "layer_norm_epsilon": 1e-5,
            "state_size": 16,
            "conv_kernel": 4,
            "intermediate_size": lambda config: config.integer("expand", 2) * config.integer("hidden_size"),
            "time_step_rank": lambda config: -(-config.integer("hidden_size") // 16),
            "tie_word_embeddings": True,
            "use_conv_bias": True,
        }
    },
    tensors=(
        Tensor("backbone.embeddings", "token_embd", suffixes=("weight",), shape=(VOCAB, HIDDEN)),
        Tensor("backbone.norm_f", "output_norm", suffixes=("weight",), shape=NORM),
        Tensor("lm_head", "output", suffixes=("weight",), optional=True, shape=(VOCAB, HIDDEN)),
        Tensor("backbone.layers.{i}.norm", "blk.{i}.attn_norm", suffixes=("weight",), shape=NORM),
        Tensor(f"{MIXER}.in_proj", "blk.{i}.ssm_in", shape=(2 * INNER, HIDDEN), bias=BIAS),
        Tensor(
            f"{MIXER}.conv1d",
            "blk.{i}.ssm_conv1d",
            (DropAxis(1),),
            suffixes=("weight",),
            mlx_ops=(MoveAxis(),),
            shape=(INNER, ONE, setting("conv_kernel")),
        ),
        Tensor(
            f"{MIXER}.conv1d",
            "blk.{i}.ssm_conv1d",
            suffixes=("bias",),
            shape=(INNER,),
            bias=flag("use_conv_bias", True),
        ),
        Tensor(f"{MIXER}.x_proj", "blk.{i}.ssm_x", shape=(RANK + 2 * STATE, INNER)),
        Tensor(f"{MIXER}.dt_proj", "blk.{i}.ssm_dt", shape=(INNER, RANK), bias=ALWAYS),
        Tensor(f"{MIXER}.A_log", "blk.{i}.ssm_a", (NegExp(),), suffixes=("",), shape=(INNER, STATE)),
        Tensor(f"{MIXER}.D", "blk.{i}.ssm_d", suffixes=("",), shape=(INNER,)),
        Tensor(f"{MIXER}.out_proj", "blk.{i}.ssm_out", shape=(HIDDEN, INNER), bias=BIAS),
    ),
    names={"context_length": (), "heads": (), "kv_heads": ()},
    keys=(
        Key("context_length", "uint32", lambda h: 1 << 20),
        EMBEDDING,
        Key("feed_forward_length", "uint32", lambda h: 0),
        Key("attention.head_count", "uint32", lambda h: 0),
        BLOCKS,
        Key("ssm.conv_kernel", "uint32", "conv_kernel"),
        Key("ssm.inner_size", "uint32", "intermediate_size"),
        Key("ssm.state_size", "uint32", "state_size"),
        Key("ssm.time_step_rank", "uint32", "time_step_rank"),
        Key(RMS_EPS.name, RMS_EPS.type, lambda h: h.norm_eps, "layer_norm_epsilon"),
        Key(NORMS, "bool", lambda h: False),
    ),
    classes={"mamba": "MambaForCausalLM"},
    aliases=("MambaLMHeadModel",),
    settings=(
        Setting("hidden_act", "silu"),
        Setting("expand", lambda file: file.own.integer("ssm.inner_size") // file.own.integer("embedding_length")),
        Setting("residual_in_fp32", True),
        Setting("use_bias", has("ssm_in.bias")),
        Setting("use_conv_bias", has("ssm_conv1d.bias")),
        Setting("rope_theta", OMITTED),
        Setting("rope_scaling", OMITTED),
    ),
    harmless=HARMLESS,
    expects=(
        Setting("d_inner", lambda file: file.own.integer("ssm.inner_size")),
        Setting("d_model", lambda file: file.own.integer("embedding_length")),
        Setting("rms_norm", True),
    ),
    vocabulary=conventions.MAMBA,
    limits=unset("gguf", "use_bias"),
)
