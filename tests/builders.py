"""Small checkpoints made from nothing, for tests that need a whole folder or file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

#: numpy dtype name -> its spelling in safetensors headers.
SPELLED = {
    "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32", "uint64": "U64",
    "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64", "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
BF16 = np.dtype(ml_dtypes.bfloat16)

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 96,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "bos_token_id": 93, "eos_token_id": 94, "torch_dtype": "bfloat16",
}  # fmt: skip

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def safetensors_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of these arrays, data in the order given."""
    members: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        members[name] = {"dtype": SPELLED[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    header = json.dumps(members).encode()
    return len(header).to_bytes(8, "little") + header + data


def folder_of(
    root: Path,
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any] | None = None,
    name: str = "model.safetensors",
) -> Path:
    """A folder of one tensor file and a config.json; returns `root`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(safetensors_bytes(tensors))
    (root / "config.json").write_text(json.dumps(config if config is not None else {"model_type": "llama"}))
    return root


def sharded(
    root: Path, shards: Mapping[str, Mapping[str, np.ndarray]], config: Mapping[str, Any] | None = None
) -> Path:
    """A folder of several tensor files, file name -> arrays, with their index; returns `root`."""
    root.mkdir(parents=True, exist_ok=True)
    for name, tensors in shards.items():
        (root / name).write_bytes(safetensors_bytes(tensors))
    where = {key: name for name, tensors in shards.items() for key in tensors}
    (root / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (root / "config.json").write_text(json.dumps(config if config is not None else {"model_type": "llama"}))
    return root


def llama_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of a llama with this config."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for i in range(config["num_hidden_layers"]):
        layer = {
            "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (heads, hidden), "self_attn.k_proj": (kv_heads, hidden),
            "self_attn.v_proj": (kv_heads, hidden), "self_attn.o_proj": (hidden, heads),
            "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
        }  # fmt: skip
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def llama_tensors(config: Mapping[str, Any], dtype: np.dtype[Any] = BF16, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of a llama with this config; norms are ones."""
    random = np.random.default_rng(seed)
    return {
        name: (np.ones(shape) if len(shape) == 1 else random.normal(0, 0.05, shape)).astype(dtype)
        for name, shape in llama_shapes(config).items()
    }


def byte_level_tokenizer(vocab_size: int = 96) -> dict[str, Any]:
    """A tokenizer.json of printable characters, one merge, and three special tokens at the end."""
    ordinary = [chr(33 + i) for i in range(vocab_size - 4)] + ["ab"]
    special = ("<|begin|>", "<|end|>", "<|pad|>")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": vocab_size - 3 + i, "content": text, **flags} for i, text in enumerate(special)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(ordinary)}, "merges": ["a b"],
        },
    }  # fmt: skip


def tiny_llama(root: Path, dtype: np.dtype[Any] = BF16, **changes: Any) -> Path:
    """A whole model folder: hidden 64, two layers, vocabulary 96; `changes` are config keys that differ."""
    config = {**LLAMA, **changes}
    folder_of(root, llama_tensors(config, dtype), config)
    (root / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer(config["vocab_size"])))
    settings = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"}
    (root / "tokenizer_config.json").write_text(json.dumps(settings))
    return root


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k in GGUF's order: each head's two halves become pairs, as llama.cpp's converter does it."""
    return array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def llama_gguf(
    path: Path, folder: Path, *, kind: str = "bf16", leave_out: Iterable[str] = (),
    blocks: Mapping[str, tuple[str, np.ndarray]] | None = None, **changes: Any,
) -> Path:  # fmt: skip
    """A GGUF file of a folder made by `tiny_llama`, written by gguf-py; returns `path`.

    kind: of its matrices, any that gguf-py can quantize to. leave_out: HF names. blocks: GGUF names of tensors that
    have another type, and their rows of blocks. changes: keys of the metadata that
    differ (`rope_freq_base=1e6`), by the names of GGUFWriter's methods; a tuple is several arguments of one.
    """
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens = {i: token for token, i in tokenizer["model"]["vocab"].items()}
    special = {entry["id"]: entry["content"] for entry in tokenizer["added_tokens"]}
    writer = gguf.GGUFWriter(path, "llama")
    facts = {
        "context_length": config["max_position_embeddings"], "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"], "feed_forward_length": config["intermediate_size"],
        "head_count": config["num_attention_heads"], "head_count_kv": config["num_key_value_heads"],
        "key_length": config["head_dim"], "value_length": config["head_dim"], "rope_freq_base": config["rope_theta"],
        "layer_norm_rms_eps": config["rms_norm_eps"], "vocab_size": config["vocab_size"], "tokenizer_model": "gpt2",
        "tokenizer_pre": "dbrx", "token_merges": tokenizer["model"]["merges"],
        "token_list": [{**tokens, **special}[i] for i in range(config["vocab_size"])],
        "token_types": [3 if i in special else 1 for i in range(config["vocab_size"])],
        "bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"], "pad_token_id": 95,
    }  # fmt: skip
    for name, value in (facts | changes).items():
        getattr(writer, f"add_{name}")(*(value if isinstance(value, tuple) else (value,)))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, array in load_file(folder / "model.safetensors").items():
        if name in leave_out:
            continue
        values = array.astype(np.float32)
        if ".q_proj." in name or ".k_proj." in name:
            values = interleaved(values, config[f"num_{'attention' if '.q_' in name else 'key_value'}_heads"])
        if (own := names.get_name(name, (".weight", ".bias"))) in (blocks or {}):
            other, rows = (blocks or {})[own]
            writer.add_tensor(own, rows, raw_dtype=gguf.GGMLQuantizationType[other.upper()])
            continue
        as_type = gguf.GGMLQuantizationType[kind.upper() if values.ndim > 1 else "F32"]
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), gguf.quantize(values, as_type), raw_dtype=as_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


#: AutoAWQ's order: bits 4i .. 4i + 3 of a word hold this one of its eight rows.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def awq_packed(codes: np.ndarray) -> np.ndarray:
    """Codes (rows, n) -> int32 words (n, rows / 8), as AutoAWQ's GEMM layout has them."""
    eights = codes.T.reshape(codes.shape[1], -1, 8).astype(np.uint32)
    return sum(eights[:, :, row] << np.uint32(4 * i) for i, row in enumerate(AWQ_ORDER)).view(np.int32)


def awq_grid(values: np.ndarray, group: int, zero_point: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 (rows, columns) -> codes, zeros (rows, groups), f16 scales (rows, groups), rounded to nearest."""
    groups = values.reshape(len(values), -1, group)
    low, high = np.minimum(groups.min(2), 0), np.maximum(groups.max(2), 0)
    if zero_point:
        scales = ((high - low) / 15).astype(np.float16)
        zeros = np.clip(np.rint(-low / scales.astype(np.float32)), 0, 15)
    else:
        scales = (np.abs(groups).max(2) / 7).astype(np.float16)
        zeros = np.full(scales.shape, 8.0)
    codes = np.rint(groups / scales.astype(np.float32)[:, :, None]) + zeros[:, :, None]
    return np.clip(codes, 0, 15).astype(np.uint8).reshape(values.shape), zeros.astype(np.uint8), scales


def tiny_awq(root: Path, group: int = 64, zero_point: bool = True) -> Path:
    """`tiny_llama` in f16 with every linear but lm_head in AutoAWQ's GEMM layout."""
    tiny_llama(root, np.dtype(np.float16), torch_dtype="float16")
    tensors = llama_tensors({**LLAMA}, np.dtype(np.float16))
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        module = name.removesuffix(".weight")
        codes, zeros, scales = awq_grid(tensors.pop(name).astype(np.float32), group, zero_point)
        tensors[f"{module}.qweight"] = awq_packed(codes)
        tensors[f"{module}.scales"] = np.ascontiguousarray(scales.T)
        if zero_point:
            tensors[f"{module}.qzeros"] = awq_packed(zeros)
    settings = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": zero_point, "version": "gemm"}
    config = {**LLAMA, "torch_dtype": "float16", "quantization_config": settings}
    return folder_of(root, tensors, config)
