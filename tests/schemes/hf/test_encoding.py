"""What `--to hf` encodes: the bytes of compressed-tensors and bitsandbytes, whatever the slabs; and repacks."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from quantcli.arrays import numpy_dtype
from quantcli.schemes.base import Codes, DoesNotFit, Grade, Grid, Parts
from quantcli.schemes.hf import named
from quantcli.schemes.hf.bnb4 import NF4, Bnb4
from quantcli.schemes.hf.gptq import Gptq
from quantcli.schemes.hf.scaled import Scales
from quantcli.schemes.hf.torch_sum import mean
from quantcli.schemes.mlx.mx_floats import MxFloat
from tests.reasons import facts
from tests.schemes.hf.cases import CASES, DTYPES, SHAPE, matrix

GOLDENS = json.loads((Path(__file__).parent.parent.parent / "data" / "hf_layouts" / "goldens.json").read_text())


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def encoded(name: str, dtype: str, step: int = SHAPE[0]) -> tuple[Bnb4, Parts]:
    """The whole matrix, in slabs of so many rows."""
    values = matrix().astype(numpy_dtype(dtype))
    slabs = [values[start : start + step] for start in range(0, len(values), step)]
    scheme = named(name, dtype, SHAPE)
    assert scheme is not None
    ready = scheme.prepare(SHAPE, slabs)
    made = [ready.encode(slab)[0] for slab in slabs]
    parts = {}
    for part, spec in scheme.layout(SHAPE).items():
        pieces = [np.asarray(piece[part]) for piece in made]
        parts[part] = pieces[0] if spec.axis is None else np.concatenate(pieces, axis=0)
    return ready, parts


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_bytes_and_values_are_the_tools(name: str, dtype: str) -> None:
    scheme, parts = encoded(name, dtype)
    golden = dict(GOLDENS[f"{name} {dtype}"])
    values = golden.pop("values")
    assert scheme.name == name
    assert {
        part: sha(np.ascontiguousarray(array).tobytes()) for part, array in parts.items() if part in golden
    } == golden
    assert set(parts) == set(golden) | ({"quant_state"} & set(parts))
    assert sha((scheme.decode(parts) + np.float32(0)).tobytes()) == values


@pytest.mark.parametrize("name", CASES)
def test_slabs_do_not_show(name: str) -> None:
    scheme = named(name, "bf16", SHAPE)
    assert scheme is not None
    align = int(np.lcm.reduce([spec.rows for spec in scheme.layout(SHAPE).values() if spec.axis is not None]))
    _, whole = encoded(name, "bf16")
    _, cut = encoded(name, "bf16", align)
    for part, array in whole.items():
        assert np.array_equal(np.ravel(array).view(np.uint8), np.ravel(cut[part]).view(np.uint8)), part


@pytest.mark.parametrize(
    "name", ["int4-g32", "uint3-channel", "int8-asym-g32", "int8-channel", "mxfp4", "mxfp8", "nf4-g64"]
)
def test_packing_its_own_codes_changes_nothing(name: str) -> None:
    scheme, parts = encoded(name, "bf16")
    assert scheme.fits(scheme.grid(), SHAPE) is Grade.EXACT
    again = scheme.prepare(SHAPE).pack(scheme.codes(parts))
    for part, array in parts.items():
        assert np.array_equal(np.ravel(array).view(np.uint8), np.ravel(again[part]).view(np.uint8)), part


def gptq(rng: np.random.Generator, *, symmetric: bool) -> tuple[Gptq, Codes]:
    scheme = Gptq(
        family="gptq", columns=192, scales=Scales("f16", 1, 64, transposed=True), bits=4, symmetric=symmetric,
        layout_format="gptq_v2", words="i32", compute="f16",
    )  # fmt: skip
    grid = scheme.grid()
    assert grid is not None
    scales = rng.uniform(0.01, 1, (16, 3)).astype(np.float16).astype(np.float32)
    zeros = np.full((16, 3), 8, np.float32) if symmetric else rng.integers(0, 16, (16, 3)).astype(np.float32)
    return scheme, Codes(grid, rng.integers(0, 16, (16, 192), np.uint8), scales, -zeros * scales)


@pytest.mark.parametrize(("symmetric", "name"), [(True, "int4-g64"), (True, "int8-g32"), (False, "uint4-g64")])
def test_gptq_is_repacked(symmetric: bool, name: str) -> None:
    source, codes = gptq(np.random.default_rng(3), symmetric=symmetric)
    scheme = named(name, "f16", (16, 192))
    assert scheme is not None and source.grid() is not None
    assert scheme.fits(source.grid(), (16, 192)) is Grade.EXACT
    ready = scheme.prepare((16, 192))
    parts, error = ready.repack(codes)
    assert error.squared == 0 and np.array_equal(ready.codes(parts).values(), codes.values())


def test_mlx_small_floats_are_repacked() -> None:
    values = matrix()
    for mode in ("mxfp4", "mxfp8", "nvfp4"):
        source = MxFloat(mode)
        stored = source.encode(values)[0]
        scheme = named(mode, "bf16", SHAPE)
        assert scheme is not None and scheme.fits(source.grid(), SHAPE) is Grade.EXACT
        ready = scheme.prepare(SHAPE)
        parts = ready.pack(source.codes(stored))
        assert np.array_equal(ready.codes(parts).values(), source.decode(stored)), mode


@pytest.mark.parametrize(
    ("grid", "name", "said"),
    [
        (Grid(4, 64, "f16", zero_points=True), "int4-g64", ["int4-g64"]),
        (Grid(4, 64, "f16"), "uint4-g64", ["uint4-g64"]),
        (Grid(8, 64, "f16", zero=128), "int4-g64", ["8", "int4-g64", "4"]),
        (Grid(4, 32, "f16", zero=8), "int4-g64", ["32", "64"]),
        (Grid(4, 64, "f16", zero=8), "mxfp4", ["mxfp4"]),
        (Grid(4, 64, "f16", zero=8), "int8-tensor", ["int8"]),
        (Grid(4, 64, "f16", zero=8), "nf4-double-g64", ["nf4"]),
    ],
)
def test_what_does_not_fit_says_why(grid: Grid, name: str, said: list[str]) -> None:
    scheme = named(name, "f16", (16, 192))
    assert scheme is not None
    assert facts(scheme.fits(grid, (16, 192)))[: len(said)] == said


def test_a_bias_that_is_no_zero_point_is_refused() -> None:
    codes = Codes(Grid(4, 64, "f16"), np.zeros((1, 64), np.uint8), np.float32([[0.5]]), np.float32([[-0.7]]))
    scheme = named("uint4-g64", "f16", (1, 64))
    assert scheme is not None
    with pytest.raises(DoesNotFit, match="-0.7 .*0.5"):
        scheme.pack(codes)


def test_nf4_refuses_codes_and_maxima_of_different_lengths() -> None:
    scheme, parts = encoded("nf4-g64", "f32")
    for broken in ({"absmax": parts["absmax"][:-1]}, {"weight": parts["weight"][: -64 * 3]}):
        with pytest.raises(DoesNotFit, match="absolute maxima"):
            scheme.decode({**parts, **broken})


def test_nf4_by_hand() -> None:
    """2 is the largest of its run: code 15; -1 is -0.5 of it, between -0.5251 (2) and -0.3949 (3), nearer to 2."""
    values = np.zeros((1, 4), np.float32)
    values[0, :3] = 2, -1, 0.2
    scheme = named("nf4-g4", "f32", (1, 4))
    assert isinstance(scheme, Bnb4)
    parts, error = scheme.prepare((1, 4)).encode(values)
    assert parts["weight"].tolist() == [[0xF2], [0x87]] and parts["absmax"].tolist() == [2]
    decoded = scheme.decode(parts)
    assert decoded[0, 1] == np.float32(NF4[2]) * 2 and error.squared == pytest.approx(np.square(decoded - values).sum())


def test_the_mean_counts_as_torch_does() -> None:
    """torch 2.13 on one thread gives these for the same numbers."""
    for count, wanted in MEANS.items():
        values = np.abs(np.random.default_rng(count).standard_normal(count)).astype(np.float32)
        assert mean(values).tobytes().hex() == wanted, count


MEANS = {
    1: "69f0b03e", 7: "d151d93e", 64: "ec5e493f", 1000: "b58d443f", 4096: "92c94c3f", 40000: "68cf4c3f",
    300007: "f2814c3f",
}  # fmt: skip


def test_an_overflowing_scale_is_refused() -> None:
    scheme = named("int8-asym-channel", "f16", (1, 64))
    assert scheme is not None
    values = np.full((1, 64), 60000, np.float16)
    values[0, 0] = -60000
    with pytest.raises(DoesNotFit, match="from -60000 to 60000 .*f16"):
        scheme.prepare((1, 64)).encode(values)


@pytest.mark.parametrize("name", ["int3-g64", "uint3-g64", "int4-g32", "int4-g128", "uint4-g128", "int8-channel"])
def test_rounding_is_what_the_encoder_does_to_a_gaussian(name: str) -> None:
    values = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
    scheme = named(name, "f32", values.shape)
    assert scheme is not None
    decoded = scheme.decode(scheme.encode(values)[0])
    assert scheme.rounding == pytest.approx(
        np.sqrt(np.square(decoded - values).sum() / np.square(values).sum()), rel=0.01
    )
