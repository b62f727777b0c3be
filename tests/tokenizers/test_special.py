"""Special tokens, and what is added around a text."""

import re
from typing import Any

import pytest

from quantcli.errors import BadInput
from quantcli.tokenizers.special import leading, read
from quantcli.tokenizers.tokenizer_json import AddedToken

ADDED = tuple(AddedToken(number, text, True) for number, text in enumerate(["<s>", "</s>", "<sep>", "<end>", "<pad>"]))


def special(text: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": text, "type_id": 0}}


A, B = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}


def template(single: list[dict[str, Any]], pair: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"type": "TemplateProcessing", "single": single, "pair": pair or [A, B]}


NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
BYTES = {"type": "ByteLevel"}


@pytest.mark.parametrize(
    ("processor", "add"),
    [
        (None, {}),
        (BYTES, {"bos": False, "eos": False}),
        (template([special("<s>"), A]), {"bos": True}),
        (template([A, special("</s>")]), {"eos": True}),
        (template([special("<s>"), A, special("</s>")]), {"bos": True, "eos": True}),
        (template([special("<s>")]), {}),
        ({"type": "Sequence", "processors": [BYTES, template([special("<s>"), A])]}, {"bos": True, "eos": False}),
        (template([special("<s>"), A], [special("<s>"), A, special("<s>"), B]), {"bos": True, "sep": False}),
        (template([special("<s>"), A], [special("<s>"), A, special("</s>"), B]), {"bos": True, "sep": True}),
        (template([A], [A, special("</s>"), special("</s>"), B]), {"sep": True}),
        ({"type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 1]}, {"bos": True, "eos": True, "sep": True}),
    ],
)
def test_what_is_added(processor: dict[str, Any] | None, add: dict[str, bool]) -> None:
    assert read(processor, NAMED, {}, ADDED, 5)[1] == add


def test_the_template_counts_more_than_the_flag() -> None:
    ids, add, warnings = read(template([special("<s>"), A]), NAMED | {"add_bos_token": False}, {}, ADDED, 5)
    assert (ids, add) == ({"bos": 0, "eos": 1}, {"bos": True})
    assert "add_bos_token is false" in warnings[0]
    assert read(None, NAMED | {"add_bos_token": False, "add_eos_token": True}, {}, ADDED, 5)[1] == {
        "bos": False,
        "eos": True,
    }


def test_names_may_be_objects() -> None:
    named = {"bos_token": {"content": "<s>", "lstrip": False}, "pad_token": {"content": 5}, "eos_token": None}
    assert read(template([special("<s>"), A]), named, {}, ADDED, 5)[:2] == ({"bos": 0}, {"bos": True})


def test_ids_of_config_json_fill_what_is_left() -> None:
    config = {"bos_token_id": 3, "eos_token_id": [1, 2], "pad_token_id": 4, "unk_token_id": True}
    assert read(None, {"bos_token": "<s>"}, config, ADDED, 5)[0] == {"bos": 0, "padding": 4}


def test_ids_that_are_none() -> None:
    ids, _, warnings = read(None, {}, {"eos_token_id": 5}, ADDED, 5)
    assert ids == {} and re.search(r"eos_token_id 5\b.*\b5 tokens", warnings[0])
    with pytest.raises(BadInput, match=r"eos_token_id: .* -1\b"):
        read(None, {}, {"eos_token_id": -1}, ADDED, 5)


def test_another_end_makes_the_named_one_the_end_of_turn() -> None:
    ids, add, _ = read(template([A, special("<end>")]), NAMED, {}, ADDED, 5)
    assert (ids, add) == ({"bos": 0, "eos": 3, "eot": 1}, {"eos": True})


def test_another_start_is_not_added() -> None:
    ids, add, warnings = read(template([special("<sep>"), A]), NAMED | {"cls_token": "<pad>"}, {}, ADDED, 5)
    assert add == {"bos": False} and ids["bos"] == 0
    assert "puts '<sep>' first" in warnings[0]
    assert read(template([special("<sep>"), A]), {}, {}, ADDED, 5)[:2] == ({"bos": 2, "cls": 2}, {"bos": True})


def test_the_token_that_a_template_puts_first() -> None:
    assert leading(None) is None
    assert leading(template([A])) is None
    assert leading({"type": "Sequence", "processors": [BYTES, template([special("<s>"), A])]}) == "<s>"
