"""The dimensions of tensors in a GGUF file that is made from another one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.containers import gguf
from tests.conversions import converted
from tests.gguf_files import Raw, load, of_values, save

SHAPES = {"a.weight": (1, 64), "b.weight": (1, 1), "c": (1, 4, 256), "d.weight": (1, 1, 8, 256), "e.weight": (4, 1, 64)}
WITHOUT_ONES = {"a.weight": (64,), "b.weight": (1,), "c": (4, 256), "d.weight": (8, 256), "e.weight": (4, 1, 64)}


def source(path: Path, architecture: str) -> Path:
    random = np.random.default_rng(11)
    tensors = {name: of_values(random.standard_normal(shape)) for name, shape in SHAPES.items()}
    scalar = {"f.scalar": Raw("f32", (), of_values(np.array([2.5])).rows)}
    return save(path, {"general.architecture": ("string", architecture)}, tensors | scalar)


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    return {name: info.shape for name, info in gguf.read(path).tensors.items()}


@pytest.mark.parametrize(
    "options", [{}, {"scheme": "copy"}, {"scheme": "keep"}, {"dtype": "f16"}, {"overrides": ("d.weight=q8_0",)}]
)
@pytest.mark.parametrize("architecture", ["sd3", "llama"])
def test_stored_dimensions_stay(tmp_path: Path, architecture: str, options: dict[str, Any]) -> None:
    made = tmp_path / "out.gguf"
    converted(source(tmp_path / "in.gguf", architecture), made, **options)
    assert shapes(made) == SHAPES | {"f.scalar": ()}


@pytest.mark.parametrize("scheme", ["q8_0", "f16", "q4_k_m"])
def test_presets_are_llama_quantizes_for_its_own_architectures(tmp_path: Path, scheme: str) -> None:
    for architecture, wanted in (("sd3", SHAPES | {"f.scalar": ()}), ("gemma4", WITHOUT_ONES | {"f.scalar": (1,)})):
        made = tmp_path / f"{architecture}.gguf"
        converted(source(tmp_path / f"{architecture}-in.gguf", architecture), made, scheme=scheme)
        assert shapes(made) == wanted


def test_a_copy_of_a_diffusion_model(shared: Path, tmp_path: Path) -> None:
    file = shared / "field" / "gguf" / "leading-axes-of-1.gguf"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    shutil.copy(file, tmp_path / "in.gguf")
    converted(tmp_path / "in.gguf", tmp_path / "out.gguf")
    before, after = load(tmp_path / "in.gguf")[1], load(tmp_path / "out.gguf")[1]
    assert {name: (raw.type, raw.shape, raw.rows.tobytes()) for name, raw in after.items()} == {
        name: (raw.type, raw.shape, raw.rows.tobytes()) for name, raw in before.items()
    }
