"""Layouts of Hugging Face's quantizers on codes packed here one by one: bit widths and shapes that no data has."""

import numpy as np
import pytest

from quantcli.schemes.base import DoesNotFit, Parts, Scheme
from quantcli.schemes.hf.bnb4 import NF4, Bnb4, Nested
from quantcli.schemes.hf.bytewise import TABLES, Bytewise
from quantcli.schemes.hf.ct_packed import CtPacked
from quantcli.schemes.hf.gptq import Gptq
from quantcli.schemes.hf.hqq import PACKINGS, Hqq
from quantcli.schemes.hf.packed import PLANES
from quantcli.schemes.hf.quark_int import QuarkInt
from quantcli.schemes.hf.scaled import Scales
from quantcli.schemes.hf.small_floats import SmallFloat

RANDOM = np.random.default_rng(3)
ROWS, COLUMNS, GROUP = 64, 96, 32


def stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (rows, n) as words (rows, ceil(n * bits / 32)), lowest first, bit by bit."""
    each = (codes[:, :, None].astype(np.uint8) >> np.arange(bits, dtype=np.uint8)) & 1
    flat = each.reshape(len(codes), -1)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 32)))
    return np.packbits(flat, axis=1, bitorder="little").view("<u4")


def planar(codes: np.ndarray, bits: int) -> np.ndarray:
    """32 codes at a time, their planes one after another."""
    words = []
    for start in range(0, codes.shape[1], 32):
        at = 0
        for width in PLANES[bits]:
            words.append(stream(codes[:, start : start + 32] >> at & ((1 << width) - 1), width))
            at += width
    return np.concatenate(words, axis=1)


def padded(codes: np.ndarray, bits: int) -> np.ndarray:
    per = 32 // bits
    wide = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per))).astype(np.uint32).reshape(len(codes), -1, per)
    return (wide << (np.arange(per, dtype=np.uint32) * bits)).sum(axis=2, dtype=np.uint32)


def random(bits: int, *shape: int) -> np.ndarray:
    return RANDOM.integers(0, 1 << bits, shape).astype(np.uint8)


def scales_of(*shape: int) -> np.ndarray:
    """Powers of two, so that no product is rounded."""
    return (2.0 ** RANDOM.integers(-6, 0, shape)).astype(np.float32)


def check(scheme: Scheme, parts: Parts, values: np.ndarray) -> None:
    """The layout's shapes, decoded values, and those of codes."""
    for name, spec in scheme.layout(values.shape).items():
        if name in parts:
            assert parts[name].size == int(np.prod(spec.shape)), name
    assert np.array_equal(scheme.decode(parts), values)
    if scheme.grid() is not None:
        codes = scheme.codes(parts)
        assert codes.codes.dtype == np.uint8 and np.array_equal(codes.values(), values)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", ["gptq", "gptq_v2", "gptq_p"])
def test_gptq(bits: int, kind: str) -> None:
    if bits not in (2, 3, 4, 8) and kind != "gptq_p":
        pytest.skip("only gptq_p has these bits")
    codes, zeros = random(bits, ROWS, COLUMNS), random(bits, ROWS, 3)
    zeros = np.maximum(zeros, 1)
    scales = scales_of(ROWS, 3)
    pack = planar if kind == "gptq_p" and len(PLANES[bits]) > 1 else stream
    stored = zeros - 1 if kind == "gptq" else zeros
    parts = {
        "qweight": pack(codes, bits).T.copy().view(np.int32),
        "qzeros": pack(stored.T.copy(), bits).view(np.int32),
        "scales": scales.T.astype(np.float16),
    }
    scheme = Gptq(
        columns=COLUMNS, scales=Scales("f16", 1, GROUP, turned=True), bits=bits, symmetric=False, layout_format=kind,
        compute="f16",
    )  # fmt: skip
    check(scheme, parts, (codes.astype(np.float32) - zeros.repeat(GROUP, 1)) * scales.repeat(GROUP, 1))


def test_a_zero_of_zero_borrows_from_its_neighbour() -> None:
    zeros = np.array([[0, 15, 8, 1, 0, 7, 3, 9]], np.uint8)
    scheme = Gptq(columns=32, scales=Scales("f16", 1, None, turned=True), bits=4, symmetric=False, layout_format="gptq")
    words = stream(zeros, 4) - np.uint32(0x11111111)
    assert scheme.stored_zeros(words.view(np.int32), 8).tolist() == zeros.tolist()


def test_symmetric_settings_with_another_zero_point_do_not_fit() -> None:
    scheme = Gptq(
        columns=32, scales=Scales("f16", 1, None, turned=True), bits=4, symmetric=True, layout_format="gptq_v2"
    )
    zeros = stream(np.array([[8] * 7 + [9]], np.uint8), 4).view(np.int32)
    parts = {"qweight": np.zeros((4, 8), np.int32), "qzeros": zeros, "scales": np.ones((1, 8), np.float16)}
    assert scheme.decode(parts)[7, 0] == -9
    with pytest.raises(DoesNotFit, match="symmetric, but a zero point is 9, not 8"):
        scheme.codes(parts)


def test_a_cut_off_group_is_smaller_whole_ones() -> None:
    scheme = Gptq(
        columns=96, scales=Scales("f16", 1, 64, turned=True), bits=8, symmetric=False, layout_format="gptq_v2"
    )
    codes, zeros, scales = random(8, 8, 96), random(8, 8, 2), scales_of(8, 2)
    parts = {
        "qweight": stream(codes, 8).T.copy().view(np.int32), "qzeros": stream(zeros.T.copy(), 8).view(np.int32),
        "scales": scales.T.astype(np.float16),
    }  # fmt: skip
    seen = scheme.codes(parts)
    assert seen.grid.group == 32 and np.array_equal(seen.scales, scales[:, [0, 0, 1]])
    spread = [part.repeat(64, 1)[:, :96] for part in (zeros.astype(np.float32), scales)]
    check(scheme, parts, (codes - spread[0]) * spread[1])


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("shape", [(64, 96), (20, 40), (33, 20)])
def test_compressed_tensors_packed(bits: int, is_padded: bool, shape: tuple[int, int]) -> None:
    rows, columns = shape
    codes, zeros, scales = random(bits, rows, columns), random(bits, rows, columns // 4), scales_of(rows, columns // 4)
    pack = padded if is_padded else stream
    parts = {
        "weight": pack(codes, bits).view(np.int32), "zeros": pack(zeros.T.copy(), bits).T.copy().view(np.int32),
        "scales": scales,
    }  # fmt: skip
    scheme = CtPacked(columns=columns, scales=Scales("f32", 1, 4), bits=bits, symmetric=False, padded=is_padded)
    check(scheme, parts, (codes.astype(np.float32) - zeros.repeat(4, 1)) * scales.repeat(4, 1))


@pytest.mark.parametrize("stored", TABLES)
@pytest.mark.parametrize("shared", [(None, None), (1, None), (1, 16), (16, 24)])
def test_floats_of_a_byte(stored: str, shared: tuple[int | None, int | None]) -> None:
    import ml_dtypes

    dtype = {"f8_e4m3": ml_dtypes.float8_e4m3fn, "f8_e5m2": ml_dtypes.float8_e5m2}[stored]
    codes = RANDOM.integers(0, 0x70, (40, 60)).astype(np.uint8).view(dtype)
    rows, columns = shared[0] or 40, shared[1] or 60
    scales = scales_of(-(-40 // rows), -(-60 // columns))
    spread = scales.repeat(rows, 0)[:40].repeat(columns, 1)[:, :60]
    scheme = Bytewise(family="fp8", columns=60, scales=Scales("f32", *shared), stored=stored)
    check(scheme, {"weight": codes, "scales": scales}, codes.astype(np.float32) * spread)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_integers_of_few_bits_in_bytes(bits: int) -> None:
    low = -(1 << bits - 1)
    codes, zeros = (
        RANDOM.integers(low, -low, (8, 32)).astype(np.int8),
        RANDOM.integers(low, -low, (8, 2)).astype(np.int8),
    )
    scales = scales_of(8, 2)
    scheme = Bytewise(
        family="ct", columns=32, scales=Scales("f32", 1, 16), stored="i8", bits=bits, symmetric=False, zeros_dtype="i8"
    )
    values = (codes.astype(np.float32) - zeros.repeat(16, 1)) * scales.repeat(16, 1)
    check(scheme, {"weight": codes, "zeros": zeros, "scales": scales}, values)
    if bits < 8:
        with pytest.raises(DoesNotFit, match=rf"code of 100 .*\b{bits}\b"):
            scheme.decode({"weight": np.full((8, 32), 100, np.int8), "zeros": zeros, "scales": scales})


@pytest.mark.parametrize("columns", [64, 96, 40, 7])
@pytest.mark.parametrize("nested", [False, True])
def test_runs_of_bitsandbytes_go_on_over_the_ends_of_rows(columns: int, nested: bool) -> None:
    rows, block = 16, 32
    codes = random(4, rows, columns)
    flat, runs = codes.reshape(-1), -(-rows * columns // block)
    even = np.pad(flat, (0, flat.size % 2))
    parts: Parts = {"weight": (even[::2] << 4 | even[1::2]).reshape(-1, 1)}
    absmax = scales_of(runs)
    if nested:
        table, shared = np.linspace(-1, 1, 256, dtype=np.float32), scales_of(-(-runs // 4))
        indices = random(8, runs)
        parts |= {"absmax": indices, "nested_absmax": shared, "nested_quant_map": table}
        absmax = table[indices] * shared.repeat(4)[:runs] + np.float32(0.5)
    else:
        parts |= {"absmax": absmax}
    scheme = Bnb4(columns=columns, quant="nf4", block=block, values=NF4, nested=Nested(4, 0.5) if nested else None)
    values = np.float32(NF4)[codes] * absmax.repeat(block)[: flat.size].reshape(rows, columns)
    check(scheme, parts, values)
    assert (scheme.grid() is None) == (columns % block != 0)


@pytest.mark.parametrize("kind", PACKINGS)
def test_hqq(kind: str) -> None:
    bits, dtype, together = PACKINGS[kind]
    codes, scales, zeros = random(bits, 20, 64), scales_of(20, 2), RANDOM.integers(0, 9, (20, 2)).astype(np.float32)
    groups = codes.reshape(-1, 32).astype(np.int64)
    groups = np.pad(groups, ((0, -len(groups) % together), (0, 0))).reshape(together, -1, 32)
    words = sum(groups[i] << bits * (together - 1 - i) for i in range(together))
    parts = {
        "weight": words.astype({"u8": np.uint8, "i32": np.int32}[dtype]),
        "scales": scales.reshape(-1, 1), "zeros": zeros.reshape(-1, 1),
    }  # fmt: skip
    scheme = Hqq(columns=64, scales=Scales("f32", 1, 32), kind=kind)
    check(scheme, parts, (codes - zeros.repeat(32, 1)) * scales.repeat(32, 1))


def eights(codes: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Codes (n, 8m) as int32 words, the i-th lowest four bits hold code order[i]."""
    wide = codes.reshape(len(codes), -1, 8).astype(np.uint32)[:, :, list(order)]
    return (wide << np.arange(0, 32, 4, dtype=np.uint32)).sum(axis=2, dtype=np.uint32).view(np.int32)


def quark_packed(codes: np.ndarray, dtype: str, reorder: bool) -> np.ndarray:
    """Raw codes (n, count), two's complement where signed, along the last axis."""
    if dtype.endswith("4"):
        return eights(codes, (0, 2, 4, 6, 1, 3, 5, 7) if reorder else tuple(range(8)))
    if dtype == "uint2":
        quarters = codes.reshape(len(codes), -1, 4)
        return quarters[:, :, 0] << 6 | quarters[:, :, 1] << 4 | quarters[:, :, 2] << 2 | quarters[:, :, 3]
    if dtype == "int3":
        each = (codes[:, :, None] >> np.arange(3, dtype=np.uint8)) & 1
        return np.packbits(each.reshape(len(codes), -1), axis=1, bitorder="little")
    return codes.astype(np.int32) if dtype == "int2" else codes


@pytest.mark.parametrize("reorder", [True, False])
@pytest.mark.parametrize("dtype", ["int2", "uint2", "int3", "int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize("qscheme", ["tensor", "channel", "group"])
def test_quark(dtype: str, qscheme: str, reorder: bool) -> None:
    bits, signed = int(dtype[-1]), not dtype.startswith("u")
    raw, offset = random(bits, ROWS, COLUMNS), 1 << bits - 1
    integers = np.where(raw >= offset, raw.astype(int) - 2 * offset, raw) if signed else raw.astype(int)
    turned = qscheme == "group" and dtype != "int3"
    shared = {"tensor": Scales("f32", None, rank=0), "channel": Scales("f32", rank=1),
              "group": Scales("f32", 1, GROUP, turned=True)}[qscheme]  # fmt: skip
    counts = {"tensor": (1, 1), "channel": (ROWS, 1), "group": (ROWS, COLUMNS // GROUP)}[qscheme]
    scales = scales_of(*counts)
    packed_zeros = random(bits, *counts)
    zeros = (
        np.where(packed_zeros >= offset, packed_zeros.astype(int) - 2 * offset, packed_zeros)
        if signed
        else packed_zeros
    )
    has_zeros = not (dtype == "int3" and qscheme == "group")
    if qscheme == "tensor":
        stored_zeros = zeros.astype(np.int32)
    else:
        stored_zeros = quark_packed(packed_zeros.T.copy(), dtype, reorder)
    weight = quark_packed(raw.T.copy() if turned else raw, dtype, reorder)
    parts = {"weight": weight, "scales": scales.T.copy() if qscheme == "group" else scales}
    parts |= {"zeros": stored_zeros} if has_zeros else {}
    scheme = QuarkInt(
        columns=COLUMNS, scales=shared, dtype=dtype, stored="i32" if weight.dtype == np.int32 else "u8",
        symmetric=not has_zeros, zeros_dtype="i32" if has_zeros else None, reorder=reorder,
    )  # fmt: skip
    width = {1: COLUMNS, 3: GROUP}[counts[1]]
    offsets = zeros.repeat(width, 1) if has_zeros else 0
    check(scheme, parts, ((integers - offsets) * scales.repeat(width, 1)).astype(np.float32))


def test_a_global_scale_divides_or_multiplies() -> None:
    import ml_dtypes

    codes = random(8, 8, 16)
    scales = np.array([1.5, 0.5], np.float32).astype(ml_dtypes.float8_e4m3fn)[None].repeat(8, 0)
    parts = {"weight": codes, "scales": scales, "global": np.array([4.0], np.float32)}
    made = [
        SmallFloat(
            family="x", columns=32, element="e2m1", scales=Scales("f8_e4m3", 1, 16), divides=divides, global_shape=(1,)
        ).decode(parts)
        for divides in (True, False)
    ]
    assert np.array_equal(made[0] * 16, made[1]) and made[0].any()
