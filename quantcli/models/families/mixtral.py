"""The mixtral architecture: llama with routed experts; in GGUF, a llama with an expert count.

Source: llama.cpp's conversion of MixtralForCausalLM; mlx-lm's mixtral.
"""

from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import (
    BLOCK,
    LAYER,
    PERMUTED,
    PRE_NORMS,
    attention,
    ends,
    experts,
    fused_experts,
    norm_rows,
    rows,
)
from quantcli.models.keys import GATING, HEAD_SIZES, RMS_EPS, ROPE, ROPE_DIMENSIONS, SIZES, VOCAB_SIZE, expert_keys
from quantcli.models.limits import square
from quantcli.models.sizes import HIDDEN, INNER, N_EXPERTS, Need
from quantcli.models.stored import Setting

MOE = "block_sparse_moe"
#: Every layer has experts; in GGUF the number of experts distinguishes this family from llama.
ROUTED = Need("num_local_experts", lambda h, layer: True)


def mixture(router: str) -> tuple[Tensor, ...]:
    """Return the rows for the router and the experts.

    router: the router's module in transformers 5, which folders that it saves may have.
    """
    gate = f"{MOE}.gate"
    names = {"w1": "gate", "w3": "up", "w2": "down"}
    shape = (N_EXPERTS, HIDDEN)
    return (
        *rows({gate: "ffn_gate_inp"}, needed=ROUTED, shapes={gate: shape}),
        *experts(names, hf=f"{MOE}.experts", mlx=f"{MOE}.switch_mlp", width=INNER, needed=ROUTED),
        *fused_experts("mlp.experts", width=INNER),
        Tensor(f"{LAYER}.{router}.weight", f"{BLOCK}.ffn_gate_inp", suffixes=("weight",), read_only=True, shape=shape),
    )


MIXTRAL = Architecture(
    name="mixtral",
    gguf="llama",
    when=lambda metadata: bool(metadata.get("expert_count")),
    model_types={
        "mixtral": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "rope_theta": 1e6,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        }
    },
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS),
        *attention(PERMUTED),
        *mixture("mlp.gate"),
    ),
    states_space_prefix=True,
    keys=(*SIZES, *ROPE, RMS_EPS, *expert_keys("num_local_experts"), *HEAD_SIZES),
    further=(VOCAB_SIZE, ROPE_DIMENSIONS),
    classes={"mixtral": "MixtralForCausalLM"},
    settings=(Setting("hidden_act", "silu"), Setting("sliding_window", None)),
    constants={"expert_gating_func": GATING["softmax"], "expert_weights_norm": True},
    limits=square("mlx"),
)
