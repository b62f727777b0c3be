"""Repacks: every pair of schemes whose grids allow one, found through `fits`, on random codes with scales at the edges.

What a pair's grade promises is held to the values that both sides decode: `exact` the same, `codes-exact` the same
codes and as far apart as `repack` says.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcli.arrays import from_mlx, numpy_dtype, to_mlx
from quantcli.schemes.base import Codes, DoesNotFit, Error, Grade, Grid, Parts, Scheme
from quantcli.schemes.ggml import TYPES
from quantcli.schemes.hf.awq import Awq
from quantcli.schemes.hf.scaled import Scales
from quantcli.schemes.mlx.affine import BITS, GROUPS, Affine
from quantcli.schemes.mlx.mx_floats import MODES, MxFloat

ROWS, COLUMNS = 4, 512
SHAPE = (ROWS, COLUMNS)
MLX: tuple[Scheme, ...] = (
    *(Affine(bits, group, dtype) for bits in BITS for group in GROUPS for dtype in ("f16", "bf16", "f32")),
    *(MxFloat(mode) for mode in MODES),
)
GGML: tuple[Scheme, ...] = tuple(TYPES.values())
AWQ: tuple[Scheme, ...] = tuple(
    Awq(columns=COLUMNS, scales=Scales("f16", 1, group, transposed=True), symmetric=symmetric, zeros_dtype="i32")
    for group in GROUPS
    for symmetric in (False, True)
)

#: What GGML's types become, and the grade under f16 and under f32 scales; all others have no place.
TO_MLX = {
    "q4_0": ("affine4-g32", "exact", "exact"), "q4_1": ("affine4-g32", "exact", "exact"),
    "q5_0": ("affine5-g32", "exact", "exact"), "q5_1": ("affine5-g32", "exact", "exact"),
    "q8_0": ("affine8-g32", "exact", "exact"), "q8_k": ("affine8-g128", "codes-exact", "codes-exact"),
    "q4_k": ("affine4-g32", "codes-exact", "exact"), "q5_k": ("affine5-g32", "codes-exact", "exact"),
    "tq1_0": ("affine2-g128", "exact", "exact"), "tq2_0": ("affine2-g128", "exact", "exact"),
    "q1_0": ("affine1-g128", "exact", "exact"), "q2_0": ("affine2-g64", "exact", "exact"),
    "mxfp4": ("mxfp4", "exact", "exact"), "nvfp4": ("nvfp4", "exact", "exact"),
}  # fmt: skip
TO_GGML = {
    **{f"affine{bits}": "q4_1" for bits in (1, 2, 3, 4)}, "affine5": "q5_1", "uint4": "q4_1", "int4": "q4_0",
    "mxfp4": "mxfp4", "nvfp4": "nvfp4",
}  # fmt: skip

#: Scales that f16 has: zeros, its smallest and largest numbers, subnormals.
F16_EDGES = (0.0, -0.0, 2.0**-24, -(2.0**-24), 3 * 2.0**-20, 2.0**-14, 65504.0, -65504.0, 511.75, -32752.0, 1.0)


def smallest(grid: Grid | None, holders: tuple[Scheme, ...]) -> Scheme | None:
    fitting = [s for s in holders if grid and not s.unfit(SHAPE) and isinstance(s.fits(grid, SHAPE), Grade)]
    return min(fitting, key=lambda s: s.bits_per_weight(SHAPE), default=None)


def of(dtype: str) -> tuple[Scheme, ...]:
    return tuple(s for s in MLX if getattr(s, "scale_dtype", dtype) == dtype)


def finite_blocks(name: str, rng: np.random.Generator, edges: bool) -> Parts:
    """Any bytes, but with scales that are numbers: of ordinary size, or at the edges of f16."""
    kind = TYPES[name].ggml_type
    blocks = rng.integers(0, 256, (ROWS * COLUMNS // kind.block_size, kind.block_bytes), np.uint8)
    at = {"tq1_0": (52,), "tq2_0": (64,), "q4_1": (0, 2), "q5_1": (0, 2), "q4_k": (0, 2), "q5_k": (0, 2)}.get(
        name, (0,)
    )
    if name == "q8_k":
        blocks[:, :4] = rng.standard_normal((len(blocks), 1)).astype(np.float32).view(np.uint8)
    elif name == "mxfp4":
        blocks[:, 0] = rng.integers(0, 255, len(blocks)) if edges else rng.integers(100, 140, len(blocks))
    elif name == "nvfp4":
        blocks[:, :4] &= 0x7F
        blocks[:, :4][blocks[:, :4] == 0x7F] = 0x7E
    else:
        for offset in at:
            chosen = rng.choice(F16_EDGES, len(blocks)) if edges else rng.standard_normal(len(blocks))
            blocks[:, offset : offset + 2] = chosen.astype(np.float16)[:, None].view(np.uint8)
    return {"blocks": blocks.reshape(ROWS, -1)}


def finite_mlx(scheme: Affine | MxFloat, rng: np.random.Generator) -> Parts:
    groups = COLUMNS // scheme.grid().group
    words = rng.integers(0, 1 << 32, (ROWS, COLUMNS * scheme.grid().bits // 32), np.uint32)
    if isinstance(scheme, MxFloat):
        top = scheme.facts.positive if scheme.mode == "nvfp4" else 200
        return {"weight": words, "scales": rng.integers(0, top, (ROWS, groups)).astype(np.uint8)}
    dtype = scheme.layout(SHAPE)["scales"].dtype
    scales, biases = (rng.standard_normal((ROWS, groups)).astype(numpy_dtype(dtype)) for _ in range(2))
    edges = [edge for edge in F16_EDGES if dtype != "bf16" or abs(edge) < 65504]  # bf16 would make it 65536
    scales[0, : len(edges)] = np.array(edges)[:groups].astype(scales.dtype)
    return {"weight": words, "scales": scales, "biases": biases}


def same_values(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """-0 counts as +0."""
    return np.array_equal(ours, theirs)


def assert_graded(source: Scheme, parts: Parts, target: Scheme) -> None:
    """Repack and hold the result to the pair's grade."""
    codes = source.codes(parts)
    packed, error = target.repack(codes)
    back = target.codes(packed)
    shift = (back.grid.zero - codes.grid.zero) if codes.grid.zero and back.grid.zero else 0
    assert np.array_equal(codes.codes.astype(int) + shift, back.codes)
    between = Error.between(codes.values(), target.decode(packed))
    assert error.squared == pytest.approx(between.squared, rel=1e-3, abs=0)
    assert error.largest == pytest.approx(between.largest, rel=1e-3)
    if target.fits(codes.grid, SHAPE) is Grade.EXACT:
        assert same_values(source.decode(parts), target.decode(packed))
        assert (error.squared, error.largest) == (0, 0)


@pytest.mark.parametrize("name", TO_MLX)
def test_ggml_to_mlx(name: str) -> None:
    wanted, *grades = TO_MLX[name]
    rng = np.random.default_rng(1)
    for dtype, grade in zip(("f16", "f32"), grades, strict=True):
        target = smallest(TYPES[name].grid(), of(dtype))
        assert target is not None and target.name == wanted
        assert str(target.fits(TYPES[name].grid(), SHAPE)) == grade
        assert_graded(TYPES[name], finite_blocks(name, rng, edges=False), target)
    target = smallest(TYPES[name].grid(), of("f32"))
    assert target is not None
    assert_graded(TYPES[name], finite_blocks(name, rng, edges=True), target)


@pytest.mark.parametrize("name", sorted(set(TYPES) - set(TO_MLX)))
def test_ggml_without_a_place_in_mlx(name: str) -> None:
    assert smallest(TYPES[name].grid(), MLX) is None


@pytest.mark.parametrize("scheme", [*MLX, *AWQ], ids=lambda s: f"{s.name}-{getattr(s, 'scale_dtype', '')}")
def test_mlx_and_awq_to_ggml(scheme: Scheme) -> None:
    target = smallest(scheme.grid(), GGML)
    wanted = TO_GGML.get(scheme.name.partition("-")[0])
    assert (target.name if target else None) == wanted
    if target is None or isinstance(scheme, Awq):
        return
    assert isinstance(scheme, Affine | MxFloat)
    assert_graded(scheme, finite_mlx(scheme, np.random.default_rng(2)), target)
    same_dtype = getattr(scheme, "scale_dtype", "f16") == "f16"
    assert target.fits(scheme.grid(), SHAPE) is (Grade.EXACT if same_dtype else Grade.CODES_EXACT)


@pytest.mark.parametrize("scheme", AWQ, ids=lambda s: s.name)
def test_awq_to_mlx(scheme: Awq) -> None:
    rng = np.random.default_rng(3)
    groups = COLUMNS // scheme.group
    parts = {
        "qweight": rng.integers(0, 1 << 32, (COLUMNS, 1), np.uint32).view(np.int32),
        "qzeros": rng.integers(0, 1 << 32, (groups, 1), np.uint32).view(np.int32),
        "scales": rng.standard_normal((groups, 8)).astype(np.float16),
    }
    if scheme.symmetric:
        parts["qzeros"][:] = 0x88888888 - (1 << 32)
    for dtype, grade in (("f16", Grade.EXACT if scheme.symmetric else Grade.CODES_EXACT), ("f32", Grade.EXACT)):
        target = smallest(scheme.grid(), of(dtype))
        assert target is not None and target.name == f"affine4-g{scheme.group}"
        assert target.fits(scheme.grid(), (8, COLUMNS)) is grade
        codes = scheme.codes(parts)
        packed, error = target.repack(codes)
        assert np.array_equal(target.codes(packed).codes, codes.codes)
        assert error.squared == pytest.approx(Error.between(codes.values(), target.decode(packed)).squared, rel=1e-3)
        assert (error.squared == 0) is (grade is Grade.EXACT)


@pytest.mark.parametrize(
    ("name", "d", "reason"),
    [
        ("q8_0", 512.0, "bias of 65536 .*f16"),
        ("q1_0", 32768.0, "scale of 65536 .*f16"),
        ("q4_k", 65504.0, "f16"),
    ],
)
def test_overflow_of_f16_is_refused_and_f32_holds_it(name: str, d: float, reason: str) -> None:
    blocks = np.zeros((1, TYPES[name].ggml_type.block_bytes), np.uint8)
    blocks[:, :2] = np.array([d], np.float16).view(np.uint8)
    blocks[:, 4:16] = 63 if name == "q4_k" else 0
    codes = TYPES[name].codes({"blocks": blocks})
    for dtype in ("f16", "f32"):
        target = next(s for s in of(dtype) if s.name == TO_MLX[name][0])
        if dtype == "f16":
            with pytest.raises(DoesNotFit, match=reason):
                target.pack(codes)
        else:
            packed = target.pack(codes)
            assert same_values(target.decode(packed), TYPES[name].decode({"blocks": blocks}))


def chain(schemes: list[Scheme], parts: Parts) -> Iterator[tuple[Scheme, Parts]]:
    """A weight handed on from scheme to scheme as codes."""
    for here, there in zip(schemes, [*schemes[1:], None], strict=True):
        yield here, parts
        parts = there.pack(here.codes(parts)) if there else parts


@pytest.mark.parametrize(
    "names", ["q4_0 affine4-g32 q4_1", "mxfp4 mlx:mxfp4 mxfp4", "nvfp4 mlx:nvfp4 nvfp4", "affine4-g32 q4_1 affine4-g32"]
)
def test_round_trips_keep_codes_and_values(names: str) -> None:
    schemes = [
        next(s for s in of("f16") if s.name == name.removeprefix("mlx:")) if name not in TYPES else TYPES[name]
        for name in names.split()
    ]
    first = schemes[0]
    rng = np.random.default_rng(5)
    parts = finite_blocks(first.name, rng, False) if first.family == "ggml" else finite_mlx(first, rng)  # type: ignore[arg-type]
    steps = list(chain(schemes, parts))
    values, codes = first.decode(parts), first.codes(parts).codes
    for scheme, stored in steps:
        assert same_values(scheme.decode(stored), values), scheme.name
        assert np.array_equal(scheme.codes(stored).codes, codes), scheme.name
    if schemes[0] == schemes[-1]:
        assert all(np.array_equal(steps[-1][1][name], part) for name, part in parts.items())


def test_mlx_computes_the_same_values() -> None:
    import mlx.core as mx

    for name in ("q4_0", "q4_k", "q5_k", "q8_0", "tq2_0", "q1_0"):
        target = smallest(TYPES[name].grid(), of("f32"))
        assert isinstance(target, Affine)
        blocks = finite_blocks(name, np.random.default_rng(4), edges=False)
        arrays = [to_mlx(part) for part in target.pack(TYPES[name].codes(blocks)).values()]
        values = from_mlx(mx.dequantize(*arrays, group_size=target.group, bits=target.bits))
        assert same_values(values, TYPES[name].decode(blocks)), name


def merged(name: str, group: int) -> Codes:
    """Codes of a K type, or of q4_0, whose neighbours share scales and biases, `group` values at a time."""
    scheme, rng = TYPES[name], np.random.default_rng(6)
    codes = scheme.codes(scheme.encode(rng.standard_normal(SHAPE).astype(np.float32))[0])
    every = group // codes.grid.group
    shared = [np.repeat(part[:, ::every], every, axis=1) for part in (codes.scales, codes.biases) if part is not None]
    return Codes(codes.grid, codes.codes, *shared)


@pytest.mark.parametrize(
    ("name", "target"),
    [("q6_k", Affine(6, 32, "f32")), ("q3_k", Affine(3, 64, "f32")), ("q2_k", Affine(2, 128, "f32")),
     ("q4_0", Affine(4, 64, "f16")), ("q3_k", TYPES["q4_0"])],
)  # fmt: skip
def test_groups_merge_where_neighbours_share_their_parameters(name: str, target: Scheme) -> None:
    grid, group = TYPES[name].grid(), getattr(target, "group", 32)
    assert grid is not None
    assert isinstance(target.fits(grid, SHAPE), str)
    assert isinstance(target.may_fit(grid, SHAPE), Grade)
    codes = merged(name, group)
    packed = target.pack(codes)
    if target.may_fit(grid, SHAPE) is Grade.EXACT:
        assert same_values(target.decode(packed), codes.values())
    apart = codes.scales.copy()
    apart[0, 1] *= 2
    with pytest.raises(DoesNotFit, match=f"groups of {grid.group} "):
        target.pack(Codes(grid, codes.codes, apart, codes.biases))


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_biases_that_are_whole_multiples_of_their_scale(bits: int) -> None:
    """What q8_0 holds of affine6; of affine8 it is -128 alone."""
    rng, q8_0 = np.random.default_rng(8), TYPES["q8_0"]
    grid = Grid(bits, 64, "f16")
    codes = rng.integers(0, 1 << bits, SHAPE).astype(np.uint8)
    scales = rng.standard_normal((ROWS, COLUMNS // 64)).astype(np.float16).astype(np.float32)
    zeros = rng.integers(0, 1 << bits, scales.shape) if bits < 8 else np.full(scales.shape, 128)
    assert isinstance(q8_0.fits(grid, SHAPE), str)
    assert q8_0.may_fit(grid, SHAPE) is Grade.EXACT
    given = Codes(grid, codes, scales, (-zeros * scales).astype(np.float32))
    assert same_values(q8_0.decode(q8_0.pack(given)), given.values())
    off = given.biases + scales * np.float32(0.25)
    with pytest.raises(DoesNotFit, match="bias of .* scale "):
        q8_0.pack(Codes(grid, codes, scales, off))
    if bits == 8:
        with pytest.raises(DoesNotFit, match="bias of -127 .*8 bits"):
            q8_0.pack(Codes(grid, codes, scales, -127 * scales))


def test_a_global_scale_is_folded_where_that_is_exact() -> None:
    """NVFP4 with a factor: a power of two moves the scales' exponents, as long as they keep their bits."""
    source, rng = MxFloat("nvfp4"), np.random.default_rng(9)
    codes = source.codes(finite_mlx(source, rng))
    scales = np.clip(np.abs(codes.scales), 0.25, 4)
    grid = Grid(4, 16, "f32", table=codes.grid.table)
    for target in (source, TYPES["nvfp4"]):
        assert isinstance(target.fits(grid, SHAPE), str)
        folded = Codes(grid, codes.codes, scales * np.float32(2**-4), None)
        assert same_values(target.decode(target.pack(folded)), folded.values())
        for factor in (1.1, 2.0**12, 2.0**-13):
            with pytest.raises(DoesNotFit, match="a scale of .* f8_e4m3"):
                target.pack(Codes(grid, codes.codes, scales * np.float32(factor), None))


GRIDS = st.builds(
    Grid,
    bits=st.integers(1, 8),
    group=st.sampled_from([16, 32, 64, 128, 256]),
    scale_dtype=st.sampled_from(["f16", "bf16", "f32"]),
    zero=st.one_of(st.none(), st.integers(0, 255)),
)


@settings(max_examples=60)
@given(grid=GRIDS, seed=st.integers(0, 1000), pick=st.sampled_from([*MLX[::4], *GGML[:5]]))
def test_what_fits_is_packed_and_means_the_same(grid: Grid, seed: int, pick: Scheme) -> None:
    """Whatever `fits` lets in, `pack` takes; and the codes come back."""
    rng = np.random.default_rng(seed)
    if grid.zero is not None and grid.zero >= 1 << grid.bits:
        grid = Grid(grid.bits, grid.group, grid.scale_dtype)
    codes = rng.integers(0, 1 << grid.bits, SHAPE).astype(np.uint8)
    dtype = numpy_dtype(grid.scale_dtype)
    scales = (rng.standard_normal((ROWS, COLUMNS // grid.group)) * 8).astype(dtype).astype(np.float32)
    own = rng.standard_normal(scales.shape).astype(dtype).astype(np.float32)
    offered = Codes(grid, codes, scales, own if grid.zero is None else scales * np.float32(-grid.zero))
    grade = pick.fits(grid, SHAPE)
    if isinstance(grade, str):
        with pytest.raises(DoesNotFit):
            pick.pack(offered)
        return
    packed, error = pick.repack(offered)
    back = pick.codes(packed)
    shift = (back.grid.zero - grid.zero) if grid.zero is not None and back.grid.zero is not None else 0
    assert np.array_equal(codes.astype(int) + shift, back.codes)
    if grade is Grade.EXACT:
        assert same_values(pick.decode(packed), offered.values()) and error.squared == 0
    else:
        assert error.squared == pytest.approx(Error.between(offered.values(), pick.decode(packed)).squared, rel=1e-3)


@pytest.mark.parametrize("make", [lambda: TYPES["q5_1"], lambda: TYPES["q5_k"], lambda: TYPES["q4_k"]])
def test_fast_codes_are_the_drawn_ones(make: Callable[[], Any]) -> None:
    """The kernels' codes against those of the layout's other form, which MLX shares."""
    from quantcli.schemes.ggml import k_quants
    from quantcli.schemes.ggml import legacy as ggml_legacy

    scheme = make()
    blocks = np.random.default_rng(10).integers(0, 256, (6, scheme.ggml_type.block_bytes), np.uint8)
    plain = (
        k_quants.unpack(blocks, scheme.name, np)
        if scheme.name.endswith("_k")
        else ggml_legacy.unpack(blocks, scheme.grid(), np)
    )
    assert np.array_equal(scheme.codes({"blocks": blocks}).codes, plain)
