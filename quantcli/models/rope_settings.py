"""`rope_scaling` of a rebuilt config.json, from GGUF's keys and from the tensors that hold rotary factors.

Source: llama.cpp (conversion/base.py, src/llama-model.cpp); transformers' modeling_rope_utils.
"""

from __future__ import annotations

from typing import Any

from quantcli.models.rope import llama3_from_factors
from quantcli.models.stored import Stored, decimal


def theta_of(file: Stored) -> float:
    """The rotary base; llama.cpp's where a file names none."""
    theta = file.number("rope.freq_base")
    return 10000.0 if theta is None else theta


def rope_scaling(file: Stored) -> dict[str, Any] | None:
    """`rope_scaling` from the keys, or from the factors that stand in tensors; None where there is no scaling."""
    kind = file.own.text("rope.scaling.type", "none")
    if file.holds("rope_factors_long.weight"):
        return _named("longrope", long_factor=_factors(file, "long"), short_factor=_factors(file, "short"))
    if file.holds("rope_freqs.weight"):
        rope = llama3_from_factors(file.values("rope_freqs.weight"), theta_of(file))
        return None if rope is None else _named(
            "llama3", factor=rope.factor, low_freq_factor=rope.low_freq_factor,
            high_freq_factor=rope.high_freq_factor, original_max_position_embeddings=rope.original_context,
        )  # fmt: skip
    if kind == "linear":
        return _named("linear", factor=file.number("rope.scaling.factor"))
    if kind == "yarn":
        return _named("yarn", **_yarn(file))
    return None


def scaling_with_sections(file: Stored) -> dict[str, Any] | None:
    """`rope_scaling` of models that may have M-RoPE: with its sections, as the text part of their releases has them."""
    made, key = rope_scaling(file), "rope.dimension_sections"
    value = file.own.values.get(key)
    #: One number counts for each of the four.
    sections = file.own.integers(key) if isinstance(value, list | tuple) else (file.own.integer(key, 0, least=0),) * 4
    if not any(sections):
        return made
    return (made or _named("default")) | {"mrope_section": list(sections[:3] if not any(sections[3:]) else sections)}


def _named(kind: str, **settings: Any) -> dict[str, Any]:
    """Under both names that the kind has had: some readers know the older one only."""
    return {"rope_type": kind, "type": kind} | {key: value for key, value in settings.items() if value is not None}


def _factors(file: Stored, which: str) -> list[float]:
    return [decimal(value) for value in file.values(f"rope_factors_{which}.weight")]


def _yarn(file: Stored) -> dict[str, Any]:
    scaling = "rope.scaling."
    multiplier = file.number(f"{scaling}yarn_log_multiplier")
    # llama.cpp's multiplier is a tenth of what the config says, which DeepSeek says twice.
    mscale = None if multiplier is None else float(f"{10 * multiplier:.6g}")
    return {
        "factor": file.number(f"{scaling}factor"),
        "original_max_position_embeddings": file.own.optional_integer(f"{scaling}original_context_length"),
        "beta_fast": file.number(f"{scaling}yarn_beta_fast"),
        "beta_slow": file.number(f"{scaling}yarn_beta_slow"),
        "attention_factor": file.number(f"{scaling}yarn_attn_factor"),
        "extrapolation_factor": file.number(f"{scaling}yarn_ext_factor"),
        "mscale": mscale,
        "mscale_all_dim": mscale,
    }
