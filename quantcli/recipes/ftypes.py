"""The file types of llama-quantize: their names, numbers in `general.file_type`, and the type of most of their tensors.

Source: llama.cpp's tools/quantize and include/llama.h (ggml 0.25.3). Names are in lower case here, as those of types.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ftype:
    """A file type: its number in `general.file_type`, and its base type, that of most of its tensors."""

    number: int
    base: str


FTYPES = {
    "f32": Ftype(0, "f32"),
    "f16": Ftype(1, "f16"),
    "q4_0": Ftype(2, "q4_0"),
    "q4_1": Ftype(3, "q4_1"),
    "q8_0": Ftype(7, "q8_0"),
    "q5_0": Ftype(8, "q5_0"),
    "q5_1": Ftype(9, "q5_1"),
    "q2_k": Ftype(10, "q2_k"),
    "q3_k_s": Ftype(11, "q3_k"),
    "q3_k_m": Ftype(12, "q3_k"),
    "q3_k_l": Ftype(13, "q3_k"),
    "q4_k_s": Ftype(14, "q4_k"),
    "q4_k_m": Ftype(15, "q4_k"),
    "q5_k_s": Ftype(16, "q5_k"),
    "q5_k_m": Ftype(17, "q5_k"),
    "q6_k": Ftype(18, "q6_k"),
    "iq2_xxs": Ftype(19, "iq2_xxs"),
    "iq2_xs": Ftype(20, "iq2_xs"),
    "q2_k_s": Ftype(21, "q2_k"),
    "iq3_xs": Ftype(22, "iq3_s"),
    "iq3_xxs": Ftype(23, "iq3_xxs"),
    "iq1_s": Ftype(24, "iq1_s"),
    "iq4_nl": Ftype(25, "iq4_nl"),
    "iq3_s": Ftype(26, "iq3_s"),
    "iq3_m": Ftype(27, "iq3_s"),
    "iq2_s": Ftype(28, "iq2_xs"),
    "iq2_m": Ftype(29, "iq2_s"),
    "iq4_xs": Ftype(30, "iq4_xs"),
    "iq1_m": Ftype(31, "iq1_m"),
    "bf16": Ftype(32, "bf16"),
    "tq1_0": Ftype(36, "tq1_0"),
    "tq2_0": Ftype(37, "tq2_0"),
    "mxfp4_moe": Ftype(38, "mxfp4"),
    "q1_0": Ftype(40, "q1_0"),
    "q2_0": Ftype(41, "q2_0"),
}

#: Names that llama-quantize takes for another's.
ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}

#: The preset that keeps every tensor as it is; the file type stays the source's.
COPY = "copy"

#: The file type that llama.cpp's loader takes a file for whose commonest type this is.
FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 12, "q4_k": 15,
    "q5_k": 17, "q6_k": 18, "iq2_xxs": 19, "iq2_xs": 20, "iq3_xxs": 23, "iq1_s": 24, "iq4_nl": 25, "iq3_s": 26,
    "iq2_s": 28, "iq4_xs": 30, "iq1_m": 31, "bf16": 32, "tq1_0": 36, "tq2_0": 37, "mxfp4": 38, "nvfp4": 39, "q1_0": 40,
    "q2_0": 41,
}  # fmt: skip

_NAMES = {str(ftype.number): name for name, ftype in FTYPES.items()} | {name: name for name in FTYPES} | ALIASES


def find(text: str) -> str | None:
    """The ftype (or `COPY`) that a text names, in any case, by alias or by number; None where it names none.

    >>> find("Q4_K_M"), find("q4_k"), find("15"), find("COPY"), find("q8_k")
    ('q4_k_m', 'q4_k_m', 'q4_k_m', 'copy', None)
    """
    name = text.strip().lower()
    return COPY if name == COPY else _NAMES.get(name)
