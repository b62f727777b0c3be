"""MLX folders: a quantized module has `.weight` (uint32 words), `.scales` and, in affine mode, `.biases`.

config.json's `quantization` block gives bits, group_size and mode, for all modules and for single ones.
Source: mlx-lm (mlx_lm/utils.py, load_model), mlx (mlx.nn.quantize).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.errors import BadInput
from quantcli.recipes import mlx_config
from quantcli.recipes.mlx_config import MlxParams, MlxQuantization
from quantcli.schemes.affine import BITS, GROUPS, Affine
from quantcli.schemes.base import Scheme
from quantcli.schemes.mx_floats import MODES, MxFloat
from quantcli.schemes.mx_global import MxGlobal
from quantcli.sources.companions import is_unscaled, marked
from quantcli.sources.folder import Folder, Tensors, sidecars
from quantcli.sources.hf import check_unquantized, dense

#: What ends the name of stacked experts' global scales.
GLOBAL = "global_scale"

#: The dtypes of affine scales and biases.
SCALE_DTYPES = ("f16", "bf16", "f32")


def looks_mlx(config: Mapping[str, Any], parts: Mapping[str, Part]) -> bool:
    """Whether a folder is MLX's: it has a `quantization` block, or packed words and no other tool's settings."""
    if config.get("quantization") is not None:
        return True
    other = config.get("quantization_config") or {}
    return "quant_method" not in other and any(
        part.dtype == "u32" and name.endswith(".weight") for name, part in parts.items()
    )


def open_mlx(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of an MLX folder. Raises `BadInput`."""
    block = mlx_config.parse(config, f"{folder.label}/config.json")
    parts = tensors.parts
    warnings = list(tensors.warnings) + list(block.warnings if block else ())
    weights: dict[str, Weight] = {}
    for name, part in sorted(parts.items()):
        module, _, suffix = name.rpartition(".")
        if suffix == GLOBAL and f"{module}.scales" in parts and f"{module}.weight" in parts:
            continue
        if suffix in ("scales", "biases") and module:
            own = _own_tensor(module, suffix, parts)
            if not own:
                continue
            warnings.append(f"{name} has no quantized weight beside it: taken as a tensor of the model's own.")
        if suffix == "weight" and module and (f"{module}.scales" in parts or part.dtype == "u32"):
            weight, warning = _weight(module, parts, block)
            warnings += warning
            weights[name] = weight
        else:
            weights[name] = dense(part)
    source = marked(
        Checkpoint(
            "mlx",
            "hf",
            folder.path("."),
            tensors.files,
            weights,
            config,
            sidecars=sidecars(folder),
            warnings=tuple(warnings),
        )
    )
    if not is_unscaled(source):
        check_unquantized(parts.values(), "another tool's layout, but config.json says MLX's")
    return source


def _own_tensor(module: str, suffix: str, parts: Mapping[str, Part]) -> bool:
    """Whether a `.scales` or `.biases` is no part of a quantized weight; raises where it half is."""
    weight = parts.get(f"{module}.weight")
    if weight is None:
        return True
    if suffix == "biases" and f"{module}.scales" not in parts:
        if weight.dtype == "u32":
            raise BadInput(f"{_where(parts, module, 'biases')}: stands beside a uint32 weight that has no .scales.")
        return True
    return False


def _where(parts: Mapping[str, Part], module: str, suffix: str) -> str:
    return f"{parts[f'{module}.{suffix}'].file}: tensor {module}.{suffix}"


def _weight(module: str, parts: Mapping[str, Part], block: MlxQuantization | None) -> tuple[Weight, list[str]]:
    """One quantized module, its arrays checked against each other and against its settings."""
    weight, scales, biases = (parts.get(f"{module}.{suffix}") for suffix in ("weight", "scales", "biases"))
    assert weight is not None
    where = _where(parts, module, "weight")
    if scales is None:
        raise BadInput(f"{where}: is uint32, as packed codes are, but has no .scales beside it.")
    if weight.dtype != "u32":
        raise BadInput(f"{where}: is {weight.dtype} but has .scales beside it; packed codes are uint32.")
    if len(weight.shape) < 2:
        raise BadInput(f"{where}: has {len(weight.shape)} dimensions; a quantized weight has two or more.")
    for part in (scales, biases):
        if part is not None and part.shape[:-1] != weight.shape[:-1]:
            raise BadInput(
                f"{part.file}: tensor {part.name}: has shape {part.shape} beside a weight of {weight.shape}."
            )
    if biases is not None and biases.shape != scales.shape:
        raise BadInput(
            f"{biases.file}: tensor {biases.name}: has shape {biases.shape} beside scales of {scales.shape}."
        )
    if biases is not None and biases.dtype != scales.dtype:
        raise BadInput(f"{biases.file}: tensor {biases.name}: is {biases.dtype} beside scales of {scales.dtype}.")
    if scales.shape[-1] == 0 or weight.shape[-1] == 0:
        raise BadInput(f"{where}: has rows of no elements.")
    scheme, reason, warnings = _scheme(module, weight, scales, biases, block)
    columns = scales.shape[-1] * _group(scheme)
    stored = {"weight": weight, "scales": scales} | ({"biases": biases} if biases is not None else {})
    shape = (*weight.shape[:-1], columns)
    if (whole := parts.get(f"{module}.{GLOBAL}")) is not None:
        scheme, stored = _with_global(module, shape, scheme, whole, block), {**stored, GLOBAL: whole}
    elif block is not None and isinstance(params := block.lookup(module), MlxParams) and params.global_scale:
        raise BadInput(f"{where}: config.json says {GLOBAL} of {module}, but it has no .{GLOBAL} beside it.")
    return Weight(f"{module}.weight", shape, scheme, stored, reason), warnings


def _with_global(
    module: str, shape: tuple[int, ...], scheme: Scheme, whole: Part, block: MlxQuantization | None
) -> MxGlobal:
    """The scheme of experts that have a global scale each; mlx-lm has no others."""
    where = f"{whole.file}: tensor {whole.name}"
    listed = block.lookup(module) if block is not None else None
    if isinstance(listed, MlxParams) and not listed.global_scale:
        raise BadInput(f"{where}: stands beside {module}, of which config.json does not say {GLOBAL}.")
    found = MxGlobal(shape[-2])
    if scheme != MxFloat("nvfp4") or found.unfit(shape):
        raise BadInput(f"{where}: only stacked experts in nvfp4 have one; {module} is {scheme.name} {list(shape)}.")
    if (whole.dtype, whole.shape) != ("f32", shape[:1]):
        raise BadInput(f"{where}: is {whole.dtype} {list(whole.shape)}; {shape[0]} experts need f32 [{shape[0]}].")
    return found


def _group(scheme: Scheme) -> int:
    grid = scheme.grid()
    assert grid is not None
    return grid.group


def _scheme(
    module: str, weight: Part, scales: Part, biases: Part | None, block: MlxQuantization | None
) -> tuple[Scheme, str, list[str]]:
    """The scheme that settings and shapes agree on, and where the settings stand."""
    where = f"{weight.file}: tensor {weight.name}"
    if block is None:
        raise BadInput(f"{where}: has .scales, but config.json has no `quantization` with its group_size and bits.")
    found = block.lookup(module)
    if found is False:
        raise BadInput(f"{where}: config.json marks {module} as dense, but it has .scales.")
    params = found if isinstance(found, MlxParams) else block.default
    if params is None:
        raise BadInput(f"{where}: config.json's quantization has group_size 0, which means dense, but it has .scales.")
    key = f"quantization.{module}" if found else "quantization"
    problem = _mismatch(params, weight, scales, biases)
    if problem is None:
        return _make(params, scales), f"config.json: {key}", []
    answers = [] if found else [p for p in _possible() if _mismatch(p, weight, scales, biases) is None]
    if len(answers) != 1:
        raise BadInput(f"{where}: config.json's {key} says {params}, but {problem}.")
    warning = (
        f"{module} is not listed in config.json's quantization, whose default does not fit: taken as {answers[0]}."
    )
    return _make(answers[0], scales), "shapes (not listed in config.json)", [warning]


def _possible() -> list[MlxParams]:
    affine = [MlxParams(bits, group, "affine") for bits in BITS for group in GROUPS]
    return affine + [MlxParams(mode.bits, mode.group, name) for name, mode in MODES.items()]


def _mismatch(params: MlxParams, weight: Part, scales: Part, biases: Part | None) -> str | None:
    """What in the stored arrays contradicts the settings, as a clause; None where nothing does."""
    if params.mode == "affine":
        if biases is None:
            return "there are no .biases, which affine needs"
        if scales.dtype not in SCALE_DTYPES:
            return f"the .scales are {scales.dtype}, affine has f16, bf16 or f32"
    else:
        if biases is not None:
            return f"there are .biases, which {params.mode} has not"
        if scales.dtype != "u8":
            return f"the .scales are {scales.dtype}, {params.mode} has u8"
    if weight.shape[-1] * 32 != scales.shape[-1] * params.group_size * params.bits:
        return f"its rows have {weight.shape[-1]} words and {scales.shape[-1]} scales"
    return None


def _make(params: MlxParams, scales: Part) -> Scheme:
    if params.mode == "affine":
        return Affine(params.bits, params.group_size, scales.dtype)
    return MxFloat(params.mode)
