"""`rope_scaling` for a rebuilt config.json, from GGUF's keys and from the tensors with rotary factors.

Source: llama.cpp (conversion/base.py, src/llama-model.cpp); transformers' modeling_rope_utils.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from quantcli.errors import BadInput
from quantcli.models.rope import llama3_from_factors, longrope_attention
from quantcli.models.stored import Stored, decimal

#: A factor by which llama.cpp multiplies attention, in addition to the one of the scaling.
ATTN_FACTOR = "rope.scaling.attn_factor"

#: Architecture for which llama.cpp reads `yarn_log_multiplier` -> `mscale_all_dim` divided by it.
MULTIPLIERS = {"deepseek2": 10, "deepseek32": 10, "mistral3": 1}


def theta_of(file: Stored) -> float:
    """Return the rotary base; llama.cpp's default if a file has none."""
    theta = file.number("rope.freq_base")
    return 10000.0 if theta is None else theta


#: llama.cpp's kinds of scaling. `longrope` and Llama 3's are stored as tensors.
KINDS = ("none", "linear", "yarn", "longrope")


def rope_scaling(file: Stored) -> dict[str, Any] | None:
    """Return `rope_scaling` from the keys, or from factors in tensors; None if there is no scaling.

    Keys that are not read here have no effect on it, or no equivalent in config.json: see `unsaid`. Raises `BadInput`.
    """
    kind = file.own.text("rope.scaling.type", "linear")
    if kind not in KINDS:
        raise file.own.refuse("rope.scaling.type", f"expected one of {', '.join(KINDS)}")
    if file.holds("rope_factors_long.weight"):
        return _longrope(file)
    if file.holds("rope_freqs.weight"):
        rope = llama3_from_factors(file.values("rope_freqs.weight"), theta_of(file))
        return None if rope is None else _named(
            "llama3", factor=rope.factor, low_freq_factor=rope.low_freq_factor,
            high_freq_factor=rope.high_freq_factor, original_max_position_embeddings=rope.original_context,
        )  # fmt: skip
    factor = None if kind == "none" else _factor(file)
    if factor is None:
        return None
    return _named("yarn", **_yarn(file, factor)) if kind == "yarn" else _named("linear", factor=factor)


def by_kind_of_layer(file: Stored) -> dict[str, Any]:
    """Return `rope_parameters` by kind of layer; layers with a window have another base and no scaling."""
    theta = theta_of(file)
    local = file.number("rope.freq_base_swa")
    full = {key: value for key, value in (rope_scaling(file) or {"rope_type": "default"}).items() if key != "type"}
    return {
        "full_attention": {"rope_theta": theta, **full},
        "sliding_attention": {"rope_theta": theta if local is None else local, "rope_type": "default"},
    }


def _factor(file: Stored) -> float | None:
    """Return the factor by which positions are divided, under its new or old name; None for 0, which is no scaling."""
    return file.number(file.own.first("rope.scaling.factor", "rope.scale_linear")) or None


def _longrope(file: Stored) -> dict[str, Any]:
    """Return both lists of factors, and the attention factor if it is not the one that the class computes."""
    stated, context = file.number(ATTN_FACTOR), file.own.integer("context_length")
    original = file.own.integer("rope.scaling.original_context_length", context)
    usual = 1.0 if original < 2 or original >= context else longrope_attention(context, original)
    factor = 1.0 if stated is None else stated
    return _named(
        "longrope", long_factor=_factors(file, "long"), short_factor=_factors(file, "short"),
        attention_factor=None if math.isclose(factor, usual, rel_tol=1e-6) else factor,
    )  # fmt: skip


def scaling_with_sections(file: Stored) -> dict[str, Any] | None:
    """Return `rope_scaling` for models that may have M-RoPE, with its sections, as in the text model of releases."""
    made, sections = rope_scaling(file), sections_of(file)
    return (made or _named("default")) | {"mrope_section": sections} if sections else made


def sections_of(file: Stored) -> list[int]:
    """Return the sections of M-RoPE as releases have them; [] if there are none. Raises `BadInput`."""
    key = "rope.dimension_sections"
    value = file.own.values.get(key)
    # One number applies to all four.
    sections = file.own.integers(key) if isinstance(value, list | tuple) else (file.own.integer(key, 0, least=0),) * 4
    if len(sections) != 4:
        raise BadInput(f"{file.own.label}: {key}: expected 4 values, found {len(sections)}.")
    return list(sections if any(sections[3:]) else sections[:3]) if any(sections) else []


def parameters(share: bool = False) -> Callable[[Stored], dict[str, Any]]:
    """Return a function that makes `rope_parameters`, for classes that read only that.

    share: whether it includes the share of a head that is rotated.
    """

    def made(file: Stored) -> dict[str, Any]:
        partial = {"partial_rotary_factor": file.rotary_share()} if share else {}
        scaling = {key: value for key, value in (scaling_with_sections(file) or {}).items() if key != "type"}
        return {"rope_theta": theta_of(file), "rope_type": "default"} | scaling | partial

    return made


def _named(kind: str, **settings: Any) -> dict[str, Any]:
    """Return settings with their kind under both names: some readers read only the older one."""
    return {"rope_type": kind, "type": kind} | {key: value for key, value in settings.items() if value is not None}


def _factors(file: Stored, which: str) -> list[float]:
    return [decimal(value) for value in file.values(f"rope_factors_{which}.weight")]


def _yarn(file: Stored, factor: float) -> dict[str, Any]:
    scaling = "rope.scaling."
    times = MULTIPLIERS.get(file.every.text("general.architecture", ""))
    multiplier = file.number(f"{scaling}yarn_log_multiplier") or None if times else None
    # Releases have the same number under two keys.
    mscale = None if multiplier is None or times is None else float(f"{times * multiplier:.6g}")
    extrapolation, attention = (file.number(f"{scaling}yarn_{name}_factor") for name in ("ext", "attn"))
    if extrapolation is not None and extrapolation < 0:
        # llama.cpp's model saver writes -1 for "not set"; the attention factor then follows from the factor.
        extrapolation, attention = None, None if attention == 1 else attention
    if mscale is None and (plain := file.number(ATTN_FACTOR)) not in (None, 1.0):
        attention = plain * (attention or 0.1 * math.log(max(factor, 1.0)) + 1)
    return {
        "factor": factor,
        "original_max_position_embeddings": file.own.optional_integer(f"{scaling}original_context_length"),
        "beta_fast": file.number(f"{scaling}yarn_beta_fast"),
        "beta_slow": file.number(f"{scaling}yarn_beta_slow"),
        "attention_factor": attention,
        "extrapolation_factor": extrapolation,
        "mscale": mscale,
        "mscale_all_dim": mscale,
    }
