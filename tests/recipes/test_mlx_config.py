"""The `quantization` block of an MLX config.json."""

from typing import Any

import pytest

from quantcli.errors import BadInput
from quantcli.recipes import mlx_config
from quantcli.recipes.base import Decision, Origin, Subject
from quantcli.recipes.mlx_config import MlxParams

BASE = {"group_size": 64, "bits": 4}


def parse(block: Any) -> mlx_config.MlxQuantization:
    found = mlx_config.parse({"quantization": block}, "config.json")
    assert found is not None
    return found


def refused(block: Any) -> str:
    with pytest.raises(BadInput) as caught:
        parse(block)
    return str(caught.value)


def test_no_block() -> None:
    for config in ({}, {"quantization": None}, {"quantization_config": None}):
        assert mlx_config.parse(config, "c") is None


def test_a_lone_block_of_another_tool() -> None:
    assert mlx_config.parse({"quantization_config": {"quant_method": "awq", **BASE}}, "c") is None


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_either_key(key: str) -> None:
    found = mlx_config.parse({key: BASE}, "c")
    assert found is not None and found.default == MlxParams(4, 64) and found.warnings == ()


def test_the_mirror() -> None:
    same = mlx_config.parse({"quantization": BASE, "quantization_config": dict(BASE)}, "c")
    assert same is not None and same.warnings == ()
    differ = mlx_config.parse({"quantization": BASE, "quantization_config": {**BASE, "bits": 8}}, "c")
    assert differ is not None and differ.default == MlxParams(4, 64)
    assert differ.warnings == ("c: quantization and quantization_config differ. quantization is used.",)
    assert differ.recipe().warnings == differ.warnings


@pytest.mark.parametrize("value", [[], "x", 4, True, 0, ""])
@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_a_block_that_is_no_object(key: str, value: object) -> None:
    with pytest.raises(BadInput) as caught:
        mlx_config.parse({"quantization": BASE, key: value}, "config.json")
    assert str(caught.value).startswith(f"config.json: key {key}: ") and f"found {value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("block", "default"),
    [
        (BASE, MlxParams(4, 64, "affine")),
        ({**BASE, "mode": "affine"}, MlxParams(4, 64, "affine")),
        ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, MlxParams(4, 32, "mxfp4")),
        ({"group_size": 32, "bits": 8, "mode": "mxfp8"}, MlxParams(8, 32, "mxfp8")),
        ({"group_size": 16, "bits": 4, "mode": "nvfp4"}, MlxParams(4, 16, "nvfp4")),
        ({"group_size": 0, "bits": 4}, None),
        ({"group_size": None, "bits": 3}, MlxParams(3, 64, "affine")),
        ({"group_size": 32, "bits": None}, MlxParams(4, 32, "affine")),
        ({"group_size": None, "bits": None, "mode": None}, MlxParams(4, 64, "affine")),
        ({"group_size": None, "bits": None, "mode": "affine"}, MlxParams(4, 64, "affine")),
        ({"group_size": None, "bits": None, "mode": "mxfp4"}, MlxParams(4, 32, "mxfp4")),
        ({"group_size": None, "bits": None, "mode": "mxfp8"}, MlxParams(8, 32, "mxfp8")),
        ({"group_size": None, "bits": 4, "mode": "nvfp4"}, MlxParams(4, 16, "nvfp4")),
    ],
)
def test_default(block: dict[str, Any], default: MlxParams | None) -> None:
    """Of the file, and of a module's own object, where a null stands for the same."""
    assert parse(block).default == default
    assert parse({**BASE, "m": block}).lookup("m") == (default or False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"group_size": "64"}, "group_size: expected a whole number, found '64'"),
        ({"group_size": 64.0}, "group_size: expected a whole number, found 64.0"),
        ({"group_size": True}, "group_size: expected a whole number, found True"),
        ({"group_size": -64}, "0 or more (0 means dense), found -64"),
        ({"group_size": 10**30}, "group_size 1000"),
        ({"group_size": 1 << 21}, "group_size 2097152 is not a format of MLX (affine has 1, 2, 3, 4, 5, 6 or 8 bits"),
        ({"group_size": 1 << 20}, "bits 4 with group_size 1048576"),
        ({"bits": [4]}, "bits: expected a whole number, found [4]"),
        ({"bits": -4}, "0 or more, found -4"),
        ({"bits": 7}, "bits 7 with group_size 64"),
        ({"group_size": 48}, "bits 4 with group_size 48"),
        ({"mode": "fp4"}, "affine, mxfp4, mxfp8, nvfp4, found 'fp4'"),
        ({"mode": ["affine"]}, "mode: expected a string, found ['affine']"),
        ({"mode": "mxfp4"}, "mxfp4 has 4 bits in groups of 32"),
    ],
)
def test_errors_of_settings_quote_key_and_value(change: dict[str, Any], says: str) -> None:
    assert "config.json: quantization" in refused({**BASE, **change})
    assert says in refused({**BASE, **change})
    inside = refused({**BASE, "model.norm": {**BASE, **change}})
    assert "quantization['model.norm']" in inside and says in inside


@pytest.mark.parametrize("missing", ["group_size", "bits"])
def test_settings_that_are_required(missing: str) -> None:
    block = {key: value for key, value in BASE.items() if key != missing}
    assert f"quantization: key {missing} is missing" in refused(block)
    assert f"quantization['lm_head']: key {missing} is missing" in refused({**BASE, "lm_head": block})


@pytest.mark.parametrize("word", ["quant_method", "linear_class", "quantization_mode"])
@pytest.mark.parametrize("value", ["mlx", {"bits": "x"}, 3, None])
def test_reserved_words_are_no_layers(word: str, value: object) -> None:
    assert parse({**BASE, word: value}).modules == {}


@pytest.mark.parametrize("value", ["false", 0, 1, None, [], 4.5, "affine"])
def test_a_module_that_is_no_bool_or_object(value: object) -> None:
    message = refused({**BASE, "model.layers.0.mlp.gate": value})
    assert "quantization['model.layers.0.mlp.gate']: " in message and f"found {value!r}" in message
    assert "false, true or an object" in message


def test_unknown_settings_of_a_module() -> None:
    assert "quantization['lm_head']: key 'sym' (5)" in refused({**BASE, "lm_head": {**BASE, "sym": 5}})


def test_lookup() -> None:
    found = parse(
        {
            "group_size": 32,
            "bits": 4,
            "mode": "mxfp4",
            "a": False,
            "b": True,
            "c": {"group_size": 64, "bits": 8},
            "d": {"group_size": 16, "bits": 4, "mode": "nvfp4", "global_scale": True},
            "e": {"group_size": 0, "bits": 4},
        }
    )
    assert found.lookup("a") is False
    assert found.lookup("b") == MlxParams(4, 32, "mxfp4")
    assert found.lookup("c") == MlxParams(8, 64, "affine"), "a module's mode is affine unless said, not the global one"
    assert found.lookup("d") == MlxParams(4, 16, "nvfp4", global_scale=True)
    assert found.lookup("e") is False
    assert found.lookup("f") is None


def test_true_where_the_default_is_dense() -> None:
    assert parse({"group_size": 0, "bits": 4, "a": True}).lookup("a") is False


def test_marks_that_are_null_are_not_set() -> None:
    block = {"group_size": 16, "bits": 4, "mode": "nvfp4", "global_scale": None, "quantize_input": None}
    assert parse({**BASE, "x": block}).lookup("x") == MlxParams(4, 16, "nvfp4")


def test_marks_are_bools() -> None:
    block = {"group_size": 16, "bits": 4, "mode": "nvfp4", "global_scale": "yes"}
    assert "quantization['x']: key global_scale: expected true or false, found 'yes'" in refused({**BASE, "x": block})


@pytest.mark.parametrize(
    ("listed", "asked"),
    [
        ("model.lm_head", "model.lm_head"),
        ("model.lm_head.weight", "model.lm_head"),
        ("model.lm_head", "language_model.model.lm_head"),
        ("language_model.model.lm_head", "model.lm_head"),
        ("language_model.model.lm_head.weight", "model.lm_head"),
        ("model.*", "model.lm_head"),
        ("*.lm_head", "language_model.model.lm_head"),
    ],
)
def test_flat_keys_are_looked_up_as_in_hf2q(listed: str, asked: str) -> None:
    assert parse({**BASE, listed: False}).lookup(asked) is False


def test_exact_keys_come_before_globs() -> None:
    eight = {"group_size": 64, "bits": 8}
    found = parse({**BASE, "*": False, "language_model.a": eight})
    assert found.lookup("a") == MlxParams(8, 64)
    assert found.lookup("b") is False


def test_as_a_recipe() -> None:
    recipe = parse({**BASE, "a": False, "b": {"group_size": 32, "bits": 8}, "gone": True}).recipe()
    assert recipe.decide(Subject("a.weight")) == Decision("dense", "config.json: a = dense", Origin.RECIPE)
    assert recipe.decide(Subject("b.weight")) == Decision("affine8-g32", "config.json: b = affine8-g32", Origin.RECIPE)
    assert recipe.decide(Subject("c.weight")) == Decision("affine4-g64", "config.json: quantization", Origin.GLOBAL)
    assert recipe.entry(Subject("c.weight")) is None
    assert recipe.unmatched([Subject("a.weight"), Subject("b.weight")]) == ["gone"]


@pytest.mark.parametrize("key", ["", "a\x1b[31m", "x" * 2000])
def test_hostile_keys(key: str) -> None:
    assert len(refused({**BASE, key: {**BASE}} if key else {**BASE, "": False})) < 400
