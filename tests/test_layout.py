"""The house rules: who may import whom, who prints, how long a file is, and that no text names a maker's machine."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "quantcli"

#: The list of packages in ARCHITECTURE.md: a folder or module may import those after it, never those before it.
ORDER = (
    "cli",
    "convert",
    "targets",
    "sources",
    "recipes",
    "models",
    "tokenizers",
    "virtual",
    "moved",
    "checkpoint",
    "schemes",
    "kernels",
    "containers",
    "arrays",
    "dtypes",
    "errors",
)

#: Costly to import, so never while a module is loaded: `--help` and `inspect` must not pay for them.
HEAVY = ("mlx", "numba", "huggingface_hub", "ml_dtypes", "gguf", "safetensors", "rich", "tokenizers")

#: Folder.room -> the files of that folder, outside the room, that import it. Those of other rooms and those that
#: rooms are built on do not.
DOORS = {
    "models.families": ("models/__init__.py",),
    "schemes.ggml": ("schemes/__init__.py", "schemes/listed.py"),
    "schemes.mlx": ("schemes/listed.py", "schemes/hf/gpt_oss.py"),
    "schemes.hf": ("schemes/listed.py",),
}

#: The files that stand in a folder itself, in LAYERS.
FILES = "*.py"
#: Folder -> its layers, rooms and files: each may import itself and those of the layers after its own.
LAYERS = {
    "convert": (("comparing",), ("inspecting",), ("running",), ("planning",), (FILES,)),
    "kernels": (("ggml", "mlx"), ("llvm",), (FILES,)),
    "kernels/ggml": (("better",), ("codebooks",), ("blocks",), ("k_quants",), (FILES,)),
}


MOST_LINES = 450
FOLDERS = ("quantcli", "tests", "tools", "docs", "benchmarks", "examples", ".ci")
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")
TEXT = {".py", ".md", ".toml", ".json", ".sh", ".jinja", ".txt", ""}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|farm|root|home|Users)/")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def texts() -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in TEXT]
    return sorted({*found, *(ROOT / name for name in (*PAGES, "Makefile", "pyproject.toml"))})


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


def layer(folder: str, rest: Sequence[str]) -> int:
    """The number of a layer of LAYERS: that of a room, `rest` beginning with its name, else that of the files."""
    layers = LAYERS[folder]
    room = rest[0] if rest else FILES
    found = [number for number, names in enumerate(layers) if room in names]
    return found[0] if found else next(number for number, names in enumerate(layers) if FILES in names)


def climbs(source: str, file: str) -> list[str]:
    """The imports of a file (`kernels/ggml/scales.py`) that go up a folder's LAYERS, or aside within a layer."""
    found = []
    for folder in LAYERS:
        if not file.startswith(f"{folder}/"):
            continue
        own = file.removeprefix(f"{folder}/").split("/")[:-1]
        package = "quantcli." + folder.replace("/", ".")
        for name in imports(ast.parse(source)):
            rest = name.removeprefix(f"{package}.").split(".")
            if not is_within(name, package) or (own and rest[0] == own[0]):
                continue
            ours, theirs = layer(folder, own), layer(folder, rest)
            if theirs < ours or (theirs == ours and own):
                found.append(name)
    return found


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


def kernel_source(module: str) -> str:
    path = ROOT.joinpath(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


def kernels_loaded(source: str) -> set[str]:
    """The modules of kernels that importing a module would load, those aside that only their own package loads."""
    top = [node for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    found = {_module(name) for node in top for name in imports(node) if name.startswith("quantcli.kernels.")}
    return found.union(*(kernels_loaded(kernel_source(name)) for name in found))


def _module(name: str) -> str:
    """The module of an import of one, or of a name of one."""
    path = ROOT.joinpath(*name.split("."))
    return name if path.is_dir() or path.with_suffix(".py").is_file() else name.rpartition(".")[0]


def place_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=shown)
def test_module_imports_go_down(path: Path) -> None:
    place = place_of(path)
    if place == "__init__":
        assert [name for name in imports(ast.parse(path.read_text())) if name.startswith("quantcli")] == []
        return
    assert place in ORDER, f"{place} is not in ORDER, the list of packages in ARCHITECTURE.md"
    assert upward(path.read_text(), place) == []


def test_no_import_cycle_among_files() -> None:
    assert cycle({module_name(path): path.read_text() for path in modules()}) == []


@pytest.mark.parametrize("path", modules(), ids=shown)
def test_rooms_are_entered_by_their_doors(path: Path) -> None:
    assert strays(path.read_text(), str(path.relative_to(PACKAGE))) == []


@pytest.mark.parametrize("path", modules(), ids=shown)
def test_rooms_import_those_below(path: Path) -> None:
    assert climbs(path.read_text(), path.relative_to(PACKAGE).as_posix()) == []


@pytest.mark.parametrize("folder", LAYERS)
def test_every_room_has_a_layer(folder: str) -> None:
    rooms = {path.parent.name for path in (PACKAGE / folder).glob("*/__init__.py")}
    assert rooms == {name for names in LAYERS[folder] for name in names} - {FILES}


@pytest.mark.parametrize("path", modules(), ids=shown)
def test_only_cli_prints(path: Path) -> None:
    if place_of(path) != "cli":
        assert prints(path.read_text()) == []


@pytest.mark.parametrize("path", modules(), ids=shown)
def test_nothing_heavy_is_imported_at_the_top(path: Path) -> None:
    if place_of(path) != "kernels":  # the folder that is itself imported late
        assert loads(path.read_text()) == []
        assert [name for name in kernels_loaded(path.read_text()) if loads(kernel_source(name))] == []


@pytest.mark.parametrize("path", modules(), ids=shown)
def test_each_module_opens_with_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_files_are_short() -> None:
    code = [path for path in texts() if path.suffix == ".py"]
    assert {shown(path): count for path in code if (count := _lines(path)) > MOST_LINES} == {}


def test_no_text_names_this_machine() -> None:
    named = {shown(p): match[0] for p in texts() if p.is_file() and (match := MACHINE_PATH.search(_text(p)))}
    assert named == {}


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
    for file, climb in (
        ("convert/planning/plan.py", "quantcli.convert.running.run"),
        ("convert/running/run.py", "quantcli.convert.comparing.compare"),
        ("kernels/llvm/sums.py", "quantcli.kernels.ggml.codebooks.neighbours"),
        ("kernels/ggml/scales.py", "quantcli.kernels.mlx.affine"),
        ("kernels/chunks.py", "quantcli.kernels.llvm.vectors"),
        ("kernels/ggml/blocks/legacy.py", "quantcli.kernels.ggml.codebooks.iq4"),
        ("kernels/ggml/scales.py", "quantcli.kernels.ggml.k_quants.pack"),
    ):
        assert climbs(f"def f():\n    import {climb}", file) == [climb]
    assert climbs("from quantcli.convert.planning import plan", "convert/running/run.py") == []
    assert climbs("from quantcli.kernels.compile import inner", "kernels/chunks.py") == []
    assert climbs("from quantcli.kernels.ggml.scales import F16", "kernels/ggml/better/grid.py") == []
    assert kernels_loaded("from quantcli.kernels.bits import pack") >= {"quantcli.kernels.compile"}
    assert loads(kernel_source("quantcli.kernels.compile"))
    assert prints("x = 1\nprint(x)") == [2] and prints("import sys\nsys.stderr.write('')") == [2]
    assert prints("import sys\nsys.stderr.isatty()") == []
    assert loads("import mlx.core as mx") == ["mlx.core"] and loads("def f():\n    import mlx.core") == []
    assert MACHINE_PATH.search("a path: " + "/".join(("", "home", "me")) + "/x")
    assert not MACHINE_PATH.search("https://example.org/home/page")


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def _lines(path: Path) -> int:
    return len(_text(path).splitlines())
