"""Which safetensors files of a folder hold its tensors: those of its index, or those in the folder.

    all files of the index exist                     the index decides; another model*.safetensors is a warning
    some do not, but model.safetensors exists        model.safetensors, with a warning: the index is out of date
    none exists                                      model*.safetensors, with a warning
    some do not exist                                an error: the model is incomplete
    no index                                         model*.safetensors, else the only *.safetensors file

Sources: transformers (`_get_resolved_checkpoint_files`: model.safetensors before the index) and mlx-lm (`load_model`:
model*.safetensors, whatever an index says).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput, NotPossible
from quantcli.sources.pieces import advice, among

INDEX = "model.safetensors.index.json"
#: The file of a model that is not sharded.
WHOLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
#: The settings of a LoRA adapter.
ADAPTER = "adapter_config.json"
#: A shard: its stem, its number, the number of shards.
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
#: The settings and the weights of a model in the formats of Mistral and Meta.
PARAMS = "params.json"
CONSOLIDATED = re.compile(r"consolidated(\.\d+)?(-\d{5}-of-\d{5})?\.(safetensors|pth)")
#: The most files that a message lists.
MOST_LISTED = 16


@dataclass(frozen=True)
class Choice:
    """The files that hold a folder's tensors. weight_map: tensor -> file; None if only the files' headers decide."""

    files: tuple[str, ...]
    weight_map: Mapping[str, str] | None = None
    warnings: tuple[str, ...] = ()


def choose(names: Collection[str], read_index: Callable[[], Mapping[str, Any]], label: str) -> Choice:
    """Choose the tensor files among the names of a folder's files. Raises `BadInput`, `NotPossible`.

    read_index: returns the index's JSON object; called only if `names` has an index.
    """
    if INDEX not in names:
        return Choice(tuple(without_index(names, label)))
    weight_map = _checked(Reader(read_index(), f"{label}/{INDEX}"))
    files = sorted(set(weight_map.values()))
    absent = [name for name in files if name not in names]
    if not absent:
        further = [name for name in _models(names) if name not in files]
        return Choice(tuple(files), weight_map, passed_over(further))
    if WHOLE not in names and len(absent) < len(files):
        tensor = next(key for key, name in weight_map.items() if name == absent[0])
        raise BadInput(
            f"{label}/{INDEX}: {shown(absent[0])}, the file of tensor {shown(tensor)}, is missing. Download it."
        )
    listed = f"{len(absent)} files (the first: {shown(absent[0])})" if len(absent) > 1 else shown(absent[0])
    return _without_stale_index(names, f"lists {listed}, which {'is' if len(absent) == 1 else 'are'} missing", label)


def contradicted(choice: Choice, names: Collection[str], problem: str, label: str) -> Choice | None:
    """Return another choice if the index contradicts the headers of its files; None if there is none.

    problem: the contradiction, as a clause whose subject is the index.
    """
    return _without_stale_index(names, problem, label) if WHOLE in names else None


def is_adapter(names: Collection[str], only: str | None = None) -> bool:
    """Return whether a folder (or one of its files, `only`) holds a LoRA adapter and no model.

    peft names its files `adapter_model.*`, mlx-lm `adapters.safetensors`; both write an `adapter_config.json`.
    """
    if only is not None:
        return only.startswith("adapter") and ADAPTER in names
    return ADAPTER in names and INDEX not in names and not _models(names) and any(map(_is_adapters, names))


def _is_adapters(name: str) -> bool:
    return name.startswith("adapter") and name.endswith((".safetensors", *PICKLES))


def refuse_others(names: Collection[str], label: str) -> None:
    """Raise for a folder whose files show why it has no model in Hugging Face's format.

    Raises `NotPossible` for the formats of Mistral and Meta, `BadInput` for pieces of a file.
    """
    first = min((name for name in names if CONSOLIDATED.fullmatch(name)), default=None)
    if PARAMS in names or (first is not None and "config.json" not in names):
        listed = " and ".join(name for name in (PARAMS if PARAMS in names else None, first) if name is not None)
        raise NotPossible(
            f"{label}: is in the format of Mistral or Meta ({listed}), which is not supported. Download config.json "
            "and "
            "model*.safetensors from the same repository, or convert the model to Hugging Face's format first."
        )
    if pieces := among(names):
        raise BadInput(f"{label}: {pieces[0]} is one piece of a split file. {advice(pieces)}")


def is_shard(name: str) -> bool:
    """Return whether a file is, by its name, one of several shards of a model."""
    numbered = SHARD.fullmatch(name)
    return numbered is not None and int(numbered[3]) > 1


def _without_stale_index(names: Collection[str], problem: str, label: str) -> Choice:
    """Return the files of a folder whose index is ignored."""
    files = [WHOLE] if WHOLE in names else without_index(names, label)
    warning = f"{label}/{INDEX}: {problem}. The index is ignored; tensors are read from {_listed(files)}."
    further = [name for name in _models(names) if name not in files]
    return Choice(tuple(files), None, (warning, *passed_over(further, f"{WHOLE} contains the model")))


def passed_over(files: Sequence[str], reason: str = f"{INDEX} does not list them") -> tuple[str, ...]:
    """Return a warning if there are tensor files that are not read. reason: a clause."""
    return (f"{_listed(files)}: not read, because {reason}.",) if files else ()


def _listed(files: Sequence[str]) -> str:
    return ", ".join(files[:MOST_LISTED]) + (", ..." if len(files) > MOST_LISTED else "")


def _models(names: Collection[str]) -> list[str]:
    """Return the files directly in the folder that are named like a model's tensor files."""
    return sorted(filter(is_models, names))


def is_models(name: str) -> bool:
    """Return whether a file is named like a model's tensor files."""
    return name.startswith("model") and name.endswith(".safetensors") and "/" not in name


def without_index(names: Collection[str], label: str) -> list[str]:
    """Return the safetensors files of a folder without an index.

    Raises `BadInput` or `NotPossible` if there is none, or if the choice is ambiguous.
    """
    here = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    model = _models(names)
    if model or (len(here) == 1 and not (PARAMS in names and CONSOLIDATED.fullmatch(here[0]))):
        return _complete(model or here, label)
    if PARAMS in names or not here:
        refuse_others(names, label)
    if here:
        raise BadInput(
            f"{label}: has several safetensors files ({_listed(here)}) but no {INDEX}. Download the index, or give one "
            "file as the source."
        )
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        raise NotPossible(
            f"{label}: pickled tensors ({pickles[0]}) are not supported. Save the model as safetensors first."
        )
    raise BadInput(f"{label}: has no *.safetensors file.")


def _complete(files: list[str], label: str) -> list[str]:
    """Return the files. Raises `BadInput` if their names show that shards are missing."""
    present = set(files)
    for name in files:
        numbered = SHARD.fullmatch(name)
        if numbered:
            shards = (f"{numbered[1]}-{n:05d}-of-{numbered[3]}.safetensors" for n in range(1, int(numbered[3]) + 1))
            missing = next((other for other in shards if other not in present), None)
            if missing:
                raise BadInput(f"{label}: {missing} is missing; {name} implies it. Download all shards.")
    return files


def _checked(index: Reader) -> Mapping[str, str]:
    """Return the index's map. Raises `BadInput` for names that are not safetensors files in the folder."""
    label, weight_map = index.label, index.part("weight_map").values
    if not weight_map:
        raise index.refuse("weight_map", "expected an object of tensors and their files")
    for tensor, name in weight_map.items():
        where = f"{label}: tensor {shown(tensor)}"
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise BadInput(f"{where}: expected the name of a .safetensors file, found {shown(name)}.")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or len(path.parts) > 2:
            raise BadInput(f"{where}: expected a file in this folder, found the path {shown(name)}.")
    return weight_map
