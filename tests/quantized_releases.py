"""Tiny models of newer families, stored as their quantized releases are: layouts, prefixes, lists of dense modules.

Shapes are those of tests/data/arch, values of this file. Experts are stored one by one, as all of these quantizers have
them; the layers of Qwen3.5 for multi-token prediction and the towers are dense.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from tests import packers
from tests.arch_models import arch_model, config_of
from tests.builders import BF16, folder_of
from tests.conversions import stored
from tests.packers import F8, Arrays

Packer = Callable[[np.ndarray, int], tuple[Arrays, np.ndarray]]

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
LINEARS = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "in_proj_qkv", "in_proj_z", "out_proj",
    "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "wq_b", "wk",
)  # fmt: skip
STACKED = re.compile(r"(?P<place>.+\.experts)\.(?P<kind>gate_up_proj|down_proj)")
BLOCK = (32, 32)


@dataclass(frozen=True)
class Family:
    """Where a model's tensors stand: names begin with `prefix`, the head's with `head`.

    around: what config.json has around the text model's settings. tower: a tensor of one. nested: the key under which
    the quantizer's settings stand too. text: settings in place of the case's: with all experts in use no rounding
    decides which are. middle: as in `dense_values`.
    """

    case: str
    prefix: str = "model."
    head: str = ""
    around: Mapping[str, Any] = field(default_factory=dict)
    tower: str = ""
    nested: str | None = None
    text: Mapping[str, Any] = field(default_factory=dict)
    middle: float = 1

    @property
    def config(self) -> dict[str, Any]:
        """The text model's settings."""
        return {**config_of(self.case), **self.text}

    def name(self, name: str) -> str:
        """The stored name of a tensor of the table's name."""
        if name.startswith("mtp."):  # stands next to the text model
            return name
        return self.prefix + name.removeprefix("model.") if name.startswith("model.") else self.head + name


QWEN = {"model_type": "qwen3_5_moe", "architectures": ["Qwen3_5MoeForConditionalGeneration"]}
MISTRAL = {"model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"]}
KIMI = {"model_type": "kimi_k25", "architectures": ["KimiK25ForConditionalGeneration"]}
FAMILIES = {
    "qwen3_5_moe": Family(
        "qwen3_5_moe", "model.language_model.", "", QWEN, "model.visual.blocks.0.attn.qkv.weight",
        text={"num_experts_per_tok": 4}, middle=0,
    ),
    "kimi_k2": Family("kimi_k2", text={"num_experts_per_tok": 8}),
    "kimi_k25": Family(
        "kimi_k2", "language_model.model.", "language_model.", KIMI, "vision_tower.blocks.0.wo.weight", "text_config"
    ),
    "mistral3": Family(
        "mistral", "model.language_model.", "", MISTRAL, "model.vision_tower.transformer.layers.0.fc.weight"
    ),
    "mistral3-old": Family(
        "mistral", "language_model.model.", "language_model.", MISTRAL, "vision_tower.transformer.layers.0.fc.weight"
    ),
}  # fmt: skip


def dense_values(name: str, shape: tuple[int, ...], middle: float = 1) -> np.ndarray:
    """Values of a matrix or vector: small ones in matrices but for the embedding, in vectors around 1.

    middle: of norms, 0 where they are stored as their distance from 1.
    """
    random = np.random.default_rng(crc32(name.encode()))
    spread = random.normal(0, 1, shape)
    if "embed_tokens" in name:
        return spread.astype(BF16)
    if len(shape) > 1:
        return (spread * 0.5 / np.sqrt(shape[-1])).astype(BF16)
    is_norm = "norm" in name and ".linear_attn." not in name
    return ((middle if is_norm else 1) + 0.1 * spread).astype(BF16)


def one_by_one(tensors: Arrays) -> Arrays:
    """The model with each expert's matrices apart."""
    made: Arrays = {}
    for name, array in tensors.items():
        found = STACKED.fullmatch(name)
        if found is None:
            made[name] = array
            continue
        for expert, matrix in enumerate(array):
            kinds = ("down",) if found["kind"] == "down_proj" else ("gate", "up")
            for kind, one in zip(kinds, np.split(matrix, len(kinds)), strict=True):
                made[f"{found['place']}.{expert}.{kind}_proj.weight"] = one
    return made


def stacked(tensors: Arrays) -> Arrays:
    """The model with the experts of a layer in two tensors; takes back what `one_by_one` does."""
    made, matrices = {}, {name: array for name, array in tensors.items() if ".experts." in name}
    places = {name.split(".experts.")[0] + ".experts" for name in matrices}
    for place in places:
        count = len({name.split(".experts.")[1].split(".")[0] for name in matrices if name.startswith(f"{place}.")})
        gate, up, down = (
            np.stack([matrices[f"{place}.{expert}.{kind}_proj.weight"] for expert in range(count)])
            for kind in ("gate", "up", "down")
        )
        made |= {f"{place}.gate_up_proj": np.concatenate([gate, up], axis=1), f"{place}.down_proj": down}
    return {name: array for name, array in tensors.items() if name not in matrices} | made


# The quantizers' layouts: (matrix, seed) -> arrays by suffix, and the values that their tool makes of these.


def grid(arrays_of: Callable[[packers.Grid], Arrays], *, symmetric: bool, dtype: Any) -> Packer:
    """Integers of 4 bits in groups of 32, multiplied in the dtype of their scales."""

    def pack(dense: np.ndarray, seed: int) -> tuple[Arrays, np.ndarray]:
        rows, columns = dense.shape
        made = packers.random_grid((rows, columns), 4, 32, symmetric, dtype, seed)
        return arrays_of(made), made.values.astype(dtype).astype(np.float32)

    return pack


def fp8(dense: np.ndarray, seed: int) -> tuple[Arrays, np.ndarray]:
    return packers.fp8(dense.astype(np.float32), BLOCK)


def fp8_static(dense: np.ndarray, seed: int) -> tuple[Arrays, np.ndarray]:
    """Mistral's: one scale for the matrix, one for its inputs."""
    scale = np.asarray(np.abs(dense.astype(np.float32)).max() / 448, np.float32)
    codes = (dense.astype(np.float32) / scale).astype(F8)
    arrays = {".weight": codes, ".weight_scale_inv": scale, ".activation_scale": np.asarray(0.5, np.float32)}
    return arrays, (codes.astype(np.float32) * scale).astype(BF16).astype(np.float32)


def nvfp4(tool: str) -> Packer:
    def pack(dense: np.ndarray, seed: int) -> tuple[Arrays, np.ndarray]:
        random = np.random.default_rng(seed)
        codes = random.integers(0, 16, dense.shape, dtype=np.uint8)
        scales = random.integers(52, 66, (dense.shape[0], dense.shape[1] // 16), dtype=np.uint8).view(F8)
        whole = np.float32(2.0**-6)
        arrays = packers.nvfp4(codes, scales, whole if tool == "modelopt" else 1 / whole, np.float32(0.5), tool)
        meant = E2M1[codes] * np.repeat(scales.astype(np.float32) * whole, 16, axis=1)
        return arrays, meant.astype(BF16).astype(np.float32)

    return pack


def mxfp4(suffix: str) -> Packer:
    def pack(dense: np.ndarray, seed: int) -> tuple[Arrays, np.ndarray]:
        random = np.random.default_rng(seed)
        codes = random.integers(0, 16, dense.shape, dtype=np.uint8)
        scales = random.integers(119, 123, (dense.shape[0], dense.shape[1] // 32), dtype=np.uint8)
        arrays = {suffix: codes[:, 0::2] | codes[:, 1::2] << np.uint8(4), ".weight_scale": scales}
        return arrays, E2M1[codes] * np.repeat(np.exp2(scales.astype(np.float32) - 127), 32, axis=1)

    return pack


#: What of each family the releases at hand leave dense, as the quantizers' settings say it.
ROUTERS = ("mlp.gate", "mlp.shared_expert_gate", "in_proj_a", "in_proj_b")
LEFT = ("lm_head", "mtp", "visual", "vision_tower")


def _ct(layout: str, **weights: Any) -> dict[str, Any]:
    given = {"num_bits": 4, "dynamic": False, "symmetric": True, "actorder": None, **weights}
    groups = {"group_0": {"targets": ["Linear"], "weights": given, "input_activations": None}}
    ignore = [*(f"re:.*{name}.*" for name in LEFT), "re:.*(gate|in_proj_a|in_proj_b)$"]
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": groups, "ignore": ignore}


def _globs() -> list[str]:
    return [*(f"*{name}" for name in ROUTERS), *(f"*{name}*" for name in LEFT)]


def _quark() -> dict[str, Any]:
    weight = {
        "dtype": "fp4", "qscheme": "per_group", "group_size": 32, "ch_axis": -1, "is_dynamic": False, "symmetric": None,
        "scale_format": "e8m0", "is_scale_quant": False,
    }  # fmt: skip
    return {
        "quant_method": "quark", "exclude": _globs(), "export": {"weight_format": "real_quantized"},
        "global_quant_config": {"weight": weight}, "layer_quant_config": {}, "layer_type_quant_config": {},
    }  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A quantizer's settings, how it packs a matrix, and the schemes that GGUF and MLX have for its codes."""

    settings: Mapping[str, Any]
    pack: Packer
    gguf: str
    mlx: str


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "modules_to_not_convert": ["lm_head", "mtp", *LEFT, *ROUTERS]}
GPTQ = {
    "quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False, "checkpoint_format": "gptq",
    "dynamic": {"lm_head": {}, "-:.*mtp.*": {}, "-:.*vis(ual|ion).*": {}},
}  # fmt: skip
AWQ = {
    "quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True,
    "modules_to_not_convert": [*LEFT, *ROUTERS],
}  # fmt: skip
MODELOPT = {"quant_method": "modelopt", "ignore": _globs(), "producer": {"name": "modelopt", "version": "0.42.0"}}
LAYOUTS = {
    "fp8-block": Layout({**FP8, "weight_block_size": list(BLOCK)}, fp8, "q8_0", "affine8-g32"),
    "fp8-static": Layout({**FP8, "activation_scheme": "static"}, fp8_static, "q8_0", "affine8-g32"),
    "ct-int4": Layout(
        _ct("pack-quantized", type="int", strategy="group", group_size=32),
        grid(lambda made: packers.compressed(made, 4, packers.stream, True), symmetric=True, dtype=BF16),
        "q4_0", "affine4-g32",
    ),
    "ct-mxfp4": Layout(
        _ct("mxfp4-pack-quantized", type="float", strategy="group", group_size=32), mxfp4(".weight_packed"),
        "mxfp4", "mxfp4",
    ),
    "ct-nvfp4": Layout(
        _ct("nvfp4-pack-quantized", type="float", strategy="tensor_group", group_size=16), nvfp4("ct"),
        "nvfp4", "affine8-g32",
    ),
    "modelopt-nvfp4": Layout({**MODELOPT, "quant_algo": "NVFP4"}, nvfp4("modelopt"), "nvfp4", "affine8-g32"),
    "modelopt-mxfp4": Layout({**MODELOPT, "quant_algo": "MXFP4"}, mxfp4(".weight"), "mxfp4", "mxfp4"),
    "awq": Layout(AWQ, grid(packers.awq, symmetric=False, dtype=np.float16), "q4_1", "affine4-g32"),
    "gptq": Layout(
        GPTQ, grid(lambda made: packers.gptq(made, 4, "gptq"), symmetric=True, dtype=np.float16), "q4_0", "affine4-g32"
    ),
    "quark-mxfp4": Layout(_quark(), mxfp4(".weight"), "mxfp4", "mxfp4"),
}  # fmt: skip


def is_linear(module: str) -> bool:
    """Whether a module of the text model is quantized in the releases made here."""
    return module.endswith(LINEARS) and not module.startswith("mtp.")


@dataclass(frozen=True)
class Release:
    """A folder, and what its tensors mean: values by the names of the table, experts one by one."""

    folder: Path
    truth: Arrays
    packed: frozenset[str]


def release(
    root: Path, family: Family, layout: Layout, settings: Mapping[str, Any] | None = None,
    wanted: Callable[[str], bool] = is_linear,
) -> Release:  # fmt: skip
    """A model of a family in a quantizer's layout. settings: in place of the layout's own."""
    root.mkdir(parents=True, exist_ok=True)
    folder = arch_model(root, family.case)
    source = {name: dense_values(name, one.shape, family.middle) for name, one in stored(folder).items()}
    arrays: Arrays = {}
    truth: Arrays = {}
    packed = set()
    for name, array in one_by_one(source).items():
        module = name.removesuffix(".weight")
        if name == module or array.ndim != 2 or not wanted(module):
            arrays[family.name(name)], truth[name] = array, array.astype(np.float32)
            continue
        made, truth[name] = layout.pack(array, crc32(name.encode()))
        arrays |= packers.beside(family.name(module), made)
        packed.add(name)
    config = family.config
    if family.around:
        config = {**family.around, "text_config": config, "vision_config": {"depth": 1}}
        arrays[family.tower] = np.ones((4, 32), BF16)
    given = {"quantization_config": dict(layout.settings if settings is None else settings)}
    if family.nested:
        config[family.nested] |= given
    folder_of(folder, arrays, config | ({} if family.nested else given))
    return Release(folder, truth, frozenset(packed))


def dense_twin(root: Path, family: Family, made: Release) -> Path:
    """The model of the same values, dense in float32, under the table's names without towers."""
    root.mkdir(parents=True, exist_ok=True)
    folder = arch_model(root, family.case)
    is_stacked = any(STACKED.fullmatch(name) for name in stored(folder))
    return folder_of(folder, stacked(made.truth) if is_stacked else made.truth, family.config)
