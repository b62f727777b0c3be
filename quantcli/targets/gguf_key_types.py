"""Types of GGUF metadata keys, as llama.cpp's converter writes them and llama.cpp reads them.

Of a key in another type llama.cpp says that it is wrong and does not load the file: mlx-lm's GGUF export writes token
types as uint32. Source: llama.cpp (src/llama-model-loader.cpp, src/llama-vocab.cpp).
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache

from quantcli.models import FAMILIES
from quantcli.models.generation import SAMPLING

#: Integer types of GGUF: the least and the greatest value.
RANGES = {f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)} | {
    f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)
}

#: Types of keys that a file may lack, beside those of the families' tables, which count for any architecture; the first
#: pattern that matches counts, and of an empty type nothing is known.
OF_KEYS = {
    "general.sampling.*": "", "general.*.count": "uint32", "general.tags": "array[string]",
    "general.languages": "array[string]", "general.datasets": "array[string]", "general.alignment": "uint32",
    "general.file_type": "uint32", "general.quantization_version": "uint32", "general.*": "string",
    "tokenizer.ggml.model": "string", "tokenizer.ggml.pre": "string", "tokenizer.chat_template*": "string",
    "tokenizer.ggml.*_token_id": "uint32", "tokenizer.ggml.add_*": "bool", "*.attention.causal": "bool",
    "*.pooling_type": "uint32", "*.rope.scaling.finetuned": "bool", "tokenizer.ggml.tokens": "array[string]",
    "tokenizer.ggml.merges": "array[string]", "tokenizer.ggml.token_type": "array[int32]",
    "tokenizer.ggml.scores": "array[float32]", "tokenizer.ggml.token_type_count": "uint32",
    "tokenizer.ggml.precompiled_charsmap": "array[uint8]",
}  # fmt: skip

#: Keys that llama.cpp does not read to run a model, whatever their type.
UNREAD = ("general.*",)
#: The same for some that it does read.
READ = ("general.architecture", "general.alignment", "general.file_type", "general.type")

#: Types in which llama.cpp reads a key too: of single keys, of all that should have a type.
ALSO = {
    "tokenizer.ggml.token_type": (), "tokenizer.ggml.scores": ("array[int32]",), "array[int32]": ("array[uint32]",),
    "array[uint32]": ("array[int32]",), "array[bool]": ("array[int32]", "array[uint32]"),
    "array[uint8]": ("array[int8]",),
}  # fmt: skip


def expected(key: str) -> str | None:
    """Return the type of a key by the tables; None for an unknown key."""
    name = key.partition(".")[2]
    sampling = {f"sampling.{name}": kind for _, name, kind in SAMPLING}
    known = sampling.get(name) or _of_families().get(name)
    return known or next((kind for pattern, kind in OF_KEYS.items() if fnmatchcase(key, pattern)), None) or None


def refused(key: str, kind: str) -> str | None:
    """Return the type that llama.cpp requires for a stored key; None if it accepts the stored type.

    >>> refused("tokenizer.ggml.token_type", "array[uint32]"), refused("llama.block_count", "uint64")
    ('array[int32]', 'uint32')
    >>> refused("llama.block_count", "uint32"), refused("my.own", "uint64"), refused("general.name", "uint32")
    (None, None, None)
    """
    wanted = expected(key)
    if wanted is None or kind == wanted or kind in ALSO.get(key, ALSO.get(wanted, ())):
        return None
    if key not in READ and any(fnmatchcase(key, pattern) for pattern in UNREAD):
        return None
    # One value may stand for all layers, or each layer have its own.
    own, theirs = (text.removeprefix("array[").removesuffix("]") for text in (kind, wanted))
    is_listed = kind.startswith("array[") != wanted.startswith("array[")
    return None if is_listed and (own == theirs or {own, theirs} <= {"int32", "uint32", "bool"}) else wanted


@cache
def _of_families() -> dict[str, str]:
    """The types of the keys in the families' tables, without the architecture's prefix."""
    rows = (row for family in FAMILIES for row in (*family.foremost, *family.keys, *family.further))
    return {row.name: row.type for row in rows}
