"""`--drop GLOB` leaves tensors of the source out, for every kind of source and target, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from quantcli.cli.app import app
from tests.builders import BF16, LLAMA, byte_level_tokenizer, folder_of, llama_gguf, llama_tensors, tiny_awq, tiny_llama
from tests.conversions import stored
from tests.gguf_files import load, of_values, rewritten

EXTRA = {"extra.weight": np.ones((64, 64), BF16), "model.layers.0.extra.bias": np.ones(64, BF16)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each kind that has two tensors too many, of which no family knows."""
    root = tmp_path_factory.mktemp("models")
    folder_of(root / "hf", {**llama_tensors(LLAMA), **EXTRA}, LLAMA)
    (root / "hf" / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()))
    plain = llama_gguf(root / "plain.gguf", tiny_llama(root / "plain"))
    more = {"extra.weight": of_values(np.ones((64, 64))), "blk.0.extra.bias": of_values(np.ones(64))}
    rewritten(plain, root / "gguf.gguf", lambda tensors: {**tensors, **more})
    run("convert", root / "plain", root / "quantized", "-s", "affine4-g32")
    from safetensors.numpy import load_file, save_file

    quantized = load_file(root / "quantized" / "model.safetensors")
    folder = root / "mlx"
    folder.mkdir()
    for file in (root / "quantized").iterdir():
        if file.suffix == ".json" and "index" not in file.name:
            (folder / file.name).write_bytes(file.read_bytes())
    save_file({**quantized, **EXTRA}, folder / "model.safetensors", {"format": "mlx"})
    return {"hf": root / "hf", "mlx": folder, "gguf": root / "gguf.gguf", "plain": root / "plain"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def names(output: Path) -> set[str]:
    return set(load(output)[1]) if output.suffix == ".gguf" else set(stored(output))


@pytest.mark.parametrize("source", ["hf", "mlx", "gguf"])
@pytest.mark.parametrize("output", ["mlx", "hf", "out.gguf"])
def test_every_source_and_target(models: dict[str, Path], source: str, output: str, tmp_path: Path) -> None:
    options = ["--to", "hf"] if output == "hf" else []
    done = run("convert", models[source], tmp_path / output, *options, "--drop", "*extra*", "--verify", "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    reasons = {tensor["name"]: tensor["reason"] for tensor in report["left_out"]}
    assert len(reasons) == 2 and set(reasons.values()) == {"--drop *extra*"} and report["verified"]
    assert report["command"] is not None and not [n for n in names(tmp_path / output) if "extra" in n]


@pytest.mark.parametrize("source", ["hf", "mlx", "gguf"])
def test_without_it_they_are_in_the_way(models: dict[str, Path], source: str, tmp_path: Path) -> None:
    outputs = {"hf": ["mlx", "o.gguf"], "mlx": ["mlx", "o.gguf"], "gguf": ["mlx", "hf"]}[source]
    for output in outputs:
        options = ["--to", "hf"] if output == "hf" else []
        done = run("convert", models[source], tmp_path / output, *options)
        assert done.exit_code == 4 and "--drop 'extra.weight'" in done.stderr


def test_the_plan_lists_them(models: dict[str, Path], tmp_path: Path) -> None:
    done = run("convert", models["hf"], tmp_path / "out", "--dry-run", "--drop", "*extra*")
    assert done.exit_code == 0 and "dropped: 2 tensors (first: extra.weight): --drop *extra*" in done.stdout
    one = run("convert", models["hf"], tmp_path / "out", "--dry-run", "--drop", "extra", "--drop", "*.extra.bias")
    assert "dropped: extra.weight: --drop extra\n" in one.stdout
    assert "dropped: model.layers.0.extra.bias: --drop *.extra.bias\n" in one.stdout


def test_a_glob_that_matches_nothing_is_a_warning(models: dict[str, Path], tmp_path: Path) -> None:
    arguments = ("convert", models["hf"], tmp_path / "out", "--dry-run", "--drop", "*extra*", "--drop", "*.nothing")
    done = run(*arguments)
    assert done.exit_code == 0 and "--drop *.nothing matches no weight" in done.stderr
    assert run(*arguments, "--strict").exit_code == 4
    twice = run("convert", models["hf"], tmp_path / "out", "--dry-run", "--drop", "*extra*", "--drop", "extra.weight")
    assert twice.exit_code == 0 and "matches no" not in twice.stderr


@pytest.mark.parametrize("glob", ["", " ", "x" * 1001])
def test_no_glob(models: dict[str, Path], glob: str, tmp_path: Path) -> None:
    assert run("convert", models["hf"], tmp_path / "out", "--drop", glob).exit_code == 2


@pytest.mark.parametrize(
    "glob", ["model.norm.weight", "model.layers.1.*", "*.q_proj", "lm_head.weight", "model.embed_tokens", "model.*"]
)
@pytest.mark.parametrize("output", ["mlx", "hf", "out.gguf"])
def test_what_the_model_needs_is_refused(models: dict[str, Path], glob: str, output: str, tmp_path: Path) -> None:
    options = ["--to", "hf"] if output == "hf" else []
    done = run("convert", models["plain"], tmp_path / output, *options, "--drop", glob)
    assert done.exit_code == 3 and not (tmp_path / output).exists(), done.stderr
    assert "Download the checkpoint again" not in done.stderr


@pytest.mark.parametrize("glob", ["output_norm.weight", "blk.1.*", "blk.*.attn_q.weight", "token_embd"])
@pytest.mark.parametrize("output", ["mlx", "hf", "out.gguf"])
def test_what_the_model_of_a_gguf_file_needs_is_refused(
    models: dict[str, Path], glob: str, output: str, tmp_path: Path
) -> None:
    options = ["--to", "hf"] if output == "hf" else []
    done = run("convert", models["gguf"], tmp_path / output, *options, "--drop", glob, "--drop", "*extra*")
    assert done.exit_code == 3 and not (tmp_path / output).exists(), done.stderr


def test_optional_tensors_that_count_are_a_warning(models: dict[str, Path], tmp_path: Path) -> None:
    """All biases of a file at once: nothing else says that there are any."""
    biases = {f"blk.{i}.attn_{k}.bias": of_values(np.ones(64 if k == "q" else 32)) for i in (0, 1) for k in "qkv"}
    biases |= {f"blk.{i}.attn_output.bias": of_values(np.ones(64)) for i in (0, 1)}
    source = rewritten(models["gguf"], tmp_path / "s.gguf", lambda tensors: {**tensors, **biases})
    for output in ("o.gguf", "out"):
        arguments = ("convert", source, tmp_path / output, "--drop", "*attn*.bias", "--drop", "*extra*", "--dry-run")
        done = run(*arguments)
        assert done.exit_code == 0 and "8 tensors (first: blk.0.attn_q.bias)" in done.stderr, done.stderr
        assert run(*arguments, "--strict").exit_code == 4
    one = run("convert", source, tmp_path / "o.gguf", "--drop", "*attn_q.bias", "--dry-run")
    assert one.exit_code == 3


def test_a_head_with_the_values_of_the_embedding_is_none(tmp_path: Path) -> None:
    tensors = llama_tensors(LLAMA)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    source = tiny_llama(tmp_path / "m", tie_word_embeddings=True)
    save_file(tensors, source / "model.safetensors")
    done = run("convert", source, tmp_path / "out", "--to", "hf", "--drop", "lm_head", "--strict")
    assert done.exit_code == 0, done.stderr


def test_rotary_factors_are_settings(models: dict[str, Path], tmp_path: Path) -> None:
    factors = {"rope_freqs.weight": of_values(np.ones(8))}
    source = rewritten(models["gguf"], tmp_path / "s.gguf", lambda tensors: {**tensors, **factors})
    for output in ("o.gguf", "out"):
        done = run("convert", source, tmp_path / output, "--drop", "rope_freqs*", "--drop", "*extra*")
        assert done.exit_code == 3 and "rope_freqs.weight" in done.stderr


def test_nothing_is_left(models: dict[str, Path], tmp_path: Path) -> None:
    for source in ("hf", "gguf"):
        done = run("convert", models[source], tmp_path / "out", "--drop", "*")
        assert done.exit_code == 3 and "--drop" in done.stderr


def test_a_quantized_weight_goes_with_all_its_arrays(tmp_path: Path) -> None:
    source = tiny_awq(tmp_path / "m")
    tensors = {name: t for name, t in stored(source).items() if "down_proj" in name}
    assert len(tensors) == 6
    config = json.loads((source / "config.json").read_text()) | {"model_type": "strange", "architectures": ["X"]}
    (source / "config.json").write_text(json.dumps(config))
    done = run("convert", source, tmp_path / "out", "--to", "hf", "--drop", "*.down_proj.weight")
    assert done.exit_code == 0, done.stderr
    assert set(stored(source)) - set(stored(tmp_path / "out")) == set(tensors)


def with_scale(tensors: dict[str, Any]) -> dict[str, Any]:
    return {**tensors, "blk.0.ffn_up.scale": of_values(np.full(1, 2.0))}


def test_a_scale_of_a_gguf_file_stays_with_its_weight(models: dict[str, Path], tmp_path: Path) -> None:
    source = rewritten(models["gguf"], tmp_path / "s.gguf", with_scale)
    for output in ("out", "o.gguf"):
        done = run("convert", source, tmp_path / output, "--drop", "*.scale", "--drop", "*extra*")
        assert done.exit_code == 4 and "blk.0.ffn_up.scale" in done.stderr
    plan = run("convert", source, tmp_path / "o.gguf", "--drop", "blk.0.ffn_up.weight", "--dry-run", "--json")
    assert plan.exit_code == 3  # the model needs it
    keys, tensors = load(source)
    assert "blk.0.ffn_up.scale" in tensors and keys


def test_a_scale_goes_with_its_weight(tmp_path: Path, models: dict[str, Path]) -> None:
    more = {"x.weight": of_values(np.ones((64, 64))), "x.scale": of_values(np.ones(1))}
    source = rewritten(models["gguf"], tmp_path / "s.gguf", lambda tensors: {**tensors, **more})
    done = run("convert", source, tmp_path / "o.gguf", "--drop", "x.weight", "--json")
    assert done.exit_code == 0
    assert {tensor["name"] for tensor in json.loads(done.stdout)["left_out"]} == {"x.weight", "x.scale"}
    assert names(source) - names(tmp_path / "o.gguf") == {"x.weight", "x.scale"}


def test_another_drop_is_another_run(models: dict[str, Path], tmp_path: Path) -> None:
    from quantcli.convert.running.fingerprint import fingerprint
    from tests.conversions import planned

    one, two = (planned(models["hf"], tmp_path / "out", to="hf", drop=drop) for drop in ((), ("extra",)))
    assert fingerprint(one) != fingerprint(two)


def test_diff_names_what_was_left_out(models: dict[str, Path], tmp_path: Path) -> None:
    assert run("convert", models["hf"], tmp_path / "out", "--drop", "*extra*").exit_code == 0
    found = json.loads(run("diff", models["hf"], tmp_path / "out", "--json").stdout)
    assert {weight["name"] for weight in found["only_a"]} == set(EXTRA) and not found["only_b"]
    assert {weight["verdict"] for weight in found["weights"]} == {"equal"}


def test_split_files_and_pruned_layers(models: dict[str, Path], tmp_path: Path) -> None:
    done = run("convert", models["gguf"], tmp_path / "s.gguf", "--shard-size", "40KB", "--drop", "extra.weight")
    assert done.exit_code == 0
    first = next(tmp_path.glob("s-00001-of-*.gguf"))
    kept = run("convert", first, tmp_path / "k.gguf", "--keep-split", "--drop", "*.extra.bias", "--json")
    assert kept.exit_code == 0 and len(json.loads(kept.stdout)["left_out"]) == 1
    pruned = run("convert", models["gguf"], tmp_path / "p.gguf", "--prune-layers", "1", "--drop", "*extra*", "--json")
    assert pruned.exit_code == 0, pruned.stderr
    assert {t["reason"] for t in json.loads(pruned.stdout)["left_out"]} == {"--drop *extra*", "its layer is pruned"}


#: Source, globs -> what the message ends with.
WHOLE_LAYERS = {
    ("deep.gguf", "blk.1.*"): "--prune-layers 1 with a GGUF output.",
    ("deep.gguf", "blk.[12].*"): "--prune-layers 1,2 with a GGUF output.",
    ("deep.gguf", "blk.*"): "Remove fewer tensors.",
    ("deep", "model.layers.1.*"): "Remove fewer tensors.",
}


@pytest.mark.parametrize("case", WHOLE_LAYERS, ids=str)
@pytest.mark.parametrize("output", ["out", "out.gguf"])
def test_whole_layers_are_not_taken(case: tuple[str, str], output: str, tmp_path: Path) -> None:
    llama_gguf(tmp_path / "deep.gguf", tiny_llama(tmp_path / "deep", num_hidden_layers=3))
    done = run("convert", tmp_path / case[0], tmp_path / output, "--drop", case[1])
    layer = 0 if case[1] == "blk.*" else 1
    assert done.exit_code == 3 and f"--drop removes all tensors of layer {layer}" in done.stderr
    assert done.stderr.rstrip().endswith(WHOLE_LAYERS[case])
