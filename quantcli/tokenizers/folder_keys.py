"""Settings in a model folder's tokenizer files that GGUF cannot store and that change ids or the form of a chat.

Each kind of loss is one warning that names the file and the key. Settings for loading a tokenizer or for decoding ids
are ignored: the pre-tokenizer's name implies them.
Source: Hugging Face's tokenizers and transformers (the effect of each setting), llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quantcli.checkpoint import Vocabulary
from quantcli.containers.hostile import shown
from quantcli.tokenizers import defaults, ends, templates
from quantcli.tokenizers.byte_level import CONTROL, UNDERLINE, UNKNOWN, USER_DEFINED
from quantcli.tokenizers.conventions import Conventions
from quantcli.tokenizers.files import JSON, SETTINGS, Files
from quantcli.tokenizers.pre_tokenizers import ASSUMED, flattened
from quantcli.tokenizers.sentencepiece import SPELLED_BYTE
from quantcli.tokenizers.special import ROLES, USUAL, texts_of
from quantcli.tokenizers.splittings import SPLITTINGS

MAP = "special_tokens_map.json"

#: Keys of tokenizer_config.json that change ids -> the values that do not; null never does.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "split_special_tokens": (False,),
    "sp_model_kwargs": ({},),
    "do_lower_case": (False,),
    "remove_space": (False,),
    "keep_accents": (True,),
}

#: Keys of tokenizer.json's `model` that change ids -> the values that do not; null never does.
NEUTRAL_MODEL: Mapping[str, tuple[Any, ...]] = {
    "dropout": (0.0,),
    "continuing_subword_prefix": ("",),
    "end_of_word_suffix": ("",),
}

#: Flags of added tokens that change ids.
FLAGS = ("lstrip", "rstrip", "single_word")

#: Classes that use tokenizer.json unchanged.
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
#: Prefixes of the names of classes that put a space before a text if tokenizer_config.json sets add_prefix_space.
PREFIXING = ("GPT2", "Roberta", "GPTNeoX", "CodeGen", "Bart", "Bloom", "Longformer", "Blenderbot", "Deberta")


def lost(
    files: Files, tokenizer: Mapping[str, Any], settings: Mapping[str, Any], made: Vocabulary, rules: Conventions
) -> tuple[str, ...]:
    """Return warnings about settings that GGUF loses.

    tokenizer, settings: the objects in tokenizer.json and tokenizer_config.json. made: the vocabulary for GGUF.
    """
    where, model = files.label(JSON), tokenizer.get("model")
    warnings = [*_listed(files.label(SETTINGS), settings, NEUTRAL), *_prefixing(files.label(SETTINGS), settings, made)]
    if tokenizer:
        warnings += _listed(f"{where}: model", model if isinstance(model, Mapping) else {}, NEUTRAL_MODEL)
        warnings += _steps(where, tokenizer, made, rules)
        warnings += _added(where, tokenizer.get("added_tokens"), rules)
        warnings += _around(where, tokenizer, settings, made)
    warnings += _roles(files, settings, made)
    if (disagreement := templates.disagreement(files)) is not None:
        warnings.append(disagreement)
    return tuple(warnings)


def _prefixing(where: str, settings: Mapping[str, Any], made: Vocabulary) -> Iterator[str]:
    """Warn about a space that a class of byte-level BPE puts before a text."""
    name = settings.get("tokenizer_class")
    if made.model == "bpe" and settings.get("add_prefix_space") is True and str(name).startswith(PREFIXING):
        yield f"{where}: add_prefix_space is true, but with byte-level BPE llama.cpp adds no space before the text."


def _listed(where: str, values: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> Iterator[str]:
    """Warn about settings whose value changes ids."""
    changed = [key for key, same in neutral.items() if values.get(key) is not None and values[key] not in same]
    if changed:
        names = ", ".join(f"{key} ({shown(values[key])})" for key in changed)
        yield f"{where}: GGUF has no key for {names}, so some texts get different token ids in llama.cpp."


def _steps(where: str, tokenizer: Mapping[str, Any], made: Vocabulary, rules: Conventions) -> Iterator[str]:
    """Warn about steps before and in the model that llama.cpp executes differently, or not at all."""
    model = tokenizer.get("model")
    ignores = isinstance(model, Mapping) and model.get("ignore_merges") is True
    does = SPLITTINGS[made.pre].ignore_merges if made.model == "bpe" and made.pre in SPLITTINGS else False
    # There is another warning for an assumed pre-tokenizer.
    if ignores != does and (made.model == "spm" or made.pre != ASSUMED) and (count := _unmerged(tokenizer)):
        takes = "uses words of the vocabulary without merging" if does else "builds each word by merges"
        yield (
            f"{where}: model.ignore_merges is {str(ignores).lower()}, but llama.cpp {takes}, so the results "
            f"differ for {count} tokens that no merge produces."
        )
    normalizers = _parts(tokenizer, "normalizer", "normalizers")
    if made.model == "bpe":
        odd = [step for step in normalizers if step.get("type") in ("Lowercase", "StripAccents")]
    else:
        odd = [*normalizers, *_parts(tokenizer, "pre_tokenizer", "pretokenizers")]
        odd = [step for step in odd if not _is_blanks(step)]
    if odd:
        kind = "byte-level BPE" if made.model == "bpe" else "SentencePiece"
        step = shown(odd[0].get("type"))
        yield f"{where}: llama.cpp does not support step {step} for {kind}, so some texts get different token ids."
    written = made.add_space_prefix if rules.space_prefix is None else rules.space_prefix
    if made.model == "spm" and _prefixes(tokenizer) != (written is not False):
        puts = "a space" if written is not False else "no space"
        hint = "" if rules.space_prefix is not None else f" Set add_prefix_space in {SETTINGS}."
        yield f"{where}: llama.cpp puts {puts} before a text, but this tokenizer does the opposite.{hint}"


def _unmerged(tokenizer: Mapping[str, Any]) -> int:
    """Return the number of tokens with several characters that no merge makes, without added tokens and byte tokens.

    If there are none, using words of the vocabulary directly gives the same tokens as merging.
    """
    model, added = tokenizer["model"], tokenizer.get("added_tokens")
    if model.get("type", "BPE") != "BPE":
        return 0  # a Unigram model next to a tokenizer.model, which is read instead
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    made = {"".join(pair) for pair in pairs}
    made |= {entry["content"] for entry in added or ()}
    return sum(len(text) > 1 and text not in made and not SPELLED_BYTE.fullmatch(text) for text in model["vocab"])


def _parts(tokenizer: Mapping[str, Any], key: str, members: str) -> list[Mapping[str, Any]]:
    step = tokenizer.get(key)
    return list(flattened(step if isinstance(step, Mapping) else None, members))


def _names(tokenizer: Mapping[str, Any], key: str, members: str) -> list[str]:
    return [str(step.get("type")) for step in _parts(tokenizer, key, members)]


def _is_blanks(step: Mapping[str, Any]) -> bool:
    """Return whether a step only replaces spaces as SentencePiece does, or splits at spaces that it has replaced."""
    match step.get("type"):
        case "Prepend":
            return bool(step.get("prepend") == UNDERLINE)
        case "Replace":
            return (step.get("pattern"), step.get("content")) == ({"String": " "}, UNDERLINE)
        case "Metaspace":
            return bool(step.get("replacement", UNDERLINE) == UNDERLINE)
        case "Split":
            return bool(step.get("pattern") == {"String": " "})
    return False


def _prefixes(tokenizer: Mapping[str, Any]) -> bool:
    """Return whether a SentencePiece tokenizer puts a space before a text."""
    if "Prepend" in _names(tokenizer, "normalizer", "normalizers"):
        return True
    for step in _parts(tokenizer, "pre_tokenizer", "pretokenizers"):
        if step.get("type") == "Metaspace":
            return step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space") is not False
    return False


def _added(where: str, added: object, rules: Conventions) -> Iterator[str]:
    """Warn about added tokens that include the spaces around them, or that match only complete words."""
    flags = [flag for flag in FLAGS if not (flag == "rstrip" and rules.strips)]
    odd = [
        (entry.get("content"), [flag for flag in flags if entry.get(flag) is True])
        for entry in (added if isinstance(added, list) else [])
        if isinstance(entry, Mapping) and any(entry.get(flag) is True for flag in flags)
    ]
    if odd:
        text, set_ = odd[0]
        yield (
            f"{where}: GGUF cannot store flags of added tokens: {len(odd)} tokens have some (the first: "
            f"{shown(text)} with {', '.join(set_)})."
        )


def _around(where: str, tokenizer: Mapping[str, Any], settings: Mapping[str, Any], made: Vocabulary) -> Iterator[str]:
    """Warn about tokens around a text that llama.cpp's keys cannot express."""
    steps = _parts(tokenizer, "post_processor", "processors")
    odd = [step for step in steps if step.get("type") not in ("ByteLevel", "RobertaProcessing", "TemplateProcessing")]
    if odd:
        yield f"{where}: post_processor {shown(odd[0].get('type'))} is dropped, because GGUF cannot store it."
    leading = SPLITTINGS[made.pre].leading if made.model == "bpe" and made.pre in SPLITTINGS else ()
    for step in steps:
        single = step.get("single") if step.get("type") == "TemplateProcessing" else None
        texts = [_special(entry) for entry in single] if isinstance(single, list) else []
        at = texts.index(None) if None in texts else len(texts)
        front, behind = tuple(texts[:at]), tuple(texts[at + 1 :])
        if max(len(front), len(behind)) > 1 and not (front == leading and len(behind) < 2):
            yield (
                f"{where}: post_processor adds {len(front)} special tokens before a text and {len(behind)} after it, "
                "but GGUF supports at most one of each."
            )
    generic = settings.get("tokenizer_class") in (None, *GENERIC)
    if generic and "bos" not in made.add and defaults.adds_bos(made.model, made.pre):
        yield (
            f"{where}: the tokenizer adds no token before the text, but llama.cpp adds one with this vocabulary. Set "
            f"add_bos_token to false in {SETTINGS}."
        )


def _special(entry: object) -> str | None:
    """Return the special token in a template's entry, None for the place of a text."""
    value = entry.get("SpecialToken") if isinstance(entry, Mapping) else None
    number = value.get("id") if isinstance(value, Mapping) else None
    return number if isinstance(number, str) else None


def _roles(files: Files, settings: Mapping[str, Any], made: Vocabulary) -> Iterator[str]:
    """Warn about named special tokens that GGUF does not get."""
    count = len(made.tokens)
    given = {**defaults.assumed(made.model, made.pre, made.add, count), **made.special}
    ids: dict[str, int] = {}
    for number, token in enumerate(made.tokens):
        if number >= len(made.types) or made.types[number] in (CONTROL, UNKNOWN, USER_DEFINED):
            ids[token.decode(errors="replace")] = number
    named = texts_of(settings, USUAL)
    for where, texts in ((SETTINGS, named), (MAP, texts_of(files.json(MAP), USUAL))):
        wrong = [role for role, text in texts.items() if _is_lost(role, ids.get(text), given, made)]
        if wrong:
            role = wrong[0]
            yield (
                f"{files.label(where)}: {role}_token is {shown(texts[role])}, but GGUF gets "
                f"{_token(made, given.get(ROLES[role]))} ({len(wrong)} such token{'s' * (len(wrong) != 1)})."
            )
    more = [text for text in _additional(settings) if text not in ids]
    if more:
        yield (
            f"{files.label(SETTINGS)}: {len(more)} additional special tokens are not special tokens in {JSON} "
            f"(the first: {shown(more[0])}), so llama.cpp splits them."
        )


def _is_lost(role: str, number: int | None, given: Mapping[str, int], made: Vocabulary) -> bool:
    """Return whether llama.cpp would not use a token in its role. It does not use padding and masks at all."""
    if number == given.get(ROLES[role]):
        return False
    match role:
        case "bos":
            return made.add.get("bos", defaults.adds_bos(made.model, made.pre))
        case "sep":
            return made.add.get("sep", False)
        case "eos":
            return number not in ends.of(made).ids
    return False


def _token(made: Vocabulary, number: int | None) -> str:
    return "none" if number is None else shown(made.tokens[number].decode(errors="replace"))


def _additional(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts of further special tokens: from a list of strings or objects, or from an object of them."""
    for key in ("additional_special_tokens", "extra_special_tokens"):
        value = settings.get(key)
        entries = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else []
        for entry in entries:
            text = entry.get("content") if isinstance(entry, Mapping) else entry
            if isinstance(text, str):
                yield text
