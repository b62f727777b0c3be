"""JSON objects: what is refused beyond what is no JSON."""

import pytest

from quantcli.containers.json_text import MAX_DEPTH, load_object
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
        (b"[1]", "holds list at its top"),
        (b"null", "holds NoneType at its top"),
        (b'{"a": "\xff"}', "is not UTF-8"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice"),
        (nested(MAX_DEPTH + 1), "nested more than 64 deep"),
        (nested(100_000), "nested too deep"),
        (b'{"a": ' + b"1" * 5000 + b"}", "numbers too long"),
        (rb'{"a": "\ud800"}', "half a surrogate pair"),
        (rb'{"\uDC00": 1}', "half a surrogate pair"),
        (rb'{"a": ["\ude00\ud83d"]}', "half a surrogate pair"),
    ],
)
def test_refused(data: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said) as error:
        load_object(data, "a.json")
    assert str(error.value).startswith("a.json: ")
