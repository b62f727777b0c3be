"""Vocabularies in tiktoken's files: `tiktoken.model` and `*.tiktoken`, with a token's bytes and rank in each line.

    IQ== 0
    Ig== 1

The file has no special tokens and no rule for splitting text: both are in the code that comes with a model, one class
for each kind (`LAYOUTS`). Source: tiktoken's `load_tiktoken_bpe`; the classes TikTokenTokenizer (Kimi K2, Kimi Linear,
Moonlight), HYTokenizer (Hunyuan) and QWenTokenizer (Qwen 1) as released; `set_vocab` in llama.cpp's conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quantcli.checkpoint import Vocabulary
from quantcli.containers.hostile import foreign, shown
from quantcli.errors import BadInput
from quantcli.tokenizers import ranks as by_rank
from quantcli.tokenizers.byte_level import tokens_and_types
from quantcli.tokenizers.files import RANKS, SETTINGS, Files
from quantcli.tokenizers.special import texts_of
from quantcli.tokenizers.splittings import SPLITTINGS
from quantcli.tokenizers.tokenizer_json import MOST_TOKENS, AddedToken

END = "<|endoftext|>"
EXTRA = tuple(f"<|extra_{number}|>" for number in range(205))


@dataclass(frozen=True)
class Layout:
    """What a class adds to the ranks.

    file: the file's name in releases. classes: names of the class. pre: llama.cpp's name of its splitting. names: its
    special tokens, from the first id after the ranks. reserved: the number of ids that it reserves for special tokens
    there, which `added_tokens_decoder` names; others are `<|reserved_token_ID|>`. renumbers: ids are the numbers of
    lines, not the stated ranks, and a token that appears twice counts once. roles: role -> its special token, unless
    tokenizer_config.json or config.json names one.
    """

    file: str
    classes: tuple[str, ...]
    pre: str
    names: tuple[str, ...] = ()
    reserved: int = 0
    renumbers: bool = False
    roles: Mapping[str, str] = field(default_factory=dict)


#: Kimi's class reserves 256 ids in some releases and 258 in others; the model has rows for 256.
LAYOUTS = (
    Layout(RANKS, ("TikTokenTokenizer",), "kimi-k2", reserved=258, roles={"bos": "[BOS]", "eos": "[EOS]"}),
    Layout(
        "hy.tiktoken",
        ("HYTokenizer", "HunYuanTokenizer"),
        "hunyuan",
        names=(END, "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>", *EXTRA),
        renumbers=True,
        roles={"bos": "<|bos|>", "eos": "<|eos|>"},
    ),
    Layout(
        "qwen.tiktoken",
        ("QWenTokenizer",),
        "qwen2",
        names=(END, "<|im_start|>", "<|im_end|>", *EXTRA),
        roles={"bos": END, "eos": END, "unknown": END},
    ),
)
#: Special tokens without a meaning, which may be dropped.
FILLERS = ("<|reserved_token_", "<|extra_")


@dataclass(frozen=True)
class Found:
    """A file of ranks in a folder, with its class's layout."""

    file: str
    layout: Layout
    warnings: tuple[str, ...] = ()


def find(files: Files, settings: Mapping[str, Any], prefer: tuple[str, ...] = ()) -> Found | None:
    """Find the file of ranks in a folder; None if there is none, or none of a known class.

    The class is the one that tokenizer_config.json names, else the one with that file name, else the one whose
    splitting is among those that the architecture prefers. Many classes use the name `tiktoken.model`: without another
    indication the first layout is used, with a warning.
    """
    names = [*([RANKS] if files.has(RANKS) else ()), *files.ending(".tiktoken")]
    stated = _class(settings)
    tests: tuple[Callable[[Layout], bool], ...] = (
        lambda one: stated in one.classes,
        lambda one: one.file in names and one.file != RANKS,
        lambda one: one.pre in prefer,
        lambda one: one.file in names,
    )
    layout = next((one for test in tests for one in LAYOUTS if test(one)), None)
    if layout is None or not (layout.file in names or len(names) == 1):
        return None
    file = layout.file if layout.file in names else names[0]
    return Found(file, layout, _assumption(files, file, layout, stated, prefer))


def _assumption(files: Files, file: str, layout: Layout, stated: object, prefer: tuple[str, ...]) -> tuple[str, ...]:
    """Return a warning if the class of a file of ranks is assumed."""
    if stated in layout.classes or (stated is None and (file != RANKS or layout.pre in prefer)):
        return ()
    problem = "names no tokenizer class" if stated is None else f"tokenizer class {shown(stated)} is not supported"
    return (
        f"{files.label(SETTINGS)}: {problem}. {file} is read as {layout.classes[0]} reads it, and "
        f"tokenizer.ggml.pre is set to `{layout.pre}`.",
    )


def _class(settings: Mapping[str, Any]) -> object:
    """Return the class that tokenizer_config.json names, as `tokenizer_class` or in `auto_map`."""
    named = settings.get("auto_map")
    entry = named.get("AutoTokenizer") if isinstance(named, Mapping) else None
    own = entry[0] if isinstance(entry, list) and entry else entry
    stated = settings.get("tokenizer_class")
    return own.rpartition(".")[2] if stated is None and isinstance(own, str) else stated


def load_ranks(data: bytes, where: str, renumbers: bool = False) -> dict[bytes, int]:
    """Return the ranks in a file, in their order. renumbers: as in `Layout`. Raises `BadInput`."""
    if what := foreign(data[:64]):
        raise BadInput(f"{where}: is {what}.")
    ranks: dict[bytes, int] = {}
    for place, line in enumerate(data.splitlines(), 1):
        if not line:
            continue
        at = f"{where}: line {place}"
        token, rank = _line(line, at)
        if token in ranks and not renumbers:
            raise BadInput(f"{at}: {shown(token)} already has rank {ranks[token]}.")
        if rank != len(ranks) and not renumbers:
            raise BadInput(f"{at}: expected rank {len(ranks)} (ranks have no gaps), found {rank}.")
        ranks.setdefault(token, len(ranks))
        if len(ranks) > MOST_TOKENS:
            raise BadInput(f"{where}: has more than {MOST_TOKENS} tokens, the limit.")
    if not ranks:
        raise BadInput(f"{where}: contains no tokens.")
    by_rank.check_lengths(ranks, where)
    return ranks


def _line(line: bytes, at: str) -> tuple[bytes, int]:
    """Return a line's token and rank. Raises `BadInput`."""
    parts = line.split()
    if len(parts) != 2 or not (parts[1].isdigit() and len(parts[1]) < 10):
        raise BadInput(f"{at}: expected a token in base64 and its rank, found {shown(line)}.")
    return by_rank.decoded(parts[0], at), int(parts[1])


def vocabulary(
    files: Files, found: Found, decoder: Mapping[int, AddedToken], settings: Mapping[str, Any], size: int | None
) -> Vocabulary:
    """Read the vocabulary of a folder with a file of ranks, for a model with `size` tokens (None: all).

    decoder: the tokens in tokenizer_config.json's `added_tokens_decoder`. The result's `special` are the roles that
    apply if config.json names no tokens for them. Raises `BadInput`, `NotPossible`.
    """
    where, layout = files.label(found.file), found.layout
    ranks = load_ranks(files.bytes(found.file), where, layout.renumbers)
    names, warnings = _special_tokens(layout, len(ranks), decoder, size, files)
    vocab = {by_rank.spelled(token): rank for token, rank in ranks.items()}
    added = _added(names, vocab, where)
    tokens, types, without_row = tokens_and_types(vocab, added, frozenset(), size, where)
    pairs = list(by_rank.last_pairs(ranks))
    ids = {name: number for number, name in names.items() if number < len(tokens)}
    named = {role: text for role, text in texts_of(settings, ("bos", "eos")).items() if text in ids}
    return Vocabulary(
        model="bpe",
        pre=layout.pre,
        tokens=tokens,
        types=types,
        scores=None,
        merges=by_rank.merges(pairs, where),
        special={role: ids[text] for role, text in {**layout.roles, **named}.items() if text in ids},
        add={},
        warnings=(*found.warnings, *warnings, *without_row, *_unmade(ranks, len(pairs), layout, where)),
    )


def _special_tokens(
    layout: Layout, first: int, decoder: Mapping[int, AddedToken], size: int | None, files: Files
) -> tuple[dict[int, str], tuple[str, ...]]:
    """Return id -> special token, without fillers that have no row in the model; warn about another class's tokens."""
    names = {first + place: name for place, name in enumerate(layout.names)}
    reserved = range(first, first + layout.reserved)
    names |= {number: decoder[number].content for number in reserved if number in decoder}
    end = size if size is not None else max(names, default=first - 1) + 1
    names |= {number: f"<|reserved_token_{number}|>" for number in reserved if number not in names}
    names = {number: name for number, name in sorted(names.items()) if number < end or not name.startswith(FILLERS)}
    strange = [token for number, token in sorted(decoder.items()) if names.get(number) != token.content]
    if not strange:
        return names, ()
    return names, (
        f"{files.label(SETTINGS)}: added_tokens_decoder names {shown(strange[0].content)} (id {strange[0].id}), which "
        f"{layout.classes[0]} does not support, so it is dropped ({len(strange)} such "
        f"token{'s' * (len(strange) != 1)}).",
    )


def _added(names: Mapping[int, str], vocab: Mapping[str, int], where: str) -> list[AddedToken]:
    """Return the special tokens. Raises `BadInput` for one that is another token too."""
    ids: dict[str, int] = {}
    for number, name in names.items():
        other = vocab.get(name, ids.setdefault(name, number))
        if other != number:
            raise BadInput(f"{where}: special token {shown(name)} (id {number}) is also token {other}.")
    return [AddedToken(number, name, True) for number, name in names.items()]


def _unmade(ranks: Mapping[bytes, int], pairs: int, layout: Layout, where: str) -> tuple[str, ...]:
    """Return warnings about bytes without a token, and about tokens that llama.cpp never makes."""
    lacking = [byte for byte in range(256) if bytes((byte,)) not in ranks]
    warnings = []
    if lacking:
        warnings.append(
            f"{where}: {len(lacking)} bytes have no token (the first: 0x{lacking[0]:02X}), so text with them is lost."
        )
    unmade = sum(len(token) > 1 for token in ranks) - pairs
    if unmade and not SPLITTINGS[layout.pre].ignore_merges:
        warnings.append(
            f"{where}: {unmade} of its tokens are not the concatenation of two others; tiktoken produces those that "
            "are complete words, but llama.cpp produces none."
        )
    return tuple(warnings)
