"""Slabs: every row once, aligned to what the layouts of both sides pack together, within their budget."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcli.arrays import DTYPES, numpy_dtype
from quantcli.checkpoint import Part, Weight
from quantcli.convert.planning.routes import Route
from quantcli.convert.planning.slabs import WORK_BYTES, cut, place, read, read_rows, rowwise
from quantcli.models.translate import Arranged
from quantcli.schemes import ggml_scheme
from quantcli.schemes.base import PartSpec, Scheme, matrix_shape
from quantcli.schemes.dense import Dense
from quantcli.schemes.hf.awq import Awq
from quantcli.schemes.hf.scaled import Scaled, Scales
from quantcli.schemes.mlx.affine import Affine

AWQ = Awq(columns=32, scales=Scales("f16", 1, 32, transposed=True), symmetric=False, zeros_dtype="i32")
SOURCES: list[Scheme] = [Dense("bf16"), Dense("f32"), Affine(4, 32, "f16"), AWQ]
TARGETS: list[Scheme] = [Dense("f16"), Affine(3, 32, "bf16"), *(ggml_scheme(n) for n in ("q4_0", "q8_0"))]  # type: ignore[list-item]
ROUTES = [Route.QUANTIZE, Route.CAST, Route.REPACK]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slabs")


def stored(scheme: Scheme, shape: tuple[int, ...], file: Path) -> Weight:
    """A weight of that scheme, its parts counting up, one after the other in `file`."""
    parts, data = {}, b""
    for number, (name, spec) in enumerate(scheme.layout(shape).items()):
        count = math.prod(spec.shape) * DTYPES[spec.dtype].bits // 8
        parts[name] = Part(name, spec.dtype, spec.shape, file, len(data))
        data += (np.arange(count, dtype=np.uint64) * 7 + number).astype(np.uint8).tobytes()
    file.write_bytes(data)
    return Weight("w", shape, scheme, parts)


def of_rows(scheme: Scheme, columns: int) -> Scheme:
    """The scheme of rows of that length."""
    return replace(scheme, columns=columns) if isinstance(scheme, Scaled) else scheme


def arranged(weight: Weight, rows: np.ndarray | None = None) -> Arranged:
    return Arranged(weight, rows, weight.shape)


def whole(weight: Weight) -> dict[str, np.ndarray]:
    return {name: part.read() for name, part in weight.parts.items()}


def raw(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


shapes = st.tuples(st.sampled_from([8, 16, 40, 64]), st.sampled_from([32, 64, 96]))
budgets = st.integers(1, 60_000)


@given(st.sampled_from(SOURCES), st.sampled_from(TARGETS), st.sampled_from(ROUTES), shapes, budgets)
def test_rows_are_covered_once(
    folder: Path, source: Scheme, target: Scheme, route: Route, shape: tuple[int, int], budget: int
) -> None:
    source = of_rows(source, shape[1])
    weight = stored(source, shape, folder / "x")
    slabs = cut(arranged(weight), target, route, budget)
    assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])] and slabs[-1].stop == shape[0]
    layouts = [*source.layout(shape).values(), *target.layout(shape).values()]
    assert all(slab.start % spec.rows == 0 for slab in slabs for spec in layouts)
    align = math.lcm(*(spec.rows for spec in layouts))
    cost = weight.nbytes // shape[0] + shape[1] * 8
    assert all(slab.stop - slab.start <= max(align, budget // cost) for slab in slabs)


@given(st.sampled_from(SOURCES), shapes, budgets)
def test_read_slabs_are_the_whole(folder: Path, source: Scheme, shape: tuple[int, int], budget: int) -> None:
    source = of_rows(source, shape[1])
    weight = stored(source, shape, folder / "x")
    slabs = cut(arranged(weight), Dense("f32"), Route.CAST, budget)
    read_parts = [read(arranged(weight), slab) for slab in slabs]
    assert all(rows is None for _, rows in read_parts)
    for name, part in whole(weight).items():
        axis = source.layout(shape)[name].axis
        joined = np.concatenate([parts[name] for parts, _ in read_parts], axis=axis)
        assert raw(joined) == raw(part)


@given(st.sampled_from(SOURCES), st.sampled_from([(8, 8), (16, 8), (64, 16), (64, 64), (40, 8)]), budgets, st.randoms())
def test_permuted_rows(
    folder: Path, source: Scheme, shape: tuple[int, int], budget: int, random: np.random.Generator
) -> None:
    """Rows that move within heads, or anywhere: each output row is read from the row that it is to be."""
    count, head = shape
    within = list(range(head))
    random.shuffle(within)
    rows = (np.arange(0, count, head)[:, None] + np.array(within)).reshape(-1)
    source = of_rows(source, 64)
    weight = stored(source, (count, 64), folder / "x")
    for order in (rows, rows[::-1].copy()):
        slabs = cut(arranged(weight, order), Dense("f32"), Route.CAST, budget)
        assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])] and slabs[-1].stop == count
        everything = source.decode(whole(weight))
        for slab in slabs:
            parts, picked = read(arranged(weight, order), slab)
            assert picked is not None
            values = source.decode(parts)[picked]
            assert values.tobytes() == everything[order[slab.start : slab.stop]].tobytes()


def test_a_permutation_within_heads_reads_no_more_than_its_heads(folder: Path) -> None:
    rows = (np.arange(0, 1024, 16)[:, None] + np.arange(16)[::-1]).reshape(-1)
    weight = stored(Dense("bf16"), (1024, 64), folder / "x")
    slabs = cut(arranged(weight, rows), Dense("f32"), Route.CAST, 64 * (2 + WORK_BYTES) * 40)
    assert {slab.stop - slab.start for slab in slabs} == {32}
    for slab in slabs:
        assert len(read(arranged(weight, rows), slab)[0]["weight"]) == 32


@given(st.sampled_from(SOURCES), shapes, st.integers(1, 100_000))
def test_copies_are_cut_by_bytes(folder: Path, source: Scheme, shape: tuple[int, int], budget: int) -> None:
    weight = stored(source, shape, folder / "x")
    slabs = cut(arranged(weight), source, Route.COPY, budget)
    for name, part in weight.parts.items():
        mine = [slab for slab in slabs if slab.part == name]
        assert b"".join(raw(part.read_bytes(slab.start, slab.stop)) for slab in mine) == raw(part.read())
        assert [slab.start for slab in mine] == [0, *(slab.stop for slab in mine[:-1])]
        assert all(slab.stop - slab.start <= max(4096, budget) for slab in mine)


@given(st.sampled_from([s for s in TARGETS]), shapes, st.integers(0, 63))
def test_place_is_where_the_row_begins(target: Scheme, shape: tuple[int, int], row: int) -> None:
    for spec in target.layout(shape).values():
        row = min(row, shape[0] - 1)
        table = np.zeros(matrix_shape(spec.shape), numpy_dtype(spec.dtype))
        assert place(spec, row) == table[:row].nbytes


def test_stacks_and_vectors(folder: Path) -> None:
    """Leading axes are rows; a vector and a scalar are one slab; no rows are no slabs."""
    stack = stored(Dense("bf16"), (3, 10, 64), folder / "x")
    slabs = cut(arranged(stack), Affine(4, 32, "f16"), Route.QUANTIZE, 4000)
    assert sum(slab.stop - slab.start for slab in slabs) == 30 and len(slabs) > 3
    joined = np.concatenate([read(arranged(stack), slab)[0]["weight"] for slab in slabs])
    assert raw(joined) == raw(stack.parts["weight"].read())
    for shape in ((1000,), ()):
        weight = stored(Dense("bf16"), shape, folder / "x")
        assert [(s.start, s.stop) for s in cut(arranged(weight), Dense("f32"), Route.CAST, 1)] == [(0, 1)]
    assert cut(arranged(stored(Dense("bf16"), (0, 64), folder / "x")), Dense("f32"), Route.CAST, 1) == []


def test_a_part_that_no_row_cuts_is_whole(folder: Path) -> None:
    weight = stored(Dense("f32"), (8, 32), folder / "x")
    specs = {"weight": PartSpec("f32", (8, 32), axis=None)}
    assert read_rows(weight, specs, 2, 4)["weight"].shape == (8, 32)


def test_rowwise(folder: Path) -> None:
    """Parts may be permuted where each index of each is one row; AWQ's words hold eight."""
    found = [rowwise(arranged(stored(scheme, (8, 32), folder / "x"))) for scheme in SOURCES]
    assert found == [True, True, True, False]
