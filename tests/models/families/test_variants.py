"""Which kinds of variants a family has, and what case of tests/data/arch shows each: keys of config.json decide."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import NotPossible
from quantcli.models import FAMILIES, Architecture
from tests.arch_models import architecture_of, biased_model, flags_of_biases
from tests.conversions import planned
from tests.convert.test_golden_arch import CASES, reference
from tests.models.families.test_arch_cases import config_of

TIED = "tie_word_embeddings"
#: Families whose cases came from reference data that have variants of their own.
BEFORE = {
    "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "ernie4_5", "exaone4", "falcon", "falcon_mamba", "gemma",
    "gemma2", "gemma3", "glm4", "glm4_moe", "gpt_neox", "gpt_oss", "granite", "llama", "mamba", "mixtral", "nemotron",
    "olmo2", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2",
}  # fmt: skip
#: Keys that say which layers are of which kind, and whether a value makes them differ.
PATTERNS: Mapping[str, Callable[[Any], bool]] = {
    "layer_types": lambda kinds: len({*kinds}) > 1,
    "mlp_layer_types": lambda kinds: len({*kinds}) > 1,
    "first_k_dense_replace": lambda count: count > 0,
    "moe_layer_start_index": lambda first: first > 0,
    "num_dense_layers": lambda count: count > 0,
}
#: Families whose layers are alike though a key could say otherwise: their classes, or llama.cpp, know no other kind.
ALIKE = {"qwen2_vl", "solar_open"}


def cases_of(family: Architecture) -> dict[str, dict[str, Any]]:
    """The cases of a family with the settings of their text models, all of them where transformers 5 says more."""
    found = {}
    for case in CASES:
        if architecture_of(case) is family:
            found[case] = {**config_of(case, "config-v5.json"), **config_of(case)}
    return found


def constant(family: Architecture) -> set[str]:
    """Flags that the table says are false."""
    return {setting.name for setting in family.settings if setting.value is False}


def kinds(family: Architecture) -> dict[str, list[str]]:
    """Kind of variant that a family has -> the cases that show it."""
    cases, found = cases_of(family), {}
    stored = {case: reference(case) for case in cases}
    heads = {case: any(name.endswith("lm_head.weight") for name in one["source"]) for case, one in stored.items()}
    if "gguf" not in family.stores_head:  # of the others llama.cpp's converter writes a file that llama.cpp cannot load
        found["tied"] = [case for case, config in cases.items() if config.get(TIED) and not heads[case]]
    if flags := {*flags_of_biases(next(iter(cases)))} - constant(family):
        found["bias"] = [case for case, config in cases.items() if any(config.get(flag) for flag in flags)]
    if family.name not in ALIKE and any(key in config for config in cases.values() for key in PATTERNS):
        found["pattern"] = [
            case
            for case, config in cases.items()
            if any(key in config and differs(config[key]) for key, differs in PATTERNS.items())
        ]
    found["shards"] = [case for case, one in stored.items() if one.get("files", 1) > 1]
    return found


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.name not in BEFORE], ids=lambda one: one.name)
def test_a_case_shows_each_kind_that_a_family_has(family: Architecture) -> None:
    found = kinds(family)
    assert [kind for kind, cases in found.items() if not cases] == [], json.dumps(found)


def test_the_families_before_are_families() -> None:
    assert {family.name for family in FAMILIES} > BEFORE


CONSTANT = [
    (case, flag)
    for case in {architecture_of(case).name: case for case in reversed(CASES)}.values()
    for flag in flags_of_biases(case)
    if flag in constant(architecture_of(case))
]


@pytest.mark.parametrize(("case", "flag"), CONSTANT)
def test_biases_without_a_case_have_no_place_in_gguf(case: str, flag: str, tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match=f"{flag} True"):
        planned(biased_model(tmp_path, case, flag), tmp_path / "a.gguf", dtype="bf16")
