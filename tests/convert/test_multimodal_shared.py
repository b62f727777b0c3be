"""Text models in models with towers, of the shared folder: as llama.cpp's converter and mlx-lm made them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quantcli.containers.gguf_values import ArrayValue
from quantcli.sources.detect import open_source
from tests.conversions import config, converted, planned, stored
from tests.convert.test_arch_shared import check

CASES = ("gemma3", "glm4v", "mistral3", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "smolvlm", "voxtral")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, shared: Path) -> Path:
    folder = shared / "fixtures" / "arch2" / str(request.param)
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


def folder_of(case: Path, root: Path, settings: str = "config.json") -> Path:
    """The case with its tokenizer, in a folder that is named like it."""
    made = root / case.name
    made.mkdir(parents=True)
    for name in ("generation_config.json", "model.safetensors"):
        shutil.copy(case / name, made)
    shutil.copy(case / settings, made / "config.json")
    kind = json.loads((case / "case.json").read_text())["tokenizer"]
    folders = [case.parents[1] / of / "_tokenizers" / kind for of in ("arch", "arch2")]
    for file in next(folder for folder in folders if folder.is_dir()).iterdir():
        if not file.name.endswith(".gz"):
            shutil.copy(file, made)
    return made


def plain(value: Any) -> Any:
    held = value.value
    return held.decode() if isinstance(held, ArrayValue) else held


@pytest.mark.parametrize("settings", ["config.json", "config-v5.json"])
def test_gguf(case: Path, settings: str, tmp_path: Path) -> None:
    if not (case / settings).is_file():
        pytest.skip("published with one config.json")
    source, file = folder_of(case, tmp_path, settings), tmp_path / "a.gguf"
    manifest = json.loads((case / "reference-bf16.json").read_text())
    (warning,) = planned(source, file, dtype="bf16").warnings
    assert "vision or audio tower" in warning
    converted(source, file, check=False, dtype="bf16")
    check(file, case / "reference-bf16.json")
    own = {k: v for k, v in open_source(file).metadata.items() if not k.startswith("tokenizer.")}
    wanted = {k: v[1] for k, v in manifest["metadata"].items() if not k.startswith("tokenizer.")}
    assert {key: plain(value) for key, value in own.items()} == {**wanted, "general.name": plain(own["general.name"])}
    assert list(own) == list(wanted)


def test_the_text_model_comes_back(case: Path, tmp_path: Path) -> None:
    source = folder_of(case, tmp_path)
    converted(source, tmp_path / "a.gguf", check=False, dtype="bf16")
    converted(tmp_path / "a.gguf", tmp_path / "back", to="hf")
    towers = open_source(source).towers
    back = {tensor.data for tensor in stored(tmp_path / "back").values()}
    lost = [name for name, tensor in stored(source).items() if tensor.data not in back and name not in towers]
    # Experts are stored one by one.
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in lost} <= {"experts"}
    converted(tmp_path / "back", tmp_path / "again.gguf", check=False)
    assert tensors(tmp_path / "again.gguf") == tensors(tmp_path / "a.gguf")


def tensors(file: Path) -> dict[str, bytes]:
    weights = open_source(file).weights
    return {name: b"".join(p.read_bytes(0, p.nbytes) for p in w.parts.values()) for name, w in weights.items()}


@pytest.mark.parametrize("quantized", [False, True], ids=["dense", "q"])
def test_mlx(case: Path, tmp_path: Path, quantized: bool) -> None:
    source = folder_of(case, tmp_path)
    group = json.loads((case / "case.json").read_text())["mlx_group_size"]
    options: dict[str, Any] = {"scheme": f"affine4-g{group}"} if quantized else {}
    converted(source, tmp_path / "mlx", to="mlx", dtype="bf16", **options)
    towers, before = open_source(source).towers, stored(source)
    made = stored(tmp_path / "mlx")
    kept = [tensor.data for name, tensor in made.items() if name in open_source(tmp_path / "mlx").towers]
    assert sorted(kept) == sorted(before[name].data for name in towers)
    assert config(tmp_path / "mlx").keys() >= config(source).keys()
    manifest = case / ("mlx_lm_q4.json" if quantized else "mlx_lm.json")
    entries = json.loads(manifest.read_text()).get("tensors", []) if manifest.is_file() else []
    wanted = {e["name"]: (e["dtype"], tuple(e["shape"]), e["sha256"]) for e in entries}
    assert {name: (made[name].dtype, made[name].shape, made[name].sha256) for name in wanted} == wanted
    assert not wanted or len(made) == len(wanted) + len(towers)


def test_a_hugging_face_folder_is_a_copy(case: Path, tmp_path: Path) -> None:
    source = folder_of(case, tmp_path)
    converted(source, tmp_path / "hf", to="hf")
    assert stored(tmp_path / "hf") == stored(source)
