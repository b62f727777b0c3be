r"""Pre-tokenizer rules: the steps in `tokenizer.json` -> llama.cpp's name of the rule (`tokenizer.ggml.pre`).

llama.cpp's converter recognizes tokenizers by a hash of one text's ids and fails for all others; this module compares
the rules. A `pre_tokenizer` is flattened to steps, each the regular expression at whose matches it splits:

    Split(Regex, Isolated)          the expression         ByteLevel(use_regex)   GPT-2's expression
    Digits(individual_digits)       \p{N}                  ByteLevel              none: bytes are only renamed
    Digits                          \p{N}+                 Punctuation            the word Punctuation

and compared as text. Several names mean the same splitting and differ in details: whether a word in the vocabulary
becomes one token without merging (`ignore_merges`), whether spaces before punctuation are removed when ids are decoded,
which token comes first. The rows compare these details too; the first row that matches counts.

Source: the tokenizer.json files that the names in `splittings` come from.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.tokenizers.splittings import CONTRACTIONS, DIGIT, GPT2, SPLITTINGS


@dataclass(frozen=True)
class Rule:
    """One row: the steps of the name in `SPLITTINGS`, or those in `also`, and other conditions (None: any value).

    nfc: a Unicode NFC normalizer precedes it. ignore_merges: the BPE model's flag. fills: the vocabulary has
    StarCoder's token for filling in the middle. first: the token that the template puts first.
    """

    name: str
    also: tuple[str, ...] = ()
    nfc: bool | None = None
    ignore_merges: bool | None = None
    fills: bool | None = None
    first: str | None = None

    @property
    def spellings(self) -> tuple[tuple[str, ...], ...]:
        """The alternatives for the steps."""
        return (SPLITTINGS[self.name].steps, self.also) if self.also else (SPLITTINGS[self.name].steps,)


RULES: tuple[Rule, ...] = (
    # Names with the same splitting are listed above each row: falcon3, falcon-h1, pixtral, midm-2.0, lfm2; chatglm-bpe;
    # smaug-bpe
    Rule("glm4", first="[gMASK]"),
    Rule("dbrx", ignore_merges=False),
    Rule("llama-bpe"),
    # megrez, deepseek-r1-qwen, kormo, hunyuan, solar-open, grok-2, stablelm2
    Rule("qwen2"),
    Rule("qwen35"),
    Rule("ufakzeka"),
    Rule("laguna"),
    # olmo and exaone4 are mpt's splitting too; jais, trillion, granite-docling, phi-2 and modern-bert are gpt-2's
    Rule("mpt", nfc=True),
    Rule("gpt-2"),
    Rule("command-r", nfc=True),
    # refact, codeshell, exaone, minerva-7b, mellum2
    Rule("smollm", fills=False),
    Rule("starcoder"),
    Rule("falcon", also=("Punctuation", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    Rule("tekken"),
    # llama4, kanana2, minimax-m2
    Rule("gpt-4o"),
    Rule("tiny_aya"),
    Rule("kimi-k2"),
    Rule("deepseek-llm"),
    Rule("deepseek-coder"),
    # hunyuan-dense, joyai-llm, hy_v4
    Rule("deepseek-v3"),
    Rule("bloom"),
    Rule("viking"),
    Rule("jais-2"),
    Rule("minicpm5"),
    Rule("seed-coder"),
    Rule("exaone-moe"),
    # bailingmoe2, llada-moe
    Rule("bailingmoe"),
    Rule("youtu"),
    Rule("spark2_5"),
    Rule("superbpe"),
)

#: The token that distinguishes StarCoder's vocabularies from SmolLM's, which split text alike. llama.cpp's converter
#: recognizes both by their ids, regardless of `clean_up_tokenization_spaces`.
FILL = b"<fim_prefix>"

#: llama.cpp's default if a file names no rule.
ASSUMED = "default"

#: A case-insensitive group as some files write it, for engines without (?i:).
_SPELLED_OUT = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"


def steps(pre_tokenizer: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """Return the regular expressions of a `pre_tokenizer` object's steps, in order; None if a step has none."""
    expressions: list[str] = []
    for step in flattened(pre_tokenizer, "pretokenizers"):
        spelled = _step(step)
        if spelled is None:
            return None
        if spelled:
            expressions.append(spelled)
    return tuple(expressions)


def recognise(
    pre_tokenizer: Mapping[str, Any] | None,
    *,
    nfc: bool = False,
    ignore_merges: bool = False,
    fills: bool = False,
    first: str | None = None,
    prefer: tuple[str, ...] = (),
) -> str | None:
    """Return llama.cpp's name of a rule, None if it has none. The conditions are those of `Rule`.

    prefer: an architecture's names; the first of them with these steps takes precedence over all rows.
    """
    spelled = steps(pre_tokenizer)
    for name in prefer:
        if spelled == tuple(map(normalised, SPLITTINGS[name].steps)):
            return name
    given = {"nfc": nfc, "ignore_merges": ignore_merges, "fills": fills, "first": first}
    for rule in RULES:
        same = any(tuple(map(normalised, steps)) == spelled for steps in rule.spellings)
        if same and all(getattr(rule, key) in (None, value) for key, value in given.items()):
            return rule.name
    return None


def flattened(step: Mapping[str, Any] | None, members: str) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of a possibly nested Sequence, in order; {} for a member that is not an object.

    members: the key of a Sequence's steps.
    """
    waiting: list[Any] = [] if step is None else [step]
    while waiting:
        head = waiting.pop()
        if not isinstance(head, Mapping):
            yield {}
        elif head.get("type") == "Sequence" and isinstance(head.get(members), list):
            waiting.extend(reversed(head[members]))
        else:
            yield head


def _step(step: Mapping[str, Any]) -> str | None:
    """Return a step as a regular expression: "" for one that does not split, None for one that has no expression."""
    match step.get("type"):
        case "ByteLevel":
            return GPT2 if step.get("use_regex", True) else ""
        case "Digits":
            return DIGIT if step.get("individual_digits") else rf"{DIGIT}+"
        case "Punctuation":
            return "Punctuation"
        case "Split":
            isolated = (step.get("behavior"), bool(step.get("invert"))) in (("Isolated", False), ("Removed", True))
            pattern = step.get("pattern")
            regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
            return normalised(regex) if isolated and isinstance(regex, str) else None
    return None


def normalised(regex: str) -> str:
    """Return an expression with line ends as escapes, and contractions as one case-insensitive group.

    The result is in Unicode NFC, as editors save it: some files have compatibility characters in ranges.
    """
    return (
        unicodedata.normalize("NFC", regex)
        .replace("\r", r"\r")
        .replace("\n", r"\n")
        .replace(_SPELLED_OUT, CONTRACTIONS)
    )
