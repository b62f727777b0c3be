"""The fledgling architecture, made up: llama with a gate on what attention gives, and norms that are stored less one.

A real family states its sources here: llama.cpp's conversion of its class, mlx-lm's model of its type.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import PERMUTED, decoder, rows
from quantcli.models.keys import VOCAB_SIZE, Key
from quantcli.models.ops import AddOne
from quantcli.models.sizes import HIDDEN, QUERIES
from quantcli.models.stored import Setting

GATE = "self_attn.gate_proj"

FLEDGLING = Architecture(
    name="fledgling",
    gguf="fledgling",
    # What its class assumes for keys that config.json leaves out.
    model_types={"fledgling": {"rms_norm_eps": 1e-6, "num_key_value_heads": 8}},
    tensors=(
        *decoder(rotary=PERMUTED, norm_ops=(AddOne(),)),
        *rows({GATE: "attn_gate"}, shapes={GATE: (QUERIES, HIDDEN)}),
    ),
    further=(VOCAB_SIZE, Key("attention.gate_scale", "float32", "gate_scale")),
    classes={"fledgling": "FledglingForCausalLM"},
    settings=(Setting("hidden_act", "silu"),),
)
