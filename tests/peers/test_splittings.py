"""Every name of a pre-tokenizer that llama.cpp knows: the tokenizer.json for it splits texts as llama.cpp does.

The vocabulary is trained on the texts without any splitting, so that a word cut elsewhere gives other tokens.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantcli.checkpoint import Vocabulary
from quantcli.containers.gguf_write import header
from quantcli.targets.gguf_metadata import tokenizer
from quantcli.tokenizers.behaviour import PROBES
from quantcli.tokenizers.rebuild import tokenizer_json
from quantcli.tokenizers.splittings import SPLITTINGS
from tests.peers.pinned import peer
from tests.peers.test_tokenizers import Reader
from tests.tokenizers.kinds import loaded, probes

peer("llama_cpp")

MORE = (
    "１２３４５ 12345678 ٣٤٥٦٧", "1 234 5678 90123 123456", "aé1b2", "가나다 라마", "日本1234語5678",
    "a\u0301bc न\u093f",
    "IMGIMGABCZ <sentinel:12>", "x\n\n  y", "it's IT'S don’t", "a/b//c\n/d",
)  # fmt: skip
#: Added tokens, and blanks as SentencePiece writes them, would be taken otherwise.
MARKS = ("<|", "<s>", "</s>", "<fim", "▁")
TEXTS = tuple(
    text
    for text in dict.fromkeys((*(probe["text"] for probe in probes("bpe-gpt2")), *PROBES, *MORE))
    if not any(mark in text for mark in MARKS)
)

#: llama.cpp's matcher knows the categories of letters and marks only together, so it words these expressions otherwise;
#: deepseek-llm it splits into runs of digits, unlike its tokenizer.json. steps -> the number of texts that differ.
APART = {"tekken": 8, "gpt-4o": 8, "tiny_aya": 8, "youtu": 5, "deepseek-llm": 28, "deepseek-coder": 3, "kimi-k2": 13}
APART["superbpe"] = 1


@pytest.fixture(scope="module")
def trained() -> Vocabulary:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2200, min_frequency=1, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS * 2, trainer)
    model = json.loads(made.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = tuple(" ".join(pair) for pair in model["merges"])
    types = (1,) * len(tokens)
    texts = tuple(token.encode() for token in tokens)
    return Vocabulary("bpe", "gpt-2", texts, types, None, merges, {"bos": 0, "eos": 0}, {"bos": False})


def differing(path: Path, keys: dict[str, Any], made: dict[str, Any]) -> list[str]:
    """The texts that llama.cpp, on a file with these keys, and the library, with this tokenizer.json, split apart."""
    from tokenizers import Tokenizer

    sizes = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count")
    start: dict[str, tuple[str, Any]] = {
        "general.architecture": ("string", "llama"),
        **{f"llama.{size}": ("uint32", 32) for size in sizes},
        "llama.attention.layer_norm_rms_epsilon": ("float32", 1e-5),
    }
    path.write_bytes(header(start | keys, [])[0])
    reader, library = Reader(path), Tokenizer.from_str(json.dumps(made))
    return [t for t in TEXTS if library.encode(t, add_special_tokens=False).ids != reader.tokens(t, False)]


@pytest.mark.parametrize("name", [name for name, how in SPLITTINGS.items() if not how.raw])
def test_splits_as_llama_cpp(trained: Vocabulary, tmp_path: Path, name: str) -> None:
    vocabulary = replace(trained, pre=name)
    made = tokenizer_json(vocabulary)[0] | {"normalizer": None}  # which llama.cpp leaves out
    found = differing(tmp_path / "a.gguf", tokenizer(vocabulary, False), made)
    same = next(other for other, how in SPLITTINGS.items() if how.steps == SPLITTINGS[name].steps)
    allowed = 0 if name == "granite-embed-multi-97m" else APART.get(name, APART.get(same, 0))
    assert len(found) == allowed, found


@pytest.mark.parametrize("name", ["gemma4", "sarvam-moe"])
def test_merges_inside_lines(tmp_path: Path, name: str) -> None:
    pieces = loaded("spm-llama")
    merges = tuple(" ".join(pair) for pair in tokenizer_json(pieces)[0]["model"]["merges"])
    model = "gemma4" if name == "gemma4" else "bpe"
    vocabulary = replace(pieces, model=model, pre=name, merges=merges, scores=None)
    keys = tokenizer(replace(vocabulary, model="bpe"), False)
    keys["tokenizer.ggml.model"] = ("string", "gemma4" if name == "gemma4" else "gpt2")
    assert differing(tmp_path / "a.gguf", keys, tokenizer_json(vocabulary)[0]) == []
