"""Quantized modules in a Hugging Face folder: what the readers of all quantizers share.

A module `model.layers.0.mlp.down_proj` has stored arrays `<module><suffix>`; together they are one weight, held to the
layout of its scheme. All that no module takes is a dense tensor.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from quantcli.arrays import FLOATS, TORCH_DTYPES
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput
from quantcli.schemes.base import Scheme
from quantcli.schemes.hf.scaled import Extra, Scales
from quantcli.sources.companions import is_unscaled, marked
from quantcli.sources.folder import Folder, LocalFolder, Tensors
from quantcli.sources.hf import QUANTIZED_SUFFIXES, counted, dense, not_left_out
from quantcli.sources.listed import listed
from quantcli.sources.noted import PLACE, Noted
from quantcli.sources.spellings import spellings


def where(part: Part) -> str:
    """A stored tensor as errors name it."""
    return f"{part.file}: tensor {part.name}"


def beside(module: str, suffixes: Mapping[str, str], parts: Mapping[str, Part]) -> dict[str, Part]:
    """The stored arrays of a module. suffixes: part -> suffix of its tensor's name; absent ones are left out."""
    return {part: parts[module + suffix] for part, suffix in suffixes.items() if module + suffix in parts}


def scaled_modules(parts: Iterable[str]) -> set[str]:
    """The modules whose `.weight` has a `.weight_scale` beside it."""
    names = set(parts)
    return {
        name.removesuffix(".weight_scale")
        for name in names
        if name.endswith(".weight_scale") and name.removesuffix("_scale") in names
    }


def held(
    name: str, shape: tuple[int, ...], scheme: Scheme, stored: Mapping[str, Part], reason: str,
    suffixes: Mapping[str, str] | None = None,
) -> Weight:  # fmt: skip
    """A weight whose arrays are those of its scheme's layout; raises `BadInput` for the first that is not.

    reason: where the settings stand, as `key: what they say`; the error quotes it. suffixes: of the parts' names.
    """
    first = next(iter(stored.values()))
    if min(shape, default=0) <= 0:
        raise BadInput(f"{where(first)}: has shape {first.shape}, which holds nothing.")
    if (unfit := scheme.unread(shape)) is not None:
        raise BadInput(f"{where(first)}: {unfit}, but it is to be {scheme.name} ({reason}).")
    layout = scheme.layout(shape)
    for part, spec in layout.items():
        if part not in stored:
            called = (suffixes or {}).get(part, part)
            raise BadInput(f"{where(first)}: has no {called} beside it, which {scheme.name} needs ({reason}).")
        found = stored[part]
        if (found.dtype, found.shape) != (spec.dtype, spec.shape):
            raise BadInput(
                f"{where(found)}: is {found.dtype} {list(found.shape)}; a weight of {list(shape)} as {scheme.name} "
                f"({reason}) needs {spec.dtype} {list(spec.shape)}."
            )
    return Weight(name, shape, scheme, {part: stored[part] for part in layout}, reason)


def checkpoint(
    kind: str, folder: Folder, config: Mapping[str, Any], tensors: Tensors, packed: Iterable[Weight],
    warnings: Iterable[str] = (),
) -> Checkpoint:  # fmt: skip
    """The checkpoint of quantized weights and all other tensors; raises `BadInput` for what looks left over."""
    weights = {weight.name: weight for weight in packed}
    taken = {part.name for weight in weights.values() for part in weight.parts.values()}
    rest = [part for name, part in tensors.parts.items() if name not in taken]
    stale = next((part for part in rest if part.name in weights), None)
    if stale is not None:
        raise BadInput(f"{where(stale)}: is stale, the same weight is stored quantized: remove one of them.")
    further = _unread(rest, weights)
    weights |= {part.name: dense(part) for part in rest}
    source = marked(
        Checkpoint(
            kind, "hf", folder.path("."), tensors.files, dict(sorted(weights.items())), config,
            header=tensors.metadata,
            warnings=(*tensors.warnings, *warnings, *further),
        )
    )  # fmt: skip
    if is_unscaled(source):
        return source
    odd = next((part for part in rest if _looks_packed(part, kind)), None)
    if odd is not None:
        raise BadInput(
            f"{where(odd)}: belongs to no quantized weight that config.json's {kind} settings know."
            f"{_where_dense(odd, tensors.parts)}"
        )
    refuse_bare(rest, kind)
    return source


def _where_dense(scale: Part, parts: Mapping[str, Part]) -> str:
    """What to do about scales whose weight is stored dense, as a further sentence; empty where there is no such."""
    weight = parts.get(f"{scale.name.rpartition('.')[0]}.weight")
    if weight is None or weight.dtype not in FLOATS or not scale.name.endswith(SCALE_SUFFIXES):
        return ""
    return f" {weight.name} is dense ({weight.dtype}): remove the scales from the file if they are left over."


#: Suffixes of scales beside a `.weight`.
SCALE_SUFFIXES = (".weight_scale", ".weight_scale_inv")


def refuse_bare(parts: Iterable[Part], kind: str) -> None:
    """Raise `BadInput` for codes that a quantizer's folder has no scales for."""
    for part in parts:
        if part.name.endswith(".weight") and part.dtype in CODES and len(part.shape) > 1:
            raise BadInput(
                f"{where(part)}: is {part.dtype} without the scales that config.json's {kind} settings call for."
            )


#: The `group_size` of one group for a whole row, in AWQ and GPTQ.
WHOLE_ROW = -1
#: The dtypes of codes of a byte, which mean nothing without scales.
CODES = ("f8_e4m3", "f8_e5m2", "i8", "u8")


def _unread(rest: Iterable[Part], packed: Mapping[str, Weight]) -> list[str]:
    """A warning of tensors in quantized modules, or called like those there, that no weight takes; none without any."""
    dense = ("weight", "bias")
    leaves = {_leaf(part.name) for weight in packed.values() for part in weight.parts.values()}.difference(dense)
    odd = [
        part
        for part in rest
        if _leaf(part.name) in leaves
        or (f"{part.name.rpartition('.')[0]}.weight" in packed and _leaf(part.name) not in dense)
    ]
    odd = _without_leftovers(odd) if odd else []
    if not odd:
        return []
    first = odd[0].name
    several = f"{first} is" if len(odd) == 1 else f"{len(odd)} tensors, {first} the first, are"
    return [f"{several} called like a part of a quantized weight, but no weight takes it: copied, not read."]


def _without_leftovers(parts: Sequence[Part]) -> list[Part]:
    """Tensors without scales of the KV cache, which no weight has to take."""
    from quantcli.models.leftovers import CACHE, leftover  # with all families: it takes a while

    kinds = ((part, leftover(part.name, part.shape, part.dtype, is_quantized=True)) for part in parts)
    return [part for part, kind in kinds if kind is None or kind.reason != CACHE]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


#: Kinds whose layouts have no words of codes: DeepSeek-V4 has tables of i32 next to its FP8.
WORDLESS = ("fp8",)


def _looks_packed(part: Part, kind: str) -> bool:
    """Whether a tensor is part of some quantizer's layout, by its name or as words of codes."""
    is_words = part.dtype in ("u32", "i32") and len(part.shape) == 2 and kind not in WORDLESS
    return part.name.endswith(QUANTIZED_SUFFIXES) or is_words


def stacked_scales(
    scale: Part, block: tuple[int, int] | None, shape: tuple[int, ...], *, powers: bool = False
) -> Scales:
    """How the scales of stacked matrices (matrices, rows, columns) are shared, as the settings say or else by shape.

    block: rows and columns that share one, as the settings have it. An array whose shape is none of those that are read
    gets the layout that the settings mean, for `held` to refuse.
    """
    count, rows, columns = shape
    rank = len(scale.shape)
    if count > 1 and math.prod(scale.shape) == 1:
        return Scales(scale.dtype, None, rank=rank, stacked=rows, powers=powers, single=True)
    if rank == 1:
        return Scales(scale.dtype, None, rank=1, stacked=rows, powers=powers)
    if rank == 2 and scale.shape[1] in (1, 2, rows) and rows % scale.shape[1] == 0:
        each = None if scale.shape[1] == 1 else rows // scale.shape[1]
        return Scales(scale.dtype, each, rank=2, stacked=rows, powers=powers)
    blocks, groups = scale.shape[1:] if rank == 3 and min(scale.shape) > 0 else (1, 1)
    if block is not None and not _is_grid_of_its_own(scale.shape, block, shape):
        return Scales(scale.dtype, *block, rank=3, stacked=rows, powers=powers)
    if rows % blocks or columns % groups:
        blocks, groups = 1, 1
    each = None if blocks == groups == 1 else rows // blocks
    return Scales(scale.dtype, each, None if groups == 1 else columns // groups, 3, stacked=rows, powers=powers)


def _is_grid_of_its_own(scales: tuple[int, ...], block: tuple[int, int], shape: tuple[int, ...]) -> bool:
    """Whether scales are shared otherwise than in blocks: one of each matrix, of each half of gate and up, of each row.

    transformers gives gate and up two rows of scales at least, however small they are.
    """
    groups = -(-shape[2] // block[1])
    halves = (shape[0], 2, groups)
    return scales in ((shape[0], 1, 1), (*shape[:2], 1)) or (
        scales == halves and shape[1] <= block[0] and shape[1] % 2 == 0
    )


def extras_of(stored: Mapping[str, Part], names: Iterable[str]) -> tuple[Extra, ...]:
    """Those of the arrays that are copied along."""
    return tuple(Extra(name, stored[name].dtype, stored[name].shape) for name in names if name in stored)


def compute_dtype(config: Mapping[str, Any]) -> str:
    """The dtype that a tool computes in which leaves it to the model: config.json's, else bfloat16."""
    for key in ("torch_dtype", "dtype"):
        value = config.get(key)
        if isinstance(value, str) and value in TORCH_DTYPES:
            return TORCH_DTYPES[value]
    return "bf16"


def order_of(
    stored: Mapping[str, Part], wanted: bool, columns: int, group: int | None, groups: int, folder: Folder, key: str,
    reason: str,
) -> bool:  # fmt: skip
    """Whether columns belong to groups in another order than their own, which `g_idx` says.

    wanted: the settings, at `key`, say so, and `g_idx` has to be there. group: None for one group a row. reason: what
    else the settings say, which the error quotes.
    """
    index = stored.get("g_idx")
    if index is None:
        if wanted and groups > 1:
            raise BadInput(f"{where(next(iter(stored.values())))}: has no g_idx beside it, which `{key}` needs.")
        return False
    if index.shape != (columns,) or index.dtype != "i32":
        raise BadInput(f"{where(index)}: is {index.dtype} {list(index.shape)}, i32 [{columns}] is needed ({reason}).")
    # Over the network each would be a request; unless the settings say otherwise they are in order.
    if not wanted and not isinstance(folder, LocalFolder):
        return False
    found = folder.array(index).reshape(-1)
    if columns and not 0 <= int(found.min()) <= int(found.max()) < groups:
        raise BadInput(f"{where(index)}: names groups {found.min()} to {found.max()}, there are 0 to {groups - 1}.")
    return not np.array_equal(found, np.arange(columns) // (group or max(1, columns)))


def names_module(names: Iterable[str], module: str) -> bool:
    """Whether a list of modules names this one, one that it is in, or the end of its name, as every loader reads it."""
    return listed(tuple(names)).names(module)


def mentions_module(names: Iterable[str], module: str) -> bool:
    """Whether some loader takes a list of modules to name this one: in the middle of its name too, or as a pattern.

    >>> mentions_module(["self_attn"], "model.layers.0.self_attn.q_proj"), mentions_module(["mlp"], "a.mlps.0")
    (True, False)
    >>> mentions_module(["model.layers.*.mlp", "re:.*visual.*"], "model.layers.3.mlp.up_proj")
    True
    """
    return listed(tuple(names)).mentions(module)


def check_listed(names: Collection[str], packed: Mapping[str, Part], label: str) -> list[str]:
    """Hold quantized modules against a list of those that are dense; a warning where loaders read the list differently.

    packed: module -> its codes. label: where the list stands. Raises `BadInput` for a module that every loader takes to
    be dense.
    """
    odd, dense = [], listed(tuple(names))
    for module, part in packed.items():
        if dense.names(module):
            raise BadInput(f"{where(part)}: is quantized, but {label} names {module}.")
        if dense.mentions(module) or any(name in dense.entries for name in spellings(module)):
            odd.append(module)
    if not odd:
        return []
    return [f"{label} mentions {counted('module', odd)} stored quantized, with scales: read as quantized."]


#: Matrices that are linears in every architecture that has them.
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def left_dense(
    parts: Mapping[str, Part], modules: Collection[str], label: str, wanted: Callable[[str, bool], bool]
) -> list[str]:
    """A warning of the dense matrices whose modules the settings at `label` say are quantized; none without any.

    Such a matrix cannot be misread: lists of dense modules have other names than the tensors, or miss some.
    wanted(module, linear): whether they say so; linear: the module's name is one of linears.
    """
    odd = []
    for name, part in parts.items():
        module = name.removesuffix(".weight")
        if module == name or module in modules or len(part.shape) != 2 or part.dtype not in FLOATS:
            continue
        if wanted(module, ".layers." in module and module.endswith(LINEARS)):
            odd.append(name)
    return [not_left_out(label, odd)] if odd else []


#: A repetition of something that itself repeats: matching such a pattern may take forever.
_NESTED = re.compile(r"[*+}]\)[*+{]")
LONGEST_PATTERN = 1000


def pattern(text: str, label: str) -> re.Pattern[str]:
    """A regular expression of a file; raises `BadInput` for one that is wrong or could take forever to match."""
    if len(text) > LONGEST_PATTERN or _NESTED.search(text):
        raise BadInput(f"{label}: this regular expression is too long, or repeats what repeats itself: simplify it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tools that wrote such files compile them as they are
            return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadInput(f"{label}: is no regular expression ({error}).") from error


def settings_of(folder: Folder, config: Mapping[str, Any]) -> Reader:
    """The settings that a folder's weights are stored by, which a reader gets under `quantization_config`."""
    block = config["quantization_config"]
    file, _, path = (block.place if isinstance(block, Noted) else PLACE).partition(": ")
    return Reader(block, f"{folder.label}/{file}", path)
