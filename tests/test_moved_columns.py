"""Columns in another order: packed codes move with their scales in every layout whose blocks they do not cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantcli.checkpoint import Part, Weight
from quantcli.schemes import ggml_scheme
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense
from quantcli.schemes.hf.awq import Awq
from quantcli.schemes.hf.gptq import Gptq
from quantcli.schemes.hf.scaled import Scales
from quantcli.schemes.mlx.affine import Affine
from quantcli.virtual import values_of, with_columns_moved
from tests.models.test_translate import stored

ROWS, COLUMNS = 16, 512
ORDER = np.array([2, 0, 3, 1], np.int64)
TRANSPOSED = Scales("f16", 1, 32, transposed=True)
MOVABLE: dict[str, tuple[Scheme, int]] = {
    "bf16": (Dense("bf16"), 128),
    "affine3": (Affine(3, 64, "f16"), 128),
    "affine4": (Affine(4, 32, "bf16"), 128),
    "awq": (Awq(columns=COLUMNS, scales=TRANSPOSED, symmetric=False, zeros_dtype="i32"), 128),
    "gptq": (Gptq(columns=COLUMNS, scales=TRANSPOSED, bits=4, symmetric=False, layout_format="gptq_v2"), 128),
    "q8_0": (ggml_scheme("q8_0"), 128),
}


def values(weight: Weight) -> np.ndarray:
    found = values_of(weight, None, 0, ROWS)
    return np.nan_to_num(found.astype(np.float32))


@pytest.mark.parametrize("name", MOVABLE)
def test_codes_move_as_they_are(name: str, tmp_path: Path) -> None:
    scheme, width = MOVABLE[name]
    weight = stored("w", (ROWS, COLUMNS), scheme, tmp_path)
    moved = with_columns_moved(weight, ORDER, width)
    assert moved.scheme == scheme
    blocks = np.split(values(weight), len(ORDER), axis=1)
    assert np.array_equal(values(moved), np.concatenate([blocks[block] for block in ORDER], axis=1))
    back = with_columns_moved(moved, np.argsort(ORDER), width)
    for part, array in weight.parts.items():
        assert isinstance(array, Part)
        whole = array.read_bytes(0, array.nbytes)
        assert np.array_equal(back.parts[part].read_bytes(0, array.nbytes), whole)
        assert np.array_equal(back.parts[part].read_bytes(5, 90), whole[5:90])


@pytest.mark.parametrize(("scheme", "width"), [(ggml_scheme("q4_k"), 128), (Affine(4, 64, "f16"), 32)])
def test_blocks_that_share_scales_make_a_weight_dense(scheme: Scheme, width: int, tmp_path: Path) -> None:
    weight = stored("w", (ROWS, COLUMNS), scheme, tmp_path)
    order = np.arange(COLUMNS // width, dtype=np.int64)[::-1].copy()
    moved = with_columns_moved(weight, order, width)
    assert isinstance(moved.scheme, Dense) and moved.made_of == scheme
    blocks = np.split(values(weight), len(order), axis=1)
    assert np.array_equal(values(moved), np.concatenate(blocks[::-1], axis=1))


def test_rows_are_cut_out_of_what_was_moved(tmp_path: Path) -> None:
    weight = with_columns_moved(stored("w", (ROWS, COLUMNS), Affine(4, 32, "bf16"), tmp_path), ORDER, 128)
    for part in weight.parts.values():
        assert np.array_equal(part.section(4, 9).read(), part.read()[4:9])
        assert np.array_equal(part.read(3, 7, axis=1), part.read()[:, 3:7])
