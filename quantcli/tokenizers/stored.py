"""The vocabulary in a GGUF file's `tokenizer.*` keys.

Source: docs/gguf.md of ggml; gguf-py's names of the keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantcli.checkpoint import Vocabulary
from quantcli.containers.gguf_values import ArrayValue, Value
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput
from quantcli.tokenizers import defaults, ends
from quantcli.tokenizers.byte_level import CONTROL, UNKNOWN, USER_DEFINED
from quantcli.tokenizers.special import FURTHER, ROLES

GGML = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"

#: tokenizer.ggml.model -> Vocabulary.model; others keep their name.
MODELS = {"gpt2": "bpe", "llama": "spm"}
STEPS = ("lowercase", "strip_accents")
ADDED = ("bos", "eos", "sep")
#: Roles with a key, and the older keys of some roles, which take precedence.
SPECIAL = (*dict.fromkeys((*ROLES.values(), *FURTHER)),)
OLDER = {"prefix": "fim_pre", "suffix": "fim_suf", "middle": "fim_mid"}


def from_metadata(metadata: Mapping[str, Value], where: str) -> Vocabulary | None:
    """Read the vocabulary in a file's metadata; None if there is none.

    where: the file's name in errors. Raises `BadInput` naming a key of the wrong type.
    """
    if f"{GGML}tokens" not in metadata:
        return None
    read = _Reader(metadata, where)
    model = read.one(f"{GGML}model", str) or ""
    tokens = read.array(f"{GGML}tokens", "string") or []
    types = read.array(f"{GGML}token_type", "int32")
    scores = read.array(
        f"{GGML}scores", "float32", "int32"
    )  # llama.cpp's converter writes the zeros of Tekken as int32
    merges = read.array(f"{GGML}merges", "string") or []
    add = {role: read.one(f"{GGML}add_{role}_token", bool) for role in ADDED}
    steps = {step: read.one(f"{GGML}normalizer.{step}", bool) for step in STEPS}
    named = [key for key in metadata if key.startswith(f"{TEMPLATE}.")]
    has_pre = bool(read.one(f"{GGML}pre", str))
    pre = read.one(f"{GGML}pre", str) if has_pre else "default"
    model = MODELS.get(model, model)
    added = {role: flag for role, flag in add.items() if flag is not None}
    special, beyond = special_ids(metadata, where, len(tokens))
    assumed = {k: v for k, v in defaults.assumed(model, pre, added, len(tokens)).items() if k not in special}
    suppressed = read.array(f"{GGML}suppress_tokens", "int32") or []
    vocabulary = Vocabulary(
        model=model,
        pre=pre,
        tokens=tuple(tokens),
        types=tuple(types or ()),
        scores=None if scores is None else tuple(scores),
        merges=tuple(merge.decode("utf-8", "surrogateescape") for merge in merges),
        special=special | assumed,
        add=added,
        add_space_prefix=read.one(f"{GGML}add_space_prefix", bool),
        chat_template=read.one(TEMPLATE, str),
        chat_templates={key.removeprefix(f"{TEMPLATE}."): read.one(key, str) or "" for key in named},
        normalizer={step: flag for step, flag in steps.items() if flag is not None},
        suppressed=tuple(number for number in suppressed if 0 <= number < len(tokens)),
        assumed=frozenset(assumed),
    )
    return replace(vocabulary, warnings=(*beyond, *_assumptions(vocabulary, where, has_pre)))


def special_ids(
    metadata: Mapping[str, Value], where: str, count: int | None = None
) -> tuple[dict[str, int], list[str]]:
    """Return role -> id of a file's special tokens, and a warning for each id that is `count` or more.

    Raises `BadInput` for an id that is not a non-negative integer.
    """
    read = _Reader(metadata, where)
    keys = {f"{GGML}{role}_token_id": role for role in SPECIAL}
    keys |= {f"{GGML}{older}_token_id": role for older, role in OLDER.items()}
    ids: dict[str, int] = {}
    warnings = []
    for key, role in keys.items():
        number = read.one(key, int)
        if number is not None and number < 0:
            raise BadInput(f"{where}: {key}: expected an id of at least 0, found {number}.")
        if number is not None and count is not None and number >= count:
            warnings.append(f"{where}: {key} {number} is ignored, because there are only {count} tokens.")
        elif number is not None:
            ids[role] = number
    return ids, warnings


def _assumptions(vocabulary: Vocabulary, where: str, has_pre: bool) -> list[str]:
    """Return warnings about what a file does not name: pre-tokenizer, special tokens, the token that ends an answer."""
    endings = ends.of(vocabulary)
    warnings = []
    if vocabulary.model == "bpe" and not has_pre:
        warnings.append(
            f"{where}: tokenizer.ggml.pre is missing, so llama.cpp splits text by its rule `default`, and so does the "
            "folder's tokenizer; most models use another rule. Use --tokenizer FOLDER to copy the original model's "
            "files."
        )
    for role in sorted(vocabulary.assumed & {"bos", "eos"}):
        number = vocabulary.special[role]
        if is_ordinary(vocabulary, number) and number not in endings.controls:
            what = "stops at" if role == "eos" else "starts a text with"
            warnings.append(
                f"{where}: tokenizer.ggml.{role}_token_id names no token, so llama.cpp {what} token {number}, "
                f"{shown(vocabulary.tokens[number].decode(errors='replace'))}, and so does the folder."
            )
    if endings.ambiguous:
        warnings.append(
            f"{where}: llama.cpp stops at one of the tokens {', '.join(endings.ambiguous)}; which one depends on how "
            "it was built. The output folder lists all of them as end tokens."
        )
    return warnings


def is_ordinary(vocabulary: Vocabulary, number: int) -> bool:
    """Return whether a token's type is not a special one; without types, SentencePiece tokens count as special."""
    if number < len(vocabulary.types):
        return vocabulary.types[number] not in (CONTROL, UNKNOWN, USER_DEFINED)
    return vocabulary.model != "spm"


#: Integer types.
NUMBERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


class _Reader:
    """A reader of typed values whose errors name the file and the key."""

    def __init__(self, metadata: Mapping[str, Value], where: str) -> None:
        self.metadata, self.where = metadata, where

    def one(self, key: str, kind: type) -> Any:
        """Return a single value, None if the key is missing. Raises `BadInput`."""
        if key not in self.metadata:
            return None
        value = self.metadata[key].value
        if kind is bool and type(value) is int and value in (0, 1):
            return bool(value)  # llama.cpp does not accept integers here, but they are unambiguous
        if type(value) is not kind:
            raise BadInput(f"{self.where}: key {key}: expected a value of type {kind.__name__}, found {shown(value)}.")
        return value

    def array(self, key: str, element: str, *others: str) -> list[Any] | None:
        """Return an array's elements, None if the key is missing. Raises `BadInput`.

        others: further element types that llama.cpp reads for this key.
        """
        if key not in self.metadata:
            return None
        kind, value = self.metadata[key]
        # Some tools write integers in other types than llama.cpp reads (mlx-lm: token types as uint32).
        alike = NUMBERS if element in NUMBERS else (element, *others)
        if not isinstance(value, ArrayValue) or value.element not in alike:
            raise BadInput(f"{self.where}: key {key}: expected array[{element}], found {kind}.")
        return value.decode()
