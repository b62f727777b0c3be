"""llama-quantize's types of tensors, and its file types, which are named after the type of most of their tensors.

Source: llama.cpp's tools/quantize, src/llama-quant.cpp and include/llama.h (ggml 0.25.3). Names are in lower case here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class QuantizeType:
    """A type that llama-quantize can give a tensor.

    ftypes: the file types whose base it is, with their numbers in `general.file_type`.
    file_type: the file type that llama.cpp's loader assumes if this is the commonest type; None without one.
    fallback: the type for rows that do not fill its blocks; None: f16 for blocks of 32, else an error.
    needs_importance: llama-quantize requires an importance matrix to make it. needs_importance_in: only in these file
    types.
    """

    ftypes: Mapping[str, int] = field(default_factory=dict)
    file_type: int | None = None
    fallback: str | None = None
    needs_importance: bool = False
    needs_importance_in: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ftype:
    """A file type: its number in `general.file_type`, and its base type, that of most of its tensors."""

    number: int
    base: str


#: All types, in the order in which messages list them.
TYPES = {
    "f32": QuantizeType({"f32": 0}, 0),
    "f16": QuantizeType({"f16": 1}, 1),
    "bf16": QuantizeType({"bf16": 32}, 32),
    "q1_0": QuantizeType({"q1_0": 40}, 40),
    "q2_0": QuantizeType({"q2_0": 41}, 41, "q4_0"),
    "q4_0": QuantizeType({"q4_0": 2}, 2),
    "q4_1": QuantizeType({"q4_1": 3}, 3),
    "q5_0": QuantizeType({"q5_0": 8}, 8),
    "q5_1": QuantizeType({"q5_1": 9}, 9),
    "q8_0": QuantizeType({"q8_0": 7}, 7),
    "q2_k": QuantizeType({"q2_k": 10, "q2_k_s": 21}, 10, "q4_0", needs_importance_in=("q2_k_s",)),
    "q3_k": QuantizeType({"q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13}, 12, "q4_0"),
    "q4_k": QuantizeType({"q4_k_s": 14, "q4_k_m": 15}, 15, "q5_0"),
    "q5_k": QuantizeType({"q5_k_s": 16, "q5_k_m": 17}, 17, "q5_1"),
    "q6_k": QuantizeType({"q6_k": 18}, 18, "q8_0"),
    "q8_k": QuantizeType(),
    "iq1_s": QuantizeType({"iq1_s": 24}, 24, "iq4_nl", needs_importance=True),
    "iq1_m": QuantizeType({"iq1_m": 31}, 31, "iq4_nl", needs_importance=True),
    "iq2_xxs": QuantizeType({"iq2_xxs": 19}, 19, "iq4_nl", needs_importance=True),
    "iq2_xs": QuantizeType({"iq2_xs": 20, "iq2_s": 28}, 20, "iq4_nl", needs_importance=True),
    "iq2_s": QuantizeType({"iq2_m": 29}, 28, "iq4_nl", needs_importance=True),
    "iq3_xxs": QuantizeType({"iq3_xxs": 23}, 23, "iq4_nl", needs_importance=True),
    "iq3_s": QuantizeType({"iq3_xs": 22, "iq3_s": 26, "iq3_m": 27}, 26, "iq4_nl"),
    "iq4_nl": QuantizeType({"iq4_nl": 25}, 25),
    "iq4_xs": QuantizeType({"iq4_xs": 30}, 30, "iq4_nl"),
    "tq1_0": QuantizeType({"tq1_0": 36}, 36, "q4_0"),
    "tq2_0": QuantizeType({"tq2_0": 37}, 37, "q4_0"),
    "mxfp4": QuantizeType({"mxfp4_moe": 38}, 38),
    "nvfp4": QuantizeType(file_type=39),
}

#: The file types by name, in the order of their numbers.
FTYPES = {
    name: Ftype(number, base)
    for number, name, base in sorted((n, name, base) for base, type in TYPES.items() for name, n in type.ftypes.items())
}

#: llama-quantize's other names of file types.
ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}

#: The preset that keeps every tensor, and the source's file type.
COPY = "copy"

#: A type in blocks of 256 that messages recommend instead of one that requires an importance matrix.
UNDEMANDING = "q4_k"

_NAMES = {str(ftype.number): name for name, ftype in FTYPES.items()} | {name: name for name in FTYPES} | ALIASES


def find(text: str) -> str | None:
    """Return the ftype (or `COPY`) with a name, an alias or a number, in any case; None for any other text.

    >>> find("Q4_K_M"), find("q4_k"), find("15"), find("COPY"), find("q8_k")
    ('q4_k_m', 'q4_k_m', 'q4_k_m', 'copy', None)
    """
    name = text.strip().lower()
    return COPY if name == COPY else _NAMES.get(name)


def demanding(ftype: str = "") -> frozenset[str]:
    """Return the types for which llama-quantize requires an importance matrix, in general or in a file type."""
    types = (name for name, type in TYPES.items() if type.needs_importance or ftype in type.needs_importance_in)
    return frozenset(types)
