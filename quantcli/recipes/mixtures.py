"""mlx-lm's mixtures: `mixed_2_6 mixed_3_4 mixed_3_6 mixed_4_6`, affine with more bits where they matter most.

    lm_head, and v_proj and down_proj of the first and last eighth of the layers and every third between them: high bits
    everything else that mlx-lm quantizes: low bits

Source: mlx-lm 0.32.2, mixed_quant_predicate_builder, whose rule is that of llama.cpp's Q4_K_M.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quantcli.errors import NotPossible, WrongUsage
from quantcli.recipes.base import Origin, Recipe, Rule, Subject, Way
from quantcli.recipes.names import mlx_scheme
from quantcli.schemes.mlx.affine import GROUPS


@dataclass(frozen=True)
class Mixture:
    """The bits of most modules (low), and of sensitive ones (high)."""

    low: int
    high: int


MIXTURES = {
    "mixed_2_6": Mixture(2, 6),
    "mixed_3_4": Mixture(3, 4),
    "mixed_3_6": Mixture(3, 6),
    "mixed_4_6": Mixture(4, 6),
}

#: The default bits that mlx-lm writes next to the entries of a mixture, unless `--bits` is given.
BLOCK_BITS = 4

#: Parts of a module's path that get more bits in some layers.
SENSITIVE = ("v_proj", "v_a_proj", "v_b_proj", "down_proj")


def schemes_of(name: str) -> set[str]:
    """Return the names of the schemes in a mixture, for every group size.

    >>> sorted(schemes_of("mixed_3_4"))[:3]
    ['affine3-g128', 'affine3-g32', 'affine3-g64']
    """
    bits = MIXTURES[name]
    names = (mlx_scheme(width, group_size) for width in (bits.low, bits.high) for group_size in GROUPS)
    return {name for name in names if name is not None}


def use_more_bits(index: int, layers: int) -> bool:
    """Return whether a layer is in the first or the last eighth, or one of every third between them."""
    return index < layers // 8 or index >= 7 * layers // 8 or (index - layers // 8) % 3 == 2


def layer_position(modules: Iterable[str]) -> int:
    """Return which component of a dotted path is the layer's number, judging by the first path with `down_proj`.

    Raises `NotPossible` if no path has it.
    """
    path = next((module for module in modules if "down_proj" in module), None)
    if path is None:
        raise NotPossible(
            "mlx-lm's mixtures require modules named down_proj; this model has none. Use --scheme affine4-g64."
        )
    pieces = path.split(".")
    return next((place for place, piece in enumerate(pieces) if piece.isdecimal()), len(pieces) - 1)


def mixture(name: str, subjects: Sequence[Subject], group_size: int = 64, layers: int | None = None) -> Recipe:
    """Return a mixture for these weights. layers: how many the model has, by default the highest number plus one.

    Raises `NotPossible` for a model without `down_proj`, `WrongUsage` for a group size that affine does not have.
    """
    bits = MIXTURES[name]
    low, high = (mlx_scheme(width, group_size) for width in (bits.low, bits.high))
    if low is None or high is None:
        raise WrongUsage(
            f"--group-size {group_size} with --scheme {name} is not supported. Supported: --group-size 32, 64, 128."
        )
    position = layer_position(subject.module for subject in subjects)
    numbers = {subject.module: _layer(subject.module, position) for subject in subjects}
    count = 1 + max(numbers.values()) if layers is None else layers
    why = {module: _why_more(module, use_more_bits(number, count)) for module, number in numbers.items()}
    entries = {
        module: Rule(module, high, f"preset {name}: {reason}", Way.EXACT)
        if reason
        else Rule(module, low, f"preset {name}", Way.EXACT)
        for module, reason in why.items()
    }
    return Recipe(f"--scheme {name}", entries=entries, keys=_module, origin=Origin.PRESET)


def _layer(module: str, position: int) -> int:
    """Return the number of a path's layer; 0 outside the layers, as in mlx-lm."""
    pieces = module.split(".")
    number = pieces[position] if len(pieces) > position else ""
    return int(number) if number.isdecimal() and len(number) < 10 else 0


def _why_more(module: str, more: bool) -> str | None:
    sensitive = next((part for part in SENSITIVE if part in module), None)
    if sensitive and more:
        return f"{sensitive}, first and last eighth of the layers, and every third between"
    return "lm_head" if "lm_head" in module else None


def _module(subject: Subject) -> tuple[str]:
    return (subject.module,)
