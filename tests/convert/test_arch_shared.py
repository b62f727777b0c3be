"""The models of the shared folders: tensors and metadata as llama.cpp's converter, llama-quantize and mlx-lm made them.

A folder is a case if it has a case.json. Those of families that have no table are skipped by name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.containers.gguf_values import ArrayValue
from quantcli.models import find
from quantcli.sources.detect import open_source
from tests.conversions import Stored, converted, stored
from tests.convert.test_golden_arch import hashes, of_text
from tests.targets.test_gguf_metadata import compare, json_hash

#: Found when tests are collected; where there is no shared folder, the tests are skipped for want of cases.
FIXTURES = Path(os.environ.get("QUANTCLI_FIXTURES", Path(__file__).resolve().parents[3] / "shared")) / "fixtures"
#: Cases of a family that has a table, of a kind of model that the tables do not know.
OTHER_KINDS = {"qwen3-reranker-tiny": "a reranker, whose head is made of two rows of the embedding"}
#: Those whose presets ask for more than the size of rows: experts, layers for prediction, types that are rounded again.
PRESETS = ("deepseek_v2", "gpt_oss_mxfp4", "qwen2_moe", "glm4_moe", "mixtral", "falcon")
PRE = "tokenizer.ggml.pre"
#: Keys that a file of ours says otherwise. Of codes that are kept as they are the converter names the type of the file.
#: The converter was told a pre-tokenizer that the pattern in a case's tokenizer.json is not.
OTHERWISE = {
    "gpt_oss_mxfp4": ("general.file_type", "general.quantization_version"),
    **dict.fromkeys(("afmoe", "falcon_h1", "lfm2", "lfm2_vl", "llama4_text", "seed_oss", "smolvlm"), (PRE,)),
}
#: The parts of a model beside its text model: GGUF has them in a file of their own, folders keep them as they are.
TOWERS = re.compile(r"^(model\.)?(vision_tower|visual|vision_model|audio_tower|multi_modal_projector|connector)\.")
#: Tensor of a case -> its largest error in the folder that comes back of GGUF, where the converter itself loses bits.
INEXACT: dict[str, dict[str, float]] = {
    "qwen3_next": {"model.layers.0.post_attention_layernorm.weight": 2.0**-24},  # 1 + x has no bits for all of a tiny x
}
#: GGUF tensors with an exponential that torch computes otherwise, in the last bit, on the processor that made the case.
OTHER_EXPONENTIAL = {"qwen3_5_moe": ("blk.2.ssm_a",)}
#: Its transforms.json calls tensors dropped whose rows M-RoPE permutes.
PERMUTED = ("glm4v",)
#: What comes back of GGUF is the text model alone, as its own class stores it -> what is other then.
OTHER_CLASS = {"qwen3_vl_moe": "each expert has a tensor of its own, as in Qwen3-MoE"}


def unknown(case: str) -> str | None:
    """Why a case is not run."""
    config = json.loads((FIXTURES / case / "config.json").read_text())
    why = OTHER_KINDS.get(Path(case).name)
    return why or (None if find(config) else f"no table of {config['model_type']}, {config['architectures'][0]}")


#: Case, as fixtures/CASE -> why it is not run.
CASES = {
    case: unknown(case)
    for case in sorted(f"{path.parent.parent.name}/{path.parent.name}" for path in FIXTURES.glob("arch*/*/case.json"))
}


@pytest.fixture(params=[case for case, why in CASES.items() if why is None])
def case(request: pytest.FixtureRequest) -> Path:
    return FIXTURES / str(request.param)


def test_cases_that_are_not_run() -> None:
    left = [f"{case} ({why})" for case, why in CASES.items() if why is not None]
    if left:
        pytest.skip(f"{len(left)} cases: {'; '.join(left)}")


def folder_of(case: Path, tmp_path: Path) -> Path:
    """The case with its tokenizer, in a folder that is named like it."""
    made = tmp_path / case.name
    made.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors", "modules.json"):
        if (case / name).is_file():
            shutil.copy(case / name, made)
    if (case / "1_Pooling").is_dir():
        shutil.copytree(case / "1_Pooling", made / "1_Pooling")
    kind = json.loads((case / "case.json").read_text())["tokenizer"]
    places = (FIXTURES / root / "_tokenizers" / kind for root in (case.parent.name, "arch", "arch2"))
    for file in next(place for place in places if place.is_dir()).iterdir():
        if not file.name.endswith(".gz"):
            shutil.copy(file, made)
    return made


def metadata(file: Path) -> dict[str, tuple[str, Any]]:
    """Key -> type, value, in the order of the file."""
    read = open_source(file).metadata
    plain = {
        key: tuple(one.value.decode()) if isinstance(one.value, ArrayValue) else one.value for key, one in read.items()
    }
    return {key: (one.type, plain[key]) for key, one in read.items()}


def check(file: Path, manifest: Path) -> None:
    """Names, types, shapes and bytes of all tensors, all metadata with their order."""
    theirs = json.loads(manifest.read_text())
    wanted = {
        entry["name"]: (entry["type"].lower(), tuple(reversed(entry["shape"])), entry["sha256"])
        for entry in theirs["tensors"]
    }
    made = hashes(file)
    for name in OTHER_EXPONENTIAL.get(manifest.parent.name, ()):
        assert made.pop(name)[:2] == wanted.pop(name)[:2]
    assert made == wanted
    apart = OTHERWISE.get(manifest.parent.name, ())
    ours, told = (
        {key: one for key, one in all_of.items() if key not in apart} for all_of in (metadata(file), theirs["metadata"])
    )
    compare(ours, told, json_hash)


def test_gguf(case: Path, tmp_path: Path) -> None:
    source = folder_of(case, tmp_path)
    converted(source, tmp_path / "a.gguf", check=False, to="gguf", dtype="bf16")
    check(tmp_path / "a.gguf", case / "reference-bf16.json")
    if case.name in PRESETS:
        options: dict[str, Any] = {"allow_requantize": case.name.endswith("mxfp4")}
        converted(source, tmp_path / "q.gguf", check=False, to="gguf", dtype="bf16", scheme="q4_k_m", **options)
        check(tmp_path / "q.gguf", case / "reference-q4_k_m.json")


def dropped(case: Path, names: Iterable[str]) -> set[str]:
    """The source's tensors that the converter leaves out."""
    path = case / "transforms.json"
    is_known = path.is_file() and case.name not in PERMUTED
    known = json.loads(path.read_text())["gguf_dropped_sources"] if is_known else ()
    return {name for name in names if name in known or TOWERS.match(name)}


#: What the towers of Qwen's models are called in releases; MLX folders have mlx-vlm's name.
QWENS = re.compile(r"^visual\.")


def towers(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Those that are not the text model's, as folders for mlx-lm and mlx-vlm name them."""
    found = {name.removeprefix("model."): one for name, one in tensors.items() if TOWERS.match(name)}
    return {QWENS.sub("vision_tower.", name): one for name, one in found.items()}


def error(ours: Stored, theirs: Stored) -> float:
    """The largest difference of two tensors; infinite where they have other shapes or dtypes."""
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return float("inf")
    first, second = (one.array("<u4" if one.dtype == "F32" else "<u2") for one in (ours, theirs))
    shift = 0 if ours.dtype == "F32" else 16
    first, second = ((one.astype("<u4") << shift).view("<f4") for one in (first, second))
    return float(np.abs(first - second).max())


def test_what_comes_back_of_gguf_is_the_source(case: Path, tmp_path: Path) -> None:
    if case.name in OTHER_CLASS:
        pytest.skip(f"{case.name}: {OTHER_CLASS[case.name]}")
    source = folder_of(case, tmp_path)
    converted(source, tmp_path / "a.gguf", check=False, to="gguf", dtype="bf16")
    converted(tmp_path / "a.gguf", tmp_path / "back", check=False, to="hf")
    before, after = stored(source), of_text(stored(tmp_path / "back"))
    wanted = of_text({name: one for name, one in before.items() if name not in dropped(case, before)})
    assert sorted(after) == sorted(wanted)
    apart = {name: error(after[name], one) for name, one in wanted.items() if after[name] != one}
    assert apart == INEXACT.get(case.name, {})


@pytest.mark.parametrize("quantized", [False, True], ids=["dense", "q"])
def test_mlx(case: Path, tmp_path: Path, quantized: bool) -> None:
    path = case / ("mlx_lm_q4.json" if quantized else "mlx_lm.json")
    manifest = json.loads(path.read_text()) if path.is_file() else {}
    if "tensors" not in manifest:
        pytest.skip(f"mlx-lm does not convert {case.name}")
    group = json.loads((case / "case.json").read_text())["mlx_group_size"]
    options: dict[str, Any] = {"scheme": f"affine4-g{group}"} if quantized else {}
    source = folder_of(case, tmp_path)
    converted(source, tmp_path / "mlx", check=False, to="mlx", dtype="bf16", **options)
    made = stored(tmp_path / "mlx")
    kept = towers(made)  # mlx-lm drops them
    assert kept == towers(stored(source))
    wanted = {e["name"]: (e["dtype"], tuple(e["shape"]), e["sha256"]) for e in manifest["tensors"]}
    assert {name: (one.dtype, one.shape, one.sha256) for name, one in made.items() if not TOWERS.match(name)} == wanted
