"""`quant inspect` of an importance matrix: its entries, what was counted, what it was computed on."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from gguf import GGUFWriter
from typer.testing import CliRunner, Result

from quantcli.cli.app import app

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "tests" / "data" / "imatrix"
SCHEMA = json.loads((ROOT / "quantcli" / "cli" / "schema" / "inspect_imatrix.json").read_text())


def quant(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def surveyed(*arguments: str | Path) -> dict[str, Any]:
    done = quant("--json", *arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(found, SCHEMA)
    return found


def of_experts(path: Path) -> Path:
    """A matrix of one tensor of three experts, one of which never saw a token."""
    writer = GGUFWriter(path, "llama")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["one.txt", "two.txt"])
    writer.add_uint32("imatrix.chunk_count", 2)
    writer.add_uint32("imatrix.chunk_size", 64)
    writer.add_tensor("blk.0.ffn_up_exps.weight.in_sum2", np.ones((3, 32), np.float32))
    writer.add_tensor("blk.0.ffn_up_exps.weight.counts", np.array([[7], [0], [121]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf() -> None:
    found = surveyed(DATA / "imatrix.gguf")
    assert (found["kind"], found["form"], found["unit"]) == ("imatrix", "gguf", "tokens")
    assert (found["chunks"], found["chunk_size"], found["datasets"]) == (16, 256, ["calibration.txt"])
    assert len(found["entries"]) == 14
    assert {entry["name"]: entry for entry in found["entries"]}["blk.0.attn_k.weight"] == {
        "name": "blk.0.attn_k.weight", "values": 256, "counted": [4096],
    }  # fmt: skip


def test_legacy() -> None:
    found, other = surveyed(DATA / "imatrix.dat"), surveyed(DATA / "imatrix.gguf")
    assert (found["form"], found["unit"], found["chunk_size"]) == ("dat", "calls", None)
    assert (found["chunks"], found["datasets"]) == (16, ["calibration.txt"])
    sizes = [{entry["name"]: entry["values"] for entry in one["entries"]} for one in (found, other)]
    assert sizes[0] == sizes[1]
    assert {tuple(entry["counted"]) for entry in found["entries"]} == {(16,)}


def test_layers_are_folded() -> None:
    done = quant(DATA / "imatrix.gguf", "--filter", "*.attn_[kq]*")
    assert done.exit_code == 0
    title, heads, *lines = done.stdout.splitlines()
    assert title == f"{DATA / 'imatrix.gguf'}: importance matrix, gguf"
    assert heads.split() == ["entry", "values", "counts", "tokens"]
    assert [line.split()[0] for line in lines[:2]] == ["blk.{0-1}.attn_k.weight", "blk.{0-1}.attn_q.weight"]
    assert lines[2:] == ["4 entries from 16 chunks of 256 tokens", "datasets: calibration.txt"]
    assert len(quant(DATA / "imatrix.gguf", "--all").stdout.splitlines()) == 2 + 14 + 2


def test_experts(tmp_path: Path) -> None:
    path = of_experts(tmp_path / "matrix.gguf")
    (entry,) = surveyed(path)["entries"]
    assert (entry["values"], entry["counted"]) == (96, [7, 0, 121])
    assert "96       3   0-121" in quant(path).stdout


def test_the_keys_of_a_gguf_matrix() -> None:
    done = quant(DATA / "imatrix.gguf", "--metadata", "--json")
    assert json.loads(done.stdout)["metadata"]["general.type"] == "imatrix"


@pytest.mark.parametrize("option", [["--rules"], ["--max-bpw", "4"], ["--require", "*=q4_k"], ["--metadata"]])
def test_options_for_schemes_are_wrong_usage(option: list[str]) -> None:
    done = quant(DATA / "imatrix.dat", *option)
    assert done.exit_code == 2 and f"{option[0]} " in done.stderr and "importance matrix" in done.stderr


def test_a_model_is_no_matrix_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.imatrix.gguf"
    shutil.copy(ROOT / "tests" / "data" / "gguf" / "small.gguf", path)
    assert json.loads(quant(path, "--json").stdout)["kind"] == "gguf"


@pytest.mark.parametrize(("stored", "name"), [("dat", "x.imatrix"), ("dat", "x"), ("gguf", "x.imatrix"), ("gguf", "x")])
def test_a_matrix_of_any_name(tmp_path: Path, stored: str, name: str) -> None:
    path = tmp_path / name
    shutil.copy(DATA / f"imatrix.{stored}", path)
    found = surveyed(path)
    assert (found["form"], len(found["entries"])) == (stored, 14)


@pytest.mark.parametrize("content", [b"", b"\1\0\0\0", b"text of some lines\n" * 9, b"\1\0\0\0\1\0\0\0x" + bytes(8)])
def test_a_file_that_is_nothing_known(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    done = quant(path)
    assert done.exit_code == 3 and "GGUF file or a .safetensors file" in done.stderr


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    for name, stored in (("a.dat", "dat"), ("a.gguf", "gguf"), ("a.imatrix", "dat"), ("a", "dat")):
        path = tmp_path / name
        path.write_bytes((DATA / f"imatrix.{stored}").read_bytes()[:-100])
        done = quant(path)
        assert (done.exit_code, done.stdout) == (3, "") and str(path) in done.stderr
