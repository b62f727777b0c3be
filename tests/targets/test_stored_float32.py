"""What a model without a table stores in float32 next to bf16 weights stays float32, unless --dtype says otherwise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import LLAMA, folder_of, llama_tensors
from tests.conversions import converted, schemes, stored

#: As state-space models and routers have them.
WIDE = {
    "model.layers.0.mixer.A_log": (16,), "model.layers.0.mixer.D": (16,), "model.layers.0.mixer.dt_bias": (16,),
    "model.layers.0.mlp.gate.e_score_correction_bias": (8,), "model.layers.0.mlp.gate.weight": (8, 64),
    "model.layers.0.norm.weight": (64,), "model.layers.0.conv.weight": (16, 1, 4),
    "model.layers.0.mixer.in_proj.weight": (64, 64),
}  # fmt: skip
CONFIG = {**LLAMA, "model_type": "unheard_of"}
TARGETS = pytest.mark.parametrize("options", [{}, {"to": "hf"}], ids=["mlx", "hf"])


def model(root: Path, config: dict[str, Any] = CONFIG, dtype: Any = np.float32) -> Path:
    random = np.random.default_rng(12)
    wide = {name: random.normal(0, 1, shape).astype(dtype) for name, shape in WIDE.items()}
    return folder_of(root, {**llama_tensors(LLAMA), **wide}, config)


@pytest.mark.parametrize("config", [CONFIG, {**CONFIG, "dtype": "bfloat16"}, {**CONFIG, "torch_dtype": "float16"}])
@TARGETS
def test_float32_stays(config: dict[str, Any], options: dict[str, Any], tmp_path: Path) -> None:
    source = model(tmp_path / "m", config)
    converted(source, tmp_path / "out", **options)
    found, given = stored(tmp_path / "out"), stored(source)
    for name in WIDE:
        assert found[name] == given[name] and found[name].dtype == "F32"
    narrow = "F16" if not options and config["torch_dtype"] == "float16" else "BF16"
    assert {t.dtype for name, t in found.items() if name not in WIDE} == {narrow}


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
@TARGETS
def test_a_dtype_that_is_asked_for_is_for_all(dtype: str, options: dict[str, Any], tmp_path: Path) -> None:
    converted(model(tmp_path / "m"), tmp_path / "out", dtype=dtype, **options)
    assert {t.dtype for t in stored(tmp_path / "out").values()} == {dtype.upper()}


def test_float64_becomes_what_mlx_has(tmp_path: Path) -> None:
    converted(model(tmp_path / "m", dtype=np.float64), tmp_path / "out")
    found = stored(tmp_path / "out")
    assert {found[name].dtype for name in WIDE} == {"F32"}


QUANTIZED: list[dict[str, Any]] = [{"bits": 4, "group_size": 32}, {"to": "hf", "scheme": "int4-g32"}]


@pytest.mark.parametrize("options", QUANTIZED, ids=["mlx", "hf"])
def test_next_to_quantized_weights(options: dict[str, Any], tmp_path: Path) -> None:
    """Scales are as those of the other weights, in MLX also where a float32 matrix is quantized."""
    report = converted(model(tmp_path / "m"), tmp_path / "out", allow_unknown_architecture=True, **options)
    assert not [warning for warning in report["warnings"] if "dtype" in warning]
    found = stored(tmp_path / "out")
    dense = [name for name in WIDE if name != "model.layers.0.mixer.in_proj.weight"]
    assert all(found[name].dtype == "F32" for name in dense)
    scales = {name: t.dtype for name, t in found.items() if name.endswith((".scales", ".biases", "_scale"))}
    own = scales.pop("model.layers.0.mixer.in_proj.weight_scale", None)
    assert set(scales.values()) == {"BF16"} and own == ("F32" if options.get("to") else None)
    assert schemes(tmp_path / "out")["model.layers.0.mlp.down_proj.weight"] in ("affine4-g32", "int4-g32")


def test_of_a_model_with_a_table_mlx_has_one_dtype(tmp_path: Path) -> None:
    tensors = llama_tensors(LLAMA)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float32)
    converted(folder_of(tmp_path / "m", tensors, LLAMA), tmp_path / "out")
    assert {t.dtype for t in stored(tmp_path / "out").values()} == {"BF16"}
