"""The gpt_oss architecture: stacked experts with gate and up interleaved, attention sinks, biases everywhere.

    experts.gate_up_proj   (experts, in, 2 * out)   columns gate 0, up 0, gate 1, up 1 ...   as bf16
    experts.down_proj      (experts, in, out)

Source: llama.cpp's conversion of GptOssForCausalLM; mlx-lm's gpt_oss.
"""

from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import BLOCK, LAYER, attention, ends, norm_rows, rows
from quantcli.models.ops import Op, Take, Transpose

EXPERTS = f"{LAYER}.mlp.experts"
#: Where gate and up stand among the rows of what they share.
STARTS = {"gate": 0, "up": 1}


def _expert(hf: str, kind: str, suffix: str, ops: tuple[Op, ...] = ()) -> Tensor:
    """An expert tensor under whole names; MLX has GGUF's arrangement."""
    mlx = f"{EXPERTS}.{kind}_proj.{suffix}"
    return Tensor(f"{EXPERTS}.{hf}", f"{BLOCK}.ffn_{kind}_exps.{suffix}", ops, ("",), mlx, ops)


GPT_OSS = Architecture(
    name="gpt_oss",
    gguf="gpt-oss",
    model_types={"gpt_oss": {}},
    tensors=(
        *ends(),
        *norm_rows({"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm"}),
        *attention(),
        Tensor(f"{LAYER}.self_attn.sinks", f"{BLOCK}.attn_sinks.weight", suffixes=("",)),
        *rows({"mlp.router": "ffn_gate_inp"}),
        *(_expert("gate_up_proj", kind, "weight", (Transpose(), Take(at, step=2))) for kind, at in STARTS.items()),
        _expert("down_proj", "down", "weight", (Transpose(),)),
        *(_expert("gate_up_proj_bias", kind, "bias", (Take(at, step=2),)) for kind, at in STARTS.items()),
        _expert("down_proj_bias", "down", "bias"),
    ),
)
