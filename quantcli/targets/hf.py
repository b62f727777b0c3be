"""Hugging Face folder: names as the source stores them; dense tensors, layouts of compressed-tensors and bitsandbytes,
bare 8-bit floats. A quantized HF source keeps its own layout.

Source: transformers' `save_pretrained`: shards, index where there are several, config.json without storage settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from quantcli.checkpoint import Checkpoint
from quantcli.errors import NotPossible
from quantcli.models.towers import has_channels_last
from quantcli.models.translate import Arranged
from quantcli.recipes.quantizers import STORAGE_WORDS
from quantcli.schemes import hf
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense
from quantcli.sources.detect import QUANTIZERS
from quantcli.sources.stated import in_config, replaced
from quantcli.targets import guessed, hf_quantized, packed_experts
from quantcli.targets.base import Contents, Left, Placed, PlannedT, Settings, WeightDraft, dense_scheme
from quantcli.targets.folder_dtype import agreed, chosen
from quantcli.targets.folder_dtype import warnings as dtype_warnings
from quantcli.targets.fused import together
from quantcli.targets.mlx import beside, dense_dtype, stored_config, tie_settings, without_storage
from quantcli.targets.model import Model
from quantcli.targets.names import KEPT_TOWER, Named, name_weights
from quantcli.targets.shards import index_file, json_file, renamed, shards
from quantcli.virtual import channels_first

#: Keys of settings that list modules which are dense -> others of the same meaning; the one that a folder has counts.
ALIASES = {"modules_to_not_convert": ("ignored_layers",), "ignore": ("exclude_modules",)}
#: What torchao has in a file's metadata under the name of a tensor that is not quantized.
TORCHAO_DENSE = json.dumps({"_type": "Tensor"})


#: Part of the names of experts' tensors, not of shared experts'.
EXPERTS = ".experts."


class HfTarget:
    """`--to hf`."""

    label = "hf"
    said = "a Hugging Face folder"
    is_folder = True
    follows_llama_quantize = False
    follows_mlx_lm = False
    stacks_experts = False
    keeps_part_names = True

    def drafts(self, source: Checkpoint, settings: Settings) -> tuple[list[WeightDraft], list[Left], list[str]]:
        model = Model.of(source)
        if source.names == "gguf":
            model.known()
        named, left, warnings = name_weights(model, "hf")
        named = [_of_tower(one, model) if one.is_tower else one for one in named]
        made = settings.dtype or chosen(source, "hf").dtype
        return [_draft(one, model, settings, made) for one in named], left, warnings

    def scheme(self, name: str, scale_dtype: str, shape: tuple[int, ...] = ()) -> Scheme | None:
        return dense_scheme(name) or hf.named(name, scale_dtype, shape)

    def holders(self, scale_dtype: str) -> list[Scheme]:
        return []

    def keeps(self, source: Checkpoint, scheme: Scheme) -> bool:
        return self.label in scheme.kept_in

    def keeps_layout(self, placed: Sequence[Placed]) -> bool:
        return any(self.label in w.scheme.kept_in for w in placed) and not hf_quantized.changed(placed)

    def finish(self, source: Checkpoint, steps: Sequence[PlannedT], settings: Settings) -> list[PlannedT]:
        return together(steps)

    def keeps_metadata(self, source: Checkpoint) -> bool:
        return False

    def files(self, source: Checkpoint, placed: Sequence[Placed], settings: Settings) -> Contents:
        is_kept = self.keeps_layout(placed)
        model = Model.of(source)
        placed = [renamed(w, model.in_hf) for w in placed]
        bare = [replace(w, name=w.file_name) for w in placed]
        quantization = {} if is_kept else hf_quantized.settings(bare, str(source.root))
        header = {**(_header(source, placed) if is_kept and source.kind != "hf" else {}), "format": "pt"}
        files, where = shards(placed, settings.shard_size, header)
        config = _config(source, stored_config(source, settings, self.label), placed, is_kept=is_kept)
        config |= {"quantization_config": quantization} if quantization else {}
        config |= tie_settings(source, "hf")
        config |= agreed(config, source, placed, settings, "hf")
        # The settings' further files say what config.json said before any of the weights became dense.
        is_dense = not is_kept and not quantization
        further = beside(source, layouts=is_kept and not _decoded(source, placed), dense=is_dense)
        unread = [] if is_kept else hf_quantized.unloadable(placed)
        dtypes = dtype_warnings(config, source, placed, settings, "hf")
        notes = [*further.warnings, *hf_quantized.unreadable(placed), *unread, *dtypes]
        index = [index_file(where, placed)] if len(files) > 1 else []
        return Contents([*files, *index, json_file("config.json", config), *further.files], notes, further.passed)


def _of_tower(named: Named, model: Model) -> Named:
    """A tower's weight under its Hugging Face name, and in its arrangement: mlx-vlm's convolutions have another."""
    weight, name = named.source.weight, model.in_hf(named.name)
    if not (model.is_from_mlx and has_channels_last(name, weight.shape)):
        return replace(named, name=name)
    return replace(named, name=name, source=Arranged.of(channels_first(weight)))


def _draft(named: Named, model: Model, settings: Settings, made: str) -> WeightDraft:
    """A weight under its Hugging Face name.

    made: the dtype of what is made anew.
    """
    source, shape = model.source, named.source.shape
    stays = KEPT_TOWER if named.is_tower else hf_quantized.stays_dense(named.name, shape)
    is_uncovered = guessed.uncovered(named.name, shape) if named.found is None else _is_stacked(named)
    spared = guessed.stays_dense(named.name, shape) if model.architecture is None else None
    if named.found is None and model.architecture is not None and model.is_named and stays is None:
        stays = f"kept dense: not a tensor of {model.architecture.name} models"
        is_uncovered = guessed.is_large(named.name, shape)
    return WeightDraft(
        named.name, named.subject, named.source, _dtype(named, source, settings, made),
        stays=stays, fixed=named.is_kept("hf"), layout=packed_experts.layout(named),
        extra=model.leftover(named.source.weight.name), uncovered=(spared or stays) if is_uncovered else None,
        spared=spared,
    )  # fmt: skip


def _is_stacked(named: Named) -> bool:
    """Whether this is a tensor of stacked experts, which readers of quantized folders want one by one."""
    return named.found is not None and named.found.row.role.endswith("_exps") and len(named.source.shape) > 2


def _config(
    source: Checkpoint, stored: Mapping[str, Any], placed: Sequence[Placed], *, is_kept: bool
) -> dict[str, Any]:
    """config.json: storage settings go with the layout that they describe."""
    if is_kept:
        decoded = _decoded(source, placed)
        config = {k: v for k, v in stored.items() if k != "_name_or_path"}
        made = [w for w in placed if not w.stored and not isinstance(w.scheme, Dense)]
        if made:  # in the layout that the model's own release has
            return config | {"quantization_config": hf_quantized.described(made, ())}
        if any(EXPERTS in w.name for w in decoded):
            config = {k: v for k, v in config.items() if k not in STORAGE_WORDS}  # they speak of experts
        return _left_dense(config, source, decoded)
    return without_storage(stored)


def _left_dense(config: Mapping[str, Any], source: Checkpoint, decoded: Sequence[Placed]) -> dict[str, Any]:
    """config.json of a layout that is kept, with the modules that are dense now named as such where they have to be."""
    if source.kind == "quanto" and decoded:
        raise NotPossible(
            f"{source.root}: {decoded[0].name} cannot become dense while others stay quantized, because "
            "optimum-quanto's map of modules is copied unchanged. Make all weights dense."
        )
    said = in_config(source.config_json)
    if not decoded or said is None:
        return dict(config)
    settings, method = dict(said.block), said.method
    modules = sorted(w.module for w in decoded)
    if method == "gptq":
        dynamic: dict[str, Any] = {f"-:{re.escape(module)}$": {} for module in modules}
        dynamic |= settings.get("dynamic") or {}
        return replaced(config, said.path, {**settings, "dynamic": dynamic})
    key = QUANTIZERS[method].dense if method in QUANTIZERS else None
    if key is None:
        raise NotPossible(
            f"{source.root}: {decoded[0].name} cannot become dense while others stay quantized, because the settings "
            f"of {method} cannot list dense modules. Make all weights dense."
        )
    key = next((name for name in (key, *ALIASES.get(key, ())) if settings.get(name)), key)
    listed = [*(settings.get(key) or ()), *(module for module in modules if module not in (settings.get(key) or ()))]
    layers = settings.get("quantized_layers")
    if isinstance(layers, Mapping):  # modelopt's MIXED_PRECISION
        settings["quantized_layers"] = {name: layer for name, layer in layers.items() if name not in modules}
    return replaced(config, said.path, {**settings, key: listed})


def _header(source: Checkpoint, placed: Sequence[Placed]) -> dict[str, str]:
    """The text in the headers of a source whose layout is kept; torchao's says of each tensor what it is."""
    if source.kind != "torchao":
        return dict(source.header)
    dense = {w.name: TORCHAO_DENSE for w in _decoded(source, placed) if w.name in source.header}
    return {**source.header, **dense}


def _decoded(source: Checkpoint, placed: Sequence[Placed]) -> list[Placed]:
    """The weights that were quantized and are dense now."""
    return [w for w in placed if isinstance(w.scheme, Dense) and _was_quantized(w, source)]


def _was_quantized(placed: Placed, source: Checkpoint) -> bool:
    weight = source.weights.get(placed.name)
    return weight is None or not isinstance(weight.scheme, Dense)


def _dtype(named: Named, source: Checkpoint, settings: Settings, made: str) -> str:
    """The dtype of a dense weight. GGUF files and MLX folders are made anew, dense tensors and all.

    A tensor of an MLX folder that is f32 next to scales of 16 bits is so on purpose: routers.
    """
    scheme = named.source.weight.scheme
    stored = source.weights.get(named.source.weight.name, named.source.weight)
    is_wide = source.kind == "mlx" and stored.scheme == Dense("f32")
    is_made = source.names == "gguf" or (source.kind == "mlx" and not is_wide) or not isinstance(scheme, Dense)
    return dense_dtype(named, source, made if is_made else settings.dtype, "hf")
