"""llama-quantize's view of a tensor: whether it may be quantized, its category, the types that fit its rows.

Source: llama.cpp's src/llama-quant.cpp and src/llama-model-loader.h (ggml 0.25.3).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from quantcli.containers.ggml_types import BY_NAME
from quantcli.errors import NotPossible
from quantcli.recipes.ftypes import TYPES


@dataclass(frozen=True)
class Tensor:
    """A GGUF tensor before quantization: its name, its row-major shape, its type (`bf16`, `f32`)."""

    name: str
    shape: tuple[int, ...]
    type: str


_SMALL_OF_RWKV = (
    "first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2", "decay_w1", "decay_w2", "lerp_fused",
)  # fmt: skip

#: Parts of a name that mark a tensor as never quantized, and why.
NEVER = {
    "_norm.weight": "a norm",
    "ffn_gate_inp.weight": "a router",
    "ffn_gate_tid2eid.weight": "a routing table",
    "altup": "very small",
    "laurel": "very small",
    "per_layer_model_proj": "small",
    "ssm_conv1d": "a small convolution",
    "shortconv.conv.weight": "a small convolution",
    "indexer.k_proj.weight": "a small indexer",
    "indexer.q_proj.weight": "a small indexer",
    "attn_rel_b.weight": "a position bias",
    ".position_embd": "a position embedding",
    "sam.pos_embd": "a position embedding",
    ".rel_pos": "a position embedding",
    ".patch_embd": "part of a vision model",
    ".patch_merger": "part of a vision model",
    "sam.neck.": "part of a vision model",
    "sam.net_": "part of a vision model",
    "a.rvq.codebook": "an audio codebook",
    "mm.a.code_embd": "an audio codebook",
    **dict.fromkeys((f"time_mix_{part}.weight" for part in _SMALL_OF_RWKV), "a small weight of RWKV"),
}

#: Endings of names of tensors that llama.cpp's converter always writes in float32, but that llama-quantize quantizes.
WIDE = ("indexer.proj.weight",)

#: Names of tensors that are never quantized: BERT's embeddings of positions and token types.
NEVER_NAMES = ("position_embd.weight", "token_types.weight")

#: Architecture -> further parts of names that mark a tensor as never quantized.
NEVER_OF = {
    "glm5-next": (
        "hc_", "indexer.attn_q_b", "indexer.attn_k", "indexer.proj", "indexer_compressor_gate",
        "indexer_compressor_ape", "ssm_f_a.weight", "ssm_f_b.weight", "ssm_g_a.weight", "ssm_g_b.weight",
        "ssm_beta.weight", "attn_kv_a_mqa.weight", "attn_k_b.weight", "attn_v_b.weight",
    ),
}  # fmt: skip


def never(name: str, shape: tuple[int, ...], architecture: str = "") -> str | None:
    """Return why llama-quantize keeps a tensor's type, whatever the ftype; None if it may be quantized."""
    if len(without_leading_ones(shape)) < 2:
        return "one dimension"
    # llama-quantize tests `rfind("weight") == size - 6`, which is true (-1 == -1) for any name of five bytes.
    if not name.endswith("weight") and len(name.encode()) != 5:
        return "not a weight"
    if name in NEVER_NAMES:
        return "a position or token type embedding"
    if any(part in name for part in NEVER_OF.get(architecture, ())):
        return f"sensitive in {architecture}"
    return next((reason for part, reason in NEVER.items() if part in name), None)


def without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without leading dimensions of 1, like llama.cpp's tools; at least one dimension remains.

    >>> without_leading_ones((1, 64)), without_leading_ones((1, 1))
    ((64,), (1,))
    """
    start = next((axis for axis, size in enumerate(shape) if size != 1), len(shape) - 1)
    return shape[max(start, 0) :]


class Category(Enum):
    """The kinds of tensors that the mixtures distinguish."""

    OUTPUT = "output"
    EMBEDDING = "token_embd"
    QKV = "attn_qkv"
    KV_B = "attn_kv_b"
    V = "attn_v"
    K = "attn_k"
    Q = "attn_q"
    ATTENTION_OUTPUT = "attn_output"
    UP = "ffn_up"
    GATE = "ffn_gate"
    DOWN = "ffn_down"
    OTHER = "other"


WHOLE_NAMES = {
    "output.weight": Category.OUTPUT,
    "token_embd.weight": Category.EMBEDDING,
    "per_layer_token_embd.weight": Category.EMBEDDING,
}

#: The first part that is found in a name gives the category; experts have that of the dense layer.
NAME_PARTS = {
    "attn_qkv.weight": Category.QKV,
    "attn_kv_b.weight": Category.KV_B,
    "attn_v.weight": Category.V,
    "attn_k.weight": Category.K,
    "attn_q.weight": Category.Q,
    "attn_output.weight": Category.ATTENTION_OUTPUT,
    "ffn_up": Category.UP,
    "ffn_gate": Category.GATE,
    "ffn_down": Category.DOWN,
}

#: Categories that the mixtures treat as attn_v.
V_LIKE = (Category.V, Category.QKV, Category.KV_B)


def category(name: str) -> Category:
    """Return the category of a tensor, by its name.

    >>> category("blk.0.ffn_down_exps.weight").value, category("blk.0.attn_q_a.weight").value
    ('ffn_down', 'other')
    """
    categories = (kind for part, kind in NAME_PARTS.items() if part in name)
    return WHOLE_NAMES.get(name) or next(categories, Category.OTHER)


def layer(name: str) -> int | None:
    """Return the number after a name's leading `blk.`; None without one."""
    match = re.match(r"blk\.([0-9]{1,9})(?![0-9])", name)
    return int(match[1]) if match else None


def processing_order(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Sort tensors like llama-quantize: those outside blocks first, then by block number, then by the name's bytes."""

    def key(tensor: Tensor) -> tuple[int, bytes]:
        number = layer(tensor.name)
        return -1 if number is None else number, tensor.name.encode()

    return sorted(tensors, key=key)


def block_size(kind: str) -> int:
    """Return the number of values in a block of a GGML type."""
    return BY_NAME[kind].block_size


def fitting(kind: str, row: int, name: str) -> str:
    """Return `kind`, or llama-quantize's replacement for rows of that length. Raises `NotPossible`, naming `name`."""
    if row % block_size(kind) == 0:
        return kind
    fallback = TYPES[kind].fallback
    if fallback is None and block_size(kind) > 32:
        raise NotPossible(
            f"{name}: rows of {row} values do not fill blocks of {block_size(kind)} ({kind}), and llama-quantize has "
            "no "
            "replacement. Choose a type with --tensor-type."
        )
    return fallback if fallback is not None and row % block_size(fallback) == 0 else "f16"


def file_type(tensors: Sequence[Tensor]) -> int:
    """Return `general.file_type` of a kept mixture: that of the commonest type among quantizable tensors.

    If two are equally common, that of the type with more values.
    """
    weights = [tensor for tensor in tensors if never(tensor.name, tensor.shape) is None] or list(tensors)
    numbers = {name: type.file_type for name, type in TYPES.items() if type.file_type is not None}
    known = [tensor for tensor in weights if tensor.type in numbers]
    count, values = Counter[str](), Counter[str]()
    for tensor in known:
        count[tensor.type] += 1
        values[tensor.type] += math.prod(tensor.shape)
    return numbers[max(count, key=lambda kind: (count[kind], values[kind], kind))] if count else 0
