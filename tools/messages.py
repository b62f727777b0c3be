"""Every text of the package that a person may read: errors, warnings, notes, reasons, tables and help.

`make messages` writes them to tests/data/messages.txt, file by file in the order of the source, each text once.

The texts are found in the syntax trees. All that reads like English counts, wherever it stands, since a message is
often put together far from where it is raised; so do single words where only messages and help stand. What does not
count: docstrings (but those of commands), arguments of `re`, lists that are split, data and assertions.

A value is shown as a field in braces that has a readable name of its expression. Where an expression chooses among
texts, they stand in the field with bars between: `{is|are}`. Constants of a module are replaced by their values.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "quantcli"
LIST = ROOT / "tests" / "data" / "messages.txt"

HEAD = """\
Every error, warning, note, reason, table text and help text of quantcli, each once; values are {fields}.
Written by `make messages`.
"""

#: Calls that print what they are given, or make help of it.
PRINTERS = {"text", "note", "warn", "Column", "Typer"}
#: Arguments of typer's functions that are read; the others are flags and names of values.
HELP = {"help", "epilog", "rich_help_panel", "short_help"}
#: Calls that a field is not named after, but after their argument.
PLAIN = {"str", "repr", "sorted", "list", "set", "tuple", "dict", "int", "float", "shown", "next", "iter", "reversed"}
#: Methods that a field is not named after, but after their object.
KEPT = {
    "decode", "format", "items", "keys", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace",
    "rpartition", "rstrip", "split", "strip", "title", "tolist", "upper", "values",
}  # fmt: skip
LONGEST_FIELD = 40
#: What has longer ones is data.
LONGEST_WORD = 100
#: Nodes that no text is in.
LEAVES = (ast.expr_context, ast.operator, ast.cmpop, ast.boolop, ast.unaryop, ast.Name, ast.alias)
#: A word as prose has it: no part of a path, a name with dots or underscores, an option or a number.
WORD = re.compile(r"(?<![\w.\-/`])(?:a|[A-Za-z]{2,})(?:'[a-z]+)?(?=[,:;.!?)]*(?:\s|$|[\"'`]))")


class Field(NamedTuple):
    """What takes the place of a value: its name, and the texts that it may be where the expression says so."""

    name: str
    texts: tuple[Text, ...] = ()

    def __str__(self) -> str:
        return "{" + self.name + "}"


class Text(NamedTuple):
    """A message: literal pieces and fields."""

    parts: tuple[str | Field, ...]

    def __str__(self) -> str:
        return re.sub(r"\s+", " ", "".join(map(str, self.parts))).strip()

    @property
    def literal(self) -> str:
        """The text with nothing for its fields but a mark that is no word."""
        return "".join(part if isinstance(part, str) else "\0" for part in self.parts)

    def within(self) -> Iterator[Text]:
        """This text, and those that its fields may be."""
        yield self
        for part in self.parts:
            if isinstance(part, Field):
                for text in part.texts:
                    yield from text.within()


@dataclass
class Module:
    """A file of the package. consumed: the nodes that stand in a text already, by identity."""

    name: str
    tree: ast.Module
    consumed: set[int] = field(default_factory=set)

    @property
    def constants(self) -> Mapping[str, str | int]:
        """The texts and whole numbers that are given a name at the top of the module."""
        return _constants(self.name)


@lru_cache(maxsize=16)
def tree_of(name: str) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse((PACKAGE / name).read_text())


@cache
def _constants(name: str) -> dict[str, str | int]:
    found: dict[str, str | int] = {}
    for node in tree_of(name).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name_here = alias.asname or alias.name
                if (source := _file(f"{node.module}.{alias.name}")) is not None:
                    found |= {f"{name_here}.{key}": value for key, value in _constants(source).items()}
                elif (source := _file(node.module or "")) is not None:
                    value = _constants(source).get(alias.name)
                    found |= {} if value is None else {name_here: value}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            given = _value(node.value, found)
            if isinstance(target, ast.Name) and given is not None:
                found[target.id] = given
    return found


def _file(module: str) -> str | None:
    """The file of a module of the package, from the package's folder."""
    inside = module.removeprefix("quantcli.").replace(".", "/") if module.startswith("quantcli.") else ""
    files = (f"{inside}.py", f"{inside}/__init__.py")
    return next((file for file in files if inside and (PACKAGE / file).is_file()), None)


def _value(node: ast.expr | None, constants: Mapping[str, str | int]) -> str | int | None:
    """The value of a constant expression of texts or whole numbers; None for any other."""
    if isinstance(node, ast.Constant) and type(node.value) in (str, int):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return constants.get(f"{node.value.id}.{node.attr}")
    if isinstance(node, ast.JoinedStr):
        pieces = [_value(p.value if isinstance(p, ast.FormattedValue) else p, constants) for p in node.values]
        return None if None in pieces else "".join(map(str, pieces))
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, constants), _value(node.right, constants)
        operation = OPERATIONS.get(type(node.op))
        if operation and left is not None and type(left) is type(right):
            return operation(left, right)  # type: ignore[no-any-return]
    return None


OPERATIONS: dict[type[ast.operator], Any] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Pow: lambda a, b: a**b,
    ast.LShift: lambda a, b: a << b,
    ast.RShift: lambda a, b: a >> b,
}


def text_of(node: ast.AST, module: Module) -> Text | None:
    """The text that an expression makes; None where it makes none, or one that nothing is known of."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        module.consumed.add(id(node))
        return Text((node.value,))
    if isinstance(node, ast.Name) and isinstance(value := module.constants.get(node.id), str):
        return Text((value,))
    if isinstance(node, ast.JoinedStr):
        module.consumed.add(id(node))
        return Text(tuple(part for piece in node.values for part in _parts(piece, module)))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [text_of(side, module) for side in (node.left, node.right)]
        if any(side is not None and any(isinstance(part, str) for part in side.parts) for side in sides):
            module.consumed.add(id(node))
            pairs = zip(sides, (node.left, node.right), strict=True)
            return Text(tuple(part for side, n in pairs for part in (side.parts if side else (_field(n, module),))))
    return None


def _parts(piece: ast.expr, module: Module) -> tuple[str | Field, ...]:
    """The parts of a piece of an f-string."""
    if isinstance(piece, ast.Constant):
        module.consumed.add(id(piece))
        return (str(piece.value),)
    assert isinstance(piece, ast.FormattedValue)
    value = _value(piece.value, module.constants)
    if value is not None and not piece.format_spec:
        module.consumed.update(id(node) for node in ast.walk(piece.value))
        return (repr(value) if piece.conversion == ord("r") else str(value),)
    found = _field(piece.value, module)
    return (Field(found.name + "!r", found.texts) if piece.conversion == ord("r") else found,)


def _field(node: ast.expr, module: Module) -> Field:
    """The field of an expression."""
    choices = _choices(node)
    if len(choices) > 1:
        texts = [text_of(choice, module) for choice in choices]
        names = [
            str(text.literal and _shown(text)) if text else name_of(c) for text, c in zip(texts, choices, strict=True)
        ]
        return Field("|".join(names), tuple(text for text in texts if text))
    joined = _joined(node)
    if joined is not None:
        text = text_of(joined, module)
        return Field(f"{_shown(text) if text else name_of(joined)}...", (text,) if text else ())
    return Field(name_of(node))


def _shown(text: Text) -> str:
    return "".join(map(str, text.parts))


def _choices(node: ast.expr) -> list[ast.expr]:
    """The values among which an expression chooses."""
    if isinstance(node, ast.IfExp):
        return [*_choices(node.body), *_choices(node.orelse)]
    if isinstance(node, ast.BoolOp):
        return [choice for value in node.values for choice in _choices(value)]
    return [node]


def _joined(node: ast.expr) -> ast.expr | None:
    """What `", ".join(...)` joins: the element of a generator, or the sequence."""
    is_join = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join"
    if not is_join or not isinstance(node, ast.Call) or len(node.args) != 1:
        return None
    argument = node.args[0]
    return argument.elt if isinstance(argument, ast.GeneratorExp | ast.ListComp) else argument


def name_of(node: ast.expr) -> str:
    """A short name for a value, after the expression that makes it."""
    match node:
        case ast.Name(id=name):
            return name.strip("_")
        case ast.Attribute(value=owner, attr=name):
            before = name_of(owner).rpartition(".")[2]
            return name.strip("_") if before in ("self", "cls") else f"{before}.{name.strip('_')}"
        case ast.Subscript(value=owner, slice=ast.Constant(value=int(index))):
            return f"{name_of(owner)}[{index}]"
        case ast.Subscript(value=owner):
            return name_of(owner)
        case ast.Call(func=ast.Name(id="len"), args=[argument]):
            return f"number of {name_of(argument)}"
        case ast.Call(func=ast.Name(id=name), args=[argument, *_]) if name in PLAIN:
            return name_of(argument)
        case ast.Call(func=ast.Attribute(value=owner, attr=name)) if name in KEPT:
            return name_of(owner)
        case ast.Call(func=function, args=arguments):
            words = [str(a.value) for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            return " ".join([name_of(function), *words])
        case ast.GeneratorExp(elt=element) | ast.ListComp(elt=element):
            return name_of(element)
    written = ast.unparse(node)
    return written if len(written) <= LONGEST_FIELD else written[: LONGEST_FIELD - 3] + "..."


def is_prose(text: str) -> bool:
    r"""Whether a text (NUL for fields) reads like English: words, a word and a field, or a word to join to others.

    >>> [is_prose(text) for text in ("is missing", "\0 bytes", ". Choose", "model", "\0.weight", "num_heads, q4_0")]
    [True, True, True, False, False, False]
    """
    words = len(WORD.findall(text))
    is_joined = "\n" not in text and " " in (text[:1], text[1:2], text[-1:])
    return words > 0 and (words + text.count("\0") > 1 or is_joined)


def texts(name: str) -> list[Text]:
    """The texts of a file (from the package's folder), in the order of the source."""
    module = Module(name, tree_of(name))
    nodes = list(_nodes(module.tree))
    skipped = {id(below) for node in nodes for root in _unread(node) for below in _nodes(root)}
    lists = {node.func.value.id for node in nodes if _is_split(node)}  # type: ignore[attr-defined]
    skipped |= {id(n.value) for n in nodes if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) in lists}
    short = {id(argument) for node in nodes for argument in _printed(node)}
    found: dict[tuple[int, int], Text] = {}
    for node in nodes:
        if isinstance(node, ast.Name) or id(node) in skipped or id(node) in module.consumed:
            continue
        text = text_of(node, module)
        if text is not None and (is_prose(text.literal) or (id(node) in short and WORD.search(text.literal))):
            found[node.lineno, node.col_offset] = text  # type: ignore[attr-defined]
    return [found[place] for place in sorted(found)]


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, each before those below it; names and operators, which have no text, aside."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        yield current
        for name in reversed(current._fields):
            value = getattr(current, name)
            for child in reversed(value) if isinstance(value, list) else (value,):
                if isinstance(child, ast.AST) and not isinstance(child, LEAVES):
                    waiting.append(child)


def _is_split(node: ast.AST) -> bool:
    """Whether a node is `NAME.split()`."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(), attr="split")):
            return True
    return False


def _unread(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes at a node whose texts no person reads."""
    match node:
        case ast.FunctionDef(decorator_list=decorators) if any(map(_is_command, decorators)):
            return
        case ast.Module() | ast.ClassDef() | ast.FunctionDef() if ast.get_docstring(node, clean=False) is not None:
            yield node.body[0]
        case ast.Call(func=ast.Attribute(value=ast.Constant() as text, attr="split")):
            yield text
        case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr=name)) if name != "error":
            yield from node.args[:1]
        case ast.Call(func=ast.Name(id="cast")):
            yield node.args[0]
        case ast.Assert(msg=ast.expr() as message):
            yield message
        case ast.Raise(exc=ast.Call(func=ast.Name(id="AssertionError"))):
            yield node
        case ast.Constant(value=str(text)) if len(max(text.split(), key=len, default="")) > LONGEST_WORD:
            yield node


def _is_command(decorator: ast.expr) -> bool:
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    return _last_name(function) in ("command", "callback")


def _last_name(function: ast.expr) -> str:
    """`c` of a.b.c, and of c."""
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _printed(node: ast.AST) -> Iterator[ast.AST]:
    """The arguments at a node of errors, of functions that print, and help: single words count there, too."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        yield from node.exc.args
    elif isinstance(node, ast.Call):
        yield from node.args[:1] if _last_name(node.func) in PRINTERS else ()
        yield from (keyword.value for keyword in node.keywords if keyword.arg in HELP)


@cache
def files() -> Sequence[str]:
    """The files of the package, from its folder."""
    return sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def listed() -> dict[str, list[str]]:
    """File -> its texts as the list shows them, each at its first place."""
    seen: set[str] = set()
    found: dict[str, list[str]] = {}
    for name in files():
        for text in map(str, texts(name)):
            if text not in seen:
                seen.add(text)
                found.setdefault(name, []).append(text)
    return found


def page() -> str:
    """The text of tests/data/messages.txt."""
    return HEAD + "".join(f"\n# {name}\n" + "".join(f"{text}\n" for text in found) for name, found in listed().items())


if __name__ == "__main__":
    LIST.write_text(page())
    print(f"{sum(map(len, listed().values()))} texts")
