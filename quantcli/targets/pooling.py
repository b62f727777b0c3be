"""Pooling of a sentence-transformers model: from its `modules.json` to the key of GGUF.

    modules.json             [{"path": "", "type": "...Transformer"}, {"path": "1_Pooling", "type": "...Pooling"}, ...]
    1_Pooling/config.json    {"pooling_mode_mean_tokens": true, ...}, or {"pooling_mode": "mean"}

Source: llama.cpp (conversion/base.py, gguf-py's PoolingType; src/llama-model.cpp reads the key for every architecture);
sentence-transformers' models/Pooling.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.containers.json_text import load
from quantcli.errors import BadInput
from quantcli.tokenizers.files import Files

MODULES = "modules.json"
#: Mode -> the flag that older files have for it, llama.cpp's number. Those without a number have no place in GGUF.
MODES: dict[str, tuple[str, int | None]] = {
    "mean": ("pooling_mode_mean_tokens", 1),
    "cls": ("pooling_mode_cls_token", 2),
    "lasttoken": ("pooling_mode_lasttoken", 3),
    "max": ("pooling_mode_max_tokens", None),
    "mean_sqrt_len_tokens": ("pooling_mode_mean_sqrt_len_tokens", None),
    "weightedmean": ("pooling_mode_weightedmean_tokens", None),
}
#: Kinds of modules that say nothing of what is pooled: the model itself, and what a runtime does or leaves anyway.
ASIDE = ("Transformer", "Normalize", "Dropout")
#: A module's folder: one name, so that nothing outside the model folder is read.
FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MOST_MODULES = 64


def pooling(files: Files) -> tuple[int | None, list[str]]:
    """Return llama.cpp's number of the pooling, None if there is none or GGUF has no number for it; and warnings."""
    if not files.has(MODULES):
        return None, []
    label = files.label(MODULES)
    listed = load(files.bytes(MODULES), label)
    if not isinstance(listed, list) or len(listed) > MOST_MODULES or not all(isinstance(m, Mapping) for m in listed):
        raise BadInput(f"{label}: expected a list of at most {MOST_MODULES} objects, found {shown(listed)}.")
    number, warnings = None, list[str]()
    others: list[str] = []
    for module in listed:
        kind, folder = str(module.get("type", "")).rpartition(".")[2], module.get("path")
        if kind == "Pooling":
            number, warnings = _mode(files, folder, label)
        elif kind not in ASIDE:
            others.append(f"{shown(folder)} ({shown(kind)})")
    if others:
        warnings.append(
            f"{label}: GGUF cannot store these modules of an embedding model, so the output lacks them: "
            f"{', '.join(others)}."
        )
    return number, warnings


def _mode(files: Files, folder: object, label: str) -> tuple[int | None, list[str]]:
    if not isinstance(folder, str) or not FOLDER.fullmatch(folder):
        raise BadInput(
            f"{label}: the path of the pooling module: expected the name of a folder, found {shown(folder)}."
        )
    name = f"{folder}/config.json"
    settings = files.json(name)
    modes = _modes(settings)
    known = [MODES[mode][1] for mode in modes if mode in MODES]
    if len(modes) != 1 or known in ([], [None]):
        said = " and ".join(map(shown, modes)) or "none"
        return None, [
            f"{files.label(name)}: GGUF has no pooling type for pooling_mode {said}, so the file states none."
        ]
    warnings = []
    if settings.get("include_prompt") is False:
        warnings.append(f"{files.label(name)}: GGUF has no key for include_prompt false: llama.cpp pools prompts too.")
    return known[0], warnings


def _modes(settings: Mapping[str, Any]) -> list[str]:
    """The modes that are asked for; results of several are put one after the other."""
    modes = [mode for mode, (flag, _) in MODES.items() if settings.get(flag) is True]
    named = settings.get("pooling_mode")
    return modes or [mode for mode in (named if isinstance(named, list) else [named]) if isinstance(mode, str)]
