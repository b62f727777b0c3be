"""gpt-oss checkpoints: the experts' matrices as `<name>_blocks` and `<name>_scales`, everything else dense.

config.json's `quantization_config` gives `quant_method` mxfp4 and `modules_to_not_convert`, globs of dense modules.
A weight has transformers' name of its tensor, `...mlp.experts.gate_up_proj`; its rows are outputs, as stored.
Source: transformers (integrations/mxfp4.py, quantizers/quantizer_mxfp4.py).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.errors import BadInput
from quantcli.schemes.hf.gpt_oss import BYTES, GptOss
from quantcli.schemes.ocp import MX_GROUP
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.modules import checked_weight, checkpoint, parts_of, settings_of
from quantcli.sources.wording import listed_as_dense, mismatch, missing, no_codes, stored_otherwise, where

SUFFIXES = {"blocks": "_blocks", "scales": "_scales"}
#: The matrices that are quantized unless the settings list them as dense.
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")
REASON = "quantization_config: quant_method mxfp4"


def open_gpt_oss(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """Open a gpt-oss folder. Raises `BadInput`."""
    keys = settings_of(folder, config)
    skipped = keys.texts("modules_to_not_convert")
    names = sorted(name.removesuffix("_blocks") for name in tensors.parts if name.endswith("_blocks"))
    if not names:
        raise no_codes(keys.label, "mxfp4", "*_blocks")
    for name, part in tensors.parts.items():
        blocks = f"{name.removesuffix('_scales')}_blocks"
        if name.endswith("_scales") and blocks not in tensors.parts:
            raise missing(part, blocks, REASON)
    unpacked = {n: p for n, p in tensors.parts.items() if n.endswith(EXPERTS) and not _is_skipped(n, skipped)}
    dense = [name for name, part in unpacked.items() if part.dtype in FLOATS]
    odd = next((part for name, part in unpacked.items() if name not in dense), None)
    place = f"{keys.label}.modules_to_not_convert"
    if odd is not None:
        raise BadInput(f"{where(odd)}: is not packed ({odd.dtype}), but {place} does not list it as dense.")
    further = [stored_otherwise(place, "matrix", dense, "dense")] if dense else []
    weights = [_weight(name, tensors.parts, skipped) for name in names]
    return checkpoint("gpt-oss", folder, config, tensors, weights, further)


def _is_skipped(name: str, skipped: Iterable[str]) -> bool:
    """Return whether a pattern matches this tensor or a module that contains it."""
    return any(fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*") for pattern in skipped)


def _weight(name: str, parts: Mapping[str, Part], skipped: Iterable[str]) -> Weight:
    stored = parts_of(name, SUFFIXES, parts)
    blocks = stored["blocks"]
    if _is_skipped(name, skipped):
        raise listed_as_dense(blocks, name, "quantization_config.modules_to_not_convert")
    if "scales" not in stored:
        raise missing(blocks, f"{name}_scales", REASON)
    if len(blocks.shape) != 4 or blocks.shape[-1] != BYTES:
        raise mismatch(blocks, f"shape [experts, rows, groups, {BYTES}]", REASON)
    shape = (*blocks.shape[:2], blocks.shape[2] * MX_GROUP)
    return checked_weight(name, shape, GptOss(), stored, REASON)
