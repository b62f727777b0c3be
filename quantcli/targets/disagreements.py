"""What a source's settings and its tensors say against each other, before anything is made of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quantcli.checkpoint import Checkpoint
from quantcli.containers.gguf_values import ArrayValue, Value
from quantcli.errors import BadInput, NotPossible
from quantcli.models import layer_count
from quantcli.models.agreement import Agreement

if TYPE_CHECKING:
    from quantcli.targets.names import Gathered, Model

#: What ends the names of tensors that a quantizer leaves next to its weights.
LEFTOVERS = re.compile(r"scale|zero_point|amax")


def disagreements(model: Model, target: str, kept: Gathered) -> list[str]:
    """Warnings of what the settings do not say of the tensors; raises `BadInput` for what they contradict."""
    source, architecture, root = model.source, model.architecture, str(model.source.root)
    weights = {**kept.weights, **kept.unused}
    is_folder = model.dialect != "gguf"
    if architecture is None:
        found = layer_count.disagreement(source.config, weights) if is_folder else None
        return [f"{root}/config.json: {found}"] if found else []
    where = f"{root}/config.json" if is_folder else "its metadata"
    agreement = Agreement(architecture, model.hyperparameters, weights, model.dialect, root, where, kept.covered)
    if target == "hf" and not any(agreement.found.values()):
        return []  # a base model's names: nothing is known of these
    if not is_folder:
        _refuse_vocabulary(source)
    agreement.refuse()
    Agreement(architecture, model.hyperparameters, kept.unsplit, "hf", root, where).refuse_shapes()
    warnings = []
    denied: dict[str, list[str]] = {}
    for name, key in agreement.unneeded().items():
        if not (is_folder and model.is_added(name)):
            denied.setdefault(key, []).append(name)
    if denied and target == "gguf":
        first, keys = next(iter(denied.values()))[0], ", ".join(filter(None, denied))
        raise NotPossible(
            f"{root}: tensor {first} is not in the model that {where} describes{keys and f' ({keys})'}: llama.cpp "
            "would compute with it, or not load the file. Fix the setting, or convert to a folder (--to hf, --to mlx)."
        )
    for key, names in denied.items():
        warnings.append(_several(names, f"not in the model that {where} describes{key and f' ({key})'}."))
    strange = [name for name, found in agreement.found.items() if not found and _is_strange(name, model)]
    if strange and is_folder and target == "mlx":
        kind = f"copied, though {architecture.name} models have no such tensor"
        warnings.append(_several(strange, f"{kind}: mlx-lm does not load a folder with tensors it does not know."))
    return warnings


def _is_strange(name: str, model: Model) -> bool:
    """Whether a tensor is neither in the table, nor computed, nor a quantizer's, nor for multi-token prediction."""
    leftover = model.source.kind != "hf" and LEFTOVERS.search(name.rpartition(".")[2])
    return not (leftover or model.known().drops(name) or model.is_predicting(name))


def _refuse_vocabulary(source: Checkpoint) -> None:
    """Raise `BadInput` for a GGUF whose embedding has not one row for each token; llama.cpp does not load it."""
    tokens = source.metadata.get("tokenizer.ggml.tokens", Value("", None)).value
    embedding = source.weights.get("token_embd.weight")
    if isinstance(tokens, ArrayValue) and embedding is not None and embedding.shape[:1] != (tokens.length,):
        raise BadInput(
            f"{source.root}: tensor token_embd.weight has {embedding.shape[0] if embedding.shape else 0} rows, but "
            f"tokenizer.ggml.tokens has {tokens.length}."
        )


def _several(names: Sequence[str], what: str) -> str:
    """A warning of one tensor or several."""
    return f"{names[0]} is {what}" if len(names) == 1 else f"{len(names)} tensors, {names[0]} the first, are {what}"
