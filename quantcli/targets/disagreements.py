"""Contradictions between a source's settings and its tensors, found before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

from quantcli.checkpoint import Checkpoint
from quantcli.containers.gguf_values import ArrayValue, Value
from quantcli.errors import BadInput, NotPossible
from quantcli.models import Architecture, layer_count
from quantcli.models.agreement import Agreement
from quantcli.targets.model import Gathered, Model


def disagreements(model: Model, target: str, kept: Gathered) -> list[str]:
    """Return warnings about tensors that the settings do not mention. Raises `BadInput` for contradictions."""
    source, architecture, root = model.source, model.architecture, str(model.source.root)
    weights = {**kept.weights, **kept.unused}
    is_folder = model.dialect != "gguf"
    if architecture is None:
        found = layer_count.disagreement(source.config, weights) if is_folder else None
        if found is not None and found.is_incomplete:
            raise BadInput(f"{root}/config.json: {found.message} Download the missing shards.")
        return [f"{root}/config.json: {found.message}"] if found else []
    where = f"{root}/config.json" if is_folder else "its metadata"
    agreement = _agreement(model, architecture, kept)
    if target == "hf" and not any(agreement.rows.values()):
        return []  # a base model's names: nothing is known of these
    if not is_folder:
        _refuse_vocabulary(source)
    agreement.refuse()
    _refuse_split(model, architecture, kept)
    warnings = []
    denied: dict[str, list[str]] = {}
    for name, key in agreement.unneeded().items():
        if not (is_folder and model.is_added(name)):
            denied.setdefault(key, []).append(name)
    if denied and target == "gguf":
        first, keys = next(iter(denied.values()))[0], ", ".join(filter(None, denied))
        raise NotPossible(
            f"{root}: tensor {first} is not in the model that {where} describes{keys and f' ({keys})'}; llama.cpp "
            "would either use it or fail to load the file. Fix the setting, or convert to a folder (--to hf, --to mlx)."
        )
    for key, one in agreement.unmet().items():
        if target not in (model.dialect, *one.row.absent_in):
            warnings.append(f"{where}: {key} is true, but there is no tensor {one.name('hf')}: the output has none.")
    for key, names in denied.items():
        warnings.append(_several(names, f"not in the model that {where} describes{key and f' ({key})'}."))
    return warnings


def refuse_incomplete(model: Model) -> None:
    """Raise `BadInput` for a GGUF file of a known architecture that lacks one of its tensors, or contradicts itself."""
    if model.architecture is not None:
        kept = model.gather(strict=False)
        _agreement(model, model.architecture, kept).refuse()
        _refuse_split(model, model.architecture, kept)


def _agreement(model: Model, architecture: Architecture, kept: Gathered) -> Agreement:
    root, is_folder = str(model.source.root), model.dialect != "gguf"
    where = f"{root}/config.json" if is_folder else "its metadata"
    weights = {**kept.weights, **kept.unused}
    dropped = model.source.dropped
    return Agreement(architecture, model.hyperparameters, weights, model.dialect, root, where, kept.covered, dropped)


def _refuse_split(model: Model, architecture: Architecture, kept: Gathered) -> None:
    """Raise `BadInput` for parts of tensors that a GGUF file stores as one, in other shapes than the settings say."""
    root = str(model.source.root)
    Agreement(architecture, model.hyperparameters, kept.unsplit, "hf", root, "its metadata").refuse_shapes()


def _refuse_vocabulary(source: Checkpoint) -> None:
    """Raise `BadInput` for a GGUF whose embedding has not one row for each token; llama.cpp does not load it."""
    tokens = source.metadata.get("tokenizer.ggml.tokens", Value("", None)).value
    embedding = source.weights.get("token_embd.weight")
    if isinstance(tokens, ArrayValue) and embedding is not None and embedding.shape[:1] != (tokens.length,):
        raise BadInput(
            f"{source.root}: tensor token_embd.weight has {embedding.shape[0] if embedding.shape else 0} rows, but "
            f"tokenizer.ggml.tokens has {tokens.length} tokens."
        )


def _several(names: Sequence[str], what: str) -> str:
    """Return a warning about one tensor or several."""
    return f"{names[0]} is {what}" if len(names) == 1 else f"{len(names)} tensors (first: {names[0]}) are {what}"
