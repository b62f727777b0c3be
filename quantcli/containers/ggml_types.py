"""GGML's tensor types: id, name, elements per block, bytes per block.

Source: `enum ggml_type` and the type traits of ggml 0.25.3 (ggml.h, ggml-common.h of llama.cpp); names are ours, in
lower case (`q4_k` is ggml's `q4_K`). Ids 4, 5, 31-33 and 36-38 belonged to types that ggml has removed: nothing current
reads files with them. A row of n elements is n / block_size blocks, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantcli.errors import BadInput


@dataclass(frozen=True)
class GgmlType:
    """One type: `block_size` elements are stored in `block_bytes` bytes.

    >>> BY_NAME["q6_k"]
    GgmlType(id=14, name='q6_k', block_size=256, block_bytes=210)
    """

    id: int
    name: str
    block_size: int
    block_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits over elements, scales included: 4.5 for q4_0."""
        return 8 * self.block_bytes / self.block_size


_TYPES = (
    GgmlType(0, "f32", 1, 4),
    GgmlType(1, "f16", 1, 2),
    GgmlType(2, "q4_0", 32, 18),
    GgmlType(3, "q4_1", 32, 20),
    GgmlType(6, "q5_0", 32, 22),
    GgmlType(7, "q5_1", 32, 24),
    GgmlType(8, "q8_0", 32, 34),
    GgmlType(9, "q8_1", 32, 36),
    GgmlType(10, "q2_k", 256, 84),
    GgmlType(11, "q3_k", 256, 110),
    GgmlType(12, "q4_k", 256, 144),
    GgmlType(13, "q5_k", 256, 176),
    GgmlType(14, "q6_k", 256, 210),
    GgmlType(15, "q8_k", 256, 292),
    GgmlType(16, "iq2_xxs", 256, 66),
    GgmlType(17, "iq2_xs", 256, 74),
    GgmlType(18, "iq3_xxs", 256, 98),
    GgmlType(19, "iq1_s", 256, 50),
    GgmlType(20, "iq4_nl", 32, 18),
    GgmlType(21, "iq3_s", 256, 110),
    GgmlType(22, "iq2_s", 256, 82),
    GgmlType(23, "iq4_xs", 256, 136),
    GgmlType(24, "i8", 1, 1),
    GgmlType(25, "i16", 1, 2),
    GgmlType(26, "i32", 1, 4),
    GgmlType(27, "i64", 1, 8),
    GgmlType(28, "f64", 1, 8),
    GgmlType(29, "iq1_m", 256, 56),
    GgmlType(30, "bf16", 1, 2),
    GgmlType(34, "tq1_0", 256, 54),
    GgmlType(35, "tq2_0", 256, 66),
    GgmlType(39, "mxfp4", 32, 17),
    GgmlType(40, "nvfp4", 64, 36),
    GgmlType(41, "q1_0", 128, 18),
    GgmlType(42, "q2_0", 64, 18),
)
BY_ID: dict[int, GgmlType] = {t.id: t for t in _TYPES}
BY_NAME: dict[str, GgmlType] = {t.name: t for t in _TYPES}


def row_bytes(type: GgmlType, columns: int) -> int:
    """Bytes of a row of `columns` elements; raises `BadInput` where that is no whole number of blocks.

    >>> row_bytes(BY_NAME["q4_0"], 64)
    36
    """
    blocks, rest = divmod(columns, type.block_size)
    if rest or columns < 0:
        raise BadInput(f"a row of {columns} values is no whole number of {type.name} blocks of {type.block_size}")
    return blocks * type.block_bytes
