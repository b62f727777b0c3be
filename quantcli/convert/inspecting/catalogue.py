"""Every scheme for `quant schemes`: what it costs, what it stores, which targets hold it, what reads it.

All facts come from the schemes and the targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from quantcli.arrays import DTYPES
from quantcli.convert.planning.reached import SHAPE
from quantcli.recipes.ftypes import demanding
from quantcli.recipes.names import canonical
from quantcli.schemes import ggml_scheme, hf
from quantcli.schemes.base import Scheme
from quantcli.schemes.listed import listed
from quantcli.targets import TARGETS


@dataclass(frozen=True)
class Entry:
    """One scheme. separate_scales: its scales are separate tensors, not part of its blocks.

    bits: stored bits per weight, exact, with scales. scales: dtypes that its scales can have; two that are stored
    together are one, joined by `*`. zero_point: `integer`, `float` (a bias or minimum), or None. group: values that
    share a scale. block: (values, bytes) of a GGML block. rounding: relative RMSE of normally distributed values.
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
    """Return all schemes, by family."""
    return [_entry(scheme) for scheme in listed(SHAPE)]


def of_name(name: str) -> list[Entry]:
    """Return the schemes of a name, of all families, listed or not; empty if there is none."""
    entries = [entry for entry in catalogue() if entry.name == name]
    scheme = hf.named(name, "bf16", SHAPE) if canonical(name) else None
    return entries or ([_entry(scheme)] if scheme is not None else [])


def _entry(scheme: Scheme) -> Entry:
    scales = scheme.possible_scales
    return Entry(
        scheme.name,
        scheme.family,
        bits_per_weight(scheme),
        scales,
        bool(scales) and len(scheme.layout(SHAPE)) > 1,
        _zero_point(scheme),
        scheme.fixed_group,
        scheme.stored_block,
        scheme in [ggml_scheme(name) for name in demanding()],
        tuple(label for label in TARGETS if _holds(label, scheme)),
        scheme.readers,
        scheme.rounding,
    )


def bits_per_weight(scheme: Scheme) -> Fraction:
    """Return the exact stored bits per weight, without what a tensor has once (its shape, a scale for all).

    >>> from quantcli.schemes.mlx.affine import Affine
    >>> bits_per_weight(Affine(3, 64, "f16")), bits_per_weight(Affine(4, 32, "f32"))
    (Fraction(7, 2), Fraction(6, 1))
    """
    parts = [part for part in scheme.layout(SHAPE).values() if part.axis is not None]
    return Fraction(sum(DTYPES[p.dtype].bits * math.prod(p.shape) for p in parts), math.prod(SHAPE))


def _zero_point(scheme: Scheme) -> str | None:
    grid = scheme.grid()
    if grid is None or grid.zero is not None or grid.table is not None:
        return None
    return "integer" if grid.zero_points else "float"


def _holds(label: str, scheme: Scheme) -> bool:
    """Return whether a target keeps the layout or writes the scheme."""
    return label in scheme.kept_in or TARGETS[label]().scheme(scheme.name, "f16", SHAPE) == scheme


def decimal(bits: Fraction) -> str:
    """Return bits as an exact decimal: block sizes are powers of two.

    >>> decimal(Fraction(105, 16)), decimal(Fraction(32))
    ('6.5625', '32')
    """
    return f"{(Decimal(bits.numerator) / Decimal(bits.denominator)).normalize():f}"


def as_json(entry: Entry) -> dict[str, Any]:
    """Return a scheme as `schemes --json` prints it."""
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
