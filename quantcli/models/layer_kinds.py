"""Which layers attend to a window, where llama.cpp has it built in: a row for the families' tables."""

from collections.abc import Callable

from quantcli.models.stored import Stored


def every(period: int) -> Callable[[Stored], list[str]]:
    """`layer_types` where of so many layers the last attends to the whole context."""
    return lambda file: [
        "sliding_attention" if (layer + 1) % period else "full_attention" for layer in range(file.trunk)
    ]
