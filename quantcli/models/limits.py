"""What runtimes require of a family's models: they do not load others, or compute different values for them.

Sources: the loaders in llama.cpp's src/models; mlx-lm's models, most of which derive a head's size from hidden_size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.multimodal import Multimodal

#: The runtime that reads each dialect.
RUNTIMES = {"gguf": "llama.cpp", "mlx": "mlx-lm"}

#: What a runtime does with a model that it does not support.
NOT_LOADED, MISCOMPUTED = "does not load this model", "computes different values for this model"


@dataclass(frozen=True)
class Limit:
    """A condition that a model must meet for the runtime of a dialect.

    holds: the condition on its settings. needs: the same in words. nested: the text model of a model with towers meets
    it regardless of its settings. excludes: the model types that the runtime never runs. fault: what the runtime does
    with a model that does not meet the condition.
    """

    dialect: str
    holds: Callable[[Hyperparameters], bool]
    needs: str
    nested: bool = False
    excludes: tuple[str, ...] = ()
    fault: str = NOT_LOADED

    def warning(self, hyperparameters: Hyperparameters) -> str:
        """Return a sentence that names the runtime, what it does with this model and what it requires."""
        where = hyperparameters.settings.label
        return f"{where}: {RUNTIMES[self.dialect]} {self.fault}: it requires {self.needs}."


def square(*dialects: str, kind: str | None = None) -> tuple[Limit, ...]:
    """Return limits to models whose query heads are together as wide as the model.

    kind: the only model_type that is limited; None: all.
    """

    def holds(h: Hyperparameters) -> bool:
        is_meant = kind is None or h.settings.values.get("model_type") == kind
        return not is_meant or h.heads * h.head_dim == h.embedding_length

    needs = "num_attention_heads * head_dim to be hidden_size in this architecture"
    return tuple(Limit(dialect, holds, needs) for dialect in dialects)


def windowless(*dialects: str) -> tuple[Limit, ...]:
    """No layer attends to a window, which the runtimes know none of."""

    def attend_to_all(h: Hyperparameters) -> bool:
        return not h.sliding_window or h.sliding_window >= h.context_length

    needs = "sliding_window to be null, or at least max_position_embeddings, in this architecture"
    return tuple(Limit(dialect, attend_to_all, needs, fault=MISCOMPUTED) for dialect in dialects)


def unset(dialect: str, *keys: str) -> tuple[Limit, ...]:
    """Return limits to models whose config.json leaves these flags false, the only value the runtime supports."""

    def is_unset(key: str) -> Callable[[Hyperparameters], bool]:
        return lambda h: not h.settings.flag(key, False)

    return tuple(Limit(dialect, is_unset(key), f"{key} to be false in this architecture") for key in keys)


def needs_set(dialects: Sequence[str], *keys: str) -> tuple[Limit, ...]:
    """Return limits to models whose config.json sets these flags, which the model's class assumes to be false."""

    def are_set(h: Hyperparameters) -> bool:
        return all(h.settings.flag(key, False) for key in keys)

    return tuple(Limit(dialect, are_set, f"{' and '.join(keys)} to be true") for dialect in dialects)


def unknown_to_mlx(name: str, kind: str | None = None, *, nested: bool = False) -> Limit:
    """Return the limit for a model type that mlx-lm has no class for.

    name: the family's, which is also the model type if `kind` is None. kind: the model type in a family of several.
    nested: as in `Limit`.
    """

    def is_known(h: Hyperparameters) -> bool:
        return kind is not None and h.settings.values.get("model_type") != kind

    needs = f"a model_type that it supports, which {kind or name} is not"
    return Limit("mlx", is_known, needs, nested, excludes=(kind or name,))


def of_towers(multimodal: Multimodal | None) -> tuple[Limit, ...]:
    """Return the limit for a model with towers, if mlx-lm has no class for it but one for its text model."""
    if multimodal is None or not multimodal.class_name or multimodal.mlx is not None:
        return ()
    return (unknown_to_mlx(multimodal.model_type),)


def unloadable(
    limits: tuple[Limit, ...], target: str, hyperparameters: Hyperparameters, *, is_nested: bool
) -> list[str]:
    """Return a warning for each limit that keeps the runtime from running a model, otherwise for wrong results."""
    unmet = [
        limit
        for limit in limits
        if limit.dialect == target and not (limit.nested and is_nested) and not limit.holds(hyperparameters)
    ]
    not_loaded = [limit for limit in unmet if limit.fault == NOT_LOADED]
    return [limit.warning(hyperparameters) for limit in not_loaded or unmet]
