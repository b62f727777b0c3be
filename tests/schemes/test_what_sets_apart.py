"""What sets formats apart: which of the schemes that can be asked for have a property, all others its default."""

from collections.abc import Callable

import pytest

from quantcli.schemes.base import Scheme
from quantcli.schemes.ggml import TYPES
from quantcli.schemes.ggml.floats import GgmlFloat
from quantcli.schemes.ggml.global_scale import WithGlobal
from quantcli.schemes.hf import bnb4
from quantcli.schemes.listed import listed
from quantcli.schemes.mlx.global_scale import Nvfp4Experts
from quantcli.schemes.opaque import Opaque
from quantcli.targets import TARGETS

SHAPE = (128, 256)
DENSE = {"f32", "f16", "bf16"}
FP8 = {"fp8-e4m3", "fp8-e5m2"}
SCALED_FP8 = {"fp8-e4m3-tensor", "fp8-e4m3-channel", "fp8-e4m3-block128"}
#: Layouts from which transformers does not stack experts, bitsandbytes' aside.
STACKED = {"int8-channel", "mxfp8", "fp8-e4m3-block128"}
BNB = {"nf4-g64", "fp4-g64", "nf4-double-g64"}
NAMES = {
    "mlx": DENSE | {"affine4-g64", "affine8-g32", "mxfp4", "mxfp8", "nvfp4"},
    "gguf": DENSE | set(TYPES),
    "hf": DENSE | FP8 | SCALED_FP8 | BNB | {"int4-g128", "uint4-g64", "int8-channel", "mxfp4", "mxfp8", "nvfp4"},
}


def schemes() -> dict[tuple[str, str], Scheme]:
    found = {(to, name): TARGETS[to]().scheme(name, "bf16", SHAPE) for to, names in NAMES.items() for name in names}
    return {key: scheme for key, scheme in found.items() if scheme is not None}


def test_every_name_is_a_scheme() -> None:
    assert len(schemes()) == sum(map(len, NAMES.values()))


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        (lambda scheme: scheme.is_master, {("hf", name) for name in FP8 | SCALED_FP8}),
        (lambda scheme: scheme.is_elementwise, {(to, n) for to in NAMES for n in DENSE} | {("hf", n) for n in FP8}),
        (lambda scheme: scheme.has_own_state, {("hf", name) for name in BNB}),
        (lambda scheme: scheme.takes_importance, {("gguf", name) for name in TYPES}),
        (lambda scheme: scheme.chosen_scale_dtype, {("mlx", "affine4-g64"), ("mlx", "affine8-g32")}),
        (lambda scheme: scheme.undecoded or scheme.uncopied, set()),
        (lambda scheme: scheme.is_ungrouped, set()),
        (lambda scheme: scheme.can_be_chosen, {("hf", name) for name in NAMES["hf"] - DENSE}),
        (lambda scheme: scheme.shares_global, {("hf", "nvfp4")}),
        (lambda scheme: scheme.rounds_inputs, {("gguf", "nvfp4")}),
        (lambda scheme: not scheme.loads_experts, {("hf", name) for name in BNB | STACKED}),
        (lambda scheme: scheme.stored_block, {("gguf", name) for name in TYPES}),
        (lambda scheme: scheme.adds_biases or scheme.unreadable or scheme.unknown_type, set()),
    ],
    ids=[
        "is_master", "is_elementwise", "has_own_state", "takes_importance", "chosen_scale_dtype", "copied", "grouped",
        "can_be_chosen", "shares_global", "rounds_inputs", "loads_experts", "stored_block", "none",
    ],
)  # fmt: skip
def test_a_property_differs_from_its_default_in_these_schemes(
    has: Callable[[Scheme], object], expected: set[tuple[str, str]]
) -> None:
    assert {key for key, scheme in schemes().items() if has(scheme)} == expected


def test_another_scale_dtype_changes_a_scheme_only_where_users_choose_it() -> None:
    for scheme in schemes().values():
        other = scheme.with_scale_dtype("f32")
        assert (other == scheme) is (scheme.chosen_scale_dtype is None)
        assert other.name == scheme.name and other.chosen_scale_dtype in (None, "f32")


def test_scales_of_ggml_types_are_f16_in_a_repack_and_of_others_as_they_are() -> None:
    assert TYPES["q4_k"].repacked_scale_dtype == "f16"
    assert WithGlobal(GgmlFloat("nvfp4")).repacked_scale_dtype == "f16"
    assert WithGlobal(TYPES["q4_0"]).repacked_scale_dtype is None  # is no grid
    affine = TARGETS["mlx"]().scheme("affine4-g64", "bf16", SHAPE)
    assert affine is not None and affine.repacked_scale_dtype == "bf16"


def test_an_opaque_type_says_why_it_is_not_decoded_and_big_endian_bytes_why_they_are_not_copied() -> None:
    stored = Opaque("q4_0_4_4")
    swapped = Opaque("q4_0_4_4", big_endian=True)
    assert stored.undecoded is not None and "q4_0_4_4" in stored.undecoded and stored.uncopied is None
    assert swapped.uncopied is not None and "q4_0_4_4" in swapped.uncopied


def test_padding_may_have_come_to_an_opaque_type_of_unknown_size_and_to_no_other() -> None:
    written = Opaque("type 99", span=100, type_id=99)
    assert written.is_stored_as(Opaque("type 99", span=131, type_id=99), (100,))
    assert not written.is_stored_as(Opaque("type 99", span=99, type_id=99), (100,))
    assert not written.is_stored_as(Opaque("type 98", span=100, type_id=98), (100,))
    assert not TYPES["q4_0"].is_stored_as(TYPES["q8_0"], SHAPE)


def test_each_scheme_goes_with_its_target_and_with_no_quantized_one_of_another() -> None:
    quantized = {key: scheme for key, scheme in schemes().items() if key[1] not in DENSE | FP8 | BNB}
    for (ours, _), scheme in quantized.items():
        assert {to for (to, _), other in quantized.items() if scheme.goes_with(other)} == {ours}


def test_a_layout_is_kept_by_the_target_of_its_files_and_a_dense_one_by_none_in_particular() -> None:
    for (to, _), scheme in schemes().items():
        assert scheme.kept_in == (() if scheme.family == "dense" else (to,))
    read = [scheme for scheme in listed((1024, 1024)) if scheme.family not in ("dense", "mlx", "ggml")]
    assert {scheme.kept_in for scheme in read} == {("hf",)}


def test_blocks_that_bitsandbytes_lacks_are_unreadable() -> None:
    odd, even = (bnb4.written("nf4", block, False, "bf16", SHAPE) for block in (48, 64))
    assert odd.unreadable is not None and "4096" in odd.unreadable and even.unreadable is None


@pytest.mark.parametrize(
    ("to", "name", "expected"),
    [
        ("hf", "bf16", {"weight": "m.weight"}),
        ("hf", "fp8-e4m3", {"weight": "m.weight"}),
        ("hf", "int8-channel", {"weight": "m.weight", "scales": "m.weight_scale"}),
        (
            "hf", "nvfp4",
            {"weight": "m.weight_packed", "scales": "m.weight_scale", "global": "m.weight_global_scale"},
        ),
        (
            "hf", "fp4-g64",
            {
                "weight": "m.weight", "absmax": "m.weight.absmax", "quant_map": "m.weight.quant_map",
                "quant_state": "m.weight.quant_state.bitsandbytes__fp4",
            },
        ),
        ("mlx", "affine4-g64", {"weight": "m.weight", "scales": "m.scales", "biases": "m.biases"}),
    ],
)  # fmt: skip
def test_parts_are_called_as_readers_of_the_folder_call_them(to: str, name: str, expected: dict[str, str]) -> None:
    scheme = TARGETS[to]().scheme(name, "bf16", SHAPE)
    assert scheme is not None
    assert {part: scheme.tensor_name("m.weight", part) for part in scheme.layout(SHAPE)} == expected


def test_a_global_scale_has_its_part_and_the_scheme_without_it() -> None:
    nvfp4, found = TARGETS["hf"]().scheme("nvfp4", "bf16", SHAPE), Nvfp4Experts(128).global_scale
    assert nvfp4 is not None and nvfp4.global_scale is not None
    assert (nvfp4.global_scale.part, nvfp4.global_scale.divides, nvfp4.global_scale.unit) == ("global", True, 1)
    assert "global" not in nvfp4.global_scale.without.layout(SHAPE)
    assert (found.part, found.divides, found.unit) == ("global_scale", False, 2688)
    assert found.without == TARGETS["mlx"]().scheme("nvfp4", "bf16", SHAPE)
