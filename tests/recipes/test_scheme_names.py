"""Spellings of schemes, and mlx-lm's spelling of them."""

import pytest

from quantcli.errors import WrongUsage
from quantcli.recipes import names

GOOD = """\
f32 f16 bf16 affine1-g32 affine2-g64 affine3-g128 affine4-g64 affine5-g32 affine6-g64 affine8-g128 mxfp4 mxfp8
nvfp4 q1_0 q2_0 q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k q4_k q5_k q6_k q8_k iq1_s iq1_m iq2_xxs iq2_xs iq2_s iq3_xxs iq3_s
iq4_nl iq4_xs tq1_0 tq2_0 int2-g64 int8-channel int4-tensor int8-asym-g32 int8-asym-channel uint4-g128 uint8-tensor
mxfp6-e2m3 mxfp6-e3m2 fp8-e4m3 fp8-e5m2 fp8-e4m3-tensor fp8-e4m3-channel fp8-e4m3-block128 nf4-g64 nf4-double-g128
fp4-g2 fp4-double-g64 keep dense"""

BAD = """\
affine7-g64 affine4-g16 affine4 affine4-g064 int9-g64 int4 int4-g0 int4-asym-g64 uint1-g32 nf4-g63 nf4-g0
fp8-e5m2-tensor fp8-e3m4 q4_2 q4_k_m mixed_3_6 mxfp5 bf17 f64 keep! affine4-g64; x"""


@pytest.mark.parametrize("name", GOOD.split())
def test_every_scheme_is_its_own_spelling(name: str) -> None:
    assert names.canonical(name) == name
    assert names.canonical(f" {name.upper()} ") == name


@pytest.mark.parametrize("name", [*BAD.split(), "", " ", "f16\nf32"])
def test_what_is_no_scheme(name: str) -> None:
    assert names.canonical(name) is None
    assert repr(name) in names.problem(name)


@pytest.mark.parametrize(("said", "meant"), [("nf4", "nf4-g64"), ("fp4-double", "fp4-double-g64"), ("Q4_K", "q4_k")])
def test_what_is_understood(said: str, meant: str) -> None:
    assert names.canonical(said) == meant


def test_a_problem_shows_the_form_of_its_family() -> None:
    assert "groups of 32, 64 or 128" in names.problem("affine4-g16")
    assert "a mixture applies only to a complete GGUF file" in names.problem("q4_k_m")
    assert "affine4-g64, mxfp4" in names.problem("hello")


def test_a_long_text_is_quoted_in_part() -> None:
    assert len(names.problem("x" * 10_000)) < 300


@pytest.mark.parametrize(
    ("bits", "group_size", "mode", "name"),
    [
        (None, None, None, None),
        (4, None, None, "affine4-g64"),
        (None, 32, None, "affine4-g32"),
        (8, 128, "affine", "affine8-g128"),
        (None, None, "mxfp4", "mxfp4"),
        (None, None, "mxfp8", "mxfp8"),
        (None, None, "nvfp4", "nvfp4"),
        (4, 16, "nvfp4", "nvfp4"),
        (8, 32, "mxfp8", "mxfp8"),
    ],
)
def test_mlx_lm_spelling(bits: int | None, group_size: int | None, mode: str | None, name: str | None) -> None:
    assert names.from_mlx_options(bits, group_size, mode) == name


@pytest.mark.parametrize(
    ("bits", "group_size", "mode", "says"),
    [
        (8, None, "mxfp4", "--mode mxfp4 with --bits 8 .*mxfp4 has 4 bits in groups of 32"),
        (None, 64, "mxfp8", "--group-size 64 .*mxfp8 has 8 bits in groups of 32"),
        (4, 32, "nvfp4", "nvfp4 has 4 bits in groups of 16"),
        (7, None, None, "--bits 7 .* 1, 2, 3, 4, 5, 6 or 8"),
        (4, 16, None, "--group-size 16 .* groups of 32, 64 or 128"),
        (0, None, None, "--bits 0"),
        (4, -64, None, "--group-size -64"),
    ],
)
def test_mlx_lm_contradictions(bits: int | None, group_size: int | None, mode: str | None, says: str) -> None:
    with pytest.raises(WrongUsage, match=says):
        names.from_mlx_options(bits, group_size, mode)
