"""What the files of a model folder are called: `--force` deletes a folder only where it knows each of them.

The table is one of its own. A conversion copies far more (every small file next to the weights); what it has copied,
its report names. Here stand the names that a model folder has wherever it comes from, so nothing that somebody may
have written into it: no other .json, .md or .py, no pictures, no data, no adapters, no optimizer states.
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
    # what a model comes with
    "README*", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "MODEL_CARD*", ".gitattributes",
    # the report of a conversion
    "quant_report.json",
)  # fmt: skip

#: Folder within a model folder -> what files in it are called.
FOLDERS = {
    "[0-9]_*": ("config.json", "model.safetensors"),  # of sentence-transformers
    "additional_chat_templates": ("*.jinja",),
    "custom_generate": ("generate.py", "__init__.py"),
    "encoding": ("encoding_*.py", "__init__.py"),
}

#: What the Finder, huggingface_hub and Python leave, and nobody misses.
LEAVINGS = (".DS_Store", "*/.DS_Store", ".cache/huggingface/*", "__pycache__/*.pyc", "*/__pycache__/*.pyc")

#: What no table makes a part of a model: somebody's history.
NEVER = (".git",)


def is_models(name: str) -> bool:
    """Whether a file of a folder (its path in it, with forward slashes) is of a kind that a model folder holds.

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
    """Whether a file is part of what goes never."""
    return not set(NEVER).isdisjoint(PurePosixPath(name).parts)


def has_tensors(names: Iterable[str]) -> bool:
    """Whether one of a folder's files holds the tensors of a model."""
    return any(_is_one_of(name, TENSOR_FILES) for name in names)


def _is_one_of(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
