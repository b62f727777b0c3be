"""Alternatives to the layout in which llama.cpp's converter stores a row of a table by default: data for `Tensor.also`.

    Range     rows of a tensor that several rows of the table share      attn_qkv, ffn_gate_up_exps
    Pieces    several tensors, one after another, or one per expert      ffn_gate.0, ffn_gate.1 ...
    Unsplit   Hugging Face's tensor, of which the row is a part          attn_kv_b

Patterns are those of `Tensor`: `{i}` is the layer, `{e}` the expert, the suffix is the row's. Such files are read, and
copied unchanged to another GGUF file; no other target writes these layouts. Source: llama.cpp (llama-model.cpp:
create_tensor_qkv, create_tensor_gate_up_exps; src/models; `--fuse-qkv`, `--fuse-gate-up-exps` of its converter).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quantcli.models.stored import Stored


@dataclass(frozen=True)
class Range:
    """Rows of each matrix in the tensor `gguf`, which rows of the table share in the table's order.

    rows: their number, from the metadata; None: an equal part.
    """

    gguf: str
    rows: Callable[[Stored], int] | None = None

    @property
    def patterns(self) -> tuple[str, ...]:
        return (self.gguf,)


@dataclass(frozen=True)
class Pieces:
    """The tensors of these patterns, one after another; one pattern with `{e}`: one tensor per expert, stacked."""

    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Unsplit:
    """The tensor of Hugging Face's dialect under the name `gguf`."""

    gguf: str

    @property
    def patterns(self) -> tuple[str, ...]:
        return (self.gguf,)


Layout = Range | Pieces | Unsplit


def query_rows(file: Stored) -> int:
    """Return the rows of all query heads."""
    return file.heads * file.head_dim


def key_rows(file: Stored) -> int:
    """Return the rows of all key heads."""
    return file.kv_heads * file.head_dim


def value_rows(file: Stored) -> int:
    """Return the rows of all value heads."""
    return file.kv_heads * file.integer("attention.value_length", file.head_dim)


#: The parts of `attn_qkv`, in this order.
ROWS_OF_QKV = {"attn_q": query_rows, "attn_k": key_rows, "attn_v": value_rows}
