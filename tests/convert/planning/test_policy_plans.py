"""llama-quantize's choices through `quant convert --dry-run`: files of a header alone, a matrix of one entry.

The lists are those of tests/recipes/test_llama_cpp_policy.py: what llama-quantize's own dry runs told. A sample goes
through the command line; `make slow` makes the plan of every model, type and set of options there is.
"""

import gzip
import json
import os
import struct
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quantcli.cli.app import app
from quantcli.containers import gguf_write
from quantcli.containers.ggml_types import BY_NAME
from quantcli.convert.planning.plan import make
from quantcli.convert.planning.request import Request
from quantcli.errors import NotPossible
from quantcli.recipes import llama_cpp
from quantcli.sources.detect import open_source

DATA = Path(__file__).resolve().parent.parent.parent / "data" / "recipes" / "policy.json.gz"
PRESETS = (*llama_cpp.FTYPES, llama_cpp.COPY)
Wanted = str | dict[str, str]


@cache
def policy() -> Any:
    return json.loads(gzip.decompress(DATA.read_bytes()))


def typed(value: Any) -> tuple[str, Any]:
    """A key's GGUF type and value, as llama.cpp's converter has them."""
    if isinstance(value, list):
        return "array[uint32]", value
    return {bool: "bool", int: "uint32", float: "float32", str: "string"}[type(value)], value


def header_only(path: Path, model: dict[str, Any]) -> Path:
    """A file of a model's keys and tensors whose data is a hole."""
    architecture = model["architecture"]
    keys: dict[str, tuple[str, Any]] = {"general.architecture": ("string", architecture)}
    keys |= {f"{architecture}.{key}": typed(value) for key, value in model["metadata"].items()}
    stored = [model["tensors"][at] for at in model["file_order"]]
    start, _, size = gguf_write.header(keys, [(name, tuple(shape[::-1]), kind) for name, shape, kind in stored])
    path.write_bytes(start)
    os.truncate(path, size)
    return path


def one_entry(path: Path) -> Path:
    """A legacy importance matrix that fits no model: a dry run asks only whether there is one."""
    name = b"blk.0.attn_q.weight"
    path.write_bytes(struct.pack(f"<ii{len(name)}sii4fii4s", 1, len(name), name, 1, 4, 1, 1, 1, 1, 1, 4, b"fake"))
    return path


def unrolled(text: str) -> list[str]:
    runs = [run.lower().partition("*") for run in text.split()]
    return [kind for kind, _, count in runs for _ in range(int(count or 1))]


def told(args: list[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and messages of a dry run through the command line."""
    result = CliRunner().invoke(app, ["convert", *args, "--dry-run", "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout) if result.stdout else {}, result.stderr


def check_told(args: list[str], wanted: Wanted, names: list[str] | None) -> list[str]:
    """Assert that a dry run through the command line gives these types, in this order; its warnings."""
    code, plan, said = told(args)
    if not isinstance(wanted, str):
        assert code == 4 and "no replacement" in said
        return []
    assert code == 0, said
    assert [weight["scheme"] for weight in plan["weights"]] == unrolled(wanted)
    assert names is None or [weight["name"] for weight in plan["weights"]] == names
    return list(plan["warnings"])


def case_args(case: dict[str, Any], source: Path, matrix: Path) -> list[str]:
    options = [str(matrix) if text == "FAKE_IMATRIX" else text for text in case["options"]]
    return [str(source), str(source.with_name("out.gguf")), "--scheme", case["ftype"].lower(), *options]


def check_case(case: dict[str, Any], model: dict[str, Any], folder: Path) -> None:
    """Assert that a dry run with options tells what llama-quantize's told."""
    source, matrix = header_only(folder / "model.gguf", model), one_entry(folder / "one.dat")
    args = case_args(case, source, matrix)
    if unfit(case, model):
        code, _, said = told(args)
        assert code == 4 and "cannot have this type: " in said and "axis" in said
        return
    warnings = check_told(args, case["types"], None)
    if isinstance(case["types"], str) and "FAKE_IMATRIX" not in case["options"]:
        assert demand(warnings) == case["warns_needs_imatrix"], case


def unfit(case: dict[str, Any], model: dict[str, Any]) -> bool:
    """Whether an option names a type that does not fit its tensor: llama-quantize shows it in a dry run, and aborts in
    a real one; we refuse both.
    """
    rows = {name: shape[0] for name, shape, _ in model["tensors"]}
    reached = {"--output-tensor-type": "output.weight", "--token-embedding-type": "token_embd.weight"}
    pairs = zip(case["options"], case["options"][1:], strict=False)
    return any(
        rows.get(reached[option], 0) % BY_NAME[value.lower()].block_size for option, value in pairs if option in reached
    )


def demand(warnings: list[str]) -> bool:
    return any("an importance matrix is needed" in warning for warning in warnings)


@pytest.mark.parametrize("name", policy()["models"])
def test_a_sample_through_the_command_line(tmp_path: Path, name: str) -> None:
    model = policy()["models"][name]
    source, matrix = header_only(tmp_path / "model.gguf", model), one_entry(tmp_path / "one.dat")
    names = [tensor[0] for tensor in model["tensors"]]
    number = list(policy()["models"]).index(name)
    for preset in PRESETS[number :: len(policy()["models"])]:
        given = model["types"][preset.upper()]
        args = [str(source), str(tmp_path / "out.gguf"), *([] if preset == "copy" else ["--scheme", preset])]
        warnings = check_told(args, given["no_imatrix"], names)
        assert demand(warnings) == (preset.upper() in model["needs_imatrix"])
        if preset != "copy":
            weighted = given["no_imatrix"] if given["imatrix"] == "same" else given["imatrix"]
            check_told([*args, "--imatrix", str(matrix)], weighted, names)


def test_options_through_the_command_line(tmp_path: Path) -> None:
    for case in policy()["options"][::4]:
        check_case(case, policy()["models"][case["model"]], tmp_path)


@pytest.mark.slow
def test_every_model_and_type(shared: Path, tmp_path: Path) -> None:
    compared = 0
    matrix = one_entry(tmp_path / "one.dat")
    for path in sorted((shared / "fixtures/policy").glob("*.json.gz")):
        if path.name == "options.json.gz":
            continue
        model = json.loads(gzip.decompress(path.read_bytes()))
        source = open_source(header_only(tmp_path / "model.gguf", model))
        for preset in PRESETS:
            given = model["types"][preset.upper()]
            for variant in ("no_imatrix", "imatrix"):
                wanted = given["no_imatrix"] if given[variant] == "same" else given[variant]
                request = Request(
                    tmp_path / "out.gguf",
                    scheme=None if preset == "copy" else preset,
                    imatrix=matrix if variant == "imatrix" else None,
                )
                if not isinstance(wanted, str):
                    with pytest.raises(NotPossible, match="no replacement"):
                        make(source, request, dry_run=True)
                    continue
                plan = make(source, request, dry_run=True)
                assert [step.name for step in plan.steps] == [tensor[0] for tensor in model["tensors"]]
                assert [step.scheme.name for step in plan.steps] == unrolled(wanted), (path.name, preset, variant)
                if variant == "no_imatrix":
                    assert demand(list(plan.warnings)) == (preset.upper() in model["needs_imatrix"])
                compared += len(plan.steps)
    assert compared == 415_958


@pytest.mark.slow
def test_every_set_of_options(shared: Path, tmp_path: Path) -> None:
    folder = shared / "fixtures/policy"
    cases = json.loads(gzip.decompress((folder / "options.json.gz").read_bytes()))
    models = {
        n: json.loads(gzip.decompress((folder / f"{n}.json.gz").read_bytes())) for n in {c["model"] for c in cases}
    }
    assert (len(cases), sum(unfit(case, models[case["model"]]) for case in cases)) == (170, 8)
    for case in cases:
        check_case(case, models[case["model"]], tmp_path)
