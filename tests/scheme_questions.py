"""What a module asks about a scheme's or a target's identity, where a property of it should answer.

    class     isinstance, issubclass, `type(x) is C`, `case C(...)` and `x == C(...)` with a subclass of `Scheme`; not
              with `Dense`: it is one of the three views of a weight, so that asking for it is asking for the view
    name      `.family` of anything, `.name` of a scheme or `.label` of a target, compared (`==`, `in`, a match with a
              pattern or a prefix) or looked up in a table (`[...]`, `.get(...)`)
    attribute hasattr and getattr with the name of an attribute that some scheme has

A scheme is an expression that ends in `scheme` (`weight.scheme`, `source_scheme`), a name that is annotated as `Scheme`
in its function, or a variable over `holders(...)`; a target is one that ends in `target`. What is only printed does not
count, nor do keys under which weights are grouped.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

#: Calls that compare a text, and the methods of tables that look one up.
COMPARING = ("match", "fullmatch", "search", "startswith", "endswith", "get")


def scheme_classes(sources: Sequence[str]) -> tuple[set[str], set[str]]:
    """The subclasses of `Scheme` but `Dense`, and the names of the attributes that schemes have."""
    classes = [node for text in sources for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    found = {"Scheme"}
    while more := {c.name for c in classes if found.intersection(map(_last, c.bases))} - found:
        found |= more
    attributes = {name for c in classes if c.name in found for name in _attributes(c)}
    return found - {"Scheme", "Dense"}, attributes


def questions(text: str, classes: set[str], attributes: set[str]) -> list[tuple[int, str]]:
    """(line, expression) of each question in a module."""
    tree = ast.parse(text)
    schemes = _scheme_names(tree)
    asked = [
        *_of_classes(tree, classes),
        *_of_names(tree, schemes),
        *(call for call in _calls(tree, "hasattr", "getattr") if _literal(call) in attributes),
    ]
    return sorted({(node.lineno, ast.unparse(node)) for node in asked})


def asked_in(folders: Sequence[Path], schemes: Path) -> list[str]:
    """`path:line: expression` of all questions in some folders."""
    classes, attributes = scheme_classes([path.read_text() for path in sorted(schemes.rglob("*.py"))])
    paths = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return [
        f"{path.relative_to(schemes.parent)}:{line}: {expression}"
        for path in paths
        for line, expression in questions(path.read_text(), classes, attributes)
    ]


def _of_classes(tree: ast.AST, classes: set[str]) -> Iterator[ast.expr]:
    for call in _calls(tree, "isinstance", "issubclass"):
        if classes.intersection(_named(call.args[1])):
            yield call
    for node in ast.walk(tree):
        if isinstance(node, ast.MatchClass) and _last(node.cls) in classes:
            yield node.cls
        if isinstance(node, ast.Compare) and any(_is_call(side, *classes) for side in _sides(node)):
            yield node
        is_type = isinstance(node, ast.Compare) and any(_is_call(side, "type") for side in _sides(node))
        if is_type and isinstance(node, ast.Compare) and classes.intersection(*map(_named, _sides(node)[1:])):
            yield node


def _of_names(tree: ast.AST, schemes: set[str]) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        compared: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            compared = _sides(node)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            compared = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in COMPARING:
            compared = [node.func.value, *node.args]
        if isinstance(node, ast.expr) and any(_is_identity(one, schemes) for one in compared):
            yield node


def _is_identity(node: ast.expr, schemes: set[str]) -> bool:
    """Whether this is the name, the family or the label of a scheme or target."""
    if not isinstance(node, ast.Attribute):
        return False
    owner = _last(node.value).lower()
    is_scheme = owner.endswith("scheme") or (isinstance(node.value, ast.Name) and node.value.id in schemes)
    return (
        node.attr == "family"
        or (node.attr == "name" and is_scheme)
        or (node.attr == "label" and owner.endswith("target"))
    )


def _scheme_names(tree: ast.AST) -> set[str]:
    """The names that are annotated as schemes, and variables over those of a target."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None and "Scheme" in _named(node.annotation):
            found.add(node.arg)
        if isinstance(node, ast.comprehension | ast.For) and _is_call(node.iter, "holders"):
            found |= {_last(node.target)}
    return found


def _sides(node: ast.Compare) -> list[ast.expr]:
    """Both sides of a comparison; of a tuple each member."""
    sides = [node.left, *node.comparators]
    return [one for side in sides for one in (side.elts if isinstance(side, ast.Tuple | ast.Set) else [side])]


def _calls(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_call(node, *names))


def _is_call(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Call) and _last(node.func) in names


def _literal(call: ast.Call) -> str | None:
    name = call.args[1]
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else None


def _named(node: ast.AST) -> set[str]:
    """The last names of all classes in `C`, `a.C`, `C | D`, `(C, D)`."""
    if isinstance(node, ast.BinOp):
        return _named(node.left) | _named(node.right)
    if isinstance(node, ast.Tuple):
        return {name for one in node.elts for name in _named(one)}
    return {_last(node)}


def _last(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _attributes(node: ast.ClassDef) -> Iterator[str]:
    for one in node.body:
        if isinstance(one, ast.FunctionDef):
            yield one.name
        elif isinstance(one, ast.AnnAssign):
            yield _last(one.target)
