"""Stored tensors that are not learned parameters: one table of them, for families with and without a table.

They are buffers that a model computes when it is created (rotary frequencies, position numbers, causal masks), and
scales of values that are quantized while the model runs (the KV cache, activations). A name alone is not sufficient, so
that rows also have a test of shape and dtype. A tensor in a family's table is never a leftover.

Sources: transformers' modeling files (register_buffer), vLLM (maybe_remap_kv_scale_name, QuarkConfig.get_cache_scale),
compressed-tensors (quant_metadata.py), modelopt (unified_export_hf), mlx-lm (sanitize of its models).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from quantcli.arrays import FLOATS

Shape = tuple[int, ...]

#: Names of tensors for multi-token prediction in separate modules, not in layers.
PREDICTION = re.compile(r"(?:^|\.)(?:mtp|nextn)(?:_[a-z_]+)?\.")

#: The most scales of a cache: one for each channel of a layer's keys.
MOST_SCALES = 1 << 16


#: No tensor of a real model has a longer name; matching patterns against one takes time.
LONGEST_NAME = 500


@dataclass(frozen=True)
class Leftover:
    """A kind of leftover.

    leaf, module: patterns of the last component of a tensor's name and of the one before it. looks(shape, dtype):
    whether a tensor may be one. reason: what it is and why an output does not need it, as a clause. of_quantizer: it is
    one only in a quantizer's checkpoint.
    """

    leaf: str
    looks: Callable[[Shape, str], bool]
    reason: str
    module: str = ".*"
    of_quantizer: bool = False

    def matches(self, name: str) -> bool:
        """Return whether a tensor's name matches."""
        module, _, leaf = name.rpartition(".")
        return bool(re.fullmatch(self.leaf, leaf) and re.fullmatch(self.module, module.rpartition(".")[2]))


def _is_vector(shape: Shape, dtype: str) -> bool:
    return dtype in FLOATS and len(shape) == 1


def _is_table(shape: Shape, dtype: str) -> bool:
    """Return whether it may be a table of cosines, sines or complex numbers, [..., positions, frequencies]."""
    return dtype in (*FLOATS, "c64") and len(shape) >= 2


def _is_count(shape: Shape, dtype: str) -> bool:
    """Return whether it may be 0, 1, 2 ..., [n] or [1, n]; as floats if the model was cast."""
    return (dtype in FLOATS or dtype[0] in "iu") and len(shape) in (1, 2) and math.prod(shape[:-1]) == 1


def _is_integers(shape: Shape, dtype: str) -> bool:
    return dtype[0] in "iu" and len(shape) in (1, 2) and math.prod(shape[:-1]) == 1


def _is_mask(shape: Shape, dtype: str) -> bool:
    """Return whether it may be a mask, [1, 1, positions, positions]; leading axes are optional for bool and u8."""
    is_square = len(shape) >= 2 and shape[-1] == shape[-2] > 1 and math.prod(shape[:-2]) == 1
    return is_square and (len(shape) == 4 or dtype in ("bool", "u8"))


def _is_number(shape: Shape, dtype: str) -> bool:
    return math.prod(shape) == 1 and dtype != "c64"


def _is_scales(shape: Shape, dtype: str) -> bool:
    """Return whether it may be one scale, or one per head or channel: at most one axis is longer than 1."""
    return math.prod(shape) == max(shape, default=1) <= MOST_SCALES and dtype != "c64"


FREQUENCIES = "rotary frequencies, which the runtime computes"
POSITIONS = "position numbers, which the runtime computes"
MASK = "a causal mask, which the runtime computes"
CACHE = "scales of a quantized KV cache, which the output does not have"
ACTIVATIONS = "scales of quantized activations, which the output does not have"
#: Reasons for tensors that a Hugging Face folder in its quantizer's layout keeps.
SCALES = (CACHE, ACTIVATIONS)

#: Names of attention modules, of the projections in them and of their caches.
ATTENTION = r"\w*(?:attn|attention|mixer|mla|cache)\w*|\w*_proj\w*|query|key|value|query_key_value|w[qkv]|wqkv"
MASKED = "(?:self_|cross_|core_)?(?:attn|attention)"
CACHE_SCALE = (
    r"(?:q|k|v|kv|qk|qkv|prob|prob_output|past_kv|past_key|past_value)"
    r"(?:_cache)?_(?:scale|scale_inv|scaling_factor|global_scale|zero_point|amax)"
)
ROTARY = r"\w*(?:rope|rotary)\w*"

#: The rows are tried in this order.
LEFTOVERS: tuple[Leftover, ...] = (
    Leftover(r"\w*inv(?:erse)?_?freq(?:s|uency|uencies)?\w*", _is_vector, FREQUENCIES),
    Leftover("freqs?|frequencies", _is_vector, FREQUENCIES, ROTARY),
    Leftover(r"\w*(?:cos|sin)_cached?|freqs_(?:cis|cos|sin)", _is_table, FREQUENCIES),
    Leftover("cos|sin", _is_table, FREQUENCIES, ROTARY),
    Leftover("position_ids", _is_count, POSITIONS),
    Leftover("token_type_ids", _is_integers, "token types, all 0, which the runtime computes"),
    Leftover("masked_bias", _is_number, MASK),
    Leftover("bias", _is_mask, MASK, MASKED),
    Leftover("causal_mask|attn_mask|attention_mask", _is_mask, MASK),
    Leftover("tril|mask", _is_mask, MASK, MASKED),
    Leftover(CACHE_SCALE, _is_number, CACHE, ATTENTION),
    Leftover(CACHE_SCALE, _is_scales, CACHE, ATTENTION, of_quantizer=True),
    Leftover("[kv]_bias", _is_scales, CACHE, "[kv]_proj", of_quantizer=True),
    Leftover(r"_\w+", _is_scales, CACHE, "[qkvp]_bmm_quantizer", of_quantizer=True),
    Leftover("output_(?:scale|zero_point)", _is_scales, CACHE, "[kv]_proj", of_quantizer=True),
    Leftover(
        "(?:input|output|activation)_(?:scale|scale_inv|scale_ub|global_scale|zero_point|amax)",
        _is_scales,
        ACTIVATIONS,
        of_quantizer=True,
    ),
    Leftover("_amax", _is_scales, ACTIVATIONS, "(?:input|output)_quantizer", of_quantizer=True),
)


def leftover(name: str, shape: Shape, dtype: str, *, is_quantized: bool) -> Leftover | None:
    """Return the kind of leftover that a folder's tensor is, None for a parameter of the model.

    dtype: as stored. is_quantized: whether a quantizer wrote the checkpoint.

    >>> leftover("model.rotary_emb.inv_freq", (64,), "f32", is_quantized=False).reason
    'rotary frequencies, which the runtime computes'
    >>> leftover("model.layers.0.self_attn.k_scale", (8, 128), "f32", is_quantized=True) is None
    True
    """
    if len(name) > LONGEST_NAME:
        return None
    kinds = (kind for kind in LEFTOVERS if is_quantized or not kind.of_quantizer)
    return next((kind for kind in kinds if kind.looks(shape, dtype) and kind.matches(name)), None)


def is_for_prediction(name: str) -> bool:
    """Return whether a folder's tensor belongs to a module for multi-token prediction, by its name.

    >>> [is_for_prediction(f"{n}.weight") for n in ("mtp.fc", "model.mtp_layers.0.mlp.up_proj", "model.mtpq.fc")]
    [True, True, False]
    """
    return PREDICTION.search(name) is not None
