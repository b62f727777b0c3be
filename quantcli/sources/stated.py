"""The settings by which a folder's weights are quantized: in config.json, else in a separate file.

    config.json   quantization_config, compression_config (compressed-tensors' first name for it)
                  the same two in text_config and in its equivalents in other multimodal models
    hf_quant_config.json (modelopt), quantize_config.json (GPTQ), quant_config.json (AWQ)

The first of these places that has settings is used; a warning names others that differ. quant_method is normalised to
the readers' names, and inferred from other keys if it is missing.
Sources: transformers (quantizers/auto.py: get_hf_quantizer, supports_quant_method), vLLM (config/model.py,
model_loader/weight_utils.py: get_quant_config), compressed-tensors (ModelCompressor), AutoGPTQ, AutoAWQ.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from quantcli.containers.json_text import Reader
from quantcli.sources.folder import CONFIG, Folder, read_json
from quantcli.sources.noted import PLACE

KEYS = ("quantization_config", "compression_config")
#: The places of a text model's settings in those of a multimodal model; the top level first.
PARTS = (
    (),
    ("text_config",),
    ("llm_config",),
    ("language_config",),
    ("thinker_config",),
    ("thinker_config", "text_config"),
)
#: File -> the key of its settings (None: the whole file), the quantizer, the suffix of stored tensors without which the
#: file does not apply.
FILES: dict[str, tuple[str | None, str, str]] = {
    "hf_quant_config.json": ("quantization", "modelopt", ""),
    "quantize_config.json": (None, "gptq", ".qweight"),
    "quant_config.json": (None, "awq", ".qweight"),
}
#: Keys in these files -> their names in config.json.
RENAMED = {"exclude_modules": "ignore"}
#: Other spellings of quant_method.
ALIASES = {
    "auto_round": "auto-round", "intel/auto-round": "auto-round", "compressed_tensors": "compressed-tensors",
    "bitsandbytes_4bit": "bitsandbytes", "bitsandbytes_8bit": "bitsandbytes",
}  # fmt: skip


@dataclass(frozen=True)
class Stated:
    """A folder's settings, empty if it has none. place: their file and key, `config.json: quantization_config`.

    path: their keys in config.json; empty for settings in a separate file.
    """

    place: str
    block: Mapping[str, Any] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """`quant_method`, normalised to the readers' names."""
        name = str(self.block.get("quant_method")).lower()
        return ALIASES.get(name, name)


def stated(folder: Folder, config: Mapping[str, Any], tensors: Collection[str]) -> Stated:
    """Return the settings by which a folder's weights are stored. Raises `BadInput` if they are not an object."""
    blocks = list(_in_config(config, folder.label))
    if not blocks:
        files = [] if config.get("quantization") is not None else list(_in_files(folder, tensors))
        return files[0] if files else Stated(PLACE)
    first = blocks[0]
    odd = [".".join(other.path) for other in blocks[1:] if other.block != first.block]
    if not odd:
        return first
    used = ".".join(first.path)
    text = f"{folder.label}/{CONFIG}: {used} and {', '.join(odd)} differ. {used} is used."
    return replace(first, warnings=(text,))


def in_config(config: Mapping[str, Any], label: str = "") -> Stated | None:
    """Return the settings in config.json that are used; None if it has none. Raises `BadInput`."""
    return next(_in_config(config, label), None)


def replaced(config: Mapping[str, Any], path: tuple[str, ...], block: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json's object with other settings at `path`."""
    key, *rest = path
    return {**config, key: replaced(config[key], tuple(rest), block) if rest else dict(block)}


def _in_config(config: Mapping[str, Any], label: str) -> Iterator[Stated]:
    for part in PARTS:
        settings: Any = config
        for key in part:
            settings = settings.get(key) if isinstance(settings, Mapping) else None
        for key in KEYS if isinstance(settings, Mapping) else ():
            block, path = settings.get(key), (*part, key)
            if block in (None, {}):
                continue
            place = f"{CONFIG}: {'.'.join(path)}"
            if not isinstance(block, Mapping):
                raise Reader(settings, f"{label}/{CONFIG}", ".".join(part)).refuse(key, "expected an object")
            yield Stated(place, _named(block, key), path)


def _in_files(folder: Folder, tensors: Collection[str]) -> Iterator[Stated]:
    names = set(folder.names())
    for name, (key, method, suffix) in FILES.items():
        if name not in names or not any(tensor.endswith(suffix) for tensor in tensors):
            continue
        data: Any = read_json(folder, name)
        block = data if key is None else data.get(key)
        if isinstance(block, Mapping):
            named = {RENAMED.get(str(k), str(k)): v for k, v in block.items() if RENAMED.get(str(k)) not in block}
            yield Stated(f"{name}: {key}" if key else name, {**named, "quant_method": method})


def _named(block: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the settings with a quant_method, inferred from other keys if it is missing."""
    producer = block.get("producer")
    nested = block.get("quantization")
    if "quant_method" not in block and isinstance(producer, Mapping) and producer.get("name") == "modelopt":
        return {**(nested if isinstance(nested, Mapping) else block), "quant_method": "modelopt"}
    method = block.get("quant_method")
    if method is None and any(block.get(f"load_in_{bits}bit") is True for bits in (4, 8)):
        method = "bitsandbytes"
    if key == "compression_config" and method in (None, "sparseml"):
        method = "compressed-tensors"
    return dict(block) if method is None else {**block, "quant_method": method}


def leaves_all_dense(method: str, block: Mapping[str, Any]) -> bool:
    """Return whether settings quantize no weight, only the KV cache."""
    if method == "modelopt":
        return block.get("quant_algo") in (None, "", "NO_QUANT") and not block.get("quantized_layers")
    if method == "compressed-tensors":
        return not _groups_of_weights(block.get("config_groups"))
    if method == "quark":
        layers = [block.get("global_quant_config")]
        for key in ("layer_quant_config", "layer_type_quant_config"):
            entries = block.get(key)
            layers += list(entries.values()) if isinstance(entries, Mapping) else []
        return not any(isinstance(layer, Mapping) and layer.get("weight") for layer in layers)
    return False


def _groups_of_weights(groups: object) -> bool:
    """Return whether a config group has settings of weights. True for malformed groups, which the reader refuses."""
    if groups in (None, {}):
        return False
    if not isinstance(groups, Mapping):
        return True
    return any(not isinstance(group, Mapping) or group.get("weights") is not None for group in groups.values())
