"""The files of a model folder next to its weights: which of them every folder made of it gets, byte for byte.

    every file of the folder itself of at most 64 MiB, and those of a few sub-folders   copied
    what says how weights are stored                                                    where the layout is copied
    weights, indexes, larger files, other sub-folders, an older report                  listed, with a reason

config.json is written anew; the files that a model needs are few, but nobody knows which: its own code (`*.py`), its
vocabulary, its licence, the files of sentence-transformers, templates, prompts.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from quantcli.checkpoint import Passed
from quantcli.sources.tensor_files import ADAPTER, PICKLES

#: Larger files are no descriptions of a model.
MAX_BYTES = 64 << 20
#: Sub-folders whose files belong to the model: of sentence-transformers, of transformers, of models' own code.
FOLDERS = ("1_Pooling", "additional_chat_templates", "custom_generate", "encoding")
#: Suffixes of files that hold weights.
WEIGHTS = (
    ".safetensors", ".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".npz", ".tflite", ".ot", ".pkl", ".pickle",
    ".mlmodel", ".imatrix", *PICKLES,
)  # fmt: skip
#: optimum-quanto's file of which modules are quantized, of which config.json says nothing.
QMAP = "quanto_qmap.json"
#: Files in which quantizers repeat config.json's `quantization_config`, or say what it would.
SETTINGS = ("quantize_config.json", "quantization_config.json", "hf_quant_config.json", "quant_config.json", QMAP)
#: Those, and what says how they came about.
LAYOUT = (*SETTINGS, "recipe.yaml", "kv_cache_scales.json")
#: Files that an output has of its own.
OWN = ("config.json",)
REPORT = "quant_report.json"
#: Patterns of files that hold a tokenizer's vocabulary.
VOCABULARIES = (
    "tokenizer.json", "tokenizer.model*", "merges.txt", "vocab.txt", "tekken.json", "*.tiktoken", "tiktoken.model",
    "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip


@dataclass(frozen=True)
class Sidecars:
    """The files next to the weights, by name, sorted. layout: those that count only where weights stay as stored."""

    copied: tuple[str, ...]
    layout: tuple[str, ...]
    passed: tuple[Passed, ...]


def sort_out(sizes: Mapping[str, int], read: Iterable[str]) -> Sidecars:
    """The files of a folder (name, with forward slashes -> bytes) but those that are `read` as weights.

    >>> found = sort_out({"LICENSE": 9, "a.py": 1, "x/b.md": 1, "recipe.yaml": 1, "model.safetensors": 9}, [])
    >>> found.copied, found.layout, [passed.name for passed in found.passed]
    (('LICENSE', 'a.py'), ('recipe.yaml',), ['model.safetensors', 'x/b.md'])
    """
    taken = {*read, *OWN}
    names = [name for name in sorted(sizes) if name not in taken and not _is_hidden(name)]
    passed = {name: found for name in names if (found := _passed(name, sizes[name])) is not None}
    if ADAPTER in names and any(name.startswith("adapter") for name in passed):
        passed[ADAPTER] = Passed(ADAPTER, "of an adapter that is not merged into the model", warns=True)
    kept = [name for name in names if name not in passed]
    return Sidecars(
        tuple(name for name in kept if name not in LAYOUT),
        tuple(name for name in kept if name in LAYOUT),
        tuple(passed.values()),
    )


def _passed(name: str, size: int) -> Passed | None:
    """Why no output gets a file, None where it does."""
    folder, _, _ = name.rpartition("/")
    if name.lower().endswith(WEIGHTS):
        reason = "weights that are not part of the model as it is read"
        return Passed(name, reason, warns=bool(folder) and not folder.startswith("onnx"))
    if name.endswith(".index.json"):
        return Passed(name, "an index of weights; the output has its own")
    if PurePosixPath(name).name == REPORT:
        return Passed(name, "the report of an earlier conversion")
    if folder.partition("/")[0] not in ("", *FOLDERS):
        return Passed(name, "in a sub-folder that does not belong to the model")
    if size > MAX_BYTES:
        return Passed(name, f"has {size} bytes, more than the {MAX_BYTES} of a file that describes a model", warns=True)
    return None


def _is_hidden(name: str) -> bool:
    """Whether a file is in a folder of some tool's own (`.git`, `.cache`)."""
    return "/" in name and name.startswith(".")


def has_vocabulary(names: Iterable[str]) -> bool:
    """Whether some file holds a tokenizer."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in VOCABULARIES)
