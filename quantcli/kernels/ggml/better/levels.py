"""The levels and scales of a GGML type for `--search best`, and how much it tries. Nothing here is compiled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Levels:
    """What distinguishes the types: value = scale * level + low.

    group: values that share a scale.  least, top: the levels, whole numbers; or `table` has them.  minima: None where
    low is 0; 0 where a block has a low of its own; else the largest sub-minimum.  subs: least and largest sub-scale;
    None: one group a block, and its scale an f16.  starts: (from, to), the parts of a group's range that the first
    candidates' levels span, and how many sixteens of them there are.  factors: the d tried, over the one that just
    reaches the largest scale.  rounds: how often d is refined.  emphasis: without a matrix, how much more a value's
    error counts in the search for its x * x over the block's mean: with few levels a model suffers where only the
    plain error is looked at.
    """

    group: int
    least: int = 0
    top: int = 0
    table: tuple[float, ...] = ()
    minima: int | None = None
    subs: tuple[int, int] | None = None
    starts: tuple[float, float, int] = (0.7, 1.05, 2)
    factors: tuple[float, ...] = (1.0,)
    rounds: int = 3
    emphasis: float = 0.0
