"""JSON objects: what is refused beyond what is no JSON, and typed reads of their settings."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from quantcli.containers.json_text import LONGEST, MAX_DEPTH, Reader, load_object
from quantcli.errors import BadInput


def nested(depth: int) -> bytes:
    """An object with lists in it, `depth` levels in all."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_an_object() -> None:
    assert load_object('\ufeff{"a": [1, 2.5, null, "ö\\u00f6"]}'.encode(), "a.json") == {"a": [1, 2.5, None, "öö"]}
    assert load_object(rb'{"a": "\ud83d\ude00"}', "a.json") == {"a": "\U0001f600"}
    assert load_object(nested(MAX_DEPTH), "a.json")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not JSON"),
        (b"{'a': 1}", "is not JSON"),
        (b"[1]", "object, found an array"),
        (b"null", "object, found null"),
        (b'{"a": "\xff"}', "is not UTF-8"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' appears twice"),
        (nested(MAX_DEPTH + 1), "64 levels"),
        (nested(100_000), "nested too deep"),
        (b'{"a": ' + b"1" * 5000 + b"}", "number .*digits"),
        (rb'{"a": "\ud800"}', "surrogate"),
        (rb'{"\uDC00": 1}', "surrogate"),
        (rb'{"a": ["\ude00\ud83d"]}', "surrogate"),
    ],
)
def test_refused(data: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said) as error:
        load_object(data, "a.json")
    assert str(error.value).startswith("a.json: ")


#: A method of `Reader` -> the values of key `a` that it takes, as it gives them back, and those that it refuses.
READS: dict[str, tuple[Callable[[Reader], Any], list[tuple[Any, Any]], list[Any]]] = {
    "integer": (lambda r: r.integer("a", least=0, most=9), [(0, 0), (9.0, 9)], [-1, 10, 1.5, True, "4", [4], None]),
    "whole": (lambda r: r.whole("a"), [(-1, -1), (2**40, 2**40)], [4.0, False, "4", None]),
    "sizes": (lambda r: r.sizes("a", 2), [([1, 128], (1, 128))], [[1], [1, 0], [1, True], [1, 2.0], 3, None]),
    "number": (lambda r: r.number("a"), [(1, 1.0), (-0.5, -0.5)], [float("nan"), 1e39, True, "1", None]),
    "numbers": (lambda r: r.numbers("a"), [([1, 2.5], (1.0, 2.5)), (None, ())], [[True], 1, [0] * (LONGEST + 1)]),
    "integers": (lambda r: r.integers("a"), [([0, 2.0], (0, 2)), (None, ())], [[-1], [0.5], ["1"]]),
    "flag": (lambda r: r.flag("a"), [(True, True), (False, False)], [0, 1, "true", None]),
    "flags": (lambda r: r.flags("a"), [([True, False], (True, False)), (None, ())], [[1], True]),
    "text": (lambda r: r.text("a"), [("x", "x"), ("", "")], [1, ["x"], None]),
    "texts": (lambda r: r.texts("a"), [(["x"] * (LONGEST + 1), ("x",) * (LONGEST + 1)), (None, ())], ["x", [1]]),
    "elements": (lambda r: r.elements("a"), [([1, "x"], [1, "x"]), (None, ())], [{}, "x"]),
    "mapping": (lambda r: r.mapping("a"), [({"b": 1}, {"b": 1}), (None, None)], [[], 1]),
    "part": (lambda r: r.part("a").values, [({"b": 1}, {"b": 1}), (None, {})], [[], 1, "x"]),
    "needed part": (lambda r: r.part("a", needed=True).values, [({}, {})], [[], None]),
}


@pytest.mark.parametrize("kind", READS)
def test_typed_reads(kind: str) -> None:
    read, taken, refused = READS[kind]
    for value, found in taken:
        assert read(Reader({"a": value}, "c.json")) == found
    for value in refused:
        with pytest.raises(BadInput) as error:
            read(Reader({"a": value}, "c.json"))
        assert re.match("c.json: key a(:| is missing;) expected ", str(error.value)) and len(str(error.value)) < 300


def test_null_is_as_good_as_absent() -> None:
    for values in ({}, {"a": None}):
        read = Reader(values)
        assert (read.integer("a", 4), read.whole("a", -1), read.text("a", ""), read.flag("a", True)) == (
            4,
            -1,
            "",
            True,
        )
        assert (read.number("a", 0.5), read.optional_number("a"), read.optional_integer("a")) == (0.5, None, None)
        assert not read.has("a") and read.first("a", "b") == "a"
    assert Reader({"b": 0}).first("a", "b") == "b"


def test_errors_say_where_an_object_stands() -> None:
    inner = Reader({"a": {"b": {"c": "x"}}}, "m/config.json", "text_config").part("a").part("b")
    assert inner.label == "m/config.json: text_config.a.b"
    assert str(inner.refuse("c", "expected y")) == "m/config.json: text_config.a.b: key c: expected y, found 'x'."
    assert str(inner.refuse("d", "expected y")).endswith("key d is missing; expected y.")


def test_a_reader_knows_what_was_read() -> None:
    read = Reader({"a": 1, "b": "x", "c": 2})
    assert read.has("b") and read.whole("a") == 1 and read.text("d", "") == ""
    assert read.read == {"a", "d"}
    read.settled()
    assert read.read == {"a", "b", "c", "d"}
