"""The house rules: who may import whom, who prints, how long a file is, that no text names a maker's machine, and that
planning and targets ask schemes for properties, not for names.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.scheme_questions import asked_in, questions, scheme_classes

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "quantcli"

#: quantcli/README.md, section 2: a folder or module may import those after it, never those before it.
ORDER = (
    "cli",
    "convert",
    "targets",
    "sources",
    "recipes",
    "models",
    "tokenizers",
    "virtual",
    "checkpoint",
    "schemes",
    "kernels",
    "containers",
    "arrays",
    "errors",
)

#: Costly to import, so never while a module is loaded: `--help` and `inspect` must not pay for them.
HEAVY = ("mlx", "numba", "huggingface_hub", "ml_dtypes", "gguf", "safetensors", "rich", "tokenizers")

#: Files that still take the tables of small floats from MLX's family.
SMALL_FLOATS = (
    "schemes/ggml/floats.py", "schemes/hf/bytewise.py", "schemes/hf/scaled.py", "schemes/hf/small_floats.py",
)  # fmt: skip
#: Folder.room -> the files of that folder, outside the room, that import it. Those of other rooms and those that
#: rooms are built on do not.
DOORS = {
    "models.families": ("models/__init__.py",),
    "schemes.ggml": ("schemes/__init__.py", "schemes/listed.py"),
    "schemes.mlx": ("schemes/listed.py", "schemes/hf/gpt_oss.py", *SMALL_FLOATS),
    "schemes.hf": ("schemes/listed.py", "schemes/mlx/mx_global.py"),
}

MOST_LINES = 450
#: Questions of convert/ and targets/ for a scheme's class, family or name, or a target's label (scheme_questions.py
#: says which count). 83 of them stood there before schemes and targets had properties; those left compare names with
#: what a user or a recipe wrote. Raise it with a reason only.
MOST_QUESTIONS = 3
FOLDERS = ("quantcli", "tests", "tools", "docs", "benchmarks", "examples", ".ci")
TEXT = {".py", ".md", ".toml", ".json", ".sh", ".jinja", ".txt", ""}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|farm|root|home|Users)/")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def texts() -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in TEXT]
    return sorted({*found, *(ROOT / name for name in ("README.md", "Makefile", "pyproject.toml"))})


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def part(module: str) -> str | None:
    """The entry of ORDER that `quantcli.<entry>...` is in; None for anything else, `quantcli` itself included."""
    names = module.split(".")
    return names[1] if names[0] == "quantcli" and len(names) > 1 else None


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module imported anywhere in `tree`; of `from a import b` both a.b and a (b may be a module)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a module stands"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def upward(source: str, place: str) -> list[str]:
    """The imports in a module of `place` that go up ORDER."""
    found = [(part(name), name) for name in imports(ast.parse(source))]
    places = {*ORDER, "__init__", "__version__"}
    strange = [name for entry, name in found if entry is not None and entry not in places]
    low = ORDER.index(place)
    return strange + [name for entry, name in found if entry in ORDER and ORDER.index(entry) < low]


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def strays(source: str, file: str) -> list[str]:
    """The imports of a room by a file (`schemes/base.py`) of the room's folder that is not in it and no door of it."""
    found = [
        (name, *room.split("."))
        for room, doors in DOORS.items()
        for name in imports(ast.parse(source))
        if is_within(name, f"quantcli.{room}") and file not in doors
    ]
    return [name for name, folder, room in found if file.startswith(f"{folder}/") and file.split("/")[1] != room]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> the modules that it imports anywhere, of those in `sources` (name -> text).

    A package counts where a name is imported from it that is no module.
    """

    def resolved(name: str) -> str:
        return name if name in sources or "." not in name else resolved(name.rpartition(".")[0])

    found = {module: set(map(resolved, imports(ast.parse(text)))) for module, text in sources.items()}
    return {module: (names & sources.keys()) - {module} for module, names in found.items()}


def cycle(sources: Mapping[str, str]) -> list[str]:
    """Modules each of which imports the next, the last one the first; empty where there is no such cycle."""
    try:
        TopologicalSorter(graph(sources)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def prints(source: str) -> list[int]:
    """The lines where a module writes to a terminal: print(), sys.stdout, sys.stderr (`isatty` is no writing)."""
    tree = ast.parse(source)
    asked = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "isatty"}
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Call) and ast.unparse(node.func) == "print")
        or (
            isinstance(node, ast.Attribute)
            and ast.unparse(node) in ("sys.stdout", "sys.stderr")
            and id(node) not in asked
        )
    ]


def loads(source: str) -> list[str]:
    """The heavy modules that importing a module would load: imports at its top level, those for type checkers aside."""
    top = [node for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return [name for node in top for name in imports(node) if name.split(".")[0] in HEAVY]


#: Written as LLVM IR, where each function is a `typed` with a `build` in it, as numba asks for.
IN_PAIRS = PACKAGE / "kernels" / "llvm"


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


def place_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=shown)
def test_module_imports_go_down(path: Path) -> None:
    place = place_of(path)
    if place == "__init__":
        assert [name for name in imports(ast.parse(path.read_text())) if name.startswith("quantcli")] == []
        return
    assert place in ORDER, f"{place} has no place in the list of quantcli/README.md"
    assert upward(path.read_text(), place) == []


def test_no_import_cycle_among_files() -> None:
    assert cycle({module_name(path): path.read_text() for path in modules()}) == []


@pytest.mark.parametrize("path", modules(), ids=shown)
def test_rooms_are_entered_by_their_doors(path: Path) -> None:
    assert strays(path.read_text(), str(path.relative_to(PACKAGE))) == []


@pytest.mark.parametrize("path", modules(), ids=shown)
def test_only_cli_prints(path: Path) -> None:
    if place_of(path) != "cli":
        assert prints(path.read_text()) == []


@pytest.mark.parametrize("path", modules(), ids=shown)
def test_nothing_heavy_is_imported_at_the_top(path: Path) -> None:
    if place_of(path) != "kernels":  # the folder that is itself imported late
        assert loads(path.read_text()) == []


@pytest.mark.parametrize("path", modules(), ids=shown)
def test_each_module_opens_with_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", [path for path in modules() if path.parent != IN_PAIRS], ids=shown)
def test_two_functions_of_a_module_do_not_share_a_name(path: Path) -> None:
    assert repeated(functions(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in modules()}), ids=shown)
def test_two_classes_of_a_package_do_not_share_a_name(folder: Path) -> None:
    assert repeated(classes(path.read_text() for path in folder.glob("*.py"))) == []


def test_files_are_short() -> None:
    code = [path for path in texts() if path.suffix == ".py"]
    assert {shown(path): count for path in code if (count := _lines(path)) > MOST_LINES} == {}


def test_schemes_and_targets_are_asked_for_properties_not_names() -> None:
    asked = asked_in([PACKAGE / "convert", PACKAGE / "targets"], PACKAGE / "schemes")
    assert len(asked) <= MOST_QUESTIONS, "\n".join(asked)


def test_no_text_names_this_machine() -> None:
    named = {shown(p): match[0] for p in texts() if p.is_file() and (match := MACHINE_PATH.search(_text(p)))}
    assert named == {}


def test_the_list_of_the_design_page_is_the_one_tested_here() -> None:
    page = (PACKAGE / "README.md").read_text()
    places = [re.search(rf"^ +{name}(?:/|\.py) ", page, re.MULTILINE) for name in ORDER]
    assert [name for name, place in zip(ORDER, places, strict=True) if place is None] == []
    starts = [place.start() for place in places if place]
    assert starts == sorted(starts)


def test_these_checks_can_fail() -> None:
    assert upward("from quantcli.cli.output import Output", "schemes") == ["quantcli.cli.output.Output"]
    assert upward("def f():\n    import quantcli.convert.planning.plan", "targets") == [
        "quantcli.convert.planning.plan"
    ]
    assert upward("from quantcli import sources", "recipes") == ["quantcli.sources"]
    assert upward("from quantcli import misc", "cli") == ["quantcli.misc"]
    assert upward("from quantcli.schemes import base", "checkpoint") == []
    below = {"quantcli.b": "", "quantcli.b.x": "import quantcli.a", "quantcli.a": "from quantcli.b import x"}
    assert sorted(set(cycle(below))) == ["quantcli.a", "quantcli.b.x"]
    assert cycle({**below, "quantcli.a": "from quantcli.b import y"}) == []
    late = "if TYPE_CHECKING:\n    from quantcli.a import Y\ndef f():\n    import quantcli.b.x"
    assert graph({**below, "quantcli.b": late})["quantcli.b"] == {"quantcli.a", "quantcli.b.x"}
    for folder, room, stray in (
        ("schemes", "hf", "quantcli.schemes.mlx.affine.Affine"),
        ("schemes", "ggml", "quantcli.schemes.hf.scaled.Scaled"),
        ("models", "layouts", "quantcli.models.families.llama.LLAMA"),
    ):
        text = f"from {stray.rpartition('.')[0]} import {stray.rpartition('.')[2]}"
        assert strays(text, f"{folder}/{room}/x.py") == strays(text, f"{folder}/x.py") == [stray]
        assert strays(text, f"targets/{room}.py") == strays(text, f"{folder}/{stray.split('.')[2]}/x.py") == []
    assert strays("from quantcli.schemes import ggml", "schemes/base.py") == ["quantcli.schemes.ggml"]
    assert strays("from quantcli.schemes import ggml", "schemes/__init__.py") == []
    assert prints("x = 1\nprint(x)") == [2] and prints("import sys\nsys.stderr.write('')") == [2]
    assert prints("import sys\nsys.stderr.isatty()") == []
    assert loads("import mlx.core as mx") == ["mlx.core"] and loads("def f():\n    import mlx.core") == []
    nested = "def f():\n    def g(): ...\n\ndef h():\n    def g(): ...\n\nclass A:\n    def f(self): ...\n"
    assert repeated(functions(ast.parse(nested))) == ["g"]
    assert repeated(functions(ast.parse("def f():\n    def f(): ...\n"))) == ["f"]
    assert repeated(functions(ast.parse("@overload\ndef f(): ...\n\ndef f(): ...\n"))) == []
    assert repeated(classes(["class A: ...", "def f():\n    class A: ...", "class B: ..."])) == ["A"]
    assert MACHINE_PATH.search("a path: " + "/".join(("", "home", "me")) + "/x")
    assert not MACHINE_PATH.search("https://example.org/home/page")


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
    )  # fmt: skip
    assert [questions(text, classes, attributes) for text in others] == [[]] * len(others)


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def _lines(path: Path) -> int:
    return len(_text(path).splitlines())
