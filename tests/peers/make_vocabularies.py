"""Writes tests/data/tokenizers/ranks: tiny vocabularies in files of tiktoken and Tekken, and what others make of them.

    python -m tests.peers.make_vocabularies [--check]       --check: write nothing, and name the files that would change

Run from the top of the checkout with .venv-peers (tiktoken, mistral-common, and in build/peers the source package of
llama-cpp-python, which `make peers` fetches). A vocabulary is a folder with

    tiktoken.model, hy.tiktoken, qwen.tiktoken, tekken.json     ranks, trained on the probe texts
    config.json                                                 the keys of a model's that its tokenizer needs
    tokenizer_config.json                                       as the release has it, made short
    reference.json.gz                                           metadata: what llama.cpp's converter writes, in order;
                                                                special: what the tokenizer's code adds to the ranks;
                                                                probes: texts with ids of tiktoken or mistral-common

The released tokenizers of Kimi, Hunyuan and Qwen are code of their own, which is not at hand. The converter asks them
for their ranks and special tokens only, so it is given an object with just these (`converter.Ranks`).
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.convert.test_golden_arch import write_model
from tests.peers.originals import Encode, original
from tests.peers.pinned import llama_cpp_source
from tests.tokenizers.kinds import probes
from tests.tokenizers.ranked import DATA, PATTERNS, REFERENCE

#: Texts to learn from beside the probes: some words often, so that there are long tokens.
MORE = ("the quick brown fox jumps over the lazy dog", "Hello world", "你好世界 你好", "   \n\n  \t", "12345 67890") * 3
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
KIMI_NAMES = ("[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|start_header_id|>")
HUNYUAN_NAMES = ("<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>")
QWEN_NAMES = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
EXTRA_NAMES = tuple(f"<|extra_{number}|>" for number in range(205))
#: In another order than the one that older files mean.
TEKKEN_NAMES = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[THINK]", "[/THINK]", "[AUDIO]", "<pad>",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One vocabulary. case: the model whose settings the converter is given. special: the tokens that its code adds."""

    case: str
    files: Mapping[str, str]
    special: Mapping[str, int] = field(default_factory=dict)
    ranks: str | None = None


def trained(pattern: str, size: int) -> list[bytes]:
    """Tokens by rank: the bytes in their order, then what pairs of tokens make."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=1, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([*(probe["text"] for probe in probes("bpe-gpt2")), *MORE], trainer)
    vocab = json.loads(made.to_str())["model"]["vocab"]
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    codes = {character: byte for byte, character in bytes_to_unicode().items()}
    tokens = [bytes(codes[character] for character in text) for text in sorted(vocab, key=vocab.__getitem__)]
    return [*(bytes((byte,)) for byte in range(256)), *(token for token in tokens if len(token) > 1)]


def rank_lines(tokens: list[bytes]) -> str:
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))


def kimi() -> Job:
    tokens = trained(PATTERNS["kimi"], 700)
    first = len(tokens)
    named = {first + place: name for place, name in enumerate(KIMI_NAMES)} | {
        first + 254: "[UNK]",
        first + 255: "[PAD]",
    }
    special = {named.get(n, f"<|reserved_token_{n}|>"): n for n in range(first, first + 258)}
    decoder = {str(n): {"content": name, "special": "header" not in name} for n, name in named.items()}
    settings = {
        "added_tokens_decoder": decoder, "additional_special_tokens": list(KIMI_NAMES[2:]), "bos_token": "[BOS]",
        "eos_token": "[EOS]", "pad_token": "[PAD]", "unk_token": "[UNK]", "tokenizer_class": "TikTokenTokenizer",
        "clean_up_tokenization_spaces": False, "chat_template": TEMPLATE,
    }  # fmt: skip
    config = {"vocab_size": first + 256, "bos_token_id": first, "eos_token_id": first + 2, "pad_token_id": first + 255}
    return Job("kimi_k2", texts(config, settings, "tiktoken.model", rank_lines(tokens)), special, "tiktoken.model")


def hunyuan() -> Job:
    tokens = trained(PATTERNS["hunyuan"], 700)
    first = len(tokens)
    special = {name: first + place for place, name in enumerate((*HUNYUAN_NAMES, *EXTRA_NAMES))}
    settings = {
        "add_bos_token": False, "add_eos_token": False, "added_tokens_decoder": {}, "bos_token": "<|startoftext|>",
        "eos_token": "<|eos|>", "pad_token": "<|pad|>", "tokenizer_class": "HYTokenizer", "chat_template": TEMPLATE,
    }  # fmt: skip
    config = {"vocab_size": first + 210, "bos_token_id": first + 2, "eos_token_id": first + 3}
    config |= {"pad_token_id": first + 4, "eod_token_id": first, "sep_token_id": first + 5}
    return Job("hunyuan_moe", texts(config, settings, "hy.tiktoken", rank_lines(tokens)), special, "hy.tiktoken")


def qwen() -> Job:
    """Without ids in config.json, as Qwen 1 has it, and with more rows than tokens."""
    tokens = trained(PATTERNS["qwen"], 400)
    special = {name: len(tokens) + place for place, name in enumerate((*QWEN_NAMES, *EXTRA_NAMES))}
    config = {"vocab_size": len(tokens) + len(special) + 3}
    settings = {"model_max_length": 8192, "tokenizer_class": "QWenTokenizer"}
    return Job("qwen", texts(config, settings, "qwen.tiktoken", rank_lines(tokens)), special, "qwen.tiktoken")


def tekken(version: str, size: int, reserved: int, names: tuple[str, ...] = ()) -> Job:
    tokens = trained(PATTERNS["tekken"], size + 20)
    entries = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": text(token)}
        for rank, token in enumerate(tokens)
    ]
    special = [{"rank": n, "token_str": name, "is_control": not name.startswith("[TH")} for n, name in enumerate(names)]
    settings = {
        "pattern": PATTERNS["tekken"], "num_vocab_tokens": len(tokens), "default_vocab_size": size + reserved,
        "default_num_special_tokens": reserved, "version": version,
    }  # fmt: skip
    data = {"config": settings, "vocab": entries} | ({"special_tokens": special} if names else {})
    config = {"vocab_size": size + reserved, "bos_token_id": 1, "eos_token_id": 2}
    return Job("mistral", texts(config, None, "tekken.json", json.dumps(data, separators=(",", ":"))))


def text(token: bytes) -> str | None:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return None


def texts(config: Mapping[str, Any], settings: Mapping[str, Any] | None, name: str, ranks: str) -> dict[str, str]:
    """The files of a folder: name -> text."""
    found = {"config.json": json.dumps(config, indent=1) + "\n", name: ranks}
    return found | ({} if settings is None else {"tokenizer_config.json": json.dumps(settings, indent=1) + "\n"})


def jobs() -> dict[str, Job]:
    return {
        "hunyuan": hunyuan(),
        "kimi": kimi(),
        "qwen": qwen(),
        "tekken-v3": tekken("v3", 300, 24),
        "tekken-v7": tekken("v7", 600, 30, TEKKEN_NAMES),
    }


def write_checkpoint(folder: Path, job: Job) -> None:
    """A model as the converter takes it, with the vocabulary."""
    if job.case == "qwen":  # of which the converter asks for two sizes only
        write_model(folder, "qwen2", {"wte.weight": ["BF16", [32, 4]]})
        config: dict[str, Any] = {"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "num_hidden_layers": 1}
    else:
        write_model(folder, job.case, {"model.embed_tokens.weight": ["BF16", [32, 4]]})
        config = json.loads((folder / "config.json").read_text())
    (folder / "generation_config.json").unlink(missing_ok=True)
    for name, content in job.files.items():
        (folder / name).write_text(content)
    (folder / "config.json").write_text(json.dumps({**config, **json.loads(job.files["config.json"])}))


def converted(root: Path, made: Mapping[str, Job]) -> dict[str, dict[str, Any]]:
    """The tokenizer's keys that the converter writes: name -> key -> type, value."""
    asked = {}
    for name, job in made.items():
        write_checkpoint(root / name, job)
        asked[name] = {"folder": str(root / name), "pre": PRE.get(name, ""), "raw": True}
        if job.ranks is not None:
            asked[name]["ranks"] = {"file": str(root / name / job.ranks), "special_tokens": dict(job.special)}
    (root / "jobs.json").write_text(json.dumps(asked))
    worker, source = Path(__file__).with_name("converter.py"), llama_cpp_source(root / "source")
    command = [sys.executable, str(worker), str(source), str(root / "jobs.json")]
    said = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    for name, one in said.items():
        assert "error" not in one, (name, one)
    return {
        name: {key: value for key, value in one["metadata"].items() if key.startswith("tokenizer.")}
        for name, one in said.items()
    }


#: What the converter calls the splitting; it knows vocabularies by a hash, which tiny ones do not have.
PRE = {"hunyuan": "hunyuan", "kimi": "kimi-k2", "qwen": "qwen2"}


def packed(metadata: Mapping[str, Any], special: Mapping[str, int], encode: Encode) -> bytes:
    found = [{"text": probe["text"], "ids": encode(probe["text"])} for probe in probes("bpe-gpt2")]
    data = {"metadata": metadata, "special": dict(special), "probes": found}
    return gzip.compress(json.dumps(data, ensure_ascii=False).encode(), mtime=0)


def written(root: Path) -> Iterator[tuple[Path, bytes]]:
    """The files of all vocabularies."""
    made = jobs()
    metadata = converted(root, made)
    for name, job in made.items():
        for file, content in job.files.items():
            yield DATA / name / file, content.encode()
        encode = original(root / name, name, job.special)
        yield DATA / name / REFERENCE, packed(metadata[name], job.special, encode)


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as root:
        for path, content in written(Path(root)):
            if check and not (path.is_file() and path.read_bytes() == content):
                print(f"{path.relative_to(DATA)} would change")
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


if __name__ == "__main__":
    main()
