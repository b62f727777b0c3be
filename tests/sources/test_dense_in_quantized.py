"""Dense matrices in quantizers' folders that no list leaves out, and lists that name what is quantized.

A dense matrix cannot be misread, so it is read, with one warning that has the count and the first name. Codes without
scales stay an error.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16
from typer.testing import CliRunner

from quantcli.cli.app import app
from quantcli.errors import BadInput
from quantcli.schemes.dense import Dense
from quantcli.sources.detect import open_source
from tests.builders import folder_of, safetensors_bytes
from tests.conversions import values

DATA = Path(__file__).resolve().parent.parent / "data" / "quantized"
#: One case of every reader.
CASES = (
    "autoawq-gemm-g64", "autoawq-gemv-g64", "autoround-as-awq-b4-g64-sym", "bnb-int8", "bnb-nf4",
    "ct-fp8-channel", "ct-w4a16-g64", "fp8-deepseek-block", "gptq-b4-g64-sym", "hqq-b4-g64", "modelopt-fp8",
    "modelopt-nvfp4", "quark-int4-g64-sym", "torchao-int8-row",
)  # fmt: skip
#: Modules as releases have them: a vision tower whose list has transformers' names, a layer for prediction.
MODULES = ("mtp.layers.0.mlp.up_proj", "vision_tower.transformer.layers.0.attention.q_proj")
LISTS = ("modules_to_not_convert", "llm_int8_skip_modules", "skip_modules", "ignore", "exclude", "exclude_modules")


def with_dense(root: Path, case: str, settings: dict[str, Any] | None = None, dtype: Any = bfloat16) -> Path:
    """The case with a second file that holds dense matrices, and some of its settings replaced."""
    shutil.copytree(DATA / case, root, copy_function=shutil.copyfile)
    root.chmod(0o755)
    random = np.random.default_rng(3)
    tensors = {f"{module}.weight": random.normal(0, 1, (16, 32)).astype(dtype) for module in MODULES}
    (root / "model-dense.safetensors").write_bytes(safetensors_bytes(tensors))
    config = json.loads((root / "config.json").read_text())
    config["quantization_config"] |= settings or {}
    (root / "config.json").write_text(json.dumps(config))
    return root


@pytest.mark.parametrize("case", CASES)
def test_dense_matrices_that_no_list_names_are_read_with_one_warning(case: str, tmp_path: Path) -> None:
    source = open_source(with_dense(tmp_path / "m", case))
    before = open_source(DATA / case)
    assert [source.weights[f"{module}.weight"].scheme for module in MODULES] == [Dense("bf16")] * 2
    assert {name: source.weights[name].scheme for name in before.weights} == {
        name: weight.scheme for name, weight in before.weights.items()
    }
    further = [text for text in source.warnings if text not in before.warnings]
    assert len(further) == 1 and "2 matrices" in further[0] and f"{MODULES[0]}.weight" in further[0]


@pytest.mark.parametrize("case", CASES)
def test_codes_without_scales_stay_an_error(case: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=MODULES[0]):
        open_source(with_dense(tmp_path / "m", case, dtype=np.int8))


@pytest.mark.parametrize(
    "entry", ["vision_tower", "re:.*vision_tower.*", "vision_tower.*", "layers.0.attention.q_proj"]
)
def test_a_list_that_names_them_gives_no_warning(entry: str, tmp_path: Path) -> None:
    """In the ways in which loaders read a list: a module above, an expression, a glob, the end of a name."""
    listed = {LISTS[0]: [entry, "mtp"]}
    assert open_source(with_dense(tmp_path / "m", "fp8-deepseek-block", listed)).warnings == ()


def test_a_list_that_only_some_loaders_read_so_does_not_make_codes_dense(tmp_path: Path) -> None:
    """`self_attn` stands in the middle of the module's name: a list for those who look for it anywhere."""
    source = open_source(
        with_dense(tmp_path / "m", "fp8-deepseek-block", {LISTS[0]: ["self_attn", "mtp", "vision_tower"]})
    )
    assert source.weights["model.layers.0.self_attn.k_proj.weight"].scheme.name == "fp8-e4m3-block128"
    assert len(source.warnings) == 1 and "model.layers.0.self_attn.k_proj" in source.warnings[0]


def test_dense_experts_in_gpt_oss_settings(tmp_path: Path) -> None:
    tensors = {f"model.layers.{i}.mlp.experts.{name}": np.ones((2, 64, 32), bfloat16)
               for i in range(2) for name in ("gate_up_proj", "down_proj")}  # fmt: skip
    packed = "model.layers.2.mlp.experts.down_proj"
    tensors |= {
        f"{packed}_blocks": np.ones((2, 64, 1, 16), np.uint8),
        f"{packed}_scales": np.ones((2, 64, 1), np.uint8),
    }
    config = {"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4", LISTS[0]: ["lm_head"]}}
    source = open_source(folder_of(tmp_path / "m", tensors, config))
    assert source.weights[f"{packed}"].scheme.name == "mxfp4"
    assert len(source.warnings) == 1 and "4 matrices" in source.warnings[0]
    tensors["model.layers.1.mlp.experts.down_proj"] = np.ones((2, 64, 32), np.uint8)
    with pytest.raises(BadInput, match=r"layers\.1\.mlp\.experts\.down_proj.*u8"):
        open_source(folder_of(tmp_path / "m", tensors, config))


@pytest.mark.parametrize("case", ["fp8-excluded-by-module-names", "awq-dense-mtp-unlisted"])
def test_inputs_from_the_field(case: str, shared: Path, tmp_path: Path) -> None:
    folder = shared / "field" / "hf" / case
    source = open_source(folder)
    assert len([text for text in source.warnings if "matrices" in text]) == 1
    truth = folder / "truth.npz"
    found = {source.naming.stored(name): decoded for name, decoded in values(folder).items()}
    for name, meant in np.load(truth).items() if truth.exists() else ():
        wanted = meant.astype(bfloat16).astype("<f4")  # the dtype in which the model is loaded
        assert hashlib.sha256(found[name].astype("<f4").tobytes()).digest() == hashlib.sha256(wanted.tobytes()).digest()
    run = CliRunner().invoke(
        app, ["convert", str(folder), str(tmp_path / "hf"), "--to", "hf", "-s", "bf16", "--dry-run"]
    )
    strict = CliRunner().invoke(
        app, ["convert", str(folder), str(tmp_path / "hf"), "--to", "hf", "-s", "bf16", "--dry-run", "--strict"]
    )
    assert (run.exit_code, strict.exit_code) == (0, 4)


@pytest.mark.parametrize(
    "spelling",
    ["e4m3", "e4m3fn", "float8_e4m3fn", "float8_e4m3", "torch.float8_e4m3fn", "fp8_e4m3", "F8_E4M3", "E4M3"],
)
def test_spellings_of_the_dtype_of_codes(spelling: str, tmp_path: Path) -> None:
    folder = with_dense(tmp_path / "m", "fp8-deepseek-block", {"fmt": spelling, LISTS[0]: list(MODULES)})
    assert open_source(folder).warnings == ()


@pytest.mark.parametrize("spelling", ["e5m2", "float8_e5m2", "torch.float8_e5m2", "e4m3fnuz", "int8", 8, "e8m0"])
def test_another_dtype_of_codes_is_an_error(spelling: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="fmt"):
        open_source(with_dense(tmp_path / "m", "fp8-deepseek-block", {"fmt": spelling}))
