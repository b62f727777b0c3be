"""Regular expressions of `--tensor-type`; each outcome was recorded of std::regex (libstdc++ 12)."""

import doctest
import re
import warnings

import pytest

from quantcli.recipes import ecmascript
from quantcli.recipes.base import Rule, Way
from quantcli.recipes.ecmascript import POSIX, compiled
from quantcli.sources.modules import pattern

NAME = "blk.0.attn_q.weight"


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        (r"blk\.[[:digit:]]\.attn_q", NAME, True),
        (r"blk\.[[:digit:]]\.attn_q", "blk.10.attn_q.weight", False),
        (r"blk\.[^[:digit:][:upper:]]", NAME, False),
        (r"[[:d:]][[:punct:]][[:lower:]]", NAME, True),
        ("[[:DIGIT:]]_Q", "attn0_q", True),
        ("[]", NAME, False),
        ("[^]", "\n", True),
        ("[]a]", "a]", False),
        ("[[a]", "[", True),
        ("[a-c-e]", "-", True),
        ("[a-c-e]", "d", False),
        ("[--a]", "_", True),
        ("[a--]", "-", None),
        (r"[\d\-x]", "-", True),
        (r"[\d-x]", "-", None),
        (r"[.-]", NAME, True),
        (r"[&&~~||]", "&", True),
        ("weight$", NAME, True),
        ("weight$", NAME + "\n", False),
        ("a.b", "a\rb", False),
        ("^$", "", True),
        ("a++b", "aab", True),
        ("a++a", "aa", True),
        ("(a*)*b", "b", True),
        ("a{2}?{2}", "aaaa", True),
        ("a{2}?{2}", "aaa", False),
        ("a{2,1}", "aa", None),
        ("a{", "a{", None),
        ("a{,2}", "a", None),
        ("a}]", "a}]", True),
        ("^*", "a", None),
        ("(?=a)*", "a", None),
        ("*", "*", None),
        (r"\b_|\bq", NAME, False),
        (r"(.)\1", "attn", True),
        (r"(.)\2", "attn", None),
        (r"\x62lk\.\0", "blk.\0", True),
        (r"blk\/|\-", "a-b", True),
        ("(?:attn|ffn)_q(?!x)", NAME, True),
        ("(?<=n)_q", NAME, None),
        ("(?P<x>n)", NAME, None),
        ("(?i)ATTN", NAME, None),
        ("(?>a)", NAME, None),
        ("[[:foo:]]", NAME, None),
        ("[[:digit:]", NAME, None),
        ("(a", NAME, None),
        ("a)", NAME, None),
        ("a\\", NAME, None),
        ("\u00c9", "\u00c9", True),
        ("\u00c9", "\u00e9", False),
        ("^..$", "\u00e9", True),
    ],
)
def test_patterns_mean_what_they_mean_in_cpp(pattern: str, name: str, found: bool | None) -> None:
    """None: refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if found is None:
            with pytest.raises(re.error):
                compiled(pattern)
        else:
            assert (compiled(pattern).search(name.encode()) is not None) is found


@pytest.mark.parametrize("pattern", [r"attn\z", r"\Ablk", r"\cj", r"\u0061", r"[\z]", "[[.a.]]", "[[=a=]]"])
def test_what_cpp_libraries_do_not_agree_on_is_refused(pattern: str) -> None:
    with pytest.raises(re.error):
        compiled(pattern)


def test_posix_classes_are_those_of_ascii() -> None:
    sizes = {name: sum(bool(compiled(f"[[:{name}:]]").fullmatch(bytes([i]))) for i in range(256)) for name in POSIX}
    assert sizes == {
        "alnum": 62, "alpha": 52, "blank": 2, "cntrl": 33, "d": 10, "digit": 10, "graph": 94, "lower": 26, "print": 95,
        "punct": 32, "s": 6, "space": 6, "upper": 26, "w": 63, "xdigit": 22,
    }  # fmt: skip


def test_other_regular_expressions_never_warn() -> None:
    """One of our rules, which are Python's, is refused; one of another tool's file means what it means there."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(re.error, match=r"Possible nested set .* use \\\["):
            Rule("[[:digit:]]", "q8_0", "", Way.REGEX)
        assert pattern("[[:digit:]]", "config.json").search("d]")


def test_doctests() -> None:
    assert doctest.testmod(ecmascript).failed == 0
