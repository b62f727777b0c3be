"""AutoAWQ folders: what is recognised, every contradiction that is refused, and the tool's own values."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.checkpoint import Checkpoint, Weight
from quantcli.errors import BadInput, NotPossible, QuantError
from quantcli.schemes.base import DoesNotFit
from quantcli.schemes.hf.awq import Awq
from quantcli.sources.detect import open_source
from tests.builders import BF16, folder_of

Tensors = dict[str, np.ndarray]
DATA = Path(__file__).resolve().parent.parent / "data" / "awq"
ROWS, COLUMNS, GROUP = 16, 128, 64
SETTINGS = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
#: Where the word of rows 0 to 7 holds each of them, from the lowest four bits on.
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def pack(codes: np.ndarray) -> np.ndarray:
    """Codes (n, rows) as words (n, rows / 8), one code at a time."""
    words = np.zeros((len(codes), codes.shape[1] // 8), np.uint32)
    for word in range(words.shape[1]):
        for place, row in enumerate(ORDER):
            words[:, word] |= codes[:, 8 * word + row].astype(np.uint32) << np.uint32(4 * place)
    return words


def module(name: str = "m.q", dtype: Any = np.float16, words: Any = np.int32, rows: int = ROWS) -> Tensors:
    random = np.random.default_rng(1)
    return {
        f"{name}.qweight": pack(random.integers(0, 16, (COLUMNS, rows))).view(words),
        f"{name}.qzeros": pack(random.integers(0, 16, (COLUMNS // GROUP, rows))).view(words),
        f"{name}.scales": random.uniform(0.001, 0.01, (COLUMNS // GROUP, rows)).astype(dtype),
    }


def changed(changes: Mapping[str, np.ndarray | None]) -> Tensors:
    """The parts of m.q with some replaced, or with None left out; a name with a full stop is whole."""
    made = {**module(), **{part if "." in part else f"m.q.{part}": array for part, array in changes.items()}}
    return {name: array for name, array in made.items() if array is not None}


def opened(root: Path, tensors: Mapping[str, np.ndarray], **settings: Any) -> Checkpoint:
    block = {key: value for key, value in {**SETTINGS, **settings}.items() if value is not ...}
    return open_source(folder_of(root, tensors, {"model_type": "llama", "quantization_config": block}))


def scheme(weight: Weight) -> Awq:
    assert isinstance(weight.scheme, Awq)
    return weight.scheme


def stored(weight: Weight) -> dict[str, np.ndarray]:
    return {name: part.read() for name, part in weight.parts.items()}


def test_zero_points(tmp_path: Path) -> None:
    found = opened(tmp_path, {**module(), "norm.weight": np.ones(8, np.float16), "m.q.bias": np.ones(ROWS, np.float16)})
    weight = found.weights["m.q.weight"]
    assert (found.kind, weight.scheme.name, weight.shape) == ("awq", "uint4-g64", (ROWS, COLUMNS))
    assert set(weight.parts) == {"qweight", "qzeros", "scales"}
    assert list(found.weights) == ["m.q.bias", "m.q.weight", "norm.weight"] and found.warnings == ()


def test_codes_are_the_packed_ones(tmp_path: Path) -> None:
    codes, zeros = np.arange(COLUMNS * ROWS).reshape(COLUMNS, ROWS) * 7 % 16, np.arange(2 * ROWS).reshape(2, ROWS) % 16
    tensors = changed({"qweight": pack(codes).view(np.int32), "qzeros": pack(zeros).view(np.int32)})
    weight = opened(tmp_path, tensors).weights["m.q.weight"]
    seen = scheme(weight).codes(stored(weight))
    scales = tensors["m.q.scales"].astype(np.float32)
    assert np.array_equal(seen.codes, codes.T) and np.array_equal(seen.scales, scales.T)
    assert np.array_equal(seen.biases, -(zeros * scales).astype(np.float32).T)
    exact = (codes - zeros.repeat(GROUP, 0)).astype(np.float32) * scales.repeat(GROUP, 0)
    assert np.array_equal(scheme(weight).decode(stored(weight)), exact.astype(np.float16).astype(np.float32).T)


@pytest.mark.parametrize("zeros", [np.int32, np.uint32])
@pytest.mark.parametrize("words", [np.int32, np.uint32])
def test_signed_and_unsigned_words_are_the_same(words: Any, zeros: Any, tmp_path: Path) -> None:
    signed = opened(tmp_path / "a", module()).weights["m.q.weight"]
    tensors = {**module(words=words), "m.q.qzeros": module(words=zeros)["m.q.qzeros"]}
    other = opened(tmp_path / "b", tensors).weights["m.q.weight"]
    assert np.array_equal(scheme(signed).decode(stored(signed)), scheme(other).decode(stored(other)))
    layout = other.scheme.layout(other.shape)
    assert {name: (part.dtype, part.shape) for name, part in other.parts.items()} == {
        name: (spec.dtype, spec.shape) for name, spec in layout.items()
    }


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.float16, "f16"), (BF16, "bf16"), (np.float32, "f32"), (np.float64, "f64")]
)
def test_dtypes_of_scales(dtype: Any, name: str, tmp_path: Path) -> None:
    found = opened(tmp_path, module(dtype=dtype))
    weight = found.weights["m.q.weight"]
    assert (scheme(weight).scales_dtype, scheme(weight).grid().scale_dtype, found.warnings) == (name, name, ())
    assert np.isfinite(scheme(weight).decode(stored(weight))).all()


@pytest.mark.parametrize(
    ("dtypes", "common"),
    [
        ((np.float16, BF16), "f32"),
        ((np.float16, np.float32), "f32"),
        ((BF16, np.float32), "f32"),
        ((np.float16, np.float64), "f64"),
        ((np.float32, np.float64), "f64"),
        ((np.float16, BF16, np.float32, np.float64), "f64"),
    ],
)
def test_mixed_dtypes_of_scales_unify_upward(dtypes: tuple[Any, ...], common: str, tmp_path: Path) -> None:
    tensors = {name: a for i, dtype in enumerate(dtypes) for name, a in module(f"m.{i}", dtype).items()}
    found = opened(tmp_path, tensors)
    assert {scheme(w).grid().scale_dtype for w in found.weights.values()} == {common}
    assert len({scheme(w).scales_dtype for w in found.weights.values()}) == len(dtypes)
    assert len(found.warnings) == 1 and found.warnings[0].endswith(f" {common}.")


def test_a_group_size_of_minus_one_is_one_group_a_row(tmp_path: Path) -> None:
    tensors = module()
    for name in ("m.q.scales", "m.q.qzeros"):
        tensors[name] = tensors[name][:1]
    (weight,) = opened(tmp_path, tensors, group_size=-1).weights.values()
    assert scheme(weight).group == weight.shape[1]


def test_no_zero_points_are_the_symmetric_grid(tmp_path: Path) -> None:
    for settings in ({}, {"zero_point": False}, {"zero_point": ...}):
        found = opened(tmp_path / str(len(str(settings))), changed({"qzeros": None}), **settings)
        weight = found.weights["m.q.weight"]
        assert (weight.scheme.name, set(weight.parts), found.warnings) == ("int4-g64", {"qweight", "scales"}, ())
        seen = scheme(weight).codes(stored(weight))
        assert seen.grid.zero == 8 and np.array_equal(seen.biases, -8 * seen.scales)
        assert np.array_equal(scheme(weight).decode(stored(weight)), seen.values().astype(np.float16))


def test_zero_points_of_a_symmetric_checkpoint_count(tmp_path: Path) -> None:
    """As in AutoAWQ. AutoRound stores them too, all 8; other ones are not the grid that the settings say."""
    like = opened(tmp_path / "a", module()).weights["m.q.weight"]
    found = opened(tmp_path / "b", module(), zero_point=False)
    weight = found.weights["m.q.weight"]
    (warning,) = found.warnings
    assert warning.startswith("zero_point is false, but m.q.weight has .qzeros")
    assert weight.scheme.name == "int4-g64"
    assert np.array_equal(scheme(weight).decode(stored(weight)), scheme(like).decode(stored(like)))
    with pytest.raises(DoesNotFit, match="zero point is [0-9]+ .*8"):
        scheme(weight).codes(stored(weight))
    eights = stored(weight) | {"qzeros": np.full_like(stored(weight)["qzeros"], 0x88888888 - 2**32)}
    assert (scheme(weight).codes(eights).biases == -8 * scheme(weight).codes(eights).scales).all()


def test_defaults(tmp_path: Path) -> None:
    settings = {"bits": ..., "group_size": ..., "zero_point": ..., "version": ...}
    tensors = {name: a[:1] if "qweight" not in name else a for name, a in module().items()}
    assert opened(tmp_path, tensors, **settings).weights["m.q.weight"].scheme.name == "uint4-g128"


@pytest.mark.parametrize("version", ["gemm", "GEMM", ""])
def test_versions_that_are_gemm(version: str, tmp_path: Path) -> None:
    assert opened(tmp_path, module(), version=version).kind == "awq"


def test_a_scale_of_the_models_own_is_copied_with_a_warning(tmp_path: Path) -> None:
    found = opened(tmp_path, {**module(), "x.scales": np.ones(4, np.float16)})
    assert found.weights["x.scales"].scheme.name == "f16"
    assert [warning.split()[0] for warning in found.warnings] == ["x.scales"]


def words(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.int32)


def halves(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float16)


#: what -> parts of m.q that differ, settings that differ, what the sentence says
MALFORMED: dict[str, tuple[dict[str, np.ndarray | None], dict[str, Any], str]] = {
    "no scales": ({"scales": None}, {}, "tensor m.q.qweight: m.q.scales is missing"),
    "stale weight": ({"weight": halves(ROWS, COLUMNS)}, {}, "tensor m.q.weight: .* stored quantized too"),
    "biases": ({"biases": halves(2, ROWS)}, {}, "tensor m.q.biases: belongs to MLX's layout"),
    "qweight of rank 1": ({"qweight": words(COLUMNS)}, {}, "tensor m.q.qweight: .* matrix .* found i32 .128.[.]"),
    "qweight of rank 3": (
        {"qweight": words(1, COLUMNS, 2)},
        {},
        "tensor m.q.qweight: .* matrix .* found i32 .1, 128, 2.",
    ),
    "scales of rank 1": ({"scales": halves(ROWS)}, {}, "tensor m.q.scales: .* matrix .* found f16 .16."),
    "qzeros of rank 1": ({"qzeros": words(2)}, {}, "tensor m.q.qzeros: .* matrix .* found i32 .2."),
    "qweight of floats": ({"qweight": halves(COLUMNS, 2)}, {}, "tensor m.q.qweight: .* i32 or u32, found f16"),
    "qweight of int16": (
        {"qweight": np.zeros((COLUMNS, 2), np.int16)},
        {},
        "tensor m.q.qweight: .* i32 or u32, found i16",
    ),
    "qzeros of int64": ({"qzeros": np.zeros((2, 2), np.int64)}, {}, "tensor m.q.qzeros: .* i32 or u32, found i64"),
    "scales of integers": ({"scales": words(2, ROWS)}, {}, "tensor m.q.scales: .* f16 .*found i32"),
    "scales of other groups": (
        {"scales": halves(4, ROWS)},
        {},
        r"m.q.scales: expected shape \[2, 16\], found f16 \[4, 16\]",
    ),
    "scales of other rows": ({"scales": halves(2, 8)}, {}, r"m.q.scales: expected shape \[2, 16\], found f16 \[2, 8\]"),
    "zeros of other groups": ({"qzeros": words(1, 2)}, {}, r"m.q.qzeros: expected shape \[2, 2\], found i32 \[1, 2\]"),
    "zeros not packed": ({"qzeros": words(2, ROWS)}, {}, r"m.q.qzeros: expected shape \[2, 2\], found i32 \[2, 16\]"),
    "columns": ({"qweight": words(100, 2)}, {}, "m.q.qweight: .*100 .* group_size 64"),
    "group of 48": ({}, {"group_size": 48}, "m.q.qweight: .*128 .* group_size 48"),
    "group of 128": ({}, {"group_size": 128}, r"m.q.scales: expected shape \[1, 16\], found f16 \[2, 16\]"),
    "nothing in it": ({"qweight": words(0, 2)}, {}, "m.q.qweight: .* \[0, 2\]"),
    "group 0": ({}, {"group_size": 0}, "key group_size: .*found 0"),
    "group -2": ({}, {"group_size": -2}, "key group_size: .*found -2"),
    "group of text": ({}, {"group_size": "64"}, "key group_size: .*found '64'"),
    "group true": ({}, {"group_size": True}, "key group_size: .*found True"),
    "bits of text": ({}, {"bits": "4"}, "key bits: .*found '4'"),
    "bits null": ({}, {"bits": None}, "key bits: .*found null"),
    "zero_point of text": ({}, {"zero_point": "yes"}, "key zero_point: .*found 'yes'"),
    "version 1": ({}, {"version": 1}, "key version: .*found 1"),
    "zeros alone": ({"n.qzeros": words(2, 2)}, {}, "n.qzeros: n.qweight is missing"),
    "order alone": ({"n.g_idx": words(2)}, {}, "n.g_idx: n.qweight is missing"),
    "words of MLX": ({"n.weight": np.zeros((2, 2), np.uint32)}, {}, "n.weight: is u32"),
}
UNREAD: dict[str, tuple[dict[str, np.ndarray | None], dict[str, Any], str]] = {
    "version exllama": ({}, {"version": "exllama"}, "version 'exllama' .* gemm, gemv"),
    "gemv without zeros": ({}, {"version": "gemv", "zero_point": False}, "zero_point false .* gemv"),
    "gemv in groups of 16": ({}, {"version": "gemv_fast", "group_size": 16}, "group_size 16 .* gemv_fast.* 32"),
    "version marlin": ({}, {"version": "marlin"}, "version 'marlin'"),
    "3 bits": ({}, {"bits": 3}, "bits 3 "),
    "8 bits": ({}, {"bits": 8}, "bits 8 "),
    "act-order": ({"g_idx": words(COLUMNS)}, {}, "tensor m.q.g_idx: act-order"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed(what: str, tmp_path: Path) -> None:
    changes, settings, said = MALFORMED[what]
    with pytest.raises(BadInput, match=said) as error:
        opened(tmp_path, changed(changes), **settings)
    assert error.value.exit_code == 3 and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("what", UNREAD)
def test_variants_that_are_not_read(what: str, tmp_path: Path) -> None:
    changes, settings, said = UNREAD[what]
    with pytest.raises(NotPossible, match=said) as error:
        opened(tmp_path, changed(changes), **settings)
    assert error.value.exit_code == 4 and str(tmp_path) in str(error.value)


def test_each_reason_has_its_own_sentence(tmp_path: Path) -> None:
    said = set()
    for number, (changes, settings, _) in enumerate([*MALFORMED.values(), *UNREAD.values()]):
        with pytest.raises(QuantError) as error:
            opened(tmp_path / str(number), changed(changes), **settings)
        said.add(str(error.value).replace(f"{tmp_path}/{number}", ""))
    assert len(said) == len(MALFORMED) + len(UNREAD)


def digest(weight: Weight) -> str:
    return hashlib.sha256(weight.scheme.decode(stored(weight)).tobytes()).hexdigest()


def test_values_are_autoawqs_own() -> None:
    weights = open_source(DATA).weights
    assert {name: digest(weight) for name, weight in weights.items()} == json.loads((DATA / "truth.json").read_text())


def test_values_of_a_whole_checkpoint(shared: Path) -> None:
    folder = shared / "fixtures" / "quantized" / "autoawq-gemm-g64"
    truth = json.loads((folder / "truth.json").read_text())["tensors"]
    weights = open_source(folder).weights
    packed = {name: weight for name, weight in weights.items() if isinstance(weight.scheme, Awq)}
    assert {name: digest(weight) for name, weight in packed.items()} == {
        name: entry["sha256_f32"] for name, entry in truth.items()
    }


def test_values_of_a_symmetric_checkpoint(shared: Path) -> None:
    folder = shared / "fixtures" / "quantized" / "autoround-as-awq-b4-g64-sym"
    truth = json.loads((folder / "truth.json").read_text())["tensors"]
    found = open_source(folder)
    packed = {name: weight for name, weight in found.weights.items() if isinstance(weight.scheme, Awq)}
    assert {scheme(weight).symmetric for weight in packed.values()} == {True} and len(found.warnings) == 1
    for name, weight in packed.items():
        values = weight.scheme.decode(stored(weight)) + 0.0
        assert hashlib.sha256(values.tobytes()).hexdigest() == truth[name]["sha256_f32_no_negative_zero"], name
