"""Vocabularies in tiktoken's files and Mistral's: llama.cpp, on what is made of them, gives the original's ids.

The originals are tiktoken's library, with the expressions and special tokens of the released classes, and
mistral-common. Its package has the real files of two releases, 131,072 tokens each; as ranks for the classes of Kimi,
Hunyuan and Qwen their 150,000 tokens serve, too.
"""

import json
import shutil
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from quantcli import tokenizers
from quantcli.checkpoint import Vocabulary
from quantcli.containers.gguf_write import header
from quantcli.targets.gguf_metadata import tokenizer
from quantcli.tokenizers.behaviour import PROBES
from quantcli.tokenizers.conventions import HUNYUAN_DENSE
from tests.peers.make_vocabularies import Job
from tests.peers.make_vocabularies import converted as converter_keys
from tests.peers.originals import COMPOSES, Encode, original
from tests.peers.pinned import peer
from tests.peers.test_tokenizers import Reader
from tests.tokenizers.ranked import DATA, RANKED, conventions_for, reference, vocabulary_of
from tests.tokenizers.test_ranked import BOS, plain

peer("llama_cpp")
peer("tiktoken")
mistral_common = peer("mistral_common")

RELEASES = ("tekken_240718", "tekken_240911")
EXTRA = [f"<|extra_{number}|>" for number in range(205)]
SPECIAL = {
    "hunyuan": ("hy.tiktoken", ["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>", *EXTRA]),
    "kimi": ("tiktoken.model", ["[BOS]", "[EOS]"]),
    "qwen": ("qwen.tiktoken", ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *EXTRA]),
}
#: A text that llama.cpp's matcher cuts otherwise, as in test_splittings: it knows letters and marks only together.
MARKS = "नमस्ते दुनिया"
#: How many such texts there are where a vocabulary is so small that letters and their marks are no tokens.
WITH_MARKS = {"kimi": 4, "tekken-v7": 3}
PACKAGE = Path(mistral_common.__file__).parent / "data"


def texts() -> list[str]:
    found = [probe["text"] for probe in reference("kimi")["probes"]]
    assert len(found) == 200
    return list(dict.fromkeys((*found, *PROBES)))


def reader(path: Path, vocabulary: Vocabulary, name: str) -> Reader:
    sizes = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count")
    keys: dict[str, tuple[str, Any]] = {
        "general.architecture": ("string", "llama"),
        **{f"llama.{size}": ("uint32", 32) for size in sizes},
        "llama.attention.layer_norm_rms_epsilon": ("float32", 1e-5),
        **tokenizer(vocabulary, False, conventions_for(name)),
    }
    path.write_bytes(header(keys, [])[0])
    return Reader(path)


def differing(llama_cpp: Reader, encode: Encode, special: bool) -> list[str]:
    """The texts that get other ids; special: texts of special tokens count as these."""
    return [text for text in texts() if llama_cpp.tokens(text, False, special) != encode(text)]


def is_composed(text: str) -> bool:
    """Whether a text is in Unicode NFC, which some classes bring it into, and llama.cpp does not."""
    return unicodedata.is_normalized("NFC", text)


def has_marks(text: str) -> bool:
    return any(unicodedata.category(character).startswith("M") for character in text)


@pytest.mark.parametrize("name", RANKED)
def test_the_stored_ids_are_the_originals(name: str) -> None:
    encode = original(DATA / name, name, reference(name)["special"])
    assert [p["ids"] for p in reference(name)["probes"]] == [encode(p["text"]) for p in reference(name)["probes"]]


@pytest.mark.parametrize("name", RANKED)
def test_llama_cpp_gives_the_originals_ids(tmp_path: Path, name: str) -> None:
    encode = original(DATA / name, name, reference(name)["special"])
    found = differing(reader(tmp_path / "a.gguf", vocabulary_of(name), name), encode, "tekken" not in name)
    if name in COMPOSES:
        assert found == [text for text in texts() if not is_composed(text)]
    else:
        assert all(map(has_marks, found)) and len(found) == WITH_MARKS.get(name, 0)


@cache
def release(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PACKAGE / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("name", RELEASES)
def test_mistrals_own_files(tmp_path: Path, name: str) -> None:
    shutil.copy(PACKAGE / f"{name}.json", tmp_path / "tekken.json")
    vocabulary = tokenizers.load(tmp_path, {"vocab_size": 131072})
    assert vocabulary.warnings == () and len(vocabulary.tokens) == 131072
    found = differing(reader(tmp_path / "a.gguf", vocabulary, name), original(tmp_path, name, {}), False)
    assert found == [MARKS]


@pytest.mark.parametrize("name", SPECIAL)
def test_a_large_vocabulary_of_ranks(tmp_path: Path, name: str) -> None:
    file, names = SPECIAL[name]
    ranks = [entry["token_bytes"] for entry in release(RELEASES[-1])["vocab"]]
    (tmp_path / file).write_text("".join(f"{token} {rank}\n" for rank, token in enumerate(ranks)))
    special = {text: len(ranks) + place for place, text in enumerate(names)}
    decoder = {str(number): {"content": text} for text, number in special.items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    vocabulary = tokenizers.load(tmp_path, {"vocab_size": len(ranks) + len(names)})
    assert vocabulary.warnings == () and len(vocabulary.merges) == len(ranks) - 256
    found = differing(reader(tmp_path / "a.gguf", vocabulary, name), original(tmp_path, name, special), True)
    assert found == ([text for text in texts() if not is_composed(text)] if name in COMPOSES else [MARKS])


@pytest.mark.parametrize(("width", "first"), [(4096, 127958), (2048, None)])
def test_the_keys_of_a_dense_hunyuan_are_the_converters(tmp_path: Path, width: int, first: int | None) -> None:
    """Of the 7B it writes one id of the first token, which a tiny vocabulary does not reach (test_tiktoken)."""
    files = {path.name: path.read_text() for path in (DATA / "hunyuan").iterdir() if path.suffix != ".gz"}
    stated = {**json.loads(files["config.json"]), "hidden_size": width}
    job = Job(
        "hunyuan_dense",
        {**files, "config.json": json.dumps(stated)},
        reference("hunyuan")["special"],
        "hy.tiktoken",
    )
    theirs = {key: value for key, (_, value) in converter_keys(tmp_path, {"hunyuan": job})["hunyuan"].items()}
    whole = json.loads((tmp_path / "hunyuan" / "config.json").read_text())
    made = tokenizer(tokenizers.load(tmp_path / "hunyuan", whole, HUNYUAN_DENSE), False, HUNYUAN_DENSE)
    ours = {key: plain(value) for key, (_, value) in made.items()}
    assert ours.pop("tokenizer.ggml.eot_token_id") == stated["eos_token_id"]  # an end that the converter leaves out
    assert theirs.pop(BOS) == (first or stated["bos_token_id"]) and ours.pop(BOS) == stated["bos_token_id"]
    assert ours == theirs and list(ours) == list(theirs)


def test_a_release_is_what_the_converters_own_reader_makes_of_it(tmp_path: Path) -> None:
    from gguf.vocab import MistralVocab

    shutil.copy(PACKAGE / f"{RELEASES[-1]}.json", tmp_path / "tekken.json")
    ours, theirs = tokenizers.load(tmp_path, {"vocab_size": 131072}), MistralVocab(tmp_path)
    entries = list(theirs.all_tokens())
    assert ours.tokens == tuple(text for text, _, _ in entries)
    assert ours.scores == tuple(score for _, score, _ in entries)
    assert ours.types == tuple(int(kind) for _, _, kind in entries)
    assert ours.merges == tuple(theirs.extract_vocab_merges_from_model())
