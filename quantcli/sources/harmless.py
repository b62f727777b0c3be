"""Quantizers' settings that do not affect the meaning of stored tensors, each with the reason.

A warning names the keys of `quantization_config` that no reader uses and that are not listed here. Sources: the
configuration classes of GPTQModel, AutoAWQ, AutoRound, compressed-tensors, bitsandbytes, Quark, HQQ, torchao, modelopt
and transformers.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.sources.noted import Noted, unread

#: The most settings that one message names.
MOST_NAMED = 12


@dataclass(frozen=True)
class Harmless:
    """Why a setting does not matter. values: the only values that do not matter; empty for all values."""

    reason: str
    values: tuple[Any, ...] = ()


SEARCH = Harmless("describes how codes were chosen, not what they mean")
MAKER = Harmless("names the tool that wrote the file")
RUNTIME = Harmless("describes how a runtime computes with the weights")
ACTIVATIONS = Harmless("concerns activations, which are not stored")
SHOWN = Harmless("the tensors show which modules are quantized")
STORED = Harmless("the tensors, or the settings stored with them, show it")
CACHE = Harmless("concerns the KV cache, which is not stored")

#: Patterns of dotted keys after `quantization_config.`, preceded by `quant_method:` if they apply to one tool -> why
#: they are harmless. The first match is used.
TABLE: dict[str, Harmless] = {
    "quant_method": Harmless("is read when the folder is opened"),
    **dict.fromkeys(
        (
            "autogptq_version", "autoround_version", "global_compression_ratio", "method", "producer*", "provider",
            "quant_mode", "quantization_status", "quantizer", "version", "*._version",
        ),
        MAKER,
    ),
    **dict.fromkeys(
        (
            "algo_config*", "amp", "batch_size", "damp_auto_increment", "damp_percent", "*dataset*", "enable_*",
            "gradient_accumulate_steps", "iters", "low_gpu_mem_usage", "lr", "meta", "meta.*", "minmax_lr",
            "model_file_base_name", "model_name_or_path", "model_seqlen", "mse", "nblocks", "nsamples", "pad_token_id",
            "parallel_packing", "pre_quantization_optimization*", "seqlen", "static_groups", "supported_types",
            "tokenizer", "true_sequential", "truncation", "*.enable_buffer_reuse", "*.max_input_numel", "*.observer",
            "*.observer_cls", "*.observer_kwargs", "*.observer_kwargs.*", "*.round_method", "*.scale_calculation_mode",
            "*.weight_quant_params.optimize",
        ),
        SEARCH,
    ),
    **dict.fromkeys(
        (
            "_load_in_4bit", "_load_in_8bit", "activation_scale_ub", "backend", "bnb_4bit_compute_dtype",
            "cache_block_outputs", "dequantize", "disable_exllama", "do_fuse", "exllama_config*", "fuse_max_seq_len",
            "llm_int8_*", "max_input_length", "modules_to_fuse", "offload*", "run_compressed", "use_cuda_fp16",
            "use_exllama", "*.offload_meta", "*.set_inductor_config", "*.target_device",
        ),
        RUNTIME,
    ),
    **dict.fromkeys(
        (
            "act_*", "activation_scheme", "*input_activations*", "*input_tensors*", "*output_activations*",
            "*output_tensors*", "softmax*", "super_bits", "super_group_size", "*.act_*",
        ),
        ACTIVATIONS,
    ),
    **dict.fromkeys(("export.kv_cache*", "export.min_kv_scale", "kv_cache*"), CACHE),
    **dict.fromkeys(
        (
            "block_name_to_quantize", "exclude", "exclude_modules", "ignore", "include_input_output_embeddings",
            "inside_layer_modules", "lm_head", "module_name_preceding_first_block", "modules_in_block_to_quantize",
            "modules_to_convert", "modules_to_not_convert", "quant_block_list", "quant_lm_head", "skip_modules",
            "to_quant_block_names", "untie_embedding_weights", "*.targets",
        ),
        SHOWN,
    ),
    **dict.fromkeys(
        (
            "bnb_4bit_quant_storage", "desc_act", "expert_dtype", "export.weight_merge_groups*", "fmt",
            "is_checkpoint_*_serialized", "pack_dtype", "quant_config", "quant_config.*", "quant_type", "quant_type.*",
            "quant_type_kwargs*", "scale_fmt", "sym", "*.scale_dtype", "*.scale_type", "*.weight.ch_axis",
            "*.weight.symmetric", "*.zero_point_type", "*.zp_dtype",
        ),
        STORED,
    ),
    "modelopt:config_groups.*": Harmless("quant_algo determines how weights are stored"),
    "*.weight.is_dynamic": Harmless("weights that are stored dense are read as stored"),
    **dict.fromkeys(
        ("bnb_4bit_quant_type", "bnb_4bit_use_double_quant"),
        Harmless("each weight's state is used; a difference causes a warning"),
    ),
    **dict.fromkeys(("sparsity_config.*", "transform_config.*"), Harmless("is refused if it changes weights")),
    **dict.fromkeys(
        ("awq_gemm_checkpoint", "is_marlin_format"), Harmless("states that the layout is not another one", (False,))
    ),
    "data_type": Harmless("states that codes are integers", ("int",)),
}  # fmt: skip


def harmless(method: str, path: str, value: Any) -> str | None:
    """Return why a setting of a `quant_method` does not affect the stored tensors; None if it may."""
    names = (f"{method}:{path}", path)
    row = next((row for pattern, row in TABLE.items() if any(fnmatch.fnmatchcase(n, pattern) for n in names)), None)
    return row.reason if row is not None and (not row.values or value in row.values) else None


def warnings(settings: Noted, label: str) -> list[str]:
    """Return a warning if there are settings that no reader uses and that may matter."""
    method = str(dict.get(settings, "quant_method"))
    odd = [path for path in unread(settings) if harmless(method, path, value_at(settings, path)) is None]
    if not odd:
        return []
    named = ", ".join(shown(path) for path in odd[:MOST_NAMED]) + (", ..." if len(odd) > MOST_NAMED else "")
    return [f"{label}/{settings.place}: settings that may affect the weights are ignored: {named}."]


def value_at(block: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path; in a list of objects, that of the first object with one. None without one."""
    for key in block:
        if path == key:
            return dict.get(dict(block), key)
        if path.startswith(f"{key}."):
            value = dict(block)[key]
            items = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, Mapping)]
            return next((found for item in items if (found := value_at(item, path[len(key) + 1 :])) is not None), None)
    return None
