"""`quant inspect --metadata`: every kind of value, in a table and as JSON that any reader takes."""

import doctest
import importlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from quantcli.cli.app import app
from quantcli.containers import gguf_write

ROOT = Path(__file__).resolve().parent.parent.parent
SCHEMA = json.loads((ROOT / "quantcli" / "cli" / "schema" / "inspect_metadata.json").read_text())


def file_of(path: Path, **keys: tuple[str, Any]) -> Path:
    path.write_bytes(gguf_write.header({"general.architecture": ("string", "llama"), **keys}, [])[0])
    return path


def as_json(path: Path) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["inspect", str(path), "--metadata", "--json"])
    assert (done.exit_code, done.stderr) == (0, "")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    found = json.loads(done.stdout, parse_constant=refuse)
    jsonschema.validate(found, SCHEMA)
    return dict(found["metadata"])


def as_table(path: Path) -> dict[str, str]:
    done = CliRunner().invoke(app, ["inspect", str(path), "--metadata"])
    assert (done.exit_code, done.stderr) == (0, "")
    return {key: value for key, _, value in (line.partition(" ") for line in done.stdout.splitlines()[1:])}


CASES: dict[str, tuple[str, Any, Any, str]] = {
    "texts in arrays": ("array[array[string]]", [["a"], [b"\xff"]], [["a"], ["\ufffd"]], "[['a'], ['\ufffd']]"),
    "arrays three deep": ("array[array[array[uint8]]]", [[[1], []]], [[[1], []]], "[[[1], []]]"),
    "float32 in arrays": ("array[array[float32]]", [[0.1, 1e-5]], [[0.1, 1e-05]], "[[0.1, 1e-05]]"),
    "float32": ("float32", 1e-5, 1e-05, "1e-05"),
    "float64 that is a float32": ("float64", 9.999999747378752e-06, 9.999999747378752e-06, "9.999999747378752e-06"),
    "NaN": ("float32", float("nan"), "nan", "'nan'"),
    "infinities": ("array[float64]", [float("inf"), -float("inf")], ["inf", "-inf"], "['inf', '-inf']"),
    "a text that is not UTF-8": ("string", b"a\xff\n", "a\ufffd\n", "'a\ufffd\\n'"),
    "a long array": ("array[float32]", [0.1] * 9, [0.1] * 9, f"[{'0.1, ' * 8}...] (9 in all)"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_value(tmp_path: Path, case: str) -> None:
    kind, value, in_json, in_table = CASES[case]
    path = file_of(tmp_path / "a.gguf", key=(kind, value))
    assert as_json(path) == {"general.architecture": "llama", "key": in_json}
    assert as_table(path)["key"].strip() == in_table


def test_an_architecture_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    start, _, size = gguf_write.header({"general.architecture": ("string", b"ll\xff")}, [("a.weight", (8,), "f32")])
    path.write_bytes(start + bytes(size - len(start)))
    done = CliRunner().invoke(app, ["inspect", str(path)])
    assert done.exit_code == 0 and done.stdout.startswith(f"{path}: gguf, ll\ufffd\n")


def test_a_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "deep": {"list": [1e400, 0.1]}}')
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert as_json(tmp_path) == {"model_type": "llama", "deep": {"list": ["inf", 0.1]}}


def test_doctests() -> None:
    assert doctest.testmod(importlib.import_module("quantcli.cli.inspection")).failed == 0
