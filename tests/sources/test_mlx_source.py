"""MLX folders: what is recognised, and every contradiction between arrays and settings that is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.checkpoint import Checkpoint
from quantcli.errors import BadInput, QuantError
from quantcli.schemes.mlx.affine import BITS, GROUPS
from quantcli.sources.detect import open_source
from tests.builders import BF16, folder_of

Tensors = dict[str, np.ndarray]
ROWS, COLUMNS = 3, 256
#: mode -> bits, group.
MODES = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
Q4 = {"group_size": 64, "bits": 4}


def affine(
    bits: int = 4, group: int = 64, dtype: Any = np.float16, name: str = "m.q", lead: tuple[int, ...] = (ROWS,)
) -> Tensors:
    scales = np.ones((*lead, COLUMNS // group), dtype)
    words = np.zeros((*lead, COLUMNS * bits // 32), np.uint32)
    return {f"{name}.weight": words, f"{name}.scales": scales, f"{name}.biases": scales}


def scaled(mode: str, name: str = "m.q") -> Tensors:
    bits, group = MODES[mode]
    words = np.zeros((ROWS, COLUMNS * bits // 32), np.uint32)
    return {f"{name}.weight": words, f"{name}.scales": np.full((ROWS, COLUMNS // group), 127, np.uint8)}


def opened(root: Path, tensors: Mapping[str, np.ndarray], block: Any, **config: Any) -> Checkpoint:
    named = {} if block is None else {"quantization": block}
    return open_source(folder_of(root, tensors, {"model_type": "llama", **named, **config}))


def of(mode: str) -> dict[str, Any]:
    bits, group = MODES[mode]
    return {"group_size": group, "bits": bits, "mode": mode}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("bits", BITS)
def test_every_affine_width_and_group(bits: int, group: int, tmp_path: Path) -> None:
    found = opened(tmp_path, affine(bits, group), {"group_size": group, "bits": bits})
    weight = found.weights["m.q.weight"]
    assert (found.kind, weight.scheme.name, weight.shape) == ("mlx", f"affine{bits}-g{group}", (ROWS, COLUMNS))
    assert {part: stored.name for part, stored in weight.parts.items()} == {
        "weight": "m.q.weight",
        "scales": "m.q.scales",
        "biases": "m.q.biases",
    }
    assert list(found.weights) == ["m.q.weight"] and found.warnings == ()


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_without_biases(mode: str, tmp_path: Path) -> None:
    weight = opened(tmp_path, scaled(mode), of(mode)).weights["m.q.weight"]
    assert (weight.scheme.name, weight.shape, set(weight.parts)) == (mode, (ROWS, COLUMNS), {"weight", "scales"})


@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "f16"), (BF16, "bf16"), (np.float32, "f32")])
def test_dtypes_of_scales(dtype: Any, name: str, tmp_path: Path) -> None:
    assert opened(tmp_path, affine(dtype=dtype), Q4).weights["m.q.weight"].scheme.scales_dtype == name


def test_experts_have_three_dimensions(tmp_path: Path) -> None:
    assert opened(tmp_path, affine(lead=(5, ROWS)), Q4).weights["m.q.weight"].shape == (5, ROWS, COLUMNS)


def test_dense_tensors_stay_what_they_are(tmp_path: Path) -> None:
    dense = {"norm.weight": np.ones(8, BF16), "gate.weight": np.ones((2, 8), np.float32), "ids": np.ones(2, np.int32)}
    found = opened(tmp_path, {**affine(), **dense}, Q4)
    assert {name: w.scheme.name for name, w in found.weights.items()} == {
        "gate.weight": "f32",
        "ids": "i32",
        "m.q.weight": "affine4-g64",
        "norm.weight": "bf16",
    }


def test_overrides_by_path(tmp_path: Path) -> None:
    tensors = {
        **affine(name="a"),
        **affine(8, 32, name="b"),
        **scaled("mxfp4", name="c"),
        "d.weight": np.ones((2, 64), BF16),
        **affine(name="e"),
    }
    block = {**Q4, "b": {"group_size": 32, "bits": 8}, "c": of("mxfp4"), "d": False, "e": True}
    found = opened(tmp_path, tensors, block)
    assert [w.scheme.name for w in found.weights.values()] == [
        "affine4-g64",
        "affine8-g32",
        "mxfp4",
        "bf16",
        "affine4-g64",
    ]
    assert found.weights["b.weight"].reason == "config.json: quantization.b"
    assert found.weights["a.weight"].reason == "config.json: quantization"
    assert found.warnings == ()


def test_an_overrides_mode_is_affine_unless_said(tmp_path: Path) -> None:
    block = {**of("mxfp4"), "m.q": Q4}
    assert opened(tmp_path, affine(), block).weights["m.q.weight"].scheme.name == "affine4-g64"


def test_a_module_that_is_not_listed_is_inferred_with_a_warning(tmp_path: Path) -> None:
    found = opened(tmp_path, {**affine(name="a"), **affine(5, 64, name="b"), **scaled("nvfp4", name="c")}, Q4)
    assert found.weights["b.weight"].scheme.name == "affine5-g64"
    assert found.weights["c.weight"].scheme.name == "nvfp4"
    (warning,) = found.warnings
    assert "2 modules" in warning and "b (affine with 5 bits in groups of 64)" in warning


def test_a_mirror_alone_is_enough_and_one_that_differs_is_a_warning(tmp_path: Path) -> None:
    alone = opened(tmp_path / "a", affine(), None, quantization_config=Q4)
    assert (alone.kind, alone.weights["m.q.weight"].scheme.name) == ("mlx", "affine4-g64")
    both = opened(tmp_path / "b", affine(), Q4, quantization_config={"group_size": 32, "bits": 4})
    assert both.weights["m.q.weight"].scheme.name == "affine4-g64"
    assert "differ" in both.warnings[0]


def test_scales_and_biases_without_a_weight_are_the_models_own(tmp_path: Path) -> None:
    own = {
        "router.scales": np.ones(4, np.float32),
        "x.biases": np.ones(4, np.float32),
        "x.weight": np.ones((2, 2), BF16),
    }
    found = opened(tmp_path, {**affine(), **own}, Q4)
    assert {"router.scales", "x.biases", "x.weight"} < set(found.weights)
    assert found.weights["router.scales"].scheme.name == "f32"
    (warning,) = found.warnings
    assert warning.startswith("2 tensors (the first: router.scales)")


def test_groups_of_zero_leave_all_dense(tmp_path: Path) -> None:
    found = opened(tmp_path, {"a.weight": np.ones((2, 64), BF16)}, {"group_size": 0, "bits": 4})
    assert (found.kind, found.weights["a.weight"].scheme.name) == ("mlx", "bf16")


def changed(tensors: Tensors, **changes: np.ndarray | None) -> Tensors:
    """`tensors` with parts of m.q replaced, or with None left out."""
    made = {**tensors, **{f"m.q.{part}": array for part, array in changes.items()}}
    return {name: array for name, array in made.items() if array is not None}


def halves(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float16)


#: what -> tensors, quantization block, what the sentence says
REFUSED: dict[str, tuple[Tensors, Any, str]] = {
    "biases, no scales": (changed(affine(), scales=None), Q4, "tensor m.q.biases: m.q.scales is missing"),
    "no scales, no biases": (changed(affine(), scales=None, biases=None), Q4, "m.q.weight: m.q.scales is missing"),
    "words and no settings": (changed(affine(), scales=None, biases=None), None, "m.q.weight: m.q.scales is missing"),
    "affine, no biases": (changed(affine(), biases=None), Q4, "m.q.weight: .*quantization says affine.* .biases"),
    "biases beside mxfp4": (
        changed(scaled("mxfp4"), biases=np.zeros((ROWS, 8), np.uint8)),
        of("mxfp4"),
        "m.q.weight: .*mxfp4.* .biases",
    ),
    "float weight, scales": (
        changed(affine(), weight=halves(ROWS, COLUMNS)),
        Q4,
        "m.q.weight: expected u32 .* found f16",
    ),
    "int32 words": (
        changed(affine(), weight=np.zeros((ROWS, 32), np.int32)),
        Q4,
        "m.q.weight: expected u32 .* found i32",
    ),
    "a vector of words": (
        {"m.q.weight": np.zeros(32, np.uint32), "m.q.scales": halves(4), "m.q.biases": halves(4)},
        Q4,
        "m.q.weight: .* 2 dimensions, found u32 \[32\]",
    ),
    "rows differ": (
        changed(affine(), scales=halves(2, 4)),
        Q4,
        r"m.q.scales: expected shape \[3, .* found f16 \[2, 4\]",
    ),
    "rows of biases": (
        changed(affine(), biases=halves(2, 4)),
        Q4,
        r"m.q.biases: expected shape \[3, .* found f16 \[2, 4\]",
    ),
    "ranks differ": (changed(affine(), scales=halves(4)), Q4, r"m.q.scales: expected shape \[3, .* found f16 \[4\]"),
    "scalar scales": (changed(affine(), scales=halves()), Q4, r"m.q.scales: expected shape \[3, .* found f16 \[\]"),
    "biases per other group": (
        changed(affine(), biases=halves(ROWS, 8)),
        Q4,
        "m.q.biases: expected f16 \[3, 4\], found f16 \[3, 8\]",
    ),
    "biases of another dtype": (
        changed(affine(), biases=np.ones((ROWS, 4), np.float32)),
        Q4,
        "m.q.biases: expected f16 \[3, 4\], found f32 \[3, 4\]",
    ),
    "width": (affine(4, 32), Q4, "m.q.weight: .*affine with 4 bits in groups of 64, but rows of 32 words and 8"),
    "width of a listed module": (
        affine(4, 32),
        {**Q4, "m.q": Q4},
        "m.q.weight: .*quantization.m.q says.*rows of 32 words",
    ),
    "a listed module is never guessed": (
        affine(5, 64),
        {**Q4, "m.q": Q4},
        "m.q.weight: .*quantization.m.q says affine with 4 bits",
    ),
    "listed as affine, stored as mxfp4": (
        scaled("mxfp4"),
        {**Q4, "m.q": Q4},
        "m.q.weight: .*quantization.m.q says affine.* .biases",
    ),
    "listed as mxfp4, scales f16": (
        changed(affine(4, 32), biases=None),
        {**Q4, "m.q": of("mxfp4")},
        "m.q.weight: .*.scales are f16, not u8",
    ),
    "scales of integers": (
        changed(affine(), scales=np.ones((ROWS, 4), np.int8), biases=np.ones((ROWS, 4), np.int8)),
        Q4,
        "m.q.weight: .*.scales are i8, not f16, bf16 or f32",
    ),
    "scales of doubles": (
        changed(affine(), scales=np.ones((ROWS, 4)), biases=np.ones((ROWS, 4))),
        Q4,
        "m.q.weight: .*.scales are f64",
    ),
    "marked false": (affine(), {**Q4, "m.q": False}, "m.q.weight: .* config.json says that m.q is dense"),
    "group 0 of its own": (
        affine(),
        {**Q4, "m.q": {"group_size": 0, "bits": 4}},
        "m.q.weight: .* config.json says that m.q is dense",
    ),
    "group 0": (affine(), {"group_size": 0, "bits": 4}, "m.q.weight: .*group_size 0, which means dense"),
    "no settings": (affine(), None, "m.q.weight: .* config.json has no `quantization`"),
    "no columns": (
        changed(affine(), weight=np.zeros((ROWS, 0), np.uint32), scales=halves(ROWS, 0), biases=halves(ROWS, 0)),
        Q4,
        "m.q.weight: .* \[3, 0\]",
    ),
    "another tool's tensors": (
        {**affine(), "n.qweight": np.zeros((8, 8), np.int32)},
        Q4,
        "tensor n.qweight: is part of a quantized weight",
    ),
    "block is a list": (affine(), [4, 64], "key quantization: "),
    "block is empty": (affine(), {}, "group_size is missing"),
    "no bits": (affine(), {"group_size": 64}, "bits is missing"),
    "negative group": (affine(), {"group_size": -1, "bits": 4}, "group_size: .* found -1"),
    "bits no MLX has": (affine(), {"group_size": 64, "bits": 7}, "bits 7"),
    "unknown mode": (affine(), {**Q4, "mode": "mxfp5"}, "mode: .* found 'mxfp5'"),
    "a module is a number": (affine(), {**Q4, "m.q": 4}, "'m.q'.*found 4"),
    "a module without bits": (affine(), {**Q4, "m.q": {"group_size": 64}}, "'m.q'.*bits is missing"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, tmp_path: Path) -> None:
    tensors, block, said = REFUSED[what]
    with pytest.raises(BadInput, match=said) as error:
        opened(tmp_path, tensors, block)
    assert error.value.exit_code == 3
    assert str(tmp_path) in str(error.value)


def test_each_reason_has_its_own_sentence(tmp_path: Path) -> None:
    said = set()
    for number, (tensors, block, _) in enumerate(REFUSED.values()):
        with pytest.raises(QuantError) as error:
            opened(tmp_path / str(number), tensors, block)
        said.add(str(error.value).replace(f"{tmp_path}/{number}", ""))
    # Words without scales are refused alike with and without settings; group 0 of a module's own is its `false`.
    assert len(said) == len(REFUSED) - 2


def test_words_under_the_bare_name_weight_are_a_tensor(tmp_path: Path) -> None:
    assert opened(tmp_path, {"weight": np.zeros((2, 2), np.uint32)}, Q4).weights["weight"].scheme.name == "u32"


def test_mlx_reads_back_what_it_wrote(tmp_path: Path) -> None:
    """The parts of a folder as MLX quantizes it decode to what MLX makes of them."""
    mx = pytest.importorskip("mlx.core")
    values = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    words, scales, biases = mx.quantize(mx.array(values), group_size=64, bits=4)
    tensors = {"m.q.weight": np.array(words), "m.q.scales": np.array(scales), "m.q.biases": np.array(biases)}
    weight = opened(tmp_path, tensors, Q4).weights["m.q.weight"]
    decoded = weight.scheme.decode({name: part.read() for name, part in weight.parts.items()})
    assert np.array_equal(decoded, np.array(mx.dequantize(words, scales, biases, group_size=64, bits=4)))
