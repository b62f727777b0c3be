"""hf2q's and mlx-native's quantization_config.json."""

from typing import Any

import pytest

from quantcli.errors import BadInput
from quantcli.recipes import hf2q
from quantcli.recipes.base import Decision, Origin, Subject

BASE = {"bits": 4, "group_size": 64}
EIGHT = {"bits": 8, "group_size": 32}


def scheme(per_tensor: dict[str, Any], name: str) -> str:
    decision = hf2q.read({**BASE, "per_tensor": per_tensor}, "q.json").decide(Subject(name))
    assert decision is not None
    return decision.scheme


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        ("model.a.weight", "model.a.weight"),
        ("model.a", "model.a.weight"),
        ("model.a", "model.a.scales"),
        ("model.a", "model.a.biases"),
        ("model.a.weight", "language_model.model.a.weight"),
        ("model.a", "language_model.model.a.weight"),
        ("language_model.model.a.weight", "model.a.weight"),
        ("language_model.model.a", "model.a.weight"),
        ("model.*", "model.a.weight"),
        ("*.a", "model.a.weight"),
    ],
)
def test_lookup_finds(listed: str, name: str) -> None:
    assert scheme({listed: EIGHT}, name) == "affine8-g32"


@pytest.mark.parametrize("listed", ["model.a.scales", "a", "model", "model.b", "language_model.a", "MODEL.A"])
def test_lookup_misses(listed: str) -> None:
    assert scheme({listed: EIGHT}, "model.a.weight") == "affine4-g64"


ORDER = ["n.weight", "n", "language_model.n.weight", "language_model.n", "n*", "*.weight"]


@pytest.mark.parametrize("first", range(len(ORDER) - 1))
def test_order_of_lookup_is_not_that_of_the_file(first: int) -> None:
    bits = dict(zip(ORDER, (1, 2, 3, 5, 6, 8), strict=True))
    left = [key for key in ORDER[first:] if "*" not in key][::-1] + [key for key in ORDER[first:] if "*" in key]
    listed = {key: {"bits": bits[key], "group_size": 64} for key in left}
    assert scheme(listed, "n.weight") == f"affine{bits[ORDER[first]]}-g64"


def test_the_prefix_is_removed_before_it_is_added() -> None:
    listed = {"language_model.language_model.n": EIGHT, "n": {"bits": 6, "group_size": 64}}
    assert scheme(listed, "language_model.n.weight") == "affine6-g64"


def test_reasons_defaults_and_unmatched() -> None:
    recipe = hf2q.read({**BASE, "per_tensor": {"a": EIGHT, "b.*": EIGHT, "c": {"bits": 4, "group_size": 0}}}, "q.json")
    assert recipe.decide(Subject("a.weight")) == Decision("affine8-g32", "q.json: a = affine8-g32", Origin.RECIPE)
    assert recipe.decide(Subject("x.weight")) == Decision("affine4-g64", "q.json: bits and group_size", Origin.GLOBAL)
    assert recipe.decide(Subject("c.weight")) == Decision("dense", "q.json: c = dense", Origin.RECIPE)
    assert recipe.unmatched([Subject("a.weight"), Subject("x.weight")]) == ["b.*", "c"]


def test_defaults_that_are_left_out_are_those_of_mlx_native() -> None:
    decision = hf2q.read({"per_tensor": {}}, "q.json").default
    assert decision is not None and decision.scheme == "affine4-g64"


def test_entries_beside_the_defaults_and_keys_that_mean_nothing() -> None:
    recipe = hf2q.read({**BASE, "model.a": EIGHT, "version": "1.0"}, "q.json")
    decision = recipe.entry(Subject("model.a.weight"))
    assert decision is not None and decision.scheme == "affine8-g32"
    assert recipe.warnings == ("q.json: 'version' is no key of this file: ignored.",)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({**BASE, "per_tensor": []}, "q.json: per_tensor is []"),
        ({**BASE, "per_tensor": {"a": False}}, "q.json: per_tensor['a'] is False"),
        ({**BASE, "per_tensor": {"a": {"bits": 8}}}, "per_tensor['a'] is {'bits': 8}: its group_size is missing"),
        ({**BASE, "per_tensor": {"a": {**BASE, "bits": "8"}}}, "per_tensor['a']: bits is '8'"),
        ({**BASE, "per_tensor": {"a": {**BASE, "group_size": -1}}}, "per_tensor['a']: group_size is -1"),
        ({**BASE, "per_tensor": {"a": {**BASE, "x": 1}}}, "per_tensor['a'] has 'x': 1"),
        ({"bits": 16, "group_size": 64}, "q.json: bits is 16 and group_size 64"),
        ({"bits": 4, "group_size": None}, "q.json: group_size is None"),
        ({**BASE, "per_tensor": {"a\n": EIGHT}}, "control characters"),
    ],
)
def test_errors_quote_key_and_value(data: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as caught:
        hf2q.read(data, "q.json")
    assert says in str(caught.value)
