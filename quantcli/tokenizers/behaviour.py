"""What two tokenizers make of the same texts.

Vocabularies that differ in spelling may give the same ids, and equal ones may not (pre-tokenizers, normalizers, what
is put around a text), so texts that take each of these apart are encoded by both. The encoder is Hugging Face's
tokenizers library, of a `tokenizer.json`; a GGUF file's is rebuilt first (`rebuild`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from quantcli.containers.hostile import shown
from quantcli.errors import NotPossible

Encode = Callable[[str], list[int]]

#: The probe strings: what tokenizers are known to disagree about.
PROBES: tuple[str, ...] = (
    # words, contractions, case
    "Hello, world!", "The quick brown fox jumps over the lazy dog.", "don't can't I'll we've they're it's I'm he'd",
    "DON'T I'LL WE'VE", "state-of-the-art", "camelCaseWord HTTPServerError snake_case_word", "token quantized weights",
    # blanks, tabs, line ends
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
    # emoji, controls, texts that look special
    "🚀 rocket 👍🏽", "👨\u200d👩\u200d👧", "a\x00b\x7f\u200b\ufeff\ufffd", "<s>Hello</s>", "<unk> <0x41>",
    "<|endoftext|>a<|im_start|> b <|im_end|>\n", "<|user|> \n<|end|>  x", "[INST] a [/INST]", "<think>\n</think>",
)  # fmt: skip


@dataclass(frozen=True)
class Different:
    """A text that two tokenizers give other ids."""

    text: str
    a: tuple[int, ...]
    b: tuple[int, ...]


def differences(a: Encode, b: Encode, probes: tuple[str, ...] = PROBES) -> list[Different]:
    """The probes whose ids differ, with what each tokenizer puts around a text."""
    pairs = ((text, tuple(a(text)), tuple(b(text))) for text in probes)
    return [Different(text, ours, theirs) for text, ours, theirs in pairs if ours != theirs]


def encoder(tokenizer_json: bytes, where: str) -> Encode:
    """The encoder that a `tokenizer.json` describes; `where` names it in errors.

    Raises `NotPossible` for one that the library does not load; so does the encoder for a text that it stops at.
    """
    from tokenizers import Tokenizer  # slow to import, and only `diff` needs it

    with _said(where, "does not load it"):
        made = Tokenizer.from_buffer(tokenizer_json)
        made.no_padding()
        made.no_truncation()

    def encode(text: str) -> list[int]:
        with _said(where, f"cannot encode {shown(text)} with it"):
            return list(made.encode(text).ids)

    return encode


@contextmanager
def _said(where: str, what: str) -> Iterator[None]:
    """What the library raises, as a sentence. It has no class of its own, and for what it checks too late a panic."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise NotPossible(f"{where}: the tokenizers library {what} ({shown(str(error))}).") from error
