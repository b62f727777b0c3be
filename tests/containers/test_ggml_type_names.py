"""Where code names a GGML type: a new one is a row of each table, a scheme with its kernel, and rules of mixtures."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantcli.containers.ggml_types import BY_NAME

PACKAGE = Path(__file__).resolve().parent.parent.parent / "quantcli"

#: The tables of formats and of what llama-quantize makes, and its rules.
TABLES = ("containers/ggml_types.py", "recipes/ftypes.py", "recipes/llama_cpp_mixture.py")
#: Names that other formats have as well: files about those are no business of GGML's types.
SHARED = ("mxfp4", "nvfp4")
#: The books of the IQ types are called after types.
BOOKS = "schemes/ggml/iq_books.py"
TYPES = tuple(name for name, kind in BY_NAME.items() if kind.block_size > 1 and name not in SHARED)


def named(source: str) -> set[str]:
    """The types that strings of a module are, or are lists of; docstrings are prose."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            words = set(node.value.split())
            found |= {name for name in words & set(TYPES) if all(word.isidentifier() for word in words)}
    return found


def files() -> Iterator[tuple[str, set[str]]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), named(path.read_text())


@pytest.fixture(scope="module")
def naming() -> dict[str, list[str]]:
    """Type -> the files whose code names it."""
    of_file = dict(files())
    return {name: [file for file, found in of_file.items() if name in found] for name in TYPES}


@pytest.mark.parametrize("name", TYPES)
def test_code_names_a_type_in_tables_its_scheme_and_kernels_only(name: str, naming: dict[str, list[str]]) -> None:
    rest = [file for file in naming[name] if file not in (*TABLES, BOOKS)]
    schemes = [file for file in rest if file.startswith("schemes/ggml/")]
    kernels = [file for file in rest if file.startswith("kernels/ggml/")]
    assert rest == kernels + schemes
    assert len(schemes) <= 1, "a type is one kind of block, which is one file"
    assert "containers/ggml_types.py" in naming[name]


@pytest.mark.parametrize("name", ["q1_0", "q2_0", "tq1_0"])
def test_a_simple_type_has_one_kernel(name: str, naming: dict[str, list[str]]) -> None:
    assert len(naming[name]) <= 5


def test_names_are_found_in_code_and_not_in_prose() -> None:
    assert named("X = {'q2_0': 1}") == {"q2_0"} and named("f(x == 'q4_k')") == {"q4_k"}
    assert named("Rule('q2_k iq3_xs iq4_xs', 'base')") == {"q2_k", "iq4_xs"}
    assert named("'''Blocks of q2_0.'''\nx = 1  # q2_0") == set()
    assert named("raise ValueError('such as mxfp4, q8_0, bf16')") == set()
