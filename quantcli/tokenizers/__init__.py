"""Vocabularies: a model folder's tokenizer in the terms that both dialects share.

Two kinds are read, each from the first of these files that exists:

    byte-level BPE   `tokenizer.json` (GPT-2, Llama 3, Qwen)
                     `tekken.json` (Mistral, see `tekken`), without a tokenizer.json
                     `tiktoken.model` and `*.tiktoken` (Kimi, Hunyuan, see `tiktoken`), without a tokenizer.json
    SentencePiece    `tokenizer.model`, or a `tokenizer.json` with byte fallback that was made from one
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantcli.checkpoint import Vocabulary
from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput, NotPossible
from quantcli.tokenizers import (
    byte_level,
    folder_keys,
    listed,
    pre_tokenizers,
    sentencepiece,
    special,
    tekken,
    templates,
    tiktoken,
)
from quantcli.tokenizers.conventions import PLAIN, Conventions
from quantcli.tokenizers.files import JSON, MODEL, SETTINGS, TEKKEN, Files
from quantcli.tokenizers.pre_tokenizers import flattened
from quantcli.tokenizers.tokenizer_json import MOST_TOKENS, AddedToken, TokenizerJson, added_token, parse


def load(
    folder: Path, config: Mapping[str, Any], conventions: Conventions = PLAIN, tokenizer_folder: Path | None = None
) -> Vocabulary:
    """Read the vocabulary of a model folder.

    config: `config.json`'s object; its `vocab_size` is the required number of tokens, its `*_token_id` are used for
    special tokens that the tokenizer's files do not name. conventions: the architecture's. tokenizer_folder: another
    folder with the tokenizer's files. Raises `BadInput`, and `NotPossible` if the tokenizer is missing or not
    supported.
    """
    files = Files(folder, tokenizer_folder)
    stored = files.json(JSON)
    tokenizer = parse(stored, files.label(JSON)) if files.has(JSON) else None
    settings = files.json(SETTINGS)
    size = _size(config, conventions.multiple)
    if tokenizer is None and files.has(TEKKEN):
        made = tekken.vocabulary(files, size)
    else:
        vocabulary = _read(files, tokenizer, settings, size, conventions)
        made = _settled(vocabulary, files, tokenizer, settings, config, conventions)
    made = replace(made, suppressed=listed.suppressed(files, len(made.tokens)))
    made = listed.placed(made, conventions.ids, config, files)
    lost = folder_keys.lost(files, stored, settings, made, conventions)
    return replace(made, warnings=(*made.warnings, *lost))


def _read(
    files: Files, tokenizer: TokenizerJson | None, settings: Mapping[str, Any], size: int | None, rules: Conventions
) -> Vocabulary:
    """Read tokens and merges or scores from the first file that has them."""
    if tokenizer is not None and tokenizer.kind == "BPE" and tokenizer.byte_level and not tokenizer.byte_fallback:
        return _byte_level(files, tokenizer, settings, size, rules.pre)
    ranks = tiktoken.find(files, settings, rules.pre) if tokenizer is None else None
    if ranks is not None:
        return tiktoken.vocabulary(files, ranks, _decoder(files, settings), settings, size)
    if files.has(MODEL):
        return _from_model(files, settings, size)
    if tokenizer is not None and tokenizer.kind == "BPE" and tokenizer.byte_fallback:
        pieces = sentencepiece.from_json(tokenizer, files.label(JSON))
        return _from_pieces(files, pieces, _added(files, tokenizer, settings), size)
    raise NotPossible(_refusal(files, tokenizer))


def _settled(
    vocabulary: Vocabulary,
    files: Files,
    tokenizer: TokenizerJson | None,
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
    conventions: Conventions,
) -> Vocabulary:
    """Return the vocabulary with the special tokens, the tokens around a text and the chat templates in other files."""
    added = tokenizer.added if tokenizer is not None else ()
    processor = tokenizer.post_processor if tokenizer is not None else None
    ids, add, warnings = special.read(processor, settings, config, added, len(vocabulary.tokens))
    # The defaults of the vocabulary's kind and of llama.cpp's converter apply if the tokenizer's files name no token.
    chosen = {**_by_text(vocabulary.tokens, conventions.texts), **vocabulary.special}
    ids |= {role: number for role, number in chosen.items() if role not in ids}
    ids |= _by_key(config, conventions.keys, len(vocabulary.tokens))
    ids |= _by_width(config, conventions.ranked, len(vocabulary.tokens)) if tokenizer is None else {}
    template, others = templates.read(files, settings)
    prefix = settings.get("add_prefix_space")
    return replace(
        vocabulary,
        special=ids,
        add=add,
        add_space_prefix=prefix if isinstance(prefix, bool) else vocabulary.add_space_prefix,
        normalizer=_normalizer_flags(tokenizer),
        chat_template=template,
        chat_templates=others,
        warnings=(*vocabulary.warnings, *warnings),
    )


def _by_text(tokens: tuple[bytes, ...], texts: Mapping[str, str]) -> dict[str, int]:
    """Return the ids of special tokens by role, for texts that are in the vocabulary."""
    wanted = {text.encode() for text in texts.values()}
    ids = {token: number for number, token in enumerate(tokens) if token in wanted}
    return {role: ids[text.encode()] for role, text in texts.items() if text.encode() in ids}


def _by_key(config: Mapping[str, Any], keys: Mapping[str, str], size: int) -> dict[str, int]:
    """Return the ids below `size` of special tokens by role, from an architecture's keys of config.json."""
    read = Reader(config)
    ids = {role: read.optional_integer(key, least=0) for role, key in keys.items()}
    return {role: number for role, number in ids.items() if number is not None and number < size}


def _by_width(config: Mapping[str, Any], ranked: Mapping[int, Mapping[str, int]], size: int) -> dict[str, int]:
    """Return the ids below `size` of special tokens by role, for models with one hidden_size."""
    width = Reader(config).optional_integer("hidden_size", least=0)
    ids = {} if width is None else ranked.get(width, {})
    return {role: number for role, number in ids.items() if number < size}


def _size(config: Mapping[str, Any], multiple: int) -> int | None:
    read = Reader(config)
    if not read.has("vocab_size"):
        return None
    size = read.whole("vocab_size")
    if not 0 < size <= MOST_TOKENS:
        raise read.refuse("vocab_size", f"expected a whole number from 1 to {MOST_TOKENS}")
    return -(-size // multiple) * multiple


def _refusal(files: Files, tokenizer: TokenizerJson | None) -> str:
    if tokenizer is not None and tokenizer.kind != "BPE":
        return (
            f"{files.label(JSON)}: tokenizer type {shown(tokenizer.kind)} is not supported. Supported: BPE and "
            "SentencePiece."
        )
    if tokenizer is not None:
        return (
            f"{files.label(JSON)}: this BPE tokenizer is not byte-level and has no byte fallback. "
            "GGUF supports only byte-level BPE and BPE with byte fallback."
        )
    if files.has("vocab.json"):
        return f"{files.root}: has vocab.json but no {JSON}. Save the tokenizer with transformers, which writes one."
    ranks = files.ending(".tiktoken")
    if ranks:
        return (
            f"{files.label(ranks[0])}: contains neither special tokens nor a rule that splits text, and {SETTINGS} "
            f"names no supported class that defines them. Add the {JSON} that transformers writes for it."
        )
    return (
        f"{files.root}: {JSON} and {MODEL} are missing, but GGUF requires a tokenizer. Add the model's tokenizer files."
    )


def _added(files: Files, tokenizer: TokenizerJson | None, settings: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Return added tokens by id from all files that may have some; `tokenizer_config.json` takes precedence."""
    tokens = {token.id: token for token in tokenizer.added} if tokenizer is not None else {}
    if tokenizer is None:
        tokens |= sentencepiece.added_from(files.json("added_tokens.json"), files.label("added_tokens.json"))
    return tokens | _decoder(files, settings)


def _decoder(files: Files, settings: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Return the tokens in `tokenizer_config.json`'s `added_tokens_decoder` by id. Raises `BadInput`."""
    where = files.label(SETTINGS)
    tokens: dict[int, AddedToken] = {}
    for key, entry in Reader(settings, where).part("added_tokens_decoder").values.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise BadInput(f"{where}: added_tokens_decoder: expected token ids as keys, found {shown(key)}.")
        tokens[int(key)] = added_token(entry, int(key), f"added_tokens_decoder: {key}", where)
    return tokens


def _byte_level(
    files: Files, tokenizer: TokenizerJson, settings: Mapping[str, Any], size: int | None, prefer: tuple[str, ...]
) -> Vocabulary:
    where = files.label(JSON)
    known = {token.content for token in tokenizer.added} | set(tokenizer.vocab)
    used = {token.id for token in tokenizer.added} | set(tokenizer.vocab.values())
    more = tuple(t for t in _decoder(files, settings).values() if t.content not in known and t.id not in used)
    texts = frozenset(special.texts_of(settings).values())
    tokens, types, without_row = byte_level.tokens_and_types(
        tokenizer.vocab, tokenizer.added + more, texts, size, where
    )
    normalizers = [step.get("type") for step in flattened(tokenizer.normalizer, "normalizers")]
    pre = pre_tokenizers.recognise(
        tokenizer.pre_tokenizer,
        nfc="NFC" in normalizers,
        ignore_merges=tokenizer.ignore_merges,
        fills=pre_tokenizers.FILL in tokens,
        first=special.leading(tokenizer.post_processor),
        prefer=prefer,
    )
    warnings = [
        f"{where}: llama.cpp does not support normalizer {shown(name)} for this tokenizer, so text that the "
        "normalizer changes gets different token ids."
        for name in normalizers
        if name not in ("NFC", "Lowercase", "StripAccents")
    ]
    if any(step.get("add_prefix_space") for step in flattened(tokenizer.pre_tokenizer, "pretokenizers")):
        warnings.append(f"{where}: add_prefix_space requires a space before the text, but llama.cpp does not add one.")
    if pre is None:
        warnings.append(
            f"{where}: llama.cpp has no name for this pre_tokenizer; tokenizer.ggml.pre is set to "
            f"`{pre_tokenizers.ASSUMED}`, which may split text differently. --override-kv sets another name."
        )
    return Vocabulary(
        model="bpe",
        pre=pre or pre_tokenizers.ASSUMED,
        tokens=tokens,
        types=types,
        scores=None,
        merges=byte_level.merges(tokenizer),
        special={},
        add={},
        warnings=(*without_row, *warnings),
    )


def _from_model(files: Files, settings: Mapping[str, Any], size: int | None) -> Vocabulary:
    where = files.label(MODEL)
    model = sentencepiece.parse_model(files.bytes(MODEL), where)
    vocabulary = _from_pieces(files, model.pieces, _added(files, None, settings), size)
    warnings = vocabulary.warnings
    if model.model_type != sentencepiece.BPE:
        warnings += (
            f"{where}: is not a BPE model; llama.cpp merges its pieces by score, so some texts get different token "
            "ids.",
        )
    if not files.has(JSON):  # tokenizer.json has the normalizer, and is checked by folder_keys
        does = [what for what, on in (("replaces characters", model.normalizes), ("removes spaces", model.trims)) if on]
        if does:
            warnings += (
                f"{where}: its normalizer {' and '.join(does)}, which llama.cpp does not do, so some texts get "
                "different token ids.",
            )
    # By default llama.cpp puts a space before a text.
    return replace(vocabulary, warnings=warnings, add_space_prefix=None if model.add_dummy_prefix else False)


def _from_pieces(
    files: Files, pieces: tuple[sentencepiece.Piece, ...], added: Mapping[int, AddedToken], size: int | None
) -> Vocabulary:
    table, warnings = sentencepiece.table(pieces, added, size, str(files.root))
    return Vocabulary(
        model="spm",
        pre="default",
        tokens=tuple(piece.text for piece in table),
        types=tuple(piece.type for piece in table),
        scores=tuple(piece.score for piece in table),
        merges=(),
        special={},
        add={},
        warnings=warnings,
    )


def _normalizer_flags(tokenizer: TokenizerJson | None) -> dict[str, bool]:
    """Return the steps of a normalizer that GGUF has keys for: `lowercase`, `strip_accents`."""
    flags: dict[str, bool] = {}
    for step in flattened(tokenizer.normalizer if tokenizer is not None else None, "normalizers"):
        if step.get("type") in ("Lowercase", "StripAccents"):
            flags["lowercase" if step["type"] == "Lowercase" else "strip_accents"] = True
    return flags
