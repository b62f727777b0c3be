"""Vocabularies in `tekken.json`, Mistral's format, which mistral-common reads.

    config           pattern, default_vocab_size, default_num_special_tokens, version
    vocab            [{"rank": 0, "token_bytes": "AA==", "token_str": "\\u0000"}, ...], the 256 bytes first
    special_tokens   [{"rank": 0, "token_str": "<unk>", "is_control": true}, ...]; older files have none

Special tokens have the first ids, the ranks the ids after them. The file's special tokens override config.json and
tokenizer_config.json. Source: mistral-common's `Tekkenizer`; gguf-py's `MistralVocab` and `_set_vocab_mistral` in
llama.cpp's conversion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantcli.checkpoint import Vocabulary
from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput
from quantcli.tokenizers import ranks as by_rank
from quantcli.tokenizers import templates
from quantcli.tokenizers.byte_level import tokens_and_types
from quantcli.tokenizers.files import SETTINGS, TEKKEN, Files
from quantcli.tokenizers.pre_tokenizers import normalised
from quantcli.tokenizers.splittings import SPLITTINGS
from quantcli.tokenizers.tokenizer_json import MOST_TOKENS, AddedToken

PRE = "tekken"
BYTES = 256
#: Role -> its token. mistral-common requires the first two.
NEEDED = {"bos": "<s>", "eos": "</s>"}
ROLES_BY_TEXT = {**NEEDED, "unknown": "<unk>", "padding": "<pad>"}
#: The special tokens for files that list none, by id.
OLDER_TOKENS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip
#: The versions of such files.
OLDER_VERSIONS = ("v1", "v2", "v3", "v7")
#: Version -> the name of a chat template that llama.cpp has built in.
BUILT_IN_BY_VERSION = {"v1": "mistral-v1", "v3": "mistral-v3-tekken", "v7": "mistral-v7-tekken"}


@dataclass(frozen=True)
class Tekken:
    """The contents of a `tekken.json`. special: by id; those that the file does not name are `<SPECIAL_ID>`."""

    ranks: Mapping[bytes, int]
    special: tuple[str, ...]
    version: str
    pattern: str


def parse(data: Mapping[str, Any], where: str) -> Tekken:
    """Return the checked parts of a `tekken.json` object. where: the file's name in errors. Raises `BadInput`."""
    read = Reader(data, where)
    config = read.part("config", needed=True)
    size = config.integer("default_vocab_size", most=MOST_TOKENS)
    reserved = config.integer("default_num_special_tokens", most=size)
    entries, version = read.elements("vocab"), config.text("version", "")
    if size - reserved > len(entries):
        raise BadInput(
            f"{where}: default_vocab_size is {size}, but the file has {reserved} special tokens and {len(entries)} "
            "others."
        )
    ranks = _ranks(entries[: size - reserved], where)
    return Tekken(ranks, _special_tokens(read, reserved, version), version, config.text("pattern"))


def _ranks(entries: Sequence[object], where: str) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for place, entry in enumerate(entries):
        at = f"{where}: vocab[{place}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("token_bytes"), str):
            raise BadInput(f"{at}: expected an object with a string token_bytes, found {shown(entry)}.")
        _check_rank(entry, place, at)
        token = by_rank.decoded(entry["token_bytes"], at)
        if place < BYTES and token != bytes((place,)):
            raise BadInput(
                f"{at}: expected byte {place} (the first {BYTES} tokens are the bytes in order), found {shown(token)}."
            )
        if ranks.setdefault(token, place) != place:
            raise BadInput(f"{at}: {shown(token)} already has rank {ranks[token]}.")
    if len(ranks) < BYTES:
        raise BadInput(f"{where}: expected at least the {BYTES} bytes as tokens, found {len(ranks)} tokens.")
    by_rank.check_lengths(ranks, where)
    return ranks


def _check_rank(entry: Mapping[str, Any], place: int, at: str) -> None:
    rank = entry.get("rank")
    if isinstance(rank, bool) or rank != place:
        raise BadInput(f"{at}: expected rank {place} (ranks have no gaps), found {shown(rank)}.")


def _special_tokens(read: Reader, count: int, version: str) -> tuple[str, ...]:
    """Return `count` special tokens by id. Raises `BadInput`."""
    where = read.file
    if not read.has("special_tokens") and version not in OLDER_VERSIONS:
        raise BadInput(f"{where}: special_tokens is missing; version {shown(version)} requires it.")
    names: list[str] = []
    for place, entry in enumerate(read.elements("special_tokens")):
        at = f"{where}: special_tokens[{place}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("token_str"), str):
            raise BadInput(f"{at}: expected an object with a string token_str, found {shown(entry)}.")
        _check_rank(entry, place, at)
        names.append(entry["token_str"])
    names = names if read.has("special_tokens") else list(OLDER_TOKENS)
    if len(names) > count:
        raise BadInput(f"{where}: has {len(names)} special tokens, but default_num_special_tokens is {count}.")
    names += [f"<SPECIAL_{number}>" for number in range(len(names), count)]
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        if seen.setdefault(name, number) != number:
            raise BadInput(f"{where}: special token {shown(name)} has ranks {seen[name]} and {number}.")
    missing = [name for name in NEEDED.values() if name not in seen]
    if missing:
        raise BadInput(f"{where}: special token {missing[0]} is missing.")
    return tuple(names)


def vocabulary(files: Files, size: int | None) -> Vocabulary:
    """Read the vocabulary of a folder with a `tekken.json`, for a model with `size` tokens (None: all)."""
    where = files.label(TEKKEN)
    tekken = parse(files.json(TEKKEN), where)
    offset = len(tekken.special)
    vocab = {by_rank.spelled(token): offset + rank for token, rank in tekken.ranks.items()}
    for number, name in enumerate(tekken.special):
        if name in vocab:
            raise BadInput(f"{where}: special token {shown(name)} (id {number}) is also token {vocab[name]}.")
    added = [AddedToken(number, name, True) for number, name in enumerate(tekken.special)]
    tokens, types, without_row = tokens_and_types(vocab, added, frozenset(), size, where)
    template, others, warnings = _templates(files, tekken.version)
    if normalised(tekken.pattern) not in map(normalised, SPLITTINGS[PRE].steps):
        warnings = (
            *warnings,
            f"{where}: llama.cpp splits text by a different pattern, so some texts get different token ids.",
        )
    ids = {name: number for number, name in enumerate(tekken.special)}
    return Vocabulary(
        model="bpe",
        pre=PRE,
        tokens=tokens,
        types=types,
        scores=(0,) * len(tokens),
        merges=by_rank.merges(by_rank.all_pairs(tekken.ranks), where),
        special={role: ids[text] for role, text in ROLES_BY_TEXT.items() if text in ids},
        add={"bos": True, "eos": False},
        chat_template=template,
        chat_templates=others,
        warnings=(*without_row, *warnings),
    )


def _templates(files: Files, version: str) -> tuple[str | None, dict[str, str], tuple[str, ...]]:
    """Return the chat template, the named others, and warnings.

    llama.cpp's converter writes the name of a template that llama.cpp has built in, even if the folder has a template.
    For newer versions it writes a text from llama.cpp's sources, which quant does not have.
    """
    where = files.label(TEKKEN)
    own, others = templates.read(files, files.json(SETTINGS))
    name = BUILT_IN_BY_VERSION.get(version)
    if name is not None:
        lost = (
            f"{where}: the output uses llama.cpp's built-in chat template {name}, as its converter does, instead of "
            "the folder's. --override-kv tokenizer.chat_template=str:TEXT sets another."
        )
        return name, {}, () if own is None else (lost,)
    none = (
        f"{where}: llama.cpp has no built-in chat template for version {shown(version)} and the folder has none, so "
        f"the GGUF file has none. Add {templates.JINJA} to the folder."
    )
    return own, others, () if own is not None else (none,)
