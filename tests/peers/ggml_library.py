"""libggml's own encoders, called through ctypes in the library that llama-cpp-python brings.

A build for x86-64 rounds each product and each sum, and its bytes are the reference; one whose compiler contracts them
into fused operations (arm64, -march=native) gives other bytes, so `contracts` is asked first.
"""

import ctypes
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from quantcli.containers.ggml_types import BY_NAME

GOLDENS = Path(__file__).resolve().parent.parent / "data" / "ggml"

#: ggml makes this one of activations only, so it has no entry in `ggml_quantize_chunk`.
ROW_ENCODERS = {"q8_k": "quantize_row_q8_K_ref"}


@cache
def _library(folder: Path) -> ctypes.CDLL:
    (path,) = (p for p in folder.glob("libggml-base.*") if p.suffix in (".so", ".dylib"))
    lib = ctypes.CDLL(str(path))
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    for name in ROW_ENCODERS.values():
        getattr(lib, name).argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    return lib


def quantized(llama_cpp: ModuleType, name: str, values: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """uint8 (rows, bytes per row): what ggml makes of float32 (rows, columns); `matrix`: float32 (columns,)."""
    lib = _library(Path(str(llama_cpp.__file__)).parent / "lib")
    kind, (rows, columns) = BY_NAME[name], values.shape
    out = np.zeros((rows, columns // kind.block_size * kind.block_bytes), np.uint8)
    values = np.ascontiguousarray(values, np.float32)
    if name in ROW_ENCODERS:
        getattr(lib, ROW_ENCODERS[name])(values.ctypes.data, out.ctypes.data, values.size)
        return out
    weights = None if matrix is None else np.ascontiguousarray(matrix, np.float32)
    at = None if weights is None else weights.ctypes.data
    # It prepares the codebooks of IQ types once, and does nothing for others.
    written = lib.ggml_quantize_chunk(kind.id, values.ctypes.data, out.ctypes.data, 0, rows, columns, at)
    assert written == out.nbytes
    return out


@cache
def contracts(llama_cpp: ModuleType) -> bool:
    """Whether this build's q2_k, the type that fused operations change most, is not that of the goldens."""
    x, goldens = np.load(GOLDENS / "blocks.npz")["x"], np.load(GOLDENS / "k_quants.npz")
    ok = goldens["ok.q2_k.none"]
    return bool((quantized(llama_cpp, "q2_k", x[ok], None) != goldens["q.q2_k.none"][ok]).any())
