"""Settings of a quantizer that nobody reads, or that what is stored contradicts, are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import BadInput, NotPossible
from quantcli.sources.detect import open_folder, open_source
from quantcli.sources.harmless import TABLE, harmless
from quantcli.sources.noted import noted, unread
from tests.mutations.baselines import Altered

DATA = Path(__file__).resolve().parent.parent / "data" / "quantized"
CASES = sorted(path.parent.name for path in DATA.glob("*/config.json"))


def changed(case: str, root: Path, path: str, value: Any) -> Path:
    """A copy of a case with one setting set; `path` is dotted, after quantization_config."""
    folder = root / case
    shutil.copytree(DATA / case, folder)
    config = json.loads((folder / "config.json").read_text())
    block = config["quantization_config"]
    *outer, last = path.split(".")
    for key in outer:
        block = block[key]
    block[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_a_setting_that_nobody_knows_is_named_and_the_case_itself_gives_no_warning(case: str, tmp_path: Path) -> None:
    assert not [warning for warning in open_source(DATA / case).warnings if "quantization_config" in warning]
    config = json.loads((DATA / case / "config.json").read_text())
    found = open_source(changed(case, tmp_path, "rotate_by", 90))
    assert [warning for warning in found.warnings if "rotate_by" in warning]
    assert found.config["quantization_config"] == {**config["quantization_config"], "rotate_by": 90}


@pytest.mark.parametrize(
    ("case", "path", "value"),
    [
        ("ct-fp8-channel", "config_groups.group_0.weights.dynamic", True),
        ("ct-mxfp4", "config_groups.group_0.weights.symmetric", False),
        ("ct-nvfp4", "config_groups.group_0.weights.symmetric", False),
        ("gptq-b4-g64-sym", "format", "gptq_v2"),
        ("quark-int8-channel", "global_quant_config.weight.is_scale_quant", True),
        ("autoawq-gemv-g64", "zero_point", False),
    ],
)
def test_a_setting_that_contradicts_what_is_stored_is_an_error(
    case: str, path: str, value: Any, tmp_path: Path
) -> None:
    with pytest.raises((BadInput, NotPossible), match=path.rpartition(".")[2]):
        open_source(changed(case, tmp_path, path, value))


@pytest.mark.parametrize(
    ("case", "path", "value"),
    [
        ("ct-w4a16-g64", "format", "int-quantized"),
        ("bnb-nf4", "bnb_4bit_quant_type", "fp4"),
        ("bnb-nf4", "bnb_4bit_use_double_quant", True),
        ("bnb-nf4-double", "bnb_4bit_use_double_quant", False),
        ("gptq-b4-g64-sym", "is_marlin_format", True),
        ("gptq-b4-g64-sym", "data_type", "mx_fp"),
    ],
)
def test_a_setting_that_weights_say_otherwise_is_a_warning(case: str, path: str, value: Any, tmp_path: Path) -> None:
    warnings = open_source(changed(case, tmp_path, path, value)).warnings
    assert [warning for warning in warnings if path in warning and "quantization_config" in warning]


def first(case: str, ending: str) -> str:
    """The first stored tensor of a case with this ending."""
    found = (part.name for weight in open_source(DATA / case).weights.values() for part in weight.parts.values())
    return next(name for name in found if name.endswith(ending))


def altered(case: str, name: str, now: str | None) -> Altered:
    """The case with a tensor under another name, or without it."""
    part = next(p for w in open_source(DATA / case).weights.values() for p in w.parts.values() if p.name == name)
    return Altered(DATA / case, None, {name: None if now is None else (now, part.shape)})


@pytest.mark.parametrize(
    ("case", "ending"),
    [("ct-fp8-channel", ".weight_scale"), ("ct-fp8-block", ".weight_scale"), ("ct-mxfp8", ".weight_scale"),
     ("bnb-int8", ".SCB")],
)  # fmt: skip
def test_codes_that_lost_their_scales_are_an_error_that_names_them(case: str, ending: str) -> None:
    name = first(case, ending)
    with pytest.raises(BadInput, match=name.removesuffix(ending)):
        open_folder(altered(case, name, None))


def test_a_part_that_no_weight_takes_is_named() -> None:
    name = first("modelopt-fp8", ".input_scale")
    lost = name.replace(".input_scale", "x.input_scale")
    assert [text for text in open_folder(altered("modelopt-fp8", name, lost)).warnings if lost in text]


def test_a_weight_without_the_zero_points_that_others_have_is_named() -> None:
    name = first("autoawq-gemm-g64", ".qzeros")
    warnings = open_folder(altered("autoawq-gemm-g64", name, None)).warnings
    assert [text for text in warnings if name.removesuffix(".qzeros") in text and "zero_point" in text]


def test_every_row_gives_its_reason_and_a_value_that_a_row_does_not_list_counts() -> None:
    assert all(row.reason for row in TABLE.values())
    assert harmless("gptq", "data_type", "int") and not harmless("gptq", "data_type", "mx_fp")
    assert harmless("modelopt", "config_groups.group_0.weights.num_bits", 4)
    assert not harmless("compressed-tensors", "config_groups.group_0.weights.num_bits", 4)


def test_what_is_asked_for_anywhere_in_an_object_is_not_unread() -> None:
    block = noted({"a": {"b": [{"c": 1, "d": None}, {"e": 2}], "f": 0}, "g": [], "h": False})
    assert unread(block) == ["a.b.c", "a.b.e", "a.f", "h"]
    assert [item.get("c") for item in block["a"]["b"]] == [1, None]
    assert dict(block["a"].items())["f"] == 0
    assert unread(block) == ["a.b.e", "h"]
