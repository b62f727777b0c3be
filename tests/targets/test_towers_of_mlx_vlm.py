"""Folders of mlx-vlm come back as their release: it renames tensors and moves the channels of convolutions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from quantcli.sources.detect import open_source
from tests.arch_models import arch_model
from tests.builders import BF16, safetensors_bytes
from tests.conversions import converted, stored

#: Case -> what names begin with in its release -> in mlx-vlm's folder of it (mlx_vlm/models/*, `sanitize`).
CASES = {
    "gemma3": {},
    "glm4v": {
        "model.language_model.": "language_model.model.",
        "model.visual.": "vision_tower.",
        "lm_head.": "language_model.lm_head.",
    },
    "mistral3": {"vision_tower.": "vision_tower.vision_model."},
    "qwen2_5_vl": {
        "visual.": "vision_tower.",
        "model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    },
    "qwen3_vl": {
        "model.language_model.": "language_model.model.",
        "model.visual.": "vision_tower.",
        "lm_head.": "language_model.lm_head.",
    },
    "smolvlm": {
        "model.text_model.": "language_model.",
        "model.vision_model.": "vision_model.",
        "model.connector.": "connector.",
        "lm_head.": "language_model.lm_head.",
    },
}


def by_mlx_vlm(source: Path, starts: dict[str, str]) -> None:
    """Make of a release's folder what mlx-vlm makes of it."""
    arrays = {}
    for name, tensor in stored(source).items():
        start = next((one for one in starts if name.startswith(one)), "")
        array = np.frombuffer(tensor.data, BF16).reshape(tensor.shape)
        arrays[starts.get(start, "") + name.removeprefix(start)] = (
            np.ascontiguousarray(np.moveaxis(array, 1, -1)) if array.ndim > 3 else array
        )
    for file in source.glob("*.safetensors*"):
        file.unlink()
    (source / "model.safetensors").write_bytes(safetensors_bytes(arrays, {"format": "mlx"}))


@pytest.mark.parametrize("case", CASES)
def test_a_release_comes_back_from_mlx_vlm(tmp_path: Path, case: str) -> None:
    source = arch_model(tmp_path, case)
    before = {name: (tensor.shape, tensor.data) for name, tensor in stored(source).items()}
    assert any(len(shape) > 3 for shape, _ in before.values())
    by_mlx_vlm(source, CASES[case])
    assert any(tensor.shape not in {shape for shape, _ in before.values()} for tensor in stored(source).values())
    converted(source, tmp_path / "hf", to="hf")
    assert {name: (tensor.shape, tensor.data) for name, tensor in stored(tmp_path / "hf").items()} == before
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"]
    assert open_source(tmp_path / "hf").towers
