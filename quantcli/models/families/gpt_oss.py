"""The gpt_oss architecture: stacked experts with gate and up interleaved, attention sinks, biases everywhere.

    experts.gate_up_proj   (experts, in, 2 * out)   columns gate 0, up 0, gate 1, up 1 ...   in bf16
    experts.down_proj      (experts, in, out)

Source: llama.cpp's conversion of GptOssForCausalLM; mlx-lm's gpt_oss.
"""

from typing import Any

from quantcli.models.base import EVERY_KIND, Architecture, Tensor
from quantcli.models.decoder import BLOCK, LAYER, attention, ends, norm_rows, rows
from quantcli.models.keys import HEAD_SIZES, RMS_EPS, ROPE, SIZES, SLIDING_WINDOW, Key, expert_keys
from quantcli.models.layouts import Range
from quantcli.models.ops import Op, Take, Transpose
from quantcli.models.rope_settings import rope_scaling
from quantcli.models.sixteen_bits import OVERFLOWS, bf16_only
from quantcli.models.sizes import ALWAYS, HIDDEN, INNER, N_EXPERTS, N_HEADS, Axes, flag
from quantcli.models.stored import Setting, Stored, has, kinds_of_layers

EXPERTS = f"{LAYER}.mlp.experts"
#: A row of MXFP4 blocks (`experts.gate_up_proj_blocks`) is an output, a row of dense tensors an input.
TRANSPOSED = Transpose(unless="mxfp4")
#: The first row of gate and of up in the tensor that they share.
STARTS = {"gate": 0, "up": 1}


def _expert(hf: str, kind: str, suffix: str, shape: Axes, ops: tuple[Op, ...] = ()) -> Tensor:
    """Return the row for a tensor of the experts, with complete names; MLX has GGUF's arrangement."""
    mlx, joined = f"{EXPERTS}.{kind}_proj.{suffix}", Range(f"{BLOCK}.ffn_gate_up_exps.{suffix}")
    also = (joined,) if kind in STARTS else ()
    return Tensor(
        f"{EXPERTS}.{hf}", f"{BLOCK}.ffn_{kind}_exps.{suffix}", ops, ("",), mlx, ops, also=also,
        shape=(N_EXPERTS, *shape),
    )  # fmt: skip


SCALING = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def _layer_types(file: Stored) -> list[str]:
    """Return `layer_types`; llama.cpp's default is that every second layer attends to all."""
    made: list[str] = kinds_of_layers(file, 2)
    return made


def _scaling(file: Stored) -> dict[str, Any] | None:
    """Return `rope_scaling`, for YaRN with `truncate` false, which all of these models have and GGUF has no key for."""
    made = rope_scaling(file)
    return made | {"truncate": False} if made and made["rope_type"] == "yarn" else made


GPT_OSS = Architecture(
    name="gpt_oss",
    gguf="gpt-oss",
    mlx_schemes={"ffn_gate_inp": "affine8-g64"},
    model_types={
        "gpt_oss": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "rope_theta": 150000.0,
            "rope_scaling": SCALING,
            "sliding_window": 128,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "attention_bias": True,
        }
    },
    tensors=(
        *ends(),
        *norm_rows({"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm"}),
        *attention(bias=flag("attention_bias", True)),
        Tensor(f"{LAYER}.self_attn.sinks", f"{BLOCK}.attn_sinks.weight", suffixes=("",), shape=(N_HEADS,)),
        *rows({"mlp.router": "ffn_gate_inp"}, bias=ALWAYS, shapes={"mlp.router": (N_EXPERTS, HIDDEN)}),
        *(
            _expert("gate_up_proj", kind, "weight", (HIDDEN, 2 * INNER), (TRANSPOSED, Take(at, step=2)))
            for kind, at in STARTS.items()
        ),
        _expert("down_proj", "down", "weight", (INNER, HIDDEN), (TRANSPOSED,)),
        *(_expert("gate_up_proj_bias", kind, "bias", (2 * INNER,), (Take(at, step=2),)) for kind, at in STARTS.items()),
        _expert("down_proj_bias", "down", "bias", (HIDDEN,)),
    ),
    keys=(*SIZES, *ROPE, RMS_EPS, *expert_keys("num_local_experts"), *HEAD_SIZES),
    further=(SLIDING_WINDOW, Key("expert_feed_forward_length", "uint32", lambda h: h.feed_forward_length)),
    classes={"gpt_oss": "GptOssForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("layer_types", _layer_types),
        Setting("rope_scaling", _scaling),
        Setting("swiglu_limit", 7.0),
    ),
    expects=(Setting("swiglu_alpha", 1.702),),
    constants={"expert_gating_func": 3},
    # onnxruntime-genai#2444 (the last layers exceed 65504), unsloth's FORCE_FLOAT32.
    sixteen_bits=bf16_only(OVERFLOWS),
    stores_head=("gguf", "mlx"),
    mlx_scaling=EVERY_KIND,
)
