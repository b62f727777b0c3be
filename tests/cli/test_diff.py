"""`quant diff`: exit codes, JSON, tables."""

import json
import re
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from quantcli.cli import diff as module
from quantcli.cli.app import app
from quantcli.cli.output import Column, _draw
from tests.builders import llama_gguf, tiny_llama

SCHEMA = json.loads((Path(module.__file__).parent / "schema" / "diff.json").read_text())
WORST = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and one that differs from it in one weight, by a tenth of its values."""
    root = tmp_path_factory.mktemp("diff")
    first, second = tiny_llama(root / "a"), tiny_llama(root / "b")
    arrays = load_file(second / "model.safetensors")
    arrays[WORST] = (arrays[WORST].astype(np.float32) * 1.1).astype(arrays[WORST].dtype)
    save_file(arrays, second / "model.safetensors")
    return first, second


def quant(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["diff", *map(str, arguments)])


def test_equal_checkpoints(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = quant(pair[0], llama_gguf(tmp_path / "a.gguf", pair[0]), "--max-rmse", "0")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "21 weights in both: 21 equal" in done.stdout
    assert "settings and tokenizer are the same" in done.stdout


def test_the_worst_weight_comes_first(pair: tuple[Path, Path]) -> None:
    done = quant(*pair)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[2].split() == ["weight", "A", "B", "rel.", "RMSE", "MSE", "max", "error", "cosine", "result"]
    name, first, second, relative, *_, verdict = lines[3].split()
    assert (name, first, second, verdict) == (WORST, "bf16", "bf16", "differs")
    assert float(relative) == pytest.approx(0.1, rel=0.02)
    assert "21 weights in both: 20 equal, 1 differ" in done.stdout


def test_max_rmse_fails_with_the_worst_weight(pair: tuple[Path, Path]) -> None:
    done = quant(*pair, "--max-rmse", "0.05")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: --max-rmse: {WORST}: relative RMSE 0.") and done.stderr.count("\n") == 1
    assert WORST in done.stdout
    assert quant(*pair, "--max-rmse", "0.2").exit_code == 0
    assert quant(*pair, "--max-rmse", "0").exit_code == 1
    assert quant(*pair, "--max-rmse", "0.05", "--filter", "*.down_proj").exit_code == 0


def test_strict_passes_where_all_is_equal(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = quant(pair[0], tiny_llama(tmp_path / "copy"), "--strict")
    assert (done.exit_code, done.stderr) == (0, "")


def test_strict_fails_where_anything_differs(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = quant(*pair, "--strict")
    assert done.exit_code == 1 and done.stderr.startswith(f"error: --strict: {WORST}") and done.stderr.count("\n") == 1
    other = tiny_llama(tmp_path / "setting", hidden_act="gelu")
    done = quant(pair[0], other, "--strict")
    assert done.exit_code == 1 and "hidden_act" in done.stderr and "hidden_act" in done.stdout
    assert quant(pair[0], other).exit_code == 0
    file = tmp_path / "setting" / "tokenizer_config.json"
    (tmp_path / "setting" / "config.json").write_bytes((pair[0] / "config.json").read_bytes())
    file.write_text(json.dumps(json.loads(file.read_text()) | {"add_bos_token": True}))
    done = quant(pair[0], other, "--strict")
    assert done.exit_code == 1 and "tokenizer" in done.stderr and "add_bos_token" in done.stdout


@pytest.mark.parametrize("key", ["transformers_version", "_name_or_path", "use_cache"])
def test_strict_lets_pass_what_says_nothing_of_the_model(key: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = quant(pair[0], tiny_llama(tmp_path / "other", **{key: "x"}), "--strict")
    assert (done.exit_code, done.stderr) == (0, "") and re.search(f"not counted.*: {key}: ", done.stdout)


def test_strict_fails_where_something_was_not_compared(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other")
    (other / "preprocessor_config.json").write_text("{}")
    done = quant(pair[0], other, "--strict")
    assert done.exit_code == 1 and "preprocessor_config.json" in done.stderr
    assert "not compared: files of B: preprocessor_config.json" in done.stdout
    found = json.loads(quant(pair[0], other, "--json").stdout)
    jsonschema.validate(found, SCHEMA)
    assert [left["names"] for left in found["not_compared"]] == [["preprocessor_config.json"]]
    file = llama_gguf(tmp_path / "a.gguf", pair[0])
    done = quant(pair[0], file, "--strict", "-q")
    assert (done.exit_code, done.stdout) == (1, "") and "not compared" in done.stderr
    assert quant(file, file, "--strict").exit_code == 0


def test_strict_beside_max_rmse(pair: tuple[Path, Path]) -> None:
    assert "--max-rmse" in quant(*pair, "--strict", "--max-rmse", "0.05").stderr
    assert "--strict" in quant(*pair, "--strict", "--max-rmse", "0.2").stderr


def test_max_rmse_fails_where_a_weight_is_missing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "short")
    arrays = load_file(folder / "model.safetensors")
    del arrays["model.norm.weight"]
    save_file(arrays, folder / "model.safetensors")
    done = quant(pair[0], folder, "--max-rmse", "1")
    assert done.exit_code == 1 and "model.norm.weight: is only in A" in done.stderr
    assert "only in A: model.norm.weight (bf16, 64)" in done.stdout
    assert quant(pair[0], folder).exit_code == 0


def test_json_is_whole_and_alone(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = quant(pair[1], llama_gguf(tmp_path / "a.gguf", pair[0], rope_freq_base=2e4), "--json", "--max-rmse", "0.01")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    jsonschema.validate(found, SCHEMA)
    assert list(found) == SCHEMA["required"]
    assert (found["a"]["kind"], found["b"]["kind"]) == ("hf", "gguf")
    assert len(found["weights"]) == 21
    worst = found["weights"][0]
    assert (worst["name"], worst["a"]["name"], worst["b"]["name"]) == (WORST, WORST, "blk.1.ffn_up.weight")
    assert worst["relative_rmse"] == pytest.approx(1 - 1 / 1.1, rel=0.02)
    assert worst["mse"] > 0 and worst["max_error"] > 0 and 0.999 < worst["cosine"] <= 1
    assert found["metadata"] == [{"key": "rope.theta", "a": 10000.0, "b": 20000.0}]
    assert (found["totals"]["equal"], found["totals"]["differs"]) == (20, 1)


def test_tokenizers_that_give_other_ids(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Another pre-tokenizer cuts texts elsewhere, which the rebuilt tokenizer of a GGUF file shows."""
    file = llama_gguf(tmp_path / "a.gguf", pair[0], tokenizer_pre="tekken", add_bos_token=True)
    found = json.loads(quant(pair[0], file, "--json").stdout)
    jsonschema.validate(found, SCHEMA)
    by_part = {entry["what"]: entry for entry in found["tokenizer"]}
    assert by_part["ids of probe texts"]["count"] == 64
    first = by_part["ids of probe texts"]["first"][0]
    assert (first["at"], first["b"]) == ("Hello, world!", [93, *first["a"]])
    assert "ids of probe texts" in quant(pair[0], file).stdout


def test_a_terminal_gets_the_worst_rows(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 3)
    assert quant(*pair).stdout.count("bf16  bf16") == 21
    monkeypatch.setattr(module, "_is_terminal", lambda: True)
    shown = quant(*pair).stdout
    assert shown.count("bf16  bf16") == 3 and "18 more weights" in shown and "--all" in shown
    assert quant(*pair, "--all").stdout.count("bf16  bf16") == 21


def test_texts_of_a_file_do_not_steer_the_terminal(pair: tuple[Path, Path], tmp_path: Path) -> None:
    files = [
        llama_gguf(tmp_path / f"{i}.gguf", pair[0], name=f"\x1b[2J\n{i}", chat_template=f"\u202e{i}") for i in (1, 2)
    ]
    shown = quant(*files).stdout
    assert "?[2J\\n1" in shown and "?2" in shown and "\x1b" not in shown and "\u202e" not in shown


def test_keys_and_names_of_files_do_not_steer_the_terminal(tmp_path: Path) -> None:
    sides = [tiny_llama(tmp_path / side, **{"\x1b[2J": side}) for side in ("a", "b")]
    (sides[0] / "\x1b[2J.json").write_text("{}")
    (sides[0] / "tokenizer_config.json").write_text(json.dumps({"\u202e": 1}))
    done = quant(*sides, "--strict")
    assert done.exit_code == 1 and "?[2J" in done.stdout
    assert not {"\x1b", "\u202e"} & {*done.stdout, *done.stderr}
    jsonschema.validate(json.loads(quant(*sides, "--json").stdout), SCHEMA)


def test_long_texts_are_shown_where_they_begin_to_differ(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folders = []
    for side, end in (("a", "left"), ("b", "right")):
        folder = tmp_path / side
        shutil.copytree(pair[0], folder)
        (folder / "chat_template.jinja").write_text("{{message}}" * 20 + end)
        folders.append(folder)
    (line,) = [line for line in quant(*folders).stdout.splitlines() if line.startswith("chat templates")]
    assert line.split()[-2].endswith("}left") and line.split()[-1].endswith("}right") and line.count("...") == 2


def test_quiet_checks_without_a_table(pair: tuple[Path, Path]) -> None:
    done = quant(*pair, "-q", "--max-rmse", "0.05")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --max-rmse")


@pytest.mark.parametrize(
    "options",
    [["--max-rmse", "-1"], ["--max-rmse", "nan"], ["--filter", "none"], ["--threads", "0"], ["--max-memory", "x"]],
)
def test_wrong_usage(pair: tuple[Path, Path], options: list[str]) -> None:
    done = quant(*pair, *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert options[0] in done.stderr


def test_a_path_that_is_not_there(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = quant(pair[0], tmp_path / "absent")
    assert (done.exit_code, done.stdout) == (3, "") and "absent" in done.stderr


@pytest.mark.parametrize(("columns", "whole"), [(80, False), (110, True)])
def test_a_narrow_terminal_shows_fewer_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int, whole: bool
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    table = [Column("weight"), Column("rel. RMSE", right=True), Column("cosine", right=True, wide_only=True)]
    _draw(table, [(WORST, "0.1", "0.99")], None)
    said = capsys.readouterr().out
    assert WORST in said and ("cosine" in said) is ("0.99" in said) is whole
