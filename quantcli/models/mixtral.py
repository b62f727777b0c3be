"""Mixtral: llama with routed experts, in GGUF a llama that has an expert count.

Source: llama.cpp's conversion of MixtralForCausalLM; mlx-lm's mixtral.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import INVERSE_FREQUENCIES, PRE_NORMS, attention, ends, experts, norm_rows, rows

MOE = "block_sparse_moe"

MIXTRAL = Architecture(
    name="mixtral",
    gguf="llama",
    when=lambda metadata: bool(metadata.get("expert_count")),
    model_types={"mixtral": {}},
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS),
        *attention(permute=True),
        *rows({f"{MOE}.gate": "ffn_gate_inp"}),
        *experts({"w1": "gate", "w3": "up", "w2": "down"}, hf=f"{MOE}.experts", mlx=f"{MOE}.switch_mlp"),
    ),
    dropped=INVERSE_FREQUENCIES,
    keys=("vocab_size", "rope.dimension_count"),
)
