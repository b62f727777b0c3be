"""Hugging Face folder: names as in the source; dense tensors, the layouts of compressed-tensors and bitsandbytes, bare
8-bit floats. A quantized HF source keeps its own layout.

Source: transformers' `save_pretrained`: shards, index where there are several, config.json without storage settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from quantcli.checkpoint import Checkpoint
from quantcli.errors import NotPossible
from quantcli.models.translate import is_turned
from quantcli.schemes import hugging_face
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense
from quantcli.schemes.gpt_oss import GptOss
from quantcli.targets import hf_quantized, hf_readers
from quantcli.targets.base import Draft, Left, OutputFile, Placed, Settings, config_dtype, dense_scheme, gguf_dtype
from quantcli.targets.mlx import STORAGE_KEYS, beside, dense_dtype, dtype_keys, stored_config, tie_settings
from quantcli.targets.names import Model, Named
from quantcli.targets.shards import index_file, json_file, shards

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


#: What is dense in a gpt-oss checkpoint, as its config.json says it.
DENSE = ("model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head")


class HfTarget:
    """`--to hf`."""

    label = "hf"
    said = "a Hugging Face folder"

    def drafts(self, source: Checkpoint, settings: Settings) -> tuple[list[Draft], list[Left], list[str]]:
        model = Model.of(source)
        if source.names == "gguf":
            model.known()
        named, left, warnings = model.named("hf")
        return [_draft(one, source, settings) for one in named], left, warnings

    def scheme(self, name: str, scale_dtype: str, shape: tuple[int, ...] = ()) -> Scheme | None:
        return dense_scheme(name) or hugging_face.named(name, scale_dtype, shape)

    def holders(self, scale_dtype: str) -> list[Scheme]:
        return []

    def keeps(self, source: Checkpoint, scheme: Scheme) -> bool:
        return scheme.family in FAMILIES

    def files(
        self, source: Checkpoint, placed: Sequence[Placed], settings: Settings
    ) -> tuple[list[OutputFile], list[str]]:
        is_kept = any(w.scheme.family in FAMILIES for w in placed) and not hf_quantized.changed(placed)
        quantization = {} if is_kept else hf_quantized.settings(placed, str(source.root))
        placed = [hf_quantized.called(w) for w in placed]
        files, where = shards(placed, settings.shard_size, {**(source.header if is_kept else {}), "format": "pt"})
        config = _config(source, stored_config(source, settings), placed, settings, is_kept=is_kept)
        config |= {"quantization_config": quantization} if quantization else {}
        config |= tie_settings(source, "hf")
        # The settings' further files say what config.json said before any of the weights became dense.
        is_dense = not is_kept and not quantization
        further, notes = beside(source, layouts=is_kept and not _decoded(source, placed), dense=is_dense)
        notes = [*notes, *hf_quantized.odd_blocks(placed)]
        index = [index_file(where, placed)] if len(files) > 1 else []
        notes += [] if is_kept else hf_readers.unloadable(placed)
        return [*files, *index, json_file("config.json", config), *further], notes


def _draft(named: Named, source: Checkpoint, settings: Settings) -> Draft:
    """A weight under its Hugging Face name; gpt-oss's experts have a packed layout, transposed to the dense one."""
    weight, rows, shape = named.source.weight, named.source.rows, named.source.shape
    turned = named.found is not None and any(is_turned(op, weight) for op in named.found.row.ops)
    return Draft(
        named.name, shape, named.subject, _dtype(named, source, settings), weight, rows,
        stays=hf_quantized.stays_dense(named.name, shape), turned=turned, packed=GptOss() if turned else None,
    )  # fmt: skip


def _config(
    source: Checkpoint, stored: Mapping[str, Any], placed: Sequence[Placed], settings: Settings, *, is_kept: bool
) -> dict[str, Any]:
    """config.json: storage settings go with the layout that they describe, the dtype follows what was decoded."""
    decoded = _decoded(source, placed)
    if is_kept:
        config = {k: v for k, v in stored.items() if k != "_name_or_path"}
        if source.kind != "gpt-oss" and any(w.scheme == GptOss() for w in placed):
            return config | {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": list(DENSE)}}
        return config | _left_dense(source, decoded)
    config = {k: v for k, v in stored.items() if k not in STORAGE_KEYS}
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


def _decoded(source: Checkpoint, placed: Sequence[Placed]) -> list[Placed]:
    """The weights that were quantized and are dense now."""
    return [w for w in placed if isinstance(w.scheme, Dense) and _was_quantized(w, source)]


def _was_quantized(placed: Placed, source: Checkpoint) -> bool:
    weight = source.weights.get(placed.name)
    return weight is None or not isinstance(weight.scheme, Dense)


def _dtype(named: Named, source: Checkpoint, settings: Settings) -> str:
    if source.names == "gguf":
        return dense_dtype(named, source, settings.dtype or gguf_dtype(source))
    if isinstance(named.source.weight.scheme, Dense):
        return dense_dtype(named, source, settings.dtype)
    return settings.dtype or config_dtype(source.config) or "f16"
