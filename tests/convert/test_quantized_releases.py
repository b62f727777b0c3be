"""Quantized releases of newer families under every prefix: values are those that their tools make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conversions import converted, schemes, stored, values
from tests.convert.test_golden_arch import hashes
from tests.quantized_releases import FAMILIES, LAYOUTS, Release, dense_twin, release

#: Every family with every layout; of both releases of Kimi one.
PAIRS = [(family, layout) for family in FAMILIES if family != "kimi_k25" for layout in LAYOUTS] + [
    ("kimi_k25", "ct-int4")
]


@pytest.mark.parametrize(("family", "layout"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_values_and_codes(family: str, layout: str, tmp_path: Path) -> None:
    made = release(tmp_path / "m", FAMILIES[family], LAYOUTS[layout])
    assert_read(made)
    twin = dense_twin(tmp_path / "twin", FAMILIES[family], made)
    for folder, name in ((made.folder, "ours.gguf"), (twin, "theirs.gguf")):
        converted(folder, tmp_path / name, check=False, scheme="f32")
    assert hashes(tmp_path / "ours.gguf") == hashes(tmp_path / "theirs.gguf")


def assert_read(made: Release) -> None:
    """Every stored tensor is read as what it means."""
    found = values(made.folder)
    layers = 1 + max(int(name.split(".")[2]) for name in made.truth if name.startswith("model.layers."))
    for name, meant in made.truth.items():
        if not name.startswith("mtp."):
            assert np.array_equal(found[name], meant), name
    assert sum(name.startswith(f"model.layers.{layers}.") for name in found) == sum(
        name.startswith("mtp.") for name in made.truth
    )
    assert made.packed


@pytest.mark.parametrize("layout", LAYOUTS)
def test_codes_stay_where_the_target_has_their_layout(layout: str, tmp_path: Path) -> None:
    """In the stacked experts that are made of them too; a Hugging Face folder has the tensors as they are."""
    made = release(tmp_path / "m", FAMILIES["qwen3_5_moe"], LAYOUTS[layout])
    for name, to in (("a.gguf", "gguf"), ("mlx", "mlx"), ("hf", "hf")):
        converted(made.folder, tmp_path / name, check=False, to=to)
    assert stored(tmp_path / "hf") == stored(made.folder)
    up, gguf = "model.layers.0.mlp.switch_mlp.up_proj.weight", "blk.0.ffn_up_exps.weight"
    found = schemes(tmp_path / "a.gguf")
    assert (found[gguf], found["blk.3.attn_q.weight"]) == (LAYOUTS[layout].gguf,) * 2
    assert schemes(tmp_path / "mlx")[up].rpartition("-g")[0] == LAYOUTS[layout].mlx.rpartition("-g")[0]
    scales = values(tmp_path / "a.gguf")
    meant = np.stack([made.truth[f"model.layers.0.mlp.experts.{e}.up_proj.weight"] for e in range(4)])
    whole = scales.get("blk.0.ffn_up_exps.scale", np.ones(4, np.float32)).reshape(-1, 1, 1)
    step = np.abs(meant).max() / 128  # of what falls back to 8 bits; biases and scales in 16 bits are closer
    assert np.allclose(scales[gguf] * whole, meant, rtol=0, atol=step)
