"""MLX folders whose stacked experts have a global scale each: MLX's own values, copied whole, and into GGUF."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from quantcli.errors import BadInput
from quantcli.sources.detect import open_source
from tests.builders import BF16, folder_of
from tests.conversions import config, converted, stored, values
from tests.targets.test_global_scales import EXPERTS, MOE, folder, numbers

PLACE = "model.layers.0.mlp.switch_mlp."
MARKED = {"group_size": 16, "bits": 4, "mode": "nvfp4", "global_scale": True}


def mlx_folder(root: Path, tmp: Path, **changes: Any) -> tuple[Path, dict[str, np.ndarray]]:
    """A small MoE with experts in nvfp4, and their arrays; changes: suffix of down_proj's -> array, None: left out."""
    source, _ = folder(tmp / "dense", "modelopt-experts")
    dense = {name: t.array(np.uint16) for name, t in stored(source).items() if t.dtype == "BF16"}
    arrays: dict[str, np.ndarray] = {}
    for seed, name in enumerate(("gate_proj", "up_proj", "down_proj")):
        arrays[f"{PLACE}{name}.weight"] = numbers((EXPERTS, 64, 32), seed, 256).view(np.uint32)
        arrays[f"{PLACE}{name}.scales"] = numbers((EXPERTS, 64, 4), seed + 10, 100) + np.uint8(20)
        arrays[f"{PLACE}{name}.global_scale"] = np.float32([0.7, 3.1, 0.05]) * np.float32(seed + 1)
    for suffix, array in changes.items():
        arrays[f"{PLACE}down_proj.{suffix}"] = array
    arrays = {name: array for name, array in arrays.items() if array is not None}
    shapes = {"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64)}
    dense |= {f"model.layers.0.self_attn.{n}_proj.weight": np.zeros(shape, np.uint16) for n, shape in shapes.items()}
    block = {"group_size": 16, "bits": 4, "mode": "nvfp4"}
    block |= {f"{PLACE}{name}": MARKED for name in ("gate_proj", "up_proj", "down_proj")}
    folder_of(root, {**{n: a.view(BF16) for n, a in dense.items()}, **arrays}, {**MOE, "quantization": block})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (root / name).write_bytes((source / name).read_bytes())
    return root, arrays


def test_values_are_mlx_s(tmp_path: Path) -> None:
    import mlx.core as mx

    source, arrays = mlx_folder(tmp_path / "in", tmp_path)
    found = values(source)
    for name in ("gate_proj", "up_proj", "down_proj"):
        weight, scales, whole = (mx.array(arrays[f"{PLACE}{name}.{s}"]) for s in ("weight", "scales", "global_scale"))
        for e in range(EXPERTS):
            expected = mx.dequantize(
                weight[e], scales[e], group_size=16, bits=4, mode="nvfp4", global_scale=whole[e], dtype=mx.float32
            )
            assert np.array_equal(found[f"{PLACE}{name}.weight"][e], np.array(expected)), (name, e)


def test_a_copy_keeps_arrays_and_settings(tmp_path: Path) -> None:
    source, arrays = mlx_folder(tmp_path / "in", tmp_path)
    converted(source, tmp_path / "out", scale_dtype="f32")
    after = stored(tmp_path / "out")
    assert all(after[name].data == array.tobytes() for name, array in arrays.items())
    assert config(tmp_path / "out")["quantization"][f"{PLACE}up_proj"]["global_scale"] is True


def test_in_gguf_the_factor_stands_beside_the_blocks(tmp_path: Path) -> None:
    source, arrays = mlx_folder(tmp_path / "in", tmp_path)
    report = converted(source, tmp_path / "out.gguf")
    reader = {t.name: t for t in GGUFReader(tmp_path / "out.gguf").tensors}
    expected = arrays[f"{PLACE}down_proj.global_scale"] / np.float32(2688)
    assert np.array_equal(reader["blk.0.ffn_down_exps.scale"].data, expected)
    assert {w["grade"] for w in report["weights"]} == {"exact"}
    before, back = values(source), tmp_path / "back"
    converted(tmp_path / "out.gguf", back, to="hf", dtype="f32")
    after = values(back)
    for e in range(EXPERTS):
        name = f"model.layers.0.mlp.experts.{e}.down_proj.weight"
        assert np.array_equal(after[name], before[f"{PLACE}down_proj.weight"][e])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"global_scale": np.ones(2, np.float32)}, r"expected f32 \[3\], found f32 \[2\]"),
        ({"global_scale": np.ones(3, np.float16)}, r"expected f32 \[3\], found f16 \[3\]"),
        ({"global_scale": None}, "down_proj.global_scale is missing"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    source, _ = mlx_folder(tmp_path / "in", tmp_path, **changes)
    with pytest.raises(BadInput, match=said):
        open_source(source)


def test_a_module_whose_settings_do_not_say_so_is_refused(tmp_path: Path) -> None:
    source, _ = mlx_folder(tmp_path / "in", tmp_path)
    settings = json.loads((source / "config.json").read_text())
    del settings["quantization"][f"{PLACE}down_proj"]["global_scale"]
    (source / "config.json").write_text(json.dumps(settings))
    with pytest.raises(BadInput, match="config.json .* global_scale"):
        open_source(source)
