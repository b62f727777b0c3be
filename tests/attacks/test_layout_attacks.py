"""Layouts of newer releases whose settings and tensors contradict each other, one thing changed in each."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import QuantError
from quantcli.sources.detect import open_source
from tests.attacks.test_quantized_attacks import BYTES, GONE, changed
from tests.conversions import Stored, config, stored

DATA = Path(__file__).resolve().parent.parent / "data" / "layouts"
K, DOWN = "model.layers.0.self_attn.k_proj", "model.layers.0.mlp.down_proj"
EXPERT, ATTENTION = "layers.0.ffn.experts.0.w1", "layers.0.attn.wq_a"
UP = "model.layers.0.mlp.experts.up_proj"
STACK = "model.layers.0.mlp.experts.down_proj"
LAYER = f"quantized_layers|{DOWN}"

#: what -> case, settings that differ (dotted, or with bars), tensors that differ or are gone, exit, what is said
Wrong = tuple[str, dict[str, Any], dict[str, Any], int, str]
WRONG: dict[str, Wrong] = {
    # modelopt
    "algorithm": ("modelopt-mxfp8", {"quant_algo": "W4A16_AWQ"}, {}, 4, "quant_algo 'W4A16_AWQ'.*MXFP8"),
    "no algorithm": ("modelopt-mxfp8", {"quant_algo": GONE}, {}, 3, "key quant_algo is missing"),
    "of another": ("modelopt-mxfp8", {"quant_algo": "NVFP4"}, {}, 3, f"{DOWN}.weight.*NVFP4"),
    "of other scales": ("modelopt-mxfp8", {"quant_algo": "FP8"}, {}, 3, f"{DOWN}.weight_scale: .* found u8.*FP8"),
    "svd": ("modelopt-int8", {"quant_algo": "NVFP4_SVD"}, {}, 4, "'NVFP4_SVD'"),
    "smoothed": ("modelopt-int8", {}, {f"{K}.pre_quant_scale": ("BF16", [64])}, 4, f"{K}.pre_quant_scale"),
    "group": ("modelopt-mxfp8", {"group_size": 16}, {}, 3, "key group_size: .*32.*found 16"),
    "group of text": ("modelopt-fp8-block", {"group_size": "a"}, {}, 3, "key group_size: .*found 'a'"),
    "group below 0": ("modelopt-fp8-block", {"group_size": -4}, {}, 3, "key group_size: .*found -4"),
    "group of a flag": ("modelopt-fp8-block", {"group_size": False}, {}, 3, "key group_size: .*found False"),
    "block": ("modelopt-fp8-block", {"group_size": 64}, {}, 3, rf"{DOWN}.weight_scale.*\[1, 1, 3, 1\]"),
    "blocks": ("modelopt-fp8-block", {}, {f"{DOWN}.weight_scale": ("F32", [1, 1, 3, 1])}, 3, f"{DOWN}.weight_scale"),
    "rows": ("modelopt-fp8-channel", {}, {f"{K}.weight_scale": ("F32", [31])}, 3, rf"{K}.weight_scale.*\[32\]"),
    "scales of 5 axes": ("modelopt-fp8-block", {}, {f"{K}.weight_scale": ("F32", [1] * 5)}, 3, f"{K}.weight_scale"),
    "scales of nothing": ("modelopt-mxfp4", {}, {f"{K}.weight_scale": ("U8", [32, 0])}, 3, f"{K}.weight_scale"),
    "no second": ("modelopt-nvfp4-g32", {}, {f"{K}.weight_scale_2": GONE}, 3, f"{K}.weight.*weight_scale_2"),
    "no layers": ("modelopt-mixed", {"quantized_layers": {}, "config_groups": GONE}, {}, 3, "key quantized_layers: "),
    "layers of a list": ("modelopt-mixed", {"quantized_layers": [1]}, {}, 3, r"key quantized_layers: .*found \[1\]"),
    "no layers at all": ("modelopt-mixed", {"quantized_layers": GONE, "config_groups": {}}, {}, 3,
                         "key quantized_layers is missing"),
    "layer of a text": ("modelopt-mixed", {LAYER: "FP8"}, {}, 3, f"key {DOWN}: .*found 'FP8'"),
    "layer without": ("modelopt-mixed", {LAYER: {}}, {}, 3, f"{DOWN}: key quant_algo is missing"),
    "layer of another": ("modelopt-mixed", {LAYER: {"quant_algo": "MXFP8"}}, {}, 3, f"{DOWN}.weight.*MXFP8"),
    "layer unread": ("modelopt-mixed", {LAYER: {"quant_algo": "W4A8_AWQ"}}, {}, 4, f"{DOWN}: quant_algo 'W4A8_AWQ'"),
    "layer excluded": ("modelopt-mixed", {"ignore": ["*down_proj"]}, {}, 3, f"{DOWN}.weight.*ignore"),
    "nobody's": ("modelopt-mixed", {LAYER: GONE}, {f"{DOWN}.weight": ("U8", [64, 80]),
                 f"{DOWN}.weight_scale": ("F32", [64])}, 3, f"{DOWN}.weight: is u8.*is f32.*quantized_layers"),
    # FP8 and DeepSeek-V4
    "mxfp8 scales": ("mxfp8", {}, {f"{K}.weight_scale_inv": ("U8", [32, 3])}, 3, rf"{K}.weight_scale_inv.*\[32, 2\]"),
    "mxfp8 in i32": ("mxfp8", {}, {f"{K}.weight_scale_inv": ("I32", [32, 2])}, 3, f"{K}.weight_scale_inv: .*i32"),
    "mxfp8 block": ("mxfp8", {"weight_block_size": [1, 16]}, {}, 3, f"{DOWN}.weight_scale_inv.*weight_block_size"),
    "grid": ("deepseek-v4", {}, {f"{ATTENTION}.scale": ("F8_E8M0", [3, 3])}, 3, f"{ATTENTION}.scale"),
    "half a group": ("deepseek-v4", {}, {f"{EXPERT}.scale": ("F8_E8M0", [32, 6])}, 3, rf"{EXPERT}.scale.*\[32, 3\]"),
    "no scale": ("deepseek-v4", {}, {f"{ATTENTION}.scale": GONE}, 3, f"{ATTENTION}.weight"),
    "no scale of FP4": ("deepseek-v4", {}, {f"{EXPERT}.scale": GONE}, 3, f"{EXPERT}.weight"),
    "stack": ("fp8-stacked", {}, {f"{STACK}.weight_scale_inv": ("F32", [3, 5, 1])}, 3, f"{STACK}.weight_scale_inv"),
    # compressed-tensors
    "mxfp6 bits": ("ct-mxfp6", {"config_groups.group_0.weights.num_bits": 4}, {}, 3, "key num_bits: .*6.*found 4"),
    "mxfp6 group": ("ct-mxfp6", {"config_groups.group_0.weights.group_size": 16}, {}, 3, "key group_size: .*found 16"),
    "mxfp6 bytes": ("ct-mxfp6", {}, {f"{K}.weight_packed": ("U8", [32, 47])}, 3, f"{K}.weight_packed"),
    "mxfp6 integers": ("ct-mxfp6", {"config_groups.group_0.weights.type": "int"}, {}, 3, "key type: .*found 'int'"),
    "marlin": ("ct-mxfp6", {"format": "marlin-24"}, {}, 4, "format 'marlin-24'"),
    "ct stacked": ("ct-fp8-stacked", {"config_groups.group_0.weights.strategy": "tensor"}, {}, 3, f"{UP}.*tensor"),
    "ct stacks": ("ct-fp8-stacked", {}, {f"{UP}.weight_scale": ("BF16", [3, 1, 1])}, 3, f"{UP}.weight_scale.*channel"),
    # torchao
    "torchao scale": ("torchao-intx4", {}, {f"{K}._weight_scale": ("BF16", [32, 1])}, 3, f"{K}._weight_scale"),
    "torchao zero": ("torchao-intx4", {}, {f"{K}._weight_zero_point": ("I8", [32, 1])}, 3, f"{K}._weight_zero_point"),
    "floating zero": ("torchao-intx4", {}, {f"{K}._weight_zero_point": ("F32", [32, 2])}, 4, f"{K}._weight_zero_point"),
    "torchao codes": ("torchao-float8-row", {}, {f"{K}._weight_qdata": ("I8", [32, 64])}, 3, f"{K}._weight_qdata"),
    "torchao 4 axes": ("torchao-float8-row", {}, {f"{K}._weight_qdata": ("F8_E4M3", [1, 1, 32, 64])}, 3, "_qdata"),
    "act_pre_scale": ("torchao-int8-asym", {}, {f"{K}._weight_act_pre_scale": ("F32", [64])}, 4, "act_pre_scale"),
}  # fmt: skip


def write(root: Path, case: str, settings: Mapping[str, Any], tensors: Mapping[str, Any]) -> Path:
    """The case with its changes, as a folder."""
    shutil.copytree(DATA / case, root)
    raw = (DATA / case / "model.safetensors").read_bytes()
    header: dict[str, Any] = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    found, data = stored(DATA / case), b""
    for name, spec in tensors.items():
        if spec is GONE:
            del found[name]
            continue
        count = BYTES.get(spec[0], 1)
        for size in spec[1]:
            count *= size
        found[name] = Stored(spec[0], tuple(spec[1]), bytes(count))
    members: dict[str, Any] = {"__metadata__": header.get("__metadata__", {})}
    for name, array in found.items():
        offsets = [len(data), len(data) + len(array.data)]
        members[name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += array.data
    text = json.dumps(members).encode()
    (root / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    conf = config(DATA / case)
    for path, value in settings.items():
        *outer, last = path.split("|")
        block = conf["quantization_config"]
        for key in outer:
            block = block[key]
        if outer:
            block |= {last: value}
            if value is GONE:
                del block[last]
        else:
            changed(block, {path: value})
    (root / "config.json").write_text(json.dumps(conf))
    return root


@pytest.mark.parametrize("what", WRONG)
def test_contradictions(what: str, tmp_path: Path) -> None:
    case, settings, tensors, code, said = WRONG[what]
    with pytest.raises(QuantError) as error:
        open_source(write(tmp_path / "m", case, settings, tensors))
    message = str(error.value)
    assert (error.value.exit_code, re.search(said, message) is not None) == (code, True), message
    assert str(tmp_path) in message


@pytest.mark.parametrize("case", sorted({case for case, *_ in WRONG.values()}))
def test_an_unchanged_one_is_read(case: str, tmp_path: Path) -> None:
    assert open_source(write(tmp_path / case, case, {}, {})).weights


@pytest.mark.parametrize(
    "case", sorted(p.parent.name for p in DATA.glob("*/config.json") if "quanto" not in p.parent.name)
)
def test_a_setting_that_nobody_knows_is_named(case: str, tmp_path: Path) -> None:
    found = open_source(write(tmp_path / "m", case, {"rotate_by": 90}, {}))
    assert [warning for warning in found.warnings if "rotate_by" in warning]


#: Attributes in the metadata of a torchao file -> another value, and what is said.
TORCHAO: dict[str, tuple[Any, str]] = {
    "block_size": ([1, 48], "block_size"),
    "block_size ": ([1], "key block_size: "),
    "block_size  ": ("all", "key block_size: "),
    "block_size   ": ([0, 32], "key block_size: "),
    "target_dtype": ({"_data": "int9"}, "key target_dtype: "),
    "target_dtype ": ("int4", "key target_dtype: "),
    "dtype": ({"_data": "complex64"}, "key dtype: "),
}


@pytest.mark.parametrize("key", TORCHAO)
def test_attributes_of_torchao_that_make_no_sense(key: str, tmp_path: Path) -> None:
    value, said = TORCHAO[key]
    root = write(tmp_path / "m", "torchao-intx4", {}, {})
    raw = (root / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    entry = json.loads(header["__metadata__"][f"{K}.weight"])
    entry["_data"][key.strip()] = value
    header["__metadata__"][f"{K}.weight"] = json.dumps(entry)
    text = json.dumps(header).encode()
    (root / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + raw[start:])
    with pytest.raises(QuantError, match=said) as error:
        open_source(root)
    assert K in str(error.value)


#: quanto_qmap.json -> exit code, and what is said.
QMAPS: dict[str, tuple[int, str]] = {
    "[]": (3, "quanto_qmap.json"),
    '{"a": 1}': (3, "key a: .*found 1"),
    '{"a": {}}': (3, "key weights is missing"),
    '{"a": {"weights": "qint3"}}': (4, "'a'.*'qint3'.*optimum-quanto"),
    "{}": (3, "k_proj|down_proj|q_proj|up_proj|gate_proj|v_proj|o_proj"),
}


@pytest.mark.parametrize("text", QMAPS)
def test_maps_of_quanto_that_make_no_sense(text: str, tmp_path: Path) -> None:
    shutil.copytree(DATA / "quanto-qint8", tmp_path / "m")
    (tmp_path / "m" / "quanto_qmap.json").write_text(text)
    code, said = QMAPS[text]
    with pytest.raises(QuantError, match=said) as error:
        open_source(tmp_path / "m")
    assert error.value.exit_code == code


QUANTO: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "no scale": ("quanto-qint8", {f"{K}.weight._scale": GONE}, 3, f"{K}.weight._data.*_scale"),
    "scales": ("quanto-qint8", {f"{K}.weight._scale": ("BF16", [31, 1])}, 3, rf"{K}.weight._scale.*\[32, 1\]"),
    "scale of i32": ("quanto-qint8", {f"{K}.weight._scale": ("I32", [32, 1])}, 3, f"{K}.weight._scale: .*i32"),
    "codes": ("quanto-qint8", {f"{K}.weight._data": ("F8_E4M3", [32, 64])}, 3, f"{K}.weight._data.*qint8"),
    "packed codes": ("quanto-qint4", {f"{K}.weight._data._data": ("U8", [15, 64])}, 3, f"{K}.weight._data._data"),
    "packed dtype": ("quanto-qint4", {f"{K}.weight._data._data": ("I8", [16, 64])}, 3, f"{K}.weight._data._data"),
    "no shift": ("quanto-qint4", {f"{K}.weight._shift": GONE}, 3, f"{K}.*_shift"),
    "shift": ("quanto-qint4", {f"{K}.weight._shift": ("I8", [32, 1])}, 4, f"{K}.weight._shift: i8"),
    "no groups": ("quanto-qint4", {f"{K}.weight._scale": ("BF16", [0, 1])}, 3, f"{K}.weight._data._data"),
    "4 axes": ("quanto-qint8", {f"{K}.weight._data": ("I8", [32, 16, 2, 2])}, 4, f"{K}.*32, 16, 2, 2"),
}  # fmt: skip


@pytest.mark.parametrize("what", QUANTO)
def test_tensors_of_quanto_that_contradict_each_other(what: str, tmp_path: Path) -> None:
    case, tensors, code, said = QUANTO[what]
    with pytest.raises(QuantError, match=said) as error:
        open_source(write(tmp_path / "m", case, {}, tensors))
    assert error.value.exit_code == code


def test_packed_codes_of_quanto_whose_rows_nobody_knows(tmp_path: Path) -> None:
    """Their shape is stored nowhere: without a known architecture they are refused by the tool's name."""
    root = write(tmp_path / "m", "quanto-qint4", {}, {})
    (root / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    with pytest.raises(QuantError, match="optimum-quanto") as error:
        open_source(root)
    assert error.value.exit_code == 4
