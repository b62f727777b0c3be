"""Hugging Face folder: names as in the source; dense tensors, the layouts of compressed-tensors and bitsandbytes, bare
8-bit floats. A quantized HF source keeps its own layout.

Source: transformers' `save_pretrained`: shards, index where there are several, config.json without storage settings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from quantcli.checkpoint import Checkpoint
from quantcli.errors import NotPossible
from quantcli.schemes import hugging_face
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense
from quantcli.targets import hf_layouts
from quantcli.targets.base import Draft, Left, OutputFile, Placed, Settings, config_dtype, dense_scheme, gguf_dtype
from quantcli.targets.mlx import STORAGE_KEYS, dense_dtype, dtype_keys
from quantcli.targets.names import Model, Named
from quantcli.targets.shards import copied_files, index_file, json_file, shards

#: Families whose stored layout is a Hugging Face one.
FAMILIES = (
    "awq", "awq-gemv", "awq-gemv-fast", "gptq", "ct", "fp8", "modelopt", "quark", "bnb", "hqq", "torchao", "gpt-oss",
    "bare",
)  # fmt: skip

#: `quant_method` -> the key that lists modules which are dense; others have none that is a plain list of names.
DENSE_MODULES = {
    "awq": "modules_to_not_convert", "mxfp4": "modules_to_not_convert", "fp8": "modules_to_not_convert",
    "fbgemm_fp8": "modules_to_not_convert", "torchao": "modules_to_not_convert", "compressed-tensors": "ignore",
    "modelopt": "ignore", "quark": "exclude", "bitsandbytes": "llm_int8_skip_modules", "hqq": "skip_modules",
}  # fmt: skip


class HfTarget:
    """`--to hf`."""

    label = "hf"
    said = "a Hugging Face folder"

    def drafts(self, source: Checkpoint, settings: Settings) -> tuple[list[Draft], list[Left], list[str]]:
        model = Model.of(source)
        if source.names == "gguf":
            model.known()
        named, left = model.named("hf")
        drafts = [
            Draft(
                n.name,
                n.source.shape,
                n.subject,
                _dtype(n, source, settings),
                n.source.weight,
                n.source.rows,
                stays=hf_layouts.stays_dense(n.name, n.source.shape),
                # transformers' dense tensors of gpt-oss's experts are (experts, inputs, outputs).
                turned=n.source.weight.scheme.family == "gpt-oss",
            )
            for n in named
        ]
        return drafts, left, []

    def scheme(self, name: str, scale_dtype: str, shape: tuple[int, ...] = ()) -> Scheme | None:
        return dense_scheme(name) or hugging_face.named(name, scale_dtype, shape)

    def holders(self, scale_dtype: str) -> list[Scheme]:
        return []

    def keeps(self, source: Checkpoint, scheme: Scheme) -> bool:
        return scheme.family in FAMILIES

    def files(
        self, source: Checkpoint, placed: Sequence[Placed], settings: Settings
    ) -> tuple[list[OutputFile], list[str]]:
        is_kept = any(w.stored for w in placed if w.scheme.family in FAMILIES) and not hf_layouts.changed(placed)
        quantization = {} if is_kept else hf_layouts.settings(placed, str(source.root))
        placed = [hf_layouts.called(w) for w in placed]
        files, where = shards(placed, settings.shard_size, {**(source.header if is_kept else {}), "format": "pt"})
        config = _config(source, placed, settings, is_kept=is_kept)
        config |= {"quantization_config": quantization} if quantization else {}
        index = [index_file(where, placed)] if len(files) > 1 else []
        copies = copied_files(source, settings=is_kept)
        return [*files, *index, json_file("config.json", config), *copies], []


def _config(source: Checkpoint, placed: Sequence[Placed], settings: Settings, *, is_kept: bool) -> dict[str, Any]:
    """config.json: storage settings go with the layout that they describe, the dtype follows what was decoded."""
    decoded = [w for w in placed if isinstance(w.scheme, Dense) and _was_quantized(w, source)]
    if is_kept:
        config = {k: v for k, v in source.config.items() if k != "_name_or_path"}
        return config | _left_dense(source, decoded)
    config = {k: v for k, v in source.config.items() if k not in STORAGE_KEYS}
    dtypes = {w.scheme.name for w in decoded}
    dtype = settings.asked_dtype or (dtypes.pop() if len(dtypes) == 1 else None)
    return config | (dtype_keys(config, dtype) if dtype else {})


def _left_dense(source: Checkpoint, decoded: Sequence[Placed]) -> dict[str, Any]:
    """The settings of a layout that is kept, with the modules that are dense now named as such."""
    if not decoded or "quantization_config" not in source.config:
        return {}
    settings = dict(source.config["quantization_config"])
    method = settings.get("quant_method")
    modules = sorted(w.name.removesuffix(".weight") for w in decoded)
    if method == "gptq":
        dynamic: dict[str, Any] = {f"-:{re.escape(module)}$": {} for module in modules}
        dynamic |= settings.get("dynamic") or {}
        return {"quantization_config": settings | {"dynamic": dynamic}}
    key = DENSE_MODULES.get(str(method))
    if key is None:
        raise NotPossible(
            f"{source.root}: {decoded[0].name} cannot be dense beside quantized weights: settings of {method} have no "
            "list of such modules; make all weights dense."
        )
    listed = [*(settings.get(key) or ()), *(module for module in modules if module not in (settings.get(key) or ()))]
    return {"quantization_config": settings | {key: listed}}


def _was_quantized(placed: Placed, source: Checkpoint) -> bool:
    weight = source.weights.get(placed.name)
    return weight is None or not isinstance(weight.scheme, Dense)


def _dtype(named: Named, source: Checkpoint, settings: Settings) -> str:
    if source.names == "gguf":
        return dense_dtype(named, source, settings.dtype or gguf_dtype(source))
    if isinstance(named.source.weight.scheme, Dense):
        return dense_dtype(named, source, settings.dtype)
    return settings.dtype or config_dtype(source.config) or "f16"
