"""Which matrices of a model without a table stay dense under a scheme, by their names and shapes.

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

Shape = tuple[int, ...]

#: No scheme has smaller groups than this along both axes of a matrix that is worth quantizing.
SMALLEST = 32

#: Modules of stacked experts that mlx-lm takes quantized, and their projections.
STACKED = re.compile(r"(?:^|\.)(?:switch_mlp|switch_glu|experts)\.(?:gate_proj|up_proj|down_proj|fc1|fc2)\.weight$")
TOWERS = re.compile(
    r"vision|visual|image|img_|video|audio|speech|whisper|multi_?modal|mm_projector|connector|aligner|resampler"
    r"|perceiver|patch_embed|sam_model|(?:^|\.)(?:vit|clip|siglip)\w*\."
)
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
    Kind("vision and audio are left alone", lambda name, shape: TOWERS.search(name) is not None, True),
    Kind(
        "is a convolution",
        lambda name, shape: "conv" in name or (len(shape) > 2 and shape[-1] < SMALLEST) or len(shape) > 3,
        False,
    ),
    Kind(
        "stacked experts under a name that no loader is known to take quantized",
        lambda name, shape: len(shape) > 2 and STACKED.search(name) is None,
        True,
    ),
    Kind("is a router", _is_router, False),
    Kind("is called like a router", lambda name, shape: ROUTERS.search(name) is not None, True),
)


def kind_of(name: str, shape: Shape) -> Kind | None:
    """The kind of matrix that is left dense; None where a scheme is applied."""
    return None if len(shape) < 2 else next((kind for kind in KINDS if kind.holds(name, shape)), None)


def stays_dense(name: str, shape: Shape) -> str | None:
    """Why a matrix is not quantized, as a clause; None where it may be."""
    found = kind_of(name, shape)
    return None if found is None else f"stays dense: {found.reason}"


def is_large(name: str, shape: Shape) -> bool:
    """Whether this is a matrix of a layer that is large enough for a scheme."""
    return len(shape) >= 2 and min(shape[-2:]) >= SMALLEST and NUMBER.search(name) is not None


def uncovered(name: str, shape: Shape) -> bool:
    """Whether a matrix that stays dense is one of a layer's that a warning counts."""
    if not is_large(name, shape):
        return False
    found = kind_of(name, shape)
    return not name.endswith(".weight") if found is None else found.warns
