"""Tiny checkpoints of the table in arch_cases.py: settings in three spellings, and the names and shapes of tensors.

Published configs of before transformers 5 have `rope_theta` and `rope_scaling` in place of `rope_parameters`, and
`torch_dtype` in place of `dtype`. Published experts stand one by one where transformers 5 holds them stacked:
`save_pretrained` writes them so.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from tests.peers.arch_cases import Case
from tests.prefixes import renamed

Config = dict[str, Any]
#: Name -> dtype as in safetensors, shape.
Tensors = dict[str, list[Any]]

KINDS = Path(__file__).resolve().parent.parent / "data" / "tokenizers" / "kinds"
#: Tokenizers of reference data that tests/data does without, and one that the converter takes as well.
STANDS_FOR = {"bpe-qwen35": "bpe-qwen2", "bpe-tekken-img": "bpe-tekken", "bpe-solar": "bpe-glm4"}
BEFORE_5 = "4.51.3"
NESTED = ("text_config", "vision_config", "audio_config")


@dataclass(frozen=True)
class Checkpoint:
    """A model without values. configs: file name -> settings; files: how many files its tensors stand in.

    converter: options of converter.py. values_of: name -> the name that its values follow from, where not its own.
    """

    tokenizer: Path
    pre: str
    configs: Mapping[str, Config]
    tensors: Tensors
    files: int
    converter: Mapping[str, Any]
    values_of: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_nested(self) -> bool:
        """Whether this is a text model in one with towers."""
        return any(key in self.configs["config.json"] for key in NESTED)

    def under(self, prefix: str) -> Checkpoint:
        """The same values under names with another prefix."""
        names = renamed(self.tensors, prefix)
        tensors = {names[name]: entry for name, entry in self.tensors.items()}
        return replace(self, tensors=tensors, values_of={new: old for old, new in names.items()})


def from_table(case: Case) -> Checkpoint:
    """The checkpoint of a row of the table."""
    tokenizer = KINDS / case.tokenizer
    ids = special_ids(tokenizer)
    if case.built:
        saved, shapes = built(case, ids)
        config = saved if case.modern else published(saved, case)
        config = flattened(config) if case.flat else config
        config = dict(sorted(changed(config, case).items()))
    else:
        saved = config = {**{key: one for key, one in ids.items() if one is not None}, **case.config}
        shapes = {}
    configs = {"config.json": config, "generation_config.json": generation(ids, case)}
    if saved != config and saved["model_type"] == config["model_type"]:
        configs["config-v5.json"] = saved
    return Checkpoint(tokenizer, case.pre, configs, tensors_of(case, shapes), case.files, case.converter)


def from_folder(folder: Path) -> Checkpoint:
    """The checkpoint of a case of tests/data/arch, or of a folder of reference data: never values, which names give."""
    configs = {
        name: json.loads((folder / name).read_text())
        for name in ("config.json", "config-v5.json", "generation_config.json")
        if (folder / name).is_file()
    }
    if (folder / "tensors.json").is_file():
        told, stated = (json.loads((folder / name).read_text()) for name in ("reference.json", "tensors.json"))
        options, files, tensors = told.get("converter", {}), stated.get("files", 1), stated["source"]
    else:
        told, files, tensors = json.loads((folder / "case.json").read_text()), 1, header(folder / "model.safetensors")
        said = told["llama_cpp"]
        options = dict.fromkeys(said.get("patched") or (), True)
        options |= {"raw": True} if "RAW_CONFIG" in said.get("note", "") else {}
    tokenizer = KINDS / STANDS_FOR.get(told["tokenizer"], told["tokenizer"])
    return Checkpoint(tokenizer, told["tokenizer_pre"], configs, tensors, files, options)


def header(file: Path) -> Tensors:
    """The tensors that a safetensors file holds."""
    with open(file, "rb") as opened:
        found = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return {name: [one["dtype"], one["shape"]] for name, one in sorted(found.items()) if name != "__metadata__"}


def special_ids(tokenizer: Path) -> dict[str, int | None]:
    """The ids of a tokenizer's special tokens under config.json's names."""
    stated = json.loads((tokenizer / "tokenizer_config.json").read_text())
    ids = {one["content"]: one["id"] for one in json.loads((tokenizer / "tokenizer.json").read_text())["added_tokens"]}
    return {f"{name}_id": ids.get(stated.get(name)) for name in ("bos_token", "eos_token", "pad_token")}


def built(case: Case, ids: Mapping[str, int | None]) -> tuple[Config, dict[str, list[int]]]:
    """What transformers saves of the model: config.json, and the shapes of the tensors."""
    import torch
    import transformers
    from safetensors import safe_open

    settings = dict(case.config)
    inner = settings["text_config"] = {**ids, **settings["text_config"]} if "text_config" in settings else None
    if inner is None:
        del settings["text_config"]
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **{**ids, **settings})
    config.dtype = torch.bfloat16
    cls = getattr(transformers, case.cls) if case.cls else transformers.AutoModelForCausalLM
    model = cls._from_config(config) if case.cls else cls.from_config(config)
    with tempfile.TemporaryDirectory() as folder:
        model.to(torch.bfloat16).save_pretrained(folder)
        saved = json.loads((Path(folder) / "config.json").read_text())
        with safe_open(Path(folder) / "model.safetensors", "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return saved, shapes


def published(saved: Mapping[str, Any], case: Case) -> Config:
    """A config.json of transformers 5 in the spelling of before: its nested objects, too."""
    config = {key: published(one, case) if key in NESTED else one for key, one in saved.items()}
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    if "transformers_version" in config:
        config["transformers_version"] = BEFORE_5
    if "rope_parameters" in config:
        config |= rope_before_5(config.pop("rope_parameters"), case.without)
    for key, name in aliases(saved.get("model_type")).items():  # num_experts, which is saved as num_local_experts
        if key in case.config and key not in config and name in config:
            config[key] = config.pop(name)
    return config


def rope_before_5(parameters: Mapping[str, Any], without: tuple[str, ...]) -> Config:
    """`rope_theta` and `rope_scaling` of `rope_parameters`, which may be those of full and of sliding attention."""
    if "full_attention" in parameters:
        made = rope_before_5(parameters["full_attention"], without)
        return made | {"rope_local_base_freq": parameters["sliding_attention"]["rope_theta"]}
    scaling = dict(parameters)
    made = {key: scaling.pop(key) for key in ("rope_theta", "partial_rotary_factor") if key in scaling}
    if scaling["rope_type"] in ("yarn", "longrope", "linear"):
        scaling["type"] = scaling.pop("rope_type")
    return made | {"rope_scaling": None if scaling == {"rope_type": "default"} else scaling}


def flattened(config: Mapping[str, Any]) -> Config:
    """The settings of a text model next to those around it, which name the model."""
    inner = {key: one for key, one in config["text_config"].items() if key not in config}
    return {key: one for key, one in config.items() if key != "text_config"} | inner


def aliases(kind: str | None) -> Mapping[str, str]:
    """A configuration's further names for what it saves."""
    import transformers

    found: Mapping[str, str] = transformers.CONFIG_MAPPING[kind].attribute_map if kind else {}
    return found


def changed(config: Config, case: Case) -> Config:
    """The settings with the keys that published ones have further, and without those that they lack."""
    for key in case.without:
        place, last = within(config, key)
        place.pop(last, None)
    for key, value in case.further.items():
        place, last = within(config, key)
        place[last] = value
    return config


def within(config: Config, key: str) -> tuple[Config, str]:
    """The object that a dotted key stands in, and its last name."""
    *path, last = key.split(".")
    for name in path:
        config = config[name]
    return config, last


def minimal(config: Mapping[str, Any]) -> Config:
    """config.json without every key that its class in transformers assumes anyway; all of it where there is none."""
    import transformers

    kind = config.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        return dict(config)

    def meaning(settings: Config) -> Any:
        return transformers.CONFIG_MAPPING[kind].from_dict(json.loads(json.dumps(settings))).to_dict()

    whole, kept = meaning(dict(config)), json.loads(json.dumps(config))
    for key in [*config, *(f"text_config.{key}" for key in config.get("text_config", ()))]:
        place, last = within(kept, key)
        value = place.pop(last)
        try:
            same = key not in ("model_type", *NESTED) and meaning(kept) == whole
        except Exception:  # whatever a class makes of a config that lacks a key: it is needed
            same = False
        if not same:
            place[last] = value
    return {key: kept[key] for key in config if key in kept}


def generation(ids: Mapping[str, int | None], case: Case) -> Config:
    """generation_config.json as it was saved before transformers 5."""
    ends = {key: ids[key] for key in ("bos_token_id", "eos_token_id") if ids[key] is not None}
    made = {} if case.generation else {"_from_model_config": True}
    return {**made, **ends, "transformers_version": BEFORE_5, **case.generation}


def tensors_of(case: Case, shapes: Mapping[str, list[int]]) -> Tensors:
    """The stored tensors, by name."""
    found = {name: list(shape) for name, shape in shapes.items()}
    for source, target in case.copies:
        copied = {name: shape for name, shape in found.items() if name.startswith(source)}
        found |= {target + name.removeprefix(source): shape for name, shape in copied.items()}
    for pattern, shape in case.tensors.items():
        found |= {name: list(shape) for name in numbered(pattern)}
    for old, new in case.renamed:
        found = {re.sub(old, new, name): shape for name, shape in found.items()}
    kept = [name for name in sorted(found) if not any(re.search(one, name) for one in case.left_out)]
    return {name: ["F32" if any(re.search(one, name) for one in case.f32) else "BF16", found[name]] for name in kept}


def numbered(pattern: str) -> Iterator[str]:
    """The names of a pattern: `a.{0..2}.b` is a.0.b, a.1.b, a.2.b."""
    texts = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
    ranges = [range(int(first), int(last) + 1) for first, last in zip(texts[1::3], texts[2::3], strict=True)]
    for numbers in product(*ranges):
        filled = [str(number) for number in numbers]
        yield "".join(text + number for text, number in zip(texts[::3], [*filled, ""], strict=True))
