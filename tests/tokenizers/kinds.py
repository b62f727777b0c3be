"""The tokenizers of 17 published families, made tiny: files, what llama.cpp's converter writes, probe texts."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from quantcli import tokenizers
from quantcli.checkpoint import Vocabulary
from quantcli.containers.gguf import read
from quantcli.containers.gguf_write import header
from quantcli.targets.gguf_metadata import tokenizer
from quantcli.tokenizers import conventions
from quantcli.tokenizers.conventions import PLAIN, Conventions
from quantcli.tokenizers.stored import from_metadata

DATA = Path(__file__).resolve().parent.parent / "data" / "tokenizers" / "kinds"
KINDS = tuple(sorted(path.name for path in DATA.iterdir()))

#: The conventions of the architecture whose config the converter was given; others are plain.
CONVENTIONS = {
    "bpe-exaone4": conventions.EXAONE4,
    "bpe-glm4": conventions.GLM4_MOE,
    "bpe-gptneox": conventions.GPT_NEOX,
    "spm-gemma": conventions.GEMMA2,
    "spm-nemotron": conventions.NEMOTRON,
    "spm-phi3": conventions.PHI3,
}


def conventions_of(kind: str) -> Conventions:
    return CONVENTIONS.get(kind, PLAIN)


def packed(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress((DATA / kind / name).read_bytes()))
    return found


@cache
def reference(kind: str) -> dict[str, Any]:
    """What llama.cpp's converter wrote: key -> value."""
    return {key: pair[1] for key, pair in packed(kind, "gguf_vocab.json.gz")["metadata"].items()}


@cache
def probes(kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = packed(kind, "probes.json.gz")["probes"]
    return found


def loaded(kind: str) -> Vocabulary:
    """The vocabulary of the kind's folder, for a model of as many tokens as the reference has."""
    config = {"vocab_size": len(reference(kind)["tokenizer.ggml.tokens"])}
    return tokenizers.load(DATA / kind, config, conventions_of(kind))


def gguf_file(path: Path, kind: str) -> Path:
    """A GGUF file of the kind's vocabulary and no tensors."""
    sizes = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count")
    keys: dict[str, tuple[str, Any]] = {
        "general.architecture": ("string", "llama"),
        "general.name": ("string", kind),
        **{f"llama.{size}": ("uint32", 32) for size in sizes},
        "llama.attention.layer_norm_rms_epsilon": ("float32", 1e-5),
        **tokenizer(loaded(kind), kind == "bpe-tekken", conventions_of(kind)),
    }
    path.write_bytes(header(keys, [])[0])
    return path


def stored(path: Path) -> Vocabulary:
    """The vocabulary in a GGUF file."""
    found = from_metadata(read(path).metadata, str(path))
    assert found is not None
    return found
