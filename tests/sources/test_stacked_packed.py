"""compressed-tensors' packed layouts of stacked matrices: experts in one parameter, or in one module's weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.errors import BadInput
from quantcli.sources.detect import open_source
from quantcli.virtual import by_row, read_rows
from tests import packers
from tests.builders import BF16, folder_of
from tests.conversions import converted, stored, values
from tests.packers import Arrays
from tests.quantized_releases import LAYOUTS

COUNT, ROWS, COLUMNS = 3, 40, 96
MODULES = ("model.layers.0.block_sparse_moe.input_linear", "model.layers.0.mlp.experts.down_proj")
NAMES = (f"{MODULES[0]}.weight", MODULES[1])  # stacked experts are a parameter, whose name has no weight


def packed(bits: int, symmetric: bool) -> tuple[dict[str, Any], Arrays, np.ndarray]:
    """Settings, the arrays of a stack, what they mean."""
    grids = [packers.random_grid((ROWS, COLUMNS), bits, 32, symmetric, BF16, seed) for seed in range(COUNT)]
    each = [packers.compressed(grid, bits, packers.stream, symmetric) for grid in grids]
    arrays = {suffix: np.stack([one[suffix] for one in each]) for suffix in each[0]}
    arrays[".weight_shape"] = np.array((COUNT, ROWS, COLUMNS), np.int64)
    weights = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": 32, "symmetric": symmetric}
    meant = np.stack([grid.values for grid in grids]).astype(BF16).astype(np.float32)
    return (
        {"format": "pack-quantized", "config_groups": {"a": {"targets": ["Linear"], "weights": weights}}},
        arrays,
        meant,
    )


def floats(layout: str) -> tuple[dict[str, Any], Arrays, np.ndarray]:
    random = np.random.default_rng(2)
    each = [LAYOUTS[layout].pack(random.normal(0, 1, (ROWS, COLUMNS)).astype(BF16), seed) for seed in range(COUNT)]
    arrays = {suffix: np.stack([one[suffix] for one, _ in each]) for suffix in each[0][0]}
    return dict(LAYOUTS[layout].settings), arrays, np.stack([meant for _, meant in each])


CASES = {
    "int4": lambda: packed(4, True), "uint4": lambda: packed(4, False), "int3": lambda: packed(3, True),
    "int8": lambda: packed(8, True), "mxfp4": lambda: floats("ct-mxfp4"), "nvfp4": lambda: floats("ct-nvfp4"),
}  # fmt: skip


def model(root: Path, case: str) -> tuple[Path, np.ndarray]:
    settings, arrays, meant = CASES[case]()
    tensors = {name: array for module in MODULES for name, array in packers.beside(module, arrays).items()}
    config = {"model_type": "unheard_of", "quantization_config": {"quant_method": "compressed-tensors", **settings}}
    return folder_of(root, tensors, config), meant


@pytest.mark.parametrize("case", CASES)
def test_values_and_copies(case: str, tmp_path: Path) -> None:
    folder, meant = model(tmp_path / "m", case)
    found = values(folder)
    assert set(found) == set(NAMES)
    assert all(np.array_equal(found[name], meant) for name in NAMES)
    for name in NAMES:
        weight = open_source(folder).weights[name]
        for form in (weight, by_row(weight)):
            specs = form.scheme.layout(form.shape)
            step = int(np.lcm.reduce([spec.rows for spec in specs.values()]))
            rows = [form.scheme.decode(read_rows(form, specs, at, at + step)) for at in range(0, COUNT * ROWS, step)]
            assert np.array_equal(np.concatenate(rows), meant.reshape(-1, COLUMNS))
    converted(folder, tmp_path / "same", to="hf")
    assert stored(tmp_path / "same") == stored(folder)


def test_zero_points_that_fill_no_words_are_refused(tmp_path: Path) -> None:
    """Packed along the rows of each matrix, those of 3 bits would share words."""
    settings, arrays, _ = packed(3, False)
    config = {"model_type": "unheard_of", "quantization_config": {"quant_method": "compressed-tensors", **settings}}
    with pytest.raises(BadInput, match="40 rows.*3-bit zero points"):
        open_source(folder_of(tmp_path, packers.beside(MODULES[0], arrays), config))


@pytest.mark.parametrize("shape", [(ROWS, COLUMNS), (COUNT + 1, ROWS, COLUMNS), (COUNT, ROWS, 0)], ids=str)
def test_a_shape_that_is_not_the_arrays_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    settings, arrays, _ = packed(4, True)
    arrays[".weight_shape"] = np.array(shape, np.int64)
    config = {"model_type": "unheard_of", "quantization_config": {"quant_method": "compressed-tensors", **settings}}
    with pytest.raises(BadInput, match="weight_shape"):
        open_source(folder_of(tmp_path, packers.beside(MODULES[0], arrays), config))
