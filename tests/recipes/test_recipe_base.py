"""Rules, their order, and the order of layers."""

import re

import pytest

from quantcli.errors import WrongUsage
from quantcli.recipes.base import Decision, Origin, Recipe, Rule, Subject, Way, only_global, resolve

DOWN = Subject("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight", "ffn_down", (256, 768))
BIAS = Subject("model.layers.3.self_attn.q_proj.bias", "blk.3.attn_q.bias", "attn_q", (256,))


def test_subject_spellings() -> None:
    assert DOWN.module == "model.layers.3.mlp.down_proj"
    assert DOWN.spellings == (DOWN.name, DOWN.module, DOWN.gguf, "blk.3.ffn_down")
    assert Subject("a.weight").spellings == ("a.weight", "a")
    assert BIAS.module == BIAS.name


@pytest.mark.parametrize(
    ("pattern", "way", "name", "matches"),
    [
        ("*.down_proj", Way.GLOB, DOWN.module, True),
        ("*.down_proj", Way.GLOB, DOWN.name, False),
        ("*down_proj*", Way.GLOB, DOWN.name, True),
        ("model.*.weight", Way.GLOB, DOWN.name, True),
        ("layers.3.*", Way.GLOB, DOWN.name, False),
        ("model.layers.[0-3].*", Way.GLOB, DOWN.name, True),
        ("model.layers.[!3].*", Way.GLOB, DOWN.name, False),
        ("model.layers.?.mlp.*", Way.GLOB, DOWN.name, True),
        ("MODEL.*", Way.GLOB, DOWN.name, False),
        ("model.layers.3.mlp.down_proj", Way.EXACT, DOWN.module, True),
        ("model.layers.3.mlp.*", Way.EXACT, DOWN.module, False),
        (r"layers\.(3|4)\.mlp", Way.REGEX, DOWN.name, True),
        (r"^layers", Way.REGEX, DOWN.name, False),
    ],
)
def test_ways_of_matching(pattern: str, way: Way, name: str, matches: bool) -> None:
    rule = Rule(pattern, "f16", "", way)
    assert rule.matches(name) is matches
    if matches:
        assert rule.needle in name


def test_bad_regex_is_told_at_once() -> None:
    with pytest.raises(re.error):
        Rule("(", "f16", "", Way.REGEX)


@pytest.mark.parametrize(("last_wins", "scheme"), [(False, "q4_0"), (True, "q8_0")])
def test_first_or_last_match_wins(last_wins: bool, scheme: str) -> None:
    rules = (Rule("*", "q4_0", "first"), Rule("*.down_proj", "q8_0", "second"), Rule("nothing", "f16", "third"))
    recipe = Recipe("r", rules, last_wins=last_wins)
    assert recipe.decide(DOWN) == Decision(scheme, "second" if last_wins else "first", Origin.RECIPE)
    assert recipe.unmatched([DOWN, BIAS]) == ["nothing"]


def test_entries_come_before_rules_and_default_last() -> None:
    default = Decision("affine4-g64", "default", Origin.GLOBAL)
    exact = Rule(DOWN.module, "f16", "exact", Way.EXACT)
    recipe = Recipe("r", (Rule("*", "bf16", "glob"),), default, {exact.pattern: exact})
    assert recipe.decide(DOWN) == Decision("f16", "exact", Origin.RECIPE)
    assert recipe.decide(BIAS) == Decision("bf16", "glob", Origin.RECIPE)
    bare = Recipe("r", default=default)
    assert bare.entry(DOWN) is None
    assert bare.decide(DOWN) == default


def test_unmatched_keeps_file_order_and_names_each_once() -> None:
    rules = (Rule("z*", "f16", ""), Rule("a*", "f16", ""), Rule("z*", "bf16", ""), Rule("model.*", "f16", ""))
    entry = Rule("lm_head", "f16", "", Way.EXACT)
    assert Recipe("r", rules, entries={"lm_head": entry}).unmatched([DOWN]) == ["lm_head", "z*", "a*"]


def test_resolve_takes_the_first_layer_with_an_opinion() -> None:
    def preset(subject: Subject) -> Decision | None:
        return Decision("q6_k", "preset", Origin.PRESET) if subject.role == "ffn_down" else None

    layers = [Recipe("none").entry, preset, lambda subject: Decision("q4_0", "global", Origin.GLOBAL)]
    assert resolve(DOWN, layers) == Decision("q6_k", "preset", Origin.PRESET)
    assert resolve(BIAS, layers) == Decision("q4_0", "global", Origin.GLOBAL)
    assert resolve(BIAS, layers[:2]) is None


def test_origins_rank_as_the_layers_do() -> None:
    order = "OVERRIDE OPTION RECIPE SOURCE PRESET GLOBAL DEFAULT"
    assert " ".join(origin.name for origin in sorted(Origin)) == order


def test_two_global_schemes_are_wrong_usage_unless_equal() -> None:
    one, same = (Decision("affine4-g64", reason, Origin.GLOBAL) for reason in ("--scheme", "--bits 4"))
    other = Decision("affine8-g64", "r.toml: scheme = affine8-g64", Origin.GLOBAL)
    assert only_global([None, one, same]) == one
    assert only_global([None]) is None
    with pytest.raises(WrongUsage, match=r"affine4-g64 \(--scheme\) and affine8-g64 \(r.toml: scheme = affine8-g64\)"):
        only_global([one, None, other])


def test_many_subjects_and_rules() -> None:
    subjects = [Subject(f"model.layers.{i % 60}.mlp.experts.{i}.down_proj.weight") for i in range(20_000)]
    rules = tuple(Rule(f"*.experts.{n}.*_proj", "f16", str(n)) for n in range(0, 40_000, 1000))
    recipe = Recipe("r", rules, last_wins=True)
    decided = [subject for subject in subjects if recipe.entry(subject)]
    assert len(decided) == 20
    assert len(recipe.unmatched(subjects)) == 20
