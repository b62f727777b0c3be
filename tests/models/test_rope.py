"""Llama 3's rope settings from their factors and back; factors that are none."""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcli.errors import BadInput
from quantcli.models.rope import Rope, llama3_factors, llama3_from_factors
from quantcli.models.torch_pow import powers

CONVERTERS = json.loads((Path(__file__).parent.parent / "data" / "rope" / "factors.json").read_text())["rows"]


def solved(rope: Rope, dimensions: int) -> Rope | None:
    factors = llama3_factors(rope, dimensions)
    assert factors is not None
    return llama3_from_factors(factors.tolist(), rope.theta)


def test_factors_are_those_of_llama_cpps_converter() -> None:
    """Bytes of its converter under PyTorch's AVX2 path; more of them in tests/peers/test_rope_factors.py."""
    for theta, head, factor, low, high, context, digest in CONVERTERS:
        factors = llama3_factors(Rope(theta, "llama3", factor, context, low, high), head)
        assert factors is not None
        assert hashlib.sha256(factors.tobytes()).hexdigest()[:16] == digest, (theta, head, factor, low, high, context)


def test_a_power_that_is_not_rounded_correctly() -> None:
    """50000 ** (10 / 64): PyTorch's float32 power is one unit above the nearest number, the factor six below."""
    exponents = np.arange(0, 64, 2, dtype=np.float32) / np.float32(64)
    nearest = np.power(50000.0, exponents.astype(np.float64)).astype(np.float32)
    apart = powers(50000.0, exponents).view(np.int32) - nearest.view(np.int32)
    assert np.flatnonzero(apart).tolist() == [5] and apart[5] == 1
    factors = llama3_factors(Rope(50000.0, "llama3", 8.0, 64, 1.0, 4.0), 64)
    assert factors is not None and factors[5] == np.float32(2.6233127)


@pytest.mark.parametrize("theta", [1e-40, 1e-30, 0.5, 1.0, 2.0, 1e37, 3e38, 1e39, 1e300])
def test_powers_of_bases_at_the_edges_of_float32(theta: float) -> None:
    """Within one unit of the nearest number; a base that float32 does not hold is infinite."""
    exponents = np.arange(0, 128, 2, dtype=np.float32) / np.float32(128)
    with np.errstate(over="ignore"):
        base = np.float32(theta)
    wanted = np.power(np.float64(base), exponents.astype(np.float64)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = powers(theta, exponents)
    assert np.abs(found.view(np.int32) - wanted.view(np.int32)).max() <= 1


@pytest.mark.parametrize("factor", [8.0, 32.0, 16.0, 4.0])
@pytest.mark.parametrize("dimensions", [16, 32, 64, 128, 256])
def test_published_numbers_come_back(factor: float, dimensions: int) -> None:
    rope = Rope(500000.0, "llama3", factor, 8192, 1.0, 4.0)
    assert solved(rope, dimensions) == rope


@given(
    theta=st.sampled_from([10000.0, 250000.0, 500000.0, 1e6]),
    factor=st.sampled_from([2.0, 3.0, 8.0, 12.5, 20.0, 48.0, 128.0]),
    original=st.sampled_from([512, 1000, 2048, 4096, 8192, 32768]),
    low=st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]),
    spread=st.sampled_from([1.5, 2.0, 4.0, 8.0]),
    dimensions=st.sampled_from([32, 64, 128]),
)
def test_other_numbers_give_the_same_factors(
    theta: float, factor: float, original: int, low: float, spread: float, dimensions: int
) -> None:
    rope = Rope(theta, "llama3", factor, original, low, low * spread)
    wanted = llama3_factors(rope, dimensions)
    assert wanted is not None
    if wanted.max() < np.float32(factor):  # no wavelength is long enough: nothing in the factors says `factor`
        return
    found = solved(rope, dimensions)
    assert found is not None
    again = llama3_factors(found, dimensions)
    assert again is not None
    np.testing.assert_array_equal(again, wanted)


def test_no_scaling_is_none() -> None:
    assert llama3_from_factors([1.0] * 8, 10000.0) is None


@pytest.mark.parametrize(
    ("factors", "found"),
    [([], "no factors"), ([1.0, 0.0], "0"), ([-1.0], "-1"), ([float("nan")], "nan"), ([float("inf")], "inf")],
)
def test_factors_that_are_no_divisors(factors: list[float], found: str) -> None:
    with pytest.raises(BadInput, match=rf"^rope_freqs\.weight: .*above 0, found {found}\.$"):
        llama3_from_factors(factors, 10000.0)


@given(
    factors=st.lists(st.floats(2.0**-100, 2.0**100, width=32), min_size=1, max_size=16),
    theta=st.sampled_from([1e-30, 1.0, 1e4, 1e37]),
)
def test_any_factors_are_solved_or_refused(factors: list[float], theta: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = llama3_from_factors(factors, theta)
        except BadInput:
            return
        if found is not None:
            again = llama3_factors(found, 2 * len(factors))
            assert again is not None
            np.testing.assert_allclose(again, np.asarray(factors, np.float32), rtol=2e-4)
