"""The house rules of names: one for each constant, function and class; and that planning and targets ask schemes for
properties, not for names.
"""

import ast
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.scheme_questions import asked_in, questions, scheme_classes
from tests.test_layout import PACKAGE, modules, shown

#: Constants of the same name and value that mean different things: (name, value) -> why.
COINCIDENCES = {
    ("BIAS", "flag('use_bias')"): "a setting of each model family's own, in its table",
    ("DEEPEST", "8"): "of settings in a config.json; of folders in a model's folder",
    ("MAX_BYTES", "67108864"): "of a recipe; of a sidecar file",
    ("MOST", "8"): "names in a message: each says what it has room for",
    ("MOST_NAMED", "12"): "names in a message: each says what it has room for",
    ("MOST_NAMED", "8"): "names in a message: each says what it has room for",
    ("ONE", "np.float32(1)"): "of kernels; of torch's powers, which are no kernel",
    ("WEIGHT", "'.weight'"): "the end of a name in modelopt's folders; in GGUF",
}

#: Questions of convert/ and targets/ for a scheme's class, family or name, or a target's label (scheme_questions.py
#: says which count). 83 of them stood there before schemes and targets had properties; those left compare names with
#: what a user or a recipe wrote. Raise it with a reason only.
MOST_QUESTIONS = 3
#: Written as LLVM IR, where each function is a `typed` with a `build` in it, as numba asks for.
IN_PAIRS = PACKAGE / "kernels" / "llvm"
ARITHMETIC: dict[type[ast.operator], Any] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.LShift: operator.lshift,
    ast.Pow: operator.pow, ast.FloorDiv: operator.floordiv,
}  # fmt: skip


def constants(source: str) -> Iterator[tuple[str, str]]:
    """Name, without a leading underscore, and value of each constant of a module; type variables aside."""
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if _is_annotated(node) else []
        for target in targets:
            several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            pairs = zip(target.elts, node.value.elts, strict=False) if several else [(target, node.value)]
            for one, value in pairs:
                if isinstance(one, ast.Name) and one.id.isupper() and not ast.unparse(value).startswith("TypeVar("):
                    yield one.id.lstrip("_"), written(value)


def written(value: ast.expr) -> str:
    """A value as text; arithmetic of whole numbers is done."""
    try:
        return repr(_number(value))
    except KeyError:
        return ast.unparse(value)


def _number(value: ast.expr) -> object:
    """The value of an expression of whole numbers, or of one constant. Raises `KeyError` for another."""
    if isinstance(value, ast.Constant):
        return value.value
    if not isinstance(value, ast.BinOp):
        raise KeyError(value)
    return ARITHMETIC[type(value.op)](_number(value.left), _number(value.right))


def _is_annotated(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and node.value is not None


def constants_written_twice(sources: Mapping[str, str]) -> dict[tuple[str, str], list[str]]:
    """The constants that several files (name -> text) give the same value, with the files."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, text in sources.items():
        for constant in set(constants(text)):
            found.setdefault(constant, []).append(name)
    return {constant: names for constant, names in found.items() if len(names) > 1}


def functions(node: ast.AST) -> Iterator[str]:
    """The names of a module's functions, those within functions too; methods, which an object is asked for, aside."""
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not isinstance(node, ast.ClassDef)
        if is_function and "overload" not in map(ast.unparse, child.decorator_list):
            yield child.name
        yield from functions(child)


def repeated(names: Iterable[str]) -> list[str]:
    """The names that are there twice or more."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def classes(sources: Iterable[str]) -> list[str]:
    """The names of the classes in these modules."""
    nodes = (node for source in sources for node in ast.walk(ast.parse(source)))
    return [node.name for node in nodes if isinstance(node, ast.ClassDef)]


def test_a_constant_is_written_once() -> None:
    found = constants_written_twice({shown(path): path.read_text() for path in modules()})
    assert {constant: names for constant, names in found.items() if constant not in COINCIDENCES} == {}
    assert COINCIDENCES.keys() - found.keys() == set()


@pytest.mark.parametrize("path", [path for path in modules() if path.parent != IN_PAIRS], ids=shown)
def test_two_functions_of_a_module_do_not_share_a_name(path: Path) -> None:
    assert repeated(functions(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in modules()}), ids=shown)
def test_two_classes_of_a_package_do_not_share_a_name(folder: Path) -> None:
    assert repeated(classes(path.read_text() for path in folder.glob("*.py"))) == []


def test_these_checks_can_fail() -> None:
    twice = constants_written_twice(
        {"a": "X, _SIZE = 1, 1 << 8", "b": "SIZE: int = 256\ns = 1", "c": "SIZE = 512\nX = 2"}
    )
    assert twice == {("SIZE", "256"): ["a", "b"]}
    nested = "def f():\n    def g(): ...\n\ndef h():\n    def g(): ...\n\nclass A:\n    def f(self): ...\n"
    assert repeated(functions(ast.parse(nested))) == ["g"]
    assert repeated(functions(ast.parse("def f():\n    def f(): ...\n"))) == ["f"]
    assert repeated(functions(ast.parse("@overload\ndef f(): ...\n\ndef f(): ...\n"))) == []
    assert repeated(classes(["class A: ...", "def f():\n    class A: ...", "class B: ..."])) == ["A"]


def test_schemes_and_targets_are_asked_for_properties_not_names() -> None:
    asked = asked_in([PACKAGE / "convert", PACKAGE / "targets"], PACKAGE / "schemes")
    assert len(asked) <= MOST_QUESTIONS, "\n".join(asked)


def test_the_count_of_questions_sees_each_kind_and_no_other() -> None:
    classes, attributes = scheme_classes(
        [
            "class Dense(Scheme):\n    dtype: str",
            "class A(Scheme):\n    group: int",
            "class B(A):\n    def span(self): ...",
        ]
    )
    assert (classes, attributes) == ({"A", "B"}, {"dtype", "group", "span"})
    counted = (
        "isinstance(x, A)", "isinstance(x, Dense | B)", "isinstance(x, (Dense, base.A))", "type(x) is A",
        "x.scheme == A(4)", "x in (base.A(4), y)",
        "x.family == 'ggml'", "x.family in FAMILIES", "READERS[x.family]", "READERS.get(x.family)",
        "weight.scheme.name != 'q4_0'", "TYPE.fullmatch(source_scheme.name)", "step.scheme.name.startswith('q')",
        "self.target.label == 'hf'", "[s for s in target.holders('f16') if s.name == name]",
        "hasattr(x, 'group')", "getattr(x.scheme, 'span', None)",
    )  # fmt: skip
    assert [len(questions(text, classes, attributes)) for text in counted] == [1] * len(counted)
    assert len(questions("def f(s: Scheme | None): return s.name == 'x'", classes, attributes)) == 1
    assert len(questions("match x:\n    case A(): pass", classes, attributes)) == 1
    others = (
        "isinstance(x, Dense)", "isinstance(x, Scheme)", "f'{x.family} {x.scheme.name}'", "{w.scheme.name for w in x}",
        "step.name == 'x'", "recipe.label == 'x'", "hasattr(os, 'fork')", "x.scheme == y.scheme", "of[x.family] = y",
        "x.scheme == Dense('f32')", "x == A(4).grid()",
    )  # fmt: skip
    assert [questions(text, classes, attributes) for text in others] == [[]] * len(others)
