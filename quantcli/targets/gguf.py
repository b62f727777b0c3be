"""Writer of GGUF files, made from a folder or another GGUF file, in llama-quantize's order.

Tensors outside the layers come first, then layer by layer, by name. Source: llama.cpp (src/llama-quant.cpp).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quantcli.checkpoint import Checkpoint
from quantcli.containers.gguf_values import Value
from quantcli.containers.gguf_write import unloadable
from quantcli.containers.hostile import shown
from quantcli.errors import NotPossible
from quantcli.recipes.llama_cpp import Tensor, file_type, processing_order
from quantcli.recipes.llama_cpp_architectures import ARCHITECTURES
from quantcli.recipes.llama_cpp_tensors import without_leading_ones
from quantcli.recipes.prune import prune
from quantcli.schemes import ggml_scheme
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense
from quantcli.schemes.ggml import TYPES
from quantcli.targets import gguf_from_gguf, gguf_from_hf, gguf_split
from quantcli.targets.base import Contents, Draft, Left, Placed, Planned, PlannedT, Settings, dense_scheme
from quantcli.targets.gguf_overrides import doubts, replaced


class GgufTarget:
    """`--to gguf`."""

    label = "gguf"
    said = "a GGUF file"
    is_folder = False
    follows_llama_quantize = True
    follows_mlx_lm = False
    stacks_experts = False
    keeps_part_names = False

    def drafts(self, source: Checkpoint, settings: Settings) -> tuple[Sequence[Draft], list[Left], list[str]]:
        if source.names == "hf" and settings.prune:
            raise NotPossible(
                "--prune-layers: applies only to GGUF sources. Convert to GGUF first, then prune that file."
            )
        if source.names == "hf" and settings.keep_split:
            raise NotPossible("--keep-split: applies only to GGUF sources. Use --shard-size to split the output.")
        made: Sequence[Draft]
        if source.names == "gguf":
            made, left, warnings = gguf_from_gguf.drafts(source, settings)
        else:
            made, left, warnings = gguf_from_hf.drafts(source, settings)
        if settings.keep_split:
            return made, left, warnings
        order = processing_order(Tensor(d.name, d.shape, d.dense) for d in made)
        by_name = {draft.name: draft for draft in made}
        return [by_name[tensor.name] for tensor in order], left, warnings

    def scheme(self, name: str, scale_dtype: str, shape: tuple[int, ...] = ()) -> Scheme | None:
        return dense_scheme(name) or ggml_scheme(name)

    def holders(self, scale_dtype: str) -> list[Scheme]:
        return list(TYPES.values())

    def keeps(self, source: Checkpoint, scheme: Scheme) -> bool:
        return self.label in scheme.kept_in

    def keeps_layout(self, placed: Sequence[Placed]) -> bool:
        return False

    def finish(self, source: Checkpoint, steps: Sequence[PlannedT], settings: Settings) -> list[PlannedT]:
        if not _is_by_llama_quantize(source, steps, settings.file_type):
            return list(steps)
        return [step.shaped(without_leading_ones(step.shape) or (1,)) for step in steps]

    def keeps_metadata(self, source: Checkpoint) -> bool:
        return source.names == "gguf"

    def files(self, source: Checkpoint, placed: Sequence[Placed], settings: Settings) -> Contents:
        number = settings.file_type
        if number is None:
            number = _kept_file_type(source, placed, settings)
        if source.names == "gguf":
            keys, notes = gguf_from_gguf.without_layers(source, settings, gguf_from_gguf.keys(source, settings, number))
        else:
            keys, notes = gguf_from_hf.keys(source, placed, number, settings.keys)
        notes = [*notes, *_unloadable(source, placed)]
        last = gguf_from_gguf.layers_left(source, settings)  # stronger than an override of the same key
        given, further = replaced(keys, settings.keys)
        notes = [*notes, *further]
        for key, typed in [*given.items(), *last.items()]:
            keys.pop(key, None)
            keys[key] = typed
        notes += doubts(keys)
        if settings.keep_split:
            number_of = gguf_from_gguf.partition(source, settings)
            parts = gguf_split.as_numbered(placed, number_of)
            return Contents(gguf_split.files(parts, keys, settings.file_name, gguf_split.KEPT_ORDER), notes)
        parts = gguf_split.by_size(placed, settings.shard_size)
        return Contents(gguf_split.files(parts, keys, settings.file_name), notes)


def _is_by_llama_quantize(source: Checkpoint, steps: Iterable[Planned], file_type: int | None) -> bool:
    """Return whether the file must equal llama-quantize's, which does not count leading dimensions of 1."""
    if source.names != "gguf":
        return any(not isinstance(step.scheme, Dense) for step in steps)
    architecture = source.metadata.get("general.architecture")
    return file_type is not None and architecture is not None and architecture.value in ARCHITECTURES


def _unloadable(source: Checkpoint, placed: Sequence[Placed]) -> list[str]:
    """Return a warning per reason why llama.cpp cannot load copied tensors; raises `NotPossible` for converted ones."""
    found: dict[str, list[str]] = {}
    for weight in placed:
        if (reason := unloadable(weight.name, weight.shape)) is not None:
            found.setdefault(reason, []).append(weight.name)
    for reason, names in found.items():
        if source.names != "gguf":
            raise NotPossible(
                f"{source.root}: tensor {shown(names[0])} {reason}. Convert to a folder (--to hf), which can store it."
            )
    return [
        f"tensor {shown(names[0])} {reason}, so llama.cpp cannot load the file."
        if len(names) == 1
        else f"{len(names)} tensors (first: {shown(names[0])}): each {reason}, so llama.cpp cannot load the file."
        for reason, names in found.items()
    ]


def _kept_file_type(source: Checkpoint, placed: Sequence[Placed], settings: Settings) -> int:
    """Return `general.file_type` without a mixture: the source's if all tensors are copied, else a guess."""
    kind, number = source.metadata.get("general.file_type", Value("", None))
    if kind == "uint32" and _copied(source, placed, settings):
        return int(number)
    return file_type([Tensor(weight.name, weight.shape, weight.scheme.name) for weight in placed])


def _copied(source: Checkpoint, placed: Sequence[Placed], settings: Settings) -> bool:
    names = prune(source.weights, settings.prune).names if settings.prune else {name: name for name in source.weights}
    schemes = {new: source.weights[old].scheme for old, new in names.items()}
    return all(weight.scheme == schemes[weight.name] for weight in placed)
