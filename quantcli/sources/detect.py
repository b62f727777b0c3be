"""What a SOURCE is: a GGUF file (by its first bytes), a folder of some format, or one safetensors file of a folder."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantcli.checkpoint import Checkpoint, Part
from quantcli.containers.entries import leads_somewhere
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput, NotPossible
from quantcli.sources import harmless, pieces
from quantcli.sources.folder import Folder, LocalFolder, Tensors, read_json, read_tensors, sidecars
from quantcli.sources.gguf import PART, is_gguf, open_gguf
from quantcli.sources.hf import looks_quantized, open_hf, open_unquantized
from quantcli.sources.hub_cache import not_downloaded
from quantcli.sources.mlx import has_mlx_modules, looks_mlx, open_mlx
from quantcli.sources.mlx_settings import FILE
from quantcli.sources.noted import noted
from quantcli.sources.prediction import named_as_layers
from quantcli.sources.prefix import seen_as_text_model
from quantcli.sources.sidecars import QMAP, sort_out
from quantcli.sources.stated import Stated, leaves_all_dense, stated
from quantcli.sources.tensor_files import is_adapter, is_models, passed_over, refuse_others

Opener = Callable[[Folder, Mapping[str, Any], Tensors], Checkpoint]


@dataclass(frozen=True)
class Quantizer:
    """The module that opens a quantizer's checkpoints.

    file: a module of this package, imported on demand: importing all takes longer than reading headers.
    function: the `Opener` in it. dense: the settings' key that lists dense modules; None if none is a list of names.
    """

    file: str
    function: str
    dense: str | None = None


#: `quant_method` of config.json's `quantization_config` -> its quantizer.
QUANTIZERS = {
    "awq": Quantizer("awq", "open_awq", "modules_to_not_convert"),
    "gptq": Quantizer("gptq", "open_gptq"),
    "auto-round": Quantizer("auto_round", "open_auto_round"),
    "compressed-tensors": Quantizer("compressed_tensors", "open_compressed_tensors", "ignore"),
    "fp8": Quantizer("fp8", "open_fp8", "modules_to_not_convert"),
    "fbgemm_fp8": Quantizer("fp8", "open_fp8", "modules_to_not_convert"),
    "mxfp8": Quantizer("fp8", "open_fp8", "modules_to_not_convert"),
    "modelopt": Quantizer("modelopt", "open_modelopt", "ignore"),
    "quark": Quantizer("quark", "open_quark", "exclude"),
    "bitsandbytes": Quantizer("bitsandbytes", "open_bitsandbytes", "llm_int8_skip_modules"),
    "hqq": Quantizer("hqq", "open_hqq", "skip_modules"),
    "torchao": Quantizer("torchao", "open_torchao", "modules_to_not_convert"),
    "quanto": Quantizer("quanto", "open_quanto"),
    "mxfp4": Quantizer("gpt_oss", "open_gpt_oss", "modules_to_not_convert"),
}


def open_source(path: Path) -> Checkpoint:
    """Open the checkpoint at a local path. Raises `BadInput`, `NotPossible`."""
    if not leads_somewhere(path):
        raise BadInput(f"{path}: there is no such file or folder, and it is not a Hub id (org/name).")
    statuses = _statuses(path)
    return replace(_opened(path), statuses=statuses)


def _statuses(path: Path) -> dict[Path, os.stat_result]:
    """Return the status of a source's files: those of its folder, those of a split GGUF, or the file alone."""
    if path.is_dir():
        files = [path / name for name in LocalFolder(path).names()]
    elif path.suffix == ".safetensors":
        files = [path.parent / name for name in LocalFolder(path.parent).names()]
    elif named := PART.fullmatch(path.name):
        alike = (PART.fullmatch(name) for name in os.listdir(path.parent))
        files = [path.with_name(one.string) for one in alike if one and one["prefix"] == named["prefix"]]
    else:
        files = [path]
    found = {}
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            found[file] = os.stat(file)
    return found


def _opened(path: Path) -> Checkpoint:
    if path.is_dir():
        return open_folder(LocalFolder(path))
    try:
        if path.suffix.lower() == ".gguf" or is_gguf(path):
            return open_gguf(path)
        if path.suffix == ".safetensors":
            return open_folder(LocalFolder(path.parent), path.name)
        raise BadInput(f"{path}: is not a folder, a GGUF file or a .safetensors file.")
    except BadInput as error:
        if explained := pieces.of_file(path, str(error)):
            raise BadInput(explained) from error
        raise


def open_folder(folder: Folder, only: str | None = None) -> Checkpoint:
    """Open the checkpoint of a folder (or of one of its tensor files, `only`), on this machine or on the Hub."""
    source = named_as_layers(seen_as_text_model(_as_stored(folder, only)))
    others = sidecars(folder, source.files)
    copied, layout = (tuple(map(folder.path, names)) for names in (others.copied, others.layout))
    source = replace(source, sidecars=copied, settings=layout, passed=others.passed)
    return _with_absent(source, folder.root) if isinstance(folder, LocalFolder) else source


def _with_absent(source: Checkpoint, root: Path) -> Checkpoint:
    """Return the checkpoint of a Hub snapshot with the repository's files that were not downloaded, as if present."""
    absent = not_downloaded(root)
    if not absent:
        return source
    passed = sort_out(absent, ()).passed
    further = passed_over([file.name for file in passed if is_models(file.name)])
    names = sorted((*source.passed, *passed), key=lambda file: file.name)
    return replace(source, passed=tuple(names), warnings=(*further, *source.warnings))


def _as_stored(folder: Folder, only: str | None) -> Checkpoint:
    """Return the checkpoint with its weights under the names of stored tensors, without sidecar files."""
    names = set(folder.names())
    if is_adapter(names, only):
        raise NotPossible(f"{folder.label}: is a LoRA adapter, not a model. Merge it into its base model first.")
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
        if not ggufs:
            refuse_others(names, folder.label)
        hint = f" Give its GGUF file as the source: {ggufs[0]}." if ggufs else ""
        raise BadInput(f"{folder.label}: config.json is missing.{hint}")
    config = read_json(folder, "config.json")
    tensors = read_tensors(folder, only)
    settings = stated(folder, config, tensors.parts)
    if settings.block and not settings.path:
        # From a file that outputs in another layout do not have.
        config |= {"quantization_config": settings.block}
    if has_mlx_modules(config, tensors.parts):
        return open_mlx(folder, config, tensors)
    if settings.method in QUANTIZERS:
        source = _quantized(folder, config, tensors, settings)
    elif looks_mlx(config, tensors.parts):
        return open_mlx(folder, config, tensors)
    elif (QMAP in names and not settings.block) or _looks_quanto(tensors.parts):
        return _opener("quanto")(folder, config, tensors)
    elif settings.block:
        raise _unsupported_method(f"{folder.label}/{settings.place}", settings.block)
    else:
        return open_hf(folder, config, tensors)
    return replace(source, config=config, warnings=(*settings.warnings, *source.warnings))


def _quantized(folder: Folder, config: Mapping[str, Any], tensors: Tensors, settings: Stated) -> Checkpoint:
    """Return the checkpoint of a folder whose settings name a supported quantizer."""
    if not any(map(looks_quantized, tensors.parts.values())):
        is_silent = leaves_all_dense(settings.method, settings.block)
        return open_unquantized(folder, config, tensors, settings.place, settings.method, silent=is_silent)
    account = noted({**settings.block, "quant_method": settings.method}, settings.place)
    source = _opener(settings.method)(folder, {**config, "quantization_config": account}, tensors)
    return replace(source, warnings=(*source.warnings, *harmless.warnings(account, folder.label)))


def _unsupported_method(place: str, settings: Mapping[str, Any]) -> NotPossible:
    """Return the error for settings at `place` that name an unsupported quantizer."""
    method = shown(settings["quant_method"]) if "quant_method" in settings else "without a name"
    return NotPossible(
        f"{place}: quant_method {method} is not supported. Supported: {', '.join(QUANTIZERS)}; MLX and dense "
        "checkpoints."
    )


def _looks_quanto(parts: Mapping[str, Part]) -> bool:
    """Return whether a tensor has the name of optimum-quanto's codes and scales for rows or groups."""
    ends = ".weight._data", ".weight._data._data"
    codes = ((name, end) for name in parts for end in ends if name.endswith(end))
    scales = (parts.get(f"{name.removesuffix(end)}.weight._scale") for name, end in codes)
    return any(scale is not None and len(scale.shape) == 2 for scale in scales)


def _opener(method: str) -> Opener:
    """Import the function that opens a quantizer's checkpoints."""
    quantizer = QUANTIZERS[method]
    opener: Opener = getattr(importlib.import_module(f"quantcli.sources.{quantizer.file}"), quantizer.function)
    return opener
