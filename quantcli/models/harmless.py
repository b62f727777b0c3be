"""Keys of config.json that do not change what a model computes, each with the reason.

A key that neither a GGUF file converted from config.json has nor this table lists is named in a warning (see
`round_trip`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from quantcli.models.layer_spellings import repeats

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Harmless:
    """The reason why a key changes nothing. when: the configs (with defaults) for which that holds; None: all."""

    reason: str
    when: Callable[[Config], bool] | None = None


#: The most keys in a row's path.
DEEPEST = 4


def _has_no_window(config: Config) -> bool:
    """Return whether no layer has a window shorter than the context."""
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    return not window or (isinstance(window, int) and isinstance(context, int) and window >= context)


def _is_switched_off(config: Config) -> bool:
    return config.get("use_sliding_window") is False


def _scaling(config: Config) -> Config:
    """Return the settings of rope scaling, under either name."""
    settings = config.get("rope_scaling") or config.get("rope_parameters")
    return settings if isinstance(settings, Mapping) else {}


def _has_dynamic_scaling(config: Config) -> bool:
    """Return whether the rotary base grows with the text, for which yarn's settings are not used."""
    scaling = _scaling(config)
    return bool(scaling.get("rope_type", scaling.get("type")) == "dynamic")


def _has_no_mscale(config: Config) -> bool:
    """Return whether a rope scaling does not use `mscale`."""
    return _has_dynamic_scaling(config) or _scaling(config).get("mscale_all_dim") is None


TRAINING = Harmless("used only in training")
OUTPUTS = Harmless("selects what a Python call returns, not what is computed")
CACHE = Harmless("selects a runtime's cache or kernel")
SAMPLING = Harmless("a default of text generation, replaced by generation_config.json")
LABELS = Harmless("for classifiers, which quant does not support")
FILE = Harmless("describes the file or its makers")
STORAGE = Harmless("describes the layout of the weights and is read with them")
TOKENIZER = Harmless("read with the tokenizer")
CALCULATION = Harmless("selects how the same result is computed")
OTHER_MODELS = Harmless("for encoders and encoder-decoders, which quant does not support")
HEAD = Harmless("checked against the tensors, which show whether an output matrix is stored")
WINDOW = Harmless("lists the layers with a sliding window; no layer has one", _has_no_window)

#: Row -> the keys of config.json that it applies to.
_KEYS = {
    TRAINING: """
        attention_dropout attention_probs_dropout_prob attn_pdrop aux_loss_alpha classifier_dropout embd_pdrop
        embedding_dropout ep_size gradient_checkpointing hidden_dropout hidden_dropout_prob initializer_range
        input_jitter_noise load_balance_coeff max_sequence_length moe_capacity output_router_logits
        rescale_prenorm_residual resid_pdrop
        residual_dropout router_aux_loss_coef router_jitter_noise router_z_loss_coef seq_aux time_step_floor
        rope_parameters.finetuned rope_scaling.finetuned
        time_step_init_scheme time_step_max time_step_min time_step_scale
    """,
    OUTPUTS: "output_attentions output_hidden_states return_dict torchscript",
    CACHE: """
        _attn_implementation _attn_implementation_autoset _attn_implementation_internal _experts_implementation
        attn_implementation cache_implementation experts_implementation fused_add_norm use_associative_scan
        use_bfloat16 use_cache use_flash_attn use_mambapy
    """,
    SAMPLING: """
        bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
        exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length
        max_new_tokens min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores
        remove_invalid_values repetition_penalty return_dict_in_generate suppress_tokens temperature top_k top_p
        typical_p
    """,
    LABELS: "finetuning_task id2label label2id num_labels problem_type task_specific_params",
    FILE: """
        _commit_hash _name_or_path architectures auto_map dtype model_file model_type torch_dtype
        transformers.js_config transformers_version unsloth_fixed unsloth_version
    """,
    Harmless("a setting of yarn; the model uses another scaling", _has_dynamic_scaling): """
        rope_scaling.beta_fast rope_scaling.beta_slow rope_scaling.mscale_all_dim
    """,
    Harmless("a setting of yarn, used only with mscale_all_dim", _has_no_mscale): """
        rope_parameters.mscale rope_scaling.mscale
    """,
    STORAGE: "compression_config quantization quantization_config",
    Harmless("used only if the tokenizer's files name no such token"): "_pad_token_id bos_token_id pad_token_id",
    Harmless("lists the layers of the tower; GGUF stores their number"): "deepstack_visual_indexes",
    TOKENIZER: "eod_token_id eos_token_id pad_vocab_size_multiple sep_token_id tokenizer_class vocab_size",
    CALCULATION: """
        attention_softmax_in_fp32 chunk_size_feed_forward pretraining_tp scale_attention_softmax_in_fp32
        use_parallel_embedding
    """,
    OTHER_MODELS: """
        add_cross_attention cross_attention_hidden_size decoder_start_token_id is_decoder is_encoder_decoder prefix
        pruned_heads tf_legacy_loss tie_encoder_decoder
    """,
    Harmless("repeats another key; no class reads it"): "experts_per_token initial_context_length",
    HEAD: "tie_word_embeddings use_embedding_sharing",
    Harmless("used only with use_cla", lambda config: not config.get("use_cla")): "cla_share_factor",
    WINDOW: "max_window_layers sliding_window use_sliding_window",
    Harmless("counts layers for multi-token prediction, which are not needed to predict the next token"): """
        mtp_num_hidden_layers mtp_transformer_layers num_mtp_modules num_nextn_predict_layers use_mtp
    """,
    Harmless(
        "layer_types replaces it, or no layer has a sliding window",
        lambda config: config.get("layer_types") is not None or _has_no_window(config),
    ): "sliding_window_pattern",
    Harmless("another name of layer_types, with the same kinds of layers", repeats): "layers_block_type",
    Harmless("computed from sliding_window_pattern"): "_sliding_window_pattern",
    Harmless(
        "a short form of indexer_types"
    ): "index_skip_topk_offset index_topk_freq index_topk_pattern",
}  # fmt: skip

#: Rows for the tables of families whose class reads use_sliding_window.
SWITCHED = dict.fromkeys(
    ("max_window_layers", "sliding_window", "sliding_window_pattern", "use_sliding_window"),
    Harmless("lists the layers with a sliding window; no layer has one (use_sliding_window)", _is_switched_off),
)

#: Key of config.json -> why it changes nothing. A path (`block.key`) is a key in a nested object; a row for an object
#: applies to all of its keys.
CONFIG_KEYS: dict[str, Harmless] = {key: row for row, keys in _KEYS.items() for key in keys.split()}

#: Key of config.json -> the value with which it changes nothing, if no table has the key.
NEUTRAL: dict[str, Any] = {
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "attention_bias": False,
    "bias": False,
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "rotary_scaling_factor": 1,
    "is_llama_config": True,
    "lm_head_bias": False,
    "mlp_bias": False,
    "qk_layernorm": False,
    "shared_expert_intermediate_size": 0,
    "qkv_bias": False,
    "rope_interleaved": False,
    "use_bias": False,
    "use_mrope": False,
    "use_qk_norm": False,
    "use_qkv_bias": False,
    "use_sliding_window": False,
}


def harmless(path: str, config: Config, own: Mapping[str, Harmless] = MappingProxyType({})) -> str | None:
    """Return the reason why a key of config.json changes nothing, None if it may change something.

    path: the key, after the keys of the objects that contain it. config: with its class's defaults. own: the family's
    rows, by complete path.
    """
    keys = path.split(".", DEEPEST)[:DEEPEST]
    general = (CONFIG_KEYS.get(".".join(keys[:count])) for count in range(1, len(keys) + 1))
    rows = (row for row in (own.get(path), *general) if row is not None)
    return next((row.reason for row in rows if row.when is None or row.when(config)), None)
