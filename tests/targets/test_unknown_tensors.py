"""Tensors that a known family does not have: refused for MLX and GGUF with the way to leave them out, else copied."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.errors import BadInput, NotPossible
from tests.builders import BF16, LLAMA, byte_level_tokenizer, folder_of, llama_gguf, llama_tensors, tiny_llama
from tests.conversions import converted, planned, stored
from tests.convert.planning.test_leftover_tensors import fp8
from tests.gguf_files import of_values, rewritten

LAYER = "model.layers.1"
HEADS = {f"model.layers.{i}.v_head.weight": np.ones((2, 64), BF16) for i in (0, 1)}
UNKNOWN = {"model_type": "unheard_of", "architectures": ["UnheardOfForCausalLM"]}


def model(root: Path, further: dict[str, np.ndarray], **changes: Any) -> Path:
    settings = {**LLAMA, **changes}
    folder_of(root, {**llama_tensors(LLAMA), **further}, settings)
    (root / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()))
    return root


@pytest.mark.parametrize("output", ["mlx", "a.gguf"])
def test_the_error_names_what_leaves_them_out(output: str, tmp_path: Path) -> None:
    source = model(tmp_path / "m", HEADS)
    with pytest.raises(NotPossible, match=r"\b2 tensors .*'model\.layers\.0\.v_head\.weight'") as error:
        planned(source, tmp_path / output)
    globs = re.findall(r"--drop '(.+?)'", str(error.value))
    assert globs == ["model.layers.*.v_head.weight"]
    report = converted(source, tmp_path / output, drop=tuple(globs))
    assert {tensor["name"] for tensor in report["left_out"]} == set(HEADS)


def test_a_name_that_a_shell_would_read_is_not_advised(tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="--drop GLOB"):
        planned(model(tmp_path / "m", {"it's $(x)": np.ones((2, 2), BF16)}), tmp_path / "mlx")


def test_a_scheme_does_not_reach_them(tmp_path: Path) -> None:
    source = model(tmp_path / "m", {f"model.layers.{i}.v_head.weight": np.ones((64, 64), BF16) for i in (0, 1)})
    plan = planned(source, tmp_path / "out", to="hf", scheme="int4-g32")
    assert {step.scheme.name for step in plan.steps if "v_head" in step.name} == {"bf16"}
    (said,) = [warning for warning in plan.warnings if "kept dense" in warning]
    assert "2 matrices" in said and "model.layers.0.v_head.weight" in said and "llama models" in said


def test_a_hugging_face_folder_copies_them(tmp_path: Path) -> None:
    source = model(tmp_path / "m", HEADS)
    report = converted(source, tmp_path / "out", to="hf")
    assert stored(tmp_path / "out") == stored(source) and not report["left_out"]


@pytest.mark.parametrize("to", ["mlx", "hf"])
def test_a_gguf_file_with_them(to: str, tmp_path: Path) -> None:
    plain = llama_gguf(tmp_path / "a.gguf", tiny_llama(tmp_path / "m"))
    source = rewritten(plain, tmp_path / "b.gguf", lambda t: {**t, "blk.0.x.weight": of_values(np.ones((2, 64)))})
    with pytest.raises(NotPossible, match=r"--drop 'blk\.\*\.x\.weight'.*another GGUF"):
        planned(source, tmp_path / "out", to=to)
    converted(source, tmp_path / "out", to=to, drop=("blk.*.x.weight",))
    converted(source, tmp_path / "copy.gguf")


@pytest.mark.parametrize("leaf", ["pre_quant_scale", "weight_global_scale", "strange_amax"])
def test_what_scales_a_dense_weight_is_not_left_out_by_itself(leaf: str, tmp_path: Path) -> None:
    """Its values may be wrong without."""
    name = f"{LAYER}.mlp.up_proj.{leaf}"
    source = fp8(tmp_path / "m", {name: np.ones(1, BF16)})
    with pytest.raises(NotPossible, match=re.escape(name)):
        planned(source, tmp_path / "mlx")


MTP = [
    "mtp.fc.weight",
    "mtp.layers.0.self_attn.q_proj.weight",
    "model.mtp.layers.0.mlp.up_proj.weight",
    "model.mtp_layers.0.input_proj.weight",
    "model.mtp_block.0.mlp.up_proj.weight",
    "model.mtp_emb_norm.0.weight",
]


@pytest.mark.parametrize("changes", [{}, UNKNOWN], ids=["llama", "unknown"])
@pytest.mark.parametrize("output", ["mlx", "a.gguf", "hf"])
def test_modules_for_multi_token_prediction(output: str, changes: dict[str, Any], tmp_path: Path) -> None:
    source = model(tmp_path / "m", {name: np.ones((64, 64), BF16) for name in MTP}, **changes)
    if output == "a.gguf" and changes:
        pytest.skip("GGUF has known architectures only")
    report = converted(source, tmp_path / output, to="hf" if output == "hf" else None)
    gone = {} if output == "hf" else {tensor["name"]: tensor["reason"] for tensor in report["left_out"]}
    assert set(gone) == (set() if output == "hf" else set(MTP))
    assert all("multi-token prediction" in reason for reason in gone.values())


@pytest.mark.parametrize("changes", [{}, UNKNOWN, {**UNKNOWN, "text_config": {"num_hidden_layers": 2}}], ids=str)
@pytest.mark.parametrize("output", ["mlx", "a.gguf", "hf"])
def test_a_layer_for_multi_token_prediction_after_the_others(
    output: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """As DeepSeek's and GLM's, in families whose tables have none."""
    if output == "a.gguf" and changes:
        pytest.skip("GGUF has known architectures only")
    tensors = llama_tensors(LLAMA)
    last = {n.replace("layers.1.", "layers.2."): a for n, a in tensors.items() if n.startswith(f"{LAYER}.")}
    last |= {f"model.layers.2.{n}.weight": np.ones(64, BF16) for n in ("enorm", "hnorm", "shared_head.norm")}
    last["model.layers.2.eh_proj.weight"] = np.ones((64, 128), BF16)
    source = model(tmp_path / "m", last, **changes)
    if "text_config" in changes:
        settings = {**LLAMA, **changes}
        del settings["num_hidden_layers"]
        (source / "config.json").write_text(json.dumps(settings))
    report = converted(source, tmp_path / output, to="hf" if output == "hf" else None)
    if output == "hf":
        assert stored(tmp_path / output) == stored(source)
        return
    assert {tensor["name"] for tensor in report["left_out"]} == set(last)
    if output == "mlx":
        assert set(stored(tmp_path / output)) == set(tensors)


def test_an_ordinary_layer_beyond_the_count_is_still_refused(tmp_path: Path) -> None:
    extra = {f"model.layers.2.{n}.weight": np.ones(64, BF16) for n in ("input_layernorm", "post_attention_layernorm")}
    with pytest.raises(BadInput, match="layer 2"):
        planned(model(tmp_path / "m", extra), tmp_path / "out")
