"""The tokens that end an answer in a model folder, as keys of GGUF.

`eos_token_id` in generation_config.json and config.json is an id or a list of ids. GGUF has three keys for such tokens
(`eos`, `eot`, `eom`); those that llama.cpp recognizes by their text need none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from quantcli.checkpoint import Vocabulary
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput
from quantcli.tokenizers import defaults, ends
from quantcli.tokenizers.files import Files

KEY, SUPPRESSED = "eos_token_id", "suppress_tokens"
GENERATION = "generation_config.json"
SLOTS = ("eos", "eot", "eom")
#: More ids than any model lists; limits the work that a hostile file can cause.
MOST, MOST_ENDS = 1 << 16, 1024


def placed(vocabulary: Vocabulary, fixed: Mapping[str, int], config: Mapping[str, Any], files: Files) -> Vocabulary:
    """Return the vocabulary with roles for listed tokens that llama.cpp would not recognize as ends of an answer.

    Listed tokens that get no role are named in warnings. fixed: role -> id for the architecture, which overrides the
    files. config: the object in config.json. Raises `BadInput` for a list of anything but ids.
    """
    texts, count = ends.texts_of(vocabulary), len(vocabulary.tokens)
    taken = {**vocabulary.special, **{role: number for role, number in fixed.items() if number < count}}
    wanted = _wanted(config, files)
    given: dict[str, int] = {}
    lost: list[int] = []
    for number in wanted:
        if number >= count or number in ends.find(texts, taken | given).ids:
            continue
        role = next((role for role in SLOTS if role not in taken | given), None)
        if role is not None and number in ends.find(texts, taken | given | {role: number}).ids:
            given[role] = number
        else:
            lost.append(number)
    made = replace(vocabulary, special={**vocabulary.special, **given})
    warnings = [*_without_a_key(vocabulary, wanted, lost), *_without_an_end(vocabulary, taken | given, files)]
    return replace(made, warnings=(*vocabulary.warnings, *warnings))


def _without_a_key(vocabulary: Vocabulary, wanted: Mapping[int, str], lost: Sequence[int]) -> Iterator[str]:
    """Warn about listed ids without a token or without a key. wanted: id -> the file that lists it."""
    count = len(vocabulary.tokens)
    beyond = [number for number in wanted if number >= count]
    if beyond:
        where = f"{wanted[beyond[0]]}: {KEY} {beyond[0]}"
        yield f"{where} is ignored, because there are only {count} tokens ({_such(beyond)})."
    if lost:
        where = f"{wanted[lost[0]]}: {KEY} {lost[0]}, {_shown(vocabulary, lost[0])},"
        yield f"{where} has no key in GGUF, so llama.cpp does not stop at it ({_such(lost)})."


def _without_an_end(vocabulary: Vocabulary, special: Mapping[str, int], files: Files) -> Iterator[str]:
    """Warn if no file names the token that ends a text, for which llama.cpp then assumes one."""
    assumed = defaults.assumed(vocabulary.model, vocabulary.pre, vocabulary.add, len(vocabulary.tokens)).get("eos")
    if "eos" not in special and assumed is not None:
        yield (
            f"{files.root}: no file names the token that ends a text (eos), so llama.cpp uses token {assumed}, "
            f"{_shown(vocabulary, assumed)}."
        )


def _shown(vocabulary: Vocabulary, number: int) -> str:
    return shown(vocabulary.tokens[number].decode(errors="replace"))


def _wanted(config: Mapping[str, Any], files: Files) -> dict[int, str]:
    """Return the ids that files list, each with the first file that lists it."""
    wanted: dict[int, str] = {}
    for name, file in ((GENERATION, files.json(GENERATION)), ("config.json", config)):
        where = files.label(name)
        wanted |= {number: where for number in ids(file.get(KEY), KEY, where) if number not in wanted}
    return wanted


def ids(value: object, key: str, where: str) -> list[int]:
    """Return the ids in a key's value: null, an id or a list. Raises `BadInput`."""
    listed = value if isinstance(value, list) else [] if value is None else [value]
    most = MOST_ENDS if key == KEY else MOST
    if len(listed) > most:
        raise BadInput(f"{where}: {key}: expected at most {most} ids, found {len(listed)}.")
    numbers: list[int] = []
    for number in listed:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise BadInput(f"{where}: {key}: expected an id or a list of ids, found {shown(number)}.")
        numbers.append(number)
    return numbers


def suppressed(files: Files, count: int) -> tuple[int, ...]:
    """Return the ids below `count` of tokens that are never generated; llama.cpp ignores other ids too."""
    listed = ids(files.json(GENERATION).get(SUPPRESSED), SUPPRESSED, files.label(GENERATION))
    return tuple(number for number in dict.fromkeys(listed) if number < count)


def _such(ids: Sequence[int]) -> str:
    return "1 such id" if len(ids) == 1 else f"{len(ids)} such ids"
