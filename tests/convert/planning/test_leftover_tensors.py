"""What models compute, and scales of the KV cache and of activations, are left out with a reason; `diff` knows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from quantcli.cli.app import app
from quantcli.models.leftovers import CACHE, FREQUENCIES
from quantcli.sources.detect import open_source
from tests.builders import BF16, LLAMA, byte_level_tokenizer, folder_of, llama_tensors
from tests.conversions import config, converted, planned, stored

LAYER = "model.layers.1"
BUFFERS = {
    f"{LAYER}.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32),
    "model.rotary_emb.original_inv_freq": np.ones(8, np.float32),
    "model.position_ids": np.arange(64, dtype=np.int64)[None],
    f"{LAYER}.self_attn.masked_bias": np.array(-1e9, np.float32),
    f"{LAYER}.self_attn.bias": np.tri(64, dtype=bool)[None, None],
}
SCALES = {
    f"{LAYER}.self_attn.k_scale": np.ones(1, BF16),
    f"{LAYER}.self_attn.v_proj.v_scale": np.ones((), np.float32),
    f"{LAYER}.self_attn.kv_scale": np.ones(1, np.float32),
}
UNKNOWN = {"model_type": "unheard_of", "architectures": ["UnheardOfForCausalLM"]}


def dense(root: Path, further: dict[str, np.ndarray], **changes: Any) -> Path:
    settings = {**LLAMA, **changes}
    folder_of(root, {**llama_tensors(settings), **further}, settings)
    (root / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()))
    return root


def fp8(root: Path, further: dict[str, np.ndarray], **changes: Any) -> Path:
    """A model with one quantized matrix, in FP8 with one scale, and a quantized KV cache."""
    import ml_dtypes

    name = f"{LAYER}.mlp.down_proj.weight"
    tensors = llama_tensors(LLAMA)
    tensors[name] = tensors[name].astype(ml_dtypes.float8_e4m3fn)
    weights = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
    settings = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": {"targets": ["re:.*1.mlp.down_proj"], "weights": weights}},
        "ignore": ["lm_head"],
        "kv_cache_scheme": weights,
    }
    tensors |= {f"{name}_scale": np.full(1, 3 / 256, BF16), **further}
    folder_of(root, tensors, {**LLAMA, **changes, "quantization_config": settings})
    (root / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()))
    return root


def left_out(report: dict[str, Any]) -> set[str]:
    assert all(tensor["reason"] for tensor in report["left_out"])
    return {tensor["name"] for tensor in report["left_out"]}


@pytest.mark.parametrize("changes", [{}, UNKNOWN], ids=["llama", "unknown"])
@pytest.mark.parametrize("output", ["mlx", "hf", "a.gguf"])
def test_a_dense_model(output: str, changes: dict[str, Any], tmp_path: Path) -> None:
    if output == "a.gguf" and changes:
        pytest.skip("GGUF has known architectures only")
    plain = dense(tmp_path / "x" / "m", {}, **changes)
    full = dense(tmp_path / "y" / "m", {**BUFFERS, **SCALES}, **changes)
    to = "hf" if output == "hf" else None
    converted(plain, tmp_path / "x" / output, to=to)
    report = converted(full, tmp_path / "y" / output, to=to)
    assert left_out(report) == {*BUFFERS, *SCALES}
    assert not [warning for warning in report["warnings"] if "left out" in warning]
    if output == "a.gguf":
        assert (tmp_path / "x" / output).read_bytes() == (tmp_path / "y" / output).read_bytes()
    else:
        assert stored(tmp_path / "x" / output) == stored(tmp_path / "y" / output)


@pytest.mark.parametrize("changes", [{}, UNKNOWN], ids=["llama", "unknown"])
def test_a_kept_layout_keeps_them(changes: dict[str, Any], tmp_path: Path) -> None:
    source = fp8(tmp_path / "m", {**BUFFERS, **SCALES}, **changes)
    report = converted(source, tmp_path / "same", to="hf")
    assert stored(tmp_path / "same") == stored(source) and not report["left_out"]
    assert config(tmp_path / "same")["quantization_config"]["kv_cache_scheme"]


@pytest.mark.parametrize("changes", [{}, UNKNOWN], ids=["llama", "unknown"])
@pytest.mark.parametrize("options", [{"to": "hf", "scheme": "bf16"}, {"to": "hf", "scheme": "int4-g32"}, {}], ids=str)
def test_other_outputs_of_a_quantized_model(options: dict[str, Any], changes: dict[str, Any], tmp_path: Path) -> None:
    per_head = {f"{LAYER}.self_attn.q_scale": np.ones((2, 1, 1), BF16), f"{LAYER}.mlp.up_proj.input_scale": np.ones(1)}
    per_head = {name: array.astype(BF16) for name, array in per_head.items()}
    source = fp8(tmp_path / "m", {**BUFFERS, **SCALES, **per_head}, **changes)
    report = converted(source, tmp_path / "out", allow_unknown_architecture=True, **options)
    assert left_out(report) == {*BUFFERS, *SCALES, *per_head}
    assert not {*BUFFERS, *SCALES, *per_head} & set(stored(tmp_path / "out"))
    settings = config(tmp_path / "out").get("quantization_config") or {}
    assert not settings.get("kv_cache_scheme")


def test_scales_of_the_cache_next_to_a_projection_are_no_warning(tmp_path: Path) -> None:
    """modelopt writes them so; no weight has to take them."""
    source = fp8(tmp_path / "m", {f"{LAYER}.mlp.down_proj.k_scale": np.ones(1, BF16)})
    assert open_source(source).warnings == ()
    other = fp8(tmp_path / "n", {f"{LAYER}.mlp.down_proj.strange_scale": np.ones(1, BF16)})
    assert any("strange_scale" in warning for warning in open_source(other).warnings)


def test_a_tensor_that_only_has_such_a_name_stays(tmp_path: Path) -> None:
    odd = {f"{LAYER}.self_attn.k_scale": np.ones((8, 8), BF16), f"{LAYER}.x.inv_freq": np.ones((8, 8), BF16)}
    plan = planned(dense(tmp_path / "m", odd, **UNKNOWN), tmp_path / "out")
    assert not plan.left and set(odd) <= {step.name for step in plan.steps}


def diff(a: Path, b: Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["diff", str(a), str(b), "--json"])
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("output", ["mlx", "hf", "a.gguf"])
def test_diff_sets_them_aside(output: str, tmp_path: Path) -> None:
    source = dense(tmp_path / "m", {**BUFFERS, **SCALES})
    converted(source, tmp_path / output, to="hf" if output == "hf" else None)
    for a, b, side in ((source, tmp_path / output, "A"), (tmp_path / output, source, "B")):
        found = diff(a, b)
        assert not found["only_a"] and not found["only_b"]
        aside = {name for item in found["not_compared"] if item["side"] == side for name in item["names"]}
        assert {*BUFFERS, *SCALES} <= aside
        assert {CACHE, FREQUENCIES} <= {item["reason"] for item in found["not_compared"]}


def test_diff_compares_scales_that_both_have(tmp_path: Path) -> None:
    name = f"{LAYER}.self_attn.k_scale"
    a, b = fp8(tmp_path / "a", SCALES), fp8(tmp_path / "b", {**SCALES, name: np.full(1, 2, BF16)})
    found = diff(a, b)
    assert {w["name"] for w in found["weights"] if w["verdict"] != "equal"} == {name}


def test_the_field_example_loads_nowhere_with_them(shared: Path, tmp_path: Path) -> None:
    source = shared / "field" / "hf" / "ct-kv-cache-scales"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    gone = {f"model.layers.{i}.self_attn.{kind}_scale" for i in (0, 1) for kind in "kv"}
    for output in ("mlx", "a.gguf"):
        assert left_out(converted(source, tmp_path / output)) == gone
    assert not converted(source, tmp_path / "same", to="hf")["left_out"]
    assert stored(tmp_path / "same") == stored(source)


@pytest.mark.parametrize("output", ["mlx", "hf", "a.gguf"])
def test_an_mlx_folder_that_has_them(output: str, tmp_path: Path) -> None:
    """As older releases of this and of other converters wrote them."""
    made = tmp_path / "made"
    converted(dense(tmp_path / "m", {}), made, bits=4, group_size=32)
    dtypes = {"BF16": BF16, "U32": np.dtype("<u4")}
    arrays = {name: tensor.array(dtypes[tensor.dtype]) for name, tensor in stored(made).items()}
    source = folder_of(tmp_path / "source", {**arrays, **BUFFERS, **SCALES}, config(made))
    (source / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()))
    assert open_source(source).kind == "mlx"
    report = converted(source, tmp_path / output, to="hf" if output == "hf" else None)
    assert left_out(report) == {*BUFFERS, *SCALES}
