"""Layouts as the quantizers write them with other settings than the cases at hand: packed here, bit by bit.

Other bits, groups and orders; some modules only; experts one by one; heads and biases. The values of what is read,
and of the MLX folder and the GGUF made of it, are those that the packer knows.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.schemes.hf.bnb4 import NF4
from tests import packers
from tests.builders import BF16, LLAMA, byte_level_tokenizer, folder_of, llama_tensors, sharded
from tests.conversions import converted, values
from tests.packers import Arrays

MODEL = {**LLAMA, "hidden_size": 128, "intermediate_size": 320, "head_dim": 32, "num_hidden_layers": 1}
SMALL = {"hidden_size": 96, "head_dim": 32, "num_attention_heads": 4, "intermediate_size": 160}
Packer = Callable[[np.ndarray], tuple[Arrays, np.ndarray]]


@dataclass(frozen=True)
class Variant:
    """A quantizer's settings, how a module is packed, what becomes of codes.

    mlx, gguf: schemes of the quantized weights; exact: no value changes in GGUF. compute: the dtype that the tool
    computes in. falls: the targets that have no place for the codes. config: keys of the model that differ.
    """

    settings: dict[str, Any]
    pack: Packer
    mlx: tuple[str, ...]
    gguf: str
    exact: bool = True
    compute: Any = BF16
    falls: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


def whole(bits: int) -> tuple[str, ...]:
    """MLX's schemes of groups that fill rows of 128 and 320."""
    return f"affine{bits}-g64", f"affine{bits}-g128"


def grids(arrays_of: Callable[[packers.Grid], Arrays], bits: int, group: int, symmetric: bool, dtype: Any) -> Packer:
    """A packer that has its own random codes whatever the weight."""

    def pack(dense: np.ndarray) -> tuple[Arrays, np.ndarray]:
        rows, columns = dense.shape
        grid = packers.random_grid((rows, columns), bits, group, symmetric, dtype)
        return arrays_of(grid), grid.values

    return pack


def gptq(
    bits: int, group: int, layout: str, mlx: tuple[str, ...], gguf: str, *, symmetric: bool = True, **more: Any
) -> Variant:
    """GPTQ's layouts, float16 scales."""
    settings = {
        "quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric, "desc_act": False,
        "checkpoint_format": layout,
    }  # fmt: skip
    pack = grids(lambda grid: packers.gptq(grid, bits, layout), bits, group, symmetric, np.float16)
    return Variant(settings, pack, mlx, gguf, compute=np.float16, **more)


def _ct(layout: str, group: int, **weights: Any) -> dict[str, Any]:
    shared = {"strategy": "channel"} if group == -1 else {"strategy": "group", "group_size": group}
    return {
        "quant_method": "compressed-tensors", "format": layout, "version": "0.19.0", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"type": "int", **shared, **weights}}},
    }  # fmt: skip


def compressed(
    bits: int, group: int, mlx: tuple[str, ...], gguf: str, *, symmetric: bool = True, old: bool = False, **more: Any
) -> Variant:
    """pack-quantized, bfloat16 scales; old: words of whole codes."""
    words = packers.padded if old else packers.stream
    settings = _ct("pack-quantized", group, num_bits=bits, symmetric=symmetric)
    settings["version"] = "0.12.2" if old else "0.19.0"
    pack = grids(lambda grid: packers.compressed(grid, bits, words, symmetric), bits, group, symmetric, BF16)
    return Variant(settings, pack, mlx, gguf, **more)


def int8(group: int, mlx: tuple[str, ...], *, symmetric: bool = True, **more: Any) -> Variant:
    """int-quantized."""
    settings = _ct("int-quantized", group, num_bits=8, symmetric=symmetric)
    pack = grids(lambda grid: packers.bytewise(grid, 8, symmetric), 8, group, symmetric, BF16)
    return Variant(settings, pack, mlx, "q8_0", **more)


def awq(group: int) -> Variant:
    settings = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    pack = grids(packers.awq, 4, group, False, np.float16)
    return Variant(settings, pack, ("affine4-g32",) if group == 32 else whole(4), "q4_1", False, np.float16)


def hqq(bits: int, group: int, mlx: tuple[str, ...], gguf: str, **more: Any) -> Variant:
    """Zero points are whole numbers here, so that one rounding is left."""
    params = {"weight_quant_params": {"nbits": bits, "group_size": group}}
    pack = grids(lambda grid: packers.hqq(grid, bits, grid.zeros.astype(BF16)), bits, group, False, BF16)
    return Variant({"quant_method": "hqq", "quant_config": params}, pack, mlx, gguf, False, **more)


def fp8(rows: int, columns: int) -> Variant:
    settings = {"quant_method": "fp8", "weight_block_size": [rows, columns], "fmt": "e4m3"}

    def pack(dense: np.ndarray) -> tuple[Arrays, np.ndarray]:
        return packers.fp8(dense.astype(np.float32), (rows, columns))

    return Variant(settings, pack, whole(8), "q8_0", False, falls=("mlx", "gguf"))


def nf4(block: int, **config: Any) -> Variant:
    def pack(dense: np.ndarray) -> tuple[Arrays, np.ndarray]:
        return packers.nf4(dense.astype(np.float32), block, np.array(NF4, np.float32))

    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}
    fallen = (*whole(8), "affine8-g32")
    return Variant(settings, pack, fallen, "q8_0", False, falls=("mlx", "gguf"), config=config)


ROUNDED: dict[str, Any] = {"symmetric": False, "exact": False}
NOT_IN_GGUF: dict[str, Any] = {**ROUNDED, "falls": ("gguf",)}
VARIANTS = {
    "awq-g32": awq(32),
    "awq-g64": awq(64),
    "gptq-2-g32": gptq(2, 32, "gptq", ("affine2-g32",), "q4_0"),
    "gptq-3-g128-asym": gptq(3, 128, "gptq", whole(3), "q4_0", **ROUNDED),
    "gptq-4-g128-asym": gptq(4, 128, "gptq", whole(4), "q4_1", **ROUNDED),
    "gptq-4-g32-v2": gptq(4, 32, "gptq_v2", ("affine4-g32",), "q4_0"),
    "gptq-4-channel-asym": gptq(4, -1, "gptq", whole(4), "q4_1", **ROUNDED),
    "gptq-5-g64-asym": gptq(5, 64, "gptq_p", ("affine5-g64",), "q5_1", **ROUNDED),
    "gptq-6-g32": gptq(6, 32, "gptq_p", ("affine6-g32",), "q8_0"),
    "gptq-6-g64-asym": gptq(6, 64, "gptq_p", ("affine6-g64",), "q8_0", symmetric=False),
    "gptq-7-g128": gptq(7, 128, "gptq_p", whole(8), "q8_0"),
    "gptq-8-g32-asym": gptq(8, 32, "gptq_v2", ("affine8-g32",), "q8_0", **NOT_IN_GGUF),
    "gptq-8-channel": gptq(8, -1, "gptq", whole(8), "q8_0"),
    "ct-2-g32": compressed(2, 32, ("affine2-g32",), "q4_0"),
    "ct-5-g64-asym": compressed(5, 64, ("affine5-g64",), "q5_1", **ROUNDED),
    "ct-5-g64-padded": compressed(5, 64, ("affine5-g64",), "q5_0", old=True),
    "ct-6-g32-asym": compressed(6, 32, ("affine6-g32",), "q8_0", symmetric=False),
    "ct-6-channel-padded": compressed(6, -1, whole(6), "q8_0", old=True),
    "ct-7-g64": compressed(7, 64, ("affine8-g64",), "q8_0"),
    "ct-7-channel-padded": compressed(7, -1, whole(8), "q8_0", old=True),
    "ct-4-channel-asym": compressed(4, -1, whole(4), "q4_1", **ROUNDED),
    "ct-8-g128-asym": compressed(8, 128, whole(8), "q8_0", **NOT_IN_GGUF),
    "ct-int8-g32": int8(32, ("affine8-g32",)),
    "ct-int8-g64-asym": int8(64, ("affine8-g64",), **NOT_IN_GGUF),
    "fp8-64x64": fp8(64, 64),
    "fp8-128x64": fp8(128, 64),
    "fp8-32x128": fp8(32, 128),
    "nf4-128": nf4(128),
    "nf4-across-rows": nf4(64, **SMALL),
    "hqq-8-g64": hqq(8, 64, ("affine8-g64",), "q8_0", falls=("gguf",)),
    "hqq-2-g32": hqq(2, 32, ("affine2-g32",), "q4_0"),
}


NOTHING: Mapping[str, np.ndarray] = {}


def is_linear(name: str) -> bool:
    return ".layers." in name and name.endswith("_proj.weight")


def written(
    root: Path, dense: Arrays, config: dict[str, Any], settings: dict[str, Any], pack: Packer,
    chosen: Callable[[str], bool] = is_linear, *, shards: int = 1, added: Mapping[str, np.ndarray] = NOTHING,
) -> Arrays:  # fmt: skip
    """A quantized folder at `root / q`, the same values in float32 at `root / dense`; the latter.

    added: arrays that the quantized folder has besides.
    """
    stored: Arrays = dict(added)
    meant: Arrays = {}
    for name, array in dense.items():
        if not chosen(name):
            stored[name], meant[name] = array, array.astype(np.float32)
            continue
        arrays, meant[name] = pack(array)
        stored |= packers.beside(name.removesuffix(".weight"), arrays)
    said = {**config, "quantization_config": settings}
    if shards == 1:
        folder_of(root / "q", stored, said)
    else:  # parts of one module fall into different files
        names = sorted(stored)
        sharded(root / "q", {
            f"model-{i + 1:05d}-of-{shards:05d}.safetensors": {name: stored[name] for name in names[i::shards]}
            for i in range(shards)
        }, said)  # fmt: skip
    folder_of(root / "dense", meant, {**config, "torch_dtype": "float32"})
    for folder in ("q", "dense"):
        (root / folder / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer(config["vocab_size"])))
        (root / folder / "tokenizer_config.json").write_text(
            json.dumps({"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"})
        )
    return meant


def near(ours: Arrays, theirs: Arrays, bound: float) -> None:
    """The same weights, each within a relative RMSE."""
    assert ours.keys() == theirs.keys()
    for name, wanted in theirs.items():
        off = np.sqrt(np.square(ours[name].astype(np.float64) - wanted).sum())
        assert off <= bound * np.sqrt(np.square(wanted.astype(np.float64)).sum()), name


def made(report: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Schemes and routes of what is not simply copied."""
    kept = [w for w in report["weights"] if w["route"] not in ("copy", "cast")]
    return {w["scheme"] for w in kept}, {w["route"] for w in kept}


@pytest.mark.parametrize("name", VARIANTS)
def test_values_everywhere(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    config = {**MODEL, **variant.config}
    meant = written(tmp_path, llama_tensors(config), config, variant.settings, variant.pack)
    read = values(tmp_path / "q")
    assert read.keys() == meant.keys()
    for weight, wanted in meant.items():
        rounded = wanted.astype(variant.compute).astype(np.float32) if is_linear(weight) else wanted
        assert np.array_equal(read[weight], rounded), weight
    schemes, routes = made(converted(tmp_path / "q", tmp_path / "mlx", scale_dtype="f32"))
    falls = "mlx" in variant.falls
    assert schemes <= set(variant.mlx) and routes == {"requantize" if falls else "repack"}
    near(values(tmp_path / "mlx"), meant, 1e-2 if falls else 1e-6)
    schemes, routes = made(converted(tmp_path / "q", tmp_path / "q.gguf"))
    converted(tmp_path / "dense", tmp_path / "dense.gguf", scheme="f32")
    assert schemes == {variant.gguf} and routes == {"requantize" if "gguf" in variant.falls else "repack"}
    near(values(tmp_path / "q.gguf"), values(tmp_path / "dense.gguf"), 1e-6 if variant.exact else 1e-2)


@pytest.mark.parametrize("shards", [2, 5])
def test_parts_in_several_files(shards: int, tmp_path: Path) -> None:
    variant = VARIANTS["gptq-4-g128-asym"]
    meant = written(tmp_path, llama_tensors(MODEL), MODEL, variant.settings, variant.pack, shards=shards)
    converted(tmp_path / "q", tmp_path / "mlx", scale_dtype="f32", shard_size=60_000)
    assert len(list((tmp_path / "mlx").glob("*.safetensors"))) > 1
    near(values(tmp_path / "mlx"), meant, 1e-6)


def test_only_some_modules(tmp_path: Path) -> None:
    """AutoGPTQ's list of what is quantized, compressed-tensors' expression: the rest is dense."""
    variant = VARIANTS["gptq-4-g32-v2"]
    settings = {**variant.settings, "modules_in_block_to_quantize": [["self_attn.k_proj"]]}
    meant = written(
        tmp_path / "gptq", llama_tensors(MODEL), MODEL, settings, variant.pack, lambda name: "k_proj" in name
    )
    converted(tmp_path / "gptq" / "q", tmp_path / "gptq" / "mlx", scale_dtype="f32")
    near(values(tmp_path / "gptq" / "mlx"), meant, 1e-6)
    other = VARIANTS["ct-7-g64"]
    settings = json.loads(json.dumps(other.settings))
    settings["config_groups"]["group_0"]["targets"] = [r"re:.*self_attn\.[qk]_proj$"]
    meant = written(
        tmp_path / "ct", llama_tensors(MODEL), MODEL, settings, other.pack,
        lambda name: name.endswith(("q_proj.weight", "k_proj.weight")),
    )  # fmt: skip
    converted(tmp_path / "ct" / "q", tmp_path / "ct" / "mlx", scale_dtype="f32")
    near(values(tmp_path / "ct" / "mlx"), meant, 1e-6)


@pytest.mark.parametrize("by_name", [True, False])
def test_settings_of_single_modules(by_name: bool, tmp_path: Path) -> None:
    """AutoRound's `extra_config`: 8 bits for one module, none for another, 4 for the rest; by name or expression."""
    four, eight = gptq(4, 32, "gptq", (), ""), gptq(8, 32, "gptq", (), "")
    down, up = ("model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj") if by_name else ("down_p", r".*up_.roj")
    settings = {
        "quant_method": "auto-round", "bits": 4, "group_size": 32, "packing_format": "auto_round:auto_gptq",
        "extra_config": {down: {"bits": 8, "data_type": None}, up: {"bits": 16, "data_type": "float"}},
    }  # fmt: skip
    dense = llama_tensors(MODEL)
    wide = dense["model.layers.0.mlp.down_proj.weight"]

    def pack(array: np.ndarray) -> tuple[Arrays, np.ndarray]:
        return (eight if array is wide else four).pack(array)

    meant = written(
        tmp_path, dense, MODEL, settings, pack, lambda name: is_linear(name) and "up_proj" not in name
    )  # fmt: skip
    report = converted(tmp_path / "q", tmp_path / "mlx", scale_dtype="f32")
    assert made(report) == ({"affine4-g32", "affine8-g32"}, {"repack"})
    near(values(tmp_path / "mlx"), meant, 1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_heads(tied: bool, tmp_path: Path) -> None:
    """A quantized head beside dense embeddings; or none, where they are one."""
    config = {**MODEL, "tie_word_embeddings": tied}
    variant = VARIANTS["gptq-4-g32-v2"]
    settings = {**variant.settings, "lm_head": True}
    meant = written(
        tmp_path, llama_tensors(config), config, settings, variant.pack,
        lambda name: is_linear(name) or name == "lm_head.weight",
    )  # fmt: skip
    report = converted(tmp_path / "q", tmp_path / "mlx", scale_dtype="f32")
    assert report["totals"]["routes"]["repack"] == (7 if tied else 8)
    near(values(tmp_path / "mlx"), meant, 1e-6)
    converted(tmp_path / "q", tmp_path / "q.gguf")
    converted(tmp_path / "dense", tmp_path / "dense.gguf", scheme="f32")
    near(values(tmp_path / "q.gguf"), values(tmp_path / "dense.gguf"), 1e-6)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_biases(kind: str, tmp_path: Path) -> None:
    """A qwen2's own stand beside packed codes; the zeros that AutoGPTQ gives to every module are left out."""
    config = {**MODEL, "model_type": kind, "architectures": [f"{kind.capitalize()}ForCausalLM"]}
    variant = VARIANTS["gptq-4-g32-v2"]
    dense = llama_tensors(config)
    own = ("q_proj", "k_proj", "v_proj") if kind == "qwen2" else ()
    added = {}
    for name in [name.removesuffix(".weight") for name in dense if is_linear(name)]:
        rows = len(dense[f"{name}.weight"])
        if name.endswith(own):
            dense[f"{name}.bias"] = np.random.default_rng(7).normal(0, 1, rows).astype(BF16)
        else:
            added[f"{name}.bias"] = np.zeros(rows, np.float16)
    meant = written(tmp_path, dense, config, variant.settings, variant.pack, added=added)
    converted(tmp_path / "q", tmp_path / "mlx", scale_dtype="f32")
    near(values(tmp_path / "mlx"), meant, 1e-6)
    converted(tmp_path / "q", tmp_path / "q.gguf")
    converted(tmp_path / "dense", tmp_path / "dense.gguf", scheme="f32")
    near(values(tmp_path / "q.gguf"), values(tmp_path / "dense.gguf"), 1e-6)


#: Folder of the model, its tokenizer, the ends of experts' names.
EXPERTS = {
    "mixtral": ("spm-llama", (".w1.weight", ".w2.weight", ".w3.weight", "_proj.weight")),
    "qwen3_moe": ("bpe-qwen2", ("_proj.weight",)),
}


@pytest.mark.parametrize("quantizer", ["gptq-4-g32-v2", "ct-7-g32", "gptq-4-g32-asym", "fp8-32x32"])
@pytest.mark.parametrize("model", EXPERTS)
def test_experts_one_by_one(shared: Path, tmp_path: Path, model: str, quantizer: str) -> None:
    """Each expert is a module of its own; MLX and GGUF stack them, codes as they are."""
    variant = {
        "ct-7-g32": compressed(7, 32, ("affine8-g32",), "q8_0"),
        "gptq-4-g32-asym": gptq(4, 32, "gptq", ("affine4-g32",), "q4_1", **ROUNDED),
        "fp8-32x32": fp8(32, 32),
        **VARIANTS,
    }[quantizer]
    folder, (tokenizer, ends) = shared / "fixtures" / "arch" / model, EXPERTS[model]
    dense = values(folder)
    meant = written(
        tmp_path, dense, json.loads((folder / "config.json").read_text()), variant.settings, variant.pack,
        lambda name: name.endswith(ends) and ".layers." in name,
    )  # fmt: skip
    for kind in ("q", "dense"):
        for path in (shared / "fixtures" / "arch" / "_tokenizers" / tokenizer).iterdir():
            shutil.copyfile(path, tmp_path / kind / path.name)
    assert len(meant) == len(dense)
    report = converted(tmp_path / "q", tmp_path / "mlx", scale_dtype="f32")
    converted(tmp_path / "dense", tmp_path / "dense-mlx", scheme="f32")
    falls = bool(variant.falls)
    assert made(report)[1] == {"requantize" if falls else "repack"}, made(report)
    near(values(tmp_path / "mlx"), values(tmp_path / "dense-mlx"), 1e-2 if falls else 1e-6)
    report = converted(tmp_path / "q", tmp_path / "q.gguf")
    converted(tmp_path / "dense", tmp_path / "dense.gguf", scheme="f32")
    assert made(report)[1] == {"requantize" if falls else "repack"}, made(report)
    near(values(tmp_path / "q.gguf"), values(tmp_path / "dense.gguf"), 1e-6 if variant.exact else 1e-2)
