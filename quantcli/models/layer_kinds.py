"""Which layers attend to a window, where llama.cpp or mlx-lm has it built in: rows for the families' tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quantcli.models.layer_spellings import respelled
from quantcli.models.limits import MISCOMPUTED, Limit
from quantcli.models.stored import Stored

#: The period of windows, in config.json.
PERIOD = "sliding_window_pattern"


def every(period: int) -> Callable[[Stored], list[str]]:
    """Return `layer_types` where of so many layers the last attends to the whole context."""
    return lambda file: _kinds(period, file.trunk)


def _kinds(period: int, layers: int) -> list[str]:
    return ["sliding_attention" if (layer + 1) % period else "full_attention" for layer in range(layers)]


def _period_of(kinds: Sequence[Any]) -> int | None:
    """Return the period of `layer_types`; None where they have none."""
    period = kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds) + 1
    return period if kinds == _kinds(period, len(kinds)) else None


def stated_period(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the period that `layer_types` or transformers 5's `_sliding_window_pattern` says, for `mlx_config`.

    mlx-lm's classes know windows by `sliding_window_pattern` alone.

    >>> stated_period({"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]})
    {'sliding_window_pattern': 2}
    """
    kinds = respelled(config).get("layer_types", config.get("layer_types"))
    period = config.get(PERIOD, config.get(f"_{PERIOD}"))
    if isinstance(kinds, list):
        period = _period_of(kinds)
    return {PERIOD: period} if type(period) is int and period != config.get(PERIOD) else {}


#: Of classes of mlx-lm that know windows by their period alone.
NEEDS_PERIOD = Limit(
    "mlx",
    lambda h: not h.sliding_window or _period_of([*h.settings.texts("layer_types")]) is not None,
    "every n-th of layer_types, and no other, to be full_attention",
    fault=MISCOMPUTED,
)
