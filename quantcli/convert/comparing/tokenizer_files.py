"""Comparison of stored tokenizers: the files of two folders by value, the keys of two GGUF files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from quantcli.checkpoint import Checkpoint
from quantcli.containers.gguf_values import Value
from quantcli.convert.comparing.values import (
    FIRST,
    MOST,
    FieldDifference,
    NotCompared,
    contents,
    differing,
    differing_keys,
    json_differences,
    plain,
    same,
)
from quantcli.sources.folder import LocalFolder
from quantcli.tokenizers.files import JSON, MODEL, SETTINGS, Files
from quantcli.tokenizers.special import ROLES
from quantcli.tokenizers.stored import ADDED, GGML, STEPS, TEMPLATE
from quantcli.tokenizers.templates import JINJA

#: The JSON files of a tokenizer, and those that are compared by their bytes.
JSON_FILES = (JSON, SETTINGS, "special_tokens_map.json", "added_tokens.json", "vocab.json",
              "chat_template.json")  # fmt: skip
OTHERS = (MODEL, "merges.txt", "vocab.txt")

#: Keys of tokenizer_config.json that `Vocabulary` holds.
CHAT_TEMPLATE = "chat_template"
SAID = (CHAT_TEMPLATE, "added_tokens_decoder", *(f"{role}_token" for role in ROLES), *(f"add_{r}_token" for r in ADDED))
#: Parts of tokenizer.json that `Vocabulary` holds, or that show in the ids of texts.
READ = ("version", "added_tokens", "model", "pre_tokenizer", "post_processor", "normalizer")

PREFIX = f"{GGML}add_space_prefix"
#: Keys of a GGUF's vocabulary that are lists, compared place by place, and those that `Vocabulary` holds.
LISTS = tuple(f"{GGML}{name}" for name in ("tokens", "token_type", "scores", "merges"))
MODELLED = (
    *LISTS,
    PREFIX,
    *(f"{GGML}{name}" for name in ("model", "pre")),
    *(f"{GGML}{role}_token_id" for role in ROLES.values()),
    *(f"{GGML}add_{role}_token" for role in ADDED),
    *(f"{GGML}normalizer.{step}" for step in STEPS),
    TEMPLATE,
    "tokenizer.chat_templates",
)


@dataclass(frozen=True)
class TokenizerDifference:
    """A part of the tokenizer that differs in `count` places; `first`: some of them, as {at, a, b}."""

    what: str
    count: int
    first: tuple[dict[str, Any], ...]


def in_lists(what: str, a: Sequence[Any], b: Sequence[Any]) -> TokenizerDifference:
    """Compare two lists place by place."""
    places = [at for at, (x, y) in enumerate(zip_longest(a, b)) if not same(x, y)]
    first = ({"at": at, "a": plain(_at(a, at)), "b": plain(_at(b, at))} for at in places[:FIRST])
    return TokenizerDifference(what, len(places), tuple(first))


def _at(values: Sequence[Any], place: int) -> Any:
    return values[place] if place < len(values) else None


def in_maps(what: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> TokenizerDifference:
    """Compare two maps of GGUF values."""
    return _listed(what, list(differing(a, b)))


def _listed(what: str, found: Sequence[FieldDifference]) -> TokenizerDifference:
    return TokenizerDifference(what, len(found), tuple({"at": f.key, "a": f.a, "b": f.b} for f in found[:MOST]))


def keys_of_tokenizers(a: Mapping[str, Value], b: Mapping[str, Value]) -> list[TokenizerDifference]:
    """Compare all tokenizer keys of two GGUF files except the vocabulary's lists, by value and type."""
    keys = [key for key in {**a, **b} if key.startswith("tokenizer.") and key not in LISTS]
    ids = [key for key in keys if key.endswith("_token_id")]
    others = [key for key in keys if key not in ids and not key.startswith(TEMPLATE)]
    return [
        _listed(what, differing_keys(*({key: side[key] for key in chosen if key in side} for side in (a, b))))
        for what, chosen in (("special tokens", ids), ("settings", others))
    ]


def unmatched(source: Checkpoint, side: str) -> Iterator[NotCompared]:
    """Yield the parts of a tokenizer that have no counterpart in the other dialect."""
    if source.names == "gguf":
        # Only SentencePiece tokenizers use this one.
        model = source.metadata.get(f"{GGML}model")
        idle = (PREFIX,) if model is not None and model.value != "llama" else ()
        keys = [key for key in source.metadata if key.startswith("tokenizer.")]
        names = tuple(k for k in keys if (k not in MODELLED or k in idle) and not k.startswith(f"{TEMPLATE}."))
        if names:
            yield NotCompared(side, "metadata", names, "a folder's tokenizer has no such key")
        return
    files = Files(source.root)
    for name, read in ((JSON, READ), (SETTINGS, SAID)):
        names = tuple(key for key, value in files.json(name).items() if key not in read and value is not None)
        if names:
            yield NotCompared(side, name, names, "GGUF has no such key")


def files_of_tokenizers(a: Files, b: Files, *, vocabulary: bool) -> tuple[list[TokenizerDifference], list[NotCompared]]:
    """Compare all tokenizer files of two folders by value.

    vocabulary: including the tokens and merges in tokenizer.json.
    """
    found, left = [], []
    templates = sorted(n for n in {*LocalFolder(a.root).names(), *LocalFolder(b.root).names()} if n.endswith(".jinja"))
    for name in (*JSON_FILES, *OTHERS, *templates):
        has = [files.has(name) for files in (a, b)]
        if all(has) and a.bytes(name) == b.bytes(name):
            continue
        if all(has) and name in JSON_FILES:
            ours, theirs = (_object(files, name, vocabulary) for files in (a, b))
            found.append(_listed(name, list(json_differences(ours, theirs))))
        elif all(has):
            found.append(_listed(name, contents(a.bytes(name), b.bytes(name))))
        elif any(has) and not _is_template(name, a if has[0] else b):
            left.append(NotCompared("A" if has[0] else "B", "files", (name,), "the other model has no such file"))
    return found, left


def _is_template(name: str, files: Files) -> bool:
    """Return whether a file holds the chat template that is read; it is compared separately, in any file."""
    return name.endswith((".jinja", "chat_template.json")) and CHAT_TEMPLATE not in files.json(SETTINGS)


def _object(files: Files, name: str, vocabulary: bool) -> dict[str, Any]:
    """Return a file's object as it is compared: added tokens by id, merges as texts."""
    found = files.json(name)
    if name == SETTINGS and not files.has(JINJA):  # otherwise only GGUF files use this template
        return {key: value for key, value in found.items() if key != CHAT_TEMPLATE}
    if name != JSON:
        return found
    added, model = found.get("added_tokens"), found.get("model")
    by_id = {str(t["id"]): t for t in added if isinstance(t, dict) and "id" in t} if isinstance(added, list) else {}
    if isinstance(added, list) and len(by_id) == len(added):
        found = found | {"added_tokens": by_id}
    if isinstance(model, dict):
        kept = {key: value for key, value in model.items() if vocabulary or key not in ("vocab", "merges")}
        merges = kept.get("merges")
        if isinstance(merges, list):
            kept["merges"] = [
                " ".join(m) if isinstance(m, list) and len(m) == 2 and _are_texts(m) else m for m in merges
            ]
        found = found | {"model": kept}
    return found


def _are_texts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
