"""gpt-oss checkpoints: the experts' matrices as `<name>_blocks` and `<name>_scales`, all else dense.

config.json's `quantization_config` says `quant_method` mxfp4 and `modules_to_not_convert`, globs of what stays dense.
A weight is called as transformers calls its tensor, `...mlp.experts.gate_up_proj`; its rows are outputs, as stored.
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
from quantcli.sources.hf import not_left_out
from quantcli.sources.modules import beside, checkpoint, held, settings_of, where

SUFFIXES = {"blocks": "_blocks", "scales": "_scales"}
#: The matrices that are stored so unless the settings leave them out.
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")
REASON = "quantization_config: quant_method mxfp4"


def open_gpt_oss(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of a gpt-oss folder. Raises `BadInput`."""
    keys = settings_of(folder, config)
    skipped = keys.texts("modules_to_not_convert")
    names = sorted(name.removesuffix("_blocks") for name in tensors.parts if name.endswith("_blocks"))
    if not names:
        raise BadInput(f"{keys.label}: `quant_method` is mxfp4, but no tensor is called *_blocks.")
    for name, part in tensors.parts.items():
        if name.endswith("_scales") and f"{name.removesuffix('_scales')}_blocks" not in tensors.parts:
            raise BadInput(f"{where(part)}: has no _blocks beside it, which quant_method mxfp4 needs.")
    unpacked = {n: p for n, p in tensors.parts.items() if n.endswith(EXPERTS) and not _is_skipped(n, skipped)}
    dense = [name for name, part in unpacked.items() if part.dtype in FLOATS]
    odd = next((part for name, part in unpacked.items() if name not in dense), None)
    if odd is not None:
        raise BadInput(
            f"{where(odd)}: is {odd.dtype} and not packed, and {keys.label}.modules_to_not_convert does not name it."
        )
    further = [not_left_out(f"{keys.label}.modules_to_not_convert", dense)] if dense else []
    weights = [_weight(name, tensors.parts, skipped) for name in names]
    return checkpoint("gpt-oss", folder, config, tensors, weights, further)


def _is_skipped(name: str, skipped: Iterable[str]) -> bool:
    """Whether a pattern names this tensor or a module that it is in."""
    return any(fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*") for pattern in skipped)


def _weight(name: str, parts: Mapping[str, Part], skipped: Iterable[str]) -> Weight:
    stored = beside(name, SUFFIXES, parts)
    blocks = stored["blocks"]
    if _is_skipped(name, skipped):
        raise BadInput(f"{where(blocks)}: is packed, but quantization_config.modules_to_not_convert names it.")
    if "scales" not in stored:
        raise BadInput(f"{where(blocks)}: has no {name}_scales beside it, which quant_method mxfp4 needs.")
    if len(blocks.shape) != 4 or blocks.shape[-1] != BYTES:
        raise BadInput(f"{where(blocks)}: has shape {list(blocks.shape)}, (experts, rows, groups, {BYTES}) is needed.")
    shape = (*blocks.shape[:2], blocks.shape[2] * MX_GROUP)
    return held(name, shape, GptOss(), stored, REASON)
