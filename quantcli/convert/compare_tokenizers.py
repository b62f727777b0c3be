"""What differs between the tokenizers of two checkpoints.

Through `Vocabulary`, so that one dialect's spelling is no difference. Tokenizers are also set to work, on a fixed list
of texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from quantcli import tokenizers as folders
from quantcli.checkpoint import Checkpoint, Vocabulary
from quantcli.convert.compare_values import FIRST, differing, plain, same
from quantcli.errors import BadInput, NotPossible
from quantcli.targets.gguf_metadata import TOKEN_IDS
from quantcli.targets.names import Model
from quantcli.tokenizers.behaviour import Encode, differences, encoder
from quantcli.tokenizers.conventions import PLAIN, Conventions
from quantcli.tokenizers.files import Files
from quantcli.tokenizers.rebuild import tokenizer_json
from quantcli.tokenizers.stored import from_metadata


@dataclass(frozen=True)
class TokenizerDifference:
    """A part of the vocabulary that differs in `count` places; `first`: some of them, as {at, a, b}."""

    what: str
    count: int
    first: tuple[dict[str, Any], ...]


def tokenizers(a: Checkpoint, b: Checkpoint) -> tuple[tuple[TokenizerDifference, ...], list[str]]:
    """What differs between the vocabularies, and notes where one can't be read. Raises `BadInput`."""
    notes: list[str] = []
    ours, theirs = (_vocabulary(source, label, notes) for label, source in (("A", a), ("B", b)))
    if ours is None or theirs is None:
        return (), [*notes, "tokenizers are not compared."]
    lists: list[tuple[str, Sequence[Any], Sequence[Any]]] = [
        ("tokens", ours.tokens, theirs.tokens),
        ("token types", ours.types, theirs.types),
        ("merges", ours.merges, theirs.merges),
    ]
    if _has_scores(a) and _has_scores(b):
        lists.append(("scores", ours.scores or (), theirs.scores or ()))
    found = [_in_lists(what, first, second) for what, first, second in lists]
    found += [_in_maps("settings", _flags(ours), _flags(theirs)), _in_maps("special tokens", *_special(ours, theirs))]
    found.append(_in_maps("chat templates", _templates(ours), _templates(theirs)))
    try:
        found.append(_behaviour(_encoder(a, ours), _encoder(b, theirs)))
    except (NotPossible, BadInput) as refused:
        notes.append(f"{refused} What the tokenizers make of texts is not compared.")
    return tuple(difference for difference in found if difference.count), notes


def _has_scores(source: Checkpoint) -> bool:
    """Whether scores are the source's own: those of a `tokenizer.json` alone are the order of its merges."""
    return source.names == "gguf" or Files(source.root).has(folders.MODEL)


def _encoder(source: Checkpoint, vocabulary: Vocabulary) -> Encode:
    """A side's tokenizer at work: a folder's own `tokenizer.json`, else one made of its vocabulary."""
    files, where = Files(source.root), str(source.root)
    if source.names == "hf" and files.has(folders.JSON):
        return encoder(files.bytes(folders.JSON), files.label(folders.JSON))
    made, _ = tokenizer_json(vocabulary, _conventions(source).strips)
    return encoder(json.dumps(made).encode(), where)


def _behaviour(a: Encode, b: Encode) -> TokenizerDifference:
    found = differences(a, b)
    first = tuple({"at": d.text, "a": list(d.a), "b": list(d.b)} for d in found[:FIRST])
    return TokenizerDifference("ids of probe texts", len(found), first)


def _conventions(source: Checkpoint) -> Conventions:
    architecture = Model.of(source).architecture
    return PLAIN if architecture is None else architecture.vocabulary


def _vocabulary(source: Checkpoint, label: str, notes: list[str]) -> Vocabulary | None:
    if source.names == "gguf":
        found = from_metadata(source.metadata, str(source.root))
        if found is None:
            notes.append(f"{label}: has no tokenizer.")
        return found
    conventions = _conventions(source)
    try:
        vocabulary = folders.load(source.root, source.config, conventions)
        return replace(vocabulary, special={**vocabulary.special, **conventions.ids})
    except NotPossible:
        notes.append(f"{label}: has no tokenizer that can be read (byte-level BPE and SentencePiece can).")
        return None


def _in_lists(what: str, a: Sequence[Any], b: Sequence[Any]) -> TokenizerDifference:
    places = [at for at, (x, y) in enumerate(zip_longest(a, b)) if not same(x, y)]
    first = ({"at": at, "a": plain(_at(a, at)), "b": plain(_at(b, at))} for at in places[:FIRST])
    return TokenizerDifference(what, len(places), tuple(first))


def _at(values: Sequence[Any], place: int) -> Any:
    return values[place] if place < len(values) else None


def _in_maps(what: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> TokenizerDifference:
    found = differing(a, b)
    return TokenizerDifference(what, len(found), tuple({"at": f.key, "a": f.a, "b": f.b} for f in found[:FIRST]))


def _special(a: Vocabulary, b: Vocabulary) -> tuple[dict[str, int], dict[str, int]]:
    """Ids by role, of roles that either dialect can tell."""
    roles = set(TOKEN_IDS) | (a.special.keys() & b.special.keys())
    first, second = ({role: number for role, number in v.special.items() if role in roles} for v in (a, b))
    return first, second


def _flags(vocabulary: Vocabulary) -> dict[str, Any]:
    """Everything that is one word; what is off and what is not said are the same."""
    steps = {f"normalizer {step}": True for step, on in vocabulary.normalizer.items() if on}
    added = {f"add {role}": True for role, on in vocabulary.add.items() if on}
    return {"model": vocabulary.model, "pre": vocabulary.pre} | steps | added


def _templates(vocabulary: Vocabulary) -> dict[str, str]:
    default = {} if vocabulary.chat_template is None else {"default": vocabulary.chat_template}
    return default | dict(vocabulary.chat_templates)
