r"""Pre-tokenizer rules: what `tokenizer.json` spells -> llama.cpp's name of the same rule (`tokenizer.ggml.pre`).

llama.cpp's converter knows tokenizers by a hash of one text's ids and stops at all others; here the rule itself is
looked at. A `pre_tokenizer` is flattened to steps, each the regular expression that it splits by:

    Split(Regex, Isolated)          the expression         ByteLevel(use_regex)   GPT-2's expression
    Digits(individual_digits)       \p{N}                  ByteLevel              nothing: bytes are only renamed
    Digits                          \p{N}+                 Punctuation            the word Punctuation

and compared as text. Several names mean the same splitting and differ in details: whether a word that is in the
vocabulary is taken whole before any merge (`ignore_merges`), whether blanks before punctuation are cleaned up when
text is put together again, which token stands first. The rows tell them apart by those; the first that matches
counts.

Source: the regular expressions and flags of llama.cpp's src/llama-vocab.cpp; the tokenizer.json files they come from.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGIT = r"\p{N}"
THREE_DIGITS = r"\p{N}{1,3}"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_END}"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
TEKKEN = rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_END}"
GPT4O = (
    rf"{_BEFORE}{_UPPER}*{_LOWER}+{_SHORT}?|{_BEFORE}{_UPPER}+{_LOWER}*{_SHORT}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_END}"
)
DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_END}"
)
DEEPSEEK_LETTERS = (
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼ"
    r"ℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
)
CJK, KANA = "[一-龥ࠀ-一가-퟿]+", "[一-龥぀-ゟ゠-ヿ]+"
_BLANKS = "|".join(rf"\s{{{n}}}(?!\S)" for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))


@dataclass(frozen=True)
class Rule:
    """One row: `steps` have to be equal; of the other conditions None means either.

    nfc: a Unicode NFC normalizer stands before it. ignore_merges: the BPE model's flag. cleans: tokenizer_config.json's
    `clean_up_tokenization_spaces`. first: the token that the template puts first.
    """

    name: str
    steps: tuple[str, ...]
    nfc: bool | None = None
    ignore_merges: bool | None = None
    cleans: bool | None = None
    first: str | None = None


RULES: tuple[Rule, ...] = (
    # the same splitting: falcon3, falcon-h1, pixtral, midm-2.0, lfm2; chatglm-bpe; smaug-bpe
    Rule("glm4", (LLAMA3,), first="[gMASK]"),
    Rule("dbrx", (LLAMA3,), ignore_merges=False),
    Rule("llama-bpe", (LLAMA3,)),
    # megrez, deepseek-r1-qwen, kormo, hunyuan, solar-open, grok-2, stablelm2
    Rule("qwen2", (QWEN2,)),
    Rule(
        "qwen35", (QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]"),)
    ),
    Rule("ufakzeka", (QWEN2.removeprefix(f"{_SHORT}|"),)),
    Rule("laguna", (r"[^\n]+|[\n]+", QWEN2)),
    # olmo and exaone4 are mpt's splitting too; jais, trillion, granite-docling, phi-2 and modern-bert are gpt-2's
    Rule("mpt", (GPT2,), nfc=True),
    Rule("gpt-2", (GPT2,)),
    Rule("command-r", (DIGIT, GPT2), nfc=True),
    # refact, codeshell, exaone, minerva-7b, mellum2
    Rule("smollm", (DIGIT, GPT2), cleans=False),
    Rule("starcoder", (DIGIT, GPT2)),
    Rule("falcon", ("Punctuation", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    Rule("falcon", ("Punctuation", GPT2, "[0-9][0-9][0-9]")),
    Rule("tekken", (TEKKEN,)),
    # llama4, kanana2, minimax-m2
    Rule("gpt-4o", (GPT4O,)),
    Rule("tiny_aya", (r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O)),
    Rule("deepseek-llm", (r"[\r\n]", DEEPSEEK_LETTERS, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", CJK, DIGIT)),
    Rule("deepseek-coder", (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, DIGIT)),
    # hunyuan-dense, joyai-llm, hy_v4
    Rule("deepseek-v3", (THREE_DIGITS, KANA, DEEPSEEK)),
    Rule("bloom", (r" ?[^(\s|[.,!?…。，、।۔،])]+",)),
    Rule("viking", (r" ?[^(\s|[.,!?…。，、।۔،])]+", DIGIT)),
    Rule("jais-2", (LLAMA3.replace(r"\s+(?!\S)|\s+", rf"{_BLANKS}|\s{{1}}"),)),
    Rule("minicpm5", (THREE_DIGITS, LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+"))),
    Rule("seed-coder", (rf"{_SHORT}|{_BEFORE}\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_END}",)),
    Rule(
        "exaone-moe",
        (
            rf"{_SHORT}|{_BEFORE}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
    ),
    # bailingmoe2, llada-moe
    Rule(
        "bailingmoe",
        (
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
    ),
)

#: What llama.cpp itself takes where a file names no rule.
ASSUMED = "default"

#: A case-insensitive group as some files spell it out, for engines without (?i:).
_SPELLED_OUT = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"


def steps(pre_tokenizer: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """The regular expressions that a `pre_tokenizer` object splits by, in order; None where a step is none."""
    found: list[str] = []
    for step in flattened(pre_tokenizer, "pretokenizers"):
        spelled = _step(step)
        if spelled is None:
            return None
        if spelled:
            found.append(spelled)
    return tuple(found)


def recognise(
    pre_tokenizer: Mapping[str, Any] | None,
    *,
    nfc: bool = False,
    ignore_merges: bool = False,
    cleans: bool | None = None,
    first: str | None = None,
) -> str | None:
    """llama.cpp's name of a rule, None for one that it does not have; conditions as in `Rule`."""
    spelled = steps(pre_tokenizer)
    given = {"nfc": nfc, "ignore_merges": ignore_merges, "cleans": cleans, "first": first}
    for rule in RULES:
        same = tuple(map(normalised, rule.steps)) == spelled
        if same and all(getattr(rule, key) in (None, value) for key, value in given.items()):
            return rule.name
    return None


def flattened(step: Mapping[str, Any] | None, inner: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a possibly nested Sequence, in order; things that are no objects come out as empty ones."""
    waiting: list[Any] = [] if step is None else [step]
    while waiting:
        head = waiting.pop()
        if not isinstance(head, Mapping):
            yield {}
        elif head.get("type") == "Sequence" and isinstance(head.get(inner), list):
            waiting.extend(reversed(head[inner]))
        else:
            yield head


def _step(step: Mapping[str, Any]) -> str | None:
    """One step as a regular expression; empty for one that splits nothing, None for one that is none."""
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
    """An expression with line ends written as escapes and contractions as one case-insensitive group.

    In Unicode NFC, as editors keep it: some files spell letters of a range by a compatibility character.
    """
    return unicodedata.normalize("NFC", regex).replace("\r", r"\r").replace("\n", r"\n").replace(_SPELLED_OUT, _SHORT)
