"""Quantized modules in a Hugging Face folder: what the readers of all quantizers share.

A module `model.layers.0.mlp.down_proj` has stored arrays `<module><suffix>`. Together they are one weight, whose dtypes
and shapes are checked against its scheme's layout. Every array that belongs to no module is a dense tensor.
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
from quantcli.sources.hf import QUANTIZED_SUFFIXES, dense
from quantcli.sources.listed import listed
from quantcli.sources.noted import PLACE, Noted
from quantcli.sources.spellings import spellings
from quantcli.sources.wording import counted, listed_as_dense, mismatch, missing, stored_otherwise, where


def parts_of(module: str, suffixes: Mapping[str, str], parts: Mapping[str, Part]) -> dict[str, Part]:
    """Return the arrays that are stored for a module. suffixes: part -> suffix of its tensor's name."""
    return {part: parts[module + suffix] for part, suffix in suffixes.items() if module + suffix in parts}


def scaled_modules(parts: Iterable[str]) -> set[str]:
    """Return the modules that have both a `.weight` and a `.weight_scale`."""
    names = set(parts)
    return {
        name.removesuffix(".weight_scale")
        for name in names
        if name.endswith(".weight_scale") and name.removesuffix("_scale") in names
    }


def checked_weight(
    name: str, shape: tuple[int, ...], scheme: Scheme, stored: Mapping[str, Part], reason: str,
    suffixes: Mapping[str, str] | None = None,
) -> Weight:  # fmt: skip
    """Return a weight, its arrays checked against its scheme's layout. Raises `BadInput` for the first that differs.

    reason: where the settings are, as `key: what they say`; errors quote it. suffixes: part -> suffix of its name.
    """
    first = next(iter(stored.values()))
    if min(shape, default=0) <= 0:
        raise BadInput(f"{where(first)}: has shape {list(first.shape)}, which has no elements.")
    if (unfit := scheme.unread(shape)) is not None:
        raise BadInput(f"{where(first)}: cannot be read as {scheme.name} ({reason}): {unfit}.")
    layout = scheme.layout(shape)
    for part, spec in layout.items():
        if part not in stored:
            raise missing(first, (suffixes or {}).get(part, part), f"{scheme.name} ({reason})")
        array = stored[part]
        if (array.dtype, array.shape) != (spec.dtype, spec.shape):
            weight = f"weight {list(shape)} as {scheme.name}, {reason}"
            raise mismatch(array, f"{spec.dtype} {list(spec.shape)}", weight)
    return Weight(name, shape, scheme, {part: stored[part] for part in layout}, reason)


def checkpoint(
    kind: str, folder: Folder, config: Mapping[str, Any], tensors: Tensors, packed: Iterable[Weight],
    warnings: Iterable[str] = (),
) -> Checkpoint:  # fmt: skip
    """Return the checkpoint of quantized weights and all other tensors. Raises `BadInput` for codes of no weight."""
    weights = {weight.name: weight for weight in packed}
    taken = {part.name for weight in weights.values() for part in weight.parts.values()}
    rest = [part for name, part in tensors.parts.items() if name not in taken]
    duplicate = next((part for part in rest if part.name in weights), None)
    if duplicate is not None:
        raise BadInput(f"{where(duplicate)}: the same weight is stored quantized too. Remove one of them.")
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
            f"{where(odd)}: looks like part of a quantized weight, but config.json's {kind} settings describe no "
            f"weight that it belongs to.{_hint_if_dense(odd, tensors.parts)}"
        )
    refuse_bare(rest, kind)
    return source


def _hint_if_dense(scale: Part, parts: Mapping[str, Part]) -> str:
    """Return a hint, as a further sentence, for scales whose weight is stored dense; empty for other tensors."""
    weight = parts.get(f"{scale.name.rpartition('.')[0]}.weight")
    if weight is None or weight.dtype not in FLOATS or not scale.name.endswith(SCALE_SUFFIXES):
        return ""
    return f" {weight.name} is dense ({weight.dtype}). If the scales are left over, remove them from the file."


#: Suffixes of a module's scales.
SCALE_SUFFIXES = (".weight_scale", ".weight_scale_inv")


def refuse_bare(parts: Iterable[Part], kind: str) -> None:
    """Raise `BadInput` for codes without scales in a quantizer's folder."""
    for part in parts:
        if part.name.endswith(".weight") and part.dtype in CODES and len(part.shape) > 1:
            raise BadInput(
                f"{where(part)}: is {part.dtype}, but has no scales; config.json's {kind} settings require them."
            )


#: The `group_size` that means one group for each row, in AWQ and GPTQ.
WHOLE_ROW = -1
GROUP_SIZE = "expected a number above 0, or -1 for one group in each row"
#: The dtypes of one-byte codes, which are meaningless without scales.
CODES = ("f8_e4m3", "f8_e5m2", "i8", "u8")


def _unread(rest: Iterable[Part], packed: Mapping[str, Weight]) -> list[str]:
    """Return a warning if tensors in quantized modules, or named like parts of one, belong to no weight."""
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
    subject = counted("tensor", [part.name for part in odd])
    return [
        f"{subject} named like part of a quantized weight, but no weight uses it. Such tensors are copied unchanged."
    ]


def _without_leftovers(parts: Sequence[Part]) -> list[Part]:
    """Return these tensors except scales of the KV cache, which belong to no weight."""
    from quantcli.models.leftovers import CACHE, leftover  # imports all model families, which takes a while

    kinds = ((part, leftover(part.name, part.shape, part.dtype, is_quantized=True)) for part in parts)
    return [part for part, kind in kinds if kind is None or kind.reason != CACHE]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


#: Kinds whose layouts do not pack codes into words: DeepSeek-V4 has tables of i32 next to its FP8 weights.
UNPACKED = ("fp8",)


def _looks_packed(part: Part, kind: str) -> bool:
    """Return whether a tensor is part of some quantizer's layout: by its name, or as words of packed codes."""
    is_words = part.dtype in ("u32", "i32") and len(part.shape) == 2 and kind not in UNPACKED
    return part.name.endswith(QUANTIZED_SUFFIXES) or is_words


def stacked_scales(
    scale: Part, block: tuple[int, int] | None, shape: tuple[int, ...], *, powers: bool = False
) -> Scales:
    """Return how stacked matrices (matrices, rows, columns) share scales: by the settings, else by the scales' shape.

    block: the rows and columns that share a scale according to the settings. Scales of an unsupported shape get the
    layout that the settings describe, so that `checked_weight` refuses them.
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
    if block is not None and not _is_shared_otherwise(scale.shape, block, shape):
        return Scales(scale.dtype, *block, rank=3, stacked=rows, powers=powers)
    if rows % blocks or columns % groups:
        blocks, groups = 1, 1
    each = None if blocks == groups == 1 else rows // blocks
    return Scales(scale.dtype, each, None if groups == 1 else columns // groups, 3, stacked=rows, powers=powers)


def _is_shared_otherwise(scales: tuple[int, ...], block: tuple[int, int], shape: tuple[int, ...]) -> bool:
    """Return whether there is a scale for each matrix, each row, or each half of gate and up, instead of each block.

    transformers stores at least two rows of scales for gate and up, however few rows they have.
    """
    groups = -(-shape[2] // block[1])
    halves = (shape[0], 2, groups)
    return scales in ((shape[0], 1, 1), (*shape[:2], 1)) or (
        scales == halves and shape[1] <= block[0] and shape[1] % 2 == 0
    )


def extras_of(stored: Mapping[str, Part], names: Iterable[str]) -> tuple[Extra, ...]:
    """Return those of a module's arrays that are copied without being interpreted."""
    return tuple(Extra(name, stored[name].dtype, stored[name].shape) for name in names if name in stored)


def compute_dtype(config: Mapping[str, Any]) -> str:
    """Return the dtype in which a tool computes that uses the model's: config.json's, by default bfloat16."""
    for key in ("torch_dtype", "dtype"):
        value = config.get(key)
        if isinstance(value, str) and value in TORCH_DTYPES:
            return TORCH_DTYPES[value]
    return "bf16"


def is_reordered(
    stored: Mapping[str, Part], expected: bool, columns: int, group: int | None, groups: int, folder: Folder, key: str,
    reason: str,
) -> bool:  # fmt: skip
    """Return whether `g_idx` assigns columns to groups in another order than that of the columns.

    expected: the settings, at `key`, say so, which requires a `g_idx`. group: the group size, None for one group for
    each row. reason: what else the settings say, for errors to quote. Raises `BadInput`.
    """
    index = stored.get("g_idx")
    if index is None:
        if expected and groups > 1:
            raise missing(next(iter(stored.values())), "g_idx", key)
        return False
    if index.shape != (columns,) or index.dtype != "i32":
        raise mismatch(index, f"i32 [{columns}]", reason)
    # On the Hub every g_idx would cost a request. Without act-order in the settings, columns are in order.
    if not expected and not isinstance(folder, LocalFolder):
        return False
    order = folder.array(index).reshape(-1)
    if columns and not 0 <= int(order.min()) <= int(order.max()) < groups:
        raise BadInput(
            f"{where(index)}: expected group numbers from 0 to {groups - 1}, found {order.min()} to {order.max()}."
        )
    return not np.array_equal(order, np.arange(columns) // (group or max(1, columns)))


def names_module(names: Iterable[str], module: str) -> bool:
    """Return whether every loader would take a list of modules to name this one.

    An entry is the module's name, that of a module that contains it, or the end of its name.
    """
    return listed(tuple(names)).names(module)


def mentions_module(names: Iterable[str], module: str) -> bool:
    """Return whether some loader would take a list of modules to name this one: by any part of its name, or a pattern.

    >>> mentions_module(["self_attn"], "model.layers.0.self_attn.q_proj"), mentions_module(["mlp"], "a.mlps.0")
    (True, False)
    >>> mentions_module(["model.layers.*.mlp", "re:.*visual.*"], "model.layers.3.mlp.up_proj")
    True
    """
    return listed(tuple(names)).mentions(module)


def check_listed(names: Collection[str], packed: Mapping[str, Part], label: str) -> list[str]:
    """Check quantized modules against a list of dense ones; return a warning if loaders would disagree on a module.

    packed: module -> its codes. label: the place of the list. Raises `BadInput` for a module that every loader would
    take to be dense.
    """
    odd, dense = [], listed(tuple(names))
    for module, part in packed.items():
        if dense.names(module):
            raise listed_as_dense(part, module, label)
        if dense.mentions(module) or any(name in dense.entries for name in spellings(module)):
            odd.append(module)
    return [stored_otherwise(label, "module", odd, "quantized, with scales")] if odd else []


#: Matrices of linear layers in every architecture that has them.
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def dense_warnings(
    parts: Mapping[str, Part], modules: Collection[str], label: str, is_expected: Callable[[str, bool], bool]
) -> list[str]:
    """Return a warning if matrices are dense whose modules are quantized according to the settings at `label`.

    Only a warning, since a dense matrix cannot be misread: lists of dense modules often use other names than the
    tensors, or are incomplete. is_expected(module, is_linear): whether the settings say that a module is quantized;
    is_linear: whether its name is that of a linear layer. modules: those that are stored quantized.
    """
    odd = []
    for name, part in parts.items():
        module = name.removesuffix(".weight")
        if module == name or module in modules or len(part.shape) != 2 or part.dtype not in FLOATS:
            continue
        if is_expected(module, ".layers." in module and module.endswith(LINEARS)):
            odd.append(name)
    return [stored_otherwise(label, "matrix", odd, "dense")] if odd else []


#: A repeated group that itself repeats something: matching such a pattern may take exponential time.
_NESTED = re.compile(r"[*+}]\)[*+{]")
LONGEST_PATTERN = 1000


def pattern(text: str, label: str) -> re.Pattern[str]:
    """Compile a regular expression from a file. Raises `BadInput` if it is invalid or could take too long to match."""
    if len(text) > LONGEST_PATTERN:
        raise BadInput(f"{label}: the regular expression has {len(text)} characters; the limit is {LONGEST_PATTERN}.")
    if _NESTED.search(text):
        raise BadInput(f"{label}: the regular expression repeats a group that itself repeats. Simplify it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tools that wrote such files compile them in the same way
            return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadInput(f"{label}: is not a valid regular expression ({error}).") from error


def settings_of(folder: Folder, config: Mapping[str, Any]) -> Reader:
    """Return the quantizer's settings, which every opener is given under `quantization_config`."""
    block = config["quantization_config"]
    file, _, path = (block.place if isinstance(block, Noted) else PLACE).partition(": ")
    return Reader(block, f"{folder.label}/{file}", path)
