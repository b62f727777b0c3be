"""Powers of one float32 base as PyTorch computes them on an x86-64 CPU with AVX2, bit for bit, on any machine.

llama.cpp's converter computes rotary frequencies with PyTorch, whose powers are not always correctly rounded; that is
visible in the last bits of `rope_freqs.weight`. PyTorch computes sixteen exponents at a time with SLEEF's `powf`, with
an error below 1 unit in the last place, and the rest of an array with the C library, whose results are assumed to be
correctly rounded. (With AVX-512 PyTorch uses another form of SLEEF's function, which differs in some last bits.)

SLEEF's function is exp(exponent * log(base)) in pairs of float32 numbers, high + low, with fused multiply-adds:

    log    d = m * 2**e, m from 0.75 to 1.5;  x = (m - 1) / (m + 1);  log d = e * ln 2 + 2 x + x**3 * p(x**2)
    exp    q = d / ln 2 rounded;  s = d - q * ln 2;  exp d = 2**q * (1 + s + s**2 * p(s))

Sources: PyTorch 2.13 (aten/src/ATen/native/cpu/Loops.h, aten/src/ATen/cpu/vec/vec256/vec256_float.h); SLEEF (its `powf`
with FMA in src/libm/sleefsimdsp.c and the pairs' arithmetic in src/common/df.h).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Exponents per iteration of PyTorch's loop: two vectors of eight lanes.
AT_ONCE = 16

#: The polynomials' coefficients, highest power first; the logarithm's last coefficient is a pair, TWO_THIRDS.
LOG = tuple(np.float32(c) for c in (0.240320354700088500976562, 0.285112679004669189453125, 0.400007992982864379882812))
EXP = tuple(
    np.float32(c)
    for c in (
        0.00136324646882712841033936, 0.00836596917361021041870117, 0.0416710823774337768554688,
        0.166665524244308471679688, 0.499999850988388061523438,
    )
)  # fmt: skip
#: 1 / ln 2; ln 2 as its upper bits, whose products with small integers are exact, and the rest.
PER_LN2, LN2_UPPER, LN2_LOWER = np.float32(1.4426950408889634), np.float32(0.693145751953125), np.float32(1.4286068e-06)
ONE, TWO = np.float32(1), np.float32(2)


class _Pair(NamedTuple):
    """A number as the sum of two float32 numbers."""

    high: Floats
    low: Floats


def _single(number: float | np.float32) -> Floats:
    return np.full(1, number, np.float32)


#: ln 2, and the last coefficient of the logarithm's polynomial.
LN2 = _Pair(_single(0.69314718246459960938), _single(-1.904654323148236017e-09))
TWO_THIRDS = _Pair(_single(0.66666662693023681640625), _single(3.69183861259614332084311e-09))


def powers(base: float, exponents: Floats) -> Floats:
    """Return `torch.pow(base, exponents)`, float32 [n]. base: above 0. exponents: from 0 to 1.

    >>> powers(50000.0, np.arange(0, 64, 2, dtype=np.float32) / np.float32(64))[5]
    np.float32(5.4226813)
    """
    with np.errstate(over="ignore", under="ignore"):
        single = np.float32(base)
        correct: Floats = np.power(np.float64(single), exponents.astype(np.float64)).astype(np.float32)
    vectors = len(exponents) // AT_ONCE * AT_ONCE
    if not 0 < single < np.inf or single == 1:
        return correct
    fast = _exp(_times(_log(single), exponents[:vectors]))
    fast[exponents[:vectors] == 0] = 1
    return np.concatenate([fast, correct[vectors:]])


def _log(number: np.float32) -> _Pair:
    """Return the natural logarithm of a positive finite number."""
    d, less = (number * np.float32(2**64), 64) if number < np.finfo(np.float32).tiny else (number, 0)
    with np.errstate(over="ignore"):
        bits = (_single(d) * np.float32(1 / 0.75)).view(np.int32)
    exponent = (int(bits[0]) >> 23) - 127
    m: Floats = np.ldexp(_single(d), -exponent)
    x = _divided(_added(np.full_like(m, -1), m), _added(np.full_like(m, 1), m))
    squared = _squared(x)
    tail = _fma(_fma(LOG[0], squared.high, LOG[1]), squared.high, LOG[2])
    of_power = _times(LN2, _single(exponent - less))
    polynomial = _sum(_times(squared, tail), TWO_THIRDS)
    linear = _sum_ordered(of_power, _Pair(x.high * TWO, x.low * TWO))
    return _sum_ordered(linear, _product(_product(squared, x), polynomial))


def _exp(power: _Pair) -> Floats:
    """Return e ** power. power: in float32's range."""
    q = np.rint((power.high + power.low) * PER_LN2)
    s = _plus(_plus(power, q * -LN2_UPPER), q * -LN2_LOWER)
    high = s.high + s.low
    s = _Pair(high, (s.high - high) + s.low)
    tail = np.full_like(high, EXP[0])
    for coefficient in EXP[1:]:
        tail = _fma(tail, s.high, coefficient)
    rest = _sum_ordered(s, _times(_squared(s), tail))
    high = ONE + rest.high
    low = ((ONE - high) + rest.high) + rest.low
    with np.errstate(over="ignore", under="ignore"):
        scaled: Floats = np.ldexp(high + low, q.astype(np.int32))
    scaled[power.high < -104] = 0
    return scaled


def _fma(x: Floats | np.float32, y: Floats | np.float32, z: Floats | np.float32) -> Floats:
    """Return x * y + z, rounded once: the product is exact in float64, and its sum is rounded to odd."""
    product, addend = np.multiply(x, y, dtype=np.float64), np.asarray(z, np.float64)
    total = np.atleast_1d(product + addend)
    part = total - product
    lost = (product - (total - part)) + (addend - part)
    is_even = total.view(np.int64) & 1 == 0
    odd = np.where((lost != 0) & is_even, np.nextafter(total, np.copysign(np.inf, lost)), total)
    rounded: Floats = odd.astype(np.float32)
    return rounded


def _added(x: Floats, y: Floats) -> _Pair:
    """Return the exact sum of two numbers."""
    s = x + y
    v = s - x
    return _Pair(s, (x - (s - v)) + (y - v))


def _plus(x: _Pair, y: Floats) -> _Pair:
    s, error = _added(x.high, y)
    return _Pair(s, error + x.low)


def _sum(x: _Pair, y: _Pair) -> _Pair:
    s, error = _added(x.high, y.high)
    return _Pair(s, error + (x.low + y.low))


def _sum_ordered(x: _Pair, y: _Pair) -> _Pair:
    """Return the sum for |x| >= |y|, with fewer operations than `_sum` and other last bits."""
    s = x.high + y.high
    return _Pair(s, (((x.high - s) + y.high) + x.low) + y.low)


def _times(x: _Pair, y: Floats) -> _Pair:
    s = x.high * y
    return _Pair(s, _fma(x.low, y, _fma(x.high, y, -s)))


def _product(x: _Pair, y: _Pair) -> _Pair:
    s = x.high * y.high
    return _Pair(s, _fma(x.high, y.low, _fma(x.low, y.high, _fma(x.high, y.high, -s))))


def _squared(x: _Pair) -> _Pair:
    s = x.high * x.high
    return _Pair(s, _fma(x.high + x.high, x.low, _fma(x.high, x.high, -s)))


def _divided(n: _Pair, d: _Pair) -> _Pair:
    t = ONE / d.high
    s = n.high * t
    u = _fma(t, n.high, -s)
    v = _fma(-d.low, t, _fma(-d.high, t, ONE))
    return _Pair(s, _fma(s, v, _fma(n.low, t, u)))
