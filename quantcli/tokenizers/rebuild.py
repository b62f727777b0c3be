"""`tokenizer.json` rebuilt from a GGUF file's vocabulary.

    gpt2    bytes renamed to characters; pre-tokenizer, NFC and ignore_merges by the name in `tokenizer.ggml.pre`
    llama   SentencePiece: spaces as U+2581, unknown characters as bytes <0xNN>; merges from the scores
    gemma4  as llama, but with stored merges, within lines

What GGUF cannot express is lost: flags of added tokens (`lstrip`, `single_word`), whether `<|a|>` was special,
normalizers. Source: llama.cpp's src/llama-vocab.cpp (the effect of each key); the format of Hugging Face's tokenizers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.checkpoint import Vocabulary
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput, NotPossible
from quantcli.tokenizers import ends
from quantcli.tokenizers.byte_level import CONTROL, NORMAL, UNDERLINE, UNKNOWN, UNUSED, USER_DEFINED
from quantcli.tokenizers.ends import Ends
from quantcli.tokenizers.splittings import DIGIT, GPT2, SPLITTINGS, Splitting

#: A SentencePiece vocabulary as a splitting: text is not split before it is merged.
PIECES = Splitting((), raw=True, adds_bos=True)

#: Vocabulary.model -> its splitting; None: `pre` decides.
MODELS: dict[str, Splitting | None] = {"bpe": None, "spm": PIECES, "gemma4": SPLITTINGS["gemma4"]}

#: More characters than any token has; limits the work that a hostile file can cause.
LONGEST = 4096

#: Special tokens of Phi-3 that keep the spaces after them.
KEEPS_BLANKS = ("<unk>", "<s>", "<|endoftext|>")

_BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


@dataclass(frozen=True)
class Tokens:
    """A vocabulary's checked tokens as text: `texts` and `types` by id, `ids` by text, without padding."""

    texts: tuple[str, ...]
    types: tuple[int, ...]
    ids: Mapping[str, int]

    def text(self, number: int | None) -> str | None:
        """Return the text of an id, None for an id without a token."""
        return self.texts[number] if number is not None and 0 <= number < len(self.texts) else None


def splitting(vocabulary: Vocabulary) -> Splitting:
    """Return how a vocabulary splits text. Raises `NotPossible` for a model or a `pre` that is not in the tables."""
    if vocabulary.model not in MODELS:
        raise NotPossible(
            f"tokenizer.ggml.model {shown(vocabulary.model)} cannot be converted to tokenizer.json. Supported: "
            "gpt2 (byte-level BPE), llama (SentencePiece), gemma4. Use --tokenizer FOLDER to copy the "
            "original model's files."
        )
    fixed = MODELS[vocabulary.model]
    if fixed is not None:
        return fixed
    if vocabulary.pre not in SPLITTINGS:
        raise NotPossible(
            f"pre-tokenizer {shown(vocabulary.pre)} (tokenizer.ggml.pre) is not supported, so tokenizer.json "
            "cannot be written. Use --tokenizer FOLDER to copy the original model's files."
        )
    return SPLITTINGS[vocabulary.pre]


def checked(vocabulary: Vocabulary) -> Tokens:
    """Return the tokens as text. Raises `BadInput` for a token that is not text, or that appears twice."""
    count = len(vocabulary.tokens)
    types = vocabulary.types or (NORMAL,) * count
    for key, values in (("token_type", types), ("scores", vocabulary.scores)):
        if values is not None and len(values) != count:
            raise BadInput(
                f"tokenizer.ggml.{key}: expected one entry per token (tokenizer.ggml.tokens has {count}), "
                f"found {len(values)}."
            )
    texts = tuple(_text(token, number) for number, token in enumerate(vocabulary.tokens))
    types = _settled(types, ends.of(vocabulary))
    raw = splitting(vocabulary).raw
    ids: dict[str, int] = {}
    for number, text in enumerate(texts):
        if types[number] == UNUSED and text == f"[PAD{number}]":
            continue
        text = _piece(text, types[number]) if raw else text
        if ids.setdefault(text, number) != number:
            raise BadInput(f"tokenizer.ggml.tokens: {shown(text)} has ids {ids[text]} and {number}.")
    return Tokens(texts, types, ids)


def _settled(types: tuple[int, ...], endings: Ends) -> tuple[int, ...]:
    """Return the types that llama.cpp uses after it has compared the texts with its tables."""
    by_text = dict.fromkeys(endings.ordinary, NORMAL)
    by_text |= {n: CONTROL for n in endings.controls if types[n] not in (UNKNOWN, USER_DEFINED)}
    return tuple(by_text.get(n, kind) for n, kind in enumerate(types))


def _text(token: bytes, number: int) -> str:
    try:
        return token.decode("utf-8") or f"[EMPTY_{number}]"
    except UnicodeDecodeError:
        raise BadInput(f"tokenizer.ggml.tokens[{number}] is {shown(token)}, which is not UTF-8 text.") from None


def _piece(text: str, kind: int) -> str:
    """Return a token as SentencePiece spells it; llama.cpp's converter writes user-defined runs of spaces plainly."""
    return text.replace(" ", UNDERLINE) if kind == USER_DEFINED and not text.strip(" ") else text


def tokenizer_json(vocabulary: Vocabulary, strips: bool = False) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the object for `tokenizer.json`, and warnings.

    strips: spaces after special tokens are dropped (`Conventions.strips`). Raises `BadInput`, `NotPossible`.
    """
    how, tokens = splitting(vocabulary), checked(vocabulary)
    merges, warnings = _merges(vocabulary, tokens)
    prefixed = vocabulary.model == "spm" and vocabulary.add_space_prefix is not False
    made = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(tokens, how, strips and vocabulary.model == "spm"),
        "normalizer": _normalizer(vocabulary, how, prefixed),
        "pre_tokenizer": _pre_tokenizer(how),
        "post_processor": _post_processor(vocabulary, tokens, how),
        "decoder": _decoder(prefixed) if how.raw else _BYTES,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown(vocabulary, tokens) if how.raw else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": how.raw,
            "byte_fallback": how.raw,
            "ignore_merges": how.ignore_merges,
            "vocab": dict(tokens.ids),
            "merges": [list(pair) for pair in merges],
        },
    }
    return made, warnings


def unknown(vocabulary: Vocabulary, tokens: Tokens) -> str | None:
    """Return the token for unknown text: the one of that type, else the one with the text <unk>, else the named one.

    The named one comes last because llama.cpp's converter names another one for Nemotron.
    """
    typed = next((number for number, kind in enumerate(tokens.types) if kind == UNKNOWN), tokens.ids.get("<unk>"))
    return tokens.text(vocabulary.special.get("unknown") if typed is None else typed)


def added_tokens(tokens: Tokens, how: Splitting, strips: bool) -> list[dict[str, Any]]:
    """Return the entries for tokens that are matched before text is split, by id."""
    entries = []
    for text, number in tokens.ids.items():
        kind = tokens.types[number]
        if kind in (CONTROL, UNKNOWN, USER_DEFINED):
            behind = strips and kind == CONTROL and text not in KEEPS_BLANKS
            entry = {"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": behind}
            entries.append(entry | {"normalized": False, "special": kind != USER_DEFINED})
    return entries


def _merges(vocabulary: Vocabulary, tokens: Tokens) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Return merges, best first, and a warning if some name tokens that do not exist. Raises `BadInput`."""
    if vocabulary.model == "spm":
        return scored_merges(tokens, vocabulary.scores), ()
    if not vocabulary.merges:
        raise BadInput("tokenizer.ggml.merges is missing or empty; byte-level BPE requires it.")
    pairs = []
    for merge in vocabulary.merges:
        at = merge.find(" ", 1)
        left, right = merge[:at], merge[at + 1 :]
        if at > 0 and all(text in tokens.ids for text in (left, right, left + right)):
            pairs.append((left, right))
    lost = len(vocabulary.merges) - len(pairs)
    if lost:
        return pairs, (f"tokenizer.ggml.merges: {lost} merges of tokens that are not in the vocabulary are dropped.",)
    return pairs, ()


def scored_merges(tokens: Tokens, scores: tuple[float, ...] | None) -> list[tuple[str, str]]:
    """Return the merges that make each piece from two others, pieces in the order of their scores.

    llama.cpp joins the neighbours whose joined text has the highest score. User-defined pieces come first: they are
    matched as a unit. Ties, which real models do not have, are resolved by the lower id. Raises `BadInput`.
    """
    if scores is None:
        raise BadInput("tokenizer.ggml.scores is missing; a SentencePiece vocabulary requires it.")
    if not all(map(math.isfinite, scores)):
        raise BadInput("tokenizer.ggml.scores contains NaN or Inf.")
    kinds = (NORMAL, USER_DEFINED)
    ids = {text: number for text, number in tokens.ids.items() if tokens.types[number] in kinds}
    if max(map(len, ids), default=0) > LONGEST:
        raise BadInput(f"tokenizer.ggml.tokens contains a token of more than {LONGEST} characters, the limit.")
    order = sorted(ids, key=lambda text: (tokens.types[ids[text]] != USER_DEFINED, -scores[ids[text]], ids[text]))
    merges: list[tuple[str, str]] = []
    for text in order:
        halves = [(text[:at], text[at:]) for at in range(1, len(text)) if text[:at] in ids and text[at:] in ids]
        merges.extend(sorted(halves, key=lambda pair: (ids[pair[0]], ids[pair[1]])))
    return merges


def _normalizer(vocabulary: Vocabulary, how: Splitting, prefixed: bool) -> dict[str, Any] | None:
    steps: list[dict[str, Any]] = [{"type": "NFC"}] if how.nfc else []
    if vocabulary.normalizer.get("strip_accents"):
        steps += [{"type": "NFD"}, {"type": "StripAccents"}]
    if vocabulary.normalizer.get("lowercase"):
        steps.append({"type": "Lowercase"})
    if prefixed:
        steps.append({"type": "Prepend", "prepend": UNDERLINE})
    if how.raw:
        steps.append({"type": "Replace", "pattern": {"String": " "}, "content": UNDERLINE})
    if len(steps) < 2:
        return steps[0] if steps else None
    return {"type": "Sequence", "normalizers": steps}


def _pre_tokenizer(how: Splitting) -> dict[str, Any] | None:
    """Return the steps; ByteLevel itself implements GPT-2's expression at the end."""
    ends = bool(how.steps) and how.steps[-1] == GPT2
    steps = [_step(step) for step in (how.steps[:-1] if ends else how.steps)]
    if not how.raw:
        steps.append(_BYTES | {"add_prefix_space": False, "use_regex": ends})
    if len(steps) < 2:
        return steps[0] if steps else None
    return {"type": "Sequence", "pretokenizers": steps}


def _step(step: str) -> dict[str, Any]:
    if step == "Punctuation":
        return {"type": "Punctuation", "behavior": "Contiguous"}
    if step == DIGIT:
        return {"type": "Digits", "individual_digits": True}
    return {"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False}


def _decoder(prefixed: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": UNDERLINE}, "content": " "}]
    steps += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if prefixed:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _post_processor(vocabulary: Vocabulary, tokens: Tokens, how: Splitting) -> dict[str, Any]:
    """Return the template for one text and for two: `<s> A`, `<s> A <s> B`, with a separator `<s> A </s> B`."""
    first, last = _around(vocabulary, tokens, how)
    renamed = _BYTES | {"trim_offsets": False}
    if not how.raw and not first and not last:
        return renamed
    between = first if "sep" in vocabulary.add else ()
    separator = tokens.text(vocabulary.special.get("seperator", vocabulary.special.get("eos")))
    if vocabulary.add.get("sep") and separator is not None and not last:
        between = (separator,)
    single = [*_entries(first, 0), _sequence("A"), *_entries(last, 0)]
    pair = [*single, *_entries(between, 1), _sequence("B"), *_entries(last, 1)]
    special = {
        text: {"id": text, "ids": [number], "tokens": [text]}
        for text in dict.fromkeys((*first, *between, *last))
        if (number := tokens.ids.get(text)) is not None
    }
    template = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    return template if how.raw else {"type": "Sequence", "processors": [renamed, template]}


def _around(vocabulary: Vocabulary, tokens: Tokens, how: Splitting) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tokens before and after a text."""
    bos, eos = (tokens.text(vocabulary.special.get(role)) for role in ("bos", "eos"))
    first: tuple[str, ...] = () if bos is None else (bos,)
    if how.leading and all(text in tokens.ids for text in how.leading):
        first = how.leading
    adds = vocabulary.add.get("bos", how.adds_bos)
    last = (eos,) if vocabulary.add.get("eos", False) and eos is not None else ()
    return (first if adds else ()), last


def _entries(texts: tuple[str, ...], sequence: int) -> list[dict[str, Any]]:
    return [{"SpecialToken": {"id": text, "type_id": sequence}} for text in texts]


def _sequence(name: str) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": 0 if name == "A" else 1}}
