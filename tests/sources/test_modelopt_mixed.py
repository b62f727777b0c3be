"""modelopt's MIXED_PRECISION: which entry of `quantized_layers` holds for a module, whatever spells its name."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quantcli.sources.detect import open_source
from tests.builders import folder_of
from tests.conversions import config, converted, stored

F8 = np.dtype(ml_dtypes.float8_e4m3fn)
Arrays = dict[str, np.ndarray]


def stacked(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, 40, shape).astype(F8)


def fp8(name: str) -> Arrays:
    return {f"{name}.weight": stacked(32, 64), f"{name}.weight_scale": np.full((), 0.01, np.float32)}


def mxfp8(name: str) -> Arrays:
    powers = np.random.default_rng(3).integers(110, 120, (32, 2), dtype=np.uint8)
    return {f"{name}.weight": stacked(32, 64), f"{name}.weight_scale": powers}


def nvfp4(name: str) -> Arrays:
    codes = np.random.default_rng(5).integers(0, 256, (32, 32), dtype=np.uint8)
    return {
        f"{name}.weight": codes, f"{name}.weight_scale": np.abs(stacked(32, 4)),
        f"{name}.weight_scale_2": np.full((), 1e-3, np.float32),
    }  # fmt: skip


LANGUAGE, PLAIN = "model.language_model.layers.0", "language_model.model.layers.0"
FP8, NVFP4 = {"quant_algo": "FP8"}, {"quant_algo": "W4A16_NVFP4", "group_size": 16}


def folder(root: Path, tensors: Arrays, layers: dict[str, Any], **further: Any) -> Path:
    settings = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers, **further}
    return folder_of(root, tensors, {"model_type": "new", "dtype": "bfloat16", "quantization_config": settings})


def schemes(path: Path) -> dict[str, str]:
    return {name: weight.scheme.name for name, weight in open_source(path).weights.items()}


@pytest.mark.parametrize("stored_as", [LANGUAGE, PLAIN])
@pytest.mark.parametrize("listed_as", [LANGUAGE, PLAIN])
def test_names_of_the_settings_and_of_the_tensors(stored_as: str, listed_as: str, tmp_path: Path) -> None:
    tensors = fp8(f"{stored_as}.self_attn.q_proj") | nvfp4(f"{stored_as}.mlp.experts.3.up_proj")
    layers = {f"{listed_as}.self_attn.q_proj": FP8, f"{listed_as}.mlp.experts": NVFP4}
    found = folder(tmp_path / "m", tensors, layers)
    assert list(schemes(found).values()) == ["nvfp4", "fp8-e4m3-tensor"]
    assert open_source(found).warnings == ()


def test_the_closest_entry_counts(tmp_path: Path) -> None:
    tensors = nvfp4("a.mlp.up_proj") | mxfp8("a.mlp.down_proj")
    layers = {"a.mlp": NVFP4, "a.mlp.down_proj": {"quant_algo": "MXFP8", "group_size": 32}}
    found = open_source(folder(tmp_path / "m", tensors, layers))
    assert {n: w.scheme.name for n, w in found.weights.items()} == {
        "a.mlp.down_proj.weight": "mxfp8",
        "a.mlp.up_proj.weight": "nvfp4",
    }
    assert found.warnings == ()


def test_a_module_that_no_entry_lists_is_read_as_it_is_stored(tmp_path: Path) -> None:
    tensors = fp8("a.q_proj") | mxfp8("b.q_proj") | nvfp4("c.q_proj") | fp8("d.q_proj")
    path = folder(tmp_path / "m", tensors, {"d.q_proj": FP8})
    assert list(schemes(path).values()) == ["fp8-e4m3-tensor", "mxfp8", "nvfp4", "fp8-e4m3-tensor"]
    (warning,) = open_source(path).warnings
    assert "3 weights" in warning and "a.q_proj" in warning and "quantized_layers" in warning


def test_groups_with_targets_in_place_of_the_list(tmp_path: Path) -> None:
    """As some releases have it: which modules are quantized is said, how is seen in their tensors."""
    groups = {"group_0": {"targets": ["a.q_proj"]}, "group_1": {"targets": ["a.mlp"]}}
    tensors = fp8("a.q_proj") | nvfp4("a.mlp.up_proj")
    path = folder(tmp_path / "m", tensors, {}, config_groups=groups)
    assert list(schemes(path).values()) == ["nvfp4", "fp8-e4m3-tensor"] and open_source(path).warnings == ()


def test_settings_one_level_deeper(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", fp8("a.q_proj"), {})
    stated = {"quant_algo": "FP8", "exclude_modules": ["lm_head"], "kv_cache_quant_algo": None}
    settings = {"quant_method": "modelopt", "quantization": stated, "producer": {"name": "modelopt"}}
    (path / "config.json").write_text(json.dumps({"model_type": "new", "quantization_config": settings}))
    assert list(schemes(path).values()) == ["fp8-e4m3-tensor"] and open_source(path).warnings == ()


def test_fused_experts_that_are_listed_one_by_one(tmp_path: Path) -> None:
    name = "a.mlp.experts.gate_up_proj"
    tensors = {name: stacked(2, 32, 64), f"{name}_weight_scale": np.full((2, 1, 1), 0.01, np.float32)}
    path = folder(tmp_path / "m", tensors, {"a.mlp.experts.0.gate_proj": FP8, "a.mlp.experts.1.gate_proj": FP8})
    assert schemes(path) == {name: "fp8-e4m3-tensor"} and open_source(path).warnings == ()


def test_scales_under_the_name_of_the_tool_before(tmp_path: Path) -> None:
    """Weights that came as FP8 in blocks keep it."""
    tensors = {"a.q_proj.weight": stacked(256, 384), "a.q_proj.weight_scale_inv": np.full((2, 3), 0.01, np.float32)}
    path = folder(tmp_path / "m", tensors, {"a.q_proj": {"quant_algo": "FP8_PB_WO"}})
    assert schemes(path) == {"a.q_proj.weight": "fp8-e4m3-block128"}
    converted(path, tmp_path / "same", to="hf")
    assert stored(tmp_path / "same") == stored(path)


def test_what_becomes_dense_is_listed_no_more(tmp_path: Path) -> None:
    tensors = fp8("a.q_proj") | mxfp8("a.k_proj")
    path = folder(tmp_path / "m", tensors, {"a.q_proj": FP8, "a.k_proj": {"quant_algo": "MXFP8"}}, ignore=["lm_head"])
    converted(path, tmp_path / "out", to="hf", overrides=["a.k_proj=bf16"])
    settings = config(tmp_path / "out")["quantization_config"]
    assert settings["quantized_layers"] == {"a.q_proj": FP8} and settings["ignore"] == ["lm_head", "a.k_proj"]
    assert schemes(tmp_path / "out") == {"a.k_proj.weight": "bf16", "a.q_proj.weight": "fp8-e4m3-tensor"}


def test_settings_in_their_own_file(tmp_path: Path) -> None:
    """As older releases have them; what is dense has its new name in the config.json that is written."""
    path = folder(tmp_path / "m", fp8("a.q_proj"), {})
    (path / "config.json").write_text(json.dumps({"model_type": "new", "dtype": "bfloat16"}))
    stated = {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"a.q_proj": FP8}, "exclude_modules": ["lm_head"]}
    (path / "hf_quant_config.json").write_text(json.dumps({"producer": {"name": "modelopt"}, "quantization": stated}))
    assert schemes(path) == {"a.q_proj.weight": "fp8-e4m3-tensor"}
    converted(path, tmp_path / "out", to="hf")
    assert config(tmp_path / "out")["quantization_config"]["ignore"] == ["lm_head"]
    assert (tmp_path / "out" / "hf_quant_config.json").exists()
    converted(path, tmp_path / "dense", to="hf", scheme="bf16")
    assert not (tmp_path / "dense" / "hf_quant_config.json").exists()
