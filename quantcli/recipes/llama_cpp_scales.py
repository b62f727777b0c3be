"""The weights that llama.cpp multiplies by `X.scale`, the global scale of NVFP4, by `general.architecture`.

It reads such a tensor for most weights, but not every architecture's graph uses it: then results are silently wrong.
If it does not read the tensor, the file does not load.
Source: llama.cpp (llama-model.cpp: load_tensors; llama-graph.cpp: build_qkv; src/models).
"""

from __future__ import annotations

PARTS = ("gate", "up", "down")
ATTENTION = frozenset(("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "output"))
DENSE = frozenset(f"ffn_{part}" for part in PARTS)
EXPERTS = frozenset(f"ffn_{part}_exps" for part in PARTS)
SHARED = frozenset(f"ffn_{part}_shexp" for part in PARTS)
DELTA = frozenset(("attn_gate", "ssm_out", "ssm_alpha", "ssm_beta"))
#: In latent attention, only the last projection.
LATENT = frozenset(("attn_output", "output"))

#: Architecture -> roles of weights with a scale; ATTENTION for all other architectures.
APPLIED = {
    "cohere2": ATTENTION | DENSE,
    "cohere2moe": (ATTENTION | DENSE | EXPERTS | SHARED) - {"output"},
    "deepseek2": LATENT,
    "deepseek32": LATENT | DENSE | EXPERTS | SHARED,
    "glm-dsa": LATENT | DENSE | EXPERTS | SHARED,
    "hy_v3": ATTENTION | DENSE | EXPERTS | SHARED,
    "llama": ATTENTION | DENSE | EXPERTS,
    "mamba": frozenset(("ssm_in", "ssm_out", "output")),
    "mellum": ATTENTION | EXPERTS,
    "mistral3": ATTENTION | DENSE | EXPERTS,
    "qwen3": ATTENTION | DENSE,
    "qwen35": ATTENTION | DENSE | DELTA,
    "qwen35moe": ATTENTION | EXPERTS | SHARED | DELTA,
    "qwen3moe": ATTENTION | EXPERTS,
    "qwen3next": (ATTENTION | EXPERTS | SHARED) - {"attn_qkv"},
}


def applies_scale(architecture: str, role: str, is_predicting: bool = False) -> bool:
    """Return whether llama.cpp multiplies weights of a role by their `.scale`.

    is_predicting: in layers for multi-token prediction, where it never reads scales unless it predicts.

    >>> applies_scale("llama", "ffn_up"), applies_scale("qwen2", "ffn_up"), applies_scale("qwen2", "attn_q")
    (True, False, True)
    """
    return not is_predicting and role in APPLIED.get(architecture, ATTENTION)
