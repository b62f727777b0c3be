"""The tokenizer files of a model folder, from a vocabulary in GGUF's terms.

    tokenizer.json          the tokenizer itself (`rebuild`)
    tokenizer_config.json   special tokens by role, the class that loads it, the longest text
    chat_template.jinja     the default chat template; additional_chat_templates/NAME.jinja the others

The class is the generic one: transformers' own for a family build parts of the tokenizer anew, which gives other ids
than the file says. Source: transformers (AutoTokenizer, the files that `save_pretrained` writes).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.checkpoint import Vocabulary
from quantcli.errors import BadInput
from quantcli.tokenizers.byte_level import CONTROL, USER_DEFINED
from quantcli.tokenizers.conventions import PLAIN, Conventions
from quantcli.tokenizers.rebuild import Tokens, checked, splitting, tokenizer_json, unknown
from quantcli.tokenizers.special import ENDS, ROLES, USUAL
from quantcli.tokenizers.templates import ADDITIONAL

CLASS = "PreTrainedTokenizerFast"
#: A named template's name, as it can stand in a file name.
NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")

#: gpt-oss goes on behind `<|end|>`, the end of one message of several.
HARMONY = ("<|return|>", "<|call|>")


@dataclass(frozen=True)
class Written:
    """Files by name, their contents, and what they cannot say."""

    files: Mapping[str, bytes]
    warnings: tuple[str, ...]


def files(vocabulary: Vocabulary, conventions: Conventions = PLAIN, context_length: int | None = None) -> Written:
    """All tokenizer files for a vocabulary.

    conventions: its architecture's. context_length: in tokens. Raises `BadInput` for a vocabulary that contradicts
    itself and `NotPossible` for one that no tokenizer.json can express.
    """
    made, warnings = tokenizer_json(vocabulary, conventions.strips)
    settings = tokenizer_config(vocabulary, context_length)
    out = {"tokenizer.json": _json(made, None)}
    default, named = vocabulary.chat_template, vocabulary.chat_templates
    if default is not None:
        out["chat_template.jinja"] = default.encode("utf-8", "backslashreplace")
        for name, text in named.items():
            if not NAME.fullmatch(name) or name.startswith("."):
                raise BadInput(f"tokenizer.chat_template.{name!r}: a template's name has letters, digits and _ only.")
            out[f"{ADDITIONAL}/{name}.jinja"] = text.encode("utf-8", "backslashreplace")
    elif named:
        settings["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
    out["tokenizer_config.json"] = _json(settings)
    return Written(out, warnings)


def _json(value: Mapping[str, Any], indent: int | None = 2) -> bytes:
    """As JSON; on one line without an indent, which Python writes several times faster."""
    return (json.dumps(value, ensure_ascii=False, indent=indent) + "\n").encode("utf-8", "backslashreplace")


def tokenizer_config(vocabulary: Vocabulary, context_length: int | None) -> dict[str, Any]:
    """The object for `tokenizer_config.json`, without chat templates."""
    how, tokens = splitting(vocabulary), checked(vocabulary)
    special = {role: tokens.text(vocabulary.special.get(ROLES[role])) for role in USUAL}
    if how.raw:
        special["unk"] = unknown(vocabulary, tokens)
    found: dict[str, Any] = {f"{role}_token": text for role, text in special.items() if text is not None}
    found |= {f"add_{role}_token": added for role, added in vocabulary.add.items()}
    if vocabulary.add_space_prefix is not None:
        found["add_prefix_space"] = vocabulary.add_space_prefix
    found["clean_up_tokenization_spaces"] = how.cleans
    found["model_input_names"] = ["input_ids", "attention_mask"]
    if context_length is not None:
        found["model_max_length"] = context_length
    return found | {"tokenizer_class": CLASS}


def token_ids(vocabulary: Vocabulary) -> dict[str, int | list[int]]:
    """`bos_token_id`, `eos_token_id` (all tokens that end an answer, where there are several) and `pad_token_id`."""
    tokens = checked(vocabulary)
    found: dict[str, int | list[int]] = {}
    ends = _ends(vocabulary, tokens)
    for key, number in (("bos", vocabulary.special.get("bos")), ("pad", vocabulary.special.get("padding"))):
        if tokens.text(number) is not None and number is not None:
            found[f"{key}_token_id"] = number
    if ends:
        found["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    return dict(sorted(found.items()))


def _ends(vocabulary: Vocabulary, tokens: Tokens) -> list[int]:
    """The named end first, then the others by id."""
    kinds = (CONTROL, USER_DEFINED)
    texts = [text for text in ENDS if text in tokens.ids]
    if all(text in texts for text in HARMONY):
        texts = [text for text in texts if text != "<|end|>"]
    others = {tokens.ids[text] for text in texts}
    others |= {vocabulary.special[role] for role in ("eot", "eom") if role in vocabulary.special}
    named = vocabulary.special.get("eos")
    first = [named] if named is not None and tokens.text(named) is not None else []
    return first + sorted(n for n in others if n != named and n < len(tokens.types) and tokens.types[n] in kinds)
