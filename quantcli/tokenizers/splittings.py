r"""Splittings: the regular expressions with which byte-level BPE splits a text before merging, by llama.cpp's name.

`tokenizer.ggml.pre` in a GGUF file names one of `SPLITTINGS`. Steps are applied in order: each splits the pieces of the
previous one at the matches of its expression, which become separate pieces. Some names share their steps and differ in
the other fields. If llama.cpp's matcher required a rewritten expression, the one in the tokenizer.json files that the
name refers to is given here.

Source: the names, expressions and flags of llama.cpp's src/llama-vocab.cpp; the tokenizer.json files they come from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGIT = r"\p{N}"
THREE_DIGITS = r"\p{N}{1,3}"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_END}"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
TEKKEN = rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_END}"
GPT4O = (
    rf"{_BEFORE}{_UPPER}*{_LOWER}+{CONTRACTIONS}?|{_BEFORE}{_UPPER}+{_LOWER}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_END}"
)
DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_END}"
)
#: Cased letters, as ranges; escaped, because Unicode NFC would change some of them.
_CASED = (
    "\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
DEEPSEEK_LETTERS = rf"\s?[A-Za-z{_CASED}]+"
DEEPSEEK_POINTS = r"\s?[!-/:-~！-／：-～‘-‟　-。]+"
CJK, KANA = "[一-龥ࠀ-一가-퟿]+", "[一-龥぀-ゟ゠-ヿ]+"
_BLANKS = "|".join(rf"\s{{{n}}}(?!\S)" for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))
JAIS2 = LLAMA3.replace(r"\s+(?!\S)|\s+", rf"{_BLANKS}|\s{{1}}")
QWEN35 = QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
THREES = r"\d{1,3}(?=(?:\d{3})*\b)"
LINES = r"[^\n]+|[\n]+"
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
SEED = rf"{CONTRACTIONS}|{_BEFORE}\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_END}"
EXAONE_MOE = (
    rf"{CONTRACTIONS}|{_BEFORE}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SPARK = DEEPSEEK.replace(rf"[\r\n]*|{_END}", r"|[\r\n]|\s+(?!\S)|\s+")
YOUTU = r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"
AFMOE_SCRIPTS = "[一-鿿㐀-䶿\uf900-\ufaff぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+"
_NO_HAN_UPPER, _NO_HAN_LOWER = (rf"{letters[:-1]}&&[^\p{{Han}}]]" for letters in (_UPPER, _LOWER))
KIMI = (
    rf"[\p{{Han}}]+|{_BEFORE}{_NO_HAN_UPPER}*{_NO_HAN_LOWER}+{CONTRACTIONS}?"
    rf"|{_BEFORE}{_NO_HAN_UPPER}+{_NO_HAN_LOWER}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_END}"
)
SENTINELS, IMAGES = "<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"
CHAMELEON_POINTS = r"[\p{P}!-/:-@\[-`{-~]"


@dataclass(frozen=True)
class Splitting:
    """The meaning of a name.

    steps: regular expressions, or the word Punctuation. nfc: text is converted to Unicode NFC first, which llama.cpp
    does not do, but the tokenizers that the name was made for do. ignore_merges: a piece in the vocabulary becomes one
    token. cleans: spaces before punctuation are dropped when tokens are decoded. raw: tokens are text with U+2581 for
    spaces and <0xNN> for bytes, as in SentencePiece, not bytes renamed to characters. leading: the tokens that are put
    before a text instead of `bos`, if one is put there. adds_bos: the default of `add_bos_token`.
    """

    steps: tuple[str, ...]
    nfc: bool = False
    ignore_merges: bool = False
    cleans: bool = False
    raw: bool = False
    leading: tuple[str, ...] = ()
    adds_bos: bool = False


_GPT2 = Splitting((GPT2,), cleans=True)
_LLAMA3 = Splitting((LLAMA3,), ignore_merges=True, cleans=True, adds_bos=True)
_QWEN2 = Splitting((QWEN2,))
_DIGITS = Splitting((DIGIT, GPT2), cleans=True)
_GPT4O = Splitting((GPT4O,))
_V3 = Splitting((THREE_DIGITS, KANA, DEEPSEEK))
_GLM = Splitting((LLAMA3,), cleans=True, leading=("[gMASK]", "<sop>"))
_BLOOM = Splitting((BLOOM,), cleans=True)
_BAILING = Splitting((BAILING,))
_LINES = Splitting((LINES,), cleans=True, raw=True, adds_bos=True)
_AYA = Splitting((THREES, GPT4O))

SPLITTINGS: dict[str, Splitting] = {
    "default": Splitting((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"), cleans=True),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1"), _LLAMA3),
    **dict.fromkeys(("pixtral", "midm-2.0", "lfm2", "jina-v5-nano"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), Splitting((LLAMA3,), cleans=True)),
    "chatglm-bpe": _GLM,
    **dict.fromkeys(("glm4", "glm5"), replace(_GLM, ignore_merges=True)),
    **dict.fromkeys(("gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de"), _GPT2),
    **dict.fromkeys(("a.x-4.0", "mellum", "modern-bert", "jina-v1-en", "jina-v2-code", "roberta-bpe", "jais"), _GPT2),
    **dict.fromkeys(("trillion", "granite-docling"), replace(_GPT2, cleans=False)),
    **dict.fromkeys(("mpt", "olmo", "exaone4"), replace(_GPT2, nfc=True)),
    **dict.fromkeys(("starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"), _DIGITS),
    "smollm": replace(_DIGITS, cleans=False),
    "command-r": replace(_DIGITS, cleans=False, nfc=True),
    "qwen2": replace(_QWEN2, nfc=True),
    "qwen35": Splitting((QWEN35,), nfc=True),
    **dict.fromkeys(("deepseek-r1-qwen", "kormo", "f2llmv2", "hunyuan", "solar-open", "grok-2"), _QWEN2),
    **dict.fromkeys(("stablelm2", "megrez"), replace(_QWEN2, cleans=True)),
    "ufakzeka": Splitting((QWEN2.removeprefix(f"{CONTRACTIONS}|"),)),
    "laguna": Splitting((LINES, QWEN2)),
    "falcon": Splitting(("Punctuation", GPT2, "[0-9][0-9][0-9]"), cleans=True),
    "tekken": Splitting((TEKKEN,), ignore_merges=True, adds_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), _GPT4O),
    # its expression has marks among the letters, which GPT-4o's has too
    "granite-embed-multi-97m": replace(_GPT4O, ignore_merges=True),
    **dict.fromkeys(("tiny_aya", "cohere2moe"), _AYA),
    "youtu": Splitting((YOUTU, GPT4O.replace(r"\p{N}{1,3}", r"\p{N}")), ignore_merges=True),
    "deepseek-llm": Splitting((r"[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_POINTS, r"\s+$", CJK, DIGIT)),
    "deepseek-coder": Splitting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, DIGIT)),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), _V3),
    "spark2_5": Splitting((THREE_DIGITS, KANA, SPARK, DIGIT)),
    "afmoe": Splitting((r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", AFMOE_SCRIPTS, DEEPSEEK)),
    **dict.fromkeys(("bloom", "gpt3-finnish"), _BLOOM),
    "poro-chat": replace(_BLOOM, cleans=False),
    "viking": Splitting((BLOOM, DIGIT)),
    "jais-2": Splitting((JAIS2,), cleans=True),
    "minicpm5": Splitting((THREE_DIGITS, LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")), ignore_merges=True, cleans=True),
    "seed-coder": Splitting((SEED,)),
    "exaone-moe": Splitting((EXAONE_MOE,), cleans=True),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), _BAILING),
    "superbpe": Splitting((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    "chameleon": Splitting((SENTINELS, IMAGES, r"([\t\n]|    |  )", DIGIT, CHAMELEON_POINTS, GPT2), adds_bos=True),
    "kimi-k2": Splitting((KIMI,)),
    **dict.fromkeys(("gemma4", "granite-embed-multi-311m"), _LINES),
    "sarvam-moe": replace(_LINES, cleans=False, adds_bos=False),
}
