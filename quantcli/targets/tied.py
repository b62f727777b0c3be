"""A model's output matrix (`lm_head`) and the embedding that may replace it: settings against stored tensors.

    tie_word_embeddings  head stored          result
    true                 no                   the embedding is the head; where a runtime loads no model without
                                              a stored one (`Architecture.stores_head`), also stored as the head
    true                 same values          left out of MLX and GGUF, but for these runtimes
    true                 other values         kept; the output has tie_word_embeddings false
    true                 values unavailable   kept; the output has tie_word_embeddings false
    false                yes                  kept
    false                no                   bad input; tied if the model's class ties by default

Source: transformers' configuration classes and `tie_weights`; mlx-lm's models, which drop the head of a tied model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from quantcli.arrays import Array, to_float32
from quantcli.checkpoint import Checkpoint, Weight
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput, NotPossible
from quantcli.models import Architecture
from quantcli.models.limits import RUNTIMES
from quantcli.schemes.base import matrix_shape
from quantcli.virtual import values_of

KEY = "tie_word_embeddings"
#: The object in a multimodal model's config.json that describes its text model.
NESTED = "text_config"

#: Names in models that have no table.
HEADS = re.compile(r"(?:.*\.)?(?:lm_head|embed_out)\.weight")
EMBEDDINGS = re.compile(
    r"(?:.*\.)?(?:embed_tokens|embed_in|wte|word_embeddings|embeddings|tok_embeddings|shared)\.weight"
)

#: Suffixes of classes that compute logits of tokens and so need a head.
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")

#: A file that is one of several.
SHARD = re.compile(r".+-\d{5}-of-(\d{5})\.safetensors")

#: Values of each side that are compared at a time.
VALUES = 1 << 22


@dataclass(frozen=True)
class Head:
    """The head and the embedding of a folder, None if missing, and what its settings say about them."""

    source: Checkpoint
    architecture: Architecture | None
    weight: Weight | None
    embedding: Weight | None

    @staticmethod
    def of(source: Checkpoint, architecture: Architecture | None) -> Head:
        """Find the head and the embedding of a source by role, or by name if the model has no table."""
        if architecture is not None:
            found = [_by_role(source, architecture, role) for role in ("output", "token_embd")]
        else:
            heads, embeddings = (_by_name(source, pattern) for pattern in (HEADS, EMBEDDINGS))
            head = min(heads, key=lambda weight: len(weight.name), default=None)
            found = [head, _likeliest(embeddings, head)]
        return Head(source, architecture, *found)

    @cached_property
    def is_tied(self) -> bool | None:
        """The setting in config.json, else the class's default; None for neither. Raises `BadInput` for other types."""
        read = Reader(self.source.config, f"{self.source.root}/config.json")
        if KEY in read.values:
            return read.flag(KEY, False)
        if self.architecture is not None:
            return self._default
        nested = self.source.config.get(NESTED)
        return read.part(NESTED).flag(KEY, False) if isinstance(nested, Mapping) and KEY in nested else None

    @property
    def _default(self) -> bool | None:
        """The default of the model's class; None for an unknown class."""
        if self.architecture is None:
            return None
        return self.architecture.model_types.get(str(self.source.config.get("model_type")), {}).get(KEY, False) is True

    @cached_property
    def is_embedding(self) -> bool | None:
        """Whether the stored head has the embedding's values; None if these cannot be read."""
        head, embedding = self.weight, self.embedding
        if head is None or embedding is None:
            return None
        return same_values(head, embedding) if _at_hand(head) and _at_hand(embedding) else None

    def is_left_out(self, target: str) -> bool:
        """Return whether a target omits the stored head because the embedding has the same values."""
        if self.architecture is not None and target in self.architecture.stores_head:
            return False
        return (self.is_tied is True or self._is_headless(target)) and self.is_embedding is True

    def _is_headless(self, target: str) -> bool:
        return self.architecture is not None and target in self.architecture.headless

    @property
    def is_untied(self) -> bool:
        """Whether the output has a separate head although the settings tie it."""
        return self.weight is not None and self.is_tied is True and not self.is_embedding and not self._ties_others

    @property
    def _ties_others(self) -> bool:
        """Whether the setting also ties the embeddings of encoder and decoder and scales outputs."""
        return self.source.config.get("is_encoder_decoder") is True

    @property
    def is_tied_after_all(self) -> bool:
        """Whether no head is stored, the settings do not tie it, and the model's class does by default."""
        in_mlx = self.source.kind == "mlx" and KEY not in self.source.config
        ties = self.architecture.mlx_ties if self.architecture is not None else ()
        by_default = self._default or (in_mlx and self.source.config.get("model_type") in ties)
        return self.weight is None and self.is_tied is False and self._needs_one and by_default is True

    @cached_property
    def _needs_one(self) -> bool:
        """Whether this is a complete model that computes logits of tokens, and not one saved without its head."""
        classes = self.source.config.get("architectures")
        named = [name for name in classes if isinstance(name, str)] if isinstance(classes, list) else []
        known = tuple(self.architecture.classes.values()) if self.architecture else ()
        is_causal = any(name.endswith(CAUSAL) or name in known for name in named)
        computes = is_causal or (not named and bool(known))
        return self.embedding is not None and computes and not self.source.naming.is_shorter and not self._is_fragment

    @property
    def _is_without(self) -> bool:
        """Whether this is a complete model without a head, which embeds texts."""
        return self.weight is None and self.embedding is not None and not self._needs_one and not self._is_fragment

    @property
    def _is_fragment(self) -> bool:
        """Whether some of the shards are missing."""
        counts = [int(found[1]) for file in self.source.files if (found := SHARD.fullmatch(file.name))]
        return any(count > len(self.source.files) for count in counts)

    def _has_like(self) -> bool:
        """Whether another tensor has the embedding's shape, so that it may be the head."""
        weights, embedding = self.source.weights.values(), self.embedding
        return embedding is not None and any(w.shape == embedding.shape for w in weights if w is not embedding)

    def check(self, target: str) -> None:
        """Raise `BadInput` if a required head is missing, `NotPossible` if a target has no place for a different one.

        target: a dialect.
        """
        source, architecture = self.source, self.architecture
        if self.weight is None and self.is_tied is False and self._needs_one and not self.is_tied_after_all:
            if architecture is None and self._has_like():
                return
            name = "lm_head.weight" if architecture is None else _name(architecture)
            said = f"config.json sets {KEY} to false" if KEY in source.config else f"{KEY} is false by default"
            again = "Do not remove it with --drop" if source.dropped else "Download the checkpoint again"
            raise BadInput(
                f"{source.root}: tensor {name} is missing, but {said}. {again}, or set {KEY} to true in config.json if "
                "the embedding is the output matrix."
            )
        if self.weight is not None and architecture is not None and self._is_headless(target) and not self.is_embedding:
            raise NotPossible(
                f"{source.root}: {self._difference(self.weight)}, and {RUNTIMES[target]} supports no separate output "
                f"matrix in {architecture.name} models. Convert to a Hugging Face folder (--to hf), which keeps it."
            )

    def _difference(self, head: Weight) -> str:
        if self.is_embedding is None or self.embedding is None:
            return f"{head.name} is stored and was not compared with the embedding"
        return f"{head.name} differs from {self.embedding.name}"

    @property
    def warnings(self) -> list[str]:
        """Contradictions between the settings and the tensors, one sentence each."""
        where = self.source.root
        if self.weight is not None and self.is_tied is True and not self.is_embedding:
            done = "Both are copied unchanged." if self._ties_others else "The output keeps it and is not tied."
            return [f"{where}: {self._difference(self.weight)}, but {KEY} is true. {done}"]
        if self.is_tied_after_all:
            return [
                f"{where}: {KEY} is false, but tensor {_name(self.architecture)} is missing. The embedding is used "
                "instead, which is the default of this class."
            ]
        return []

    def settings(self, target: str) -> dict[str, Any]:
        """Return the keys of a folder's config.json that change to say whether it has a separate head.

        An MLX folder always states it: mlx-lm's classes have other defaults than transformers'. They all compute
        logits, so a model without a head is tied there.
        """
        config = self.source.config_json
        if target == "mlx" and self.architecture is not None and self.is_tied is False and self._is_without:
            return {KEY: True}
        goes = self.is_tied is False and self.is_left_out(target)
        if not (goes or self.is_untied or self.is_tied_after_all):
            is_silent = target == "mlx" and KEY not in config and self.architecture is not None
            return _stated(config, self.is_tied) if is_silent or self._differs(target) else {}
        return _stated(config, not self.is_tied)

    def _differs(self, target: str) -> bool:
        """Whether an MLX folder's text model, which mlx-lm makes of its block alone, would be tied otherwise."""
        nested = self.source.config_json.get(NESTED)
        return (
            target == "mlx"
            and bool(self.source.whole)
            and isinstance(nested, Mapping)
            and (nested.get(KEY) is not self.is_tied)
        )


def _stated(config: Mapping[str, Any], is_tied: bool | None) -> dict[str, Any]:
    """The keys of config.json that say whether a model is tied, in the text model's block too."""
    nested = config.get(NESTED)
    both = {NESTED: {**nested, KEY: is_tied}} if isinstance(nested, Mapping) else {}
    return {KEY: is_tied, **both}


def copied(weights: Mapping[str, Weight], architecture: Architecture, dialect: str) -> dict[str, Weight]:
    """Return a tied model's embedding under the name of its head; nothing if there is a head or no embedding."""
    head, embedding = _ends(architecture, dialect)
    return {head: weights[embedding]} if embedding in weights and head not in weights else {}


def equal_head(weights: Mapping[str, Weight], architecture: Architecture, dialect: str) -> str | None:
    """Return the name of the head if its values are the embedding's; None if not, or if they cannot be read."""
    head, embedding = _ends(architecture, dialect)
    found = [weights[name] for name in (head, embedding) if name in weights]
    return head if len(found) == 2 and all(map(_at_hand, found)) and same_values(*found) else None


def _ends(architecture: Architecture, dialect: str) -> tuple[str, str]:
    """Return the names of the head and of the embedding in a dialect."""
    head, embedding = (
        next(f"{row.pattern(dialect)}.weight" for row in architecture.tensors if row.role == role)
        for role in ("output", "token_embd")
    )
    return head, embedding


#: The dialects of folders.
FOLDERS = ("hf", "mlx")


def _name(architecture: Architecture | None) -> str:
    """Return the head's name in Hugging Face's dialect."""
    assert architecture is not None
    return next(f"{row.hf}.weight" for row in architecture.tensors if row.role == "output")


def _by_role(source: Checkpoint, architecture: Architecture, role: str) -> Weight | None:
    """Return the matrix with a role outside the layers; None if there is none."""
    names = [
        f"{row.pattern(dialect)}.weight" for row in architecture.tensors if row.role == role for dialect in FOLDERS
    ]
    return next((source.weights[name] for name in names if name in source.weights), None)


def _by_name(source: Checkpoint, pattern: re.Pattern[str]) -> list[Weight]:
    return [w for name, w in source.weights.items() if len(w.shape) == 2 and pattern.fullmatch(name)]


def _likeliest(embeddings: list[Weight], head: Weight | None) -> Weight | None:
    """Return the embedding with the head's shape, else the one with most rows (words, not positions or images)."""
    alike = [weight for weight in embeddings if head is not None and weight.shape == head.shape]
    return max(alike or embeddings, key=lambda weight: weight.shape[0], default=None)


def _at_hand(weight: Weight) -> bool:
    """Whether values can be read; a model on the Hub that was not downloaded has headers only."""
    return all(part.file.is_file() for part in weight.parts.values())


def same_values(one: Weight, other: Weight) -> bool:
    """Return whether two weights have the same values in any storage (-0 equals 0, NaN equals NaN).

    Reads up to the first difference.
    """
    if one.shape != other.shape:
        return False
    rows, columns = matrix_shape(one.shape)
    step = max(1, VALUES // max(1, columns))
    ranges = ((start, min(start + step, rows)) for start in range(0, rows, step))
    return all(_same(values_of(one, None, *span), values_of(other, None, *span)) for span in ranges)


def _same(one: Array, other: Array) -> bool:
    x, y = (array.astype(np.float64) if array.dtype.itemsize > 4 else to_float32(array) for array in (one, other))
    return np.array_equal(x, y, equal_nan=True)
