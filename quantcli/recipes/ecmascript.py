r"""Regular expressions of `--tensor-type`, translated from C++'s ECMAScript syntax (llama-quantize's) to Python's.

    pattern             meaning in C++                 translation
    [[:digit:]]         a POSIX class                  its ASCII characters
    []  [^]             nothing, anything              (?!) and [\s\S]: in Python the set would not end here
    .   $               no line break; the end         [^\n\r] and \Z
    a++  a*+            a repetition that is repeated  (?:a+)+: in Python it would be possessive
    a{  a{,3}  (?<=a)   errors                         refused; likewise [.a.] and [=a=] in a set
    \z  \a  \ca  \u0061 differs among C++ libraries    refused

C++ matches bytes, so one character here is one byte. Source: the C++ standard, [re.grammar]; ECMA-262, 15.10; where
they are ambiguous, libstdc++ 12 (bits/regex_scanner.tcc, bits/regex_compiler.tcc).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKENS = re.compile(
    r"""(?P<quantifier>(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??)
    |(?P<open>\((?!\?)|\(\?[:=!])
    |(?P<close>\))
    |(?P<set>\[\^?(?:\[:.*?:\]|\[\..*?\.\]|\[=.*?=\]|\[(?![:.=])|\\.|[^\]\\\[])*+\])
    |(?P<edge>[\^$]|\\b)
    |(?P<escape>\\(?:x[0-9A-Fa-f]{2}|[1-9][0-9]?(?![0-9])|[^1-9]))
    |(?P<alternative>\|)
    |(?P<plain>[^*+?{()\[\\])""",
    re.VERBOSE | re.DOTALL,
)
_MEMBERS = re.compile(
    r"""\[:(?P<posix>.*?):\]|(?P<collating>\[[.=])|\\(?P<escape>x[0-9A-Fa-f]{2}|.)|(?P<dash>-)|(?P<plain>.)""",
    re.VERBOSE | re.DOTALL,
)
_SPACE = r"\t-\r "

#: POSIX class -> its members in the C locale, as written in a set.
POSIX = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": r"\t ", "cntrl": r"\x00-\x1f\x7f", "d": "0-9", "digit": "0-9",
    "graph": r"\x21-\x7e", "lower": "a-z", "print": r"\x20-\x7e", "punct": r"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    "s": _SPACE, "space": _SPACE, "upper": "A-Z", "w": "0-9A-Z_a-z", "xdigit": "0-9A-Fa-f",
}  # fmt: skip
_CONTROL = {"0": "\0", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_EDGES = {"^": r"\A", "$": r"\Z"}


def compiled(pattern: str) -> re.Pattern[bytes]:
    """Compile a pattern to search for in a name's bytes, with ASCII letters in lower case, as in llama-quantize.

    Raises `re.error` for patterns that C++ refuses, or that its libraries interpret differently.
    """
    text = pattern.encode(errors="surrogateescape").lower().decode("latin-1")
    return re.compile(translated(text).encode("latin-1"))


@dataclass
class _Pieces:
    """The translation so far. atom: the index in `out` of what a quantifier would repeat. groups: (index, is atom)."""

    out: list[str] = field(default_factory=list)
    atom: int | None = None
    groups: list[tuple[int, bool]] = field(default_factory=list)

    def add(self, piece: str, *, is_atom: bool) -> None:
        self.atom = len(self.out) if is_atom else None
        self.out.append(piece)

    def repeat(self, quantifier: str) -> None:
        if self.atom is None:
            raise re.error(f"nothing precedes the quantifier {quantifier}")
        self.out[self.atom :] = ["(?:", *self.out[self.atom :], ")", quantifier]

    def open(self, group: str) -> None:
        self.groups.append((len(self.out), group in ("(", "(?:")))
        self.add(group, is_atom=False)

    def close(self) -> None:
        if not self.groups:
            raise re.error("a ) has no matching (")
        place, is_atom = self.groups.pop()
        self.add(")", is_atom=False)
        self.atom = place if is_atom else None


def translated(pattern: str) -> str:
    r"""Translate a pattern in lower case into Python's syntax. Raises `re.error`.

    >>> translated("blk.[[:digit:]]+$")
    'blk[^\\n\\r](?:[0-9])+\\Z'
    """
    pieces = _Pieces()
    for token in _tokens(pattern):
        text = token[0]
        match token.lastgroup:
            case "quantifier":
                pieces.repeat(text)
            case "open":
                pieces.open(text)
            case "close":
                pieces.close()
            case "set":
                pieces.add(_set(text), is_atom=True)
            case "escape":
                pieces.add(text if text[1] in "123456789" else _escaped(text[1:]), is_atom=True)
            case "plain":
                pieces.add(r"[^\n\r]" if text == "." else re.escape(text), is_atom=True)
            case _:
                pieces.add(_EDGES.get(text, text), is_atom=False)
    if pieces.groups:
        raise re.error("a ( has no matching )")
    return "".join(pieces.out)


def _tokens(pattern: str) -> Iterator[re.Match[str]]:
    at = 0
    while at < len(pattern):
        token = _TOKENS.match(pattern, at)
        if token is None:
            raise re.error(f"{pattern[at : at + 20]!r} is not valid in ECMAScript syntax, which llama-quantize uses")
        yield token
        at = token.end()


def _escaped(text: str) -> str:
    r"""Translate the text after a backslash: a class, a control character, `xHH`, or a literal character."""
    if text in ("d", "s", "w"):
        return f"\\{text}"
    if text.startswith("x") and len(text) == 3:
        return re.escape(chr(int(text[1:], 16)))
    if text.isascii() and text.isalnum() and text not in _CONTROL:
        raise re.error(f"\\{text} is not valid in ECMAScript syntax, which llama-quantize uses")
    return re.escape(_CONTROL.get(text, text))


def _set(text: str) -> str:
    """Translate a set in brackets. A dash after a range is literal, after a class it is an error."""
    negated = text.startswith("[^")
    members = list(_MEMBERS.finditer(text[1 + negated : -1]))
    out: list[str] = []
    last, at = "range", 0
    while at < len(members):
        kind, member = _member(members[at])
        ahead = _member(members[at + 1]) if at + 1 < len(members) else None
        at += 1
        if kind != "dash" or at == 1 or ahead is None or last == "range":
            out.append(member)
            last = "class" if kind == "class" else "character"
            continue
        if last == "class" or ahead[0] == "class":
            raise re.error(f"in {text}, a class cannot be the end of a range")
        out.append(f"-{ahead[1]}")
        last, at = "range", at + 1
    if not out:
        return r"[\s\S]" if negated else r"(?!)"
    return f"[{'^' if negated else ''}{''.join(out)}]"


def _member(member: re.Match[str]) -> tuple[str, str]:
    """Return the kind of a set's member (`class`, `dash`, `character`) and its translation in a set."""
    text = member[member.lastgroup or 0]
    match member.lastgroup:
        case "posix" if text in POSIX:
            return "class", POSIX[text]
        case "posix" | "collating":
            raise re.error(f"{member[0]} is not a class of characters ({' '.join(POSIX)})")
        case "escape" if text == "b":
            return "character", r"\x08"
        case "escape":
            return "class" if text in "dsw" else "character", _escaped(text)
        case kind:
            return kind or "", re.escape(text) if kind == "plain" else r"\-"
