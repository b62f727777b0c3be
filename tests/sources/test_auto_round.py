"""AutoRound's folders: packings by name, settings of single modules, and modules that no entry lists.

The hashes are of what AutoRound's own QuantLinear (auto_round_extension/torch/qlinear_torch.py, 0.16) makes of the
arrays that tests/packers.py writes, which are also those that it packs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.errors import BadInput, NotPossible
from quantcli.sources.detect import open_source
from tests import packers
from tests.builders import folder_of, safetensors_bytes
from tests.conversions import values

K, DOWN, UP = (f"model.layers.0.{name}" for name in ("self_attn.k_proj", "mlp.down_proj", "mlp.up_proj"))
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 256,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": 64,
}  # fmt: skip
SHAPES = {K: (64, 128), DOWN: (128, 256), UP: (256, 128)}
#: Bits -> SHA-256 of the float32 values that AutoRound makes of codes with zero points as they are.
OWN = {
    2: "8b07f44a422def34c8d65dc98b9012ab243a42ad054fbfdc625efe82f149eebb",
    3: "d2ab888e5c4d1d3e0f80377a81234d2901b613284bc4d162ccec255ba6d2009d",
    4: "624372fd699bcdb0ae02136c7511a78df3c2ff7e7a0bd806541e04a578fbffbf",
    8: "31719f7503fbcb0580d198fe177c825df8a504e8bc29484445a9fce7f07498b7",
}


def folder(
    root: Path, modules: dict[str, tuple[int, int]], layout: str = "gptq", config: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[Path, dict[str, packers.Grid]]:  # fmt: skip
    """A folder of packed modules, module -> bits and group, and what their arrays mean."""
    grids = {name: packers.random_grid(SHAPES[name], bits, group, False) for name, (bits, group) in modules.items()}
    tensors = {}
    for name, grid in grids.items():
        arrays = packers.awq(grid) if layout == "awq" else packers.gptq(grid, modules[name][0], layout)
        tensors |= {name + suffix: array for suffix, array in arrays.items() if suffix != ".g_idx"}
    block = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False, "data_type": "int", **settings}
    return folder_of(root, tensors, {**CONFIG, "quantization_config": block, **(config or {})}), grids


def assert_read(source: Path, grids: dict[str, packers.Grid]) -> None:
    found = values(source)
    for name, grid in grids.items():
        wide = np.repeat(grid.scales, grid.group, axis=1), np.repeat(grid.zeros, grid.group, axis=1)
        wanted = ((grid.codes - wide[1]).astype(np.float16) * wide[0]).astype(np.float32)
        assert np.array_equal(found[f"{name}.weight"], wanted), name


@pytest.mark.parametrize(
    ("packing", "layout"),
    [("auto_round:auto_gptq", "gptq"), ("auto_round:gptq", "gptq"), ("auto", "gptq"), (None, "gptq"),
     ("auto_round", "gptq_v2"), ("auto_round:gptqmodel", "gptq_v2"),
     ("auto_round:auto_awq", "awq"), ("auto_round:awq", "awq")],
)  # fmt: skip
def test_packings_are_read_as_their_name_says(packing: str | None, layout: str, tmp_path: Path) -> None:
    assert_read(*folder(tmp_path / "m", {K: (4, 32), UP: (4, 32)}, layout, packing_format=packing))


@pytest.mark.parametrize("bits", OWN)
def test_zero_points_of_its_own_packing_are_stored_as_they_are(bits: int, tmp_path: Path) -> None:
    source, _ = folder(tmp_path / "m", {K: (bits, 32)}, "gptq_v2", bits=bits, packing_format="auto_round")
    found = values(source)[f"{K}.weight"].astype("<f4") + np.float32(0)
    assert hashlib.sha256(found.tobytes()).hexdigest() == OWN[bits]


@pytest.mark.parametrize(
    "packing",
    ["auto_round:llm_compressor", "auto_round:fp8_static", "auto_round:fake", "auto_round:llm_compressor_nvfp4_e5m3"],
)
def test_other_packings_are_refused_by_name(packing: str, tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match=packing):
        open_source(folder(tmp_path / "m", {K: (4, 32)}, packing_format=packing)[0])


#: What -> an entry, bits and group of the module that it is for.
ENTRIES: dict[str, tuple[dict[str, Any], int, int]] = {
    "bits alone": ({"bits": 8}, 8, 32),
    "bits of all": ({"bits": 4}, 4, 32),
    "null fields": ({"bits": 8, "group_size": None, "sym": None, "data_type": None}, 8, 32),
    "null bits": ({"bits": None, "group_size": 64}, 4, 64),
    "a group alone": ({"group_size": 64}, 4, 64),
    "nothing": ({}, 4, 32),
    "whole rows": ({"group_size": -1}, 4, -1),
}


@pytest.mark.parametrize("what", ENTRIES)
@pytest.mark.parametrize("key", [DOWN, ".*down_proj.*"])
@pytest.mark.parametrize("layout", ["gptq", "awq"])
def test_entries_inherit_what_they_leave_out(layout: str, key: str, what: str, tmp_path: Path) -> None:
    entry, bits, group = ENTRIES[what]
    source, grids = folder(
        tmp_path / "m", {K: (4, 32), DOWN: (4 if layout == "awq" else bits, group)}, layout,
        packing_format=f"auto_round:auto_{layout}", extra_config={key: entry},
    )  # fmt: skip
    if layout == "awq" and bits != 4:
        with pytest.raises(NotPossible, match=r"bits 8 "):
            open_source(source)
        return
    assert open_source(source).warnings == ()
    assert_read(source, grids)


@pytest.mark.parametrize("layout", ["gptq", "awq"])
@pytest.mark.parametrize("entry", [{"bits": 16}, {"bits": 16, "data_type": "float", "group_size": None}, {"bits": 32}])
def test_entries_of_more_than_8_bits_are_dense(entry: dict[str, Any], layout: str, tmp_path: Path) -> None:
    settings = {"packing_format": f"auto_round:auto_{layout}", "extra_config": {DOWN: entry}}
    source, grids = folder(tmp_path / "m", {K: (4, 32)}, layout, **settings)
    with_dense = {f"{DOWN}.weight": np.ones(SHAPES[DOWN], np.float16)}
    (source / "model-2.safetensors").write_bytes(safetensors_bytes(with_dense))
    assert open_source(source).warnings == ()
    assert_read(source, grids)
    with pytest.raises(BadInput, match=r"down_proj.*dense"):
        open_source(folder(tmp_path / "n", {K: (4, 32), DOWN: (4, 32)}, layout, **settings)[0])


def test_dynamic_entries_of_gptqmodel_inherit_null_fields(tmp_path: Path) -> None:
    source, grids = folder(
        tmp_path / "m", {K: (4, 32), DOWN: (8, 32)}, quant_method="gptq",
        dynamic={"+:.*down_proj": {"bits": 8, "group_size": None, "desc_act": None}},
    )  # fmt: skip
    assert_read(source, grids)


@pytest.mark.parametrize("method", ["gptq", "auto-round"])
@pytest.mark.parametrize(
    ("bits", "group"), [(8, 32), (2, 32), (3, 32), (4, 64), (8, 128), (8, 256), (4, 256)],
)  # fmt: skip
def test_modules_that_no_entry_lists_are_read_by_their_row_length(
    method: str, bits: int, group: int, tmp_path: Path
) -> None:
    modules = {K: (4, 32), UP: (4, 32), DOWN: (bits, group)}
    source, grids = folder(tmp_path / "m", modules, quant_method=method)
    warnings = [text for text in open_source(source).warnings if DOWN in text]
    assert len(warnings) == 1 and f"bits {bits}" in warnings[0]
    assert_read(source, grids)


def test_a_model_without_a_table_has_no_row_lengths(tmp_path: Path) -> None:
    source, _ = folder(tmp_path / "m", {K: (4, 32), DOWN: (8, 32)}, config={"model_type": "nobody_knows"})
    with pytest.raises(BadInput, match="down_proj"):
        open_source(source)


def test_default_bits_that_no_module_has_are_an_error(tmp_path: Path) -> None:
    source, _ = folder(tmp_path / "m", {K: (8, 32), DOWN: (8, 32)})
    with pytest.raises(BadInput, match="bits 4"):
        open_source(source)


@pytest.mark.parametrize("group", [64, 128, 16])
def test_groups_of_awq_that_no_entry_lists(group: int, tmp_path: Path) -> None:
    source, grids = folder(
        tmp_path / "m", {K: (4, 32), UP: (4, 32), DOWN: (4, group)}, "awq", quant_method="awq", version="gemm"
    )
    warnings = [text for text in open_source(source).warnings if DOWN in text]
    assert len(warnings) == 1 and str(group) in warnings[0]
    assert_read(source, grids)


EXPERT, TOWER = "model.layers.0.mlp.experts.0.up_proj", "visual.layers.0.mlp.up_proj"
NEVER = (
    "model.embed_tokens", "lm_head", "model.norm", "model.layers.0.input_layernorm", "model.layers.0.mlp.gate", TOWER
)  # fmt: skip
BLOCKS = {
    "none": {},
    "a name": {"block_name_to_quantize": "model.layers"},
    "two names": {"to_quant_block_names": "model.layers, model.other.layers"},
    "a list": {"to_quant_block_names": ["model.layers"]},
    "lists of blocks": {"to_quant_block_names": [["model.layers.0", "model.layers.1"]]},
    "another spelling": {"block_name_to_quantize": "model.language_model.layers"},
}
#: What -> settings, and which dense modules these call quantized.
CALLED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    **{what: (settings, (DOWN, EXPERT)) for what, settings in BLOCKS.items()},
    "16 bits by name": ({**BLOCKS["a name"], "extra_config": {DOWN: {"bits": 16}}}, (EXPERT,)),
    "16 bits by expression": ({**BLOCKS["a list"], "extra_config": {".*(down|up)_proj": {"bits": 16}}}, ()),
    "a name before an expression": (
        {**BLOCKS["a name"], "extra_config": {DOWN: {"bits": 4}, "mlp": {"bits": 16}}}, (DOWN,)
    ),
    "the head": ({**BLOCKS["a name"], "quant_lm_head": True}, (DOWN, EXPERT, "lm_head")),
}  # fmt: skip


@pytest.mark.parametrize("what", CALLED)
@pytest.mark.parametrize("packing", ["auto_round:auto_gptq", "auto_round", "auto_round:auto_awq"])
def test_dense_matrices_that_settings_call_quantized_are_counted(packing: str, what: str, tmp_path: Path) -> None:
    settings, called = CALLED[what]
    layout = "awq" if "awq" in packing else "gptq_v2" if packing == "auto_round" else "gptq"
    source, _ = folder(tmp_path / "m", {K: (4, 32)}, layout, packing_format=packing, **settings)
    stored = {DOWN, EXPERT, *NEVER} - ({TOWER} if what == "none" else set())
    dense = {f"{name}.weight": np.ones((32,) if "norm" in name else (32, 64), np.float16) for name in sorted(stored)}
    (source / "model-2.safetensors").write_bytes(safetensors_bytes(dense))
    said = [text for text in open_source(source).warnings if "stored dense" in text]
    assert len(said) == bool(called)
    count = f"{len(called)} matrices" if len(called) > 1 else "".join(called)
    assert all(count in text and f"{min(called)}.weight" in text for text in said)


@pytest.mark.parametrize("key", ["block_name_to_quantize", "to_quant_block_names"])
@pytest.mark.parametrize("value", [7, {"model.layers": 1}, [None], [["model.layers", 3]]])
def test_names_of_blocks_that_are_none_are_an_error(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=key):
        open_source(folder(tmp_path / "m", {K: (4, 32)}, **{key: value})[0])
