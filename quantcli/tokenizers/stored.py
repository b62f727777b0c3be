"""The vocabulary that a GGUF file holds, from its `tokenizer.*` keys.

Source: docs/gguf.md of ggml; gguf-py's names of the keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.checkpoint import Vocabulary
from quantcli.containers.gguf_values import ArrayValue, Value
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput
from quantcli.tokenizers.special import ROLES

GGML = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"

#: tokenizer.ggml.model -> Vocabulary.model; others keep their name.
MODELS = {"gpt2": "bpe", "llama": "spm"}
STEPS = ("lowercase", "strip_accents")
ADDED = ("bos", "eos", "sep")


def from_metadata(metadata: Mapping[str, Value], where: str) -> Vocabulary | None:
    """The vocabulary in a file's metadata, None where there is none; `where` names the file in errors.

    Raises `BadInput` for a key of the wrong type, naming it.
    """
    if f"{GGML}tokens" not in metadata:
        return None
    read = _Reader(metadata, where)
    model = read.one(f"{GGML}model", str) or ""
    tokens = read.array(f"{GGML}tokens", "string") or []
    types = read.array(f"{GGML}token_type", "int32")
    scores = read.array(f"{GGML}scores", "float32")
    merges = read.array(f"{GGML}merges", "string") or []
    special = {role: read.one(f"{GGML}{role}_token_id", int) for role in ROLES.values()}
    add = {role: read.one(f"{GGML}add_{role}_token", bool) for role in ADDED}
    steps = {step: read.one(f"{GGML}normalizer.{step}", bool) for step in STEPS}
    named = [key for key in metadata if key.startswith(f"{TEMPLATE}.")]
    return Vocabulary(
        model=MODELS.get(model, model),
        pre=read.one(f"{GGML}pre", str) or "default",
        tokens=tuple(tokens),
        types=tuple(types or ()),
        scores=None if scores is None else tuple(scores),
        merges=tuple(merge.decode("utf-8", "surrogateescape") for merge in merges),
        special={role: number for role, number in special.items() if number is not None},
        add={role: flag for role, flag in add.items() if flag is not None},
        add_space_prefix=read.one(f"{GGML}add_space_prefix", bool),
        chat_template=read.one(TEMPLATE, str),
        chat_templates={key.removeprefix(f"{TEMPLATE}."): read.one(key, str) or "" for key in named},
        normalizer={step: flag for step, flag in steps.items() if flag is not None},
    )


class _Reader:
    """Typed reads that name the file and the key."""

    def __init__(self, metadata: Mapping[str, Value], where: str) -> None:
        self.metadata, self.where = metadata, where

    def one(self, key: str, kind: type) -> Any:
        """A single value, None where the key is absent."""
        if key not in self.metadata:
            return None
        value = self.metadata[key].value
        if type(value) is not kind:
            raise BadInput(f"{self.where}: {key} is {shown(value)}; it has to be of type {kind.__name__}.")
        return value

    def array(self, key: str, element: str) -> list[Any] | None:
        """An array's elements, None where the key is absent."""
        if key not in self.metadata:
            return None
        kind, value = self.metadata[key]
        if not isinstance(value, ArrayValue) or value.element != element:
            raise BadInput(f"{self.where}: {key} is {kind}; it has to be array[{element}].")
        return value.decode()
