"""Pre-tokenizer rules are recognised by what they split by."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantcli.tokenizers.pre_tokenizers import RULES, normalised, recognise, steps
from quantcli.tokenizers.splittings import GPT2, LLAMA3, QWEN2

BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
GPT2_BYTES = BYTES | {"use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(*members: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(members)}


@pytest.mark.parametrize(
    ("rule", "conditions", "name"),
    [
        (sequence(split(LLAMA3), BYTES), {"ignore_merges": True}, "llama-bpe"),
        (sequence(split(LLAMA3), BYTES), {"ignore_merges": False}, "dbrx"),
        (sequence(split(LLAMA3), BYTES), {"ignore_merges": True, "first": "[gMASK]"}, "glm4"),
        (sequence(split(LLAMA3, "Removed", True), BYTES), {"ignore_merges": True}, "llama-bpe"),
        (sequence(split(LLAMA3, "MergedWithNext"), BYTES), {}, None),
        (sequence(split(LLAMA3, "Isolated", True), BYTES), {}, None),
        (sequence(sequence(split(QWEN2)), BYTES), {"nfc": True}, "qwen2"),
        (sequence(split(QWEN2), split(QWEN2), BYTES), {}, None),
        (GPT2_BYTES, {}, "gpt-2"),
        (sequence(split(GPT2), BYTES), {}, "gpt-2"),
        (GPT2_BYTES, {"nfc": True}, "mpt"),
        ({"type": "ByteLevel"}, {}, "gpt-2"),
        (sequence(DIGITS, GPT2_BYTES), {"nfc": True}, "command-r"),
        (sequence(DIGITS, GPT2_BYTES), {"fills": False}, "smollm"),
        (sequence(DIGITS, GPT2_BYTES), {"fills": True}, "starcoder"),
        (
            sequence({"type": "Punctuation", "behavior": "Contiguous"}, GPT2_BYTES, split("[0-9][0-9][0-9]")),
            {},
            "falcon",
        ),
        (sequence({"type": "Metaspace"}, BYTES), {}, None),
        (sequence({"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated"}, BYTES), {}, None),
        ({"type": "Sequence", "pretokenizers": [7]}, {}, None),
        ({"type": "Sequence", "pretokenizers": 7}, {}, None),
        (BYTES, {}, None),
        (None, {}, None),
    ],
)
def test_rules(rule: dict[str, Any] | None, conditions: dict[str, Any], name: str | None) -> None:
    assert recognise(rule, **conditions) == name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_row_is_reached(rule: Any) -> None:
    given = {key: getattr(rule, key) for key in ("fills", "first")}
    given |= {key: bool(getattr(rule, key)) for key in ("nfc",)}
    given["ignore_merges"] = rule.ignore_merges is not False
    punctuation = {"type": "Punctuation"}
    for spelling in rule.spellings:
        members = [punctuation if step == "Punctuation" else split(step) for step in spelling]
        assert recognise(sequence(*members, BYTES), **given) == rule.name


def test_spellings_of_one_expression() -> None:
    spelled = LLAMA3.replace(r"\r", "\r").replace(r"\n", "\n")
    assert spelled != LLAMA3 and normalised(spelled) == LLAMA3
    contractions = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    assert normalised(LLAMA3.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", contractions)) == LLAMA3
    assert steps(sequence(split(spelled), BYTES)) == (LLAMA3,)


def test_every_kind_of_the_reference_data(shared: Path) -> None:
    for probes in sorted((shared / "fixtures/tokenizers").glob("bpe-*")):
        data = json.loads((shared / "fixtures/arch/_tokenizers" / probes.name / "tokenizer.json").read_text())
        assert steps(data["pre_tokenizer"]) in [tuple(map(normalised, s)) for rule in RULES for s in rule.spellings], (
            probes.name
        )
