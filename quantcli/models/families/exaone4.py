"""The exaone4 architecture: norms after attention and MLP, and per head on q and k.

Source: llama.cpp's conversion of Exaone4ForCausalLM.
"""

from collections.abc import Mapping
from typing import Any

from quantcli.containers.json_text import LONGEST, Reader
from quantcli.models.base import EVERY_KIND, Architecture
from quantcli.models.decoder import POST_NORMS, decoder
from quantcli.models.families.llama import ROPE_FREQS
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import SLIDING_WINDOW, VOCAB_SIZE, WINDOW_PATTERN, Key, pattern_of_windows
from quantcli.models.limits import square
from quantcli.models.stored import Setting, Stored, kinds_of_layers
from quantcli.tokenizers import conventions


def _kinds(config: Reader) -> list[str] | None:
    """Return `layer_types` from a config's pattern: a string of L and G, or the period of layers that attend to all."""
    if not config.has("sliding_window"):
        return None
    pattern = config.values.get("sliding_window_pattern")
    if not isinstance(pattern, str) or not pattern:
        pattern = "L" * (config.integer("sliding_window_pattern", 4, most=LONGEST) - 1) + "G"
    layers = config.integer("num_hidden_layers", most=LONGEST)
    return ["sliding_attention" if pattern[i % len(pattern)] == "L" else "full_attention" for i in range(layers)]


def _windows(hyperparameters: Hyperparameters) -> tuple[bool, ...] | None:
    return pattern_of_windows(hyperparameters) if hyperparameters.sliding_window else None


def _layer_types(file: Stored) -> Any:
    """Return `layer_types`; without a window every layer attends to all."""
    return kinds_of_layers(file) if file.own.has(SLIDING_WINDOW.name) else ["full_attention"] * file.trunk


def _pattern(file: Stored) -> str | None:
    """Return the pattern that mlx-lm reads, a letter for each layer."""
    windows = file.windows()
    return "".join("L" if window else "G" for window in windows) or None


def _mlx_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that mlx-lm's class requires and transformers' does not: head_dim, the pattern as letters."""
    made: dict[str, Any] = {}
    hidden, heads, pattern = (config.get(k) for k in ("hidden_size", "num_attention_heads", "sliding_window_pattern"))
    if config.get("head_dim") is None and type(hidden) is type(heads) is int and heads > 0:
        made["head_dim"] = hidden // heads
    if type(pattern) is int and 0 < pattern <= LONGEST:
        made["sliding_window_pattern"] = "L" * (pattern - 1) + "G"
    return made


EXAONE4 = Architecture(
    name="exaone4",
    gguf="exaone4",
    model_types={
        "exaone4": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "num_key_value_heads": 32,
            "sliding_window": 4096,
            "layer_types": _kinds,
        }
    },
    tensors=decoder(norms=POST_NORMS, qk_norm=True),
    mtp=(),
    computed=(ROPE_FREQS,),
    further=(VOCAB_SIZE, SLIDING_WINDOW, Key(WINDOW_PATTERN.name, WINDOW_PATTERN.type, _windows)),
    classes={"exaone4": "Exaone4ForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("head_dim", lambda file: file.head_dim),
        Setting("layer_types", _layer_types),
        Setting("sliding_window", lambda file: file.own.optional_integer("attention.sliding_window")),
        Setting("sliding_window_pattern", _pattern),
    ),
    vocabulary=conventions.EXAONE4,
    limits=square("gguf"),
    mlx_scaling=EVERY_KIND,
    mlx_nulls=("rope_scaling", "sliding_window", "sliding_window_pattern"),
    mlx_config=_mlx_config,
)
