"""Which layers attend to a window, where llama.cpp or mlx-lm has it built in: rows for the families' tables."""

from collections.abc import Callable, Mapping
from typing import Any

from quantcli.models.keys import WINDOW_PATTERN
from quantcli.models.stored import Stored


def every(period: int) -> Callable[[Stored], list[str]]:
    """`layer_types` where of so many layers the last attends to the whole context."""
    return lambda file: [
        "sliding_attention" if (layer + 1) % period else "full_attention" for layer in range(file.trunk)
    ]


#: Of a class of mlx-lm that knows windows by their period only.
ODD_PERIODS: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    WINDOW_PATTERN.name: lambda config: "sliding_window_pattern" not in config
}
