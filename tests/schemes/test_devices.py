"""What schemes say of devices is so: those in MLX arrays compute in them, all others on the CPU whatever is asked."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from quantcli.arrays import Device, numpy_dtype
from quantcli.convert.inspecting.catalogue import SHAPE
from quantcli.schemes.base import Parts, PartSpec, Scheme
from quantcli.schemes.dense import Dense
from quantcli.schemes.ggml import TYPES
from quantcli.schemes.ggml.global_scale import NVFP4, WithGlobal
from quantcli.schemes.hf.gpt_oss import GptOss
from quantcli.schemes.listed import listed
from quantcli.schemes.mlx.global_scale import Nvfp4Experts

SHAPES = ((128, 1024), (1024, 1024), (1, 128, 1024), (1, 1024, 1024))
SCHEMES = (*listed(SHAPE), Nvfp4Experts(128), WithGlobal(NVFP4), WithGlobal(TYPES["q8_0"]), WithGlobal(Dense("f16")))


def said(scheme: Scheme) -> str:
    return f"{type(scheme).__name__}-{scheme.family}-{scheme.name}"


@pytest.fixture
def made_arrays(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every array that is handed to MLX."""
    made: list[Any] = []
    real = mx.array

    def watched(values: Any, *arguments: Any, **options: Any) -> mx.array:
        made.append(values)
        return real(values, *arguments, **options)

    monkeypatch.setattr(mx, "array", watched)
    return made


def zeros_in(scheme: Scheme) -> Parts:
    """Parts of a matrix, as a slab has them."""
    layout = scheme.layout(next(shape for shape in SHAPES if scheme.unread(shape) is None))
    return {part: np.zeros(slab_shape(spec), numpy_dtype(spec.dtype)) for part, spec in layout.items()}


def slab_shape(spec: PartSpec) -> tuple[int, ...]:
    """Leading axes are flattened, and a vector along the rows is a matrix of one row."""
    if spec.axis == 1 and len(spec.shape) == 1:
        return 1, *spec.shape
    if spec.axis == 0 and len(spec.shape) > 2:
        return spec.shape[0] * spec.shape[1], *spec.shape[2:]
    return spec.shape


def encoded(scheme: Scheme) -> Parts | None:
    """Values of 0 on the device; None of a scheme that is only read."""
    values, importance = np.zeros((128, 1024), np.float32), np.ones((1, 1024), np.float32)
    try:
        return scheme.prepare(values.shape, [values]).encode(values, Device.MLX, importance)[0]
    except TypeError:
        return None


@pytest.mark.parametrize("scheme", SCHEMES, ids=said)
def test_arrays_are_made_where_a_scheme_says_so(scheme: Scheme, made_arrays: list[Any]) -> None:
    parts = encoded(scheme)
    assert parts is None or bool(made_arrays) is scheme.in_arrays
    made_arrays.clear()
    scheme.decode(zeros_in(scheme) if parts is None else parts, Device.MLX)
    assert bool(made_arrays) is scheme.in_arrays


def test_families() -> None:
    told = {(s.family, s.in_arrays, s.encodes_as_mlx) for s in listed(SHAPE)} | {
        (s.family, s.in_arrays, s.encodes_as_mlx) for s in (GptOss(), Nvfp4Experts(8))
    }
    others = {s.family for s in listed(SHAPE)} - {"mlx", "ggml", "gpt-oss"}
    assert told == {
        ("mlx", True, True), ("mlx", False, False), ("ggml", True, False), ("gpt-oss", True, False),
        *((family, False, False) for family in others),
    }  # fmt: skip


def test_no_bytes_of_a_gpu_have_been_compared_yet() -> None:
    """The first scheme to say so has to name a test here that runs on a GPU."""
    assert [said(scheme) for scheme in SCHEMES if scheme.gpu_bytes_equal] == []
