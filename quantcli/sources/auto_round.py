"""AutoRound's checkpoints: another tool's layout, which `packing_format` names, with AutoRound's settings.

`extra_config` has the settings of single modules, by name or expression. More than 8 bits mean dense; a key that an
entry omits has the value for all modules. Zero points are stored unchanged in `auto_round` and `auto_round:gptqmodel`,
minus 1 in `auto_round:auto_gptq`.
Source: AutoRound 0.16 (export/export_to_autoround, inference/backend.py, inference/convert_model.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantcli.checkpoint import Checkpoint
from quantcli.containers.json_text import Reader
from quantcli.schemes.hf.awq import BITS
from quantcli.sources import awq
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.gptq import MOST_BITS, check_integers, named_rules, open_gptq
from quantcli.sources.modules import settings_of

#: `packing_format` -> AWQ's layout, or one of GPTQ's layouts.
PACKINGS = {
    **dict.fromkeys(("auto", "auto_gptq", "auto_round:auto_gptq", "auto_round:gptq"), "gptq"),
    **dict.fromkeys(("auto_round", "auto_round:gptqmodel"), "gptq_v2"),
    **dict.fromkeys(("auto_awq", "auto_round:auto_awq", "auto_round:awq"), "awq"),
}
DEFAULT = "auto_round:auto_gptq"


def open_auto_round(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """Open an AutoRound folder, in GPTQ's or AWQ's layout. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    packing = keys.text("packing_format", DEFAULT)
    layout = PACKINGS.get(packing)
    if layout is None:
        raise keys.unsupported("packing_format", PACKINGS)
    check_integers(keys)
    if layout != "awq":
        return open_gptq(folder, config, tensors, layout)
    common = awq.settings(keys)
    rules = named_rules(keys.part("extra_config"), lambda entry, _: _extra(entry, common))
    return awq.open_awq(folder, config, tensors, list(rules), by_blocks=True)


def _extra(entry: Reader, common: awq.AwqSettings) -> awq.AwqSettings | None:
    """Return the settings of a module in AWQ's layout, which has 4 bits only; None for a dense module."""
    bits = entry.whole("bits", BITS)
    if bits > MOST_BITS:
        entry.settled()
        return None
    check_integers(entry)
    if bits != BITS:
        raise entry.unsupported("bits", (BITS,))
    return replace(common, group_size=awq.group_size(entry, common.group_size))
