"""Which levels a group's magnitudes have for each of the candidates' scales of search.py: where they change.

A value's level for candidate c is clip(rint((x * inverse - 1) / 2)) with inverse = code[c] / peak, where

    code[c] = 2 * base - 1 + step * (c - tried / 2)

Every operation rounds monotonously, so levels only grow with c. A level is about reached where code[c] is
2 * level * peak / x, and the nearest candidate to that is asked, in ggml's arithmetic: the one before is too low and
the one after high enough, each by more than 0.4 steps, which are 2**-9 of a code and more; rounding is 2**-21 of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quantcli.kernels.compile import inlined, inner
from quantcli.kernels.float32 import RINT
from quantcli.kernels.ggml.codebooks.start import nearest_int


@inlined
def levels_at(x: Any, at: int, count: int, inverse: Any, base: int, out: Any) -> None:
    """out[:count] = the levels, int32, of x[at : at + count] for one 1 / scale."""
    highest = np.int32(base - 1)
    for i in range(count):
        level = nearest_int(np.float32(0.5) * (inverse * x[at + i] - np.float32(1)))
        level = level if level > np.int32(0) else np.int32(0)
        out[i] = level if level < highest else highest


@inlined
def crossings(x: Any, at: int, kind: Any, peak: Any, low: Any, high: Any, event: Any, out: Any) -> None:
    """out[i] = the first candidate for which value i has at least level low[i] + event, `tried` or more for none.

    low, high: levels for the first and the last candidate. Where no rint is beyond 2**22.
    """
    zero, one, half, top = np.float32(0), np.float32(1), np.float32(0.5), np.float32(2 * kind.base - 1)
    first, last, middle = kind.codes[0], np.float32(kind.tried - 1), np.float32(kind.tried // 2)
    per_step, never = one / kind.step, np.int32(kind.tried)
    for i in range(kind.group):
        value, level = x[at + i], low[i] + event
        place = (np.float32(level + level) * (peak / value) - first) * per_step
        place = place if place > zero else zero
        place = place if place < last else last
        place = (place + RINT) - RINT
        inverse = (top + (place - middle) * kind.step) / peak
        reached = nearest_int(half * (inverse * value - one)) >= level
        candidate = np.int32(place) + (np.int32(0) if reached else np.int32(1))
        out[i] = candidate if level <= high[i] else never + np.int32(i & 7)


@inner
def far_points(x: Any, at: int, kind: Any, inverse: Any, number: Any, turns: Any, jump: Any) -> None:
    """The points of a group where ggml's rint is none: from 2**22 on it takes whatever the mantissa's bits say.

    This happens where a flipped value, whose weight is 0, is that much larger than the others.
    """
    for k in range(kind.group // kind.width):
        before = np.int64(0)
        turns[k] = 1
        for c in range(kind.tried):
            this, digit = np.int64(0), np.int64(1)
            for i in range(at + k * kind.width, at + (k + 1) * kind.width):
                level = np.int64(nearest_int(np.float32(0.5) * (inverse[c] * x[i] - np.float32(1))))
                this += digit * min(max(level, np.int64(0)), np.int64(kind.base - 1))
                digit *= np.int64(kind.base)
            if c == 0:
                number[k] = this
            elif this != before:
                turns[k] |= 1 << c
                jump[k, c] = np.int32(this - before)
            before = this
