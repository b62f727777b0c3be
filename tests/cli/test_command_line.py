"""What a command does with its surroundings: pipes, full disks, odd names, empty values, checks that did not hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from quantcli.cli.app import app
from tests.builders import tiny_llama

ROOT = Path(__file__).resolve().parent.parent.parent
QUANT = (sys.executable, "-c", "from quantcli.cli.app import main; main()")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "m")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def process(*arguments: object, **settings: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings.pop("env", {})}  # type: ignore[dict-item]
    return subprocess.run([*QUANT, *map(os.fsencode, map(str, arguments))], env=environment, **settings)  # type: ignore[call-overload,no-any-return]


def test_a_check_counts_though_nobody_reads_the_table(model: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = process("inspect", model, "--all", "--require", "*=q4_0", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 1 and done.stderr.startswith(b"error: --require")


@pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--json"], ["schemes"]])
def test_a_full_disk_behind_stdout_is_said(model: Path, arguments: list[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "wb") as full:
        given = [*arguments, *([model] if arguments[0] == "inspect" else [])]
        done = process(*given, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 5
    assert done.stderr.startswith(b"error: standard output: ") and b"Traceback" not in done.stderr


def test_names_that_are_no_text(model: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"bad\xff")
    odd.symlink_to(model)
    done = process("convert", odd, tmp_path / "out", "--json", capture_output=True)
    assert done.returncode == 0 and json.loads(done.stdout)["source"].endswith("\udcff")
    assert (tmp_path / "out" / "quant_report.json").is_file()
    done = process("inspect", odd, capture_output=True, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and b"\\udcff" in done.stdout


@pytest.mark.parametrize("option", ["--mode", "--scheme", "--shard-size", "--fallback", "--output-tensor-type"])
def test_an_empty_value_is_no_value(model: Path, tmp_path: Path, option: str) -> None:
    done = run("convert", model, tmp_path / "out", option, "")
    assert done.exit_code == 2 and f"{option} is empty" in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("output", "scheme"), [("out", "bogus"), ("out.gguf", "affine4-g64"), ("out", "q8_0")])
def test_a_fallback_is_looked_at_before_it_is_needed(model: Path, tmp_path: Path, output: str, scheme: str) -> None:
    done = run("convert", model, tmp_path / output, "--fallback", scheme)
    assert done.exit_code == 2 and f"found {scheme}." in done.stderr and "--fallback" in done.stderr


def test_quiet_prints_every_check_that_did_not_hold(model: Path) -> None:
    done = run("inspect", model, "-q", "--max-bpw", 3, "--max-size", "1KB", "--require", "*=q4_0")
    assert done.exit_code == 1 and done.stdout == ""
    assert [line.split(":")[1].split()[0] for line in done.stderr.splitlines()] == [
        "--max-bpw",
        "--max-size",
        "--require",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max-bpw", "nan"], "found nan"),
        (["--require", "*=bf166"], "bf166"),
        (["--filter", "zzz"], "no weight matches"),
        (["--metadata", "--rules"], "--metadata"),
    ],
)
def test_inspect_refuses_what_makes_no_sense(model: Path, arguments: list[str], said: str) -> None:
    done = run("inspect", model, *arguments)
    assert done.exit_code == 2 and said in done.stderr


@pytest.mark.parametrize("output", ["out", "out.gguf"])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
def test_a_model_that_lacks_a_tensor_is_refused(tmp_path: Path, output: str, name: str) -> None:
    folder = tiny_llama(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    done = run("convert", folder, tmp_path / output)
    assert done.exit_code == 3 and name in done.stderr and not (tmp_path / output).exists()


def test_shards_that_are_missing_are_named_without_an_index_too(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    (folder / "model-00001-of-00002.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    done = run("inspect", folder)
    assert done.exit_code == 3 and "model-00002-of-00002.safetensors is missing" in done.stderr


def test_what_is_decoded_takes_the_dtype_of_the_scales(model: Path, tmp_path: Path) -> None:
    assert run("convert", model, tmp_path / "mlx", "-s", "affine4-g32").exit_code == 0
    config = json.loads((tmp_path / "mlx" / "config.json").read_text())
    config.pop("torch_dtype", None)
    (tmp_path / "mlx" / "config.json").write_text(json.dumps(config))
    done = run("convert", tmp_path / "mlx", tmp_path / "dense", "-s", "dense", "--json")
    assert {weight["scheme"] for weight in json.loads(done.stdout)["weights"]} == {"bf16"}


def test_rules_tell_what_is_stored(model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('scheme = "affine4-g32"\n[[rule]]\nmatch = "*.1.mlp.down_proj"\nscheme = "bf16"\n')
    assert run("convert", model, tmp_path / "mlx", "--recipe", recipe).exit_code == 0
    done = run("inspect", tmp_path / "mlx", "--rules", "--json", "--filter", "*.down_proj.weight")
    found = {weight["name"]: weight["scheme"] for weight in json.loads(done.stdout)["weights"]}
    assert found == {
        "model.layers.0.mlp.down_proj.weight": "affine4-g32",
        "model.layers.1.mlp.down_proj.weight": "bf16",
    }


def test_a_matrix_that_cannot_have_the_scheme_is_a_fallback(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m", num_hidden_layers=1, intermediate_size=100)
    done = run("convert", folder, tmp_path / "out", "-s", "affine4-g32", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["totals"]["fallbacks"] == 1
    assert "model.layers.0.mlp.down_proj.weight falls back from affine4-g32 to bf16" in done.stderr
    assert run("convert", folder, tmp_path / "strict", "-s", "affine4-g32", "--strict").exit_code == 4


def test_a_report_of_somebody_else_is_not_overwritten(model: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf.report.json").write_text('{"mine": true}')
    done = run("convert", model, tmp_path / "x.gguf")
    assert done.exit_code == 5 and "x.gguf.report.json" in done.stderr
    assert (tmp_path / "x.gguf.report.json").read_text() == '{"mine": true}' and not (tmp_path / "x.gguf").exists()


def test_force_keeps_files_that_no_model_has(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "thesis.odt").write_text("years of work")
    done = run("convert", model, folder, "--force")
    assert done.exit_code == 5 and "thesis.odt" in done.stderr and (folder / "thesis.odt").exists()


def test_types_and_files_of_types_are_tried_in_the_order_given(model: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("attn_v=q8_0")
    second.write_text("attn_q=q5_1 attn_k=q5_1")
    given = ("--tensor-type", "attn_q=q4_1", "--tensor-type-file", first, "--tensor-type=attn_v=q5_0")
    given = (*given, f"--tensor-type-file={second}", "--tensor-type", "attn_k=q4_1")
    done = run("convert", model, tmp_path / "out.gguf", "-s", "q4_0", *given, "--dry-run", "--json")
    found = {weight["name"]: weight["scheme"] for weight in json.loads(done.stdout)["weights"]}
    assert [found[f"blk.0.attn_{name}.weight"] for name in "qkv"] == ["q4_1", "q5_1", "q8_0"]
