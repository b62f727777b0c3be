"""The levels and scales of GGML's types as `--search best` sees them, and how much it tries: nothing compiled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Levels:
    """What tells the types apart: value = scale * level + low.

    group: values that share a scale.  least, top: the levels, whole numbers; or `table` has them.  minima: None where
    low is 0; 0 where a block has a low of its own; else the largest sub-minimum.  subs: least and largest sub-scale;
    None: one group a block, and its scale an f16.  starts: (from, to), the parts of a group's range that the first
    candidates' levels span, and how many sixteens of them there are.  heads: the d tried, over the one that just
    reaches the largest scale.  rounds: how often d is mended.  emphasis: without a matrix, how much more a value's
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
    heads: tuple[float, ...] = (1.0,)
    rounds: int = 3
    emphasis: float = 0.0


IQ4 = (-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0)

GRIDS = {
    "q2_k": Levels(16, 0, 3, minima=15, subs=(0, 15), starts=(0.45, 1.05, 2), heads=(0.87, 1.0, 1.15), emphasis=1.0),
    "q3_k": Levels(16, -4, 3, subs=(-32, 31), starts=(0.5, 1.1, 2)),
    "q4_k": Levels(32, 0, 15, minima=63, subs=(0, 63), starts=(0.75, 1.05, 2)),
    "q5_k": Levels(32, 0, 31, minima=63, subs=(0, 63), starts=(0.85, 1.03, 2)),
    "q6_k": Levels(16, -32, 31, subs=(-128, 127), starts=(0.85, 1.03, 2)),
    "iq4_xs": Levels(32, table=IQ4, subs=(-32, 31), starts=(0.6, 1.05, 2)),
    "iq4_nl": Levels(32, table=IQ4, starts=(0.6, 1.05, 2)),
    "q4_0": Levels(32, -8, 7),
    "q4_1": Levels(32, 0, 15, minima=0, starts=(0.75, 1.05, 2)),
    "q5_0": Levels(32, -16, 15, starts=(0.8, 1.05, 2)),
    "q5_1": Levels(32, 0, 31, minima=0, starts=(0.85, 1.03, 2)),
    "q8_0": Levels(32, -127, 127, starts=(0.97, 1.005, 2)),
    "q1_0": Levels(128, table=(-1.0, 1.0), starts=(0.2, 1.0, 1)),
    "q2_0": Levels(64, -1, 2, starts=(0.3, 1.0, 2)),
    "tq1_0": Levels(256, -1, 1, starts=(0.2, 1.0, 1)),
    "tq2_0": Levels(256, -1, 1, starts=(0.2, 1.0, 1)),
}
