"""What a SOURCE is: a GGUF file, a folder of some kind, one safetensors file of a folder. Never guessed from bytes."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantcli.checkpoint import Checkpoint, Part
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput
from quantcli.sources import harmless
from quantcli.sources.folder import QMAP, Folder, LocalFolder, Tensors, read_json, read_tensors
from quantcli.sources.gguf import open_gguf
from quantcli.sources.hf import open_hf
from quantcli.sources.mlx import has_mlx_modules, looks_mlx, open_mlx
from quantcli.sources.mlx_settings import FILE
from quantcli.sources.noted import noted

Opener = Callable[[Folder, Mapping[str, Any], Tensors], Checkpoint]

#: `quant_method` of config.json's `quantization_config` -> who reads it: a file of this folder and its function. They
#: are imported when one is needed: together they take longer than reading headers.
QUANTIZERS = {
    "awq": ("awq", "open_awq"),
    "gptq": ("gptq", "open_gptq"),
    "auto-round": ("gptq", "open_auto_round"),
    "mxfp4": ("gpt_oss", "open_gpt_oss"),
    "compressed-tensors": ("compressed_tensors", "open_compressed_tensors"),
    "fp8": ("fp8", "open_fp8"),
    "fbgemm_fp8": ("fp8", "open_fp8"),
    "mxfp8": ("fp8", "open_fp8"),
    "modelopt": ("modelopt", "open_modelopt"),
    "quark": ("quark", "open_quark"),
    "bitsandbytes": ("bitsandbytes", "open_bitsandbytes"),
    "hqq": ("hqq", "open_hqq"),
    "torchao": ("torchao", "open_torchao"),
    "quanto": ("quanto", "open_quanto"),
}

#: Where modelopt's settings stood before they came into config.json.
OLD_MODELOPT = "hf_quant_config.json"


def open_source(path: Path) -> Checkpoint:
    """The checkpoint at a local path. Raises `BadInput`, `NotPossible`."""
    if not os.path.exists(path):
        raise BadInput(f"{path}: there is no such file or folder, and it is no Hub id (org/name).")
    if path.is_dir():
        return open_folder(LocalFolder(path))
    if path.suffix == ".safetensors":
        return open_folder(LocalFolder(path.parent), path.name)
    if path.suffix.lower() == ".gguf":
        return open_gguf(path)
    raise BadInput(f"{path}: is no folder, no .gguf and no .safetensors file.")


def open_folder(folder: Folder, only: str | None = None) -> Checkpoint:
    """The checkpoint of a folder (or of its one tensor file `only`), here or on the Hub."""
    names = set(folder.names())
    if "config.json" not in names and (only is not None or FILE in names):
        tensors = read_tensors(folder, only)
        if looks_mlx({}, tensors.parts):
            return open_mlx(folder, {}, tensors)
        if _looks_quanto(tensors.parts):
            return _opener("quanto")(folder, {}, tensors)
        if only is not None:
            return open_hf(folder, {}, tensors)
    if "config.json" not in names:
        ggufs = sorted(name for name in names if name.endswith(".gguf"))
        hint = f"name its GGUF file ({ggufs[0]})" if ggufs else "a model folder has one"
        raise BadInput(f"{folder.label}: has no config.json: {hint}.")
    config = read_json(folder, "config.json")
    tensors = read_tensors(folder, only)
    if "quantization_config" not in config and OLD_MODELOPT in names:
        config |= {"quantization_config": _old_modelopt(read_json(folder, OLD_MODELOPT).get("quantization"))}
    settings = config.get("quantization_config")
    settings = {} if settings is None else settings
    if not isinstance(settings, dict):
        raise BadInput(f"{folder.label}/config.json: quantization_config is {shown(settings)}, an object is needed.")
    method = str(settings.get("quant_method"))
    if method in QUANTIZERS and not has_mlx_modules(config, tensors.parts):
        account = noted(settings)
        found = _opener(method)(folder, {**config, "quantization_config": account}, tensors)
        further = harmless.warnings(account, f"{folder.label}/config.json")
        return replace(found, config=config, warnings=(*found.warnings, *further))
    if looks_mlx(config, tensors.parts):
        return open_mlx(folder, config, tensors)
    if (QMAP in names and not settings) or _looks_quanto(tensors.parts):
        return _opener("quanto")(folder, config, tensors)
    return open_hf(folder, config, tensors)


def _old_modelopt(stated: Any) -> dict[str, Any]:
    """The settings as config.json has them today, where what is dense has another name."""
    settings = {**stated} if isinstance(stated, dict) else {}
    if "ignore" not in settings and "exclude_modules" in settings:
        settings["ignore"] = settings.pop("exclude_modules")
    return {**settings, "quant_method": "modelopt"}


def _looks_quanto(parts: Mapping[str, Part]) -> bool:
    """Whether some tensor is called as optimum-quanto's codes, with scales for rows or groups beside it."""
    ends = ".weight._data", ".weight._data._data"
    found = ((name, end) for name in parts for end in ends if name.endswith(end))
    scales = (parts.get(f"{name.removesuffix(end)}.weight._scale") for name, end in found)
    return any(scale is not None and len(scale.shape) == 2 for scale in scales)


def _opener(method: str) -> Opener:
    """Who reads a quantizer's checkpoints."""
    module, function = QUANTIZERS[method]
    opener: Opener = getattr(importlib.import_module(f"quantcli.sources.{module}"), function)
    return opener
