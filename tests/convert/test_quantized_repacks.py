"""Whole checkpoints of the quantizers to MLX and GGUF: codes kept where the grid allows it, said where not.

With `--scale-dtype f32` the values of an MLX folder, rounded to the tool's dtype, are the tool's own.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from quantcli.arrays import numpy_dtype
from quantcli.sources.detect import open_source
from tests.conversions import converted

TOOLS_DTYPES = {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}

#: case -> what its weights become in MLX and in GGUF, and the grade of the latter
REPACKED = {
    "autoawq-gemvfast-g64": ({"affine4-g64"}, "q4_1", "codes-exact"),
    "ct-mxfp4": ({"mxfp4"}, "mxfp4", "exact"),
    "ct-w3a16-padded-g64": ({"affine3-g64"}, "q4_0", "exact"),
    "fp8-ue8m0": ({"mxfp8"}, "q8_0", "lossy"),
    "gptq-b4-channel": ({"affine4-g64", "affine4-g128"}, "q4_0", "exact"),
    "gptq-b5-planar": ({"affine5-g64"}, "q5_0", "exact"),
    "gptq-b8-g128": ({"affine8-g64", "affine8-g128"}, "q8_0", "exact"),
    "quark-int8-channel": ({"affine8-g64", "affine8-g128"}, "q8_0", "exact"),
}
#: No grid of MLX or GGUF holds these.
FALLEN = ("bnb-nf4", "ct-w4a16-actorder")


@pytest.fixture
def folder(shared: Path, tmp_path: Path, case: str) -> Path:
    """The case with a tokenizer."""
    out, models = tmp_path / case, shared / "fixtures" / "models" / "micro-llama"
    out.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(shared / "fixtures" / "quantized" / case / name, out / name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(models / name, out / name)
    return out


def truth_of(shared: Path, case: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(
        (shared / "fixtures" / "quantized" / case / "truth.json").read_text()
    )["tensors"]
    return found


@pytest.mark.parametrize("case", REPACKED)
def test_to_mlx_and_gguf(case: str, folder: Path, shared: Path, tmp_path: Path) -> None:
    report = converted(folder, tmp_path / "mlx", scale_dtype="f32")
    truth, weights = truth_of(shared, case), open_source(tmp_path / "mlx").weights
    kept = [w for w in report["weights"] if w["name"] in truth]
    assert {w["route"] for w in kept} == {"repack"} and {w["grade"] for w in kept} == {"exact"}
    assert {w["scheme"] for w in kept} == REPACKED[case][0]
    for name, entry in truth.items():
        weight = weights[name]
        values = weight.scheme.decode({part: stored.read() for part, stored in weight.parts.items()})
        values = values.astype(numpy_dtype(TOOLS_DTYPES[entry["tool_dtype"]])).astype(np.float32) + np.float32(0)
        assert hashlib.sha256(values.tobytes()).hexdigest() == entry["sha256_f32_no_negative_zero"], name
    report = converted(folder, tmp_path / "out.gguf")
    made = {(w["scheme"], w["grade"]) for w in report["weights"] if w["route"] not in ("copy", "cast")}
    assert made == {REPACKED[case][1:]}


@pytest.mark.parametrize("case", FALLEN)
def test_what_has_no_place_falls_back_and_says_so(case: str, folder: Path, tmp_path: Path) -> None:
    for output in (tmp_path / "mlx", tmp_path / "out.gguf"):
        report = converted(folder, output)
        assert report["totals"]["routes"]["requantize"] == 14
        assert any("fall back from" in warning for warning in report["warnings"])


@pytest.mark.parametrize("case", ["gpt-oss-mxfp4"])
def test_codes_of_gpt_oss_are_kept(case: str, folder: Path, shared: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    truth = load_file(shared / "fixtures" / "quantized" / case / "truth.safetensors")
    both = truth["model.layers.0.mlp.experts.gate_up_proj"].astype(np.float32).swapaxes(1, 2)
    names = {
        tmp_path / "mlx": "model.layers.0.mlp.experts.{}_proj.weight",
        tmp_path / "o.gguf": "blk.0.ffn_{}_exps.weight",
    }
    for output, name in names.items():
        report = converted(folder, output)
        assert report["totals"]["routes"]["repack"] == 6
        for at, kind in enumerate(("gate", "up")):
            weight = open_source(output).weights[name.format(kind)]
            values = weight.scheme.decode({part: stored.read() for part, stored in weight.parts.items()})
            assert weight.scheme.name == "mxfp4" and np.array_equal(values.reshape(weight.shape), both[:, at::2])
