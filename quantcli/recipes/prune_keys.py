"""Metadata about single layers, and how it changes when layers are pruned.

llama-quantize changes only `block_count`, so that remaining layers get the values of others, or the file does not load.
Source: llama.cpp (src/llama-arch.cpp, src/llama-hparams.cpp, load_arch_hparams in src/models).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.containers.gguf_values import ArrayValue
from quantcli.containers.hostile import shown
from quantcli.models.keys import RECURRENT

#: Keys of an architecture that may hold one value for each layer.
PER_LAYER = (
    "attention.compress_ratios", "attention.head_count", "attention.head_count_kv", "attention.indexer.types",
    "attention.recurrent_layers", "attention.rope_pattern", "attention.sliding_window_pattern", "expert_count",
    "activation_sparsity_scale", "deepstack_mapping", "expert_feed_forward_length", "expert_used_count",
    "feed_forward_length", "swiglu_clamp_exp", "swiglu_clamp_shexp", "xielu.alpha_n", "xielu.alpha_p", "xielu.beta",
    "xielu.eps",
)  # fmt: skip
#: Those of these keys that do not have the architecture's prefix.
UNPREFIXED = ("xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps")

#: Lists that do not have a value for each layer, whatever their length.
OTHER_LISTS = ("rope.dimension_sections", "classifier.output_labels", "ple.head_offsets", "ple.head_vocab_sizes")

#: Keys that count layers from the first on, and from the last back.
LEADING = ("leading_dense_block_count", "hash_layer_count", "decoder_block_count")
TRAILING = ("attention.shared_kv_layers",)

NEXTN = "nextn_predict_layers"

#: Keys whose values are layer numbers, or refer to another file.
UNCHANGED = ("n_deepstack_layers", "target_layers", "ple.layers")


@dataclass(frozen=True)
class Period:
    """Layers of one kind that recur every `step` layers: the last of each group, or the one at `at`.

    key: the key that gives another step. array: the key that gives the kind of each layer instead. window: whether the
    period applies only to files with a sliding window.
    """

    step: int
    at: int = -1
    key: str | None = None
    array: str | None = None
    window: bool = False


_PATTERN = "attention.sliding_window_pattern"


def _windows(step: int, at: int = -1, *, window: bool = False) -> Period:
    return Period(step, at, _PATTERN, _PATTERN, window)


#: Architecture -> its periods. A step of 0: only if the key gives one.
PERIODS: Mapping[str, tuple[Period, ...]] = {
    **dict.fromkeys(("cohere2", "exaone-moe", "muse-glimmer"), (_windows(4),)),
    **dict.fromkeys(("afmoe", "exaone4", "mellum", "olmo2"), (_windows(4, window=True),)),
    **dict.fromkeys(("gemma2", "gpt-oss"), (_windows(2),)),
    "gemma3": (_windows(6, window=True),),
    "gemma-embedding": (_windows(6),),
    "gemma3n": (_windows(5),),
    "plamo3": (_windows(8, window=True),),
    "cohere2moe": (_windows(4, 0),),
    "modern-bert": (_windows(3, 0, window=True),),
    "smallthinker": (_windows(4, 0, window=True),),
    "llama4": (_windows(4), Period(0, key="interleave_moe_layer_step")),
    "ernie4_5-moe": (Period(0, key="interleave_moe_layer_step"),),
    "smollm3": (Period(4),),
    "minimax-01": (Period(8, key="full_attention_interval"),),
    **dict.fromkeys(
        ("qwen35", "qwen35moe", "qwen3next", "qwen4exp"),
        (Period(4, key="full_attention_interval", array=RECURRENT),),
    ),
    **dict.fromkeys(("nomic-bert", "nomic-bert-moe"), (Period(0, 1, key="moe_every_n_layers"),)),
}

Typed = Mapping[str, tuple[str, Any]]


def cut(
    keys: Typed, architecture: str, pruned: Collection[int], moved: Mapping[int, int], mtp: int
) -> tuple[dict[str, tuple[str, Any]], list[str]]:
    """Return the keys that change when layers are pruned, and warnings about what keys cannot express.

    keys: all keys of the source. pruned: the pruned layers. moved, mtp: as in `prune.Pruned`.
    """
    own = {key: typed for name in PER_LAYER for key, typed in _named(keys, architecture, name)}
    changed: dict[str, tuple[str, Any]] = {
        key: (kind, _without(value, pruned)) for key, (kind, value) in own.items() if _is_list(value)
    }
    prefix = f"{architecture}."
    total = _number(keys, f"{prefix}block_count")
    for name in (*LEADING, *TRAILING):
        for key, (kind, count) in _named(keys, architecture, name):
            if type(count) is int:
                counted = (n for n in pruned if (n < count if name in LEADING else n >= total - count))
                changed[key] = (kind, count - sum(1 for _ in counted))
    if f"{prefix}{NEXTN}" in keys:
        changed[f"{prefix}{NEXTN}"] = (keys[f"{prefix}{NEXTN}"][0], mtp)
    return changed, _warnings(keys, architecture, moved, total)


def _named(keys: Typed, architecture: str, name: str) -> list[tuple[str, tuple[str, Any]]]:
    full = name if name in UNPREFIXED else f"{architecture}.{name}"
    return [(full, keys[full])] if full in keys else []


def _is_list(value: Any) -> bool:
    return isinstance(value, ArrayValue | list | tuple)


def _without(value: Any, pruned: Collection[int]) -> list[Any]:
    values = value.decode() if isinstance(value, ArrayValue) else value
    return [entry for layer, entry in enumerate(values) if layer not in pruned]


def _number(keys: Typed, key: str) -> int:
    value = keys.get(key, ("", 0))[1]
    return value if type(value) is int else 0


def _warnings(keys: Typed, architecture: str, moved: Mapping[int, int], total: int) -> list[str]:
    """Return a warning for each key that is kept although it may no longer fit, and for each broken period."""
    prefix = f"{architecture}."
    warnings = []
    known = {f"{prefix}{name}" for name in (*PER_LAYER, *OTHER_LISTS)}
    for key, (_, value) in keys.items():
        if key in {f"{prefix}{name}" for name in UNCHANGED}:
            warnings.append(f"--prune-layers: key {key} refers to layers of the source and is kept unchanged.")
        elif key.startswith(prefix) and key not in known and _length(value) == total > 0:
            warnings.append(
                f"--prune-layers: key {shown(key)} has as many values as the model has layers ({total}) and is kept "
                "unchanged."
            )
    for period in PERIODS.get(architecture, ()):
        step, where = _step(keys, prefix, period)
        if step > 1 and any(_is_one(new, step, period) != _is_one(old, step, period) for old, new in moved.items()):
            warnings.append(
                f"--prune-layers: one in every {step} layers of {architecture} differs from the others ({where}); the "
                "remaining layers no longer fit that pattern."
            )
    return warnings


def _length(value: Any) -> int | None:
    return value.length if isinstance(value, ArrayValue) else len(value) if isinstance(value, list | tuple) else None


def _step(keys: Typed, prefix: str, period: Period) -> tuple[int, str]:
    """Return how often a layer of the kind recurs, and the source of that number.

    0 if the file gives the kind of each layer, or no step.
    """
    if period.array is not None and _is_list(keys.get(f"{prefix}{period.array}", ("", 0))[1]):
        return 0, ""
    if period.window and not _number(keys, f"{prefix}attention.sliding_window"):
        return 0, ""
    stated = _number(keys, f"{prefix}{period.key}") if period.key else 0
    return (stated, f"{prefix}{period.key}") if stated else (period.step, "built into llama.cpp")


def _is_one(layer: int, step: int, period: Period) -> bool:
    """Return whether a layer is the one of its group that differs."""
    return layer % step == period.at % step
