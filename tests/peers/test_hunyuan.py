"""Hunyuan A13B in mlx-lm: loaded under the name `hunyuan`, computed with weights of experts that sum to less than 1.

transformers, llama.cpp and the release's own code divide the weights of the chosen experts by their sum. Where a token
takes all experts that sum is 1, and mlx-lm's logits are transformers': nothing else differs.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.arch_models import tied_model
from tests.conversions import converted
from tests.peers.pinned import peer

torch = peer("torch")
transformers = peer("transformers")
peer("mlx_lm")

import mlx.core as mx  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

from tests.peers.test_mlx_lm import apart, logits, wide  # noqa: E402
from tests.peers.test_transformers import load  # noqa: E402
from tests.peers.test_transformers import logits as reference_logits  # noqa: E402

IDS = list(range(3, 35))


def both(tmp_path: Path, chosen: int) -> tuple[np.ndarray, np.ndarray]:
    """The logits of mlx-lm and of transformers, of a model whose tokens take so many of 4 experts."""
    mx.set_default_device(mx.cpu)
    source = tied_model(tmp_path, "hunyuan_a13b")
    config = json.loads((source / "config.json").read_text()) | {"moe_topk": [chosen] * 2}
    (source / "config.json").write_text(json.dumps(config))
    converted(source, tmp_path / "mlx")
    (source / "config.json").write_text(json.dumps(config | {"model_type": "hunyuan_v1_moe"}))
    converted(source, tmp_path / "hf", to="hf", dtype="f32")
    model, _ = load_model(tmp_path / "mlx", strict=True)
    return logits(wide(model), IDS), reference_logits(load(tmp_path / "hf"), IDS)


@pytest.mark.parametrize(("chosen", "least", "most"), [(2, 0.01, 1.0), (4, 0.0, 1e-4)])
def test_mlx_lm_differs_by_the_sum_of_the_weights_alone(tmp_path: Path, chosen: int, least: float, most: float) -> None:
    difference = apart(*both(tmp_path, chosen))
    print(f"{chosen} of 4 experts: largest logit difference {difference:.2g}")
    assert least <= difference < most
