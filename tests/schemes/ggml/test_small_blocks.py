"""GGML's types of up to 4.5 bits with a single search or none: ggml's bytes and values, grids, repacks, MLX.

tests/data/ggml/small.npz holds what ggml 0.25.3 (x86-64, no fused multiply-add) made of blocks.npz's `x`:
`q.<type>.<variant>` (rows with `ok.<type>.<variant>` false are undefined in C), and random blocks `rnd.<type>.q` with
their values `rnd.<type>.dq`. Variants: `none`, and where a matrix matters `im`, `imz` with `imatrix`, `imatrix_zeros`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.arrays import Device, numpy_dtype
from quantcli.kernels.ggml.codebooks import iq4 as iq4_kernels
from quantcli.kernels.ggml.formats import IQ4_VALUES
from quantcli.schemes.base import Codes, DoesNotFit, Error, Grade, Grid
from quantcli.schemes.ggml import TYPES, floats, iq4, ternary
from quantcli.schemes.ggml.blocks import Ggml
from quantcli.schemes.mlx.affine import Affine
from quantcli.schemes.mlx.mx_floats import MxFloat
from tests.reasons import facts

DATA = Path(__file__).parent.parent.parent / "data" / "ggml"
GOLDEN = np.load(DATA / "small.npz")
ROWS = {name: np.load(DATA / "blocks.npz")[name] for name in ("x", "row_names")}
SCHEMES: dict[str, Ggml] = {**iq4.SCHEMES, **floats.SCHEMES, **ternary.SCHEMES}
NAMES = tuple(SCHEMES)
MATRICES = {"none": None, "im": "imatrix", "imz": "imatrix_zeros"}
DEVICES = (Device.CPU, Device.MLX)
#: Bytes of a block that are an f16 scale.
HALVES = {"tq1_0": 52, "tq2_0": 64, "q1_0": 0, "q2_0": 0, "iq4_nl": 0, "iq4_xs": 0}
FLOATS = tuple(floats.SCHEMES)


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


def random_blocks(rng: np.random.Generator, name: str, rows: int = 20, blocks: int = 4) -> np.ndarray[Any, Any]:
    """Random bytes whose f16 scales are finite and whose E8M0 scales are numbers."""
    data = rng.integers(0, 256, (rows, blocks, SCHEMES[name].ggml_type.block_bytes), np.uint8)
    if name in HALVES:
        data[..., HALVES[name] + 1] &= 0xBB
    if name == "mxfp4":
        data[..., 0] = np.minimum(data[..., 0], 252)
    return data.reshape(rows, -1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name, variant", [tuple(key.split(".")[1:]) for key in GOLDEN.files if key.startswith("q.")])
def test_bytes_are_ggmls(name: str, variant: str, device: Device) -> None:
    matrix = MATRICES[variant]
    ok = GOLDEN[f"ok.{name}.{variant}"]
    x = ROWS["x"][ok]
    parts, error = SCHEMES[name].encode(x, device, None if matrix is None else GOLDEN[matrix][None])
    wrong = (parts["blocks"] != GOLDEN[f"q.{name}.{variant}"][ok]).any(axis=1)
    assert not wrong.any(), ROWS["row_names"][ok][wrong]
    between = Error.between(x, SCHEMES[name].decode(parts))
    assert error.squared == pytest.approx(between.squared, rel=1e-5)
    assert error.reference == pytest.approx(between.reference, rel=1e-5)
    assert error.largest == pytest.approx(between.largest, rel=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_ggmls(rng: np.random.Generator, name: str, device: Device) -> None:
    assert same_bits(SCHEMES[name].decode({"blocks": GOLDEN[f"rnd.{name}.q"]}, device), GOLDEN[f"rnd.{name}.dq"])
    blocks = {"blocks": random_blocks(rng, name)}
    assert same_bits(SCHEMES[name].decode(blocks, device), SCHEMES[name].decode(blocks))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"q1_0", "q2_0"}))
def test_values_are_gguf_pys(rng: np.random.Generator, name: str) -> None:
    gguf = pytest.importorskip("gguf")
    blocks = random_blocks(rng, name)
    theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name.upper()])
    assert (SCHEMES[name].decode({"blocks": blocks}) == theirs).all()


@pytest.mark.parametrize("name", NAMES)
def test_codes_hold_the_values(rng: np.random.Generator, name: str) -> None:
    parts = {"blocks": random_blocks(rng, name)}
    codes = SCHEMES[name].codes(parts)
    assert codes.grid == SCHEMES[name].grid()
    assert (codes.values() == SCHEMES[name].decode(parts)).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", iq4.SCHEMES)
def test_importance_of_each_row(rng: np.random.Generator, name: str, device: Device) -> None:
    """A row of weights for each row of values, rows that are no whole number of chunks."""
    values = rng.standard_normal((5, 768)).astype(np.float32)
    matrix = np.exp(rng.standard_normal((5, 768))).astype(np.float32)
    together = SCHEMES[name].encode(values, device, matrix)[0]["blocks"]
    for row in range(5):
        alone = SCHEMES[name].encode(values[row : row + 1], Device.CPU, matrix[row : row + 1])[0]["blocks"]
        assert (together[row] == alone[0]).all()
    shared = SCHEMES[name].encode(values, device, matrix[:1])[0]["blocks"]
    assert (shared[0] == together[0]).all()
    assert (shared[1:] != together[1:]).any()


def test_candidates_see_two_neighbours_at_most() -> None:
    """What the kernel's search rests on: from the first to the last candidate no value passes two middles."""
    values = np.array(IQ4_VALUES, np.float64)
    middles = (values[1:] + values[:-1]) / 2
    for side in (middles[middles > 0], -middles[middles < 0][::-1]):
        assert (side[1:] / side[:-1]).min() > (127 + iq4_kernels.STEPS) / (127 - iq4_kernels.STEPS) * 1.05


@pytest.mark.parametrize("name", ["iq4_nl", "q2_0", "tq1_0", "tq2_0", *FLOATS])
def test_packing_codes_gives_the_blocks_back(rng: np.random.Generator, name: str) -> None:
    """What it encoded itself: random bytes of tq1_0, nvfp4 can have another spelling."""
    scheme = SCHEMES[name]
    parts = scheme.encode(rng.standard_normal((8, 512)).astype(np.float32))[0]
    assert scheme.fits(scheme.grid(), (8, 512)) == Grade.EXACT
    assert (scheme.pack(scheme.codes(parts))["blocks"] == parts["blocks"]).all()


@pytest.mark.parametrize("name", FLOATS)
def test_repacks_between_mlx_and_ggml(rng: np.random.Generator, name: str) -> None:
    """Every scale byte that both know and every code, both ways."""
    ours, theirs = SCHEMES[name], MxFloat(name)
    count, group = (255, 32) if name == "mxfp4" else (127, 16)
    scales = np.arange(count, dtype=np.uint8).repeat(64 // group).reshape(count, -1)
    words = rng.integers(0, 1 << 32, (count, 8), np.uint32)
    parts = {"weight": words, "scales": scales}
    for here, there in ((ours, theirs), (theirs, ours)):
        assert here.fits(there.grid(), (count, 64)) == Grade.EXACT
    blocks = ours.pack(theirs.codes(parts))
    with np.errstate(over="ignore"):
        assert (ours.decode(blocks) == theirs.decode(parts)).all()
    back = theirs.pack(ours.codes(blocks))
    assert all((back[part] == parts[part]).all() for part in parts)
    assert (ours.pack(theirs.codes(back))["blocks"] == blocks["blocks"]).all()


def test_scale_bytes_that_have_no_place() -> None:
    block = np.zeros((1, 36), np.uint8)
    block[0, :4], block[0, 4:] = (0x7F, 0x81, 0x80, 0xFF), 0x22
    values = SCHEMES["nvfp4"].decode({"blocks": block})[0, ::16]
    assert values.tolist() == [0, 2.0**-9, 0, 480]
    with pytest.raises(DoesNotFit, match="a scale of 480 is not a value of f8_e4m3"):
        MxFloat("nvfp4").pack(SCHEMES["nvfp4"].codes({"blocks": block}))
    block[0, 3] = 0
    repacked = MxFloat("nvfp4").pack(SCHEMES["nvfp4"].codes({"blocks": block}))
    assert repacked["scales"].tolist() == [[0, 1, 0, 0]]
    infinite = np.zeros((1, 17), np.uint8)
    infinite[0, 0] = 255
    with pytest.raises(DoesNotFit, match="a scale of inf is not a value of f8_e8m0"):
        MxFloat("mxfp4").pack(SCHEMES["mxfp4"].codes({"blocks": infinite}))
    for byte, value in ((0x7F, "nan"), (0x81, "-0.00195312")):
        parts = {"weight": np.zeros((1, 8), np.uint32), "scales": np.full((1, 4), byte, np.uint8)}
        with pytest.raises(DoesNotFit, match=f"a scale of {value} is not a value of f8_e4m3"):
            SCHEMES["nvfp4"].pack(MxFloat("nvfp4").codes(parts))


def test_peaks_just_below_powers_of_two() -> None:
    """ggml's log2f rounds some of them up: by hand, 16 - 2**-20 does, 16 - 2**-19 does not, 1 - 2**-24 does not."""
    values = np.zeros((6, 32), np.float32)
    values[:, 0] = 16, 16 - 2.0**-20, 16 - 2.0**-19, 1, 1 - 2.0**-24, 2.0**-127
    for device in DEVICES:
        stored = SCHEMES["mxfp4"].encode(values, device)[0]["blocks"][:, 0]
        assert stored.tolist() == [129, 129, 128, 125, 124, 0]


def test_foreign_grids_have_their_reason(rng: np.random.Generator) -> None:
    shape = (4, 512)
    affine = Affine(4, 32, "f16").grid()
    assert facts(SCHEMES["iq4_nl"].fits(affine, shape)) == ["iq4_nl"]
    assert facts(SCHEMES["iq4_nl"].fits(SCHEMES["mxfp4"].grid(), shape)) == ["iq4_nl"]
    assert SCHEMES["iq4_nl"].fits(SCHEMES["iq4_xs"].grid(), shape) == Grade.CODES_EXACT
    assert facts(SCHEMES["iq4_xs"].fits(SCHEMES["iq4_xs"].grid(), shape)) == ["6", "f16", "256", "iq4_xs"]
    assert facts(SCHEMES["mxfp4"].fits(affine, shape)) == ["mxfp4"]
    assert facts(SCHEMES["mxfp4"].fits(SCHEMES["nvfp4"].grid(), shape)) == ["16", "32"]
    assert facts(SCHEMES["nvfp4"].fits(SCHEMES["mxfp4"].grid(), shape)) == ["f8_e8m0", "nvfp4", "f8_e4m3"]
    assert facts(SCHEMES["nvfp4"].fits(MxFloat("nvfp4").grid(), (4, 48))) == ["48", "64"]
    assert facts(SCHEMES["q1_0"].fits(SCHEMES["q1_0"].grid(), shape)) == ["2", "q1_0"]
    assert facts(SCHEMES["q2_0"].fits(Affine(2, 64, "f16").grid(), shape)) == ["1", "q2_0"]
    assert facts(SCHEMES["tq2_0"].fits(Grid(2, 64, "f16", zero=1), shape)) == ["64", "256"]
    assert SCHEMES["q2_0"].fits(Grid(2, 256, "bf16", zero=1), shape) == Grade.CODES_EXACT
    assert facts(SCHEMES["q2_0"].fits(Grid(3, 64, "f16", zero=1), shape)) == ["3", "q2_0", "2"]
    with pytest.raises(DoesNotFit):
        SCHEMES["iq4_xs"].pack(SCHEMES["iq4_xs"].codes({"blocks": random_blocks(rng, "iq4_xs")}))


def test_what_pack_finds_out() -> None:
    grid = Grid(2, 256, "f16", zero=1)
    codes = np.zeros((1, 256), np.uint8)
    codes[0, 7] = 3
    one = np.ones((1, 1), np.float32)
    assert SCHEMES["tq2_0"].pack(Codes(grid, codes, one, -one))["blocks"][0, 7] == 3
    with pytest.raises(DoesNotFit, match="code of 3 .*2.*tq1_0"):
        SCHEMES["tq1_0"].pack(Codes(grid, codes, one, -one))
    with pytest.raises(DoesNotFit, match="scale of 70000 .*65504"):
        SCHEMES["q2_0"].pack(Codes(grid, codes, one * 70000, -one))


def test_the_same_ternary_weights_in_all_their_types(rng: np.random.Generator) -> None:
    values = (rng.integers(-1, 2, (4, 512)) * 0.25).astype(np.float32)
    values[:, ::64] = 0.25
    for name in ("tq1_0", "tq2_0", "q2_0"):
        parts, error = SCHEMES[name].encode(values)
        assert error.largest == 0
        assert (
            SCHEMES["q2_0"].pack(SCHEMES[name].codes(parts))["blocks"] == SCHEMES["q2_0"].encode(values)[0]["blocks"]
        ).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f64"])
def test_dtypes_of_values(rng: np.random.Generator, name: str, dtype: str) -> None:
    values = (rng.standard_normal((3, 1280)) * 0.03).astype(numpy_dtype(dtype))
    wide = values.astype(np.float32)
    parts, error = SCHEMES[name].encode(values)
    assert (parts["blocks"] == SCHEMES[name].encode(wide)[0]["blocks"]).all()
    assert (parts["blocks"] == SCHEMES[name].encode(values, Device.MLX)[0]["blocks"]).all()
    assert error.relative_rmse == pytest.approx(
        Error.between(wide, SCHEMES[name].decode(parts)).relative_rmse, rel=1e-5
    )
    assert error.relative_rmse == pytest.approx(SCHEMES[name].rounding, rel=0.1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_values_show_in_the_reference(
    rng: np.random.Generator, name: str, bad: float, device: Device
) -> None:
    values = rng.standard_normal((2, 512)).astype(np.float32)
    values[1, 40] = bad
    parts, error = SCHEMES[name].encode(values, device)
    assert not np.isfinite(error.reference)
    assert (parts["blocks"][0] == SCHEMES[name].encode(values[:1])[0]["blocks"][0]).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("large", [1e10, 1e30])
def test_a_scale_above_f16_does_not_fit(name: str, large: float, device: Device) -> None:
    """Also where the search's float32 sums overflow before the scale does."""
    values = np.ones((2, 512), np.float32)
    values[1, 300] = large
    with pytest.raises(DoesNotFit, match=r"block's scale or minimum of \S+ .*65504"):
        SCHEMES[name].encode(values, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_registered_layout_unfit_and_no_rows(name: str, device: Device) -> None:
    scheme = TYPES[name]
    assert scheme == SCHEMES[name]
    size = scheme.ggml_type.block_size
    assert scheme.layout((3, 512))["blocks"].shape == (3, 512 // size * scheme.ggml_type.block_bytes)
    assert facts(scheme.unfit((4, 16))) == ["16", str(size)]
    parts, error = scheme.encode(np.zeros((0, 256), np.float32), device)
    assert error == Error()
    assert scheme.decode(parts, device).shape == (0, 256)
