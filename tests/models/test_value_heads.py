"""Value heads of gated delta nets: from groups to tiles and back, in rows and in columns, of quantized weights too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.errors import BadInput
from quantcli.models import ARCHITECTURES, Hyperparameters
from quantcli.models.ops import Tile, TileColumns, Ungroup, tiled
from quantcli.models.sizes import ONE, setting
from tests.conversions import converted, schemes, values
from tests.convert.test_golden_arch import DATA, contents, reference, write_model

K_HEADS, V_HEADS, SIZE = setting("linear_num_key_heads"), setting("linear_num_value_heads"), setting("size")
OUT, QKV, DECAY = (f"model.layers.0.linear_attn.{name}" for name in ("out_proj.weight", "in_proj_qkv.weight", "A_log"))


def heads(keys: int, count: int, size: int) -> Hyperparameters:
    config = json.loads((DATA / "arch" / "qwen3_5" / "config.json").read_text())
    sizes = {"linear_num_key_heads": keys, "linear_num_value_heads": count, "size": size}
    return ARCHITECTURES["qwen3_5"].hyperparameters(config | sizes)


def test_rows_before_the_value_heads_stay() -> None:
    found = Tile(K_HEADS, V_HEADS, SIZE, before=2 * SIZE).index(16, heads(2, 6, 2))
    assert found.tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 6, 7, 12, 13, 8, 9, 14, 15]
    assert Tile(K_HEADS, V_HEADS, ONE).index(6, heads(2, 6, 2)).tolist() == [0, 3, 1, 4, 2, 5]


def test_as_many_value_heads_as_key_heads_stay() -> None:
    assert Tile(K_HEADS, V_HEADS, SIZE).index(8, heads(4, 4, 2)).tolist() == list(range(8))
    assert TileColumns(K_HEADS, V_HEADS, SIZE).blocks(heads(4, 4, 2))[1].tolist() == [0, 1, 2, 3]


def test_parts_of_groups_come_together() -> None:
    parts = Ungroup(K_HEADS, (K_HEADS, K_HEADS, V_HEADS, V_HEADS))
    assert parts.index(12, heads(2, 4, 1)).tolist() == [0, 6, 1, 7, 2, 3, 8, 9, 4, 5, 10, 11]


def test_sizes_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(BadInput, match="5 value heads"):
        tiled(2, 5)
    with pytest.raises(BadInput, match="7 rows"):
        Tile(K_HEADS, V_HEADS, SIZE).index(7, heads(2, 4, 2))
    with pytest.raises(BadInput, match="13 rows"):
        Ungroup(K_HEADS, (K_HEADS, K_HEADS, V_HEADS, V_HEADS)).index(13, heads(2, 4, 1))


def model(folder: Path, size: int) -> Path:
    """The case with heads of another size: two key heads, four value heads."""
    tensors = reference("qwen3_5")["source"]
    shapes = {
        "in_proj_qkv.weight": [8 * size, 64], "in_proj_z.weight": [4 * size, 64], "out_proj.weight": [64, 4 * size],
        "conv1d.weight": [8 * size, 1, 4], "norm.weight": [size],
    }  # fmt: skip
    changed: dict[str, list[Any]] = {
        name: [dtype, shapes.get(name.partition(".linear_attn.")[2], shape)] for name, (dtype, shape) in tensors.items()
    }
    write_model(folder, "qwen3_5", changed)
    config = json.loads((folder / "config.json").read_text())
    sizes = {"linear_key_head_dim": size, "linear_value_head_dim": size}
    (folder / "config.json").write_text(json.dumps(config | sizes))
    for file in (DATA / "tokenizers" / "kinds" / "bpe-qwen2").glob("*.json"):
        shutil.copy(file, folder)
    return folder


def in_tiles(array: np.ndarray, size: int, axis: int, before: int = 0) -> np.ndarray:
    """The array with four value heads behind `before` along an axis in the order that two key heads take them."""
    first, rest = np.split(array, [before], axis=axis)
    parts = np.split(rest, 4, axis=axis)
    return np.concatenate([first, *(parts[head] for head in (0, 2, 1, 3))], axis=axis)


@pytest.mark.parametrize(
    ("target", "scheme", "stored"),
    [("mlx", "affine4-g32", "q4_1"), ("mlx", "mxfp4", "mxfp4"), ("hf", "int4-g32", "q4_0"), ("hf", "int8-g32", "q8_0")],
)
def test_codes_move_with_whole_groups(tmp_path: Path, target: str, scheme: str, stored: str) -> None:
    source = model(tmp_path / "m", 32)
    converted(source, tmp_path / "q", to=target, scheme=scheme)
    before = values(tmp_path / "q")
    assert schemes(tmp_path / "q")[OUT].endswith(scheme)
    report = converted(tmp_path / "q", tmp_path / "a.gguf")
    after, made = values(tmp_path / "a.gguf"), schemes(tmp_path / "a.gguf")
    assert made["blk.0.ssm_out.weight"] == made["blk.0.attn_qkv.weight"] == stored
    # compressed-tensors computes values in 16 bits, GGML in 32.
    precision = 2**-8 if target == "hf" else 0.0
    assert np.allclose(after["blk.0.ssm_out.weight"], in_tiles(before[OUT], 32, 1), rtol=precision, atol=0)
    assert np.allclose(after["blk.0.attn_qkv.weight"], in_tiles(before[QKV], 32, 0, 128), rtol=precision, atol=0)
    grades = {weight["name"]: weight["grade"] for weight in report["weights"]}
    assert grades["blk.0.ssm_out.weight"] != "lossy"
    converted(tmp_path / "a.gguf", tmp_path / "mlx", to="mlx", scale_dtype="f32")
    again = values(tmp_path / "mlx")
    assert np.allclose(again[OUT], before[OUT], rtol=precision, atol=0)
    assert np.allclose(again[QKV], before[QKV], rtol=precision, atol=0)


def test_heads_that_share_groups_become_dense(tmp_path: Path) -> None:
    converted(model(tmp_path / "m", 16), tmp_path / "q", to="mlx", scheme="affine4-g32")
    before = values(tmp_path / "q")
    converted(tmp_path / "q", tmp_path / "a.gguf")
    assert schemes(tmp_path / "a.gguf")["blk.0.ssm_out.weight"] in ("bf16", "f16", "f32")
    assert schemes(tmp_path / "a.gguf")["blk.0.attn_qkv.weight"] == "q4_1"
    found = values(tmp_path / "a.gguf")["blk.0.ssm_out.weight"]
    assert np.allclose(found, in_tiles(before[OUT], 16, 1), rtol=2**-8)


def test_dense_values_move(tmp_path: Path) -> None:
    source = model(tmp_path / "m", 16)
    converted(source, tmp_path / "a.gguf")
    before, after = values(source), values(tmp_path / "a.gguf")
    assert np.array_equal(after["blk.0.ssm_out.weight"], in_tiles(before[OUT], 16, 1))
    assert np.allclose(after["blk.0.ssm_a"], in_tiles(-np.exp(before[DECAY]), 1, 0), rtol=1e-6)
    assert contents(OUT, "BF16", [1])  # the values differ from head to head
