"""Writes a synthetic llama checkpoint: one bf16 `model.safetensors`, `config.json` and the demo model's tokenizer.

The default is TinyLlama's shape: 1.1B parameters, 2.2 GB. Weights are Gaussian (standard deviation 0.02, norms 1), each
tensor from its own seed, so that the same shape and seed give the same bytes; tensors are made and written in pieces.

    python benchmarks/make_synthetic.py build/bench/model --layers 2
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

TOKENIZER = Path(__file__).resolve().parent.parent / "examples" / "demo-qwen3"
PIECE = 1 << 22

#: One stored array: its dtype and shape.
Entry = tuple[str, tuple[int, ...]]
BYTES = {"BF16": 2, "F16": 2, "I32": 4, "I64": 8}


@dataclass(frozen=True)
class Shape:
    """The hyperparameters; the defaults are TinyLlama's."""

    hidden: int = 2048
    intermediate: int = 5632
    layers: int = 22
    heads: int = 32
    kv_heads: int = 4
    vocab: int = 32000
    seed: int = 0


def tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name -> (rows, columns), or (length,) of a norm; sorted by name."""
    hidden, key = shape.hidden, shape.hidden // shape.heads * shape.kv_heads
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (shape.intermediate, hidden),
        "mlp.up_proj": (shape.intermediate, hidden),
        "mlp.down_proj": (hidden, shape.intermediate),
    }
    table: dict[str, tuple[int, ...]] = {
        f"model.layers.{n}.{name}.weight": dims for n in range(shape.layers) for name, dims in layer.items()
    }
    table |= {"model.norm.weight": (hidden,)}
    table |= {f"{name}.weight": (shape.vocab, hidden) for name in ("model.embed_tokens", "lm_head")}
    return dict(sorted(table.items()))


def header(table: Mapping[str, Entry]) -> bytes:
    """The safetensors header: 8 bytes of its length, then JSON padded to a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, dims) in table.items():
        end = at + BYTES[dtype] * math.prod(dims)
        entries[name] = {"dtype": dtype, "shape": list(dims), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def pieces(dims: tuple[int, ...], seed: tuple[int, int]) -> Iterator[np.ndarray]:
    """A tensor's bf16 words as uint16, at most PIECE at a time."""
    count = math.prod(dims)
    random = np.random.Generator(np.random.SFC64(seed))
    for start in range(0, count, PIECE):
        length = min(PIECE, count - start)
        values = random.standard_normal(length, np.float32)
        values *= np.float32(0.02)
        if len(dims) == 1:
            values[:] = 1
        words = values.view(np.uint32)
        words += np.uint32(0x8000)  # to nearest; ties do not matter here
        yield (words >> np.uint32(16)).astype(np.uint16)


def config(shape: Shape) -> dict[str, object]:
    """A llama `config.json` in the spelling that every tool reads."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def write(
    folder: Path,
    settings: dict[str, object],
    table: Mapping[str, Entry],
    content: Callable[[str, int], Iterator[np.ndarray]],
) -> None:
    """The whole checkpoint; nothing is done where `folder` holds it already (`config.json` is written last).

    content: of an array's name and number, its bytes, some at a time.
    """
    text = json.dumps(settings, indent=2) + "\n"
    done = folder / "config.json"
    if done.is_file() and done.read_text() == text:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(header(table))
        for number, name in enumerate(table):
            for piece in content(name, number):
                file.write(piece.data)
    done.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    for field in fields(Shape):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default, metavar="N")
    options = vars(parser.parse_args())
    folder = options.pop("folder")
    shape = Shape(**options)
    table = tensors(shape)
    entries = {name: ("BF16", dims) for name, dims in table.items()}
    settings = config(shape) | {"synthetic_seed": shape.seed}
    write(folder, settings, entries, lambda name, number: pieces(table[name], (shape.seed, number)))
    count = sum(math.prod(dims) for dims in table.values())
    print(f"{folder}: {len(table)} tensors, {count / 1e9:.3f}B parameters")


if __name__ == "__main__":
    main()
