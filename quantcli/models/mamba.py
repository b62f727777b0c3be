"""The mamba architecture: no attention, a state space model in every layer.

Source: llama.cpp's conversion of MambaForCausalLM; mlx-lm's mamba.
"""

from quantcli.models.base import Architecture, Tensor
from quantcli.models.ops import DropAxis, MoveAxis, NegExp

MIXER = "backbone.layers.{i}.mixer"

MAMBA = Architecture(
    name="mamba",
    gguf="mamba",
    model_types={"mamba": {}},
    tensors=(
        Tensor("backbone.embeddings", "token_embd", suffixes=("weight",)),
        Tensor("backbone.norm_f", "output_norm", suffixes=("weight",)),
        Tensor("lm_head", "output", suffixes=("weight",), optional=True),
        Tensor("backbone.layers.{i}.norm", "blk.{i}.attn_norm", suffixes=("weight",)),
        Tensor(f"{MIXER}.in_proj", "blk.{i}.ssm_in"),
        Tensor(f"{MIXER}.conv1d", "blk.{i}.ssm_conv1d", (DropAxis(1),), suffixes=("weight",), mlx_ops=(MoveAxis(),)),
        Tensor(f"{MIXER}.conv1d", "blk.{i}.ssm_conv1d", suffixes=("bias",)),
        Tensor(f"{MIXER}.x_proj", "blk.{i}.ssm_x"),
        Tensor(f"{MIXER}.dt_proj", "blk.{i}.ssm_dt"),
        Tensor(f"{MIXER}.A_log", "blk.{i}.ssm_a", (NegExp(),), suffixes=("",)),
        Tensor(f"{MIXER}.D", "blk.{i}.ssm_d", suffixes=("",)),
        Tensor(f"{MIXER}.out_proj", "blk.{i}.ssm_out"),
    ),
)
