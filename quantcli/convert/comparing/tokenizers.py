"""Differences between the tokenizers of two checkpoints.

They are compared as `Vocabulary`, so that spelling is not a difference, and what that does not hold by the files of two
folders or the keys of two GGUF files. Both also encode a fixed list of texts.
"""

from __future__ import annotations

import filecmp
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from quantcli import tokenizers as folders
from quantcli.checkpoint import Checkpoint, Vocabulary
from quantcli.convert.comparing.tokenizer_files import (
    TokenizerDifference,
    files_of_tokenizers,
    in_lists,
    in_maps,
    keys_of_tokenizers,
    unmatched,
)
from quantcli.convert.comparing.values import FIRST, NotCompared
from quantcli.errors import BadInput, NotPossible
from quantcli.targets.gguf_metadata import TOKEN_IDS
from quantcli.targets.model import Model
from quantcli.tokenizers import templates
from quantcli.tokenizers.behaviour import Encode, differences, encoder
from quantcli.tokenizers.conventions import PLAIN, Conventions
from quantcli.tokenizers.files import JSON, MODEL, Files
from quantcli.tokenizers.rebuild import MODELS, tokenizer_json
from quantcli.tokenizers.splittings import SPLITTINGS
from quantcli.tokenizers.stored import TEMPLATE, from_metadata

#: Names of parts: the ids of a fixed list of texts, the vocabulary.
PROBES = "ids of probe texts"
VOCABULARY = "vocabulary"


@dataclass
class FoundTokens:
    """Differences between two tokenizers, and what was not compared."""

    differences: list[TokenizerDifference] = field(default_factory=list)
    not_compared: list[NotCompared] = field(default_factory=list)


def compare_tokenizers(a: Checkpoint, b: Checkpoint) -> FoundTokens:
    """Compare the vocabularies, the files or keys that hold them, and the ids that they give to texts.

    Raises `BadInput`.
    """
    found = FoundTokens()
    if _has_same_files(a, b):
        # Its parts are equal, and parsing a vocabulary of 262,144 tokens takes seconds.
        _add_folders(a, b, found)
        found.differences = [difference for difference in found.differences if difference.count]
        return found
    ours, theirs = _vocabulary(a, "A", found), _vocabulary(b, "B", found)
    if ours is not None and theirs is not None:
        found.differences += _lists(a, b, ours, theirs)
        if _has_scores(a) is not _has_scores(b):
            reason = "the other tokenizer has ranked merges instead of scores"
            found.not_compared.append(NotCompared("A" if _has_scores(a) else "B", VOCABULARY, ("scores",), reason))
    elif (ours is None) is not (theirs is None) and not found.not_compared:
        found.not_compared.append(
            NotCompared("B" if ours is None else "A", VOCABULARY, (), "the other tokenizer has no vocabulary")
        )
    if a.names == b.names == "gguf":
        found.differences += keys_of_tokenizers(a.metadata, b.metadata)
    elif ours is not None and theirs is not None:
        mixed = a.names != b.names
        found.differences.append(in_maps("settings", _flags(a, ours, mixed), _flags(b, theirs, mixed)))
        found.differences.append(in_maps("special tokens", *_special(ours, theirs)))
    if a.names == b.names == "hf":
        _add_folders(a, b, found)
    else:
        found.differences.append(in_maps("chat templates", _templates(a), _templates(b)))
    if a.names != b.names:
        found.not_compared += [left for s, side in ((a, "A"), (b, "B")) for left in unmatched(s, side)]
    _behaviour(a, b, ours, theirs, found)
    found.differences = [difference for difference in found.differences if difference.count]
    return found


def _has_same_files(a: Checkpoint, b: Checkpoint) -> bool:
    """Return whether two folders hold the same vocabulary, byte for byte."""
    if not a.names == b.names == "hf" or not Files(a.root).has(JSON):
        return False
    return all(
        (a.root / name).is_file() == (b.root / name).is_file()
        and (not (a.root / name).is_file() or filecmp.cmp(a.root / name, b.root / name, shallow=False))
        for name in (JSON, MODEL)
    )


def _add_folders(a: Checkpoint, b: Checkpoint, found: FoundTokens) -> None:
    """Compare the chat templates and all tokenizer files of two folders."""
    found.differences.append(in_maps("chat templates", _templates(a), _templates(b)))
    tokens = {"tokens", "merges"} & {d.what for d in found.differences if d.count}
    files, left = files_of_tokenizers(Files(a.root), Files(b.root), vocabulary=not tokens)
    found.differences += files
    found.not_compared += left


def _lists(a: Checkpoint, b: Checkpoint, ours: Vocabulary, theirs: Vocabulary) -> list[TokenizerDifference]:
    lists: list[tuple[str, Sequence[Any], Sequence[Any]]] = [
        ("tokens", ours.tokens, theirs.tokens),
        ("token types", ours.types, theirs.types),
        ("merges", ours.merges, theirs.merges),
    ]
    if _has_scores(a) and _has_scores(b):
        lists.append(("scores", ours.scores or (), theirs.scores or ()))
    return [in_lists(what, first, second) for what, first, second in lists]


def _has_scores(source: Checkpoint) -> bool:
    """Return whether scores are stored: those of a `tokenizer.json` only follow the order of its merges."""
    return source.names == "gguf" or Files(source.root).has(MODEL)


def _encoder(source: Checkpoint, vocabulary: Vocabulary | None) -> Encode | None:
    """Return a side's encoder, from a folder's `tokenizer.json` or one built from its vocabulary."""
    files, where = Files(source.root), str(source.root)
    if source.names == "hf" and files.has(JSON):
        return encoder(files.bytes(JSON), files.label(JSON))
    if vocabulary is None:
        return None
    made, _ = tokenizer_json(vocabulary, _conventions(source).strips)
    return encoder(json.dumps(made).encode(), where)


def _behaviour(
    a: Checkpoint, b: Checkpoint, ours: Vocabulary | None, theirs: Vocabulary | None, found: FoundTokens
) -> None:
    """Compare the ids that both give to texts."""
    try:
        first, second = _encoder(a, ours), _encoder(b, theirs)
    except (NotPossible, BadInput) as refused:
        found.not_compared.append(NotCompared("both", PROBES, (), str(refused)))
        return
    if first is None or second is None:
        if bool(first) is not bool(second):
            found.not_compared.append(
                NotCompared("A" if first else "B", PROBES, (), "the other model has no tokenizer")
            )
        return
    differing_texts = differences(first, second)
    listed = tuple({"at": d.text, "a": list(d.a), "b": list(d.b)} for d in differing_texts[:FIRST])
    found.differences.append(TokenizerDifference(PROBES, len(differing_texts), listed))


def _conventions(source: Checkpoint) -> Conventions:
    architecture = Model.of(source).architecture
    return PLAIN if architecture is None else architecture.vocabulary


def _vocabulary(source: Checkpoint, label: str, found: FoundTokens) -> Vocabulary | None:
    if source.names == "gguf":
        return from_metadata(source.metadata, str(source.root))
    conventions = _conventions(source)
    try:
        vocabulary = folders.load(source.root, source.config, conventions)
        return replace(vocabulary, special={**vocabulary.special, **conventions.ids})
    except NotPossible:
        if Files(source.root).has(JSON):
            reason = "neither byte-level BPE nor SentencePiece"
            found.not_compared.append(NotCompared(label, VOCABULARY, (), reason))
        return None


def _special(a: Vocabulary, b: Vocabulary) -> tuple[dict[str, int], dict[str, int]]:
    """Return ids by role, of the roles that both dialects store."""
    roles = set(TOKEN_IDS) | (a.special.keys() & b.special.keys())
    first, second = ({role: number for role, number in v.special.items() if role in roles} for v in (a, b))
    return first, second


def _flags(source: Checkpoint, vocabulary: Vocabulary, mixed: bool) -> dict[str, Any]:
    """Return all single settings. mixed: of a folder and a GGUF file, with llama.cpp's defaults for missing keys.

    Of two folders, tokenizer_config.json has the rest and is compared.
    """
    steps = {f"normalizer {step}": True for step, on in vocabulary.normalizer.items() if on}
    added = {f"add {role}": True for role, on in vocabulary.add.items() if on}
    flags: dict[str, Any] = {"model": vocabulary.model, "pre": vocabulary.pre} | steps | added
    if not mixed:
        return flags
    how = MODELS.get(vocabulary.model) or SPLITTINGS.get(vocabulary.pre or "")
    if "bos" not in vocabulary.add and how is not None and how.adds_bos:
        flags["add bos"] = True
    own = _conventions(source).space_prefix if source.names == "hf" else None
    if vocabulary.model == "spm":
        flags["add space prefix"] = (vocabulary.add_space_prefix if own is None else own) is not False
    return flags


def _templates(source: Checkpoint) -> dict[str, Any]:
    if source.names == "gguf":
        named = {key.removeprefix(TEMPLATE): value.value for key, value in source.metadata.items() if _is_template(key)}
        return {name.removeprefix(".") or "default": text for name, text in named.items()}
    default, others = templates.used(Files(source.root))
    return others if default is None else {"default": default, **others}


def _is_template(key: str) -> bool:
    return key == TEMPLATE or key.startswith(f"{TEMPLATE}.")
