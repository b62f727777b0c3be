"""GGML's searches for scales as MLX array operations: candidates and float32 sums are those of the
kernels (kernels/ggml/k_quants/search.py).

Groups are columns: value i of every group is row i of `x`, float32 (values, groups), and sums run over rows one by one,
in ggml's order. MLX carries out one operation at a time, and its CPU device rounds each as ggml does: the bytes are
ggml's.

A GPU may round a quotient, a root or a running sum otherwise in the last bit, or take denormal numbers for 0. Then a
code between two may go to the other, and another of two candidates may win that are equally good but for rounding. Of
rows like those of weights (Gaussian, Laplace, Student's t, one value in a hundred fifteen times as large; of f32, f16
or bf16 precision), a block's squared error, weighted by the importance matrix where there is one, is then at most so
many times that of ggml's block, and that of 200,000 values less than 2 % larger:

     2 times   q4_0 q4_k q6_k iq4_xs iq1_s iq1_m iq2_xxs iq2_xs iq2_s iq3_s
     4 times   q5_0 q3_k q5_k iq4_nl
     8 times   q4_1 q5_1
    16 times   iq3_xxs
    32 times   q2_k

It was found, with room to spare, by making each sum, distance, quotient and root a unit in the last place larger or
smaller (tests/schemes/ggml/test_gpu_rounding.py). Where one value outweighs the others that much, float32 hardly tells
what the others' codes do to a score: this makes the last two. Of rows of few different values, or of almost nothing
but zeros, nothing is promised: which of many equals ggml itself takes hangs on last bits, and some fit exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mlx.core as mx

#: Below this largest magnitude ggml takes a group for zero.
EPSILON = 1e-15
#: Adding it rounds a float32 below 2**22 half to even, its last 23 bits are the number then.
RINT = 1.5 * 2.0**23


class ScaleFit(NamedTuple):
    """float32 (1, groups) each: values = scale * q + low, codes q = rint(inverse * (x - start)) with clipping."""

    scale: mx.array
    inverse: mx.array
    start: mx.array
    low: mx.array


def nearest(v: mx.array) -> mx.array:
    """Round half to even as ggml does, to int32, with its results for numbers of 2**22 and more."""
    import mlx.core as mx

    return ((v + RINT).view(mx.int32) & 0x7FFFFF) - 0x400000


def rounded(v: mx.array, least: int, top: int) -> mx.array:
    """Return codes as float32, clipped."""
    import mlx.core as mx

    return mx.clip(nearest(v), least, top).astype(mx.float32)


def total(rows: mx.array) -> mx.array:
    """Return the sum of the rows, (1, groups), in index order."""
    added = rows[0:1]
    for i in range(1, rows.shape[0]):
        added = added + rows[i : i + 1]
    return added


def first_peak(x: mx.array) -> mx.array:
    """Return the first value of largest magnitude of each group, (1, groups)."""
    import mlx.core as mx

    return mx.take_along_axis(x, mx.argmax(mx.abs(x), axis=0, keepdims=True), axis=0)


def search_scale(x: mx.array, w: mx.array, steps: NDArray[np.float32]) -> ScaleFit:
    """Find scales for codes -steps[0] .. steps[0] - 1; scale and inverse are 0 for a group of zeros."""
    import mlx.core as mx

    limit, peak = int(steps[0]), first_peak(x)
    scale = inverse = best = mx.zeros_like(peak)
    weighted = w * x
    for k, step in enumerate(steps.tolist()):
        tried = -step / peak
        q = rounded(tried * x, -limit, limit - 1)
        along, square = total(weighted * q), total(w * q * q)
        found = mx.where(square != 0, along / square, 0.0)
        better = (square > 0) & (along * along > best * square) if k else mx.array(True)
        scale, inverse = mx.where(better, found, scale), mx.where(better, tried, inverse)
        best = mx.where(better, found * along, best)
        mx.eval(scale, inverse, best)  # keeps one candidate's temporaries alive, not nineteen's
    zero, zeros = mx.abs(peak) < EPSILON, mx.zeros_like(peak)
    return ScaleFit(mx.where(zero, 0.0, scale), mx.where(zero, 0.0, inverse), zeros, zeros)


def search_minimum(x: mx.array, w: mx.array, steps: NDArray[np.float32], absolute: bool) -> ScaleFit:
    """Find scales and minima for codes 0 .. steps[0]; scale and inverse are 0 if all values are equal."""
    import mlx.core as mx

    top = int(steps[0])
    least = mx.min(x, axis=0, keepdims=True)
    first_zero = mx.take_along_axis(x, mx.argmax((x == 0).astype(mx.uint8), axis=0, keepdims=True), axis=0)
    start = low = mx.where(least > 0, 0.0, mx.where(least == 0, first_zero, least))  # ggml keeps the first zero's sign
    high, weighted = mx.max(x, axis=0, keepdims=True), w * x
    sum_w, sum_x, flat = total(w), total(weighted), high <= low

    def error(q: mx.array, scale: mx.array, low: mx.array) -> mx.array:
        off = scale * q + low - x
        return total(w * (mx.abs(off) if absolute else off * off))

    inverse = float(top) / (high - low)
    scale = 1.0 / inverse
    best = mx.where(flat, -1.0, error(rounded(inverse * (x - low), 0, top), scale, low))  # nothing is better than flat
    for step in steps[1:].tolist():
        tried = step / (high - low)
        q = rounded(tried * (x - low), 0, top)
        wq = w * q
        one, two, along = total(wq), total(wq * q), total(wq * x)
        determinant = sum_w * two - one * one
        found = (sum_w * along - sum_x * one) / determinant
        lowest = (two * sum_x - one * along) / determinant
        found, lowest = mx.where(lowest > 0, along / two, found), mx.where(lowest > 0, 0.0, lowest)
        off = error(q, found, lowest)
        better = (determinant > 0) & (off < best)
        inverse, start, best = (
            mx.where(better, tried, inverse),
            mx.where(better, low, start),
            mx.where(better, off, best),
        )
        scale, low = mx.where(better, found, scale), mx.where(better, lowest, low)
        mx.eval(scale, low, inverse, start, best)
    return ScaleFit(mx.where(flat, 0.0, scale), mx.where(flat, 0.0, inverse), start, low)


def refine_scale(x: mx.array, limit: int) -> tuple[mx.array, mx.array]:
    """Return scales (1, groups) and codes -limit .. limit - 1 (float32, as x) of groups.

    The scale of a group of zeros is 0, and its codes are -limit.
    """
    import mlx.core as mx

    peak, w = first_peak(x), x * x
    codes = rounded(-float(limit) / peak * x, -limit, limit - 1)
    along, square = total(w * x * codes), total(w * codes * codes)
    rows = [codes[i : i + 1] for i in range(x.shape[0])]
    for _ in range(5):
        for i, q in enumerate(rows):
            value, weight = x[i : i + 1], w[i : i + 1]
            others, others_square = along - weight * value * q, square - weight * q * q
            new = rounded(value * others_square / others, -limit, limit - 1)
            found, found_square = others + weight * value * new, others_square + weight * new * new
            better = (others > 0) & (new != q) & (found_square > 0)
            better = better & (found * found * square > along * along * found_square)
            rows[i] = mx.where(better, new, q)
            along, square = mx.where(better, found, along), mx.where(better, found_square, square)
        mx.eval(along, square, *rows)
    zero = mx.abs(peak) < EPSILON
    scale = mx.where((square > 0) & ~zero, along / square, 0.0)
    return scale, mx.where(zero, float(-limit), mx.concatenate(rows, axis=0))


def settle_scales(x: mx.array, w: mx.array, top: int) -> tuple[mx.array, mx.array]:
    """Return a scale (1, columns) for each column of numbers, and codes 0 .. top, int32 as x; -1 is stored as 255."""
    import mlx.core as mx

    peak = mx.maximum(mx.max(x, axis=0, keepdims=True), 0.0)
    inverse = best = mx.zeros_like(peak)
    for tenths in (0, *range(-4, 0), *range(1, 5)):
        tried = float(np.float32(0.1) * np.float32(tenths) + np.float32(top)) / peak
        whole = nearest(tried * x)
        q = (mx.minimum(whole, top) if tenths else whole & 255).astype(mx.float32)  # ggml's first codes are bytes
        off = x - 1.0 / tried * q
        error = total(w * off * off)
        better = (error < best) if tenths else mx.array(True)
        inverse, best = mx.where(better, tried, inverse), mx.where(better, error, best)
    whole = mx.minimum(nearest(inverse * x), top)
    q, weighted = whole.astype(mx.float32), w * x
    along, square = total(weighted * q), total(w * q * q)
    rows = [(whole & 255)[i : i + 1] for i in range(x.shape[0])]
    for _ in range(5):
        for i, code in enumerate(rows):
            value, weight, q = x[i : i + 1], w[i : i + 1], code.astype(mx.float32)
            others, others_square = along - weight * value * q, square - weight * q * q
            whole = mx.minimum(nearest(value * others_square / others), top)
            new = whole.astype(mx.float32)
            found, found_square = others + weight * value * new, others_square + weight * new * new
            better = (others > 0) & (others_square > 0) & (whole != code)
            better = better & (found * found * square > along * along * found_square)
            rows[i] = mx.where(better, whole & 255, code)
            along, square = mx.where(better, found, along), mx.where(better, found_square, square)
        mx.eval(along, square, *rows)
    zero = peak < EPSILON
    scale = mx.where((square > 0) & ~zero, along / square, 0.0)
    return scale, mx.where(zero, 0, mx.concatenate(rows, axis=0))


def weigh(x: mx.array, importance: mx.array, mean: Any) -> mx.array:
    """Return importance * sqrt(mean + x * x)."""
    import mlx.core as mx

    return importance * mx.sqrt(mean + x * x)
