"""The models of the shared folders: tensors as llama.cpp's converter, llama-quantize and mlx-lm made them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conversions import converted, stored
from tests.convert.test_golden_arch import CASES, hashes

#: Cases of the committed data that the shared folder does not have.
OURS = (
    "cohere", "cohere_qk", "deepseek_plain", "deepseek_v2_big", "deepseek_v32", "exaone4", "exaone4_small",
    "falcon_raw", "gemma2_27", "gemma3_plain", "glm4", "glm4_moe_plain", "kimi_k2", "llama32", "llama3_odd",
    "mistral_plain", "mixtral_window", "neox_serial", "olmo3_yarn", "phi3_short", "qwen2_window", "qwen3_5",
    "qwen3_5_moe", "qwen3_yarn", "smollm3_yarn", "stablelm",
)  # fmt: skip
#: Those whose presets ask for more than the size of rows: experts, layers for prediction, types that are rounded again.
PRESETS = ("deepseek_v2", "gpt_oss_mxfp4", "qwen2_moe", "glm4_moe", "mixtral", "falcon")


@pytest.fixture(params=[case for case in CASES if case not in OURS])
def case(request: pytest.FixtureRequest, shared: Path) -> Path:
    folders = [shared / "fixtures" / kind / str(request.param) for kind in ("arch", "arch2")]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        pytest.skip(f"{folders[0]} is not there")
    return found


def folder_of(case: Path, tmp_path: Path) -> Path:
    """The case with its tokenizer, in a folder that is named like it."""
    made = tmp_path / case.name
    made.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        if (case / name).is_file():
            shutil.copy(case / name, made)
    kind = json.loads((case / "case.json").read_text())["tokenizer"]
    kinds = [case.parent.parent / folder / "_tokenizers" / kind for folder in ("arch", "arch2")]
    for file in next(folder for folder in kinds if folder.is_dir()).iterdir():
        if not file.name.endswith(".gz"):
            shutil.copy(file, made)
    return made


def check(file: Path, manifest: Path) -> None:
    wanted = {
        entry["name"]: (entry["type"].lower(), tuple(reversed(entry["shape"])), entry["sha256"])
        for entry in json.loads(manifest.read_text())["tensors"]
    }
    assert hashes(file) == wanted


def test_gguf(case: Path, tmp_path: Path) -> None:
    source = folder_of(case, tmp_path)
    converted(source, tmp_path / "a.gguf", check=False, to="gguf", dtype="bf16")
    check(tmp_path / "a.gguf", case / "reference-bf16.json")
    if case.name in PRESETS:
        options: dict[str, Any] = {"allow_requantize": case.name.endswith("mxfp4")}
        converted(source, tmp_path / "q.gguf", check=False, to="gguf", dtype="bf16", scheme="q4_k_m", **options)
        check(tmp_path / "q.gguf", case / "reference-q4_k_m.json")


@pytest.mark.parametrize("quantized", [False, True], ids=["dense", "q"])
def test_mlx(case: Path, tmp_path: Path, quantized: bool) -> None:
    manifest = json.loads((case / ("mlx_lm_q4.json" if quantized else "mlx_lm.json")).read_text())
    if "tensors" not in manifest:
        pytest.skip(f"mlx-lm does not convert {case.name}")
    group = json.loads((case / "case.json").read_text())["mlx_group_size"]
    options: dict[str, Any] = {"scheme": f"affine4-g{group}"} if quantized else {}
    converted(folder_of(case, tmp_path), tmp_path / "mlx", check=False, to="mlx", dtype="bf16", **options)
    wanted = {e["name"]: (e["dtype"], tuple(e["shape"]), e["sha256"]) for e in manifest["tensors"]}
    made = {name: (t.dtype, t.shape, t.sha256) for name, t in stored(tmp_path / "mlx").items()}
    assert made == wanted
