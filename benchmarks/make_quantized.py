"""Writes a synthetic llama of 4 bits in groups of 128, as GPTQ or as compressed-tensors stores it.

The default is about 2.2 GB: 16 layers of Llama 2 7B's shape, embeddings and head in bf16. Codes are random words,
scales near 0.01; the same shape and seed give the same bytes.

    python benchmarks/make_quantized.py build/bench/gptq --layout gptq
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
from make_synthetic import PIECE, Entry, Shape, config, pieces, tensors, write

BITS, GROUP = 4, 128
PER_WORD = 32 // BITS

#: What the tools write into config.json.
SETTINGS: dict[str, dict[str, object]] = {
    "gptq": {"quant_method": "gptq", "bits": BITS, "group_size": GROUP, "sym": True, "desc_act": False},
    "compressed-tensors": {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "version": "0.19.0", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
            "num_bits": BITS, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": True,
        }}},
    },
}  # fmt: skip


def arrays(layout: str, name: str, dims: tuple[int, ...]) -> dict[str, Entry]:
    """The arrays that hold a weight."""
    if not name.endswith("_proj.weight"):
        return {name: ("BF16", dims)}
    module, (rows, columns) = name.removesuffix(".weight"), dims
    if layout == "compressed-tensors":
        return {
            f"{module}.weight_packed": ("I32", (rows, columns // PER_WORD)),
            f"{module}.weight_scale": ("BF16", (rows, columns // GROUP)),
            f"{module}.weight_shape": ("I64", (2,)),
        }
    return {
        f"{module}.g_idx": ("I32", (columns,)),
        f"{module}.qweight": ("I32", (columns // PER_WORD, rows)),
        f"{module}.qzeros": ("I32", (columns // GROUP, rows // PER_WORD)),
        f"{module}.scales": ("F16", (columns // GROUP, rows)),
    }


def content(name: str, entry: Entry, weight: tuple[int, ...], seed: tuple[int, int]) -> Iterator[np.ndarray]:
    """An array's bytes, some at a time; `weight` is the shape of what it belongs to."""
    dtype, dims = entry
    part, count = name.rpartition(".")[2], math.prod(dims)
    if part == "weight_shape":
        yield np.array(weight, np.int64)
    elif part == "g_idx":
        yield np.arange(count, dtype=np.int32) // GROUP
    elif part == "qzeros":
        yield np.full(count, 0x77777777, np.int32)
    elif part in ("scales", "weight_scale"):
        words = np.random.Generator(np.random.SFC64(seed)).uniform(0.005, 0.015, count).astype(np.float32)
        yield words.astype(np.float16) if dtype == "F16" else (words.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    elif dtype == "I32":
        random = np.random.Generator(np.random.SFC64(seed))
        for start in range(0, count, PIECE):
            yield random.integers(0, 1 << 32, min(PIECE, count - start), np.uint32)
    else:
        yield from pieces(dims, seed)


def write_quantized(folder: Path, layout: str, shape: Shape) -> None:
    """The whole checkpoint in a layout."""
    settings = config(shape) | {"synthetic_seed": shape.seed, "quantization_config": SETTINGS[layout]}
    weights = tensors(shape)
    owner = {part: name for name, dims in weights.items() for part in arrays(layout, name, dims)}
    table = {part: arrays(layout, name, weights[name])[part] for part, name in sorted(owner.items())}
    write(
        folder, settings, table,
        lambda name, number: content(name, table[name], weights[owner[name]], (shape.seed, number)),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layout", choices=list(SETTINGS), required=True)
    default = Shape(hidden=4096, intermediate=11008, layers=16, kv_heads=32)
    for field in fields(Shape):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=getattr(default, field.name), metavar="N")
    options = vars(parser.parse_args())
    folder, layout = options.pop("folder"), options.pop("layout")
    write_quantized(folder, layout, Shape(**options))
    print(f"{folder}: {(folder / 'model.safetensors').stat().st_size / 1e9:.2f} GB of {layout}")


if __name__ == "__main__":
    main()
