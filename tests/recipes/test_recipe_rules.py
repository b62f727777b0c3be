"""Our own rules."""

from typing import Any

import pytest

from quantcli.errors import BadInput
from quantcli.recipes import rules
from quantcli.recipes.base import Decision, Origin, Subject

DOWN = Subject("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight")


def rule(match: Any, scheme: Any = "q8_0", **more: Any) -> dict[str, Any]:
    return {"match": match, "scheme": scheme, **more}


def test_default_and_last_match() -> None:
    recipe = rules.read(
        {
            "scheme": "affine4-g64",
            "rule": [rule("*.down_proj", "affine8-g64"), rule("*.3.*", "keep"), rule("lm_head", "BF16")],
        },
        "r.toml",
    )
    assert recipe.decide(DOWN) == Decision("keep", "r.toml: rule 2: *.3.* = keep", Origin.RECIPE)
    assert recipe.decide(Subject("lm_head.weight")) == Decision("bf16", "r.toml: rule 3: lm_head = bf16", Origin.RECIPE)
    assert recipe.decide(Subject("x")) == Decision("affine4-g64", "r.toml: scheme = affine4-g64", Origin.GLOBAL)
    assert recipe.unmatched([DOWN]) == ["lm_head"]


def test_without_a_default_there_is_no_opinion() -> None:
    assert rules.read({"rule": []}, "r").decide(DOWN) is None


@pytest.mark.parametrize("match", ["*.down_proj", "*.weight", "blk.3.*", r"re:layers\.[0-3]\.", "re:^blk", "re:proj$"])
def test_matches(match: str) -> None:
    assert rules.read({"rule": [rule(match)]}, "r").entry(DOWN) is not None


@pytest.mark.parametrize("match", ["down_proj", "*.Down_proj", "re:^layers", "re:up_proj"])
def test_does_not_match(match: str) -> None:
    assert rules.read({"rule": [rule(match)]}, "r").entry(DOWN) is None


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"scheme": "affine7-g64"}, "r.toml: key scheme: 'affine7-g64' is not a scheme"),
        ({"scheme": 4}, "r.toml: key scheme: expected a string, found 4"),
        ({"scheme": "q4_0", "default": 1}, "r.toml: key 'default' is not supported. Supported: rule, scheme."),
        ({"rule": {}}, "r.toml: key rule: expected an array of tables, [[rule]], found {}"),
        ({"rule": ["x"]}, "r.toml: rule 1: expected a table with match and scheme, found 'x'"),
        ({"rule": [rule("a"), {"match": "b"}]}, "r.toml: rule 2: key scheme is missing"),
        ({"rule": [{"scheme": "q8_0"}]}, "r.toml: rule 1: key match is missing"),
        ({"rule": [rule("a", bits=4)]}, "r.toml: rule 1: key 'bits' is not supported. Supported: match, scheme."),
        ({"rule": [rule("a", "int9-g64")]}, "r.toml: rule 1: key scheme: 'int9-g64' is not a scheme"),
        ({"rule": [rule("a", None)]}, "r.toml: rule 1: key scheme: expected a string, found null"),
        ({"rule": [rule("")]}, "r.toml: rule 1: key match: expected a string of 1 to 1000 characters, found ''"),
        ({"rule": [rule("re:")]}, "r.toml: rule 1: key match: expected a string of 1 to 1000 characters, found 're:'"),
        ({"rule": [rule(3)]}, "r.toml: rule 1: key match: expected a string, found 3"),
        ({"rule": [rule("re:(a")]}, "r.toml: rule 1: key match: expected a valid regular expression"),
        ({"rule": [rule("re:a{99999999999}")]}, "a valid regular expression"),
        ({"rule": [rule("re:" + "(" * 490 + ")" * 490)]}, "a valid regular expression"),
        ({"rule": [rule("x" * 2000)]}, "1 to 1000 characters"),
        ({"rule": [rule("a\tb")]}, "control characters"),
    ],
)
def test_errors_quote_key_and_value(data: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as caught:
        rules.read(data, "r.toml")
    assert says in str(caught.value)
