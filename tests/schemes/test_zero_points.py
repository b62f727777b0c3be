"""Grids with biases in schemes without: groups of scale 0, biases that are whole multiples of their scales, and others.

Random groups of a few kinds side by side; whatever a scheme takes has the values of the codes, -0 counting as +0.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcli.arrays import numpy_dtype
from quantcli.schemes.base import Codes, DoesNotFit, Grade, Scheme
from quantcli.schemes.ggml import TYPES
from quantcli.schemes.hf import named
from quantcli.schemes.hf.awq import Awq
from quantcli.schemes.hf.gptq import Gptq
from quantcli.schemes.hf.scaled import Scales
from quantcli.schemes.mlx.affine import Affine
from quantcli.schemes.mlx.mx_floats import MxFloat

ROWS, COLUMNS = 4, 512
SHAPE = (ROWS, COLUMNS)

#: Targets without biases: how many scales a bias may be below 0 for codes of so many bits, and the code of 0.
SYMMETRIC = {"q4_0": (4, 8), "q5_0": (5, 16), "q8_0": (8, 128), "q2_0": (2, 1), "tq2_0": (2, 1)}
CT_SYMMETRIC = {"int4-g32": (4, 8), "int4-g128": (4, 8), "int8-g32": (8, 128)}


def scheme_of(name: str) -> Scheme:
    found = TYPES.get(name) or named(name, "f16", SHAPE)
    assert found is not None
    return found.prepare(SHAPE)


def made(
    bits: int, group: int, zeros: np.ndarray, idle: float, constant: float, seed: int, dtype: str = "f16"
) -> Codes:
    """Affine codes whose biases are -zeros scales; shares of the groups have scale 0, or scale 0 and a bias."""
    rng = np.random.default_rng(seed)
    source = Affine(bits, group, dtype)
    groups = (ROWS, COLUMNS // group)
    scales = (rng.integers(1, 16, groups) * rng.choice([-1, 1], groups) / 4096).astype(np.float32)
    biases = -np.broadcast_to(zeros, groups) * scales
    kind = rng.random(groups)
    is_idle = kind < idle + constant
    zero = rng.choice(np.float32([0.0, -0.0]), groups)
    scales = np.where(is_idle, zero, scales)
    biases = np.where(is_idle, zero[::-1], biases)
    biases = np.where(kind < constant, rng.standard_normal(groups).astype(np.float16), biases).astype(np.float32)
    codes = rng.integers(0, 1 << bits, SHAPE).astype(np.uint8)
    stored = [part.astype(numpy_dtype(dtype)).astype(np.float32) for part in (scales, biases)]
    return Codes(source.grid(), codes, *stored)


def assert_held(target: Scheme, codes: Codes) -> None:
    """Packed, its values are those of the codes; and what is said of scales alone is what is stored."""
    packed, error = target.repack(codes)
    back = target.codes(packed)
    assert np.array_equal(back.values(), codes.values()), target.name
    assert (error.squared, error.largest) == (0, 0)
    adapted, bare = target.adapted(codes), Codes(codes.grid, codes.codes[:, :0], codes.scales, codes.biases)
    assert np.array_equal(adapted.codes, back.codes) and np.array_equal(adapted.values(), codes.values())
    for stored in (target.as_stored(codes), target.as_stored(bare)):
        assert np.array_equal(stored.scales, back.scales) and stored.grid == back.grid
        assert stored.biases is not None and back.biases is not None and np.array_equal(stored.biases, back.biases)


@settings(max_examples=60)
@given(
    name=st.sampled_from([*SYMMETRIC, *CT_SYMMETRIC]),
    bits=st.sampled_from([1, 2, 3, 4, 5, 6, 8]),
    group=st.sampled_from([32, 64, 128]),
    idle=st.sampled_from([0.0, 0.3, 1.0]),
    constant=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 1000),
)
def test_symmetric_schemes_hold_zeros_constants_and_whole_multiples(
    name: str, bits: int, group: int, idle: float, constant: float, seed: int
) -> None:
    (own, zero), target = (SYMMETRIC | CT_SYMMETRIC)[name], scheme_of(name)
    rng = np.random.default_rng(seed)
    if bits > own:
        codes = made(bits, group, np.float32(0), idle, constant, seed)
        assert isinstance(target.may_fit(codes.grid, SHAPE), str)
        with pytest.raises(DoesNotFit):
            target.pack(codes)
        return
    own_group = getattr(target.grid(), "group", 0)
    wide = own_group > group
    most = zero - 0, zero - (2**own - 2**bits)
    zeros = rng.integers(max(most[1], -99), most[0] + 1, (ROWS, 1 if wide else COLUMNS // group)).astype(np.float32)
    codes = made(bits, group, zeros, idle if not wide else float(idle == 1), 0.0 if wide else constant, seed)
    if wide:  # groups side by side share their parameters
        codes = Codes(codes.grid, codes.codes, *(np.repeat(p[:, :1], p.shape[1], axis=1) for p in _parts(codes)))
    assert target.may_fit(codes.grid, SHAPE) is Grade.EXACT
    assert_held(target, codes)


def _parts(codes: Codes) -> tuple[np.ndarray, np.ndarray]:
    assert codes.biases is not None
    return codes.scales, codes.biases


@settings(max_examples=30)
@given(
    bits=st.sampled_from([2, 3, 4]),
    group=st.sampled_from([32, 64, 128]),
    idle=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_zero_points_of_each_group(bits: int, group: int, idle: float, seed: int) -> None:
    zeros = np.random.default_rng(seed).integers(0, 16, (ROWS, COLUMNS // group)).astype(np.float32)
    assert_held(scheme_of(f"uint4-g{group}"), made(bits, group, zeros, idle, 0.3, seed))


@pytest.mark.parametrize("constant", [0.0, 0.3])
@pytest.mark.parametrize("idle", [0.0, 0.3])
def test_q1_0_holds_biases_of_minus_half_a_scale(idle: float, constant: float) -> None:
    assert_held(TYPES["q1_0"], made(1, 128, np.float32(0.5), idle, constant, 1))
    with pytest.raises(DoesNotFit, match="is not minus half of its scale"):
        TYPES["q1_0"].pack(made(1, 128, np.float32(0.25), idle, constant, 1))


@pytest.mark.parametrize("name, bits, zero", [("q4_0", 4, 8), ("q5_0", 5, 16), ("q8_0", 8, 128)])
def test_codes_of_idle_groups_stay_where_codes_have_as_many_bits(name: str, bits: int, zero: int) -> None:
    """So a block of scale 0 comes back from MLX as it was, whichever codes its encoder left there."""
    codes = made(bits, 32, np.float32(zero), 0.4, 0.0, 2)
    assert np.array_equal(TYPES[name].adapted(codes).codes, codes.codes)


def test_codes_of_idle_groups_become_zero_in_more_bits() -> None:
    """As llama.cpp writes blocks of zeros."""
    codes = made(6, 32, np.float32(20), 0.4, 0.0, 3)
    blocks = TYPES["q8_0"].pack(codes)["blocks"].reshape(ROWS, -1, 34)
    idle = codes.scales == 0
    assert idle.any() and not idle.all()
    assert not blocks[idle][:, 2:].any() and blocks[~idle][:, 2:].any()


@pytest.mark.parametrize("step", [1, 3])
def test_slabs_do_not_show(step: int) -> None:
    """Rows whose groups all agree are packed as they are next to rows that do not."""
    zeros = np.where(np.arange(ROWS)[:, None] % 2, 32, np.arange(COLUMNS // 32)).astype(np.float32)
    codes = made(6, 32, zeros, 0.3, 0.2, 4)
    whole = TYPES["q8_0"].pack(codes)["blocks"]
    pieces = [TYPES["q8_0"].pack(codes.rows(at, min(ROWS, at + step)))["blocks"] for at in range(0, ROWS, step)]
    assert np.array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["scales", "biases", "both"])
def test_numbers_that_are_none_fit_nowhere(value: float, part: str) -> None:
    codes = made(4, 32, np.float32(8), 0.3, 0.0, 5)
    scales, biases = (array.copy() for array in _parts(codes))
    for at in ((0, 0), np.unravel_index(int(np.argmax(scales == 0)), scales.shape)):
        changed = scales.copy(), biases.copy()
        for array, which in zip(changed, ("scales", "biases"), strict=True):
            array[at] = value if part in (which, "both") else array[at]
        with pytest.raises(DoesNotFit):
            TYPES["q4_0"].pack(Codes(codes.grid, codes.codes, *changed))


def test_a_constant_above_f16_does_not_fit() -> None:
    codes = made(4, 32, np.float32(8), 0.0, 0.0, 6, "f32")
    scales, biases = (array.copy() for array in _parts(codes))
    scales[0, 0], biases[0, 0] = 0, -1e6
    with pytest.raises(DoesNotFit, match="scale of 1e\\+06 .*65504"):
        TYPES["q4_0"].pack(Codes(codes.grid, codes.codes, scales, biases))


def test_zero_points_of_idle_groups_do_not_count_in_symmetric_layouts() -> None:
    """AutoAWQ with `zero_point: false` and GPTQ with `sym: true` store zero points all the same."""
    rng, rows, group = np.random.default_rng(7), 8, 64
    scales = rng.standard_normal((COLUMNS // group, rows)).astype(np.float16)
    zeros = np.full(scales.shape, 8, np.uint32)
    scales[2], zeros[2] = 0, 3
    dense, words = (
        np.bitwise_or.reduce(zeros << np.uint32(4) * np.array(places, np.uint32), axis=1, keepdims=True).view(np.int32)
        for places in (range(8), (0, 4, 1, 5, 2, 6, 3, 7))
    )
    turned = Scales("f16", 1, group, turned=True)
    awq = Awq(columns=COLUMNS, scales=turned, symmetric=True, zeros_dtype="i32")
    gptq = Gptq(columns=COLUMNS, scales=turned, bits=4, symmetric=True, layout_format="gptq_v2")

    def codes_of(*shape: int) -> np.ndarray:
        return rng.integers(0, 1 << 32, shape, np.uint32).view(np.int32)

    given: dict[Scheme, dict[str, np.ndarray]] = {
        awq: {"qweight": codes_of(COLUMNS, 1), "qzeros": words, "scales": scales},
        gptq: {"qweight": codes_of(COLUMNS // 8, rows), "qzeros": dense, "scales": scales},
    }
    for scheme, parts in given.items():
        codes = scheme.codes(parts)
        assert not (codes.scales == 0).all() and (codes.scales == 0).any()
        assert np.array_equal(TYPES["q4_0"].decode(TYPES["q4_0"].pack(codes)), codes.values())
        with pytest.raises(DoesNotFit, match="a zero point is 3"):
            scheme.codes(parts | {"scales": np.where(scales == 0, np.float16(1), scales)})


@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize(
    ("name", "between"),
    [("q4_0", "affine4-g32"), ("q5_0", "affine5-g32"), ("q8_0", "affine8-g32"), ("q2_0", "affine2-g64"),
     ("tq2_0", "affine2-g128"), ("q1_0", "affine1-g128")],
)  # fmt: skip
def test_any_blocks_come_back_from_mlx_as_they_were(name: str, between: str, dtype: str) -> None:
    """Random codes under scales of any sign, zeros among them, whose blocks have random codes too."""
    rng, target, kind = np.random.default_rng(8), TYPES[name], TYPES[name].ggml_type
    blocks = rng.integers(0, 256, (ROWS * COLUMNS // kind.block_size, kind.block_bytes), np.uint8)
    d = rng.standard_normal(len(blocks)).astype(np.float16)
    d[::3] = rng.choice(np.float16([0.0, -0.0]), len(d[::3]))
    at = 64 if name == "tq2_0" else 0
    blocks[:, at : at + 2] = d[:, None].view(np.uint8)
    blocks = blocks.reshape(ROWS, -1)
    bits, group = int(between[6]), int(between.partition("-g")[2])
    affine = Affine(bits, group, dtype)
    again = target.pack(affine.codes(affine.pack(target.codes({"blocks": blocks}))))["blocks"]
    assert np.array_equal(again, blocks)


@pytest.mark.parametrize("target", [MxFloat("mxfp4"), TYPES["mxfp4"]], ids=lambda scheme: scheme.family)
def test_groups_of_zeros_next_to_scales_that_are_powers_of_two(target: Scheme) -> None:
    """NVFP4 whose scales E8M0 has, but for those of 0, which it has not: a group of zeros has codes of 0 there."""
    rng, source = np.random.default_rng(9), MxFloat("nvfp4")
    scales = np.repeat(rng.choice(np.uint8([0, 0x28, 0x38, 0x40]), (ROWS, COLUMNS // 32)), 2, axis=1)
    words = rng.integers(0, 1 << 32, (ROWS, COLUMNS // 8), np.uint32)
    codes = source.codes({"weight": words, "scales": scales})
    assert isinstance(target.may_fit(codes.grid, SHAPE), Grade)
    back = target.codes(target.pack(codes))
    assert (codes.scales == 0).any() and np.array_equal(back.values(), codes.values())
    assert np.array_equal(target.adapted(codes).codes, back.codes)
