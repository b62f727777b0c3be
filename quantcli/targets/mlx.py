"""Writer of MLX folders: what mlx_lm.convert writes, in a reproducible order.

config.json gets a `quantization` block (mirrored in `quantization_config`) and top-level rope settings, which mlx-lm's
models read. Which weights may be quantized is mlx-lm's choice: matrices of linears and embeddings, where the group
divides the last axis; norms, biases and vectors stay dense. Source: mlx-lm (mlx_lm/convert.py, mlx_lm/utils.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from quantcli import models
from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint
from quantcli.containers.hostile import shown
from quantcli.errors import NotPossible
from quantcli.models import Architecture
from quantcli.recipes.mixtures import BLOCK_BITS
from quantcli.recipes.quantizers import without_settings
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense
from quantcli.schemes.mlx.affine import BITS, GROUPS, Affine
from quantcli.schemes.mlx.mx_floats import MODES, MxFloat
from quantcli.targets import copied, folder_from_gguf, guessed
from quantcli.targets.base import (
    Contents,
    Left,
    Placed,
    PlannedT,
    Settings,
    WeightDraft,
    commonest_dtype,
    config_dtype,
    dense_scheme,
)
from quantcli.targets.beside_config import beside_config
from quantcli.targets.folder_dtype import agreed, chosen, mlx_dtype, widens_scales
from quantcli.targets.folder_dtype import warnings as dtype_warnings
from quantcli.targets.model import Model
from quantcli.targets.names import KEPT_TOWER, Named, name_weights
from quantcli.targets.shards import index_file, json_file, renamed, shards
from quantcli.tokenizers import templates
from quantcli.tokenizers.files import Files

#: How the roles end whose modules mlx-lm never quantizes, whatever their shape.
NEVER = ("_norm", "conv1d")


class MlxTarget:
    """`--to mlx`."""

    label = "mlx"
    said = "an MLX folder"
    is_folder = True
    follows_llama_quantize = False
    follows_mlx_lm = True
    stacks_experts = True
    keeps_part_names = False

    def drafts(self, source: Checkpoint, settings: Settings) -> tuple[list[WeightDraft], list[Left], list[str]]:
        model = Model.of(source)
        warnings = []
        if source.names == "gguf":
            model.known()
        elif model.architecture is None:
            kind = shown(source.config.get("model_type"))
            strange = models.unknown_class(source.config)
            of = f"model_type {kind}" if strange is None else f"class {strange} (architectures)"
            warnings.append(f"quant does not know the tensors of {of}, so their names are kept.")
        named, left, further = name_weights(model, "mlx")
        named = [replace(one, name=model.in_mlx(one.name)) if one.is_tower else one for one in named]
        common = settings.dtype or _common(source)
        is_asked = settings.dtype is not None
        drafts = [_draft(weight, source, model.architecture, common, is_asked) for weight in named]
        if widens_scales(source, settings):
            drafts = [_with_wide_scales(draft, source) for draft in drafts]
        return drafts, left, warnings + further

    def scheme(self, name: str, scale_dtype: str, shape: tuple[int, ...] = ()) -> Scheme | None:
        return dense_scheme(name) or {s.name: s for s in self.holders(scale_dtype)}.get(name)

    def holders(self, scale_dtype: str) -> list[Scheme]:
        affine = [Affine(bits, group, scale_dtype) for bits in BITS for group in GROUPS]
        return [*affine, *(MxFloat(mode) for mode in MODES)]

    def keeps(self, source: Checkpoint, scheme: Scheme) -> bool:
        return self.label in scheme.kept_in

    def keeps_layout(self, placed: Sequence[Placed]) -> bool:
        return False

    def finish(self, source: Checkpoint, steps: Sequence[PlannedT], settings: Settings) -> list[PlannedT]:
        return list(steps)

    def keeps_metadata(self, source: Checkpoint) -> bool:
        return False

    def files(self, source: Checkpoint, placed: Sequence[Placed], settings: Settings) -> Contents:
        placed = [renamed(w, Model.of(source).in_mlx) for w in placed]
        files, where = shards(placed, settings.shard_size, {"format": "mlx"})
        config = without_storage(stored_config(source, settings, self.label))
        config |= tie_settings(source, "mlx")
        config |= models.mlx_keys(config)
        config |= agreed(config, source, placed, settings, "mlx")
        block = quantization_block(placed, settings)
        if block:
            config |= {"quantization": block, "quantization_config": block}
        further = beside(source, dense=not block, for_mlx=True)
        made = [*files, index_file(where, placed), json_file("config.json", dict(sorted(config.items())))]
        notes = [*dtype_warnings(config, source, placed, settings, "mlx"), *_warnings(placed, source, settings)]
        return Contents([*made, *further.files], [*further.warnings, *notes], further.passed)


def stored_config(source: Checkpoint, settings: Settings, target: str) -> Mapping[str, Any]:
    """Return the object of config.json: the source's, or rebuilt from a GGUF file."""
    if source.names == "hf":
        return source.config_json
    return folder_from_gguf.config(source, settings.asked_dtype or chosen(source, target).dtype)


def without_storage(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json without the keys that describe how and where the source was stored."""
    return {key: value for key, value in without_settings(config).items() if key != "_name_or_path"}


def tie_settings(source: Checkpoint, target: str) -> dict[str, Any]:
    """Return the keys of config.json that change to state whether the output matrix is the embedding."""
    head = Model.of(source).head
    return {} if head is None else head.settings(target)


def beside(source: Checkpoint, *, layouts: bool = False, dense: bool = False, for_mlx: bool = False) -> Contents:
    """Return the other files that describe a model, copied or rebuilt.

    layouts: with the files that say how weights are stored. dense: no weight of the output is quantized. for_mlx: what
    mlx-lm does not read is named.
    """
    if source.names == "hf":
        files, passed = copied.copied(source, settings=layouts, dense=dense)
        notes = copied.warnings(passed, files, source.root)
        disagreement = templates.disagreement(Files(source.root, source.tokenizer))
        return Contents(files, [*notes, *([disagreement] if disagreement else [])], passed)
    files, notes = folder_from_gguf.files(source)
    further, lost = beside_config(source, for_mlx=for_mlx)
    return Contents([*files, *further], [*lost, *notes])


def _draft(
    named: Named, source: Checkpoint, architecture: Architecture | None, common: str | None, is_asked: bool
) -> WeightDraft:
    """A weight under its MLX name. common: the dtype that everything dense is cast to, None: as stored; is_asked: by
    the user, else what a model without a table stores in float32 stays so (A_log, corrections of a router's scores).
    """
    weight, shape, name = named.source.weight, named.source.shape, named.name
    if isinstance(weight.scheme, Dense) and weight.scheme.dtype.startswith(("f4", "f6_", "f8", "c64")):
        raise NotPossible(
            f"{source.root}: tensor {weight.name} is {weight.scheme.dtype} without a scale, which MLX does not "
            "support. Convert it to f16 or bf16 first."
        )
    role = named.found.row.role if named.found else ""
    own = None if architecture is None else architecture.mlx_schemes.get(role)
    spared = guessed.stays_dense(name, shape) if architecture is None else None
    stays = None
    if named.is_tower:
        stays = KEPT_TOWER
    elif len(shape) < 2:
        stays = f"kept dense: a {len(shape)}-D tensor is not quantized"
    elif not name.endswith(".weight"):
        stays = "kept dense: not the .weight of a module"
    elif own == "dense" or role.endswith(NEVER):
        stays = "kept dense: mlx-lm does not quantize such modules"
    stays_wide = architecture is None and not is_asked and weight.scheme in (Dense("f32"), Dense("f64"))
    dtype = _held(dense_dtype(named, source, None if stays_wide else common, "mlx"))
    return WeightDraft(
        name, named.subject, named.source, dtype, stays=stays, own=own,
        scales=common if stays_wide else None,
        # A packed parameter under such a name is no module of MLX's: its values are all that can be written.
        fixed=named.is_kept("mlx") or (not name.endswith(".weight") and not isinstance(weight.scheme, Dense)),
        uncovered=(spared or stays) if architecture is None and guessed.uncovered(name, shape) else None, spared=spared,
    )  # fmt: skip


def _common(source: Checkpoint) -> str | None:
    """The dtype that dense tensors are cast to where none is asked for; None: as stored."""
    if source.names == "gguf":
        return chosen(source, "mlx").dtype
    stated = mlx_lm_dtype(source.config_json)
    is_mlx = source.kind == "mlx" or source.header.get("format") == "mlx"
    return mlx_dtype(source, stated) if is_mlx else stated


def _with_wide_scales(draft: WeightDraft, source: Checkpoint) -> WeightDraft:
    """A draft of a quantized weight whose scales are f32 where they would be f16, in which the model does not work."""
    if not draft.is_quantized:
        return draft
    is_narrow = source.names == "gguf" or (draft.scales or draft.dense) == "f16"
    return replace(draft, wide=True, scales="f32" if is_narrow else draft.scales)


def mlx_lm_dtype(config: Mapping[str, Any]) -> str | None:
    """Return the dtype mlx-lm casts to: the top-level `torch_dtype`, else `text_config`'s `dtype`; None: no cast."""
    text = config.get("text_config")
    nested = config_dtype(text, ("dtype",)) if isinstance(text, Mapping) else None
    return config_dtype(config, ("torch_dtype",)) or nested


def dense_dtype(named: Named, source: Checkpoint, wanted: str | None, dialect: str) -> str:
    """Return the dtype of a weight that is not quantized: `wanted`, else as stored.

    Integers are always as stored, and so is what an architecture holds in float32 in this dialect.
    """
    weight = named.source.weight
    if not isinstance(weight.scheme, Dense):
        return wanted or commonest_dtype(source)
    if weight.scheme.dtype not in FLOATS or named.is_kept(dialect):
        return weight.scheme.dtype
    stored = source.weights.get(weight.name, weight).scheme  # values that are computed are float32
    return wanted or (stored if isinstance(stored, Dense) else weight.scheme).dtype


def _held(dtype: str) -> str:
    """MLX's arrays for GPUs have no float64."""
    return "f32" if dtype == "f64" else dtype


def quantization_block(placed: Sequence[Placed], settings: Settings) -> dict[str, Any]:
    """Return the `quantization` object: the common scheme at the top, an entry per module that differs.

    As mlx-lm does it, a mixture has its defaults (affine, 4 bits, groups of 64) at the top and an entry for each
    module.
    """
    quantized = {w.module: w.scheme.config_entry for w in placed if not isinstance(w.scheme, Dense)}
    if not quantized:
        return {}
    if settings.preset:
        group_size = next(iter(quantized.values()))["group_size"]
        return {"group_size": group_size, "bits": BLOCK_BITS, "mode": "affine"} | quantized
    counted = Counter(tuple(sorted(p.items())) for p in quantized.values())
    commonest = dict(max(sorted(counted.items(), key=repr), key=lambda item: item[1])[0])
    top = settings.common.config_entry if settings.common and not isinstance(settings.common, Dense) else commonest
    top = {key: top[key] for key in ("group_size", "bits", "mode")}
    return top | {module: entry for module, entry in quantized.items() if entry != top}


def _warnings(placed: Sequence[Placed], source: Checkpoint, settings: Settings) -> list[str]:
    """That dtypes differ, but for towers and for tensors that are f32 in every model of the family or without a table.

    Scales that are f32 since the model does not work in f16 are no warning: a note of the plan says so.
    """
    model = Model.of(source)
    architecture = model.architecture
    always = {w.name for w in placed if architecture and any(f.row.f32 for f in architecture.find(w.name, "mlx"))}
    always |= set(map(model.in_mlx, source.towers))
    if architecture is None and settings.dtype is None:
        always = {w.name for w in placed if w.scheme == Dense("f32")}
    scales = {dtype for w in placed if (dtype := w.scheme.scales_dtype)}
    dense = [w for w in placed if isinstance(w.scheme, Dense) and w.name not in always]
    floats = {w.scheme.dtype for w in dense if isinstance(w.scheme, Dense) and w.scheme.dtype in FLOATS}
    if not scales or not floats or scales == floats or (scales == {"f32"} and widens_scales(source, settings)):
        return []
    return [
        f"scales are {', '.join(sorted(scales))}, but dense tensors are {', '.join(sorted(floats))}; where they "
        "differ, mlx-lm computes in float32, which is slower. Use --scale-dtype and --dtype to make them the same."
    ]
