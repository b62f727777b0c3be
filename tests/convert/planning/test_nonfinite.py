"""NaN and Inf in scales and in FP8 codes: exit 3 with tensor and place on every route, copied only where that is asked.

GGML's types have their places in a table, which is held to what blocks decode to; the quantizers' layouts are those of
tests/data/quantized, with one number of each array of scales changed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from quantcli.cli.app import app
from quantcli.containers.ggml_types import BY_NAME, ScaleField
from quantcli.convert.planning import finite
from quantcli.convert.running.run import Resources, slabs_of
from quantcli.errors import BadInput
from quantcli.schemes import ggml_scheme
from quantcli.schemes.ggml import TYPES
from quantcli.schemes.opaque import Opaque
from quantcli.sources.detect import open_source
from tests.builders import LLAMA, byte_level_tokenizer, folder_of, llama_gguf, tiny_llama
from tests.conversions import converted, planned, stored

DATA = Path(__file__).resolve().parent.parent.parent / "data"
NAME = "blk.1.ffn_down.weight"
ROWS, COLUMNS = 64, 256
#: Where the blocks of each type hold their scales.
SCALES = {name: kind.scales for name, kind in BY_NAME.items() if kind.scales is not None}
#: What makes a scale of a type a plain number, by the number's form.
ONE = {"<u2": 0x3C00, "<u4": 0x3F800000, "u1": 0x38}


def ones(type_name: str, count: int, seed: int = 0) -> np.ndarray:
    """Blocks of random codes whose scales are 1."""
    field, ggml = SCALES[type_name], BY_NAME[type_name]
    blocks = np.random.default_rng([seed, ggml.id]).integers(0, 256, (count, ggml.block_bytes), dtype=np.uint8)
    for number in range(field.count):
        put(blocks, field, slice(None), number, 0x30000000 | 0xC000 if type_name == "iq1_m" else ONE[field.dtype])
    if type_name == "iq1_m":
        blocks[:, 48:52] &= 0x0F
    return blocks


def put(blocks: np.ndarray, field: ScaleField, at: Any, number: int, value: int) -> None:
    size = np.dtype(field.dtype).itemsize
    start = field.at + number * size
    raw = np.array([value], field.dtype).view(np.uint8)
    if field.bits == 0x7000C000:  # iq1_m: the other bits are the scales of its parts
        raw = blocks[at, start : start + size] & np.array([0x0FFF0FFF], "<u4").view(np.uint8) | raw
    blocks[at, start : start + size] = raw


def in_rows(blocks: np.ndarray) -> np.ndarray:
    return blocks.reshape(ROWS, -1)


@pytest.mark.parametrize("type_name", TYPES)
def test_the_places_of_scales_are_where_ggml_reads_them(type_name: str) -> None:
    """NaN and Inf there, and nowhere else, make values that are none; all types that are decoded have an entry."""
    scheme, field = TYPES[type_name], SCALES[type_name]
    sound = ones(type_name, 40)
    assert np.isfinite(scheme.decode({"blocks": sound})).all() and not scheme.nonfinite("blocks", sound)
    for number in range(field.count):
        for value in (
            (0x7C00, 0xFE01) if field.dtype == "<u2" else ([0x7F800000, 0xFFC00000] if type_name == "q8_k" else ())
        ):
            broken = sound.copy()
            put(broken, field, 7, number, value)
            finite_rows = np.isfinite(scheme.decode({"blocks": broken})).all(axis=1)
            assert not finite_rows[7] and finite_rows.sum() == 39
            assert scheme.nonfinite("blocks", broken)


@given(data=st.data())
@pytest.mark.parametrize("type_name", sorted(TYPES))
def test_what_decodes_to_no_number_is_found(type_name: str, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    count, size = 4096 // BY_NAME[type_name].block_bytes, BY_NAME[type_name].block_bytes
    blocks = np.random.default_rng(seed).integers(0, 256, (count, size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        odd = ~np.isfinite(TYPES[type_name].decode({"blocks": blocks})).all(axis=1)
    found = [TYPES[type_name].nonfinite("blocks", block) for block in blocks]
    # ggml reads some bytes as numbers that are NaN in E4M3 and E8M0: these are found too. Scales of many bits overflow.
    assert type_name in ("mxfp4", "q8_k") or all(found[i] for i in np.flatnonzero(odd))
    if type_name not in ("mxfp4", "nvfp4"):
        assert not any(f and not o for f, o in zip(found, odd, strict=True))


def test_types_that_are_only_copied_are_looked_at() -> None:
    blocks = ones("q8_1", 3)
    assert not Opaque("q8_1").nonfinite("blocks", blocks)
    put(blocks, SCALES["q8_1"], 1, 1, 0x7C00)
    assert Opaque("q8_1").nonfinite("blocks", blocks)
    assert not Opaque("type-99", span=5, type_id=99).nonfinite("blocks", np.full(5, 255, np.uint8))


BAD = {"<u2": 0x7E00, "<u4": 0x7FC00000, "u1": 0xFF}
#: gguf-py does not know the other two.
WRITTEN = [name for name in TYPES if name not in ("q1_0", "q2_0")]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"hidden_size": COLUMNS, "intermediate_size": COLUMNS, "head_dim": 64, "num_key_value_heads": 4}
    # The second layer's down_proj is 256 x 256; its rows from 64 on are left to no type.
    return tiny_llama(tmp_path_factory.mktemp("llama") / "m", **sizes)


def gguf_with(path: Path, llama: Path, type_name: str, block: int | None, number: int = 0) -> Path:
    """A llama whose NAME is of a type, one block's scale NaN."""
    count = COLUMNS * COLUMNS // BY_NAME[type_name].block_size
    blocks = ones(type_name, count)
    if block is not None:
        value = 0x7000C000 if type_name == "iq1_m" else BAD[SCALES[type_name].dtype]
        put(blocks, SCALES[type_name], block, number, value)
    return llama_gguf(path, llama, blocks={NAME: (type_name, blocks.reshape(COLUMNS, -1))})


ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "copy": ("b.gguf", {}),
    "kept in MLX": ("mlx", {}),
    "dequantized": ("hf", {"to": "hf"}),
    "f32": ("c.gguf", {"scheme": "f32"}),
    "requantized": ("d.gguf", {"scheme": "q5_0", "pure": True, "allow_requantize": True}),
    "affine": ("mlx4", {"scheme": "affine4-g32", "allow_requantize": True}),
    "exact": ("e.gguf", {"lossless": "exact"}),
}


@pytest.mark.parametrize("type_name", WRITTEN)
def test_every_type_on_every_route(type_name: str, llama: Path, tmp_path: Path) -> None:
    per_row = COLUMNS // BY_NAME[type_name].block_size
    block = 37 * per_row + per_row - 1
    number = SCALES[type_name].count - 1
    source = gguf_with(tmp_path / "a.gguf", llama, type_name, block, number)
    for route, (output, options) in ROUTES.items():
        with pytest.raises(BadInput, match=rf"{NAME}: a scale of block {block} is NaN or Inf") as error:
            converted(source, tmp_path / output, **options)
        assert "--scale-dtype" not in str(error.value), route
        assert not (tmp_path / output).exists()


@pytest.mark.parametrize("type_name", ["q4_0", "q6_k", "nvfp4", "mxfp4", "iq1_m"])
def test_copied_where_that_is_asked(type_name: str, llama: Path, tmp_path: Path) -> None:
    source = gguf_with(tmp_path / "a.gguf", llama, type_name, 5)
    converted(source, tmp_path / "b.gguf", allow_nonfinite=True)
    ours, theirs = (open_source(path).weights[NAME].parts["blocks"] for path in (source, tmp_path / "b.gguf"))
    assert ours.read().tobytes() == theirs.read().tobytes()
    converted(source, tmp_path / "hf", to="hf", allow_nonfinite=True)
    with np.errstate(invalid="ignore"):
        assert (
            type_name in ("nvfp4", "mxfp4")
            or np.isnan(
                stored(tmp_path / "hf")["model.layers.1.mlp.down_proj.weight"].array(np.float16).astype(np.float32)
            ).any()
        )


@pytest.mark.parametrize("type_name", ["q4_0", "q8_0", "q4_k", "q6_k"])
def test_a_sound_file_is_converted(type_name: str, llama: Path, tmp_path: Path) -> None:
    source = gguf_with(tmp_path / "a.gguf", llama, type_name, None)
    for output, options in ((ROUTES["copy"]), (ROUTES["dequantized"])):
        converted(source, tmp_path / output, **options)


def test_advice_that_does_not_help_is_not_given(llama: Path, tmp_path: Path) -> None:
    """Where NaN cannot be taken along either, nothing is said of --allow-nonfinite, with and without it."""
    source = gguf_with(tmp_path / "a.gguf", llama, "q8_0", 9)
    for options in ({}, {"allow_nonfinite": True}):
        with pytest.raises(BadInput, match="block 9") as error:
            converted(source, tmp_path / "mlx", scheme="affine8-g32", **options)
        assert "--allow-nonfinite" not in str(error.value) and "--scale-dtype" not in str(error.value)


@pytest.mark.parametrize("budget", [1 << 14, 1 << 20, 1 << 28])
@pytest.mark.parametrize("type_name", ["q4_0", "q8_0", "q8_k", "tq1_0", "mxfp4"])
def test_no_range_that_is_copied_cuts_a_block(type_name: str, budget: int, llama: Path, tmp_path: Path) -> None:
    source = gguf_with(tmp_path / "a.gguf", llama, type_name, None)
    step = next(step for step in planned(source, tmp_path / "b.gguf").steps if step.name == NAME)
    slabs = slabs_of(step, Resources(budget, 1))
    size, total = BY_NAME[type_name].block_bytes, open_source(source).weights[NAME].nbytes
    assert all(slab.part == "blocks" and slab.start % size == 0 for slab in slabs)
    assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])] and slabs[-1].stop == total
    assert budget == 1 << 28 or len(slabs) > 1 or total < budget // 2


def test_the_first_of_several_in_a_large_tensor_is_named(tmp_path: Path) -> None:
    """Beyond what is looked through at a time, and with others behind it."""
    blocks = ones("q8_0", finite.SEARCHED_AT_ONCE // 34 * 2 + 100)
    at = finite.SEARCHED_AT_ONCE // 34 + 50
    for block in (at + 30, at, len(blocks) - 1):
        put(blocks, SCALES["q8_0"], block, 0, 0x7C00)
    (tmp_path / "x").write_bytes(blocks.tobytes())
    from quantcli.checkpoint import Part

    part = Part("x", "u8", (len(blocks), 34), tmp_path / "x", 0)
    scheme = ggml_scheme("q8_0")
    assert scheme is not None and finite.first(scheme, "blocks", part) == at


# Folders: MLX's and the quantizers'.

FORMS: dict[str, Any] = {
    "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32, "F64": np.float64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip


def broken(source: Path, root: Path, name: str, index: int, byte: int | None) -> Path:
    """A copy of a folder in which one element of a tensor is NaN, or that byte."""
    shutil.copytree(source, root)
    for path in [root, *root.iterdir()]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    file = next(f for f in root.glob("*.safetensors") if name in _entries(f)[1])
    start, entries = _entries(file)
    entry = entries[name]
    dtype = np.dtype("u1") if byte is not None else np.dtype(FORMS[entry["dtype"]])
    value = np.array([byte if byte is not None else np.nan]).astype(dtype)
    with open(file, "r+b") as handle:
        handle.seek(start + entry["data_offsets"][0] + index * dtype.itemsize)
        handle.write(value.tobytes())
    return root


def _entries(file: Path) -> tuple[int, dict[str, Any]]:
    raw = file.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    return start, json.loads(raw[8:start])


MLX_MODES = {
    "affine": ("affine4-g32", {"scales": None, "biases": None}),
    "mxfp4": ("mxfp4", {"scales": 255}),
    "mxfp8": ("mxfp8", {"scales": 255, "weight": 0x7F}),
    "nvfp4": ("nvfp4", {"scales": 0x7F}),
}


@pytest.mark.parametrize("mode", MLX_MODES)
def test_mlx_folders(mode: str, tmp_path: Path) -> None:
    scheme, parts = MLX_MODES[mode]
    converted(tiny_llama(tmp_path / "dense"), tmp_path / "m", scheme=scheme)
    for part, byte in parts.items():
        name = f"model.layers.1.mlp.down_proj.{part}"
        source = broken(tmp_path / "m", tmp_path / f"broken-{part}", name, 77, byte)
        for output, options in (
            ("o", {}),
            ("a.gguf", {}),
            ("hf", {"to": "hf"}),
            ("x", {"scheme": "affine2-g64", "allow_requantize": True}),
        ):
            with pytest.raises(BadInput, match=rf"tensor {name}: .*\[\d+, \d+\]") as error:
                converted(source, tmp_path / output, **options)
            assert "--scale-dtype" not in str(error.value)
        report = converted(source, tmp_path / f"copied-{part}", allow_nonfinite=True)
        assert report and stored(tmp_path / f"copied-{part}")[name] == stored(source)[name]


CASES = [f"quantized/{p.name}" for p in sorted((DATA / "quantized").iterdir()) if (p / "truth.json").exists()]
#: One of each kind of array that these have and the others do not.
CASES += [f"layouts/{case}" for case in ("deepseek-v4", "modelopt-fp8-block", "torchao-intx4-asym", "quanto-qint8")]
#: Parts of 8 bits that hold codes of floats: NaN's.
CODES = {"f8_e4m3": 0x7F, "f8_e5m2": 0x7E}


@pytest.mark.parametrize("case", CASES)
def test_every_quantizers_scales(case: str, tmp_path: Path) -> None:
    """Each array of scales of one weight, copied and decoded."""
    folder, case = DATA / case, case.rpartition("/")[2]
    weight = next(w for w in open_source(folder).weights.values() if w.scheme.name not in ("bf16", "f16", "f32"))
    looked_at = 0
    for part, array in weight.parts.items():
        is_power = part == "scales" and array.dtype in ("u8", "f8_e8m0")
        byte = 255 if is_power else CODES.get(array.dtype)
        if part.endswith("quant_map") or (byte is None and array.dtype not in ("f16", "bf16", "f32")):
            continue  # a table is looked at when the folder is opened
        looked_at += 1
        index = max(0, array.nbytes // (1 if byte is not None else np.dtype(FORMS[array.dtype.upper()]).itemsize) - 1)
        source = broken(folder, tmp_path / f"{case}-{part}", array.name, index, byte)
        settings = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(
            json.dumps({**settings, "model_type": "unheard_of", "num_hidden_layers": 1})
        )
        for output, options in (("o", {"to": "hf"}), ("d", {"to": "hf", "scheme": "f32"}), ("m", {})):
            with pytest.raises(BadInput, match=r"(is NaN or Inf|holds (NaN|Inf) at|is nan)") as error:
                converted(source, tmp_path / output, **options)
            assert array.name in str(error.value) and "--scale-dtype" not in str(error.value)
        converted(source, tmp_path / f"copied-{part}", to="hf", allow_nonfinite=True, check=False)
        assert stored(tmp_path / f"copied-{part}")[array.name] == stored(source)[array.name]
    assert looked_at >= 1


def test_bare_fp8(tmp_path: Path) -> None:
    codes = np.full((64, 64), 0x30, np.uint8)
    codes[5, 6] = 0xFF
    source = folder_of(tmp_path / "m", {"model.x.weight": codes.view(ml_dtypes.float8_e4m3fn)}, {"model_type": "new"})
    for output, options in (("o", {"to": "hf"}), ("d", {"to": "hf", "scheme": "f32"}), ("x", {}), ("q", {"bits": 4})):
        with pytest.raises(BadInput, match=r"model\.x\.weight: .*\[5, 6\]"):
            converted(source, tmp_path / output, allow_unknown_architecture=True, **options)


def test_dense_weights_are_named_with_the_place(tmp_path: Path) -> None:
    tensors = {"model.x.weight": np.ones((8, 64), np.float32)}
    tensors["model.x.weight"][3, 9] = -np.inf
    source = folder_of(tmp_path / "m", tensors, {**LLAMA, "model_type": "new"})
    for options in ({}, {"bits": 4}, {"scheme": "bf16"}):
        with pytest.raises(BadInput, match=r"model\.x\.weight: holds Inf at \[3, 9\]"):
            converted(source, tmp_path / "out", allow_unknown_architecture=True, **options)


def test_scales_that_are_large_are_no_bad_input(tmp_path: Path) -> None:
    """Values beyond float32 of scales that are numbers: exit 4."""
    codes = np.full((64, 64), 0x7E, np.uint8).view(ml_dtypes.float8_e4m3fn)
    tensors = {"model.x.weight": codes, "model.x.weight_scale_inv": np.full((1, 1), 3e38, np.float32)}
    source = folder_of(
        tmp_path / "m", tensors, {**LLAMA, "model_type": "new", "quantization_config": {"quant_method": "fp8"}}
    )
    from quantcli.errors import NotPossible

    with pytest.raises(NotPossible, match=r"model\.x\.weight"):
        converted(source, tmp_path / "out", to="hf", scheme="f32")


@pytest.mark.parametrize("output", ["b.gguf", "mlx", "hf"])
def test_the_field_example(output: str, shared: Path, tmp_path: Path) -> None:
    source = shared / "field" / "gguf" / "nan-in-a-block-scale.gguf"
    if not source.is_file():
        pytest.skip(f"no {source}")
    options = ["--to", "hf"] if output == "hf" else []
    done = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / output), "--verify", *options])
    assert done.exit_code == 3 and "block" in done.output and not (tmp_path / output).exists()


def test_the_command_says_exit_3_and_copies_where_asked(llama: Path, tmp_path: Path) -> None:
    source = gguf_with(tmp_path / "a.gguf", llama, "q8_0", 11)
    assert byte_level_tokenizer()
    runner = CliRunner()
    done = runner.invoke(app, ["convert", str(source), str(tmp_path / "b.gguf"), "--verify"])
    assert done.exit_code == 3 and NAME in done.output and "block 11" in done.output
    done = runner.invoke(app, ["convert", str(source), str(tmp_path / "b.gguf"), "--verify", "--allow-nonfinite"])
    assert done.exit_code == 0
