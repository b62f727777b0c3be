"""FP8 in tensors of three axes, stacked experts called `.weight`: every shape that scales have, for each reader."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quantcli.errors import BadInput
from quantcli.sources.detect import open_source
from quantcli.virtual import by_row, read_rows
from tests.builders import folder_of
from tests.conversions import converted, stored

F8 = np.dtype(ml_dtypes.float8_e4m3fn)
BF16 = np.dtype(ml_dtypes.bfloat16)
E8M0 = np.dtype(ml_dtypes.float8_e8m0fnu)
MODULE = "model.layers.0.mlp.experts.up_proj"
COUNT, ROWS, COLUMNS = 3, 12, 16
BLOCK = (4, 8)

#: shape of the scales -> whether it needs `weight_block_size`
SHAPES: dict[tuple[int, ...], bool] = {
    (): False, (1,): False, (1, 1, 1): False, (COUNT,): False, (COUNT, 1): False, (COUNT, 1, 1): False,
    (COUNT, 2): False, (COUNT, 2, 1): False, (COUNT, ROWS): False, (COUNT, ROWS, 1): False, (COUNT, 3, 2): True,
    (COUNT, ROWS, 4): False, (COUNT, 1, 2): False,
}  # fmt: skip
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    "fp8": ("weight_scale_inv", {"quant_method": "fp8"}),
    "fp8-weight-scale": ("weight_scale", {"quant_method": "fp8"}),
    "deepseek": ("scale", {"quant_method": "fp8"}),
    "modelopt": ("weight_scale", {"quant_method": "modelopt", "quant_algo": "FP8"}),
}
#: DeepSeek's scales are grids: a vector or a number that is called so may be anything.
PAIRS = [(shape, reader) for shape in SHAPES for reader in READERS if reader != "deepseek" or len(shape) > 1]


def model(root: Path, shape: tuple[int, ...], reader: str, dtype: np.dtype[Any]) -> tuple[Path, np.ndarray]:
    """A folder with one stacked weight, and its values in bfloat16."""
    random = np.random.default_rng(len(shape) + sum(shape))
    suffix, settings = READERS[reader]
    codes = random.normal(0, 40, (COUNT, ROWS, COLUMNS)).astype(F8)
    scales = np.exp2(random.integers(-9, -4, shape)).astype(dtype)
    if dtype.itemsize > 1:
        scales = np.asarray(random.uniform(0.01, 0.02, shape), dtype)
    if SHAPES[shape] and reader != "modelopt":
        settings = {**settings, "weight_block_size": list(BLOCK)}
    tensors = {f"{MODULE}.weight": codes, f"{MODULE}.{suffix}": np.asarray(scales)}
    folder = folder_of(root, tensors, {"model_type": "new", "dtype": "bfloat16", "quantization_config": settings})
    wide = scales.astype(np.float32)
    if reader == "modelopt":  # its own class rounds scales before the product
        wide = wide.astype(BF16).astype(np.float32)
    each = wide.reshape(wide.shape + (1,) * (3 - wide.ndim)) if wide.ndim else wide.reshape(1, 1, 1)
    for axis, length in enumerate((COUNT, ROWS, COLUMNS)):
        each = np.repeat(each, length // each.shape[axis], axis=axis) if each.shape[axis] > 1 else each
    return folder, (codes.astype(np.float32) * each).astype(BF16).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BF16], ids=str)
@pytest.mark.parametrize(("shape", "reader"), PAIRS, ids=str)
def test_values(shape: tuple[int, ...], reader: str, dtype: np.dtype[Any], tmp_path: Path) -> None:
    folder, truth = model(tmp_path / "m", shape, reader, dtype)
    weight = open_source(folder).weights[f"{MODULE}.weight"]
    specs = weight.scheme.layout(weight.shape)
    parts = {name: part.read() for name, part in weight.parts.items()}
    assert np.array_equal(weight.scheme.decode(parts).reshape(truth.shape), truth)
    step = int(np.lcm.reduce([spec.rows for spec in specs.values()]))
    flat = truth.reshape(-1, COLUMNS)
    for start in range(0, len(flat), step):
        some = read_rows(weight, specs, start, start + step)
        assert np.array_equal(weight.scheme.decode(some), flat[start : start + step])
    spread = by_row(weight)
    assert np.array_equal(spread.scheme.decode({n: p.read() for n, p in spread.parts.items()}), flat)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_copied_and_decoded(shape: tuple[int, ...], tmp_path: Path) -> None:
    folder, truth = model(tmp_path / "m", shape, "fp8", np.dtype(np.float32))
    converted(folder, tmp_path / "same", to="hf")
    assert stored(tmp_path / "same") == stored(folder)
    converted(folder, tmp_path / "out", to="hf", scheme="bf16")
    found = stored(tmp_path / "out")
    assert found.keys() == {f"{MODULE}.weight"}
    assert np.array_equal(found[f"{MODULE}.weight"].array(BF16).astype(np.float32), truth)


#: shape of the scales -> whether they are the blocks of `weight_block_size`, which the settings have for all of these
UNDER_BLOCKS = {(COUNT, 3, 2): True} | dict.fromkeys(
    ((), (COUNT,), (COUNT, 1), (COUNT, 1, 1), (COUNT, ROWS), (COUNT, ROWS, 1)), False
)


@pytest.mark.parametrize(("shape", "reader"), [(s, r) for s, r in PAIRS if s in UNDER_BLOCKS and r != "modelopt"])
def test_other_scales_under_settings_of_blocks(shape: tuple[int, ...], reader: str, tmp_path: Path) -> None:
    """One of all, of each matrix, of each row: in 3-D tensors they are told by shape, which the report names."""
    folder, truth = model(tmp_path / "m", shape, reader, np.dtype(np.float32))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["weight_block_size"] = list(BLOCK)
    (folder / "config.json").write_text(json.dumps(config))
    weight = open_source(folder).weights[f"{MODULE}.weight"]
    parts = {name: part.read() for name, part in weight.parts.items()}
    assert np.array_equal(weight.scheme.decode(parts).reshape(truth.shape), truth)
    said = f"weight_block_size {list(BLOCK)}" if UNDER_BLOCKS[shape] else f"scales {list(shape)}"
    assert weight.reason == f"quantization_config: {said}"


def test_scales_of_powers(tmp_path: Path) -> None:
    folder, truth = model(tmp_path / "m", (COUNT, 3, 2), "fp8", E8M0)
    weight = open_source(folder).weights[f"{MODULE}.weight"]
    assert np.array_equal(
        weight.scheme.decode({n: p.read() for n, p in weight.parts.items()}).reshape(truth.shape), truth
    )
    assert weight.scheme.grid().scale_dtype == "f8_e8m0"


@pytest.mark.parametrize("shape", [(2,), (COUNT, 5), (COUNT, COLUMNS), (COUNT, 1, COLUMNS, 1), (COUNT, 5, 2)], ids=str)
def test_scales_of_no_layout_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    tensors = {
        f"{MODULE}.weight": np.zeros((COUNT, ROWS, COLUMNS), F8),
        f"{MODULE}.weight_scale": np.ones(shape, np.float32),
    }
    folder = folder_of(tmp_path / "m", tensors, {"model_type": "new", "quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(BadInput, match=rf"{MODULE}\.weight_scale"):
        open_source(folder)


FUSED = "model.layers.0.mlp.experts.gate_up_proj"
#: reader -> the suffix of its scales, its settings, the dtype of codes
POWERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "mxfp8": ("_scale_inv", {"quant_method": "mxfp8"}, "mxfp8"),
    "mxfp8-saved": ("_scale_inv", {"quant_method": "fp8", "weight_block_size": [1, 32]}, "mxfp8"),
    "deepseek-v4": ("_scale_inv", {"quant_method": "fp8", "weight_block_size": [128, 128]}, "mxfp4"),
    "modelopt-mxfp8": ("_weight_scale", {"quant_method": "modelopt", "quant_algo": "MXFP8"}, "mxfp8"),
    "modelopt-mxfp4": ("_weight_scale", {"quant_method": "modelopt", "quant_algo": "W4A8_MXFP4_FP8"}, "mxfp4"),
}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


@pytest.mark.parametrize("name", [FUSED, f"{MODULE}.weight"])
@pytest.mark.parametrize("reader", POWERS)
def test_groups_with_powers_of_two(reader: str, name: str, tmp_path: Path) -> None:
    """Of fused parameters, and of modules' stacked weights."""
    random = np.random.default_rng(8)
    suffix, settings, scheme = POWERS[reader]
    scales = random.integers(110, 125, (COUNT, ROWS, 3), dtype=np.uint8)
    if scheme == "mxfp4":
        codes = random.integers(0, 256, (COUNT, ROWS, 48), dtype=np.uint8)
        codes = codes.view(np.int8) if reader == "deepseek-v4" else codes
        values = E2M1[np.stack([codes.view(np.uint8) & 15, codes.view(np.uint8) >> 4], -1).reshape(COUNT, ROWS, 96)]
    else:
        codes = random.normal(0, 40, (COUNT, ROWS, 96)).astype(F8)
        values = codes.astype(np.float32)
    truth = values * np.repeat(np.exp2(scales.astype(np.float32) - 127), 32, axis=2)
    stem = name if name == FUSED else f"{MODULE}.weight" if suffix == "_scale_inv" else f"{MODULE}."
    scale = f"{stem}{suffix}" if stem[-1] != "." else f"{stem}{suffix[1:]}"
    tensors = {name: codes, scale: scales}
    folder = folder_of(tmp_path / "m", tensors, {"model_type": "new", "quantization_config": settings})
    weight = open_source(folder).weights[name]
    assert (weight.scheme.name, weight.shape) == (scheme, (COUNT, ROWS, 96))
    converted(folder, tmp_path / "out", to="hf", scheme="f32")
    found = stored(tmp_path / "out")
    assert found.keys() == {name} and np.array_equal(found[name].array(np.float32), truth)
    converted(folder, tmp_path / "same", to="hf")
    assert stored(tmp_path / "same") == stored(folder)
