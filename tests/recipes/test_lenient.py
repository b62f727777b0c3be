"""The lenient reading of recipes and of quantization_config.json: every value of any type, in every form of file."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from quantcli import recipes
from quantcli.recipes.base import Recipe, Subject

NAME = "model.layers.0.mlp.down_proj.weight"
OTHER = "model.layers.0.mlp.up_proj.weight"
MODULE = NAME.removesuffix(".weight")


def written(folder: Path, content: Any) -> Recipe:
    path = folder / "quantization_config.json"
    path.write_text(json.dumps(content))
    return recipes.load(path)


def scheme(recipe: Recipe, name: str = NAME) -> str:
    decision = recipe.decide(Subject(name))
    assert decision is not None
    return decision.scheme


#: A file with one entry in each of the forms that there are, beside the file's own `top`.
FORMS: dict[str, Any] = {
    "flat": lambda top, entry: {**top, MODULE: entry},
    "per_tensor": lambda top, entry: {**top, "per_tensor": {NAME: entry}},
    "hf2q": lambda top, entry: {**top, "quant_method": "q4", "tensor_count": 9, "per_tensor": {NAME: entry}},
    "a glob": lambda top, entry: {**top, "per_tensor": {"*.down_proj": entry}},
    "quantization_info": lambda top, entry: {**top, "quant_method": "q4_k", "quantization_info": {NAME: entry}},
    "components": lambda top, entry: {**top, "quant_method": "mixed-4-6", "component_overrides": {"down_proj": entry}},
    "config.json": lambda top, entry: {"model_type": "llama", "quantization": {**top, MODULE: entry}},
    "the mirror alone": lambda top, entry: {"model_type": "llama", "quantization_config": {**top, MODULE: entry}},
}


#: What an entry means in a file of 6 bits in groups of 128.
ENTRIES: list[tuple[Any, str]] = [
    ({"bits": 8, "group_size": 32}, "affine8-g32"),
    ({"bits": 8}, "affine8-g128"),
    ({"group_size": 32}, "affine6-g32"),
    ({}, "affine6-g128"),
    (True, "affine6-g128"),
    (False, "dense"),
    ({"bits": 8, "group_size": 0}, "dense"),
    ({"bits": 16}, "dense"),
    ({"bits": 16, "group_size": 0, "method": "passthrough", "preserved": True}, "dense"),
    ({"bits": 32, "group_size": 64}, "dense"),
    ({"bits": 10**30, "group_size": 64}, "dense"),
    ({"bits": 4, "group_size": 64, "preserved": True}, "dense"),
    ({"bits": 4, "group_size": 64, "method": "q4", "preserved": False}, "affine4-g64"),
    ({"bits": 8, "reason": "a router"}, "affine8-g128"),
    ({"bits": 4, "group_size": 32, "mode": "mxfp4"}, "mxfp4"),
    ({"mode": "mxfp8"}, "mxfp8"),
    ({"mode": "nvfp4", "global_scale": True}, "nvfp4"),
    ({"mode": "affine", "bits": 3}, "affine3-g128"),
    ({"bits": 3, "group_size": None, "mode": "affine"}, "affine3-g64"),
    ({"bits": None, "group_size": 32}, "affine4-g32"),
    ({"bits": None, "group_size": None, "mode": None, "global_scale": None, "preserved": None}, "affine4-g64"),
    ({"bits": None, "group_size": None, "mode": "nvfp4"}, "nvfp4"),
    ({"group_size": None}, "affine6-g64"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("entry", "wanted"), ENTRIES, ids=[json.dumps(entry) for entry, _ in ENTRIES])
def test_an_entry_means_the_same_in_every_form(form: str, entry: Any, wanted: str, tmp_path: Path) -> None:
    recipe = written(tmp_path, FORMS[form]({"bits": 6, "group_size": 128}, entry))
    assert (scheme(recipe), scheme(recipe, OTHER), recipe.warnings) == (wanted, "affine6-g128", ())


#: Values that mean nothing where they stand.
JUNK: list[Any] = [None, "8", "false", 8, 0, -1, 6.5, 64.0, [], [8], [{"bits": 8}], "", "x" * 300]
JUNK_NUMBERS: list[Any] = ["8", 6.5, 8.0, -4, -(10**30), True, False, [], [8], {}, {"bits": 8}, "x" * 300]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", JUNK, ids=repr)
def test_a_value_that_is_no_entry_is_ignored_with_a_warning(form: str, value: Any, tmp_path: Path) -> None:
    recipe = written(tmp_path, FORMS[form]({"bits": 6, "group_size": 128}, value))
    assert (scheme(recipe), recipe.entry(Subject(NAME))) == ("affine6-g128", None)
    (warning,) = recipe.warnings
    assert "down_proj" in warning and "ignored" in warning and len(warning) < 500


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("key", "value"), [*product(("bits", "group_size"), JUNK_NUMBERS), ("bits", 0)], ids=repr)
def test_a_number_that_is_none_is_the_files_own(form: str, key: str, value: Any, tmp_path: Path) -> None:
    other = {"bits": 8, "group_size": 32} | {key: value}
    recipe = written(tmp_path, FORMS[form]({"bits": 6, "group_size": 128}, other))
    assert scheme(recipe) == ("affine6-g32" if key == "bits" else "affine8-g128")
    (warning,) = recipe.warnings
    assert key in warning and "down_proj" in warning and len(warning) < 500


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "entry", [{"bits": 7}, {"bits": 9}, {"group_size": 48}, {"group_size": 1 << 30}, {"mode": "mxfp4", "bits": 8}]
)
def test_numbers_that_mlx_does_not_have_are_ignored_as_an_entry(form: str, entry: Any, tmp_path: Path) -> None:
    recipe = written(tmp_path, FORMS[form]({"bits": 6, "group_size": 128}, entry))
    assert recipe.entry(Subject(NAME)) is None and len(recipe.warnings) == 1
    assert "not a format of MLX" in recipe.warnings[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flag", ["preserved", "global_scale", "mode"])
@pytest.mark.parametrize("value", ["yes", 1, [True], {}])
def test_flags_and_modes_of_another_type_are_ignored(form: str, flag: str, value: Any, tmp_path: Path) -> None:
    recipe = written(tmp_path, FORMS[form]({}, {"bits": 8, "group_size": 32, flag: value}))
    assert scheme(recipe) == "affine8-g32"
    assert len(recipe.warnings) == 1 and flag in recipe.warnings[0]


@pytest.mark.parametrize("form", FORMS)
def test_unknown_words_of_an_entry_are_one_warning_and_the_rest_counts(form: str, tmp_path: Path) -> None:
    recipe = written(tmp_path, FORMS[form]({}, {"bits": 8, "sym": True, "kind": [1]}))
    assert scheme(recipe) == "affine8-g64"
    (warning,) = recipe.warnings
    assert "'sym'" in warning and " 2 such" in warning


#: A file's own defaults, by what it says of them.
TOPS: list[tuple[Any, str, int]] = [
    ({}, "affine4-g64", 0),
    ({"bits": 6}, "affine6-g64", 0),
    ({"group_size": 32}, "affine4-g32", 0),
    ({"bits": 8, "group_size": 128}, "affine8-g128", 0),
    ({"bits": 16, "group_size": 64}, "dense", 0),
    ({"bits": 4, "group_size": 0}, "dense", 0),
    ({"mode": "mxfp4", "bits": 4, "group_size": 32}, "mxfp4", 0),
    ({"mode": "mxfp8", "bits": 8}, "mxfp8", 0),
    ({"quant_method": "mlx_affine", "bits": 4, "group_size": 64}, "affine4-g64", 0),
    ({"quant_method": "f16", "bits": 16, "group_size": 64}, "dense", 0),
    ({"quant_method": None, "bits": 3}, "affine3-g64", 0),
    ({"bits": "6"}, "affine4-g64", 1),
    ({"bits": None, "group_size": 32}, "affine4-g32", 0),
    ({"bits": 6, "group_size": None, "mode": None}, "affine6-g64", 0),
    ({"bits": None, "group_size": None, "mode": "mxfp8"}, "mxfp8", 0),
    ({"bits": 6, "group_size": -1}, "affine6-g64", 1),
    ({"bits": 6.0, "group_size": True}, "affine4-g64", 1),
    ({"bits": 7, "group_size": 64}, "affine4-g64", 1),
    ({"bits": 4, "group_size": 256}, "affine4-g64", 1),
    ({"bits": 4, "mode": "fp4"}, "affine4-g64", 1),
]


@pytest.mark.parametrize(("top", "wanted", "warnings"), TOPS, ids=[json.dumps(top) for top, _, _ in TOPS])
def test_the_files_own_default(top: dict[str, Any], wanted: str, warnings: int, tmp_path: Path) -> None:
    recipe = written(tmp_path, top)
    assert (scheme(recipe), recipe.entry(Subject(NAME)), len(recipe.warnings)) == (wanted, None, warnings)


@pytest.mark.parametrize("table", ["per_tensor", "per_layer_bits", "quantization_info", "component_overrides"])
@pytest.mark.parametrize("value", [None, [], "x", 8, True])
def test_a_table_of_another_type_is_ignored(table: str, value: Any, tmp_path: Path) -> None:
    recipe = written(tmp_path, {"bits": 6, table: value})
    assert scheme(recipe) == "affine6-g64"
    assert len(recipe.warnings) == 1 and table in recipe.warnings[0]


def test_many_values_of_one_kind_are_one_warning_with_their_number(tmp_path: Path) -> None:
    entries = {f"model.layers.{i}.mlp.gate": "x" for i in range(50)}
    more = {f"model.layers.{i}.mlp.up_proj": {"bits": 7} for i in range(20)}
    recipe = written(tmp_path, {"per_tensor": entries | more})
    assert len(recipe.warnings) == 2
    assert "layers.0.mlp.gate" in recipe.warnings[0] and " 50 such" in recipe.warnings[0]
    assert "layers.0.mlp.up_proj" in recipe.warnings[1] and " 20 such" in recipe.warnings[1]


def test_an_empty_toml_file_is_no_recipe_and_an_empty_object_is(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("# nothing\n")
    with pytest.raises(recipes.BadInput):
        recipes.load(tmp_path / "a.toml")
    (tmp_path / "a.json").write_text("{}")
    assert scheme(recipes.load(tmp_path / "a.json")) == "affine4-g64"
