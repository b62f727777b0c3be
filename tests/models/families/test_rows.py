"""Families are rows, not code: no other module names a model type, and no function of a family's file is long."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantcli.models import FAMILIES
from quantcli.models.families.aliases import ALIASES
from quantcli.models.families.untabled import UNTABLED
from tests.test_layout import PACKAGE, modules, shown

FAMILIES_FOLDER = PACKAGE / "models" / "families"
TABLES = [path for path in modules() if path.parent == FAMILIES_FOLDER]

#: Files with strings that are spelled like a model type and mean something else.
NO_MODEL_TYPES = {
    "quantcli/cli/examples.py": "names of example folders",
    "quantcli/convert/comparing/tokenizer_files.py": "a kind of vocabulary (tokenizer.ggml.model)",
    "quantcli/models/harmless_gguf.py": "names of GGUF architectures",
    "quantcli/models/layer_spellings.py": "kinds of layers",
    "quantcli/models/rope_settings.py": "names of GGUF architectures",
    "quantcli/recipes/llama_cpp_architectures.py": "names of GGUF architectures",
    "quantcli/recipes/llama_cpp_mixture.py": "names of GGUF architectures",
    "quantcli/recipes/llama_cpp_scales.py": "names of GGUF architectures",
    "quantcli/recipes/prune_keys.py": "names of GGUF architectures",
    "quantcli/sources/detect.py": "a quantizer's module",
    "quantcli/targets/gguf_metadata.py": "a kind of vocabulary (tokenizer.ggml.model)",
    "quantcli/tokenizers/conventions.py": "names of pre-tokenizers",
    "quantcli/tokenizers/defaults.py": "kinds of vocabularies, names of pre-tokenizers",
    "quantcli/tokenizers/gguf_keys.py": "a kind of vocabulary (tokenizer.ggml.model)",
    "quantcli/tokenizers/pre_tokenizers.py": "names of pre-tokenizers",
    "quantcli/tokenizers/rebuild.py": "kinds of vocabularies (tokenizer.ggml.model)",
    "quantcli/tokenizers/splittings.py": "names of pre-tokenizers",
    "quantcli/tokenizers/tiktoken.py": "names of pre-tokenizers",
    "quantcli/tokenizers/stored.py": "a kind of vocabulary (tokenizer.ggml.model)",
}

#: Lines of a function in a family's file, its docstring included.
MOST_LINES = 15


def model_types() -> set[str]:
    """Every model type that a table, the list of aliases or that of other types has."""
    tabled = {kind for family in FAMILIES for kind in family.model_types}
    return tabled | {one.model_type for family in FAMILIES for one in family.multimodal} | {*ALIASES, *UNTABLED}


def texts(source: str) -> Iterator[str]:
    """The string literals of a module but for docstrings, whole and word by word."""
    tree = ast.parse(source)
    with_docstrings = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, with_docstrings)
                  if node.body and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from (node.value, *node.value.split())


def long_functions(source: str) -> list[tuple[str, int]]:
    """The functions of a module that are too long, with their lines."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.Lambda))
    sizes = ((getattr(node, "name", "lambda"), (node.end_lineno or 0) - node.lineno + 1) for node in nodes)
    return [(name, lines) for name, lines in sizes if lines > MOST_LINES]


def test_no_module_but_the_families_names_a_model_type() -> None:
    known = model_types()
    others = [path for path in modules() if FAMILIES_FOLDER not in path.parents]
    found = {shown(path): known.intersection(texts(path.read_text())) for path in others}
    assert {file: sorted(names) for file, names in found.items() if names and file not in NO_MODEL_TYPES} == {}
    assert [file for file in NO_MODEL_TYPES if not found.get(file)] == []


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_functions_of_a_family_are_short(path: Path) -> None:
    assert long_functions(path.read_text()) == []


def test_these_checks_can_fail() -> None:
    source = (
        '"""llama"""\nX = {"qwen2": 1, "a": "gemma2 falcon"}\ndef f():\n    """mistral"""\n    return f"{x} mamba"\n'
    )
    assert model_types().intersection(texts(source)) == {"qwen2", "gemma2", "falcon", "mamba"}
    body = "\n".join(f"    x = {line}" for line in range(MOST_LINES))
    assert long_functions(f"def f():\n{body}\n") == [("f", MOST_LINES + 1)]
    assert long_functions(f"def f():\n{body.rpartition(chr(10))[0]}\n") == []
