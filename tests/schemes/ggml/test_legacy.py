"""q4_0 q4_1 q5_0 q5_1 q8_0: ggml's bytes and values, the grid view, repacks, bad values, MLX.

tests/data/ggml/blocks.npz holds what ggml 0.25.3 (x86-64, no fused multiply-add) made: `x` float32 (62, 512) encoded to
`q.<type>` (rows with `ok.<type>` false are undefined in C), their decoding `dq.<type>`, and random blocks
`rnd.<type>.q` with their values `rnd.<type>.dq`.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.arrays import Device, numpy_dtype
from quantcli.schemes.base import Codes, DoesNotFit, Error, Grade, Grid
from quantcli.schemes.ggml import TYPES
from quantcli.schemes.ggml.legacy import SCHEMES, GgmlLegacy
from tests.reasons import facts

GOLDEN = np.load(Path(__file__).parent.parent.parent / "data" / "ggml" / "blocks.npz")
NAMES = tuple(SCHEMES)
DEVICES = (Device.CPU, Device.MLX)
SYMMETRIC = ("q4_0", "q5_0", "q8_0")
rng = np.random.default_rng(7)


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


def random_blocks(name: str, rows: int = 40, blocks: int = 4) -> np.ndarray[Any, Any]:
    """Random bytes whose scales and minima are finite."""
    size = SCHEMES[name].ggml_type.block_bytes
    data = rng.integers(0, 256, (rows, blocks, size), np.uint8)
    numbers = 2 if name.endswith("1") else 1
    header = np.ascontiguousarray(data[..., : 2 * numbers]).view(np.uint16)
    header[header & 0x7C00 == 0x7C00] &= 0xBFFF
    data[..., : 2 * numbers] = header.view(np.uint8)
    return data.reshape(rows, -1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_ggmls(name: str, device: Device) -> None:
    ok = GOLDEN[f"ok.{name}"]
    parts, error = SCHEMES[name].encode(GOLDEN["x"][ok], device)
    wrong = (parts["blocks"] != GOLDEN[f"q.{name}"][ok]).any(axis=1)
    assert not wrong.any(), GOLDEN["row_names"][ok][wrong]
    between = Error.between(GOLDEN["x"][ok], GOLDEN[f"dq.{name}"][ok])
    assert error.squared == pytest.approx(between.squared, rel=1e-5)
    assert error.reference == pytest.approx(between.reference, rel=1e-5)
    assert error.largest == pytest.approx(between.largest, rel=1e-6)


#: SHA-256 (its start) of what ggml makes of `million`.
HASHES = {
    "q4_0": "7a334ce8bc821d80",
    "q4_1": "1737ac2a885a3b7f",
    "q5_0": "71498916f64dcd6b",
    "q5_1": "195195c068a2e4c7",
    "q8_0": "68e86754a951878c",
    "q6_k": "1dae148722556776",
}


@pytest.fixture(scope="module")
def million() -> np.ndarray[Any, Any]:
    """A million products of two whole numbers, many of them with equal factors, over 2**20."""
    numbers = np.random.default_rng(2024)
    i, j = numbers.integers(-1000, 1001, (256, 4096)), numbers.integers(1, 1001, (256, 4096))
    return (i * j).astype(np.float32) * np.float32(2.0**-20)


@pytest.mark.parametrize("name", HASHES)
def test_a_million_values_are_ggmls(name: str, million: np.ndarray[Any, Any]) -> None:
    blocks = TYPES[name].encode(million)[0]["blocks"]
    assert hashlib.sha256(blocks.tobytes()).hexdigest()[:16] == HASHES[name]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_ggmls(name: str, device: Device) -> None:
    ok, scheme = GOLDEN[f"ok.{name}"], SCHEMES[name]
    assert same_bits(scheme.decode({"blocks": GOLDEN[f"q.{name}"][ok]}, device), GOLDEN[f"dq.{name}"][ok])
    assert same_bits(scheme.decode({"blocks": GOLDEN[f"rnd.{name}.q"]}, device), GOLDEN[f"rnd.{name}.dq"])


@pytest.mark.parametrize("name", NAMES)
def test_values_are_gguf_pys(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    blocks = random_blocks(name)
    theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name.upper()])
    assert (SCHEMES[name].decode({"blocks": blocks}) == theirs).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f64"])
def test_dtypes_of_values(name: str, dtype: str) -> None:
    """Every dtype is meant as float32; a count of blocks that fills no whole chunk of the kernel."""
    values = (rng.standard_normal((3, 1056)) * 0.03).astype(numpy_dtype(dtype))
    wide = values.astype(np.float32)
    parts, error = SCHEMES[name].encode(values)
    expected, _ = SCHEMES[name].encode(wide)
    assert (parts["blocks"] == expected["blocks"]).all()
    on_mlx, _ = SCHEMES[name].encode(values, Device.MLX)
    assert (parts["blocks"] == on_mlx["blocks"]).all()
    between = Error.between(wide, SCHEMES[name].decode(parts))
    assert error.relative_rmse == pytest.approx(between.relative_rmse, rel=1e-5)
    assert error.relative_rmse == pytest.approx(SCHEMES[name].rounding, rel=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_mlx_equals_cpu_on_ties_zeros_and_signs(name: str) -> None:
    """Peaks of both signs, zeros of both signs as minimum, values halfway between codes."""
    values = rng.integers(-4, 5, (64, 256)).astype(np.float32) * np.float32(0.5)
    values[::2] = np.abs(values[::2])
    values[(values == 0) & (rng.random(values.shape) < 0.5)] = -0.0
    cpu, cpu_error = SCHEMES[name].encode(values)
    on_mlx, mlx_error = SCHEMES[name].encode(values, Device.MLX)
    assert (cpu["blocks"] == on_mlx["blocks"]).all()
    assert cpu_error.squared == pytest.approx(mlx_error.squared, rel=1e-5)
    gguf = pytest.importorskip("gguf")
    theirs = gguf.quants.quantize(values, gguf.GGMLQuantizationType[name.upper()])
    assert (theirs == cpu["blocks"]).mean() > 0.97  # numpy leaves open which of two peaks or zeros comes first


@pytest.mark.parametrize("name", NAMES)
def test_codes_hold_the_values_and_go_back(name: str) -> None:
    scheme, parts = SCHEMES[name], {"blocks": random_blocks(name)}
    codes = scheme.codes(parts)
    assert codes.grid == scheme.grid()
    assert (codes.values() == scheme.decode(parts)).all()
    assert (scheme.pack(codes)["blocks"] == parts["blocks"]).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_nonfinite_values_show_in_the_reference(name: str, bad: float, device: Device) -> None:
    values = np.ones((2, 96), np.float32)
    values[1, 40] = bad
    parts, error = SCHEMES[name].encode(values, device)
    assert not np.isfinite(error.reference)
    assert parts["blocks"].shape == (2, 3 * SCHEMES[name].ggml_type.block_bytes)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_a_scale_above_f16_does_not_fit(name: str, device: Device) -> None:
    values = np.zeros((2, 64), np.float32)
    values[1, 5] = 1e30
    with pytest.raises(DoesNotFit, match=r"block's scale or minimum of \S+e\+\d+ .*65504"):
        SCHEMES[name].encode(values, device)


@pytest.mark.parametrize("name", NAMES)
def test_tiny_values_are_measured(name: str) -> None:
    """Scales that f16 holds as zero, quotients that are infinite: everything is lost, and said so."""
    values = (rng.standard_normal((2, 64)) * 1e-40).astype(np.float32)
    parts, error = SCHEMES[name].encode(values)
    assert not SCHEMES[name].decode(parts).any()
    assert error.relative_rmse == pytest.approx(1.0)
    assert (SCHEMES[name].encode(values, Device.MLX)[0]["blocks"] == parts["blocks"]).all()


def test_layout_and_unfit() -> None:
    scheme = GgmlLegacy("q5_1")
    assert scheme == SCHEMES["q5_1"] != SCHEMES["q5_0"]
    assert (scheme.name, scheme.family) == ("q5_1", "ggml")
    assert scheme.layout((8, 3, 64))["blocks"].shape == (8, 3, 48)
    assert scheme.layout((64,))["blocks"].shape == (48,)
    assert scheme.bits_per_weight((3, 64)) == 6.0
    assert scheme.unfit((4, 64)) is None
    assert facts(scheme.unfit((64, 100))) == ["100", "32"]
    with pytest.raises(DoesNotFit, match="last axis 100"):
        scheme.encode(np.zeros((2, 100), np.float32))


@pytest.mark.parametrize(
    ("name", "grid", "grade"),
    [
        ("q4_0", Grid(4, 64, "f16", zero=8), Grade.EXACT),
        ("q4_0", Grid(4, 128, "bf16", zero=8), Grade.CODES_EXACT),
        ("q4_0", Grid(2, 32, "f16", zero=1), Grade.EXACT),
        ("q5_0", Grid(4, 32, "f16", zero=7), Grade.EXACT),
        ("q8_0", Grid(4, 128, "f16", zero=8), Grade.EXACT),
        ("q8_0", Grid(8, 32, "f32", zero=128), Grade.CODES_EXACT),
        ("q4_1", Grid(4, 32, "f16"), Grade.EXACT),
        ("q4_1", Grid(3, 64, "f16"), Grade.EXACT),
        ("q4_1", Grid(4, 128, "f16", zero_points=True), Grade.CODES_EXACT),
        ("q4_1", Grid(4, 64, "f16", zero=8), Grade.EXACT),
        ("q4_1", Grid(4, 64, "f16", zero=7), Grade.CODES_EXACT),
        ("q5_1", Grid(4, 32, "bf16"), Grade.CODES_EXACT),
        ("q4_0", Grid(4, 32, "f16", zero=7), ["4", "7", "q4_0", "4", "8"]),
        ("q4_0", Grid(5, 32, "f16", zero=16), ["5", "16", "q4_0", "4", "8"]),
        ("q4_1", Grid(5, 32, "f16"), ["5", "q4_1", "4"]),
        ("q4_1", Grid(4, 48, "f16"), ["48", "32"]),
        ("q4_1", Grid(4, 32, "f16", table=(0.0,) * 16), ["q4_1"]),
    ],
)
def test_fits(name: str, grid: Grid, grade: Grade | list[str]) -> None:
    found = SCHEMES[name].fits(grid, (4, 384))
    assert (facts(found) if isinstance(grade, list) else found) == grade
    columns = 384
    codes = rng.integers(0, 2**grid.bits, (4, columns)).astype(np.uint8)
    scales = (rng.standard_normal((4, columns // grid.group)) * 0.01).astype(np.float16).astype(np.float32)
    zero = rng.integers(0, 16, scales.shape).astype(np.float32) if grid.zero is None else np.float32(grid.zero)
    biases = -zero * scales if grid.zero is not None or grid.zero_points else zero.astype(np.float16).astype(np.float32)
    given = Codes(grid, codes, scales, biases)
    if isinstance(grade, list):
        with pytest.raises(DoesNotFit) as refused:
            SCHEMES[name].pack(given)
        assert str(refused.value) == found
        return
    parts = SCHEMES[name].pack(given)
    decoded = SCHEMES[name].decode(parts)
    if grade is Grade.EXACT:
        assert (decoded == given.values()).all()
    else:
        assert np.abs(decoded - given.values()).max() <= 2**-11 * np.abs(biases).max() + 1e-9
    packed = SCHEMES[name].codes(parts)
    moved = packed.codes.astype(int) - codes
    assert (moved == moved[0, 0]).all()


def test_pack_refuses_what_f16_does_not_hold() -> None:
    codes = np.zeros((1, 32), np.uint8)
    one = np.ones((1, 1), np.float32)
    with pytest.raises(DoesNotFit, match="scale of 70000 .*65504"):
        SCHEMES["q4_0"].pack(Codes(Grid(4, 32, "f32", zero=8), codes, one * 70000, -one * 560000))
    with pytest.raises(DoesNotFit, match="bias of 80000 .*65504"):
        SCHEMES["q4_1"].pack(Codes(Grid(4, 32, "f32"), codes, one, -one * 80000))
    with pytest.raises(DoesNotFit, match="a scale is NaN or infinite"):
        SCHEMES["q8_0"].pack(Codes(Grid(8, 32, "f32", zero=128), codes, one * np.nan, one))


@pytest.mark.parametrize("name", NAMES)
def test_no_rows(name: str) -> None:
    scheme = SCHEMES[name]
    for device in DEVICES:
        parts, error = scheme.encode(np.zeros((0, 64), np.float32), device)
        assert error == Error()
        assert scheme.decode(parts, device).shape == (0, 64)
    assert scheme.pack(scheme.codes(parts))["blocks"].shape == parts["blocks"].shape


@pytest.mark.parametrize("name", [*NAMES, "q6_k"])
def test_tensors_of_a_model_are_llama_quantizes(name: str, shared: Path) -> None:
    from safetensors import safe_open

    manifest = json.loads((shared / "fixtures" / "gguf" / "tiny-llama" / f"{name.upper()}.json").read_text())
    tensors = {t["name"]: t for t in manifest["tensors"]}
    pairs = {
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
        "blk.3.ffn_gate.weight": "model.layers.3.mlp.gate_proj.weight",
        "blk.2.attn_v.weight": "model.layers.2.self_attn.v_proj.weight",
        "output.weight": "lm_head.weight",
    }
    with safe_open(shared / "fixtures" / "models" / "tiny-llama" / "model.safetensors", "numpy") as file:
        checked = 0
        for ours, theirs in pairs.items():
            scheme = TYPES[tensors[ours]["type"].lower()]
            blocks = scheme.encode(file.get_tensor(theirs))[0]["blocks"]
            assert hashlib.sha256(blocks.tobytes()).hexdigest() == tensors[ours]["sha256"], ours
            checked += scheme.name == name
    assert checked >= 3
