"""MLX folders: a quantized module has `.weight` (uint32 words), `.scales` and, in affine mode, `.biases`.

config.json's `quantization` block gives bits, group_size and mode, for all modules and for single ones; mlx_settings.py
says how `quantization_config.json` completes it. Source: mlx-lm (mlx_lm/utils.py, load_model), mlx (mlx.nn.quantize).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.errors import BadInput
from quantcli.recipes.mlx_config import MlxParams
from quantcli.recipes.quantizers import is_auto_round_mlx, is_ours
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense
from quantcli.schemes.mlx.affine import BITS, GROUPS, Affine
from quantcli.schemes.mlx.global_scale import Nvfp4Experts
from quantcli.schemes.mlx.mx_floats import MODES, MxFloat
from quantcli.sources.companions import is_unscaled, marked
from quantcli.sources.folder import CONFIG, Folder, Tensors
from quantcli.sources.hf import check_unquantized, dense
from quantcli.sources.mlx_settings import FILE, Answer, MlxSettings, path_of, read_settings

#: What ends the name of stacked experts' global scales.
GLOBAL = "global_scale"

#: The dtypes of affine scales and biases.
SCALE_DTYPES = ("f16", "bf16", "f32")


def looks_mlx(config: Mapping[str, Any], parts: Mapping[str, Part]) -> bool:
    """Whether a folder is MLX's: it has a `quantization` block, or packed words and no other tool's settings."""
    if config.get("quantization") is not None:
        return True
    other = config.get("quantization_config") or {}
    return ("quant_method" not in other or is_ours(other)) and any(
        part.dtype == "u32" and name.endswith(".weight") for name, part in parts.items()
    )


def has_mlx_modules(config: Mapping[str, Any], parts: Mapping[str, Part]) -> bool:
    """Whether MLX's settings count although `quantization_config` names another quantizer.

    It is the source's, or AutoRound wrote an MLX folder.
    """
    if config.get("quantization") is None and not is_auto_round_mlx(config.get("quantization_config")):
        return False
    words = (name for name, part in parts.items() if part.dtype == "u32" and name.endswith(".weight"))
    return any(f"{name.removesuffix('.weight')}.scales" in parts for name in words)


def open_mlx(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of an MLX folder, or of a file of one without config.json. Raises `BadInput`."""
    parts = tensors.parts
    settings = read_settings(folder, config, parts)
    warnings = [*tensors.warnings, *settings.warnings]
    unknown = _undetermined(parts, settings) if settings.bare else set()
    weights: dict[str, Weight] = {}
    notes = _Notes()
    for name, part in sorted(parts.items()):
        module, _, suffix = name.rpartition(".")
        if module in unknown and suffix in ("weight", "scales", "biases"):
            weights[name] = replace(dense(part), reason=f"{suffix} of an MLX module of unknown bits")
            continue
        if settings.bare and (module_weight := parts.get(f"{module}.weight")) and module_weight.dtype != "u32":
            weights[name] = dense(part)
            continue
        if suffix == GLOBAL and f"{module}.scales" in parts and f"{module}.weight" in parts:
            continue
        if suffix in ("scales", "biases") and module:
            if not _own_tensor(module, suffix, parts):
                continue
            notes.alone.append(name)
        if suffix == "weight" and module and (f"{module}.scales" in parts or part.dtype == "u32"):
            weights[name] = _weight(module, parts, settings, notes)
        else:
            weights[name] = dense(part)
            if suffix == "weight" and len(part.shape) > 1 and settings.is_listed_as_quantized(module):
                notes.dense.append(module)
    warnings += settings.differences(name.removesuffix(".weight") for name in weights)
    warnings += notes.warnings
    if settings.quantizes and all(isinstance(weight.scheme, Dense) for weight in weights.values()):
        warnings.append(
            f"{folder.label}/{CONFIG}: quantization says {settings.quantizes}, but no weight is quantized: read as "
            "stored."
        )
    if unknown:
        warnings.append(
            f"{len(unknown)} modules, {min(unknown)} the first, hold codes of MLX whose bits and group_size only "
            f"{CONFIG} or {FILE} gives: their arrays are shown as stored."
        )
    source = marked(
        Checkpoint(
            "mlx",
            "hf",
            folder.path("."),
            tensors.files,
            weights,
            config,
            beside=path_of(folder),
            warnings=tuple(warnings),
            malformed=settings.malformed,
        )
    )
    if not is_unscaled(source):
        check_unquantized(parts.values(), "another tool's layout, but config.json says MLX's")
    return source


def _undetermined(parts: Mapping[str, Part], settings: MlxSettings) -> set[str]:
    """The modules with packed words of which no file gives the settings, and the shapes do not decide them."""
    modules = {name.removesuffix(".weight") for name, part in parts.items() if part.dtype == "u32"}
    return {m for m in modules if m and not settings.answers(m) and len(_alone(m, parts)) != 1}


def _alone(module: str, parts: Mapping[str, Part]) -> list[MlxParams]:
    """The settings that a module's arrays leave possible; none where they do not belong together."""
    weight, scales, biases = (parts.get(f"{module}.{suffix}") for suffix in ("weight", "scales", "biases"))
    if weight is None or scales is None or len(weight.shape) < 2 or scales.shape[:-1] != weight.shape[:-1]:
        return []
    return _fitting(weight, scales, biases) if biases is None or biases.shape == scales.shape else []


class _Notes:
    """Modules whose settings are not those that their file gives, tensors of no module: one warning for each kind."""

    def __init__(self) -> None:
        self.inferred: list[str] = []
        self.contradicted: list[str] = []
        self.dense: list[str] = []
        self.alone: list[str] = []

    @property
    def warnings(self) -> list[str]:
        found = []
        if self.inferred:
            found.append(
                f"{_counted(self.inferred)} not listed in the folder's settings, whose default does not fit: the "
                "shapes decide."
            )
        if self.contradicted:
            found.append(f"{_counted(self.contradicted)} stored otherwise than {FILE} says: {CONFIG} counts.")
        if self.dense:
            found.append(f"{_counted(self.dense)} stored dense, but listed as quantized: read as stored.")
        if self.alone:
            first, more = self.alone[0], len(self.alone) - 1
            others = f", and {more} more such tensors" if more else ""
            found.append(f"{first} has no quantized weight next to it{others}: taken as tensors of the model itself.")
        return found


def _counted(modules: list[str]) -> str:
    """How many modules, as the subject of a sentence, with its verb."""
    first = modules[0]
    return f"{first} is" if len(modules) == 1 else f"{len(modules)} modules, {first} the first, are"


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


def _weight(module: str, parts: Mapping[str, Part], settings: MlxSettings, notes: _Notes) -> Weight:
    """One quantized module, its arrays checked against each other and against its settings."""
    weight, scales, biases = parts[f"{module}.weight"], parts.get(f"{module}.scales"), parts.get(f"{module}.biases")
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
    scheme, reason = _scheme(module, weight, scales, biases, settings, notes)
    columns = scales.shape[-1] * _group(scheme)
    stored = {"weight": weight, "scales": scales} | ({"biases": biases} if biases is not None else {})
    shape = (*weight.shape[:-1], columns)
    listed = next((answer.params for answer in settings.answers(module) if answer.listed), None)
    if (whole := parts.get(f"{module}.{GLOBAL}")) is not None:
        scheme, stored = _with_global(module, shape, scheme, whole, listed), {**stored, GLOBAL: whole}
    elif isinstance(listed, MlxParams) and listed.global_scale:
        raise BadInput(f"{where}: config.json says {GLOBAL} of {module}, but it has no .{GLOBAL} beside it.")
    return Weight(f"{module}.weight", shape, scheme, stored, reason)


def _with_global(
    module: str, shape: tuple[int, ...], scheme: Scheme, whole: Part, listed: MlxParams | bool | None
) -> Nvfp4Experts:
    """The scheme of experts that have a global scale each; mlx-lm has no others. listed: what a file says of them."""
    where = f"{whole.file}: tensor {whole.name}"
    if isinstance(listed, MlxParams) and not listed.global_scale:
        raise BadInput(f"{where}: stands beside {module}, of which config.json does not say {GLOBAL}.")
    found = Nvfp4Experts(shape[-2])
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
    module: str, weight: Part, scales: Part, biases: Part | None, settings: MlxSettings, notes: _Notes
) -> tuple[Scheme, str]:
    """The scheme that settings and shapes agree on, and where the settings stand."""
    where = f"{weight.file}: tensor {weight.name}"
    answers = settings.answers(module)
    problems = [_problem(answer, module, weight, scales, biases) for answer in answers]
    for answer, problem in zip(answers, problems, strict=True):
        if problem is None and isinstance(answer.params, MlxParams):
            if answer is not answers[0]:
                notes.contradicted.append(module)
            return _make(answer.params, scales), f"{answer.file}: {answer.key}"
    fitting = _fitting(weight, scales, biases)
    if answers and (answers[0].listed or answers[0].params is None or len(fitting) != 1):
        raise BadInput(f"{where}: {problems[0]}.")
    if not answers and not settings.bare:
        lacking = f"no {FILE} gives them" if settings.foreign is None else f"{FILE} is not MLX's ({settings.foreign})"
        raise BadInput(
            f"{where}: has .scales, but config.json has no `quantization` with its group_size and bits, and {lacking}."
        )
    if not answers:
        return _make(fitting[0], scales), "shapes (no config.json)"
    notes.inferred.append(f"{module} ({fitting[0]})")
    return _make(fitting[0], scales), "shapes (not listed in the settings)"


def _problem(answer: Answer, module: str, weight: Part, scales: Part, biases: Part | None) -> str | None:
    """What the stored arrays contradict in an answer, as a clause; None where nothing does."""
    if not isinstance(answer.params, MlxParams):
        if answer.listed:
            return f"{answer.file} marks {module} as dense, but it has .scales"
        why = "has group_size 0, which means dense" if answer.file == CONFIG else "means dense"
        return f"{answer.file}'s {answer.key} {why}, but it has .scales"
    found = _mismatch(answer.params, weight, scales, biases)
    return None if found is None else f"{answer.file}'s {answer.key} says {answer.params}, but {found}"


def _fitting(weight: Part, scales: Part, biases: Part | None) -> list[MlxParams]:
    """Every setting that the stored arrays leave possible."""
    return [params for params in _possible() if _mismatch(params, weight, scales, biases) is None]


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
