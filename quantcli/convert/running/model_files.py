"""The names of files in a model folder: `--force` deletes a folder only if it knows all of them.

A conversion copies more than this table lists (every small file next to the weights), and its report lists those files.
The table has only names of published model folders, and nothing that a user may have added: no other .json, .md or .py
files, no pictures, no data, no adapters, no optimizer states.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import PurePosixPath

#: The files that hold the tensors of a model, in a Hugging Face or an MLX folder.
TENSOR_FILES = ("model*.safetensors", "weights*.safetensors", "pytorch_model*.safetensors", "consolidated*.safetensors")

#: The other files at the top of such a folder.
NAMES = (
    *TENSOR_FILES,
    # settings
    "config.json", "generation_config.json", "*.safetensors.index.json", "params.json", "configuration.json",
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
    # how weights are quantized
    "quantize_config.json", "quantization_config.json", "quant_config.json", "hf_quant_config.json",
    "quanto_qmap.json", "kv_cache_scales.json", "recipe.yaml",
    # tokenizers and templates
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tekken.json", "*.tiktoken", "*.model", "spiece.vocab", "*.jinja",
    "chat_template.json",
    # processors
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "image_processor.json",
    # the model's own code
    "__init__.py", "modeling_*.py", "modular_*.py", "configuration_*.py", "tokenization_*.py", "processing_*.py",
    "image_processing_*.py", "video_processing_*.py", "feature_extraction_*.py", "generation_utils.py",
    # documents
    "README*", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "MODEL_CARD*", ".gitattributes",
    # the report of a conversion
    "quant_report.json",
)  # fmt: skip

#: Folder in a model folder -> names of files in it.
FOLDERS = {
    "[0-9]_*": ("config.json", "model.safetensors"),  # of sentence-transformers
    "additional_chat_templates": ("*.jinja",),
    "custom_generate": ("generate.py", "__init__.py"),
    "encoding": ("encoding_*.py", "__init__.py"),
}

#: Files that the Finder, huggingface_hub and Python create, and nobody misses.
LEAVINGS = (".DS_Store", "*/.DS_Store", ".cache/huggingface/*", "__pycache__/*.pyc", "*/__pycache__/*.pyc")

#: Never part of a model: version histories.
NEVER = (".git",)


def is_models(name: str) -> bool:
    """Return whether a file (its path in the folder, with forward slashes) is one that model folders have.

    >>> [is_models(name) for name in ("model.safetensors", "thesis.md", "1_Pooling/config.json", "data/config.json")]
    [True, False, True, False]
    """
    if _is_one_of(name, LEAVINGS):
        return True
    folder, _, file = name.rpartition("/")
    if not folder:
        return _is_one_of(file, NAMES)
    return any(fnmatch.fnmatchcase(folder, kind) and _is_one_of(file, files) for kind, files in FOLDERS.items())


def is_history(name: str) -> bool:
    """Return whether a file belongs to a version history."""
    return not set(NEVER).isdisjoint(PurePosixPath(name).parts)


def has_tensors(names: Iterable[str]) -> bool:
    """Return whether one of a folder's files holds the tensors of a model."""
    return any(_is_one_of(name, TENSOR_FILES) for name in names)


def _is_one_of(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
