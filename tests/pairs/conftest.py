"""The source folders of the pairs, each made once in a run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.builders import tiny_awq, tiny_llama
from tests.conversions import converted

TORCH = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
Sources = Callable[[str], Path]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Source folders by kind, each made once: `hf-bf16`, `awq`, or a scheme or mixture as an MLX folder."""
    root = tmp_path_factory.mktemp("sources")

    def make(kind: str) -> Path:
        folder = root / kind
        if folder.exists():
            return folder
        if kind.startswith("hf-"):
            dtype = kind.removeprefix("hf-")
            given = {} if dtype == "bf16" else {"dtype": np.dtype(TORCH[dtype])}
            return tiny_llama(folder, **given, torch_dtype=TORCH[dtype])
        if kind.startswith("awq"):
            return tiny_awq(folder, zero_point=kind == "awq")
        if kind == "mixed":
            converted(make("hf-bf16"), folder, scheme="affine4-g64", overrides=MIXED)
        else:
            converted(make("hf-bf16"), folder, scheme=kind)
        return folder

    return make


#: Of the `mixed` source: which modules have another scheme than affine4-g64.
MIXED = ("*.down_proj=affine8-g32", "lm_head=bf16", "model.layers.1.self_attn.*=mxfp4")
