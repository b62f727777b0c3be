"""AutoRound's checkpoints: another tool's layout, which `packing_format` names, with AutoRound's settings.

`extra_config` has settings of single modules, by name or expression: more than 8 bits are dense, and what an entry
leaves out is that of all modules. Zero points of `auto_round` and `auto_round:gptqmodel` are stored as they are, those
of `auto_round:auto_gptq` less one.
Source: AutoRound 0.16 (export/export_to_autoround, inference/backend.py, inference/convert_model.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantcli.checkpoint import Checkpoint
from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader
from quantcli.errors import NotPossible
from quantcli.schemes.hf.awq import BITS
from quantcli.sources import awq
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.gptq import MOST_BITS, check_integers, named_rules, open_gptq
from quantcli.sources.modules import settings_of

#: `packing_format` -> whose layout it is, and of GPTQ's which.
PACKINGS = {
    **dict.fromkeys(("auto", "auto_gptq", "auto_round:auto_gptq", "auto_round:gptq"), "gptq"),
    **dict.fromkeys(("auto_round", "auto_round:gptqmodel"), "gptq_v2"),
    **dict.fromkeys(("auto_awq", "auto_round:auto_awq", "auto_round:awq"), "awq"),
}
DEFAULT = "auto_round:auto_gptq"


def open_auto_round(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of an AutoRound folder, in GPTQ's or AWQ's layout. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    packing = keys.text("packing_format", DEFAULT)
    layout = PACKINGS.get(packing)
    if layout is None:
        raise NotPossible(
            f"{keys.label}: `packing_format` {shown(packing)} is a layout that is not read; {', '.join(PACKINGS)} are."
        )
    check_integers(keys)
    if layout != "awq":
        return open_gptq(folder, config, tensors, layout)
    common = awq.settings(keys)
    rules = named_rules(keys.part("extra_config"), lambda entry, _: _extra(entry, common))
    return awq.open_awq(folder, config, tensors, list(rules), by_blocks=True)


def _extra(entry: Reader, common: awq.AwqSettings) -> awq.AwqSettings | None:
    """The settings of a module in AWQ's layout, which has one width of codes; None where it is dense."""
    bits = entry.whole("bits", BITS)
    if bits > MOST_BITS:
        entry.settled()
        return None
    check_integers(entry)
    if bits != BITS:
        raise NotPossible(f"{entry.label}: `bits` is {bits}; AutoAWQ's layouts are read with {BITS} bits.")
    return replace(common, group_size=awq.group_size(entry, common.group_size))
