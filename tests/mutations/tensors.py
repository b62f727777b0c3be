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
