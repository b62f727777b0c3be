"""Writes a synthetic llama of 4 bits in groups of 128, as GPTQ or as compressed-tensors stores it.

The default is about 2.2 GB: 16 layers of Llama 2 7B's shape, embeddings and head in bf16. Codes are random words,
scales near 0.01; the same shape and seed give the same bytes.

    python benchmarks/make_quantized.py build/bench/gptq --layout gptq
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
from make_synthetic import PIECE, TOKENIZER, Shape, config, pieces, tensors

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

#: One stored array: its dtype and shape.
Entry = tuple[str, tuple[int, ...]]


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


def header(table: dict[str, Entry]) -> bytes:
    """The safetensors header: 8 bytes of its length, then JSON padded to a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, dims) in table.items():
        end = at + {"BF16": 2, "F16": 2, "I32": 4, "I64": 8}[dtype] * math.prod(dims)
        entries[name] = {"dtype": dtype, "shape": list(dims), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write(folder: Path, layout: str, shape: Shape) -> None:
    """The whole checkpoint; nothing is done where `folder` holds it already (`config.json` is written last)."""
    settings = config(shape) | {"synthetic_seed": shape.seed, "quantization_config": SETTINGS[layout]}
    text = json.dumps(settings, indent=2) + "\n"
    done = folder / "config.json"
    if done.is_file() and done.read_text() == text:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)
    weights = tensors(shape)
    owner = {part: name for name, dims in weights.items() for part in arrays(layout, name, dims)}
    table = {part: arrays(layout, name, weights[name])[part] for part, name in sorted(owner.items())}
    with open(folder / "model.safetensors", "wb") as file:
        file.write(header(table))
        for number, (name, entry) in enumerate(table.items()):
            for piece in content(name, entry, weights[owner[name]], (shape.seed, number)):
                file.write(piece.data)
    done.write_text(text)


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
    write(folder, layout, Shape(**options))
    print(f"{folder}: {(folder / 'model.safetensors').stat().st_size / 1e9:.2f} GB of {layout}")


if __name__ == "__main__":
    main()
