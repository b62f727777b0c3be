"""`--tokenizer FOLDER`: use another folder's tokenizer instead of the source's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quantcli import tokenizers
from quantcli.checkpoint import Checkpoint, Vocabulary
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput, NotPossible, WrongUsage
from quantcli.sources.folder import LocalFolder
from quantcli.sources.sidecars import has_vocabulary
from quantcli.targets.base import Target
from quantcli.targets.model import Model
from quantcli.tokenizers.byte_level import BYTE, NORMAL, UNKNOWN
from quantcli.tokenizers.conventions import PLAIN
from quantcli.tokenizers.files import is_tokenizers

#: Types of tokens that are not added tokens.
ORDINARY = (NORMAL, UNKNOWN, BYTE)


def with_tokenizer(source: Checkpoint, folder: Path, target: Target) -> Checkpoint:
    """Return the source with the tokenizer of a folder.

    Raises `WrongUsage` for an output that cannot have its files, `BadInput` for a folder without a tokenizer or with
    more tokens than the model has.
    """
    if target.keeps_metadata(source):
        raise WrongUsage(
            f"--tokenizer {folder}: does not apply from GGUF to GGUF, where the tokenizer is copied. Convert to a "
            "folder first."
        )
    if not folder.is_dir():
        raise WrongUsage(f"--tokenizer {folder}: is not a folder. Name the folder of a model with a tokenizer.")
    names = [name for name in LocalFolder(folder).names() if is_tokenizers(name)]
    if not has_vocabulary(names):
        raise BadInput(f"--tokenizer {folder}: has no tokenizer files, such as tokenizer.json.")
    vocabulary = _vocabulary(source, folder)
    without_row = [] if vocabulary is None else _without_row(source, vocabulary, folder)
    unknown = [] if vocabulary is None else _unknown_ids(source, len(vocabulary.tokens), folder)
    warnings = (*source.warnings, *unknown, *(without_row if target.is_folder else []))
    return replace(source, tokenizer=folder, tokenizer_files=tuple(folder / name for name in names), warnings=warnings)


def _vocabulary(source: Checkpoint, folder: Path) -> Vocabulary | None:
    """Return the folder's vocabulary, None if it is of a kind that is copied without being read."""
    architecture = Model.of(source).architecture
    try:
        return tokenizers.load(folder, {}, PLAIN if architecture is None else architecture.vocabulary)
    except NotPossible:
        return None


def _without_row(source: Checkpoint, vocabulary: Vocabulary, folder: Path) -> list[str]:
    """Return a warning of added tokens without a row in the embedding. Raises `BadInput` for other such tokens."""
    model = Model.of(source)
    rows = next((shape[0] for name, shape in model.shapes.items() if _is_embedding(model, name) and shape), None)
    if rows is None:
        return []
    count = len(vocabulary.tokens)
    ordinary = next((n for n in range(count, 0, -1) if vocabulary.types[n - 1] in ORDINARY), 0)
    if ordinary > rows:
        raise BadInput(
            f"--tokenizer {folder}: has {ordinary} tokens, but the model's embedding has {rows} rows. Use the model's "
            "own tokenizer."
        )
    if count <= rows:
        return []
    first = shown(vocabulary.tokens[rows].decode(errors="replace"))
    which = f"{count - rows} added tokens have" if count - rows > 1 else "1 added token has"
    return [
        f"--tokenizer {folder}: {which} no row in the model's embedding of {rows} rows (first: {first}, id {rows}); "
        "the model fails on texts that contain such a token."
    ]


def _unknown_ids(source: Checkpoint, tokens: int, folder: Path) -> list[str]:
    """Return a warning of ids in config.json that the tokenizer has no token for."""
    odd = []
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = source.config.get(key)
        ids = value if isinstance(value, list) else [value]
        odd += [f"{key} {number}" for number in ids if type(number) is int and number >= tokens]
    if not odd:
        return []
    return [f"{folder}: its tokenizer has {tokens} tokens, but config.json says {', '.join(odd)}."]


def _is_embedding(model: Model, name: str) -> bool:
    return model.architecture is not None and model.architecture.role(name) == "token_embd"
