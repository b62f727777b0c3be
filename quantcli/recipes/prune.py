"""`--prune-layers N,..`: leaves whole layers out of a GGUF and numbers the others anew.

Layers below the first one pruned keep their numbers, the others follow without a gap. `block_count` becomes the next
free number, while the mixtures still count with the source's, and an importance matrix's names are the source's too.
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
    """What is left. names: the source's name of each tensor that stays -> its new one; layers: the new block_count.

    moved: the source's number of each layer that stays -> its new one. mtp: how many of these are layers for
    multi-token prediction, which have a `nextn.eh_proj`.
    """

    names: dict[str, str]
    layers: int
    moved: dict[int, int] = field(default_factory=dict)
    mtp: int = 0


def parse(text: str) -> tuple[int, ...]:
    """The layers of one `--prune-layers`, sorted. Raises `WrongUsage`, quoting the text.

    >>> parse("7,2,2")
    (2, 7)
    """
    pieces = [piece.strip() for piece in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,9}", piece) for piece in pieces):
        raise WrongUsage(
            f"--prune-layers {text[:100]!r} needs layer numbers from 0 on, apart by commas: --prune-layers 4,5."
        )
    return tuple(sorted(set(map(int, pieces))))


def prune(names: Iterable[str], layers: Collection[int]) -> Pruned:
    """The tensors that stay without `layers`, of which there is one at least. Raises `WrongUsage` for one not there.

    >>> prune(["blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.2.attn_q.weight", "output.weight"], (1,)).names
    {'blk.0.attn_q.weight': 'blk.0.attn_q.weight', 'blk.2.attn_q.weight': 'blk.1.attn_q.weight', \
'output.weight': 'output.weight'}
    """
    found = {name: _layer(name) for name in names}
    there = sorted({number for number in found.values() if number is not None})
    absent = sorted(set(layers) - set(there))
    if absent:
        raise WrongUsage(f"--prune-layers {absent[0]}: the model has no such layer (it has {len(there)}).")
    low = [number for number in there if number < min(layers)]
    following = [number for number in there if number > min(layers) and number not in layers]
    start = low[-1] + 1 if low else 0
    anew = {number: number for number in low} | {number: start + i for i, number in enumerate(following)}
    if not anew:
        raise WrongUsage("--prune-layers names every layer of the model: leave some.")
    kept = {name: number for name, number in found.items() if number is None or number in anew}
    renamed = {
        name: name if number is None else _LAYER.sub(f"blk.{anew[number]}.", name, count=1)
        for name, number in kept.items()
    }
    mtp = {number for name, number in kept.items() if number is not None and ".nextn.eh_proj." in name}
    return Pruned(renamed, start + len(following), anew, len(mtp))


def _layer(name: str) -> int | None:
    match = _LAYER.search(name)
    return int(match[1]) if match else None
