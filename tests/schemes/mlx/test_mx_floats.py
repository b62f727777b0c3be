"""MXFP4, MXFP8 and NVFP4: equality with MLX, and the three views against each other."""

import hashlib
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from quantcli.arrays import Device, from_mlx, numpy_dtype, to_float32, to_mlx
from quantcli.schemes.base import Codes, DoesNotFit, Error, Grade, Grid, Parts
from quantcli.schemes.mlx.mx_floats import MODES, MxFloat
from quantcli.schemes.ocp import E2M1, E4M3
from tests.reasons import facts

DTYPES = ("bf16", "f16", "f32")
SCHEMES = [MxFloat(mode) for mode in MODES]


def odd_values(dtype: str) -> np.ndarray:
    """(rows, 256), among them ties, zeros, steps of the scale, and what only wide exponents hold."""
    rng = np.random.default_rng(1)
    gauss = rng.standard_normal((16, 256)).astype(np.float32)
    rows = [*gauss[:6] * 0.02, *gauss[6:8], gauss[8] * 1e-3, gauss[9] * 1e3, gauss[10] * 1e-6, np.exp(gauss[11] * 3)]
    rows += [np.zeros(256), np.full(256, -0.0), np.full(256, 0.3), np.full(256, -65504.0)]
    rows += [rng.integers(-25, 26, 256) * 0.25, rng.integers(-64, 65, 256) * 2.0**-9, np.arange(256) / 32 - 4]
    rows += [np.where(np.arange(256) % 32 == 3, 6 * 2.0**-5, gauss[12] * 0.01)]
    scales = np.repeat(448 * np.exp2(rng.uniform(-9, 5, 16)), 16)
    rows += [scales * np.clip(gauss[13] / 3, -1, 1), scales * rng.integers(-12, 13, 256) / 12]
    if dtype != "f16":
        factors = (1e30, 1e25, 1e-25, 1e-33, 1e18, 2e9)
        rows += [gauss[14] * factor for factor in factors] + [np.full(256, 1.4e-45)]
    return np.array(rows, np.float64).astype(np.float32).astype(numpy_dtype(dtype))


def assert_same(ours: Parts, theirs: Parts) -> None:
    assert list(ours) == list(theirs) == ["weight", "scales"]
    for name, part in ours.items():
        assert part.dtype == theirs[name].dtype
        np.testing.assert_array_equal(part, theirs[name], err_msg=name)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_as_mx_quantize(scheme: MxFloat, dtype: str) -> None:
    values = odd_values(dtype)
    parts, error = scheme.encode(values)
    wanted = [from_mlx(part) for part in mx.quantize(to_mlx(values), mode=scheme.mode)]
    assert_same(parts, dict(zip(("weight", "scales"), wanted, strict=True)))
    assert_same(scheme.encode(values, Device.MLX)[0], parts)
    between = Error.between(to_float32(values), scheme.decode(parts))
    assert error.squared == pytest.approx(between.squared, rel=1e-6)
    assert error.reference == pytest.approx(between.reference, rel=1e-6)
    assert error.largest == pytest.approx(between.largest, rel=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_every_step_of_the_scale_is_mlx_s(scheme: MxFloat) -> None:
    """Largest magnitudes of every bf16 value whose scale E8M0 holds, and of float32 beside powers of two."""
    bf16 = np.arange(0x0480, 0x7E80, dtype=np.uint16).view(numpy_dtype("bf16"))
    largest = np.float32(448 if scheme.mode == "mxfp8" else 6)
    near = np.arange(24, 230, dtype=np.uint32)[:, None] * np.uint32(1 << 23) + np.arange(-3, 4).astype(np.uint32)[None]
    for peaks in (bf16, near.view(np.float32).reshape(-1) * largest):
        values = np.zeros((len(peaks), 32), peaks.dtype)
        values[:, 0] = values[:, 16] = peaks
        wanted = from_mlx(mx.quantize(to_mlx(values), mode=scheme.mode)[1])
        np.testing.assert_array_equal(scheme.encode(values)[0]["scales"], wanted)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_decode_of_any_bits_is_mx_dequantize(scheme: MxFloat) -> None:
    rng = np.random.default_rng(2)
    group = scheme.facts.group
    words = rng.integers(0, 1 << 32, (256, group * 2 * scheme.facts.bits // 32), np.uint32)
    parts = {"weight": words, "scales": np.arange(256, dtype=np.uint8).repeat(2).reshape(256, 2)}
    arrays = (to_mlx(part) for part in parts.values())
    with np.errstate(all="ignore"):
        wanted = from_mlx(mx.dequantize(*arrays, mode=scheme.mode, dtype=mx.float32))
        np.testing.assert_array_equal(scheme.decode(parts), wanted)
        np.testing.assert_array_equal(scheme.decode(parts, Device.MLX), wanted)
        np.testing.assert_array_equal(scheme.codes(parts).values(), wanted)
    sound = {name: part[: scheme.facts.positive] for name, part in parts.items()}
    assert_same(scheme.pack(scheme.codes(sound)), sound)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_encoding_decoded_values_again_changes_nothing(scheme: MxFloat) -> None:
    values = scheme.decode(scheme.encode(odd_values("f32")[:16])[0])
    again, error = scheme.encode(values)
    np.testing.assert_array_equal(scheme.decode(again), values)
    assert error.largest == 0


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8"])
@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_scales_below_e8m0_are_clamped_not_wrapped(mode: str, dtype: str) -> None:
    tiny = {"mxfp4": 2.0**-129, "mxfp8": 2.0**-121}[mode]
    values = np.full((2, 32), tiny, np.float32).astype(numpy_dtype(dtype))
    values[1] = 0.5
    for device in Device:
        parts, error = MxFloat(mode).encode(values, device)
        assert parts["scales"][0, 0] == 0
        np.testing.assert_allclose(MxFloat(mode).decode(parts)[0], tiny, atol=2.0**-129)
        assert error.largest <= 2.0**-129


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_show_in_the_error(scheme: MxFloat, bad: float) -> None:
    for dtype in DTYPES:
        values = odd_values(dtype)
        values[3, 40] = bad
        for device in Device:
            assert not np.isfinite(scheme.encode(values, device)[1].reference)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_layout_is_what_encode_writes(scheme: MxFloat) -> None:
    layout = scheme.layout((2, 4, 256))
    parts, _ = scheme.encode(odd_values("f32")[:8])
    assert list(layout) == list(parts)
    for name, spec in layout.items():
        assert numpy_dtype(spec.dtype) == parts[name].dtype
        assert parts[name].reshape(spec.shape).shape[:2] == (2, 4)
    assert scheme.bits_per_weight((2, 4, 256)) == scheme.facts.bits + 8 / scheme.facts.group


def test_fits_same_tables_and_scales_only() -> None:
    mxfp4, nvfp4, shape = MxFloat("mxfp4"), MxFloat("nvfp4"), (4, 128)
    assert mxfp4.fits(mxfp4.grid(), shape) == mxfp4.fits(Grid(4, 64, "f8_e8m0", table=E2M1), shape) == Grade.EXACT
    assert MxFloat("mxfp8").fits(Grid(8, 32, "f8_e8m0", table=tuple(np.array(E4M3))), shape) == Grade.EXACT
    assert facts(mxfp4.fits(nvfp4.grid(), shape)) == ["16", "32"]
    assert facts(nvfp4.fits(mxfp4.grid(), shape)) == ["f8_e8m0", "nvfp4", "f8_e4m3"]
    assert facts(mxfp4.fits(Grid(4, 32, "f16"), shape)) == ["mxfp4"]
    assert facts(mxfp4.fits(mxfp4.grid(), (4, 100))) == ["100", "32"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [3.1, -1.0, np.inf, np.nan, 2.0**-130])
def test_pack_refuses_scales_that_are_no_bytes(mode: str, scale: float) -> None:
    scheme = MxFloat(mode)
    codes = np.zeros((1, 32), np.uint8)
    scales = np.full((1, 32 // scheme.facts.group), scale, np.float32)
    with pytest.raises(DoesNotFit, match="a scale of .* f8_"):
        scheme.pack(Codes(scheme.grid(), codes, scales, None))


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_rounding_is_what_a_gaussian_costs(scheme: MxFloat) -> None:
    values = np.random.default_rng(7).standard_normal((256, 1024)).astype(np.float32)
    assert scheme.encode(values)[1].relative_rmse == pytest.approx(scheme.rounding, rel=0.02)


@pytest.mark.parametrize("mode", MODES)
def test_equals_what_mlx_lm_wrote(shared: Path, mode: str) -> None:
    manifest = json.loads((shared / f"fixtures/mlx/tiny-llama-{mode}.json").read_text())
    hashes = {tensor["name"]: tensor["sha256"] for tensor in manifest["tensors"]}
    weights = mx.load(str(shared / "fixtures/models/tiny-llama/model.safetensors"))
    for name in ("model.layers.0.mlp.down_proj", "model.layers.3.self_attn.k_proj", "model.embed_tokens"):
        parts, _ = MxFloat(mode).encode(from_mlx(weights[f"{name}.weight"]))
        for part, array in parts.items():
            assert hashlib.sha256(array.tobytes()).hexdigest() == hashes[f"{name}.{part}"], (name, part)
