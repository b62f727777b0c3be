"""The types of GGUF metadata keys, as llama.cpp's converter writes them and llama.cpp reads them."""

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
    "*.pooling_type": "uint32", "*.rope.scaling.finetuned": "bool",
}  # fmt: skip


def expected(key: str) -> str | None:
    """The type of a key by the tables, None for an unknown one."""
    name = key.partition(".")[2]
    sampling = {f"sampling.{name}": kind for _, name, kind in SAMPLING}
    known = sampling.get(name) or _of_families().get(name)
    return known or next((kind for pattern, kind in OF_KEYS.items() if fnmatchcase(key, pattern)), None) or None


@cache
def _of_families() -> dict[str, str]:
    """The types of the keys in the families' tables, without the architecture's prefix."""
    rows = (row for family in FAMILIES for row in (*family.foremost, *family.keys, *family.further))
    return {row.name: row.type for row in rows}
