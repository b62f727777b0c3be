"""Where a fit hangs on scales and biases: the plan reads them, repacks what they allow, and falls back else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.arrays import numpy_dtype
from quantcli.checkpoint import Part, Weight
from quantcli.convert.planning.scales import fit_of, holder, unrounded
from quantcli.schemes.base import Grade, Scheme
from quantcli.schemes.ggml import TYPES
from quantcli.schemes.hf import named
from quantcli.schemes.mlx.affine import Affine
from quantcli.schemes.mlx.mx_floats import MxFloat
from quantcli.targets import TARGETS
from tests.builders import LLAMA, folder_of, llama_tensors, tiny_llama
from tests.conversions import converted

ROWS, COLUMNS = 640, 256
GGUF, MLX = TARGETS["gguf"]().holders("f16"), TARGETS["mlx"]().holders("f16")


def stored(folder: Path, scheme: Scheme, arrays: dict[str, np.ndarray]) -> Weight:
    """A weight whose parts lie in files of their own."""
    parts = {}
    for name, spec in scheme.layout((ROWS, COLUMNS)).items():
        array = np.ascontiguousarray(arrays[name]).view(numpy_dtype(spec.dtype))
        (folder / name).write_bytes(array.tobytes())
        parts[name] = Part(name, spec.dtype, spec.shape, folder / name, 0)
    return Weight("w", (ROWS, COLUMNS), scheme, parts)


def affine(folder: Path, bits: int, zeros: Any, dtype: str = "f16") -> Weight:
    rng, scheme = np.random.default_rng(bits), Affine(bits, 64, dtype)
    scales = (rng.integers(1, 64, (ROWS, COLUMNS // 64)) / 1024).astype(numpy_dtype(dtype))
    biases = (-np.asarray(zeros) * scales.astype(np.float32)).astype(scales.dtype)
    words = rng.integers(0, 1 << 32, (ROWS, COLUMNS * bits // 32), np.uint32)
    return stored(folder, scheme, {"weight": words, "scales": scales, "biases": biases})


@pytest.mark.parametrize("bits, zero", [(6, 32), (6, 20), (8, 128)])
def test_whole_multiples_go_to_q8_0(tmp_path: Path, bits: int, zero: int) -> None:
    weight = affine(tmp_path, bits, zero)
    assert holder(weight, GGUF, weight.shape) == (TYPES["q8_0"], Grade.EXACT)
    assert unrounded(weight, TYPES["q8_0"])


def test_the_last_row_counts(tmp_path: Path) -> None:
    zeros = np.full((ROWS, COLUMNS // 64), 32.0)
    zeros[-1, -1] = 31.5
    weight = affine(tmp_path, 6, zeros)
    assert "multiple of its scale" in str(fit_of(weight, TYPES["q8_0"], weight.shape))
    assert holder(weight, GGUF, weight.shape) is None


@pytest.mark.parametrize(
    "dtype, grade", [("f16", Grade.EXACT), ("bf16", Grade.CODES_EXACT), ("f32", Grade.CODES_EXACT)]
)
@pytest.mark.parametrize(
    "bits, zero, name",
    [
        (4, 8, "q4_0"),
        (5, 16, "q5_0"),
        (3, 4, "q4_0"),
        (2, 1, "q2_0"),
        (2, 2, "q4_0"),
        (8, 128, "q8_0"),
        (6, 32, "q8_0"),
    ],
)
def test_a_grid_that_happens_to_be_symmetric_needs_no_biases(
    tmp_path: Path, bits: int, zero: int, name: str, dtype: str, grade: Grade
) -> None:
    """The smallest scheme counts, and the values of these scales are exact in it whatever their dtype."""
    weight = affine(tmp_path, bits, zero, dtype)
    assert holder(weight, GGUF, weight.shape) == (TYPES[name], grade)
    assert unrounded(weight, TYPES[name])


@pytest.mark.parametrize("bits, zero, name", [(4, 8, "q4_1"), (5, 16, "q5_1")])
def test_one_other_bias_needs_biases(tmp_path: Path, bits: int, zero: int, name: str) -> None:
    zeros = np.full((ROWS, COLUMNS // 64), float(zero))
    zeros[-1, -1] = zero - 1
    weight = affine(tmp_path, bits, zeros)
    assert holder(weight, GGUF, weight.shape) == (TYPES[name], Grade.EXACT)


@pytest.mark.parametrize("bits, name", [(2, "tq2_0"), (1, "q1_0")])
def test_two_groups_of_one_scale_are_one_block(tmp_path: Path, bits: int, name: str) -> None:
    """Pairs of groups of 128 with the same scale, as tq2_0 leaves them, and one group of 128, as q1_0 does."""
    rng, scheme = np.random.default_rng(bits), Affine(bits, 128, "f16")
    scales = np.repeat(rng.standard_normal((ROWS, 1)).astype(np.float16), 2, axis=1)
    words = rng.integers(0, 1 << 32, (ROWS, COLUMNS * bits // 32), np.uint32)
    biases = (-scales if bits == 2 else -scales / 2).astype(np.float16)
    weight = stored(tmp_path, scheme, {"weight": words, "scales": scales, "biases": biases})
    assert holder(weight, GGUF, weight.shape) == (TYPES[name], Grade.EXACT)
    assert unrounded(weight, TYPES[name])


@pytest.mark.parametrize("bits, zero, name", [(8, 128, "q8_0"), (6, 32, "q8_0"), (5, 16, "q5_0"), (4, 8, "q4_0")])
def test_any_codes_will_do_in_groups_of_scale_zero(tmp_path: Path, bits: int, zero: int, name: str) -> None:
    """Padding rows, and a group that is all one value: its scale is 0 too."""
    weight = affine(tmp_path, bits, zero)
    scales, biases = (np.fromfile(tmp_path / part, np.float16).reshape(ROWS, -1) for part in ("scales", "biases"))
    scales[-100:], biases[-100:] = 0, -0.0
    scales[7, 1], biases[7, 1] = -0.0, 0.75
    (tmp_path / "scales").write_bytes(scales.tobytes())
    (tmp_path / "biases").write_bytes(biases.tobytes())
    assert holder(weight, GGUF, weight.shape) == (TYPES[name], Grade.EXACT)
    assert unrounded(weight, TYPES[name])


@pytest.mark.parametrize("name, wanted", [("uint4-g64", "q4_0"), ("int8-asym-channel", "q8_0"), ("uint4-g128", "q4_0")])
def test_zero_points_that_are_all_the_middle_need_no_biases(tmp_path: Path, name: str, wanted: str) -> None:
    """compressed-tensors with zero points of each group; but one other, and they are needed."""
    scheme, rng = named(name, "f16", (ROWS, COLUMNS)), np.random.default_rng(4)
    assert scheme is not None
    parts = {}
    for part, spec in scheme.layout((ROWS, COLUMNS)).items():
        words = rng.integers(0, 256, (*spec.shape, numpy_dtype(spec.dtype).itemsize), np.uint8)
        parts[part] = words.view(numpy_dtype(spec.dtype)).reshape(spec.shape)
    parts["scales"] = rng.standard_normal(parts["scales"].shape).astype(np.float16)
    parts["scales"][5], parts["zeros"][:] = 0, -0x7F7F7F80 if wanted == "q8_0" else -0x77777778
    weight = stored(tmp_path, scheme, parts)
    assert holder(weight, GGUF, weight.shape) == (TYPES[wanted], Grade.EXACT)
    assert unrounded(weight, TYPES[wanted])
    parts["zeros"].reshape(-1)[-1] += 1
    other = holder(stored(tmp_path, scheme, parts), GGUF, weight.shape)
    assert other == (None if wanted == "q8_0" else (TYPES["q4_1"], Grade.CODES_EXACT))


@pytest.mark.parametrize("scheme", [MxFloat("mxfp4"), TYPES["q4_0"]], ids=["mlx/mxfp4", "q4_0"])
def test_what_nothing_smaller_could_hold_is_not_looked_at(tmp_path: Path, scheme: Scheme) -> None:
    arrays = {
        name: np.zeros(spec.shape, numpy_dtype(spec.dtype)) for name, spec in scheme.layout((ROWS, COLUMNS)).items()
    }
    weight = stored(tmp_path, scheme, arrays)
    for part in weight.parts:
        (tmp_path / part).unlink()
    found = holder(weight, MLX if scheme.family == "ggml" else GGUF, weight.shape)
    assert found is not None and found[1] is Grade.EXACT


@pytest.mark.parametrize("byte, fits", [(0x7E, True), (0x81, False), (0x7F, False)])
def test_nvfp4_scale_bytes(tmp_path: Path, byte: int, fits: bool) -> None:
    scales = np.full((ROWS, COLUMNS // 16), 0x38, np.uint8)
    scales[-1, 0] = byte
    weight = stored(tmp_path, MxFloat("nvfp4"), {"weight": np.zeros((ROWS, COLUMNS // 8), np.uint32), "scales": scales})
    found = holder(weight, GGUF, weight.shape)
    assert found == ((TYPES["nvfp4"], Grade.EXACT) if fits else None)


@pytest.mark.parametrize("name", ["q6_k", "q4_k"])
def test_blocks_whose_scales_f16_holds(tmp_path: Path, name: str) -> None:
    """Equal values: all groups of a q6_k block have one scale, and merge; a power of two as scale is exact in f16."""
    scheme = TYPES[name]
    rng = np.random.default_rng(0)
    plain = scheme.encode(rng.standard_normal((ROWS, COLUMNS)).astype(np.float32))[0]
    even = scheme.encode(np.tile(np.arange(16, dtype=np.float32) - 8, (ROWS, COLUMNS // 16)))[0]
    (tmp_path / "even").mkdir()
    ordinary, merging = stored(tmp_path, scheme, dict(plain)), stored(tmp_path / "even", scheme, dict(even))
    found = holder(ordinary, MLX, ordinary.shape)
    assert (found[1] if found else None) == (None if name == "q6_k" else Grade.CODES_EXACT)
    taken = holder(merging, MLX, merging.shape)
    assert taken is not None
    assert taken[0].name == ("affine6-g128" if name == "q6_k" else "affine4-g32")
    if name == "q4_k":
        assert not unrounded(ordinary, taken[0])


def test_a_conversion_repacks_what_its_biases_allow(tmp_path: Path) -> None:
    """An MLX folder of affine6 whose biases are whole multiples of their scales, one weight aside."""
    dense = llama_tensors(LLAMA, np.dtype(np.float16))
    scheme, rng = Affine(6, 32, "f16"), np.random.default_rng(3)
    tensors: dict[str, np.ndarray] = {}
    for name, array in dense.items():
        if array.ndim < 2:
            tensors[name] = array
            continue
        module, groups = name.removesuffix(".weight"), (array.shape[0], array.shape[1] // 32)
        scales = (rng.integers(1, 64, groups) / 1024).astype(np.float16)
        zeros = np.full(groups, 32.0 if "lm_head" not in name else 31.5)
        tensors[name] = rng.integers(0, 1 << 32, (array.shape[0], array.shape[1] * 6 // 32), np.uint32)
        tensors[f"{module}.scales"], tensors[f"{module}.biases"] = scales, (-zeros * scales).astype(np.float16)
    block = {"bits": scheme.bits, "group_size": scheme.group, "mode": "affine"}
    folder = folder_of(tiny_llama(tmp_path / "mlx"), tensors, {**LLAMA, "quantization": block})
    report = converted(folder, tmp_path / "out.gguf")
    found = {w["name"]: (w["scheme"], w["route"], w["grade"]) for w in report["weights"] if len(w["shape"]) > 1}
    assert found.pop("output.weight") == ("q8_0", "requantize", "lossy")
    assert set(found.values()) == {("q8_0", "repack", "exact")}
    assert report["totals"]["fallbacks"] == 1
