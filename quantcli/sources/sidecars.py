"""Sidecar files: the files of a model folder next to its weights, and which of them are copied to every output folder.

    files of at most 64 MiB in the folder, and in a few subfolders           copied, byte for byte
    files that describe how weights are stored                               copied if the layout is
    weights, indexes, larger files, other subfolders, an older report        not copied, with a reason

config.json is written by quant. Models need few of the other files, but no list of them would be complete: code
(`*.py`), vocabulary, licence, the files of sentence-transformers, templates, prompts.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from quantcli.checkpoint import Passed
from quantcli.sources.tensor_files import ADAPTER, PICKLES

#: The most bytes of a file that describes a model.
MAX_BYTES = 64 << 20
#: Sub-folders whose files belong to the model: of sentence-transformers, transformers and models' code.
FOLDERS = ("1_Pooling", "additional_chat_templates", "custom_generate", "encoding")
#: Suffixes of files that hold weights.
WEIGHTS = (
    ".safetensors", ".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".npz", ".tflite", ".ot", ".pkl", ".pickle",
    ".mlmodel", ".imatrix", *PICKLES,
)  # fmt: skip
#: optimum-quanto's list of quantized modules, which config.json does not have.
QMAP = "quanto_qmap.json"
#: Files in which quantizers repeat config.json's `quantization_config`, or store it instead.
SETTINGS = ("quantize_config.json", "quantization_config.json", "hf_quant_config.json", "quant_config.json", QMAP)
#: The same, and files that describe how the model was quantized.
LAYOUT = (*SETTINGS, "recipe.yaml", "kv_cache_scales.json")
#: Files that every output writes itself.
OWN = ("config.json",)
REPORT = "quant_report.json"
#: Patterns of files that hold a tokenizer's vocabulary.
VOCABULARIES = (
    "tokenizer.json", "tokenizer.model*", "merges.txt", "vocab.txt", "tekken.json", "*.tiktoken", "tiktoken.model",
    "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip


@dataclass(frozen=True)
class Sidecars:
    """The files next to the weights, sorted by name. layout: those that apply only if weights stay as they are."""

    copied: tuple[str, ...]
    layout: tuple[str, ...]
    passed: tuple[Passed, ...]


def sort_out(sizes: Mapping[str, int], read: Iterable[str]) -> Sidecars:
    """Sort the files of a folder (name with forward slashes -> bytes), except those that are `read` as weights.

    >>> found = sort_out({"LICENSE": 9, "a.py": 1, "x/b.md": 1, "recipe.yaml": 1, "model.safetensors": 9}, [])
    >>> found.copied, found.layout, [passed.name for passed in found.passed]
    (('LICENSE', 'a.py'), ('recipe.yaml',), ['model.safetensors', 'x/b.md'])
    """
    taken = {*read, *OWN}
    names = [name for name in sorted(sizes) if name not in taken and not _is_hidden(name)]
    passed = {name: file for name in names if (file := _passed(name, sizes[name])) is not None}
    if ADAPTER in names and any(name.startswith("adapter") for name in passed):
        passed[ADAPTER] = Passed(ADAPTER, "belongs to an adapter that is not merged into the model", warns=True)
    kept = [name for name in names if name not in passed]
    return Sidecars(
        tuple(name for name in kept if name not in LAYOUT),
        tuple(name for name in kept if name in LAYOUT),
        tuple(passed.values()),
    )


def _passed(name: str, size: int) -> Passed | None:
    """Return a file that is not copied, with the reason; None if it is copied."""
    folder, _, _ = name.rpartition("/")
    if name.lower().endswith(WEIGHTS):
        reason = "has weights that are not read as part of the model"
        return Passed(name, reason, warns=bool(folder) and not folder.startswith("onnx"))
    if name.endswith(".index.json"):
        return Passed(name, "is an index of weights; the output has another one")
    if PurePosixPath(name).name == REPORT:
        return Passed(name, "is the report of an earlier conversion")
    if folder.partition("/")[0] not in ("", *FOLDERS):
        return Passed(name, "is in a subfolder that does not belong to the model")
    if size > MAX_BYTES:
        return Passed(name, f"is {size} bytes; the limit is {MAX_BYTES}", warns=True)
    return None


def _is_hidden(name: str) -> bool:
    """Return whether a file is in a tool's hidden folder (`.git`, `.cache`)."""
    return "/" in name and name.startswith(".")


def has_vocabulary(names: Iterable[str]) -> bool:
    """Return whether one of the files holds a tokenizer's vocabulary."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in VOCABULARIES)
