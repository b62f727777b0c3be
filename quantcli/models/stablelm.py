"""The stablelm architecture (StableLM 3B, 2): norms with biases; the largest one has a norm for each head of q and k.

Source: llama.cpp's conversion of StableLmForCausalLM.
"""

from dataclasses import replace

from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import (
    BLOCK,
    GATED,
    INVERSE_FREQUENCIES,
    LAYER,
    PRE_NORMS,
    attention,
    ends,
    norm_rows,
    rows,
)

#: With parallel residuals there is no norm before the MLP. Head norms are one vector a head, stacked in GGUF.
NORMS = tuple(replace(row, optional="ffn_norm" in row.gguf) for row in norm_rows(PRE_NORMS, bias=True))
HEAD_NORMS = tuple(
    Tensor(
        f"{LAYER}.self_attn.{hf}_layernorm.norms.{{e}}", f"{BLOCK}.attn_{hf}_norm", suffixes=("weight",), optional=True
    )
    for hf in ("q", "k")
)

STABLELM = Architecture(
    name="stablelm",
    gguf="stablelm",
    model_types={"stablelm": {}},
    tensors=(*ends(bias=True), *NORMS, *attention(), *HEAD_NORMS, *rows(GATED)),
    dropped=INVERSE_FREQUENCIES,
)
