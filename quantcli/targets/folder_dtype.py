"""The dtype of a folder's dense tensors: by default one in which the model works. config.json states it.

What a conversion makes anew, by source:

    GGUF         the commonest dtype of its dense matrices
    MLX          the commonest dtype of values; those of a quantized matrix have the dtype of its scales
    quantizers   the commonest dtype of the dense matrices, which are copied

In families that do not work in float16 it is bfloat16 instead. What is copied keeps its dtype, with a warning.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantcli import models
from quantcli.arrays import FLOATS, TORCH_DTYPES
from quantcli.checkpoint import Checkpoint, Weight
from quantcli.models import Architecture, SixteenBits
from quantcli.models.sixteen_bits import NESTED
from quantcli.recipes.quantizers import DEEPEST
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense
from quantcli.targets.base import Placed, Settings, config_dtype, gguf_dtype

SPELLED = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
KEYS = ("torch_dtype", "dtype")
#: Blocks of config.json that say how weights are stored, not what a part of the model is.
STORAGE = ("quantization_config", "compression_config")
#: The language model's settings in those of a model of several parts, and what these may be in themselves.
TEXT = (*NESTED, "thinker_config")


@dataclass(frozen=True)
class Chosen:
    """The dtype of converted dense tensors. instead_of: the source's dtype, if the model does not work in it."""

    dtype: str
    instead_of: str | None = None


def limits(source: Checkpoint) -> tuple[str, SixteenBits]:
    """Return the model type that decides, and the 16-bit dtypes that it works in."""
    return models.sixteen_bits(source.config_json, source.metadata)


def chosen(source: Checkpoint, target: str) -> Chosen:
    """Return the dtype of converted dense tensors in a kind of folder if none was requested."""
    dtype = gguf_dtype(source) if source.names == "gguf" else _of_folder(source)
    return Chosen(dtype) if limits(source)[1].works(dtype, target) else Chosen("bf16", dtype)


def _of_folder(source: Checkpoint) -> str:
    stored = _stored(source)
    dense, scales = _commonest(stored), _commonest(stored, with_scales=True)
    found = scales if source.kind == "mlx" else dense
    found = found or config_dtype(source.config) or scales or "f16"
    return "f32" if found == "f64" else found


def mlx_dtype(source: Checkpoint, stated: str | None) -> str | None:
    """Return the dtype of an MLX folder's dense tensors in another MLX folder. stated: the one in config.json.

    `mlx_lm.convert --dtype` leaves config.json as it was: what it says counts only where a tensor has that dtype.
    """
    stored = _stored(source)
    dtypes = _dtypes(stored, least_axes=1)
    return stated if stated is None or not dtypes or stated in dtypes else _commonest(stored)


def widens_scales(source: Checkpoint, settings: Settings) -> bool:
    """Return whether f16 scales become f32 in an MLX folder, because mlx-lm's class overflows in float16."""
    is_copied = source.kind == "mlx"
    return settings.scale_dtype is None and not is_copied and not limits(source)[1].works("f16", "mlx")


#: Schemes and shapes of weights.
Counted = Sequence[tuple[Scheme, tuple[int, ...]]]


def _stored(source: Checkpoint) -> Counted:
    """A folder's weights, without those that its family has in float32 in every dialect."""
    return _without_f32(source, source.weights.values())


def _without_f32(source: Checkpoint, weights: Iterable[Weight | Placed]) -> Counted:
    """The same of an output. Which these are is looked up only where it matters: of tensors in float32."""
    architecture = models.by_gguf(source.metadata) if source.names == "gguf" else models.find(source.config)
    return [
        (w.scheme, w.shape)
        for w in weights
        if w.scheme != Dense("f32") or architecture is None or not _is_f32(architecture, w.name)
    ]


def _is_f32(architecture: Architecture, name: str) -> bool:
    return any(found.row.f32 for dialect in ("hf", "mlx") for found in architecture.find(name, dialect))


def _commonest(weights: Counted, with_scales: bool = False) -> str | None:
    """The float dtype of most elements among matrices, else among vectors; None without any.

    with_scales: a quantized weight counts with the dtype of its scales, if these are floats.
    """
    matrices: Counter[str] = Counter()
    vectors: Counter[str] = Counter()
    for scheme, shape in weights:
        dtype = scheme.dtype if isinstance(scheme, Dense) else scheme.scales_dtype
        if dtype in FLOATS and (with_scales or isinstance(scheme, Dense)):
            (matrices if len(shape) > 1 else vectors)[dtype] += math.prod(shape)
    count = matrices or vectors
    return max(sorted(count), key=count.__getitem__) if count else None


def _dtypes(weights: Counted, least_axes: int) -> set[str]:
    """The float dtypes of dense tensors of that many axes or more."""
    return {s.dtype for s, shape in weights if isinstance(s, Dense) and s.dtype in FLOATS and len(shape) >= least_axes}


def says(config: Mapping[str, Any], depth: int = DEEPEST) -> list[str]:
    """Return every dtype that config.json states for the model and its language model, the model's first.

    >>> says({"dtype": "bfloat16", "thinker_config": {"text_config": {"torch_dtype": "float16"}}})
    ['bf16', 'f16']
    """
    own = [dtype for key in KEYS if (dtype := _dtype(config.get(key))) is not None]
    texts = [block for key in TEXT if isinstance(block := config.get(key), Mapping)] if depth else []
    return [*own, *(dtype for block in texts for dtype in says(block, depth - 1))]


def _dtype(value: Any) -> str | None:
    return TORCH_DTYPES.get(value) if isinstance(value, str) else None


def dtype_keys(config: Mapping[str, Any], dtype: str, besides: Collection[str] = ()) -> dict[str, Any]:
    """Return the keys of config.json to change so that it states this dtype (`torch_dtype`; `dtype` in transformers 5).

    So do those of a model's parts (`text_config`, `vision_config`) and of theirs. besides: dtypes that tensors have,
    too: a key that names one of them stays.
    """
    spelled = SPELLED[dtype]
    has_any = any(key in config for key in KEYS)
    made: dict[str, Any] = {} if has_any else {"torch_dtype": spelled}
    made |= {key: spelled for key in KEYS if key in config and _dtype(config[key]) not in besides}
    return made | _parts_keys(config, spelled, besides, DEEPEST)


def _parts_keys(config: Mapping[str, Any], spelled: str, besides: Collection[str], depth: int) -> dict[str, Any]:
    """The settings of a model's parts that change, whole."""
    made: dict[str, Any] = {}
    for name, block in config.items() if depth else ():
        if name.endswith("_config") and name not in STORAGE and isinstance(block, Mapping):
            keys = [key for key in KEYS if _dtype(block.get(key)) not in (None, *besides)]
            changed = dict.fromkeys(keys, spelled) | _parts_keys(block, spelled, besides, depth - 1)
            made |= {name: {**block, **changed}} if changed else {}
    return made


def agreed(
    config: Mapping[str, Any], source: Checkpoint, placed: Sequence[Placed], settings: Settings, target: str
) -> dict[str, Any]:
    """Return the keys of config.json to change so that it states the dtype of the output's dense tensors.

    A Hugging Face folder that is copied keeps them where it is quantized (values of some layouts depend on them), and
    where the model works in the dtype that they name and not in that of the tensors.
    """
    if settings.asked_dtype:
        return dtype_keys(config, settings.asked_dtype)
    found, dtypes = _commonest(_without_f32(source, placed)), dense_dtypes(source, placed)
    stated = says(config)
    if found not in SPELLED or (stated and dtypes.issuperset(stated)) or (not stated and target == "mlx"):
        return {}
    if target == "hf" and _is_copied(source, placed):
        is_dense = all(isinstance(w.scheme, Dense) for w in placed)
        if not stated or not is_dense or not limits(source)[1].works(found, target):
            return {}
    return dtype_keys(config, found, dtypes)


def dense_dtypes(source: Checkpoint, placed: Iterable[Placed]) -> set[str]:
    """Return the float dtypes of an output's dense matrices, or of its vectors if it has no matrices."""
    weights = _without_f32(source, placed)
    return _dtypes(weights, least_axes=2) or _dtypes(weights, least_axes=1)


def _is_copied(source: Checkpoint, placed: Iterable[Placed]) -> bool:
    """Whether every weight of a Hugging Face folder is stored as it was."""
    own = {name: weight.scheme for name, weight in source.weights.items()}
    return source.names == "hf" and source.kind != "mlx" and all(own.get(w.name) == w.scheme for w in placed)


def warnings(
    config: Mapping[str, Any], source: Checkpoint, placed: Sequence[Placed], settings: Settings, target: str
) -> list[str]:
    """Return a warning if the model does not work in float16 and the output is float16. config: the output's."""
    kind, sixteen_bits = limits(source)
    if not sixteen_bits.why:
        return []
    works = sixteen_bits.works("f16", target)
    fact = f"{kind} models do not work in float16 ({sixteen_bits.why})"
    if settings.asked_dtype == "f16":
        option = "--scheme" if isinstance(settings.common, Dense) else "--dtype"
        but = ", except in mlx-lm, which clips overflowing values. Other runtimes need" if works else ". Choose"
        return [f"{option} f16: {fact}{but} bf16 or f32."]
    if works or not _is_f16(config, _without_f32(source, placed), target):
        return []
    return [f"{source.root}: {fact}, but the output is float16. Convert it with --dtype bf16 or --dtype f32."]


def _is_f16(config: Mapping[str, Any], weights: Counted, target: str) -> bool:
    """Whether runtimes compute in float16: as config.json says, in mlx-lm where no scale or tensor has more bits."""
    if target == "mlx":
        scales = {s.scales_dtype for s, _ in weights}
        return (_dtypes(weights, least_axes=1) | scales).intersection(FLOATS) == {"f16"}
    stated = says(config)
    return (stated[0] if stated else _commonest(weights)) == "f16"
