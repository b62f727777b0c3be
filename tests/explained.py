"""Whether what a command prints is made of the texts that tools/messages.py finds: its list misses none of them.

A line is explained where it is one of the texts, its fields explained in turn; where it is several of them with
punctuation or blanks between; or where it is a value: names, numbers, quoted words, and single words that the package
has as constants (schemes, dtypes, kinds) or that the command was given.
"""

from __future__ import annotations

import ast
import errno
import os
import re
from collections.abc import Sequence
from functools import cache

from tools.messages import WORD, Field, files, texts, tree_of

Template = tuple[str | None, ...]

#: What a line is cut at, where no text is all of it. Tables have blanks between their columns.
CUT = re.compile(r"\s{2,}|(?<=[,;:.]) |(?= \()|(?= and )|(?<= and )|(?=[,;.] )|(?<=\()|(?=\))")
#: Texts of Python that messages quote: its JSON reader's, and names of types.
PYTHON = (
    "expecting value", "expecting property name enclosed in double quotes", "expecting ',' delimiter",
    "bool", "dict", "float", "int", "list", "nonetype", "str",
)  # fmt: skip
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")


@cache
def known() -> tuple[tuple[Template, ...], frozenset[str]]:
    """Every text, and every text within a field, the longest first; and the words that values are made of.

    Those are the package's constants that are one word, and the names of constants, which enumerations print.
    """
    templates: set[Template] = {(text,) for text in (*PYTHON, *(os.strerror(code).lower() for code in errno.errorcode))}
    words: set[str] = set()
    for name in files():
        templates |= {_template(part.parts) for text in texts(name) for part in text.within()}
        for node in ast.walk(tree_of(name)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
                words |= {*WORD.findall(node.value.lower())}
            elif isinstance(node, ast.Name) and node.id.isupper():
                words.add(node.id.lower())
    found = sorted(filter(any, templates), key=lambda template: -sum(len(part or "") for part in template))
    return tuple(found), frozenset(words)


def _template(parts: Sequence[str | Field]) -> Template:
    """The parts, None for fields, in lower case. Numbers, which tests change in constants, count as fields."""
    marked = "".join("\0" if isinstance(part, Field) else re.sub(r"\d+|%s", "\0", part) for part in parts)
    pieces = re.split("(\0)+", re.sub(r"\s+", " ", marked.lower()))
    return tuple(None if piece == "\0" else piece for piece in pieces if piece)


def unexplained(output: str, command: str = "") -> list[str]:
    """The lines of an output that no text explains."""
    given = frozenset(re.findall(r"[\w']+", command.lower()))
    return [line for line in output.splitlines() if not Line(line.lower().strip(), given).is_explained]


class Line:
    """A line, and what is known of its parts."""

    def __init__(self, line: str, given: frozenset[str]) -> None:
        templates, words = known()
        self.words = given | words
        self.near = [template for template in templates if all(part.strip() in line for part in template if part)]
        self.known: dict[str, bool] = {}
        self.is_explained = self._explains(line)

    def _explains(self, text: str) -> bool:
        text = text.strip()
        if text not in self.known:
            self.known[text] = False
            whole = text.rstrip(".,;:")
            self.known[text] = (
                self._is_value(text)
                or any(self._fits(template, text) for template in self.near)
                or self._is_several(text)
                or (whole != text and self._explains(whole))
            )
        return self.known[text]

    def _is_value(self, text: str) -> bool:
        return all(word in self.words for word in WORD.findall(QUOTED.sub("''", text)))

    def _is_several(self, text: str) -> bool:
        cuts = {place for match in CUT.finditer(text) for place in match.span()}
        return any(self._explains(text[:cut]) and self._explains(text[cut:]) for cut in cuts if 0 < cut < len(text))

    def _fits(self, template: Template, text: str) -> bool:
        """Whether a text is a template's, blanks at its ends aside, with fields that are explained."""
        first, last = template[0], template[-1]
        start = (first.lstrip(),) if first is not None else ()
        template = (*start, *template[len(start) :])
        if last is not None:
            template = (*template[:-1], (template[-1] or "").rstrip())
        return self._fills(template, text)

    def _fills(self, template: Template, text: str) -> bool:
        if not template:
            return not text
        first, *rest = template
        if first is not None:
            return text.startswith(first) and self._fills(tuple(rest), text[len(first) :])
        if not rest:
            return self._explains(text)
        places = [match.start() for match in re.finditer(re.escape(rest[0] or ""), text)]
        return any(self._fills(tuple(rest), text[place:]) and self._explains(text[:place]) for place in places)
