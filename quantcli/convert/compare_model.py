"""What differs between two checkpoints beside their weights: settings and tokenizers.

Two GGUF files are held against each other key by key; everything else through `Hyperparameters` and `Vocabulary`, so
that one dialect's spelling is no difference. Floats are compared as float32, which is how GGUF holds them. Tokenizers
are also set to work, on a fixed list of texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from quantcli import tokenizers as folders
from quantcli.checkpoint import Checkpoint, Vocabulary
from quantcli.containers.gguf_values import ArrayValue, Value
from quantcli.convert.survey import model_of
from quantcli.errors import BadInput, NotPossible
from quantcli.models import Architecture, Hyperparameters
from quantcli.models.keys import COMMON
from quantcli.targets.gguf_metadata import TOKEN_IDS
from quantcli.targets.names import Model
from quantcli.tokenizers.behaviour import Encode, differences, encoder
from quantcli.tokenizers.conventions import PLAIN, Conventions
from quantcli.tokenizers.files import Files
from quantcli.tokenizers.rebuild import tokenizer_json
from quantcli.tokenizers.stored import from_metadata

#: Entries of a list that are shown where it differs.
FIRST = 3

#: Settings that follow from others, or that say how the file spells them.
DERIVED = ("states_head_dim", "rope", "settings")


@dataclass(frozen=True)
class FieldDifference:
    """A setting that differs; None: not said."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class TokenizerDifference:
    """A part of the vocabulary that differs in `count` places; `first`: some of them, as {at, a, b}."""

    what: str
    count: int
    first: tuple[dict[str, Any], ...]


def fields(a: Checkpoint, b: Checkpoint) -> tuple[tuple[FieldDifference, ...], list[str]]:
    """The settings that differ, and notes on what was not compared. Raises `BadInput`."""
    if a.names == b.names == "gguf":
        return _differing(_keys(a.metadata), _keys(b.metadata)), []
    found = []
    for label, source in (("A", a), ("B", b)):
        model = Model.of(source)
        if model.architecture is None:
            return (), [f"{label}: {model_of(source)!r} has no table of settings: they are not compared."]
        hyperparameters = model.hyperparameters
        found.append(
            (source, hyperparameters, _settings(hyperparameters, source) | _own(model.architecture, hyperparameters))
        )
    (first, ours, left), (second, theirs, right) = found
    if first.names != second.names:
        # These kinds of scaling are tensors in GGUF (rope_freqs.weight ...), which are compared as such.
        in_tensor = not {"llama3", "longrope"}.isdisjoint((ours.rope.type, theirs.rope.type))
        left, right = ({k: v for k, v in side.items() if _shared(k, in_tensor)} for side in (left, right))
    return _differing(left, right), []


def _shared(key: str, rope_in_tensor: bool) -> bool:
    """Whether both dialects hold a setting as one. A window is in both where the family's own keys have it."""
    if key in ("dtype", "sliding_window"):
        return False
    return key == "rope.theta" or not (rope_in_tensor and key.startswith("rope."))


def _own(architecture: Architecture, hyperparameters: Hyperparameters) -> dict[str, Any]:
    """What the family says beside the common settings: multipliers, windows, experts ..., by GGUF's keys."""
    common = {row.name for row in COMMON}
    rows = [row for row in (*architecture.keys, *architecture.further) if row.name not in common]
    return {row.name: row.value(hyperparameters) for row in rows}


def _settings(found: Hyperparameters, source: Checkpoint) -> dict[str, Any]:
    """Flat, and without what has no effect."""
    flat = {key: value for key, value in asdict(found).items() if key not in DERIVED}
    flat |= {f"rope.{key}": value for key, value in asdict(found.rope).items()}
    if found.rope.type in ("default", "linear"):
        del flat["rope.original_context"]
    if found.sliding_window is not None and found.sliding_window >= found.context_length:
        flat["sliding_window"] = None
    head = Model.of(source).head
    if head is None:
        flat["tie_embeddings"] = "output.weight" not in source.weights
    elif head.is_untied or head.is_tied_after_all:
        flat["tie_embeddings"] = head.weight is None
    return flat


def _keys(metadata: Mapping[str, Value]) -> dict[str, Any]:
    """GGUF's own keys, but those of the tokenizer."""
    return {key: value.value for key, value in metadata.items() if not key.startswith("tokenizer.")}


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[FieldDifference, ...]:
    keys = [key for key in {**a, **b} if not _same(a.get(key), b.get(key))]
    return tuple(FieldDifference(key, _plain(a.get(key)), _plain(b.get(key))) for key in keys)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float | int):
        with np.errstate(over="ignore"):
            return bool(np.float32(a) == np.float32(b)) or (a != a and b != b)
    if isinstance(a, ArrayValue) and isinstance(b, ArrayValue):
        return a == b or (a.length == b.length and a.decode() == b.decode())  # the same bytes may hold NaN
    return bool(a == b)


def _plain(value: Any) -> Any:
    """A value as JSON can hold it; of an array its start, of bytes their text."""
    if isinstance(value, ArrayValue):
        value = value.decode()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value[:FIRST]] + ([f"... ({len(value)} in all)"] if len(value) > FIRST else [])
    return value


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
    places = [at for at, (x, y) in enumerate(zip_longest(a, b)) if not _same(x, y)]
    first = ({"at": at, "a": _plain(_at(a, at)), "b": _plain(_at(b, at))} for at in places[:FIRST])
    return TokenizerDifference(what, len(places), tuple(first))


def _at(values: Sequence[Any], place: int) -> Any:
    return values[place] if place < len(values) else None


def _in_maps(what: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> TokenizerDifference:
    found = _differing(a, b)
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
