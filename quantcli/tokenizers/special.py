"""Special tokens: the ids for beginning, end, padding and other roles, and which of them are put around a text.

Source: the rules of llama.cpp's conversion (gguf-py's SpecialVocab): `tokenizer_config.json` names special tokens by
their text, whose id is looked up among the added tokens; ids in `config.json` are used for the other roles. The tokens
around a text come from the post-processor's templates, else from `add_bos_token` and similar flags:

    single   <s> A          a special token first: bos is added. Another one last: eos is added
    pair     A </s> B       a separator between the two halves: sep is added
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.errors import BadInput
from quantcli.tokenizers.pre_tokenizers import flattened
from quantcli.tokenizers.tokenizer_json import AddedToken

#: Hugging Face's name of a special token -> the role in GGUF keys, in the order of writing.
ROLES = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "cls": "cls",
    "mask": "mask",
}
ROLES |= {"eot": "eot", "eom": "eom"}
#: Roles that only some models have, with the same names in both: end of turn and of message, fill-in-the-middle.
FURTHER = ("eot", "eom", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep")
USUAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass
class Special:
    """The state while special tokens are read.

    texts: role -> text. add: role -> whether the token is put around a text. asked: the roles to look up. warnings: so
    far.
    """

    texts: dict[str, str] = field(default_factory=dict)
    add: dict[str, bool] = field(default_factory=dict)
    asked: tuple[str, ...] = USUAL
    warnings: list[str] = field(default_factory=list)


def texts_of(tokenizer_config: Mapping[str, Any], roles: Iterable[str] = ROLES) -> dict[str, str]:
    """Return the texts of special tokens in `tokenizer_config.json` by role: strings, or objects with a `content`."""
    texts: dict[str, str] = {}
    for role in roles:
        value = tokenizer_config.get(f"{role}_token")
        text = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(text, str):
            texts[role] = text
    return texts


def read(
    post_processor: Mapping[str, Any] | None,
    tokenizer_config: Mapping[str, Any],
    config: Mapping[str, Any],
    added: tuple[AddedToken, ...],
    size: int,
) -> tuple[dict[str, int], dict[str, bool], tuple[str, ...]]:
    """Return (role -> id, role -> whether it is added, warnings). Roles have GGUF's names; ids below `size` only.

    post_processor: tokenizer.json's. added: its added tokens. Raises `BadInput`.
    """
    special = Special(texts_of(tokenizer_config))
    if "cls" in special.texts:
        special.texts.setdefault("bos", special.texts["cls"])
    if "sep" in special.texts:
        special.texts.setdefault("eos", special.texts["sep"])
    for processor in flattened(post_processor, "processors"):
        _process(special, processor)
    for role in special.asked:
        _flag(special, role, tokenizer_config.get(f"add_{role}_token"))
    ids: dict[str, int] = {}
    by_text = {token.content: token.id for token in reversed(added)}
    for role in special.asked:
        _settle(special, ids, role, by_text.get(special.texts.get(role, "")), size, "tokenizer_config.json")
    for role in special.asked:
        _settle(special, ids, role, config.get(f"{role}_token_id"), size, "config.json")
    for role, text in texts_of(tokenizer_config, FURTHER).items():
        _settle(special, ids, role, by_text.get(text), size, "tokenizer_config.json")
    add = {role: value for role, value in special.add.items() if role in ("bos", "eos", "sep")}
    return {ROLES.get(role, role): number for role, number in ids.items()}, add, tuple(special.warnings)


def _settle(special: Special, ids: dict[str, int], role: str, number: object, size: int, where: str) -> None:
    """Set a role's id, unless it has one. Raises `BadInput` for a negative id."""
    if isinstance(number, bool) or not isinstance(number, int) or role in ids:
        return
    if number < 0:
        raise BadInput(f"{where}: {role}_token_id: expected an id of at least 0, found {number}.")
    if number < size:
        ids[role] = number
    else:
        special.warnings.append(f"{where}: {role}_token_id {number} is ignored, because there are only {size} tokens.")


def _flag(special: Special, role: str, value: object) -> None:
    if not isinstance(value, bool):
        return
    if special.add.setdefault(role, value) != value:
        special.warnings.append(
            f"tokenizer_config.json: add_{role}_token is {str(value).lower()}, but tokenizer.json's "
            "post_processor does the opposite and is used."
        )


def _process(special: Special, processor: Mapping[str, Any]) -> None:
    match processor.get("type"):
        case "ByteLevel":
            special.add.setdefault("bos", False)
            special.add.setdefault("eos", False)
        case "RobertaProcessing":
            special.add |= {"bos": True, "eos": True, "sep": True}
            for role in ("cls", "sep"):
                entry = processor.get(role)
                if isinstance(entry, list) and entry and isinstance(entry[0], str):
                    special.texts.setdefault(role, entry[0])
        case "TemplateProcessing":
            first, last = _single(special, _template(processor, "single"))
            _pair(special, _template(processor, "pair"), first, last)


def _template(processor: Mapping[str, Any], key: str) -> list[tuple[str, str]]:
    """Return a template as (kind, id) pairs: ("SpecialToken", "<s>"), ("Sequence", "A"). Raises `BadInput`."""
    entries = processor.get(key)
    pairs: list[tuple[str, str]] = []
    for entry in entries if isinstance(entries, list) else []:
        kind, value = next(iter(entry.items()), ("", None)) if isinstance(entry, Mapping) else ("", None)
        number = value.get("id") if isinstance(value, Mapping) else None
        if kind not in ("SpecialToken", "Sequence") or not isinstance(number, str):
            raise BadInput(
                "tokenizer.json: post_processor: expected a template entry SpecialToken or Sequence with an id, "
                f"found {shown(entry)}."
            )
        pairs.append((kind, number))
    return pairs


def leading(processor: Mapping[str, Any] | None) -> str | None:
    """Return the special token that a post-processor puts first, None if it puts none."""
    for step in flattened(processor, "processors"):
        template = _template(step, "single") if step.get("type") == "TemplateProcessing" else []
        if template and template[0][0] == "SpecialToken":
            return template[0][1]
    return None


def _single(special: Special, template: list[tuple[str, str]]) -> tuple[str | None, str | None]:
    """Set whether tokens are put before and after a single text, and return these two tokens."""
    if len(template) < 2:
        return None, None
    first = template[0][1] if template[0][0] == "SpecialToken" else None
    last = template[-1][1] if template[-1][0] == "SpecialToken" else None
    if first is not None:
        if first not in (special.texts.get("bos"), special.texts.get("cls")):
            special.texts.setdefault("bos", first)
            special.texts.setdefault("cls", first)
        special.add["bos"] = first in (special.texts.get("bos"), special.texts.get("cls"))
        if not special.add["bos"]:
            special.warnings.append(
                f"tokenizer.json: post_processor puts {shown(first)} first, but tokenizer_config.json names another "
                "bos_token. GGUF cannot store that, so llama.cpp puts no token before a text."
            )
    if last is not None:
        if last != special.texts.get("eos"):
            _another_end(special, last)
        special.add["eos"] = True
    return first, last


def _another_end(special: Special, last: str) -> None:
    """Make the template's last token the eos, and the named eos the end of turn, or of message."""
    spare = next((role for role in ("eot", "eom") if role not in special.asked), None)
    if spare is not None:
        special.asked += (spare,)
        if "eos" in special.texts:
            special.texts[spare] = special.texts["eos"]
    special.texts["eos"] = last


def _pair(special: Special, template: list[tuple[str, str]], first: str | None, last: str | None) -> None:
    """Set whether a separator is put between two texts: `A </s> B`, or `A </s> <s> B` with either one as separator."""
    if first is not None and template and template[0] == ("SpecialToken", first):
        template = template[1:]
    if last is not None and template and template[-1] == ("SpecialToken", last):
        template = template[:-1]
    if len(template) < 3 or template[0] != ("Sequence", "A") or template[-1] != ("Sequence", "B"):
        return
    ends = (special.texts.get("sep"), special.texts.get("eos"))
    between = [kind == "SpecialToken" and text in ends for kind, text in template[1:-1]]
    adds = (between[0] and last is None) or (len(between) == 2 and between[1])
    special.add["sep"] = adds
    if adds and "eos" in special.texts:
        special.texts.setdefault("sep", special.texts["eos"])
