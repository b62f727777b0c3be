"""Where a folder says how its weights are quantized: places in config.json, then files of their own.

    config.json   quantization_config, compression_config (compressed-tensors' first name for it)
                  the same two in text_config and what other multimodal models call it
    hf_quant_config.json (modelopt), quantize_config.json (GPTQ), quant_config.json (AWQ)

The first that is there counts; others that say something else are named in a warning. quant_method is spelled as the
readers know it, and told by other keys where files leave it out.
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
#: The parts of a multimodal model's settings that are those of its text model; the model's own first.
PARTS = (
    (),
    ("text_config",),
    ("llm_config",),
    ("language_config",),
    ("thinker_config",),
    ("thinker_config", "text_config"),
)
#: File -> the key that its settings stand under (None: the whole file), whose they are, the suffix of tensors without
#: which it says nothing of the stored weights.
FILES: dict[str, tuple[str | None, str, str]] = {
    "hf_quant_config.json": ("quantization", "modelopt", ""),
    "quantize_config.json": (None, "gptq", ".qweight"),
    "quant_config.json": (None, "awq", ".qweight"),
}
#: Keys of these files that have another name in config.json.
RENAMED = {"exclude_modules": "ignore"}
#: Other spellings of quant_method.
ALIASES = {
    "auto_round": "auto-round", "intel/auto-round": "auto-round", "compressed_tensors": "compressed-tensors",
    "bitsandbytes_4bit": "bitsandbytes", "bitsandbytes_8bit": "bitsandbytes",
}  # fmt: skip


@dataclass(frozen=True)
class Stated:
    """A folder's settings, empty where it has none. place: where they stand, as `config.json: quantization_config`.

    path: their keys in config.json, empty for those of a file of their own.
    """

    place: str
    block: Mapping[str, Any] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """`quant_method`, as the readers know it."""
        said = str(self.block.get("quant_method")).lower()
        return ALIASES.get(said, said)


def stated(folder: Folder, config: Mapping[str, Any], tensors: Collection[str]) -> Stated:
    """The settings that a folder's weights are stored by. Raises `BadInput` for settings that are no object."""
    found = list(_in_config(config, folder.label))
    if not found:
        files = [] if config.get("quantization") is not None else list(_in_files(folder, tensors))
        return files[0] if files else Stated(PLACE)
    first = found[0]
    odd = [".".join(other.path) for other in found[1:] if other.block != first.block]
    if not odd:
        return first
    counts = ".".join(first.path)
    text = f"{folder.label}/{CONFIG}: {', '.join(odd)} says something else than {counts}: {counts} counts."
    return replace(first, warnings=(text,))


def in_config(config: Mapping[str, Any], label: str = "") -> Stated | None:
    """The settings in config.json that count; None where it has none. Raises `BadInput`."""
    return next(_in_config(config, label), None)


def replaced(config: Mapping[str, Any], path: tuple[str, ...], block: Mapping[str, Any]) -> dict[str, Any]:
    """The object with other settings in this place."""
    key, *rest = path
    return {**config, key: replaced(config[key], tuple(rest), block) if rest else dict(block)}


def _in_config(config: Mapping[str, Any], label: str) -> Iterator[Stated]:
    for part in PARTS:
        inner: Any = config
        for key in part:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        for key in KEYS if isinstance(inner, Mapping) else ():
            block, path = inner.get(key), (*part, key)
            if block in (None, {}):
                continue
            place = f"{CONFIG}: {'.'.join(path)}"
            if not isinstance(block, Mapping):
                raise Reader(inner, f"{label}/{CONFIG}", ".".join(part)).refuse(key, "expected an object")
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
    """The settings with a quant_method, told by other keys where there is none."""
    producer = block.get("producer")
    inner = block.get("quantization")
    if "quant_method" not in block and isinstance(producer, Mapping) and producer.get("name") == "modelopt":
        return {**(inner if isinstance(inner, Mapping) else block), "quant_method": "modelopt"}
    method = block.get("quant_method")
    if method is None and any(block.get(f"load_in_{bits}bit") is True for bits in (4, 8)):
        method = "bitsandbytes"
    if key == "compression_config" and method in (None, "sparseml"):
        method = "compressed-tensors"
    return dict(block) if method is None else {**block, "quant_method": method}


def leaves_all_dense(method: str, block: Mapping[str, Any]) -> bool:
    """Whether settings quantize no weight: those of the cache of keys and values alone."""
    if method == "modelopt":
        return block.get("quant_algo") in (None, "", "NO_QUANT") and not block.get("quantized_layers")
    if method == "compressed-tensors":
        return not _groups_of_weights(block.get("config_groups"))
    if method == "quark":
        layers = [block.get("global_quant_config")]
        for key in ("layer_quant_config", "layer_type_quant_config"):
            found = block.get(key)
            layers += list(found.values()) if isinstance(found, Mapping) else []
        return not any(isinstance(layer, Mapping) and layer.get("weight") for layer in layers)
    return False


def _groups_of_weights(groups: object) -> bool:
    """Whether some config group has settings of weights; what is no object is left to the reader to refuse."""
    if groups in (None, {}):
        return False
    if not isinstance(groups, Mapping):
        return True
    return any(not isinstance(group, Mapping) or group.get("weights") is not None for group in groups.values())
