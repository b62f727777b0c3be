"""What `quant` says of a SOURCE that is a part of a model, or of a folder whose index is stale."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from quantcli.cli.app import app
from tests.builders import tiny_llama

SHARD = "model-00001-of-00002.safetensors"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """A model of two files without an index."""
    folder = tiny_llama(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[::2]}, folder / SHARD)
    save_file({name: tensors[name] for name in names[1::2]}, folder / "model-00002-of-00002.safetensors")
    return folder


@pytest.mark.parametrize("to", [("out",), ("out", "--to", "hf"), ("out.gguf",)])
def test_a_shard_is_no_model(halves: Path, tmp_path: Path, to: tuple[str, ...]) -> None:
    done = run("convert", halves / SHARD, tmp_path / to[0], *to[1:])
    assert done.exit_code == 3 and f"as the source: {halves}" in done.stderr and not (tmp_path / to[0]).exists()
    assert run("convert", halves, tmp_path / to[0], *to[1:]).exit_code == 0


def test_a_shard_can_be_looked_at(halves: Path) -> None:
    assert run("inspect", halves / SHARD).exit_code == 0
    assert run("diff", halves / SHARD, halves).exit_code == 3


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapters.safetensors"])
@pytest.mark.parametrize("config", [True, False])
def test_an_adapter_is_named_as_such(tmp_path: Path, name: str, config: bool) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    save_file({"model.layers.0.self_attn.q_proj.lora_A.weight": np.zeros((8, 64), np.float32)}, folder / name)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    if config:
        (folder / "config.json").write_text('{"model_type": "llama"}')
    for source in (folder, folder / name):
        for command in (["convert", source, tmp_path / "out", "--to", "hf"], ["inspect", source]):
            done = run(*command)
            assert done.exit_code == 4
            assert f"{folder}: is a LoRA adapter, not a model. Merge it into its base model first." in done.stderr


def test_a_model_may_have_an_adapter_next_to_it(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    (folder / "adapter_config.json").write_text("{}")
    save_file({"lora_A.weight": np.zeros((8, 64), np.float32)}, folder / "adapter_model.safetensors")
    assert run("convert", folder, tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("to", [("out",), ("out", "--to", "hf"), ("out.gguf",)])
def test_a_stale_index_is_a_warning_and_an_error_under_strict(tmp_path: Path, to: tuple[str, ...]) -> None:
    folder = tiny_llama(tmp_path / "m")
    names = {name: SHARD for name in load_file(folder / "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {names}}}'.replace("'", '"'))
    done = run("convert", folder, tmp_path / to[0], *to[1:], "--strict")
    assert done.exit_code == 4 and "The index is ignored" in done.stderr
    done = run("convert", folder, tmp_path / to[0], *to[1:])
    assert done.exit_code == 0 and "The index is ignored" in done.stderr


@pytest.mark.parametrize("kind", ["llama", "nobody_s"])
@pytest.mark.parametrize("to", [("out",), ("out", "--to", "hf"), ("out.gguf",)])
def test_half_a_model_is_refused_by_every_target(tmp_path: Path, to: tuple[str, ...], kind: str) -> None:
    folder = tiny_llama(tmp_path / "m", model_type=kind, **({} if kind == "llama" else {"architectures": ["Nobody"]}))
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".layers.1." not in name}
    save_file(kept, folder / "model.safetensors")
    done = run("convert", folder, tmp_path / to[0], *to[1:])
    # A model without a table cannot be a GGUF in any case.
    assert done.exit_code == (4 if kind != "llama" and to[0] == "out.gguf" else 3)
    assert not (tmp_path / to[0]).exists()
