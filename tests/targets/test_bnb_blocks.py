"""NF4 and FP4 blocks that bitsandbytes does not have."""

from pathlib import Path

import numpy as np
import pytest

from tests.builders import folder_of
from tests.conversions import planned


@pytest.mark.parametrize("kind", ["nf4", "fp4", "nf4-double", "fp4-double"])
@pytest.mark.parametrize("size", [2, 16, 30, 32, 48, 64, 128, 256, 512, 1024, 2048, 4096, 8192])
def test_blocks_that_bitsandbytes_does_not_have_are_a_warning(kind: str, size: int, tmp_path: Path) -> None:
    rows = 3 * 8192  # a multiple of every size that is tried
    tensors = {"model.layers.0.mlp.up_proj.weight": np.zeros((rows // 16, 80), np.float16)}
    source = folder_of(tmp_path / "in", tensors, {"model_type": "mystery"})
    options = {"to": "hf", "scheme": f"{kind}-g{size}", "allow_unknown_architecture": True}
    warnings = [w for w in planned(source, tmp_path / "out", **options).warnings if "tokenizer" not in w]
    has_it = size in (32, 64, 128, 256, 512, 1024, 2048, 4096)
    assert len(warnings) == (not has_it)
    assert has_it or (f"{kind}-g{size}" in warnings[0] and "32, 64, 128, 256, 512, 1024, 2048, 4096" in warnings[0])
