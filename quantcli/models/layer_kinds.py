"""Layers that attend to a window as llama.cpp or mlx-lm has them built in: rows for the families' tables."""

from collections.abc import Callable, Mapping
from typing import Any

from quantcli.models.keys import WINDOW_PATTERN
from quantcli.models.stored import Stored


def every(period: int) -> Callable[[Stored], list[str]]:
    """Return a function that makes `layer_types` in which the last of every `period` layers has full attention."""
    return lambda file: [
        "sliding_attention" if (layer + 1) % period else "full_attention" for layer in range(file.trunk)
    ]


#: `Architecture.mlx_unread` for a class of mlx-lm that supports windows only as a period.
ODD_PERIODS: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    WINDOW_PATTERN.name: lambda config: "sliding_window_pattern" not in config
}
