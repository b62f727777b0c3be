"""Llama 3's rope settings from their factors and back; factors that are none."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcli.errors import BadInput
from quantcli.models.rope import Rope, llama3_factors, llama3_from_factors


def solved(rope: Rope, dimensions: int) -> Rope | None:
    factors = llama3_factors(rope, dimensions)
    assert factors is not None
    return llama3_from_factors(factors.tolist(), rope.theta)


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
    np.testing.assert_allclose(again, wanted, rtol=2e-6)


def test_no_scaling_is_none() -> None:
    assert llama3_from_factors([1.0] * 8, 10000.0) is None


@pytest.mark.parametrize("factors", [[], [0.0, 1.0], [-1.0], [float("nan")], [float("inf")]])
def test_factors_that_are_no_divisors(factors: list[float]) -> None:
    with pytest.raises(BadInput, match=r"rope_freqs\.weight: its factors have to be positive"):
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
