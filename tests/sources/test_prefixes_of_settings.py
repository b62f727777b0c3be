"""Settings that name modules under another prefix than the tensors': they are those modules' all the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.errors import BadInput
from quantcli.sources.detect import open_source
from quantcli.sources.listed import globs, listed
from quantcli.sources.modules import mentions_module, names_module
from tests import packers
from tests.builders import BF16, folder_of
from tests.conversions import values
from tests.packers import F8, Arrays

NEW, OLD, PLAIN = "model.language_model.layers.0.", "language_model.model.layers.0.", "model.layers.0."
PAIRS = [(NEW, OLD), (OLD, NEW), (NEW, PLAIN), (OLD, PLAIN), (PLAIN, NEW), (NEW, NEW)]
ONE, OTHER = "mlp.up_proj", "mlp.down_proj"
SHAPE = (32, 64)
CT = {"quant_method": "compressed-tensors", "format": "pack-quantized"}


def weights(bits: int, group: int) -> dict[str, Any]:
    return {"weights": {"num_bits": bits, "type": "int", "strategy": "group", "group_size": group, "symmetric": True}}


def targets(place: Callable[[str], str]) -> dict[str, Any]:
    """compressed-tensors, by names; the rest by their class."""
    groups = {"a": {"targets": [place(ONE)], **weights(8, 64)}, "b": {"targets": ["Linear"], **weights(4, 32)}}
    return {**CT, "config_groups": groups}


def expressions(place: Callable[[str], str]) -> dict[str, Any]:
    groups = {"a": {"targets": [f"re:{re.escape(place(ONE))}$"], **weights(8, 64)}, "b": {
        "targets": [f"re:{re.escape(place(OTHER))}$"], **weights(4, 32)}}  # fmt: skip
    return {**CT, "config_groups": groups}


GPTQ = {"bits": 4, "group_size": 32, "sym": True, "desc_act": False}


def dynamic(place: Callable[[str], str]) -> dict[str, Any]:
    """GPTQModel."""
    rules = {f"+:{re.escape(place(ONE))}$": {"bits": 8, "group_size": 64}}
    return {**GPTQ, "quant_method": "gptq", "dynamic": rules}


def extra(place: Callable[[str], str]) -> dict[str, Any]:
    """AutoRound."""
    own = {place(ONE): {"bits": 8, "group_size": 64}}
    return {**GPTQ, "quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "extra_config": own}


def ct_arrays(grid: packers.Grid, bits: int) -> Arrays:
    return packers.compressed(grid, bits, packers.stream, True)


def gptq_arrays(grid: packers.Grid, bits: int) -> Arrays:
    return packers.gptq(grid, bits, "gptq")


SETTINGS = {
    "ct-targets": (targets, ct_arrays, BF16), "ct-expressions": (expressions, ct_arrays, BF16),
    "gptq-dynamic": (dynamic, gptq_arrays, np.float16), "autoround-extra": (extra, gptq_arrays, np.float16),
}  # fmt: skip


@pytest.mark.parametrize(("stored", "said"), PAIRS)
@pytest.mark.parametrize("kind", SETTINGS)
def test_a_module_of_its_own_settings_has_them(kind: str, stored: str, said: str, tmp_path: Path) -> None:
    """8 bits in groups of 64, where all others have 4 bits in groups of 32."""
    settings, arrays_of, dtype = SETTINGS[kind]
    tensors: Arrays = {}
    meant = {}
    for module, bits, group in ((ONE, 8, 64), (OTHER, 4, 32)):
        grid = packers.random_grid(SHAPE, bits, group, True, dtype)
        tensors |= packers.beside(stored + module, arrays_of(grid, bits))
        meant[f"{stored}{module}.weight"] = grid.values.astype(dtype).astype(np.float32)
    config = {"model_type": "unheard_of", "quantization_config": settings(lambda module: said + module)}
    folder = folder_of(tmp_path, tensors, config)
    found = values(folder)
    assert all(np.array_equal(found[name], wanted) for name, wanted in meant.items())
    assert open_source(folder).warnings == ()


def fp8(root: Path, listed: list[str], stored: str) -> Path:
    """A quantized module and a dense one."""
    tensors = {
        f"{stored}{ONE}.weight": np.ones(SHAPE, F8), f"{stored}{ONE}.weight_scale_inv": np.ones((1, 1), np.float32),
        f"{stored}{OTHER}.weight": np.ones(SHAPE, BF16),
    }  # fmt: skip
    settings = {"quant_method": "fp8", "weight_block_size": [32, 64], "modules_to_not_convert": listed}
    return folder_of(root, tensors, {"model_type": "unheard_of", "quantization_config": settings})


@pytest.mark.parametrize(("stored", "said"), [(NEW, OLD), (OLD, NEW), (NEW, PLAIN), (PLAIN, NEW), (PLAIN, OLD)])
def test_a_list_under_another_prefix_is_read_with_a_warning(stored: str, said: str, tmp_path: Path) -> None:
    """Codes stay codes, dense matrices dense. Without a warning a list names the ends of names too."""
    for number, names in enumerate(([said + OTHER], [said + ONE, stored + OTHER])):
        source = open_source(fp8(tmp_path / str(number), names, stored))
        assert source.weights[f"{stored}{ONE}.weight"].scheme.name.startswith("fp8")
        assert source.weights[f"{stored}{OTHER}.weight"].scheme.name == "bf16"
        assert len(source.warnings) == 1


def test_a_list_that_names_codes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="up_proj"):
        open_source(fp8(tmp_path, [NEW + ONE], NEW))


def test_lists_are_read_as_loaders_read_them() -> None:
    gate = "model.layers.12.mlp.gate"
    for entry in (gate, "model.layers.12", "mlp.gate", "gate"):
        assert names_module([entry], gate) and mentions_module([entry], gate)
    for entry in ("mlp", "layers.12", "model.layers.*.mlp", "re:.*gate$", "*.gate", "re:^model.layers"):
        assert not names_module([entry], gate) and mentions_module([entry], gate)
    for entry in ("lp.gate", "model.layers.1", "gat", "mlp.gate.x", ""):
        assert not mentions_module([entry], gate)
    assert listed(("a", "b.*")).globs.match("b.c") and not globs(("a.b",)).match("a.b.c")


def test_a_long_list_is_asked_of_many_modules(tmp_path: Path) -> None:
    """As Qwen3.5's FP8 releases have it: 700 names, 30 000 modules; comparing all pairs took minutes."""
    names = tuple(f"model.language_model.layers.{layer}.{number}" for layer in range(40) for number in range(18))
    asked = (f"model.language_model.layers.{n % 40}.mlp.experts.{n}.up_proj" for n in range(10_000))
    assert not any(mentions_module(names, module) for module in asked)
