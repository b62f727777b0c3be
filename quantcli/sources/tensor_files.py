"""Which safetensors files of a folder hold its tensors: those of its index, or those that are there.

    all files of the index are there                 the index decides; another model*.safetensors is a warning
    some are not, but model.safetensors is           model.safetensors, with a warning: the index is stale
    none is                                          what is called model*.safetensors, with a warning
    some are not                                     an error: the model is incomplete
    no index                                         model*.safetensors, else the only *.safetensors file

Sources: how transformers (`_get_resolved_checkpoint_files`: model.safetensors before the index) and mlx-lm
(`load_model`: model*.safetensors, whatever an index says) choose their files.
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
#: The one file of a model that is not split.
WHOLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
#: What is next to an adapter's matrices.
ADAPTER = "adapter_config.json"
#: A file of several: its stem, its number, how many there are.
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
#: The settings and the weights of a model as Mistral and Meta themselves store it.
PARAMS = "params.json"
CONSOLIDATED = re.compile(r"consolidated(\.\d+)?(-\d{5}-of-\d{5})?\.(safetensors|pth)")
#: A message lists so many files at most.
MOST_LISTED = 16


@dataclass(frozen=True)
class Choice:
    """The files that hold a folder's tensors. weight_map: tensor -> file, None where the files' headers decide.

    is_certain: no further look at the headers can overrule the index.
    """

    files: tuple[str, ...]
    weight_map: Mapping[str, str] | None = None
    warnings: tuple[str, ...] = ()


def choose(names: Collection[str], read_index: Callable[[], Mapping[str, Any]], label: str) -> Choice:
    """The tensor files among the names of a folder's files. Raises `BadInput`, `NotPossible`.

    read_index: gives the index's JSON object; called only where `names` has one.
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
            f"{label}/{INDEX}: tensor {shown(tensor)} should be in {shown(absent[0])}, which is not there: download "
            "it again."
        )
    what = f"names {shown(absent[0])}" if len(absent) == 1 else f"names {len(absent)} files, {shown(absent[0])} first"
    return _stale(names, f"{what}, {'which is' if len(absent) == 1 else 'which are'} not there", label)


def contradicted(choice: Choice, names: Collection[str], why: str, label: str) -> Choice | None:
    """The choice where the index contradicts the headers of its files; None where no other one is known.

    why: what it says that they do not, as a clause.
    """
    return _stale(names, why, label) if WHOLE in names else None


def is_adapter(names: Collection[str], only: str | None = None) -> bool:
    """Whether a folder (or its one file `only`) holds a LoRA adapter's matrices and no model.

    peft's files are called `adapter_model.*`, mlx-lm's `adapters.safetensors`; both have an `adapter_config.json`.
    """
    if only is not None:
        return only.startswith("adapter") and ADAPTER in names
    return ADAPTER in names and INDEX not in names and not _models(names) and any(map(_is_adapters, names))


def _is_adapters(name: str) -> bool:
    return name.startswith("adapter") and name.endswith((".safetensors", *PICKLES))


def refuse_others(names: Collection[str], label: str) -> None:
    """Raise for a folder whose files say why it has no model in Hugging Face's format."""
    first = min((name for name in names if CONSOLIDATED.fullmatch(name)), default=None)
    if PARAMS in names or (first is not None and "config.json" not in names):
        listed = " and ".join(name for name in (PARAMS if PARAMS in names else None, first) if name is not None)
        raise NotPossible(
            f"{label}: a model in its maker's own format ({listed}: Mistral's, or Meta's). Download config.json and "
            "model*.safetensors of the same repository, or convert it to Hugging Face's format first."
        )
    if found := among(names):
        raise BadInput(f"{label}: {found[0]} is a piece of a file that was cut. {advice(found)}")


def is_shard(name: str) -> bool:
    """Whether a file holds, by its name, one part of several of a model."""
    numbered = SHARD.fullmatch(name)
    return numbered is not None and int(numbered[3]) > 1


def _stale(names: Collection[str], why: str, label: str) -> Choice:
    """The files of a folder whose index is not used."""
    files = [WHOLE] if WHOLE in names else without_index(names, label)
    listed = ", ".join(files[:MOST_LISTED]) + (", ..." if len(files) > MOST_LISTED else "")
    warning = f"{label}/{INDEX}: {why}. The index is ignored; tensors are read from {listed}."
    further = [name for name in _models(names) if name not in files]
    return Choice(tuple(files), None, (warning, *passed_over(further, "next to the whole model")))


def passed_over(files: Sequence[str], why: str = f"not part of the model by its {INDEX}") -> tuple[str, ...]:
    """A warning of tensor files that are not read. why: as a clause."""
    if not files:
        return ()
    listed = ", ".join(files[:MOST_LISTED]) + (", ..." if len(files) > MOST_LISTED else "")
    return (f"{listed}: {why}, and not read.",)


def _models(names: Collection[str]) -> list[str]:
    """The tensor files of the folder itself that are called as a model's are."""
    return sorted(filter(is_models, names))


def is_models(name: str) -> bool:
    """Whether a file is called as a model's tensor files are."""
    return name.startswith("model") and name.endswith(".safetensors") and "/" not in name


def without_index(names: Collection[str], label: str) -> list[str]:
    """The safetensors files of a folder without an index; raises with the reason where the choice is not plain."""
    here = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    model = _models(names)
    if model or (len(here) == 1 and not (PARAMS in names and CONSOLIDATED.fullmatch(here[0]))):
        return _complete(model or here, label)
    if PARAMS in names or not here:
        refuse_others(names, label)
    if here:
        listed = ", ".join(here[:MOST_LISTED]) + (", ..." if len(here) > MOST_LISTED else "")
        raise BadInput(f"{label}: has no {INDEX} and several safetensors files ({listed}): name one, or add the index.")
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        raise NotPossible(f"{label}: has only pickled tensors ({pickles[0]}): save the model as safetensors first.")
    raise BadInput(f"{label}: has no *.safetensors file, which a model folder has.")


def _complete(files: list[str], label: str) -> list[str]:
    """The files; raises where their names say that there are more of them."""
    present = set(files)
    for name in files:
        numbered = SHARD.fullmatch(name)
        if numbered:
            wanted = (f"{numbered[1]}-{n:05d}-of-{numbered[3]}.safetensors" for n in range(1, int(numbered[3]) + 1))
            missing = next((other for other in wanted if other not in present), None)
            if missing:
                raise BadInput(f"{label}: {name} is there but {missing} is not: download the missing shards.")
    return files


def _checked(index: Reader) -> Mapping[str, str]:
    """The index's map, its file names checked: they stay in the folder."""
    label, weight_map = index.label, index.part("weight_map").values
    if not weight_map:
        raise index.refuse("weight_map", "expected an object of tensors and their files")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise BadInput(
                f"{label}: tensor {shown(tensor)} is placed in {shown(name)}, which is no safetensors file name."
            )
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or len(path.parts) > 2:
            raise BadInput(
                f"{label}: tensor {shown(tensor)} is placed in {shown(name)}, a path that leads out of the folder."
            )
    return weight_map
