"""Codes whose scales no reader understands: 8-bit tensors with a companion, a tensor that is named like their scale.

    x.weight  F8     x.scale, x.weight_scale_2        in the same module
    x         U8     x_scale, x.weight.absmax         with the same prefix

Without their scales, such codes would be taken for values that are thousands of times too large. They are listed with a
warning, so that `inspect` shows the checkpoint, and cannot be converted.
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
from quantcli.sources.wording import counted

#: Parts of companions' names, in lower case.
MARKS = ("scale", "absmax", "amax", "scb", "zero_point")
#: Parts of the names of scales of a layer's inputs.
INPUTS = ("input", "activation")
#: Dtypes of integer codes.
INTEGERS = ("u8", "i8")


class Names:
    """Names of tensors among which companions are looked up.

    >>> names = Names(["a.bias", "a.input_scale", "a.weight", "a.weight_scale", "up.bias", "up_scale.weight", "up.w"])
    >>> names.companion("a.weight"), names.companion("up.w"), names.companion("up_scale.weight")
    ('a.weight_scale', None, None)
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = sorted(names)

    def companion(self, name: str) -> str | None:
        """Return the tensor that is, by its name, the likeliest companion of another one; None without any."""
        module, _, leaf = name.rpartition(".")
        stems = [name] + ([module] if module and "weight" in leaf else [])
        by_prefix = {f"{stem}{joint}": 0 for stem in stems for joint in "._"}
        candidates = [
            (any(word in end for word in INPUTS), rank, other)
            for prefix, rank in {**by_prefix, **({f"{module}.": 1} if module else {"": 1})}.items()
            for other, end in self._below(prefix, direct=rank == 1)
            if other != name and any(mark in end for mark in MARKS)
        ]
        return min(candidates)[2] if candidates else None

    def _below(self, prefix: str, *, direct: bool) -> Iterable[tuple[str, str]]:
        """Yield the names with this prefix, with their rest in lower case. direct: only those without a further dot."""
        for at in range(bisect_left(self.names, prefix), len(self.names)):
            if not self.names[at].startswith(prefix):
                return
            rest = self.names[at][len(prefix) :]
            if not direct or "." not in rest:
                yield self.names[at], rest.lower()


def marked(source: Checkpoint) -> Checkpoint:
    """Return the checkpoint with codes that have a companion marked as unscaled, and a warning that names the first."""
    candidates = [weight for weight in source.weights.values() if _dtype(weight.scheme) and len(weight.shape) >= 2]
    if not candidates:
        return source
    names = Names(name for name, weight in source.weights.items() if isinstance(weight.scheme, Dense | BareFp8))
    pairs = {weight.name: other for weight in candidates if (other := names.companion(weight.name)) is not None}
    companions = set(pairs.values())
    unscaled = {name: _unscaled(source.weights[name], other) for name, other in pairs.items() if name not in companions}
    if not unscaled:
        return source
    first = next(iter(unscaled))
    warning = (
        f"{counted('tensor', list(unscaled))} quantized in an unknown way: {pairs[first]} is next to {first}, but no "
        "settings of a supported quantizer say how to apply it. Such weights cannot be converted."
    )
    return replace(source, weights={**source.weights, **unscaled}, warnings=(*source.warnings, warning))


def is_unscaled(source: Checkpoint) -> bool:
    """Return whether a weight is marked as codes without scales."""
    return any(isinstance(weight.scheme, Unscaled) for weight in source.weights.values())


def _dtype(scheme: Scheme) -> str | None:
    """Return the dtype of a scheme whose values may be codes; None for any other scheme."""
    if isinstance(scheme, BareFp8):
        return scheme.dtype
    return scheme.dtype if isinstance(scheme, Dense) and scheme.dtype in INTEGERS else None


def _unscaled(weight: Weight, companion: str) -> Weight:
    dtype = _dtype(weight.scheme)
    assert dtype is not None
    return replace(weight, scheme=Unscaled(dtype, companion), reason=f"codes without scales ({companion})")
