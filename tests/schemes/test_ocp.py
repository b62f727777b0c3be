"""The tables of OCP's small floats against ml_dtypes', and what formats made of them share."""

import ml_dtypes
import numpy as np
import pytest

from quantcli.schemes import ocp
from quantcli.schemes.base import DoesNotFit, Grade, Grid
from tests.reasons import facts

OWNERS = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}


@pytest.mark.parametrize("element", ocp.ELEMENTS)
def test_tables_are_those_of_the_formats(element: str) -> None:
    table, owner = np.float32(ocp.ELEMENTS[element]), OWNERS[element]
    wanted = np.arange(len(table), dtype=np.uint8).view(owner).astype(np.float32)
    np.testing.assert_array_equal(table, wanted)
    np.testing.assert_array_equal(np.signbit(table)[~np.isnan(table)], np.signbit(wanted)[~np.isnan(table)])
    assert ocp.LARGEST[element] == float(ml_dtypes.finfo(owner).max)


def test_scales_are_powers_of_two() -> None:
    every = np.arange(255, dtype=np.uint8)
    np.testing.assert_array_equal(ocp.E8M0[:255], every.view(ml_dtypes.float8_e8m0fnu).astype(np.float64))
    assert np.isinf(np.float32(ocp.E8M0[255]))


@pytest.mark.parametrize("element", ["e4m3", "e5m2"])
def test_every_code_of_nan_and_inf_is_noticed(element: str) -> None:
    table = ocp.ELEMENTS[element]
    noticed = [ocp.holds_nonfinite(np.array([0, code], np.uint8), table) for code in range(256)]
    assert noticed == [not np.isfinite(value) for value in table]


def test_scales_become_the_bytes_that_stand_for_them() -> None:
    known = np.float32(ocp.E4M3[:127])
    assert ocp.scale_bytes(known[::-1], known, "f8_e4m3").tolist() == [*range(126, -1, -1)]
    for odd in (-1.0, 1.0625, 480.0, 2.0**-10):
        with pytest.raises(DoesNotFit, match=f"a scale of {odd:g} .*f8_e4m3"):
            ocp.scale_bytes(np.float32([1, odd]), known, "f8_e4m3")


def test_codes_fit_in_groups_that_can_be_cut_or_merged() -> None:
    def grid(group: int, dtype: str = "f8_e8m0") -> Grid:
        return Grid(4, group, dtype, table=ocp.E2M1)

    fits = {group: ocp.codes_fit(grid(group), "mxfp4", ocp.E2M1, 32, "f8_e8m0") for group in (16, 32, 64)}
    assert facts(fits.pop(16)) == ["16", "32"]
    assert fits == {32: Grade.EXACT, 64: Grade.EXACT}
    assert ocp.codes_may_fit(grid(16), "mxfp4", ocp.E2M1, 32) == Grade.EXACT
    assert facts(ocp.codes_may_fit(grid(48), "mxfp4", ocp.E2M1, 32)) == ["48", "32"]
    other = ocp.codes_fit(grid(32, "f32"), "mxfp4", ocp.E2M1, 32, "f8_e8m0")
    assert facts(other) == ["f32", "mxfp4", "f8_e8m0"]
    assert facts(ocp.codes_may_fit(Grid(4, 32, "f16"), "mxfp4", ocp.E2M1, 32)) == ["mxfp4"]
