"""Comparison of the ids that two tokenizers give the same texts.

Different vocabularies may give the same ids, and equal ones other ids (pre-tokenizers, normalizers, tokens around a
text), so both tokenizers encode texts that show each of these differences. The encoder is Hugging Face's tokenizers
library, with a `tokenizer.json`; a GGUF file's is rebuilt first (`rebuild`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from quantcli.containers.hostile import shown
from quantcli.errors import NotPossible

Encode = Callable[[str], list[int]]

#: Texts that tokenizers are known to encode differently.
PROBES: tuple[str, ...] = (
    # words, contractions, case
    "Hello, world!", "The quick brown fox jumps over the lazy dog.", "don't can't I'll we've they're it's I'm he'd",
    "DON'T I'LL WE'VE", "state-of-the-art", "camelCaseWord HTTPServerError snake_case_word", "token quantized weights",
    # spaces, tabs, line ends
    "", " ", "  ", "        ", " leading", "  two leading", "trailing  ", "a  b   c    d", f"a{' ' * 17}b",
    "\n", "\n\n\n", "a\n\nb", "a \n\n  b\n", "a\r\nb\r\n", "\t", "\t\tindent", " \t \n\t ", "\u00a0a\u3000b",
    "a\u2581b",
    # digits
    "0", "12", "1234", "1234567890", "3.14159 1,000,000", "2024-05-17 v1.2.3", "x2y34z567", "١٢٣ ½ Ⅳ", "0x1F 1e-5 50%",
    # punctuation and code
    "...", "!!!???", "a...b", "`code` \"quoted\" 'single' «guillemets»", "$5.00 €6 #tag @user a/b\\c", "^~|<=>+",
    "def f(x):\n    return x + 1\n", "for (int i = 0; i < n; i++) {\n\tsum += a[i];\n}", "</div>&amp;<tag>",
    # accents, composed and not; scripts
    "café naïve Ångström", "cafe\u0301 A\u030angstro\u0308m", "ﬁ İstanbul ẞß", "你好，世界！",
    "我想在apple工作1314151天～", "こんにちは世界 カタカナ",
    "안녕하세요", "Привет, мир", "שלום עולם مرحبا", "नमस्ते दुनिया", "ภาษาไทย",
    # emoji, control characters, texts that look like special tokens
    "🚀 rocket 👍🏽", "👨\u200d👩\u200d👧", "a\x00b\x7f\u200b\ufeff\ufffd", "<s>Hello</s>", "<unk> <0x41>",
    "<|endoftext|>a<|im_start|> b <|im_end|>\n", "<|user|> \n<|end|>  x", "[INST] a [/INST]", "<think>\n</think>",
)  # fmt: skip


@dataclass(frozen=True)
class Different:
    """A text to which two tokenizers give different ids."""

    text: str
    a: tuple[int, ...]
    b: tuple[int, ...]


def differences(a: Encode, b: Encode, probes: tuple[str, ...] = PROBES) -> list[Different]:
    """Return the probes whose ids differ, with the tokens that each tokenizer puts around a text."""
    pairs = ((text, tuple(a(text)), tuple(b(text))) for text in probes)
    return [Different(text, ours, theirs) for text, ours, theirs in pairs if ours != theirs]


def encoder(tokenizer_json: bytes, where: str) -> Encode:
    """Return the encoder that a `tokenizer.json` describes. where: its name in errors.

    Raises `NotPossible` if the library does not load it. The encoder raises `NotPossible` if it fails for a text.
    """
    from tokenizers import Tokenizer  # slow to import, and only `diff` needs it

    with _reworded(where, "does not load it"):
        made = Tokenizer.from_buffer(tokenizer_json)
        made.no_padding()
        made.no_truncation()

    def encode(text: str) -> list[int]:
        with _reworded(where, f"cannot encode {shown(text)} with it"):
            return list(made.encode(text).ids)

    return encode


@contextmanager
def _reworded(where: str, what: str) -> Iterator[None]:
    """Raise `NotPossible` for any error of the library, which has no class for them and panics for some input."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise NotPossible(f"{where}: the tokenizers library {what} ({shown(str(error))}).") from error
