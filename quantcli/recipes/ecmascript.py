r"""Regular expressions of `--tensor-type`: llama-quantize's are ECMAScript's as C++ has them, ours run as Python's.

    [[:digit:]]         a POSIX class                  its characters, those of ASCII
    []  [^]             nothing, anything              in Python the set would go on
    .   $               no end of a line; the very end [^\n\r] and \Z
    a++  a*+            a repetition that is repeated  (?:a+)+, in Python possessive
    a{  a{,3}  (?<=a)   errors                         refused, and so is a set's [.a.] or [=a=]
    \z  \a  \ca  \u0061 C++'s libraries differ         refused

Texts are bytes there: one character here is one byte. Source: the C++ standard, [re.grammar]; ECMA-262, 15.10; what
these leave open is as in libstdc++ 12 (bits/regex_scanner.tcc, bits/regex_compiler.tcc).
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

#: POSIX class -> its members in C's locale, as within a set.
POSIX = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": r"\t ", "cntrl": r"\x00-\x1f\x7f", "d": "0-9", "digit": "0-9",
    "graph": r"\x21-\x7e", "lower": "a-z", "print": r"\x20-\x7e", "punct": r"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    "s": _SPACE, "space": _SPACE, "upper": "A-Z", "w": "0-9A-Z_a-z", "xdigit": "0-9A-Fa-f",
}  # fmt: skip
_CONTROL = {"0": "\0", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_EDGES = {"^": r"\A", "$": r"\Z"}


def compiled(pattern: str) -> re.Pattern[bytes]:
    """A pattern, its ASCII letters made small as llama-quantize does it, to search in a name's bytes.

    Raises `re.error` for what C++ refuses, and for what its libraries do not agree on.
    """
    text = pattern.encode(errors="surrogateescape").lower().decode("latin-1")
    return re.compile(translated(text).encode("latin-1"))


@dataclass
class _Pieces:
    """The translation so far. atom: where in `out` begins what a quantifier would repeat. groups: (place, is atom)."""

    out: list[str] = field(default_factory=list)
    atom: int | None = None
    groups: list[tuple[int, bool]] = field(default_factory=list)

    def add(self, piece: str, *, is_atom: bool) -> None:
        self.atom = len(self.out) if is_atom else None
        self.out.append(piece)

    def repeat(self, quantifier: str) -> None:
        if self.atom is None:
            raise re.error(f"there is nothing that {quantifier} could repeat")
        self.out[self.atom :] = ["(?:", *self.out[self.atom :], ")", quantifier]

    def open(self, group: str) -> None:
        self.groups.append((len(self.out), group in ("(", "(?:")))
        self.add(group, is_atom=False)

    def close(self) -> None:
        if not self.groups:
            raise re.error("a ) closes nothing")
        place, is_atom = self.groups.pop()
        self.add(")", is_atom=False)
        self.atom = place if is_atom else None


def translated(pattern: str) -> str:
    r"""A pattern in small letters, in Python's spelling. Raises `re.error`.

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
        raise re.error("a ( is not closed")
    return "".join(pieces.out)


def _tokens(pattern: str) -> Iterator[re.Match[str]]:
    at = 0
    while at < len(pattern):
        token = _TOKENS.match(pattern, at)
        if token is None:
            raise re.error(f"{pattern[at : at + 20]!r} has no meaning in ECMAScript's, which llama-quantize takes")
        yield token
        at = token.end()


def _escaped(text: str) -> str:
    r"""What stands after a backslash: a class, a control character, `xHH`, or a sign that stands for itself."""
    if text in ("d", "s", "w"):
        return f"\\{text}"
    if text.startswith("x") and len(text) == 3:
        return re.escape(chr(int(text[1:], 16)))
    if text.isascii() and text.isalnum() and text not in _CONTROL:
        raise re.error(f"\\{text} has no meaning in ECMAScript's, which llama-quantize takes")
    return re.escape(_CONTROL.get(text, text))


def _set(text: str) -> str:
    """A set in brackets; a dash after a range stands for itself, after a class it is an error."""
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
            raise re.error(f"a class is no end of a range, in {text}")
        out.append(f"-{ahead[1]}")
        last, at = "range", at + 1
    if not out:
        return r"[\s\S]" if negated else r"(?!)"
    return f"[{'^' if negated else ''}{''.join(out)}]"


def _member(member: re.Match[str]) -> tuple[str, str]:
    """(`class`, `dash` or `character`, how Python spells it in a set) of a set's member."""
    text = member[member.lastgroup or 0]
    match member.lastgroup:
        case "posix" if text in POSIX:
            return "class", POSIX[text]
        case "posix" | "collating":
            raise re.error(f"{member[0]} is no class of characters ({' '.join(POSIX)})")
        case "escape" if text == "b":
            return "character", r"\x08"
        case "escape":
            return "class" if text in "dsw" else "character", _escaped(text)
        case kind:
            return kind or "", re.escape(text) if kind == "plain" else r"\-"
