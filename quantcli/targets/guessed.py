"""Matrices of a model without a table that a scheme leaves dense, by their names and shapes.

A table says which modules a family's loader takes quantized. Without one a scheme is applied on the user's word
(`--allow-unknown-architecture`), and what quantizers usually leave alone is left alone. Sources: mlx-lm's models
(`quant_predicate`, modules without `to_quantized`), mlx-vlm's `skip_multimodal_module`, llm-compressor's examples
(`ignore`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from quantcli.models.base import NUMBER
from quantcli.models.towers import is_tower

Shape = tuple[int, ...]

#: No scheme has smaller groups than this along both axes of a matrix that is worth quantizing.
SMALLEST = 32

#: Modules of stacked experts that mlx-lm takes quantized, and their projections.
STACKED = re.compile(r"(?:^|\.)(?:switch_mlp|switch_glu|experts)\.(?:gate_proj|up_proj|down_proj|fc1|fc2)\.weight$")
ROUTERS = re.compile(r"(?:^|\.)(?:gate|\w+_gate|router\w*|\w+_router|wg)\.")


def _is_router(name: str, shape: Shape) -> bool:
    """Few rows, one for each expert: a larger matrix of such a name is half of a gated MLP."""
    return ROUTERS.search(name) is not None and shape[-2] <= shape[-1]


@dataclass(frozen=True)
class Kind:
    """Matrices that stay dense. reason: as a clause; warns: whether quantizers usually take such ones, so that a
    warning counts them.
    """

    reason: str
    holds: Callable[[str, Shape], bool]
    warns: bool


#: The first that holds counts.
KINDS = (
    Kind("part of a vision, audio or speech tower", lambda name, shape: is_tower(name), True),
    Kind(
        "a convolution",
        lambda name, shape: "conv" in name or (len(shape) > 2 and shape[-1] < SMALLEST) or len(shape) > 3,
        False,
    ),
    Kind(
        "stacked experts under a name that no loader is known to accept quantized",
        lambda name, shape: len(shape) > 2 and STACKED.search(name) is None,
        True,
    ),
    Kind("a router", _is_router, False),
    Kind("named like a router", lambda name, shape: ROUTERS.search(name) is not None, True),
)


def kind_of(name: str, shape: Shape) -> Kind | None:
    """Return the kind of matrix that is left dense; None if a scheme applies."""
    return None if len(shape) < 2 else next((kind for kind in KINDS if kind.holds(name, shape)), None)


def stays_dense(name: str, shape: Shape) -> str | None:
    """Return why a matrix is not quantized, as a clause; None if it may be."""
    found = kind_of(name, shape)
    return None if found is None else f"kept dense: {found.reason}"


def is_large(name: str, shape: Shape) -> bool:
    """Return whether this is a matrix of a layer that is large enough for a scheme."""
    return _is_worth_it(shape) and NUMBER.search(name) is not None


def _is_worth_it(shape: Shape) -> bool:
    return len(shape) >= 2 and min(shape[-2:]) >= SMALLEST


def uncovered(name: str, shape: Shape) -> bool:
    """Whether a matrix, if it stays dense, is one that a warning counts: of a kind that has one, whatever its name, and
    else of a layer's parameters and stacked matrices.
    """
    found = kind_of(name, shape)
    if found is not None:
        return found.warns and _is_worth_it(shape)
    return is_large(name, shape) and (len(shape) > 2 or not name.endswith(".weight"))
