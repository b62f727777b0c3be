"""compressed-tensors and bitsandbytes quantize one matrix: what our encoders are held to.

python -m tests.peers.quantizers FILE     writes the goldens of tests/schemes/hf/test_encoding.py
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.schemes.hf.cases import CASES, DTYPES, matrix

FORMATS = {"mxfp4": "mxfp4-pack-quantized", "mxfp8": "mxfp8-quantized", "nvfp4": "nvfp4-pack-quantized"}


def arguments(name: str) -> tuple[dict[str, Any], str]:
    """compressed-tensors' arguments of a scheme, and its format."""
    kind, _, shared = name.rpartition("-")
    if name in FORMATS:
        bits, group = (8, 32) if name == "mxfp8" else (4, 16 if name == "nvfp4" else 32)
        dtype = "torch.float8_e4m3fn" if name == "nvfp4" else "torch.uint8"
        strategy = "tensor_group" if name == "nvfp4" else "group"
        found = {"num_bits": bits, "type": "float", "strategy": strategy, "group_size": group, "symmetric": True}
        return found | {"scale_dtype": dtype, "zp_dtype": dtype}, FORMATS[name]
    strategy = {"g": "group", "b": "block"}.get(shared[0], shared)
    found = {"strategy": strategy, "group_size": int(shared[1:]) if strategy == "group" else None}
    if strategy == "block":
        found |= {"block_structure": [128, 128]}
    if kind == "fp8-e4m3":
        return found | {"num_bits": 8, "type": "float", "symmetric": True}, "float-quantized"
    symmetric = kind.startswith("int") and kind != "int8-asym"
    packed = strategy == "group" or (strategy == "channel" and name != "int8-channel")
    bits = int("".join(c for c in kind if c.isdigit()))
    layout = "pack-quantized" if packed else "int-quantized"
    return found | {"num_bits": bits, "type": "int", "symmetric": symmetric}, layout


def blocks(x: Any, args: Any) -> Any:
    """The matrix as (1, rows of scales, columns of scales, values that share one), as its observers see it."""
    from compressed_tensors.quantization.utils import maybe_pad_tensor_for_block_quant

    if args.strategy == "tensor":
        return x.reshape(1, 1, -1)
    if args.strategy == "channel":
        return x.unsqueeze(-2).unsqueeze(0)
    if args.strategy == "block":
        high, wide = args.block_structure
        x = maybe_pad_tensor_for_block_quant(x, (high, wide))
        x = x.reshape(x.shape[0] // high, high, x.shape[1] // wide, wide)
        return x.transpose(1, 2).flatten(-2, -1).unsqueeze(0)
    return x.unflatten(-1, (-1, args.group_size)).unsqueeze(0)


def compressed(name: str, x: Any) -> tuple[dict[str, Any], Any]:
    """The tensors of a matrix by the min-max observer and `quantize`, and what the decompressor makes of them."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    given, layout = arguments(name)
    args = QuantizationArgs(**given)
    seen = blocks(x, args)
    low, high = torch.amin(seen, dim=(0, -1)), torch.amax(seen, dim=(0, -1))
    state = {"weight": x}
    whole = None
    if args.strategy == "tensor_group":
        most = torch.max(high.max(), -low.min()).reshape(1)
        whole = state["weight_global_scale"] = generate_gparam(-most, most)
    state["weight_scale"], state["weight_zero_point"] = calculate_qparams(low, high, args, global_scale=whole)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(layout)
    stored = compressor.compress(dict(state), scheme)
    return stored, compressor.decompress(dict(stored), scheme)["weight"]


def four_bits(name: str, x: Any) -> tuple[dict[str, Any], Any]:
    """The tensors of a matrix by bitsandbytes, and what it makes of them."""
    import torch
    from bitsandbytes import functional

    torch.set_num_threads(1)
    quant, block = name.partition("-")[0], int(name.rpartition("-g")[2])
    packed, state = functional.quantize_4bit(
        x, blocksize=block, compress_statistics="-double" in name, quant_type=quant
    )
    return {"weight": packed} | state.as_dict(packed=True), functional.dequantize_4bit(packed, state)


#: Their names of tensors -> our parts.
PARTS = {
    "weight": "weight", "weight_packed": "weight", "weight_scale": "scales", "weight_zero_point": "zeros",
    "weight_shape": "shape", "weight_global_scale": "global", "absmax": "absmax", "quant_map": "quant_map",
    "nested_absmax": "nested_absmax", "nested_quant_map": "nested_quant_map",
    "quant_state.bitsandbytes__nf4": "quant_state", "quant_state.bitsandbytes__fp4": "quant_state",
}  # fmt: skip


def raw(tensor: Any) -> bytes:
    import torch

    found: bytes = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return found


def quantized(name: str, dtype: str) -> tuple[dict[str, bytes], np.ndarray]:
    """Part -> its bytes, and the values, float32, of the test's matrix as a scheme."""
    import torch

    x = torch.from_numpy(matrix()).to({"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype])
    stored, values = (four_bits if name[:3] in ("nf4", "fp4") else compressed)(name, x)
    parts = {PARTS[key]: raw(tensor) for key, tensor in stored.items() if key in PARTS}
    return parts, values.float().numpy()


def main(path: Path) -> None:
    found: dict[str, dict[str, str]] = {}
    for name in CASES:
        for dtype in DTYPES:
            parts, values = quantized(name, dtype)
            parts = {part: data for part, data in parts.items() if part != "quant_state"}
            hashes = {part: hashlib.sha256(data).hexdigest()[:16] for part, data in sorted(parts.items())}
            values = (values + np.float32(0)).tobytes()
            found[f"{name} {dtype}"] = hashes | {"values": hashlib.sha256(values).hexdigest()[:16]}
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
