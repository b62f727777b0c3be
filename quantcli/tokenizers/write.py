"""The tokenizer files of a model folder, from a GGUF file's vocabulary.

    tokenizer.json          the tokenizer (`rebuild`)
    tokenizer_config.json   special tokens by role, the class that loads it, the length of the longest text
    chat_template.jinja     the default chat template; additional_chat_templates/NAME.jinja the others

Roles that transformers has no word for (fill-in-the-middle, end of turn) become keys such as `fim_pre_token`, which are
read back.

The class is the generic one: transformers' classes for families rebuild parts of the tokenizer, which gives other ids
than the file. Source: transformers (AutoTokenizer, the files that `save_pretrained` writes).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.checkpoint import Vocabulary
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput
from quantcli.tokenizers import ends
from quantcli.tokenizers.byte_level import CONTROL, UNKNOWN, USER_DEFINED
from quantcli.tokenizers.conventions import PLAIN, Conventions
from quantcli.tokenizers.rebuild import Tokens, checked, splitting, tokenizer_json, unknown
from quantcli.tokenizers.special import FURTHER, ROLES, USUAL
from quantcli.tokenizers.stored import is_ordinary
from quantcli.tokenizers.templates import ADDITIONAL, BUILT_IN

CLASS = "PreTrainedTokenizerFast"
#: Roles in `FURTHER` that generation_config.json has too: their tokens end an answer.
ENDS_OF_PARTS = ("eot", "eom")
#: Names of templates that are allowed as file names.
NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


@dataclass(frozen=True)
class Written:
    """The contents of files by name, and warnings about what they cannot store."""

    files: Mapping[str, bytes]
    warnings: tuple[str, ...]


def files(vocabulary: Vocabulary, conventions: Conventions = PLAIN, context_length: int | None = None) -> Written:
    """Return all tokenizer files for a vocabulary.

    conventions: the architecture's. context_length: in tokens. Raises `BadInput` for a contradictory vocabulary and
    `NotPossible` for one that no tokenizer.json can express.
    """
    made, warnings = tokenizer_json(vocabulary, conventions.strips)
    warnings += _unnamed(vocabulary, checked(vocabulary), conventions)
    settings = tokenizer_config(vocabulary, conventions, context_length)
    out = {"tokenizer.json": _json(made, None)}
    default, named = vocabulary.chat_template, vocabulary.chat_templates
    if default in BUILT_IN:
        warnings += (
            f"tokenizer.chat_template is {shown(default)}, the name of a template that is built into llama.cpp. "
            "The file lacks its text, so the folder gets no chat template.",
        )
        default = None
    if default is not None:
        out["chat_template.jinja"] = default.encode("utf-8", "backslashreplace")
        for name, text in named.items():
            if not NAME.fullmatch(name) or name.startswith("."):
                raise BadInput(
                    f"tokenizer.chat_template: template name {shown(name)} cannot be a file name. Supported: 1 to 100 "
                    "ASCII letters, digits, '_', '-' and '.', not starting with '.'."
                )
            out[f"{ADDITIONAL}/{name}.jinja"] = text.encode("utf-8", "backslashreplace")
    elif named:
        settings["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
    out["tokenizer_config.json"] = _json(settings)
    return Written(out, warnings)


def _json(value: Mapping[str, Any], indent: int | None = 2) -> bytes:
    """Return a value as JSON; without an indent it is one line, which Python writes several times faster."""
    return (json.dumps(value, ensure_ascii=False, indent=indent) + "\n").encode("utf-8", "backslashreplace")


def tokenizer_config(
    vocabulary: Vocabulary, conventions: Conventions = PLAIN, context_length: int | None = None
) -> dict[str, Any]:
    """Return the object for `tokenizer_config.json`, without chat templates."""
    how, tokens = splitting(vocabulary), checked(vocabulary)
    special = {role: tokens.text(_named(vocabulary, ROLES[role])) for role in USUAL}
    if how.raw:
        special["unk"] = unknown(vocabulary, tokens)
    settings: dict[str, Any] = {f"{role}_token": text for role, text in special.items() if text is not None}
    settings |= {f"{role}_token": tokens.texts[number] for role, number in _further(vocabulary, tokens).items()}
    settings |= {f"add_{role}_token": added for role, added in vocabulary.add.items()}
    if vocabulary.add_space_prefix is not None:
        settings["add_prefix_space"] = vocabulary.add_space_prefix
    settings["clean_up_tokenization_spaces"] = how.cleans
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    if context_length is not None:
        settings["model_max_length"] = context_length
    # Padding a batch on the other side changes the generated text.
    side = conventions.padding_side or ("left" if vocabulary.model == "spm" else None)
    return settings | ({} if side is None else {"padding_side": side}) | {"tokenizer_class": CLASS}


def _named(vocabulary: Vocabulary, role: str) -> int | None:
    """Return the id of a role; None for an ordinary token that llama.cpp assumes: naming it would make it special."""
    number = vocabulary.special.get(role)
    if number is None or role not in vocabulary.assumed:
        return number
    is_end = number in ends.of(vocabulary).controls
    return number if is_end or not is_ordinary(vocabulary, number) else None


def _further(vocabulary: Vocabulary, tokens: Tokens) -> dict[str, int]:
    """Return the tokens to name for roles that only some models have.

    An end of turn or message that is not a control token is omitted: naming it would make it one; `token_ids` lists it.
    """
    ids: dict[str, int] = {}
    for role in FURTHER:
        number = vocabulary.special.get(role)
        kinds = (CONTROL,) if role in ENDS_OF_PARTS else (CONTROL, UNKNOWN, USER_DEFINED)
        if number is not None and 0 <= number < len(tokens.types) and tokens.types[number] in kinds:
            ids[role] = number
    return ids


def _unnamed(vocabulary: Vocabulary, tokens: Tokens, conventions: Conventions) -> tuple[str, ...]:
    """Return warnings about roles that tokenizer_config.json cannot name, or gives to another token."""
    named = {*_further(vocabulary, tokens), *ENDS_OF_PARTS}
    lost = [f"tokenizer.ggml.{role}_token_id" for role in FURTHER if role in vocabulary.special and role not in named]
    verb = "is" if len(lost) == 1 else "are"
    dropped = f"{', '.join(lost)} {verb} dropped, because in a folder only special tokens can have such a role."
    warnings = [dropped] if lost else []
    number = None if "unknown" in vocabulary.assumed else vocabulary.special.get("unknown")
    if splitting(vocabulary).raw and number is not None and number != conventions.ids.get("unknown"):
        text, given = tokens.text(number), unknown(vocabulary, tokens)
        if text != given:
            warnings.append(
                f"tokenizer.ggml.unknown_token_id names {shown(text)}, but {shown(given)} has the type of the unknown "
                "token and is used."
            )
    return tuple(warnings)


def token_ids(vocabulary: Vocabulary) -> dict[str, int | list[int]]:
    """Return `bos_token_id`, `eos_token_id` and `pad_token_id`, if a token has that role.

    `eos_token_id` is llama.cpp's end-of-generation set: the named token first, then the others by id.
    """
    special = {role: n for role, n in vocabulary.special.items() if 0 <= n < len(vocabulary.tokens)}
    ids: dict[str, int | list[int]] = {}
    ending = ends.of(vocabulary).ids
    if ending:
        eos = [special["eos"]] if special.get("eos") in ending else []
        listed = eos + sorted(ending.difference(eos))
        ids["eos_token_id"] = listed if len(listed) > 1 else listed[0]
    ids |= {f"{key}_token_id": special[role] for key, role in (("bos", "bos"), ("pad", "padding")) if role in special}
    return dict(sorted(ids.items()))
