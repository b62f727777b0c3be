"""Every scheme, as `quant schemes` tells it: what it costs, what it holds, where it can be put, who reads it.

Sizes, grids and rounding come from the schemes themselves, places from the targets; a table says who reads a family.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from quantcli.arrays import DTYPES, FLOATS
from quantcli.convert.inspecting import hf_layouts
from quantcli.recipes.ftypes import demanding
from quantcli.recipes.names import canonical
from quantcli.schemes import ggml
from quantcli.schemes import hf as hugging_face
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense
from quantcli.schemes.ggml.blocks import Ggml
from quantcli.schemes.hf.awq import Awq
from quantcli.schemes.hf.bnb4 import Bnb4
from quantcli.schemes.hf.scaled import Scaled, Scales
from quantcli.schemes.hf.written import Written
from quantcli.schemes.mlx.affine import BITS, GROUPS, Affine
from quantcli.schemes.mlx.mx_floats import MODES, MxFloat
from quantcli.targets import TARGETS
from quantcli.targets.hf import FAMILIES

#: A shape that every scheme of matrices takes, on which sizes are counted.
SHAPE = (1024, 1024)

#: Who reads a family.
READERS = {
    "dense": ("mlx-lm", "llama.cpp", "transformers", "vLLM", "SGLang"),
    "mlx": ("mlx-lm", "LM Studio", "mlx-swift"),
    "ggml": ("llama.cpp", "Ollama", "LM Studio"),
    **hf_layouts.READERS,
}

#: The dtypes that a family leaves open for its scales; the first is the one that sizes are counted with.
SCALE_DTYPES = {"mlx": ("f16", "bf16", "f32"), "awq": ("f16", "bf16", "f32"), "ct": ("bf16", "f16", "f32")}


@dataclass(frozen=True)
class Entry:
    """One scheme. separate_scales: its scales are tensors of their own, not part of its blocks.

    bits: stored bits per weight, exact, scales included. scales: dtypes that its scales can have; two that are stored
    together are one, joined by `*`. zero_point: `integer`, `float` (a bias or minimum of its own), or None.
    group: values that share a scale. block: (values, bytes) of a GGML block. rounding: relative RMSE on a Gaussian.
    """

    name: str
    family: str
    bits: Fraction
    scales: tuple[str, ...]
    separate_scales: bool
    zero_point: str | None
    group: int | None
    block: tuple[int, int] | None
    needs_importance: bool
    targets: tuple[str, ...]
    readers: tuple[str, ...]
    rounding: float


def catalogue() -> list[Entry]:
    """All schemes, by family."""
    return [_entry(scheme) for scheme in _schemes()]


def _schemes() -> Iterator[Scheme]:
    yield from (Dense(dtype) for dtype in ("f32", "f16", "bf16"))
    yield from (Affine(bits, group, "f16") for bits in BITS for group in GROUPS)
    yield from (MxFloat(mode) for mode in MODES)
    yield from ggml.TYPES.values()
    yield from (_awq(group, symmetric=False, zeros_dtype="i32") for group in GROUPS)
    yield from (_awq(group, symmetric=True) for group in GROUPS)
    yield from hf_layouts.layouts(SHAPE)


def _awq(group: int, *, symmetric: bool, zeros_dtype: str | None = None) -> Awq:
    scales = Scales("f16", 1, group, turned=True)
    return Awq(columns=SHAPE[1], scales=scales, symmetric=symmetric, zeros_dtype=zeros_dtype)


def of_name(name: str) -> list[Entry]:
    """The schemes of a name, in all families, whether they are listed or not; empty where there is none."""
    found = [entry for entry in catalogue() if entry.name == name]
    scheme = hugging_face.named(name, "bf16", SHAPE) if canonical(name) else None
    return found or ([_entry(scheme)] if scheme is not None else [])


def _entry(scheme: Scheme) -> Entry:
    block = scheme.ggml_type if isinstance(scheme, Ggml) else None
    scales = _scales(scheme)
    return Entry(
        scheme.name,
        scheme.family,
        bits_per_weight(scheme),
        scales,
        bool(scales) and len(scheme.layout(SHAPE)) > 1,
        _zero_point(scheme),
        _group(scheme),
        (block.block_size, block.block_bytes) if block else None,
        scheme.family == "ggml" and scheme.name in demanding(),
        tuple(label for label in TARGETS if _holds(label, scheme)),
        READERS[scheme.family],
        scheme.rounding,
    )


def bits_per_weight(scheme: Scheme) -> Fraction:
    """Stored bits over weights, exact: what a weight has once (its shape, a scale for all) is not counted.

    >>> bits_per_weight(Affine(3, 64, "f16")), bits_per_weight(ggml.TYPES["q6_k"])
    (Fraction(7, 2), Fraction(105, 16))
    """
    parts = [part for part in scheme.layout(SHAPE).values() if part.axis is not None]
    return Fraction(sum(DTYPES[p.dtype].bits * math.prod(p.shape) for p in parts), math.prod(SHAPE))


def _scales(scheme: Scheme) -> tuple[str, ...]:
    if isinstance(scheme, Ggml) and scheme.ggml_type.sub_scales is not None:
        return (f"{scheme.ggml_type.sub_scales}*f16",)
    if isinstance(scheme, Bnb4):
        return ("u8*f32" if scheme.nested else "f32",)
    if isinstance(scheme, Written):
        own = scheme.scales.dtype
        return SCALE_DTYPES["ct"] if own in FLOATS else ("f8_e4m3" if scheme.looks else scheme.scales.grid_dtype,)
    grid = scheme.grid()
    if grid is None:
        return ()
    open_to = SCALE_DTYPES.get(scheme.family) if hasattr(scheme, "scale_dtype") else None
    return open_to or (grid.scale_dtype,)


def _group(scheme: Scheme) -> int | None:
    """Values of a row that share a scale; None where all of a row do, or none."""
    if isinstance(scheme, Scaled):
        return scheme.shared
    if isinstance(scheme, Ggml):
        return scheme.group
    grid = scheme.grid()
    return grid.group if grid else None


def _zero_point(scheme: Scheme) -> str | None:
    grid = scheme.grid()
    if grid is None or grid.zero is not None or grid.table is not None:
        return None
    return "integer" if grid.zero_points else "float"


def _holds(label: str, scheme: Scheme) -> bool:
    """Whether a target writes the scheme, or a Hugging Face one keeps its layout."""
    found = TARGETS[label]().scheme(scheme.name, "f16", SHAPE)
    return found == scheme or (label == "hf" and scheme.family in FAMILIES)


def decimal(bits: Fraction) -> str:
    """Exact: block sizes are powers of two.

    >>> decimal(Fraction(105, 16)), decimal(Fraction(32))
    ('6.5625', '32')
    """
    return f"{(Decimal(bits.numerator) / Decimal(bits.denominator)).normalize():f}"


def as_json(entry: Entry) -> dict[str, Any]:
    """A scheme as `schemes --json` prints it."""
    return {
        "name": entry.name,
        "family": entry.family,
        "bits_per_weight": float(entry.bits),
        "has_scale": bool(entry.scales),
        "separate_scales": entry.separate_scales,
        "scale_dtypes": list(entry.scales),
        "zero_point": entry.zero_point,
        "group_size": entry.group,
        "block_size": entry.block[0] if entry.block else None,
        "block_bytes": entry.block[1] if entry.block else None,
        "gguf": "gguf" in entry.targets,
        "needs_importance_matrix": entry.needs_importance,
        "targets": list(entry.targets),
        "readers": list(entry.readers),
        "rounding": entry.rounding,
    }
