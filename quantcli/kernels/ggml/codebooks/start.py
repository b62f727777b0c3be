"""Before a search of IQ2 and IQ3 begins: weights, magnitudes with their signs, and the scale that it starts from.

Source: ggml-quants.c (llama.cpp), `make_qp_quants` among it, restated; float32, each operation rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quantcli.kernels.compile import bits_of, inner
from quantcli.kernels.float32 import RINT
from quantcli.kernels.ggml.formats import EPSILON, SUPER


@inner
def weigh(x: Any, importance: Any, spread: Any, plain: Any, weight: Any) -> None:
    """ggml's weights of a super-block; without importance (empty) x * x + plain * sigma2."""
    total = np.float32(0)
    for i in range(SUPER):
        total += x[i] * x[i]
    sigma2 = spread * total / np.float32(SUPER)
    if importance.shape[0]:
        for i in range(SUPER):
            weight[i] = importance[i] * np.sqrt(sigma2 + x[i] * x[i])
    elif plain == np.float32(0):
        for i in range(SUPER):
            weight[i] = x[i] * x[i]
    else:
        for i in range(SUPER):
            weight[i] = plain * sigma2 + x[i] * x[i]


@inner
def magnitudes(x: Any, weight: Any, parity: bool, size: Any, signs: Any) -> None:
    """size = |x|, signs = its minuses; with parity the value of each 8 that weighs least keeps or loses its own."""
    zero = np.float32(0)
    for i in range(SUPER):
        size[i] = x[i] if x[i] >= zero else -x[i]
    for k in range(SUPER // 8):
        bits, minuses = np.int32(0), np.int32(0)
        for i in range(8):
            minus = np.int32(0) if x[8 * k + i] >= zero else np.int32(1)
            bits |= minus << np.int32(i)
            minuses += minus
        if parity and minuses & np.int32(1):
            least, at = np.float32(0), 0
            for i in range(8):
                j = 8 * k + i
                w = weight[j] * x[j] * x[j]
                if i == 0 or w < least:
                    least, at = w, i
            size[8 * k + at] = -size[8 * k + at]
            bits ^= np.int32(1) << np.int32(at)
        signs[k] = np.uint8(bits)


@inner
def nearest_int(x: Any) -> Any:
    """ggml's rint: half to even below 2**22; above, whatever the mantissa's bits say."""
    return np.int32((bits_of(np.float32(x + RINT)) & np.int32(0x007FFFFF)) - np.int32(0x00400000))


@inner
def _start_errors(x: Any, w: Any, inverse: Any, cap: Any, step: Any, error: Any) -> None:
    """Weighted squared error of each lane for codes rint(x * inverse), at most `cap`; a byte where that is 255."""
    lanes = inverse.shape[0]
    for g in range(lanes):
        error[g], step[g] = np.float32(0), np.float32(1) / inverse[g]
    for i in range(x.shape[0]):
        xs, ws = x[i], w[i]
        for g in range(lanes):
            code = nearest_int(inverse[g] * xs[g])
            code = np.int32(code & cap) if cap == np.int32(255) else min(code, cap)
            off = xs[g] - step[g] * np.float32(code)
            error[g] += ws[g] * off * off


@inner
def start_scale(size: Any, weight: Any, work: Any, scale: Any) -> None:
    """Each group's scale for codes 0 .. 4: nine scales, then codes one by one for five rounds (`make_qp_quants`).

    The eight groups of 32 are the lanes. ggml holds codes in a byte, so that -1 is 255 when it is read again.
    """
    x, w, codes = work[0], work[1], work[2]
    peak, inverse, tried, best, error, step = work[3, 0], work[3, 1], work[3, 2], work[3, 3], work[3, 4], work[3, 5]
    sumlx, suml2 = work[3, 6], work[3, 7]
    groups, zero, four, byte = peak.shape[0], np.float32(0), np.float32(4), np.int32(255)
    for i in range(32):
        for g in range(groups):
            x[i, g], w[i, g] = size[32 * g + i], weight[32 * g + i]
    for g in range(groups):
        peak[g] = zero
    for i in range(32):
        for g in range(groups):
            peak[g] = peak[g] if peak[g] > x[i, g] else x[i, g]
    for g in range(groups):
        inverse[g] = four / peak[g]
    _start_errors(x, w, inverse, byte, step, best)
    for k in range(-4, 5):
        if k == 0:
            continue
        for g in range(groups):
            tried[g] = (np.float32(0.1) * np.float32(k) + four) / peak[g]
        _start_errors(x, w, tried, np.int32(4), step, error)
        for g in range(groups):
            better = error[g] < best[g]
            best[g] = error[g] if better else best[g]
            inverse[g] = tried[g] if better else inverse[g]
    for g in range(groups):
        sumlx[g], suml2[g] = zero, zero
    for i in range(32):
        for g in range(groups):
            code = min(nearest_int(inverse[g] * x[i, g]), np.int32(4))
            codes[i, g], q = np.float32(np.int32(code & byte)), np.float32(code)
            sumlx[g] += w[i, g] * x[i, g] * q
            suml2[g] += w[i, g] * q * q
    for _ in range(5):
        if not _start_round(x, w, codes, sumlx, suml2):
            break
    for g in range(groups):
        scale[g] = sumlx[g] / suml2[g] if suml2[g] > zero else zero
        scale[g] = scale[g] if peak[g] >= EPSILON else zero


@inner
def _start_round(x: Any, w: Any, codes: Any, sumlx: Any, suml2: Any) -> bool:
    """One round over all codes; whether one changed. A lane that is done stays as it is in further rounds."""
    zero, changed = np.float32(0), np.int32(0)
    for i in range(x.shape[0]):
        xs, ws, qs = x[i], w[i], codes[i]
        for g in range(sumlx.shape[0]):
            left, left2 = sumlx[g] - ws[g] * xs[g] * qs[g], suml2[g] - ws[g] * qs[g] * qs[g]
            code = min(nearest_int(xs[g] * left2 / left), np.int32(4))
            q = np.float32(code)
            along, square = left + ws[g] * xs[g] * q, left2 + ws[g] * q * q
            better = (left > zero) & (left2 > zero) & (q != qs[g])
            better = better & (along * along * suml2[g] > sumlx[g] * sumlx[g] * square)
            sumlx[g] = along if better else sumlx[g]
            suml2[g] = square if better else suml2[g]
            qs[g] = np.float32(np.int32(code & np.int32(255))) if better else qs[g]
            changed += np.int32(better)
    return bool(changed > 0)
