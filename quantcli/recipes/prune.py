"""`--prune-layers N,..`: drops layers from a GGUF file and renumbers the others.

Layers below the first pruned one keep their numbers; the others follow without a gap. `block_count` becomes the next
free number, but mixtures still use the source's, and so do the names in an importance matrix.
Source: llama.cpp's src/llama-quant.cpp and tools/quantize (ggml 0.25.3).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from quantcli.errors import WrongUsage

_LAYER = re.compile(r"blk\.([0-9]{1,9})\.")


@dataclass(frozen=True)
class Pruned:
    """The remaining tensors and layers. names: a tensor's name in the source -> its new name.

    layers: the new block_count. moved: a layer's number in the source -> its new number. mtp: how many of these layers
    are for multi-token prediction (with a `nextn.eh_proj`).
    """

    names: dict[str, str]
    layers: int
    moved: dict[int, int] = field(default_factory=dict)
    mtp: int = 0


def parse(text: str) -> tuple[int, ...]:
    """Parse the value of `--prune-layers` into sorted layer numbers. Raises `WrongUsage`.

    >>> parse("7,2,2")
    (2, 7)
    """
    pieces = [piece.strip() for piece in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,9}", piece) for piece in pieces):
        raise WrongUsage(
            f"--prune-layers {text[:100]!r}: expected layer numbers, counted from 0 and separated by commas. Use, for "
            "example, --prune-layers 4,5."
        )
    return tuple(sorted(set(map(int, pieces))))


def prune(names: Iterable[str], layers: Collection[int]) -> Pruned:
    """Return the tensors that remain without `layers` (one or more). Raises `WrongUsage` for a layer that is missing.

    >>> prune(["blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.2.attn_q.weight", "output.weight"], (1,)).names
    {'blk.0.attn_q.weight': 'blk.0.attn_q.weight', 'blk.2.attn_q.weight': 'blk.1.attn_q.weight', \
'output.weight': 'output.weight'}
    """
    numbers = {name: _layer(name) for name in names}
    present = sorted({number for number in numbers.values() if number is not None})
    absent = sorted(set(layers) - set(present))
    if absent:
        raise WrongUsage(
            f"--prune-layers {absent[0]}: the model has no such layer; its number of layers is {len(present)}."
        )
    low = [number for number in present if number < min(layers)]
    following = [number for number in present if number > min(layers) and number not in layers]
    start = low[-1] + 1 if low else 0
    anew = {number: number for number in low} | {number: start + i for i, number in enumerate(following)}
    if not anew:
        raise WrongUsage("--prune-layers lists every layer of the model. List fewer layers.")
    kept = {name: number for name, number in numbers.items() if number is None or number in anew}
    renamed = {
        name: name if number is None else _LAYER.sub(f"blk.{anew[number]}.", name, count=1)
        for name, number in kept.items()
    }
    mtp = {number for name, number in kept.items() if number is not None and ".nextn.eh_proj." in name}
    return Pruned(renamed, start + len(following), anew, len(mtp))


def _layer(name: str) -> int | None:
    match = _LAYER.search(name)
    return int(match[1]) if match else None
