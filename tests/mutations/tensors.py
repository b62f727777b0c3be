"""Changes of single tensors: left out, an axis halved, flattened, transposed, renamed.

Of every kind of tensor the first and the last layer's are changed, of experts the first and the last one's. A square
matrix that is transposed has the shape that it had: nothing shows it, so these are counted apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.mutations.baselines import Shapes

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


#: What was done -> endings of names -> why no value of a model hangs on it. Only stored arrays of quantized weights.
HARMLESS = {
    "leave out": {
        ".g_idx .weight_g_idx": "columns belong to their groups in order; where they do not, it has to be there",
        ".input_scale .input_global_scale .input_scale_2": "is of activations",
        ".weight_zero_point ._weight_zero_point": "is all zeros where codes are symmetric",
        ".weight_format": "says that rows are not tiled, as they are without it",
        ".view_as_float .unpack_view_dtype .stores_quant_config .round_zero .quant_zero .quant_scale .optimize "
        ".offload_meta .encoded_state_dict .channel_wise": "a setting of HQQ with its usual value",
    },
    "halve axis 0": {".unpack_view_dtype": "names a dtype of codes, which their array has itself"},
    "flatten": {".weight_scale": "scales of rows may be a vector or a column"},
}


@dataclass(frozen=True)
class Change:
    """One change: what was done, to which tensor, and what it is now (None: left out)."""

    done: str
    name: str
    now: tuple[str, tuple[int, ...]] | None

    @property
    def is_seen(self) -> bool:
        """Whether a look at names and shapes could show it."""
        return self.done != "transpose square"


def harmless(change: Change) -> str | None:
    """Why a change changes no value, None where it may."""
    rows = HARMLESS.get(change.done, {})
    return next((reason for endings, reason in rows.items() if change.name.endswith(tuple(endings.split()))), None)


def changes(shapes: Shapes) -> Iterator[Change]:
    """Every change of every chosen tensor."""
    for name in chosen(shapes):
        shape = shapes[name]
        yield Change("leave out", name, None)
        first, _, last = name.rpartition(".")
        yield Change("rename", name, (f"{first}x.{last}" if first else f"{name}x", shape))
        for axis, size in enumerate(shape):
            if size > 1:
                yield Change(f"halve axis {axis}", name, (name, (*shape[:axis], size // 2, *shape[axis + 1 :])))
        if math.prod(shape[:-1]) > 1:  # a matrix of one row is a vector to GGUF
            yield Change("flatten", name, (name, (math.prod(shape),)))
        if len(shape) > 1:
            square = " square" if shape[-1] == shape[-2] else ""
            yield Change(f"transpose{square}", name, (name, (*shape[:-2], shape[-1], shape[-2])))


def chosen(shapes: Shapes) -> list[str]:
    """Of names that differ in numbers only, those of the smallest and of the largest numbers."""
    kinds: dict[str, list[str]] = {}
    for name in shapes:
        kinds.setdefault(NUMBER.sub("#", name), []).append(name)
    found = []
    for names in kinds.values():
        names.sort(key=lambda name: [int(number) for number in NUMBER.findall(name)])
        found += dict.fromkeys((names[0], names[-1]))
    return found
