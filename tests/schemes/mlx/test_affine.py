"""The affine scheme: its three views against each other and against MLX."""

import hashlib
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from quantcli.arrays import Device, from_mlx, numpy_dtype, to_float32, to_mlx
from quantcli.schemes.base import Codes, DoesNotFit, Error, Grade, Grid, Parts
from quantcli.schemes.mlx.affine import BITS, GROUPS, Affine
from quantcli.schemes.ocp import E2M1
from tests.reasons import facts

DTYPES = ("bf16", "f16", "f32")


def gauss(rows: int = 8, columns: int = 384, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.02).astype(np.float32)


def random_parts(scheme: Affine, rows: int = 4, columns: int = 384) -> Parts:
    """Any words, any finite parameters."""
    rng = np.random.default_rng(scheme.bits)
    dtype = numpy_dtype(scheme.scale_dtype)
    shape = (rows, columns // scheme.group)
    return {
        "weight": rng.integers(0, 1 << 32, (rows, columns * scheme.bits // 32), np.uint32),
        "scales": rng.standard_normal(shape).astype(np.float32).astype(dtype),
        "biases": (rng.standard_normal(shape) * 7).astype(np.float32).astype(dtype),
    }


def assert_same(ours: Parts, theirs: Parts) -> None:
    assert list(ours) == list(theirs)
    for name, part in ours.items():
        assert part.dtype == theirs[name].dtype
        assert part.tobytes() == theirs[name].tobytes(), name


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("given", ["f64", "f32", "f16", "bf16"])
def test_both_devices_cast_first_and_give_the_same_bits(bits: int, given: str) -> None:
    values = gauss().astype(numpy_dtype(given))
    for dtype in DTYPES:
        scheme = Affine(bits, 64, dtype)
        (cpu, cpu_error), (mlx, mlx_error) = (scheme.encode(values, device) for device in (Device.CPU, Device.MLX))
        assert_same(cpu, mlx)
        cast = to_float32(values).astype(numpy_dtype(dtype))
        wanted = [from_mlx(part) for part in mx.quantize(to_mlx(cast), group_size=64, bits=bits)]
        assert_same(cpu, dict(zip(cpu, wanted, strict=True)))
        between = Error.between(to_float32(values), scheme.decode(cpu))
        for error in (cpu_error, mlx_error):
            assert error.squared == pytest.approx(between.squared, rel=1e-6)
            assert error.reference == pytest.approx(between.reference, rel=1e-6)
            assert error.largest == pytest.approx(between.largest, rel=1e-6)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", GROUPS)
def test_decode_of_any_bits_is_mx_dequantize(bits: int, group: int) -> None:
    for dtype in DTYPES:
        scheme = Affine(bits, group, dtype)
        parts = random_parts(scheme)
        values = scheme.decode(parts)
        arrays = [to_mlx(parts["weight"]), *(to_mlx(to_float32(parts[name])) for name in ("scales", "biases"))]
        np.testing.assert_array_equal(values, from_mlx(mx.dequantize(*arrays, group_size=group, bits=bits)))
        np.testing.assert_array_equal(values, scheme.decode(parts, Device.MLX))
        codes = scheme.codes(parts)
        np.testing.assert_array_equal(values, codes.values())
        assert_same(scheme.pack(codes), parts)


@pytest.mark.parametrize("bits", BITS)
def test_layout_is_what_encode_writes(bits: int) -> None:
    for dtype in DTYPES:
        scheme = Affine(bits, 128, dtype)
        layout = scheme.layout((2, 3, 384))
        parts, _ = scheme.encode(gauss(6))
        assert list(layout) == list(parts) == ["weight", "scales", "biases"]
        for name, spec in layout.items():
            assert numpy_dtype(spec.dtype) == parts[name].dtype
            assert parts[name].reshape(spec.shape).shape[:2] == (2, 3)
        scale_bits = 32 if dtype == "f32" else 16
        assert scheme.bits_per_weight((2, 3, 384)) == bits + 2 * scale_bits / 128


@pytest.mark.parametrize("bits", [bits for bits in BITS if bits > 1])
def test_values_on_the_grid_come_back(bits: int) -> None:
    scheme = Affine(bits, 32, "f32")
    steps = np.random.default_rng(bits).integers(0, 1 << bits, (4, 64))
    steps[:, ::32], steps[:, 1::32] = 0, (1 << bits) - 1
    values = (steps * 0.25 - 0.25 * (1 << bits - 1)).astype(np.float32)
    parts, error = scheme.encode(values)
    np.testing.assert_array_equal(scheme.decode(parts), values)
    assert (error.squared, error.largest) == (0, 0)


@pytest.mark.parametrize("scale", [1e30, 1e-25, 1e-40])
def test_errors_are_measured_where_squares_leave_float32(scale: float) -> None:
    values = (gauss().astype(np.float64) * scale).astype(np.float32)
    scheme = Affine(4, 64, "f32")
    for device in Device:
        parts, error = scheme.encode(values, device)
        between = Error.between(values, scheme.decode(parts))
        assert error.squared == pytest.approx(between.squared, rel=1e-6)
        assert error.reference == pytest.approx(between.reference, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("given", ["f32", "f16", "bf16"])
def test_nan_and_inf_show_in_the_error(bad: float, given: str) -> None:
    values = gauss().astype(numpy_dtype(given))
    values[5, 100] = bad
    for device in Device:
        for dtype in DTYPES:
            _, error = Affine(4, 64, dtype).encode(values, device)
            assert not np.isfinite(error.reference)


def test_overflow_is_refused_with_the_value() -> None:
    values = gauss()
    values[3, 7] = 70000.0
    for device in Device:
        with pytest.raises(DoesNotFit, match="value of 70000 .*f16"):
            Affine(4, 64, "f16").encode(values, device)
        assert np.isfinite(Affine(4, 64, "bf16").encode(values, device)[1].reference)
        values[3, 8] = values[3, 7] = -60000.0
        values[3, 9] = 60000.0
        with pytest.raises(DoesNotFit, match="scale of about 120000 .*f16"):
            Affine(1, 64, "f16").encode(values, device)
        values[3, 7:10] = 70000.0


def test_fits_grades_by_what_the_scale_dtype_holds() -> None:
    shape = (8, 384)
    f16, f32 = Affine(4, 64, "f16"), Affine(4, 64, "f32")
    own = Grid(4, 64, "f16")
    assert f16.fits(own, shape) == f32.fits(own, shape) == f16.fits(Grid(3, 128, "f16"), shape) == Grade.EXACT
    assert f16.fits(Grid(4, 64, "bf16"), shape) == Grade.CODES_EXACT
    assert f16.fits(Grid(4, 64, "f16", zero=8), shape) == Grade.EXACT
    assert f16.fits(Grid(4, 64, "f16", zero=7), shape) == Grade.CODES_EXACT
    assert f32.fits(Grid(4, 64, "f16", zero=7), shape) == Grade.EXACT
    assert f16.fits(Grid(4, 64, "f16", zero_points=True), shape) == Grade.CODES_EXACT
    assert f32.fits(Grid(4, 64, "bf16", zero_points=True), shape) == Grade.EXACT
    assert f32.fits(Grid(4, 64, "f32", zero_points=True), shape) == Grade.CODES_EXACT


@pytest.mark.parametrize(
    ("grid", "shape", "said"),
    [
        (Grid(5, 64, "f16"), (8, 384), ["5", "affine4-g64", "4"]),
        (Grid(4, 32, "f16"), (8, 384), ["32", "64"]),
        (Grid(4, 64, "f16", table=E2M1), (8, 384), ["affine4-g64"]),
        (Grid(4, 64, "f16"), (8, 100), ["100", "64"]),
        (Grid(4, 64, "f16"), (384,), ["1"]),
    ],
)
def test_what_does_not_fit_says_why(grid: Grid, shape: tuple[int, ...], said: list[str]) -> None:
    assert facts(Affine(4, 64, "f16").fits(grid, shape)) == said


def test_pack_repeats_scales_of_larger_groups_and_keeps_narrower_codes() -> None:
    source = Affine(3, 128, "f16")
    codes = source.codes(random_parts(source))
    packed = Affine(4, 32, "f32").pack(codes)
    np.testing.assert_array_equal(Affine(4, 32, "f32").decode(packed), codes.values())


@pytest.mark.parametrize(
    ("scale", "bias", "code", "reason"),
    [
        (70000.0, 0.0, 15, "scale of 70000 .*f16"),
        (1.0, -8e4, 15, "bias of 80000 .*f16"),
        (np.nan, 0.0, 15, "scale"),
        (1.0, np.inf, 15, "bias"),
        (1.0, 0.0, 16, "code of 16 .*4 bits"),
    ],
)
def test_pack_refuses_what_its_dtype_cannot_hold(scale: float, bias: float, code: int, reason: str) -> None:
    parameters = (np.full((1, 1), value, np.float32) for value in (scale, bias))
    with pytest.raises(DoesNotFit, match=reason):
        Affine(4, 64, "f16").pack(Codes(Grid(4, 64, "f32"), np.full((1, 64), code, np.uint8), *parameters))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_what_a_gaussian_costs(dtype: str) -> None:
    values = np.random.default_rng(7).standard_normal((256, 1024)).astype(np.float32)
    for bits in BITS:
        for group in GROUPS:
            scheme = Affine(bits, group, dtype)
            assert scheme.encode(values)[1].relative_rmse == pytest.approx(scheme.rounding, rel=0.02)


@pytest.mark.parametrize("bits", [bits for bits in BITS if bits > 1])
@pytest.mark.parametrize("group", GROUPS)
def test_equals_what_mlx_lm_wrote(shared: Path, bits: int, group: int) -> None:
    manifest = json.loads((shared / f"fixtures/mlx/tiny-llama-affine{bits}-g{group}.json").read_text())
    hashes = {tensor["name"]: tensor["sha256"] for tensor in manifest["tensors"]}
    weights = mx.load(str(shared / "fixtures/models/tiny-llama/model.safetensors"))
    for name in ("model.layers.0.mlp.down_proj", "model.layers.3.self_attn.k_proj", "model.embed_tokens"):
        parts, _ = Affine(bits, group, "bf16").encode(from_mlx(weights[f"{name}.weight"]))
        for part, array in parts.items():
            assert hashlib.sha256(array.tobytes()).hexdigest() == hashes[f"{name}.{part}"], (name, part)
