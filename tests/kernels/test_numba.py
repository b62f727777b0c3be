"""What kernels use of numba that it does not promise: that it is all there, does what it should, and is bounded."""

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core import event
from numba.extending import intrinsic

from quantcli.kernels.compile import CONFIG

ROOT = Path(__file__).resolve().parents[2]

#: The only file that uses more of numba than what its reference documents, and what it uses.
FILE = "quantcli/kernels/compile.py"
PRIVATE = {"numba.core.event", "_nrt", "CACHE_DIR"}


def private(tree: ast.AST) -> Iterator[str]:
    """Imports of numba.core, keywords with an underscore, attributes of numba.config that are set."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("numba.core"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numba.core"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.keyword) and (node.arg or "").startswith("_"):
            yield str(node.arg)
        elif isinstance(node, ast.Assign):
            yield from (t.attr for t in node.targets if isinstance(t, ast.Attribute) and t.attr.isupper())


def test_one_file_uses_what_is_listed_here() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): names
        for path in (ROOT / "quantcli").rglob("*.py")
        if "numba" in (text := path.read_text()) and (names := set(private(ast.parse(text))))
    }
    assert found == {FILE: PRIVATE}


def test_numba_is_bounded_by_the_version_that_is_tested() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (numba_bounds,) = (re.fullmatch(r"numba>=([0-9.]+),<([0-9.]+)", d) for d in declared if d.startswith("numba"))
    assert numba_bounds is not None
    major, minor = metadata.version("numba").split(".")[:2]
    assert numba_bounds[2] == f"{major}.{int(minor) + 1}"
    assert [name for name in declared if re.fullmatch(r"llvmlite>=[0-9.]+", name)]


def test_compiling_is_an_event_with_its_dispatcher() -> None:
    class Heard(event.Listener):
        def __init__(self) -> None:
            self.functions: list[str] = []

        def on_start(self, event: Any) -> None:
            self.functions.append(event.data["dispatcher"].py_func.__name__)

        def on_end(self, event: Any) -> None:
            self.functions.append("end")

    def doubled(x: int) -> int:
        return 2 * x

    heard = Heard()
    with event.install_listener("numba:compile", heard):
        assert numba.njit(doubled)(21) == 42
    assert heard.functions == ["doubled", "end"]


def first_halves(x: Any) -> Any:
    total = 0.0
    for i in range(len(x)):
        half = x[: i // 2]
        total += len(half)
    return total


@pytest.mark.parametrize("counted", [True, False])
def test_references_are_counted_unless_that_is_turned_off(counted: bool) -> None:
    njit: Any = numba.njit
    compiled = njit(first_halves, _nrt=counted)
    assert compiled(np.zeros(8)) == 12
    (text,) = compiled.inspect_llvm().values()
    body = text[text.index("define") :]
    assert ("call void @NRT_incref" in body or "call void @NRT_decref" in body) == counted


def test_the_cache_folder_counts_while_a_function_is_decorated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONFIG, "CACHE_DIR", str(tmp_path))
    decorated = numba.njit(first_halves, cache=True)
    monkeypatch.undo()
    assert Path(decorated.stats.cache_path).is_relative_to(tmp_path)


def test_an_intrinsic_reaches_arrays_and_makes_tuples() -> None:
    def typed(_: Any, array: Any) -> Any:
        pair: Any = numba.types.Tuple

        def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            made = context.make_array(array)(context, builder, given[0])
            return context.make_tuple(builder, signature.return_type, [builder.load(made.data), made.nitems])

        return pair((array.dtype, numba.types.int64))(array), build

    described = intrinsic(typed)

    def described_array(array: Any) -> Any:
        return described(array)

    assert numba.njit(described_array)(np.array([7, 8, 9], np.int32)) == (7, 3)
