"""Tiny models of the families of tests/data/arch with other settings than the committed ones, with their tokenizers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantcli import models
from quantcli.models import Architecture, text_settings
from quantcli.sources.prefix import naming_of
from tests.convert.test_golden_arch import DATA, reference, write_model

TIED = "tie_word_embeddings"


def config_of(case: str) -> dict[str, Any]:
    """The committed config.json of a case."""
    found: dict[str, Any] = json.loads((DATA / "arch" / case / "config.json").read_text())
    return found


def architecture_of(case: str) -> Architecture:
    """The family of a case."""
    architecture = models.find(config_of(case))
    assert architecture is not None
    return architecture


def arch_model(
    root: Path, case: str, tensors: Mapping[str, list[Any]] | None = None, settings: Mapping[str, Any] | None = None
) -> Path:
    """The folder of a case. tensors: name -> (dtype, shape) in place of its own; settings: further ones."""
    folder = root / case
    write_model(folder, case, dict(reference(case)["source"] if tensors is None else tensors))
    (folder / "config.json").write_text(json.dumps({**config_of(case), **(settings or {})}))
    kind = json.loads((DATA / "arch" / case / "reference.json").read_text())["tokenizer"]
    for file in (DATA / "tokenizers" / "kinds" / kind).glob("*.json"):
        shutil.copy(file, folder)
    return folder


def heads(case: str) -> tuple[str, ...]:
    """The name of a case's output matrix, if its source stores one."""
    names = [f"{row.hf}.weight" for row in architecture_of(case).tensors if row.role == "output"]
    return tuple(name for name in names if name in reference(case)["source"])


def tied_model(root: Path, case: str) -> Path:
    """The folder of a case, tied and without its output matrix."""
    gone = heads(case)
    tensors = {name: entry for name, entry in reference(case)["source"].items() if name not in gone}
    return arch_model(root, case, tensors, {TIED: True})


def flags_of_biases(case: str) -> list[str]:
    """The keys of config.json that say, in a case's family and model type, that modules have a bias."""
    architecture, settings = architecture_of(case), text_settings(config_of(case))
    needs = [row.bias for row in architecture.tensors if row.bias.by_presence]
    made = {need.keys: architecture.hyperparameters({**settings, need.keys: True}) for need in needs}
    return sorted({need.keys for need in needs if need.holds(made[need.keys], 0)})


def biased_model(root: Path, case: str, flag: str) -> Path:
    """The folder of a case with the biases that hang on a flag; nested settings have it in the text model's."""
    source, config = reference(case)["source"], config_of(case)
    settings = {**text_settings(config), flag: True}
    architecture, inner = architecture_of(case), config.get("text_config")
    naming, hyperparameters = naming_of(architecture, source), architecture.hyperparameters(settings)
    tensors = dict(source)
    for name, (dtype, _) in source.items():
        found = architecture.find(naming.weight(name), "hf") if name.endswith(".weight") else ()
        for one in found:
            bias, layer = one.row.bias, one.layer or 0
            if "bias" in one.row.suffixes and bias.keys == flag and bias.holds(hyperparameters, layer):
                shape = [axis.of(hyperparameters) for axis in one.row.axes("bias")]
                tensors[f"{name.removesuffix('.weight')}.bias"] = [dtype, shape]
    return arch_model(root, case, tensors, {"text_config": {**inner, flag: True}} if inner else {flag: True})


def wide_model(root: Path, case: str) -> Path:
    """The folder of a case whose heads are twice as wide, so that they are wider together than the model."""
    architecture, config = architecture_of(case), config_of(case)
    before = architecture.hyperparameters(config)
    settings = {"head_dim": 2 * before.head_dim}
    after = architecture.hyperparameters({**config, **settings})
    tensors = {}
    for name, (dtype, shape) in reference(case)["source"].items():
        found = architecture.find(name, "hf")[0]
        axes = found.row.axes(found.suffix)[1 if "{e}" in found.row.hf else 0 :]
        assert [axis.of(before) for axis in axes] == shape
        tensors[name] = [dtype, [axis.of(after) for axis in axes]]
    return arch_model(root, case, tensors, settings)
