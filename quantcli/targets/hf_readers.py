"""What transformers does not load of what is written: experts, which version 5 holds as stacked parameters.

It puts them together from packed matrices and from FP8 with a scale for a row or a tensor. Measured on transformers
5.23 with compressed-tensors 0.20 and bitsandbytes 0.50 (tests/peers/test_loading.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from quantcli.targets.base import Placed

EXPERT = re.compile(r".*\.experts\.\d+\..*")
#: bitsandbytes; integers of a byte each; blocks of 32 values; blocks of 128 x 128.
LAYOUTS = re.compile(r"(?:nf4|fp4)-.*|int8-(?:asym-)?(?:channel|tensor)|mxfp8|fp8-e4m3-block\d+")


def unloadable(placed: Sequence[Placed]) -> list[str]:
    """A warning of experts in a layout in which transformers does not load them."""
    found = [w for w in placed if EXPERT.fullmatch(w.name) and LAYOUTS.fullmatch(w.scheme.name)]
    if not found:
        return []
    named = ", ".join(sorted({w.scheme.name for w in found}))
    return [
        f"{named}: transformers 5 does not load experts in this layout ({len(found)} weights, {found[0].name} the "
        "first). int4-g128 and fp8-e4m3-channel it does."
    ]
