"""GGUF keys that a folder can omit: they do not describe the model, or state that it lacks a part.

Each row has its reason. A key with listed values is harmless only with these; any other value is named in a warning.
Source: llama.cpp (src/llama-model.cpp, src/llama-context.cpp, src/models; src/llama-model-saver.cpp, which writes
nearly all keys for every architecture, with llama.cpp's defaults).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.models.stored import ZERO_IS_NONE, Stored

Holds = Callable[[Any, Stored], bool]


@dataclass(frozen=True)
class HarmlessKey:
    """The reason why a key may be omitted, and the values and files with which that holds."""

    reason: str
    holds: Holds


def is_close(value: Any, other: Any) -> bool:
    """Return whether two numbers are equal within the rounding errors of float32 and decimals (1e-6)."""
    both = isinstance(value, int | float) and isinstance(other, int | float)
    return both and math.isclose(value, other, rel_tol=1e-6)


def _any(value: Any, file: Stored) -> bool:
    return True


def _only(*values: Any) -> Holds:
    """Return a test for these values, or lists of one of them; numbers are compared within 1e-6."""

    def same(value: Any) -> bool:
        return any(
            type(value) is type(one)
            and (value == one or (isinstance(one, float) and math.isclose(value, one, rel_tol=1e-6)))
            for one in values
        )

    return lambda value, file: all(map(same, value)) if isinstance(value, list) else same(value)


def _rows(reason: str, holds: Holds, keys: Iterable[str]) -> dict[str, HarmlessKey]:
    return dict.fromkeys(keys, HarmlessKey(reason, holds))


def _is_not_granite(value: Any, file: Stored) -> bool:
    return file.every.values.get("general.architecture") != "granite"


def _is_unscaled(value: Any, file: Stored) -> bool:
    """Return whether positions are not scaled, so that the settings of scaling have no effect."""
    if not file.own.values.get("attention.head_count"):
        return True
    kind, factor = (file.own.values.get(f"rope.scaling.{key}") for key in ("type", "factor"))
    return kind == "none" or not (file.own.values.get("rope.scale_linear") if factor is None else factor)


def _is_not_yarn(value: Any, file: Stored) -> bool:
    return file.own.values.get("rope.scaling.type") != "yarn" or _is_unscaled(value, file)


def _is_set_aside(value: Any, file: Stored) -> bool:
    """Return whether the newer name of the key exists too, or positions are not scaled."""
    return file.own.has("rope.scaling.factor") or _is_unscaled(value, file)


def _has_own_keys(value: Any, file: Stored) -> bool:
    """Return whether a file describes a model with latent attention as older llama.cpp did, with keys for each head."""
    latent, split = (file.own.has(f"attention.{key}") for key in ("kv_lora_rank", "key_length_mla"))
    return latent and not split and value == file.own.values.get("attention.head_count")


def _has_no_windows(value: Any, file: Stored) -> bool:
    """Return whether no layer attends to a window; some architectures have one built in."""
    is_built_in = file.every.values.get("general.architecture") in ("exaone4", "gemma2")
    return not is_built_in and not file.own.has("attention.sliding_window")


ABSENT = "0 means that the model has no such part"
DEFAULT = "llama.cpp's default, which its model saver writes for every architecture"

#: Keys in the architecture's namespace, without its prefix.
GGUF_KEYS: Mapping[str, HarmlessKey] = (
    _rows(ABSENT, _only(0, 0.0), ZERO_IS_NONE)
    | _rows(ABSENT, _only(0, 0.0, False), (
        "activation.situ_linear_beta", "attention.clamp_kqv", "attention.compress_ratios",
        "attention.compress_rope_freq_base", "attention.decay_lora_rank", "attention.gate_lora_rank",
        "attention.group_norm_epsilon", "attention.group_norm_groups", "attention.iclr_lora_rank",
        "attention.indexer.block_size", "attention.indexer.head_count", "attention.indexer.key_length",
        "attention.indexer.kpool", "attention.indexer.local_blocks", "attention.indexer.top_k",
        "attention.indexer.types", "attention.key_length_mla", "attention.key_length_mla_swa",
        "attention.kv_lora_rank", "attention.kv_lora_rank_swa", "attention.layer_norm_epsilon",
        "attention.layer_norm_rms_epsilon", "attention.max_alibi_bias", "attention.output_group_count",
        "attention.output_lora_rank", "attention.output_scale", "attention.relative_buckets_count",
        "attention.shared_kv_layers", "attention.temperature_length", "attention.temperature_scale",
        "attention.value_length_mla", "attention.value_length_mla_swa", "attention.value_residual_mix_lora_rank",
        "attention.value_scale", "attn_res.block_size", "convnext.block_count", "convnext.embedding_length",
        "decoder_block_count", "dense_2_feat_in", "dense_2_feat_out", "dense_3_feat_in", "dense_3_feat_out",
        "embedding_length_out", "embedding_length_per_layer_input", "expert_chunk_feed_forward_length",
        "expert_feed_forward_length", "expert_latent_length", "expert_shared_count",
        "expert_shared_feed_forward_length", "expert_weights_norm", "experts_per_group", "hash_layer_count",
        "hrm.h_cycles", "hrm.l_cycles", "hrm.layers_per_stack", "hrm.prefix_lm", "hyper_connection.count",
        "hyper_connection.epsilon", "hyper_connection.low_rank", "hyper_connection.magnitude",
        "hyper_connection.sinkhorn_iterations", "interleave_moe_layer_step", "kda.head_dim", "kda.safe_gate",
        "leading_dense_block_count", "moe_every_n_layers", "moe_latent_size", "n_deepstack_layers",
        "nextn_predict_layers", "posnet.block_count", "posnet.embedding_length", "rescale_every_n_layers",
        "rope.dimension_sections", "rope.scaling.alpha", "rope.scaling.yarn_log_multiplier", "shortconv.l_cache",
        "ssm.conv_kernel", "ssm.dt_b_c_rms", "ssm.group_count", "ssm.inner_size", "ssm.state_size",
        "ssm.time_step_rank", "swiglu_clamp_exp", "swiglu_clamp_shexp", "swin_norm", "time_decay_extra_dim",
        "time_mix_extra_dim", "use_parallel_residual", "wkv.head_size",
    ))
    | _rows(DEFAULT, _only(1, 1.0, True), (
        "activation.situ_beta", "attention.causal", "attention.indexer.kpool_select_tail", "attention.rope_pattern",
        "rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor",
    ))
    | _rows(DEFAULT, _only(-1, -1.0), ("decoder_start_token_id", "deepstack_mapping", "rope.scaling.yarn_ext_factor"))
    | _rows(DEFAULT, _only(50.0, 0.0), ("attn_logit_softcapping",))
    | _rows(DEFAULT, _only(30.0, 0.0), ("final_logit_softcapping", "router_logit_softcapping"))
    | _rows(DEFAULT, _only(0.05, 0.0), ("expert_group_scale",))
    | _rows(DEFAULT, _only(2, 0), ("token_shift_count",))
    | _rows(DEFAULT, _only(-math.inf, 0.0), ("kda.gate_lower_bound",))
    | _rows("no layer is recurrent, or all are", _only(0, 1), ("attention.recurrent_layers",))
    | _rows("0 and 2**32 - 1 mean no pooling", _only(0, 2**32 - 1), ("pooling_type", "classifier.pooling_type"))
    | _rows("an empty list names no classes", lambda value, file: value == [], ("classifier.output_labels",))
    | _rows("llama.cpp uses it only for granite", _is_not_granite, ("rope.scaling.finetuned",))
    | _rows("records how the converter laid out tensors; llama.cpp does not read it", _any, ("tensor_data_layout",))
    | _rows("positions are not scaled", _is_unscaled, ("rope.scaling.factor", "rope.scaling.type"))
    | _rows("rope.scaling.factor replaces it, or positions are not scaled", _is_set_aside, ("rope.scale_linear",))
    | _rows("used only with YaRN", _is_not_yarn, (
        "rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    ))
    | _rows(
        "written before llama.cpp supported latent attention: every head has its own keys"
    , _has_own_keys, (
        "attention.head_count_kv"
    ,))
    | _rows(
        "no layer has a sliding window"
    , _has_no_windows, (
        "attention.sliding_window_pattern"
    , (
        "rope.freq_base_swa"
    )))
)  # fmt: skip


def is_harmless(key: str, value: Any, file: Stored) -> bool:
    """Return whether a file's key (without the architecture's prefix) may be omitted from config.json."""
    row = GGUF_KEYS.get(key)
    return row is not None and row.holds(value, file)


#: Keys of `general.*` that describe the file and its origin, or that are read elsewhere (`sampling`). A name includes
#: all keys that begin with it and a dot. No output needs them to compute the same.
GENERAL_KEYS = frozenset((
    "alignment", "architecture", "author", "base_model", "basename", "dataset", "datasets", "description", "doi",
    "file_type", "finetune", "languages", "license", "name", "organization", "parameter_count", "quantization_version",
    "quantized_by", "repo_url", "sampling", "size_label", "source", "tags", "tensor_extra", "type", "url", "uuid",
    "version",
))  # fmt: skip


def is_unknown(key: str) -> bool:
    """Return whether a key is in `general.*` and not in `GENERAL_KEYS`."""
    space, _, name = key.partition(".")
    return space == "general" and name.partition(".")[0] not in GENERAL_KEYS
