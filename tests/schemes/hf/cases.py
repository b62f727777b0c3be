"""The matrix and the schemes that encoders of Hugging Face layouts are held to other people's software with."""

from __future__ import annotations

import numpy as np

SHAPE = (136, 192)
DTYPES = ("f32", "f16", "bf16")
CASES = (
    *(f"{kind}{bits}-{shared}" for bits in range(2, 8) for kind in ("int", "uint") for shared in ("g32", "channel")),
    "int4-g64", "int8-g64", "int8-asym-g32", "int8-asym-channel", "int8-channel", "int8-tensor", "int8-asym-tensor",
    "fp8-e4m3-tensor", "fp8-e4m3-channel", "fp8-e4m3-block128", "mxfp4", "mxfp8", "nvfp4",
    "nf4-g32", "nf4-g64", "fp4-g32", "fp4-g64", "nf4-double-g32", "nf4-double-g64", "fp4-double-g64",
)  # fmt: skip


def matrix() -> np.ndarray:
    """float32 136 x 192: Gaussian rows of many sizes, a zero one, one-signed ones, ties, every mantissa."""
    random = np.random.default_rng(7)
    found = random.standard_normal(SHAPE).astype(np.float32) * np.float32(0.05)
    found[:16] *= np.exp2(-np.arange(16, dtype=np.float32))[:, None]
    found[16] = 0
    found[17, :64] = 0
    found[18], found[19] = np.abs(found[18]), -np.abs(found[19])
    found[20, ::3] = -0.0
    found[21:30] = random.integers(-15, 16, (9, 192)) / np.float32(2)
    found[21:30, ::32] = 7.5
    found[30:60] = random.uniform(-1, 1, (30, 192)) * np.exp2(random.uniform(-3, 3, (30, 1)))
    return found
