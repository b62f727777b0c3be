"""Tables of the keys of generation_config.json that GGUF has no key for and that change nothing.

Any key that is neither read nor in these tables is named in a warning.
Source: transformers' GenerationConfig (each key's effect and default).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.models.generation import SAMPLING

#: Keys that reach GGUF: sampling settings, and ids that the tokenizer reads.
READ = frozenset((*(key for key, _, _ in SAMPLING), "penalty_repeat", "eos_token_id", "suppress_tokens"))

_CALLER = "set by the program that generates text: length, speed and form of the result"
_OTHERS = "for a second model or an encoder, which a GGUF file does not contain"
_RECORD = "states the origin of the file"
_CHAT = "read by the model's custom code; the chat template contains the same text"

#: Key -> why GGUF does not need it.
HARMLESS: Mapping[str, str] = {
    "do_sample": "the program that generates text decides whether to sample",
    "bos_token_id": "the tokenizer's token is used",
    "pad_token_id": "the tokenizer's token is used",
    **dict.fromkeys(("transformers_version", "_from_model_config", "_commit_hash", "_name_or_path"), _RECORD),
    **dict.fromkeys(
        (
            "max_length", "max_new_tokens", "max_time", "use_cache", "use_mtp", "cache_implementation", "cache_config",
            "max_cache_len", "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores",
            "output_logits", "return_dict_in_generate", "compile_config", "disable_compile", "low_memory",
            "continuous_batching_config", "prefill_chunk_size", "remove_invalid_values", "trust_remote_code",
            "attn_implementation",
        ),
        _CALLER,
    ),
    **dict.fromkeys(
        (
            "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
            "assistant_early_exit", "assistant_lookbehind", "assistant_ensemble_weight", "target_lookbehind",
            "speculation_type", "prompt_lookup_num_tokens", "max_matching_ngram_size", "decoder_start_token_id",
            "encoder_no_repeat_ngram_size",
        ),
        _OTHERS,
    ),
    **dict.fromkeys(
        ("chat_format", "max_window_size", "stop_words_type", "user_token_id", "assistant_token_id"), _CHAT
    ),
}  # fmt: skip

#: Key -> the values that change nothing; null never does.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "early_stopping": (False,),
    "length_penalty": (1.0,),
    "diversity_penalty": (0.0,),
    "penalty_alpha": (0.0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "frequency_penalty": (0.0,),
    "presence_penalty": (0.0,),
    "typical_p": (1.0,),
    "top_h": (),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "encoder_repetition_penalty": (1.0,),
    "guidance_scale": (1.0,),
    "renormalize_logits": (False,),
    "token_healing": (False,),
    "stop_strings": ([], ""),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ({}, []),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "watermarking_config": (),
    "dola_layers": (),
}

#: The most keys in one warning.
MOST = 8


def dropped(generation: Mapping[str, Any], where: str) -> list[str]:
    """Return a warning that names the keys of generation_config.json that GGUF cannot store; [] if there are none."""
    lost = [key for key, value in generation.items() if not _is_known(key, value)]
    if not lost:
        return []
    names = ", ".join(f"{shown(key)[1:-1]} ({shown(generation[key])})" for key in lost[:MOST])
    more = f" and {len(lost) - MOST} more" if len(lost) > MOST else ""
    count = "1 generation setting" if len(lost) == 1 else f"{len(lost)} generation settings"
    return [f"{where}: GGUF has no keys for {count}: {names}{more}."]


def _is_known(key: str, value: Any) -> bool:
    return value is None or key in READ or key in HARMLESS or value in NEUTRAL.get(key, ())
