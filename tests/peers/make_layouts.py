"""Writes tests/data/layouts: two or three weights of each case as their owner stores them, with hashes of its values.

Needs torch 2.13, transformers, compressed-tensors, nvidia-modelopt 0.47, torchao 0.18 and optimum-quanto 0.2.7. Run
from the top of the checkout: python -m tests.peers.make_layouts [FOLDER]

truth.json: weight -> the SHA-256 of the float32 values that the owner's own dequantizer gives, as they are and without
negative zeros. Owners that are not installed are left out, aloud.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

DATA = Path(__file__).resolve().parent.parent / "data" / "layouts"
#: Weights that are kept of a model.
KEPT = ("layers.0.self_attn.k_proj.", "layers.0.mlp.down_proj.")
TINY = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip
Values = dict[str, torch.Tensor]


def hashes(values: torch.Tensor) -> list[str]:
    """Of the float32 bytes, and of those without negative zeros."""
    wide = values.detach().to(torch.float32).contiguous()
    return [hashlib.sha256(found.numpy().tobytes()).hexdigest() for found in (wide, wide + 0.0)]


def write(
    out: Path, tensors: Mapping[str, torch.Tensor], truth: Mapping[str, torch.Tensor], config: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: one.contiguous() for name, one in tensors.items()}, out / "model.safetensors", dict(metadata or {})
    )
    (out / "config.json").write_text(json.dumps(dict(config)) + "\n")
    (out / "truth.json").write_text(json.dumps({name: hashes(one) for name, one in truth.items()}, indent=1) + "\n")


def tiny() -> Any:
    """A llama of one layer, bfloat16."""
    import transformers

    torch.manual_seed(7)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(architectures=["LlamaForCausalLM"], **TINY))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.05)
    return model.to(torch.bfloat16).eval()


def stored(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the settings of an exported folder."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    for key in ("_name_or_path", "transformers_version"):
        config.pop(key, None)
    return load_file(folder / "model.safetensors"), config


# modelopt: its own export, its own classes of quantized tensors.

MODELOPT = {
    "modelopt-fp8-channel": "FP8_PER_CHANNEL_PER_TOKEN_CFG", "modelopt-fp8-block": "FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG",
    "modelopt-mxfp8": "MXFP8_DEFAULT_CFG", "modelopt-mxfp4": "W4A8_MXFP4_FP8_CFG",
    "modelopt-int8": "INT8_WEIGHT_ONLY_CFG", "modelopt-nvfp4-g32": "W4A8_NVFP4_FP8_CFG", "modelopt-mixed": None,
}  # fmt: skip


def modelopt_recipe(name: str | None) -> dict[str, Any]:
    """A configuration of modelopt; without a name FP8, with down_proj in NVFP4, k_proj in MXFP8."""
    import modelopt.torch.quantization as mtq

    if name is not None:
        return copy.deepcopy(getattr(mtq, name))
    recipe = copy.deepcopy(mtq.FP8_DEFAULT_CFG)
    for other, module in ((mtq.NVFP4_DEFAULT_CFG, "down_proj"), (mtq.MXFP8_DEFAULT_CFG, "k_proj")):
        for entry in other["quant_cfg"]:
            if entry.get("quantizer_name") in ("*weight_quantizer", "*input_quantizer"):
                recipe["quant_cfg"].append({**entry, "quantizer_name": f"*{module}{entry['quantizer_name']}"})
    return recipe


def modelopt_values(tensors: Mapping[str, torch.Tensor], module: str) -> torch.Tensor:
    """What modelopt's own class makes of a module's arrays, in bfloat16."""
    from modelopt.torch.quantization import qtensor
    from modelopt.torch.quantization.qtensor.int8_tensor import INT8QTensor

    weight, scale = tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"]
    shape, dtype = weight.shape, torch.bfloat16
    if weight.dtype == torch.uint8:
        shape = torch.Size([shape[0], 2 * shape[1]])
        blocks = {-1: shape[1] // scale.shape[-1]}
        if scale.dtype == torch.uint8:
            return qtensor.MXFP4QTensor(shape, dtype, weight).dequantize(scale=scale, block_sizes=blocks)
        double = tensors[f"{module}.weight_scale_2"]
        made = qtensor.NVFP4QTensor(shape, dtype, weight)
        return made.dequantize(scale=scale, double_scale=double, block_sizes=blocks)
    if scale.dtype == torch.uint8:
        return qtensor.MXFP8QTensor(shape, dtype, weight).dequantize(scale=scale)
    if weight.dtype == torch.int8:
        return INT8QTensor(shape, dtype, weight).dequantize(scale=scale[:, None])
    made = qtensor.FP8QTensor(shape, dtype, weight)
    if scale.dim() == 4:
        return made.dequantize(scale=scale[:, 0, :, 0], block_sizes={-1: 128, -2: 128})
    return made.dequantize(scale=scale[:, None] if scale.dim() == 1 else scale)


def modelopt(root: Path) -> None:
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    ids = torch.arange(32).reshape(1, 32)
    for case, name in MODELOPT.items():
        kept = (*KEPT, "q_proj.") if name is None else KEPT
        # The fake quantizers of NVFP4 need CUDA: weights are rounded in the export.
        run = None if name is None or "NVFP4" in name else (lambda model: model(ids))
        model = mtq.quantize(tiny(), modelopt_recipe(name), run)
        with tempfile.TemporaryDirectory() as folder:
            export_hf_checkpoint(model, export_dir=folder)
            tensors, config = stored(Path(folder))
        tensors = {name: one for name, one in tensors.items() if any(part in name for part in kept)}
        modules = [name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale")]
        truth = {f"{module}.weight": modelopt_values(tensors, module) for module in sorted(modules)}
        write(root / case, tensors, truth, config, {"format": "pt"})


# transformers: FP8 with scales of blocks, whatever they are called.


def transformers_fp8(root: Path) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    dequantize = Fp8Dequantize(None)._dequantize_one
    generator = torch.Generator().manual_seed(11)

    def codes(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 40).to(torch.float8_e4m3fn)

    def powers(*shape: int) -> torch.Tensor:
        return torch.randint(110, 125, shape, generator=generator, dtype=torch.uint8)

    def floats(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator) * 0.01

    def fp4(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).view(torch.int8)

    e8m0 = torch.float8_e8m0fnu
    down, key = "model.layers.0.mlp.down_proj", "model.layers.0.self_attn.k_proj"
    experts, v4 = "model.layers.0.mlp.experts", "layers.0"
    fp8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
    mx = {"quant_method": "mxfp8", "activation_scheme": "dynamic", "weight_block_size": [1, 32], "scale_fmt": "ue8m0"}
    # Each tensor with the suffix of its scales.
    cases: dict[str, tuple[dict[str, tuple[torch.Tensor, str, torch.Tensor]], dict[str, Any]]] = {
        "mxfp8": (
            {
                f"{down}.weight": (codes(64, 160), "weight_scale_inv", powers(64, 5)),
                f"{key}.weight": (codes(32, 64), "weight_scale_inv", powers(32, 2)),
            },
            {"quantization_config": {**mx, "ignored_layers": ["lm_head", "model.embed_tokens"]}},
        ),
        "fp8-stacked": (
            {
                f"{experts}.gate_up_proj.weight": (codes(3, 64, 96), "weight_scale_inv", floats(3, 2, 3)),
                f"{experts}.down_proj.weight": (codes(3, 96, 32), "weight_scale_inv", floats(3, 3, 1)),
            },
            {"quantization_config": fp8},
        ),
        "deepseek-v4": (
            {
                f"{v4}.attn.wq_a.weight": (codes(64, 96), "scale", powers(2, 3).view(e8m0)),
                f"{v4}.engram.embed.weight": (codes(5, 96), "scale", powers(5, 3).view(e8m0)),
                f"{v4}.ffn.experts.0.w1.weight": (fp4(32, 48), "scale", powers(32, 3).view(e8m0)),
                f"{v4}.ffn.experts.0.w2.weight": (fp4(96, 16), "scale", powers(96, 1).view(e8m0)),
            },
            {"expert_dtype": "fp4", "quantization_config": {**fp8, "fmt": "e4m3", "scale_fmt": "ue8m0"}},
        ),
    }
    for case, (weights, settings) in cases.items():
        tensors: Values = {}
        for name, (weight, suffix, scale) in weights.items():
            tensors |= {name: weight, f"{name.removesuffix('.weight')}.{suffix}": scale}
        if case == "deepseek-v4":
            tensors[f"{v4}.ffn.gate.tid2eid"] = torch.randint(0, 4, (64, 2), generator=generator, dtype=torch.int32)
            tensors[f"{v4}.hc_attn_scale"] = floats(3)
        truth = {name: dequantize(weight, scale, torch.bfloat16) for name, (weight, _, scale) in weights.items()}
        write(root / case, tensors, truth, {"model_type": "part", "dtype": "bfloat16", **settings}, {"format": "pt"})


def compressed_tensors(root: Path) -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    layout = "mxfp6-pack-quantized"
    weights = {
        "num_bits": 6, "type": "float", "strategy": "group", "group_size": 32, "symmetric": True, "dynamic": False,
        "scale_dtype": "torch.uint8",
    }  # fmt: skip
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights), format=layout)
    compressor = BaseCompressor.get_value_from_registry(layout)
    tensors, truth = {}, {}
    torch.manual_seed(13)
    for module, shape in (("model.layers.0.mlp.down_proj", (64, 160)), ("model.layers.0.self_attn.k_proj", (32, 64))):
        weight = torch.randn(shape, dtype=torch.bfloat16)
        largest = weight.float().reshape(shape[0], -1, 32).abs().amax(-1)
        scale = torch.exp2(torch.floor(torch.log2(largest)) - 2).to(torch.bfloat16)
        packed = compressor.compress({"weight": weight, "weight_scale": scale}, scheme)
        tensors |= {f"{module}.{name}": one for name, one in packed.items()}
        truth[f"{module}.weight"] = compressor.decompress(dict(packed), scheme)["weight"]
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    settings = {
        "quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group},
        "ignore": ["lm_head"], "quantization_status": "compressed",
    }  # fmt: skip
    config = {"model_type": "part", "dtype": "bfloat16", "quantization_config": settings}
    write(root / "ct-mxfp6", tensors, truth, config, {"format": "pt"})
    module, layout = "model.layers.0.mlp.experts.up_proj", "float-quantized"
    weights = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
    codes = (torch.randn(3, 32, 96) * 40).to(torch.float8_e4m3fn)
    scale = torch.rand(3, 32, 1, dtype=torch.bfloat16) * 0.01
    values = dequantize(codes, scale, args=QuantizationArgs(**weights))
    settings |= {"format": layout, "config_groups": {"group_0": {**group, "weights": weights}}}
    tensors = {f"{module}.weight": codes, f"{module}.weight_scale": scale}
    write(root / "ct-fp8-stacked", tensors, {f"{module}.weight": values}, config, {"format": "pt"})


def torchao(root: Path) -> None:
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import (
        Float8Tensor,
        Int8Tensor,
        IntxUnpackedToInt8Tensor,
        MappingType,
        PerBlock,
        PerRow,
        PerTensor,
    )

    down, key = "model.layers.0.mlp.down_proj.weight", "model.layers.0.self_attn.k_proj.weight"
    torch.manual_seed(17)
    dense = {down: torch.randn(64, 160, dtype=torch.bfloat16), key: torch.randn(32, 64, dtype=torch.bfloat16)}
    stacked = {"model.layers.0.mlp.experts.gate_up_proj": torch.randn(3, 32, 64, dtype=torch.bfloat16)}
    intx = IntxUnpackedToInt8Tensor.from_hp
    asymmetric = {"mapping_type": MappingType.ASYMMETRIC}
    makers: dict[str, tuple[Values, Callable[[torch.Tensor], Any]]] = {
        "torchao-float8-row": (dense, lambda w: Float8Tensor.from_hp(w, granularity=PerRow())),
        "torchao-float8-tensor": (dense, lambda w: Float8Tensor.from_hp(w, granularity=PerTensor())),
        "torchao-float8-block": (dense, lambda w: Float8Tensor.from_hp(w, granularity=PerBlock([32, 32]))),
        "torchao-float8-e5m2": (dense, lambda w: Float8Tensor.from_hp(w, torch.float8_e5m2, PerRow())),
        "torchao-float8-stacked": (stacked, lambda w: Float8Tensor.from_hp(w, granularity=PerRow())),
        "torchao-intx4": (dense, lambda w: intx(w, (1, 32), torch.int4)),
        "torchao-intx4-asym": (dense, lambda w: intx(w, (1, 32), torch.int4, **asymmetric)),
        "torchao-intx3-row": (dense, lambda w: intx(w, (1, w.shape[1]), torch.int3)),
        "torchao-intx8": (dense, lambda w: intx(w.float(), (1, 32), torch.int8, **asymmetric)),
        "torchao-int8-asym": (dense, lambda w: Int8Tensor.from_hp(w, PerRow(), mapping_type=MappingType.ASYMMETRIC)),
    }
    settings = {"quant_method": "torchao", "modules_to_not_convert": ["lm_head"], "quant_type": {"default": {}}}
    config = {"model_type": "part", "dtype": "bfloat16", "quantization_config": settings}
    for case, (weights, make) in makers.items():
        made = {name: make(weight) for name, weight in weights.items()}
        tensors, metadata = flatten_tensor_state_dict(made)
        truth = {name: one.dequantize() for name, one in made.items()}
        write(root / case, tensors, truth, config, {**metadata, "format": "pt"})


def optimum_quanto(root: Path) -> None:
    from optimum.quanto import (
        QuantizedModelForCausalLM,
        freeze,
        qfloat8,
        qint2,
        qint4,
        qint8,
        quantization_map,
        quantize,
    )

    for case, kind, dtype in (
        ("quanto-qint8", qint8, torch.bfloat16), ("quanto-qfloat8", qfloat8, torch.float16),
        ("quanto-qint4", qint4, torch.bfloat16), ("quanto-qint2", qint2, torch.float32),
    ):  # fmt: skip
        model = tiny().to(dtype)
        quantize(model, weights=kind, exclude="lm_head")
        freeze(model)
        truth = {
            f"{name}.weight": module.weight.dequantize()
            for name, module in model.named_modules()
            if name in quantization_map(model)
        }
        with tempfile.TemporaryDirectory() as folder:
            QuantizedModelForCausalLM(model)._save_pretrained(Path(folder))
            tensors, config = stored(Path(folder))
            qmap = (Path(folder) / "quanto_qmap.json").read_text()
        write(root / case, tensors, truth, config, {"format": "pt"})
        (root / case / "quanto_qmap.json").write_text(qmap)


OWNERS = {
    "modelopt": modelopt, "transformers": transformers_fp8, "compressed_tensors": compressed_tensors,
    "torchao": torchao, "optimum": optimum_quanto,
}  # fmt: skip


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    for module, make in OWNERS.items():
        if importlib.util.find_spec(module) is None:
            print(f"{module} is not installed: its cases are left as they are", file=sys.stderr)
            continue
        make(root)


if __name__ == "__main__":
    main()
