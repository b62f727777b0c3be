"""Tiny vocabularies in the files of tiktoken and of Tekken: folders, and what others make of them."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from quantcli import tokenizers
from quantcli.checkpoint import Vocabulary
from quantcli.tokenizers import conventions
from quantcli.tokenizers.conventions import PLAIN, Conventions
from tests.convert.test_golden_arch import reference as golden_tensors
from tests.convert.test_golden_arch import write_model

DATA = Path(__file__).resolve().parent.parent / "data" / "tokenizers" / "ranks"
RANKED = ("hunyuan", "kimi", "qwen", "tekken-v3", "tekken-v7")
#: What a folder holds about itself, made by tests/peers/make_vocabularies.py.
REFERENCE = "reference.json.gz"

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_END}"
_HAN_APART = "&&[^\\p{Han}]]"
#: The expressions by which the released classes split text, and the one in Mistral's files.
PATTERNS = {
    "hunyuan": _QWEN,
    "kimi": "|".join(
        (
            r"[\p{Han}]+",
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER[:-1]}{_HAN_APART}*{_LOWER[:-1]}{_HAN_APART}+{_CONTRACTIONS}?",
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER[:-1]}{_HAN_APART}+{_LOWER[:-1]}{_HAN_APART}*{_CONTRACTIONS}?",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*",
            _END,
        )
    ),
    "qwen": _QWEN,
    "tekken": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
        rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_END}"
    ),
}


def conventions_for(name: str) -> Conventions:
    return conventions.HUNYUAN_MOE if name == "hunyuan" else PLAIN


def config_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / name / "config.json").read_text())
    return found


@cache
def reference(name: str) -> dict[str, Any]:
    """metadata: what llama.cpp's converter writes. special: the tokens outside the ranks. probes: texts with ids."""
    found: dict[str, Any] = json.loads(gzip.decompress((DATA / name / REFERENCE).read_bytes()))
    return found


def vocabulary_of(name: str) -> Vocabulary:
    return tokenizers.load(DATA / name, config_of(name), conventions_for(name))


#: The model whose settings and weights go with a vocabulary. Qwen 1 is no family here.
CASES = {"hunyuan": "hunyuan_moe", "kimi": "kimi_k2", "tekken-v3": "mistral", "tekken-v7": "mistral"}


def files_of(name: str) -> dict[str, bytes]:
    """The tokenizer's files: name -> contents."""
    left = ("config.json", REFERENCE)
    return {path.name: path.read_bytes() for path in sorted((DATA / name).iterdir()) if path.name not in left}


def write_whole_model(folder: Path, name: str, prefix: str = "") -> Path:
    """A model folder with the vocabulary, the names of its tensors behind `prefix`."""
    golden, config = golden_tensors(CASES[name]), config_of(name)
    rows = {"model.embed_tokens.weight", "lm_head.weight"}
    tensors = {
        prefix + key: [dtype, [config["vocab_size"], *shape[1:]] if key in rows else shape]
        for key, (dtype, shape) in golden["source"].items()
    }
    write_model(folder, CASES[name], tensors)
    (folder / "generation_config.json").unlink(missing_ok=True)
    whole = {**json.loads((folder / "config.json").read_text()), **config}
    (folder / "config.json").write_text(json.dumps(whole))
    for file, data in files_of(name).items():
        (folder / file).write_bytes(data)
    return folder
