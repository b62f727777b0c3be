"""The inputs of the table of advised commands, each made once, when a row first names it."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.arch_models import arch_model
from tests.builders import (
    BF16,
    LLAMA,
    byte_level_tokenizer,
    folder_of,
    llama_tensors,
    safetensors_bytes,
    tiny_awq,
    tiny_llama,
)
from tests.conversions import converted
from tests.convert.test_golden_arch import reference
from tests.gguf_files import Tensors, fused, load, of_values, rewritten, save
from tests.targets.test_global_scales import folder as nvfp4_folder

F16, F32 = np.dtype(np.float16), np.dtype(np.float32)
#: Sizes whose rows every GGML type's blocks fill, a single layer.
WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 1}
DOWN = "model.layers.0.mlp.down_proj.weight"
DATA = Path(__file__).resolve().parent.parent / "data"
#: The rows of a wide model's matrices have so many values; names of them in GGUF.
COLUMNS = 256
MATRICES = (*(f"attn_{x}" for x in ("q", "k", "v", "output")), "ffn_gate", "ffn_up", "ffn_down")


def changed(root: Path, value: float, dtype: np.dtype[Any] = BF16, **config: Any) -> Path:
    """A tiny llama whose first down_proj holds this value."""
    settings = {**LLAMA, **config}
    arrays = llama_tensors(settings, dtype)
    arrays[DOWN][3, 5] = value
    return folder_of(tiny_llama(root, dtype, **config), arrays, settings)


def further(root: Path, **tensors: np.ndarray) -> Path:
    """A tiny llama with further tensors, `__` in their names for a dot."""
    folder = tiny_llama(root)
    made = {name.replace("__", "."): array for name, array in tensors.items()}
    return folder_of(folder, llama_tensors(LLAMA) | made, LLAMA)


def gguf_of(root: Path, **keys: tuple[str, Any] | None) -> Path:
    """A tiny llama's GGUF file with other keys, `__` for a dot; None leaves one out."""
    converted(tiny_llama(root / "m"), root / "m.gguf")
    found, tensors = load(root / "m.gguf")
    found |= {name.replace("__", "."): typed for name, typed in keys.items() if typed is not None}
    gone = {name.replace("__", ".") for name, typed in keys.items() if typed is None}
    return save(root / "in.gguf", {k: v for k, v in found.items() if k not in gone}, tensors)


def layered(root: Path, architecture: str, *extra: str, **keys: tuple[str, Any]) -> Path:
    """A GGUF file of six layers of one tensor each. keys: after the architecture's name."""
    names = ["token_embd.weight", *(f"blk.{i}.ffn_up.weight" for i in range(6)), *extra]
    tensors = {name: of_values(np.zeros((2, 32), np.float32)) for name in names}
    found: dict[str, tuple[str, Any]] = {"general.architecture": ("string", architecture)}
    found |= {f"{architecture}.{key.replace('__', '.')}": typed for key, typed in keys.items()}
    return save(root / "in.gguf", found | {f"{architecture}.block_count": ("uint32", 6)}, tensors)


def matrix(path: Path, *left_out: str, columns: int = COLUMNS) -> Path:
    """An importance matrix of a wide model, of all of its matrices but some."""
    names = [f"blk.0.{name}.weight" for name in MATRICES if name not in left_out]
    data = struct.pack("<i", len(names))
    for name in names:
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, columns)
        data += struct.pack(f"<{columns}f", *[1.0] * columns)
    path.write_bytes(data)
    return path


def experts(root: Path) -> Path:
    """A GGUF file of a model with experts, one of whose tensors belongs to no layer."""
    rows = np.zeros((2, 32, 256), np.float32)
    names = ("blk.0.ffn_down_exps.weight", "blk.7.ffn_down_exps.weight")
    tensors: Tensors = {name: of_values(rows) for name in names}
    tensors["token_embd.weight"] = of_values(np.zeros((8, 256), np.float32))
    keys: dict[str, tuple[str, Any]] = {
        "general.architecture": ("string", "llama"), "llama.block_count": ("uint32", 1),
        "llama.expert_count": ("uint32", 2),
    }  # fmt: skip
    return save(root / "in.gguf", keys, tensors)


def opaque(root: Path) -> Path:
    """A GGUF file with a tensor of a type that nobody knows."""
    source = converted_to(root, "in.gguf", tiny_llama(root / "m"))
    data = source.read_bytes()
    name = b"blk.0.ffn_down.weight"
    place = data.index(name) + len(name) + 4 + 2 * 8
    source.write_bytes(data[:place] + struct.pack("<I", 999) + data[place + 4 :])
    return source


def converted_to(root: Path, name: str, source: Path, **options: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    converted(source, root / name, check=False, **options)
    return root / name


def split(root: Path) -> Path:
    converted_to(root, "in.gguf", tiny_llama(root / "m"), shard_size=60_000)
    return min(root.glob("in-00001-of-*.gguf"))


def beside(root: Path, settings: dict[str, Any]) -> Path:
    folder = tiny_llama(root)
    (folder / "quantization_config.json").write_text(json.dumps(settings))
    return folder


def adapter(root: Path) -> Path:
    keys = {"general.architecture": ("string", "llama"), "general.type": ("string", "adapter")}
    return save(root / "in.gguf", keys, {"blk.0.attn_q.weight.lora_a": of_values(np.zeros((8, 32), np.float32))})


def tokenizer_of(root: Path, size: int, added: int = 0) -> Path:
    """A folder with a tokenizer and nothing else; added: further tokens at the end."""
    data = byte_level_tokenizer(size)
    first = data["added_tokens"][0]
    data["added_tokens"] += [first | {"id": size + n, "content": f"<|{n}|>"} for n in range(added)]
    (root / "tokenizer.json").write_text(json.dumps(data))
    return root


def strange_pre_tokenizer(root: Path) -> Path:
    folder = tiny_llama(root)
    data = byte_level_tokenizer()
    data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "x+|[^x]+"
    (folder / "tokenizer.json").write_text(json.dumps(data))
    return folder


def odd_zeros(root: Path, only: str = "") -> Path:
    """An AWQ folder whose settings say that it is symmetric and whose zero points are not 8, or one module's alone."""
    folder = tiny_awq(root, zero_point=True)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["zero_point"] = False
    (folder / "config.json").write_text(json.dumps(config))
    if only:
        arrays = load_file(folder / "model.safetensors")
        eights = np.int32(np.uint32(0x88888888).view(np.int32))
        for name in arrays:
            if name.endswith(".qzeros") and only not in name:
                arrays[name] = np.full_like(arrays[name], eights)
        (folder / "model.safetensors").write_bytes(safetensors_bytes(arrays))
    return folder


def committed(root: Path, name: str) -> Path:
    """One of the committed folders of quantizers' layouts: two matrices, of no known architecture."""
    shutil.copytree(DATA / "quantized" / name, root, dirs_exist_ok=True)
    config = json.loads((root / "config.json").read_text())
    (root / "config.json").write_text(json.dumps({**config, "model_type": "strange", "num_hidden_layers": 1}))
    return root


def arch(root: Path, case: str, *args: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    return arch_model(root, case, *args)


def folder_in_f16(root: Path, case: str) -> Path:
    """A family's model in float16, in which it does not work."""
    source = arch(root / "own", case)
    return converted_to(root, "in", source, to="hf", dtype="f16")


def other_head(root: Path, case: str) -> Path:
    """A family's model with an output matrix of its own, for which its runtimes have no place."""
    tensors = dict(reference(case)["source"])
    shape = tensors["model.embed_tokens.weight"]
    return arch(root, case, {**tensors, "lm_head.weight": shape}, {"tie_word_embeddings": False})


#: Name -> what makes the input in a folder of its own, which is there.
INPUTS: dict[str, Callable[[Path], Path]] = {
    "dense": tiny_llama,
    "dense32": lambda root: tiny_llama(root, F32, torch_dtype="float32"),
    "wide": lambda root: tiny_llama(root, **WIDE),
    "gguf_in": lambda root: converted_to(root, "in.gguf", tiny_llama(root / "m")),
    "split": split,
    "q8": lambda root: converted_to(root, "in.gguf", tiny_llama(root / "m"), scheme="q8_0", pure=True),
    "mlx4": lambda root: converted_to(root, "in", tiny_llama(root / "m"), scheme="affine4-g64"),
    "mlx6": lambda root: converted_to(root, "in", tiny_llama(root / "m"), scheme="affine6-g64"),
    "awq": tiny_awq,
    "awq_zeros": odd_zeros,
    "awq_zero": lambda root: odd_zeros(root, "layers.1.mlp.up_proj"),
    "nvfp4": lambda root: nvfp4_folder(root, "compressed-tensors")[0],
    "nan": lambda root: changed(root, float("nan")),
    "large": lambda root: changed(root, 1e6, F32, torch_dtype="float32"),
    "matrix": lambda root: matrix(root.with_suffix(".dat")),
    "poor_matrix": lambda root: matrix(root.with_suffix(".dat"), "ffn_down"),
    "beside": lambda root: beside(root, {"bits": 4, "group_size": 64, "per_tensor": {"*.down_proj": {"bits": 8}}}),
    "beside_plain": lambda root: beside(root, {"bits": 4, "group_size": 64}),
    "unknown": lambda root: tiny_llama(root, model_type="strange", architectures=["StrangeForCausalLM"]),
    "adapter": adapter,
    "gemma2_q4": lambda root: converted_to(root, "in.gguf", arch(root / "m", "gemma2"), scheme="q4_0", pure=True),
    "gemma2_f16": lambda root: folder_in_f16(root, "gemma2"),
    "gemma2": lambda root: arch(root, "gemma2"),
    "gemma_head": lambda root: other_head(root, "gemma"),
    "huge": lambda root: changed(root, 1e9, F32, torch_dtype="float32"),
    "actorder": lambda root: committed(root, "ct-w4a16-actorder"),
    "tied_head": lambda root: folder_of(tiny_llama(root), llama_tensors(LLAMA), {**LLAMA, "tie_word_embeddings": True}),
    "gpt_neox": lambda root: arch(root, "gpt_neox"),
    "deep": lambda root: tiny_llama(root, num_hidden_layers=3),
    "own_gelu": lambda root: tiny_llama(root, hidden_act="gelu"),
    "denied": lambda root: further(root, **{"model__layers__0__self_attn__q_proj__bias": np.zeros(64, BF16)}),
    "stray": lambda root: further(root, model__strange__weight=np.zeros((4, 64), BF16)),
    "odd_name": lambda root: further(root, **{"model__strange thing": np.zeros((4, 64), BF16)}),
    "fused_qkv": lambda root: rewritten(
        converted_to(root, "own.gguf", tiny_llama(root / "m")), root / "in.gguf",
        fused("attn_q", "attn_k", "attn_v", into="attn_qkv"),
    ),
    "experts": experts,
    "opaque": opaque,
    "no_pre": lambda root: gguf_of(root, tokenizer__ggml__pre=None),
    "odd_pre": lambda root: gguf_of(root, tokenizer__ggml__pre=("string", "odd-one")),
    "odd_model": lambda root: gguf_of(root, tokenizer__ggml__model=("string", "odd-one")),
    "odd_types": lambda root: gguf_of(root, tokenizer__ggml__token_type=("array[uint32]", (1,) * 93 + (3,) * 3)),
    "odd_split": strange_pre_tokenizer,
    "lists": lambda root: layered(root, "mystery", thing=("array[int32]", [1] * 6)),
    "named_layers": lambda root: layered(root, "mystery", n_deepstack_layers=("uint32", 1)),
    "periods": lambda root: layered(root, "gemma3", attention__sliding_window=("uint32", 64)),
    "per_layer": lambda root: layered(root, "gemma3n", "per_layer_token_embd.weight"),
    "tokenizer_97": lambda root: tokenizer_of(root, 100),
    "tokenizer_more": lambda root: tokenizer_of(root, 96, 2),
}  # fmt: skip
