"""The table of dtypes, and conversion between numpy and MLX.

Arrays are numpy arrays everywhere outside a scheme's MLX form; bfloat16 and the 8-bit floats are numpy dtypes through
ml_dtypes. The table holds every dtype that safetensors knows, so that a tensor of any of them can be listed and copied;
arithmetic is done on `FLOATS` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mlx.core as mx

Array = NDArray[Any]


@dataclass(frozen=True)
class DType:
    """A dtype: quant's name, its name in safetensors headers, bits per value, the numpy dtype's name (None: none)."""

    name: str
    safetensors: str
    bits: int
    numpy: str | None


DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        DType("bool", "BOOL", 8, "bool"),
        DType("u8", "U8", 8, "uint8"),
        DType("i8", "I8", 8, "int8"),
        DType("u16", "U16", 16, "uint16"),
        DType("i16", "I16", 16, "int16"),
        DType("u32", "U32", 32, "uint32"),
        DType("i32", "I32", 32, "int32"),
        DType("u64", "U64", 64, "uint64"),
        DType("i64", "I64", 64, "int64"),
        DType("f16", "F16", 16, "float16"),
        DType("bf16", "BF16", 16, "bfloat16"),
        DType("f32", "F32", 32, "float32"),
        DType("f64", "F64", 64, "float64"),
        DType("c64", "C64", 64, "complex64"),
        DType("f8_e4m3", "F8_E4M3", 8, "float8_e4m3fn"),
        DType("f8_e5m2", "F8_E5M2", 8, "float8_e5m2"),
        DType("f8_e8m0", "F8_E8M0", 8, "float8_e8m0fnu"),
        DType("f6_e2m3", "F6_E2M3", 6, None),
        DType("f6_e3m2", "F6_E3M2", 6, None),
        DType("f4", "F4", 4, None),
    )
}
BY_SAFETENSORS: dict[str, DType] = {d.safetensors: d for d in DTYPES.values()}

#: The dtypes of dense schemes, and of values that are passed between schemes.
FLOATS = ("f64", "f32", "f16", "bf16")

#: Names of dtypes in other tools (config.json's `torch_dtype`, `dtype`) -> quant's names.
TORCH_DTYPES = {"float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}
TORCH_DTYPES |= {f"torch.{k}": v for k, v in TORCH_DTYPES.items()} | {"half": "f16", "float": "f32"}

#: Prefixes of other tools' names of 8-bit floats, and the rest of the names.
FLOAT8_PREFIXES = ("torch.", "float8_", "float8", "fp8_", "fp8", "f8_", "f8")
FLOAT8_NAMES = {
    "e4m3": "f8_e4m3", "e4m3fn": "f8_e4m3", "e5m2": "f8_e5m2", "e8m0": "f8_e8m0", "e8m0fnu": "f8_e8m0",
    "ue8m0": "f8_e8m0",
}  # fmt: skip


def float8_of(name: object) -> str | None:
    """Return quant's name of an 8-bit float from another tool's name; None for anything else.

    >>> float8_of("torch.float8_e4m3fn"), float8_of("E5M2"), float8_of("ue8m0"), float8_of("e4m3fnuz")
    ('f8_e4m3', 'f8_e5m2', 'f8_e8m0', None)
    """
    if not isinstance(name, str):
        return None
    name = name.lower()
    for prefix in FLOAT8_PREFIXES:
        name = name.removeprefix(prefix).removeprefix("_")
    return FLOAT8_NAMES.get(name)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype of a name of `DTYPES` (`bf16` -> ml_dtypes' bfloat16)."""
    spelled = DTYPES[name].numpy
    if spelled is None:
        raise TypeError(f"{name} values are packed several to a byte; numpy has no dtype for them")
    if spelled.startswith(("bfloat16", "float8")):
        import ml_dtypes

        extended: np.dtype[Any] = np.dtype(getattr(ml_dtypes, spelled))
        return extended
    return np.dtype(spelled)


@cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return the name in `DTYPES` of a numpy dtype."""
    return next(d.name for d in DTYPES.values() if d.numpy == dtype.name)


class Device(Enum):
    """What computes: `CPU` quant's kernels on numpy arrays, `MLX` MLX's default device.

    A plan chooses MLX only if that device is a GPU, so plans and reports call it `gpu`; tests use MLX's CPU.
    """

    CPU = "cpu"
    MLX = "gpu"


def has_gpu() -> bool:
    """Return whether MLX's default device is a GPU."""
    import mlx.core as mx

    return bool(mx.default_device().type == mx.DeviceType.gpu)


def to_mlx(array: Array) -> mx.array:
    """Return a copy of `array` on MLX's default device, with the same dtype and shape."""
    import mlx.core as mx

    if array.dtype.name == "bfloat16":
        return mx.array(array.view(np.uint16)).view(mx.bfloat16)
    return mx.array(array)


def from_mlx(array: mx.array) -> Array:
    """Return `array` as an evaluated numpy array; shares memory if MLX allows it."""
    import mlx.core as mx

    if array.dtype == mx.bfloat16:
        return np.array(array.view(mx.uint16), copy=False).view(numpy_dtype("bf16"))
    return np.array(array, copy=False)


def to_float32(array: Array) -> NDArray[np.float32]:
    """Return the values in float32; exact for every dtype of `FLOATS` but f64, which rounds to nearest even."""
    if array.dtype.name == "bfloat16":
        return (array.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(np.float32, copy=False)


def nonfinite(array: Array) -> bool:
    """Return whether a float array holds NaN or Inf. Reads exponents, so that no temporary is wider than the array."""
    if array.dtype.name == "bfloat16":
        return bool(np.any(array.view(np.uint16) & np.uint16(0x7F80) == np.uint16(0x7F80)))
    if array.dtype.name == "float16":
        return bool(np.any(array.view(np.uint16) & np.uint16(0x7C00) == np.uint16(0x7C00)))
    return not bool(np.isfinite(array).all())
