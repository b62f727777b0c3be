"""Codes whose scales no reader took: tensors of 8 bits next to which something is called a scale.

    x.weight  F8     x.scale, x.weight_scale_2        in the same module
    x         U8     x_scale, x.weight.absmax         with the same prefix

Without their scales such codes would pass for values, some thousand times too large. They are listed with a warning, so
that `inspect` shows the checkpoint, and nothing is made of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import replace

from quantcli.checkpoint import Checkpoint, Weight
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense
from quantcli.schemes.hf.bare_fp8 import BareFp8
from quantcli.schemes.hf.unscaled import Unscaled

#: What the names of companions hold, in lower case.
MARKS = ("scale", "absmax", "amax", "scb", "zero_point")
#: What the names of scales hold that are those of a layer's inputs.
INPUTS = ("input", "activation")
#: Dtypes of integer codes.
INTEGERS = ("u8", "i8")


class Names:
    """The names of tensors, to look for companions among.

    >>> names = Names(["a.bias", "a.input_scale", "a.weight", "a.weight_scale", "up.bias", "up_scale.weight", "up.w"])
    >>> names.companion("a.weight"), names.companion("up.w"), names.companion("up_scale.weight")
    ('a.weight_scale', None, None)
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = sorted(names)

    def companion(self, name: str) -> str | None:
        """The tensor that is by its name the likeliest companion of another one; None where there is none."""
        module, _, leaf = name.rpartition(".")
        stems = [name] + ([module] if module and "weight" in leaf else [])
        by_prefix = {f"{stem}{joint}": 0 for stem in stems for joint in "._"}
        found = [
            (any(word in end for word in INPUTS), rank, other)
            for prefix, rank in {**by_prefix, **({f"{module}.": 1} if module else {"": 1})}.items()
            for other, end in self._below(prefix, direct=rank == 1)
            if other != name and any(mark in end for mark in MARKS)
        ]
        return min(found)[2] if found else None

    def _below(self, prefix: str, *, direct: bool) -> Iterable[tuple[str, str]]:
        """The names that begin so, with their rest in lower case; direct: those without a further dot only."""
        for at in range(bisect_left(self.names, prefix), len(self.names)):
            if not self.names[at].startswith(prefix):
                return
            rest = self.names[at][len(prefix) :]
            if not direct or "." not in rest:
                yield self.names[at], rest.lower()


def marked(source: Checkpoint) -> Checkpoint:
    """The checkpoint with codes that have a companion listed as such, and a warning that names the first."""
    candidates = [weight for weight in source.weights.values() if _dtype(weight.scheme) and len(weight.shape) >= 2]
    if not candidates:
        return source
    names = Names(name for name, weight in source.weights.items() if isinstance(weight.scheme, Dense | BareFp8))
    found = {weight.name: other for weight in candidates if (other := names.companion(weight.name)) is not None}
    companions = set(found.values())
    unscaled = {name: _unscaled(source.weights[name], other) for name, other in found.items() if name not in companions}
    if not unscaled:
        return source
    first = next(iter(unscaled))
    count = f"{len(unscaled)} tensors, {first} the first, hold" if len(unscaled) > 1 else f"{first} holds"
    warning = (
        f"{count} codes without the scales that make values of them: {found[first]} is next to {first}, and no "
        "settings of a known quantizer say how to apply it. Such weights cannot be converted."
    )
    return replace(source, weights={**source.weights, **unscaled}, warnings=(*source.warnings, warning))


def is_unscaled(source: Checkpoint) -> bool:
    """Whether some weight is listed as codes without scales."""
    return any(isinstance(weight.scheme, Unscaled) for weight in source.weights.values())


def _dtype(scheme: Scheme) -> str | None:
    """The dtype of what may be codes; None for anything else."""
    if isinstance(scheme, BareFp8):
        return scheme.dtype
    return scheme.dtype if isinstance(scheme, Dense) and scheme.dtype in INTEGERS else None


def _unscaled(weight: Weight, companion: str) -> Weight:
    dtype = _dtype(weight.scheme)
    assert dtype is not None
    return replace(weight, scheme=Unscaled(dtype, companion), reason=f"codes without scales ({companion})")
