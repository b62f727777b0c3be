"""MLX folders: a quantized module has `.weight` (uint32 words), `.scales` and, in affine mode, `.biases`.

config.json's `quantization` block gives bits, group_size and mode, for all modules and for single ones;
`quantization_config.json` may complete it (mlx_settings.py). Source: mlx-lm (mlx_lm/utils.py, load_model), mlx
(mlx.nn.quantize).
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
from quantcli.sources.wording import counted, either, mismatch, missing, where

#: The last part of the name of stacked experts' global scales.
GLOBAL = "global_scale"

#: The dtypes of affine scales and biases.
SCALE_DTYPES = ("f16", "bf16", "f32")


def looks_mlx(config: Mapping[str, Any], parts: Mapping[str, Part]) -> bool:
    """Return whether a folder is MLX's: it has a `quantization` block, or packed words without other settings."""
    if config.get("quantization") is not None:
        return True
    other = config.get("quantization_config") or {}
    return ("quant_method" not in other or is_ours(other)) and any(
        part.dtype == "u32" and name.endswith(".weight") for name, part in parts.items()
    )


def has_mlx_modules(config: Mapping[str, Any], parts: Mapping[str, Part]) -> bool:
    """Return whether weights are stored by MLX's settings although `quantization_config` names another quantizer.

    These are then the settings of the model that was converted, or AutoRound wrote the MLX folder.
    """
    if config.get("quantization") is None and not is_auto_round_mlx(config.get("quantization_config")):
        return False
    words = (name for name, part in parts.items() if part.dtype == "u32" and name.endswith(".weight"))
    return any(f"{name.removesuffix('.weight')}.scales" in parts for name in words)


def open_mlx(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """Open an MLX folder, or a file of one without config.json. Raises `BadInput`."""
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
            if not _is_model_tensor(module, suffix, parts):
                continue
            notes.lone.append(name)
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
            f"{folder.label}/{CONFIG}: quantization says {settings.quantizes}, but no weight is quantized. Weights are "
            "read as stored."
        )
    if unknown:
        warnings.append(
            f"{counted('module', sorted(unknown))} quantized by MLX with unknown bits and group_size, which only "
            f"{CONFIG} or {FILE} gives. Their arrays are shown as stored."
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
        check_unquantized(parts.values(), "not in the layout of MLX, which config.json describes")
    return source


def _undetermined(parts: Mapping[str, Part], settings: MlxSettings) -> set[str]:
    """Return the modules with packed words whose settings neither a file nor their shapes determine."""
    modules = {name.removesuffix(".weight") for name, part in parts.items() if part.dtype == "u32"}
    return {m for m in modules if m and not settings.answers(m) and len(_possible_by_shape(m, parts)) != 1}


def _possible_by_shape(module: str, parts: Mapping[str, Part]) -> list[MlxParams]:
    """Return the settings that fit a module's arrays; none if the arrays do not fit each other."""
    weight, scales, biases = (parts.get(f"{module}.{suffix}") for suffix in ("weight", "scales", "biases"))
    if weight is None or scales is None or len(weight.shape) < 2 or scales.shape[:-1] != weight.shape[:-1]:
        return []
    return _fitting(weight, scales, biases) if biases is None or biases.shape == scales.shape else []


class _Notes:
    """Modules that are not stored as their file says, and lone scales or biases: one warning for each kind."""

    def __init__(self) -> None:
        self.inferred: list[str] = []
        self.contradicted: list[str] = []
        self.dense: list[str] = []
        self.lone: list[str] = []

    @property
    def warnings(self) -> list[str]:
        warnings = []
        if self.inferred:
            warnings.append(
                f"{counted('module', self.inferred)} not listed in the folder's settings, whose default does not fit. "
                "Settings are inferred from the shapes."
            )
        if self.contradicted:
            warnings.append(
                f"{counted('module', self.contradicted)} not stored as {FILE} says, but as {CONFIG} says. {CONFIG} is "
                "used."
            )
        if self.dense:
            warnings.append(
                f"{counted('module', self.dense)} listed as quantized, but stored dense. Weights are read as stored."
            )
        if self.lone:
            warnings.append(
                f"{counted('tensor', self.lone)} stored without a quantized weight. Such tensors are read as the "
                "model's tensors."
            )
        return warnings


def _is_model_tensor(module: str, suffix: str, parts: Mapping[str, Part]) -> bool:
    """Return whether a `.scales` or `.biases` belongs to no quantized weight. Raises `BadInput` for lone biases."""
    weight = parts.get(f"{module}.weight")
    if weight is None:
        return True
    if suffix == "biases" and f"{module}.scales" not in parts:
        if weight.dtype == "u32":
            raise missing(parts[f"{module}.biases"], f"{module}.scales", f"{weight.name}, which is uint32,")
        return True
    return False


def _weight(module: str, parts: Mapping[str, Part], settings: MlxSettings, notes: _Notes) -> Weight:
    """Return one quantized module's weight, its arrays checked against each other and against its settings."""
    weight, scales, biases = parts[f"{module}.weight"], parts.get(f"{module}.scales"), parts.get(f"{module}.biases")
    if scales is None:
        raise missing(weight, f"{module}.scales", "a uint32 weight (packed codes)")
    if weight.dtype != "u32" or len(weight.shape) < 2:
        raise mismatch(weight, "u32 with at least 2 dimensions", f"packed codes, since {scales.name} is stored")
    for part in (scales, biases):
        if part is not None and part.shape[:-1] != weight.shape[:-1]:
            leading = ", ".join(map(str, weight.shape[:-1]))
            raise mismatch(part, f"shape [{leading}, groups]", f"{weight.name} has shape {list(weight.shape)}")
    if biases is not None and (biases.dtype, biases.shape) != (scales.dtype, scales.shape):
        raise mismatch(biases, f"{scales.dtype} {list(scales.shape)}", f"as {scales.name}")
    if scales.shape[-1] == 0 or weight.shape[-1] == 0:
        raise BadInput(f"{where(weight)}: has shape {list(weight.shape)}, which has no elements.")
    scheme, reason = _scheme(module, weight, scales, biases, settings, notes)
    columns = scales.shape[-1] * _group(scheme)
    stored = {"weight": weight, "scales": scales} | ({"biases": biases} if biases is not None else {})
    shape = (*weight.shape[:-1], columns)
    listed = next((answer.params for answer in settings.answers(module) if answer.listed), None)
    if (global_scale := parts.get(f"{module}.{GLOBAL}")) is not None:
        scheme, stored = _with_global(module, shape, scheme, global_scale, listed), {**stored, GLOBAL: global_scale}
    elif isinstance(listed, MlxParams) and listed.global_scale:
        raise missing(weight, f"{module}.{GLOBAL}", f"config.json's {GLOBAL} = true for {module}")
    return Weight(f"{module}.weight", shape, scheme, stored, reason)


def _with_global(
    module: str, shape: tuple[int, ...], scheme: Scheme, global_scale: Part, listed: MlxParams | bool | None
) -> Nvfp4Experts:
    """Return the scheme of stacked experts that each have a global scale; mlx-lm has no other weights with one.

    listed: the module's settings in a file, if it lists them. Raises `BadInput`.
    """
    if isinstance(listed, MlxParams) and not listed.global_scale:
        raise BadInput(f"{where(global_scale)}: is stored, but config.json does not set {GLOBAL} for {module}.")
    experts = Nvfp4Experts(shape[-2])
    if scheme != MxFloat("nvfp4") or experts.unfit(shape):
        raise BadInput(
            f"{where(global_scale)}: belongs to {module}, which is {scheme.name} {list(shape)}; only stacked experts "
            "in "
            "nvfp4 have a global scale."
        )
    if (global_scale.dtype, global_scale.shape) != ("f32", shape[:1]):
        raise mismatch(global_scale, f"f32 [{shape[0]}]", "one for each expert")
    return experts


def _group(scheme: Scheme) -> int:
    grid = scheme.grid()
    assert grid is not None
    return grid.group


def _scheme(
    module: str, weight: Part, scales: Part, biases: Part | None, settings: MlxSettings, notes: _Notes
) -> tuple[Scheme, str]:
    """Return the scheme on which settings and shapes agree, and the place of the settings."""
    answers = settings.answers(module)
    problems = [_problem(answer, module, weight, scales, biases) for answer in answers]
    for answer, problem in zip(answers, problems, strict=True):
        if problem is None and isinstance(answer.params, MlxParams):
            if answer is not answers[0]:
                notes.contradicted.append(module)
            return _make(answer.params, scales), f"{answer.file}: {answer.key}"
    fitting = _fitting(weight, scales, biases)
    if answers and (answers[0].listed or answers[0].params is None or len(fitting) != 1):
        raise BadInput(f"{where(weight)}: {problems[0]}.")
    if not answers and not settings.bare:
        other = f"there is no {FILE}" if settings.foreign is None else f"{FILE} is not MLX's ({settings.foreign})"
        raise BadInput(
            f"{where(weight)}: is quantized, but config.json has no `quantization` with group_size and bits, and "
            f"{other}."
        )
    if not answers:
        return _make(fitting[0], scales), "shapes (no config.json)"
    notes.inferred.append(f"{module} ({fitting[0]})")
    return _make(fitting[0], scales), "shapes (not listed in the settings)"


def _problem(answer: Answer, module: str, weight: Part, scales: Part, biases: Part | None) -> str | None:
    """Return how the stored arrays contradict an answer, as a clause; None if they do not."""
    if not isinstance(answer.params, MlxParams):
        if answer.listed:
            return f"is quantized, but {answer.file} says that {module} is dense"
        why = "has group_size 0, which means dense" if answer.file == CONFIG else "means dense"
        return f"is quantized, but {answer.file}'s {answer.key} {why}"
    difference = _mismatch(answer.params, weight, scales, biases)
    return None if difference is None else f"{answer.file}'s {answer.key} says {answer.params}, but {difference}"


def _fitting(weight: Part, scales: Part, biases: Part | None) -> list[MlxParams]:
    """Return every setting that fits the stored arrays."""
    return [params for params in _possible() if _mismatch(params, weight, scales, biases) is None]


def _possible() -> list[MlxParams]:
    affine = [MlxParams(bits, group, "affine") for bits in BITS for group in GROUPS]
    return affine + [MlxParams(mode.bits, mode.group, name) for name, mode in MODES.items()]


def _mismatch(params: MlxParams, weight: Part, scales: Part, biases: Part | None) -> str | None:
    """Return how the stored arrays contradict the settings, as a clause; None if they do not."""
    if params.mode == "affine":
        if biases is None:
            return "its .biases, which affine requires, are missing"
        if scales.dtype not in SCALE_DTYPES:
            return f"its .scales are {scales.dtype}, not {either(SCALE_DTYPES)}"
    else:
        if biases is not None:
            return f"it has .biases, which {params.mode} does not use"
        if scales.dtype != "u8":
            return f"its .scales are {scales.dtype}, not u8"
    if weight.shape[-1] * 32 != scales.shape[-1] * params.group_size * params.bits:
        return f"rows of {weight.shape[-1]} words and {scales.shape[-1]} scales do not fit these settings"
    return None


def _make(params: MlxParams, scales: Part) -> Scheme:
    if params.mode == "affine":
        return Affine(params.bits, params.group_size, scales.dtype)
    return MxFloat(params.mode)
