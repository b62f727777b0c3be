"""Quantized checkpoints whose settings and tensors contradict each other: refused, with tensor and key named.

Each is a real one (tests/data/quantized) with one thing changed: a setting, or the dtype and shape of a tensor.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import QuantError
from quantcli.sources.detect import open_source
from tests.conversions import Stored, config, stored

DATA = Path(__file__).resolve().parent.parent / "data" / "quantized"
K, DOWN = "model.layers.0.self_attn.k_proj", "model.layers.0.mlp.down_proj"
EXPERTS = "model.layers.0.mlp.experts.down_proj"
GONE: Any = object()
BYTES = {"I64": 8, "I32": 4, "F32": 4, "F16": 2, "BF16": 2, "I16": 2}
WEIGHTS = "config_groups.group_0.weights"

#: what -> case, settings that differ (dotted), tensors that differ (dtype, shape) or are gone, exit, what is said
Wrong = tuple[str, dict[str, Any], dict[str, Any], int, str]
WRONG: dict[str, Wrong] = {
    # an unknown tool, and layouts that nobody here reads
    "unknown method": ("gptq-b4-g64-sym", {"quant_method": "tea-leaves"}, {}, 4, "quant_method 'tea-leaves'"),
    "gptq: marlin": ("gptq-b4-g64-sym", {"checkpoint_format": "marlin"}, {}, 4, "checkpoint_format 'marlin'"),
    "awq: marlin": ("autoawq-gemv-g64", {"version": "marlin"}, {}, 4, "version 'marlin'"),
    "auto-round: packing": ("autoround-b4-g64", {"packing_format": "x:y"}, {}, 4, "packing_format 'x:y'"),
    "ct: sparse": ("ct-w4a16-g64", {"config_groups.group_0.format": "marlin-24"}, {}, 4, "format 'marlin-24'"),
    "modelopt: algo": ("modelopt-fp8", {"quant_algo": "W4A8_AWQ"}, {}, 4, "quant_algo 'W4A8_AWQ'"),
    "quark: mx9": ("quark-mxfp4", {"global_quant_config.weight.dtype": "mx9"}, {}, 4, "dtype 'mx9'.*not supported"),
    "quark: bfp16": ("quark-mxfp4", {"global_quant_config.weight.dtype": "bfp16"}, {}, 4, "'bfp16'.*not supported"),
    # GPTQ and AutoRound
    "gptq: bits": ("gptq-b4-g64-sym", {"bits": 8}, {}, 3, f"{DOWN}.*bits 8"),
    "gptq: 9 bits": ("gptq-b4-g64-sym", {"bits": 9}, {}, 3, "key bits: .*found 9"),
    "gptq: bits of text": ("gptq-b4-g64-sym", {"bits": "4"}, {}, 3, "key bits: .*found '4'"),
    "gptq: group": ("gptq-b4-g64-sym", {"group_size": 32}, {}, 3, f"{DOWN}.*group_size 32"),
    "gptq: group 0": ("gptq-b4-g64-sym", {"group_size": 0}, {}, 3, "key group_size: .*found 0"),
    "gptq: no group": ("gptq-b4-g64-sym", {"group_size": GONE}, {}, 3, "key group_size is missing"),
    "gptq: sym": ("gptq-b4-g64-sym", {"sym": 1}, {}, 3, "key sym: .*found 1"),
    "gptq: no g_idx": ("gptq-b4-actorder", {}, {f"{K}.g_idx": GONE}, 3, f"{K}.*g_idx.*desc_act"),
    "gptq: short g_idx": ("gptq-b4-actorder", {}, {f"{K}.g_idx": ("I32", [64])}, 3, rf"{K}.g_idx.*\[128\]"),
    "gptq: no scales": ("gptq-b4-actorder", {}, {f"{K}.scales": GONE}, 3, f"{K}.qweight.*{K}.scales is missing"),
    "gptq: no zeros": ("gptq-v2-format", {}, {f"{K}.qzeros": GONE}, 3, f"{K}.qweight.*{K}.qzeros is missing"),
    "gptq: no codes": ("gptq-v2-format", {}, {f"{K}.qweight": GONE}, 3, f"{K}.(g_idx|qzeros).*{K}.qweight is missing"),
    "gptq: scales": ("gptq-v2-format", {}, {f"{K}.scales": ("F16", [4, 64])}, 3, rf"{K}.scales.*\[2, 64\]"),
    "gptq: zeros": ("gptq-v2-format", {}, {f"{K}.qzeros": ("I32", [2, 16])}, 3, rf"{K}.qzeros.*\[2, 8\]"),
    "gptq: dense by rule": ("gptq-v2-format", {"dynamic": {"-:.*k_proj": {}}}, {}, 3, f"{K}.*dynamic"),
    "gptq: endless rule": ("gptq-v2-format", {"dynamic": {"+:(a*)*b": {}}}, {}, 3, "dynamic.*regular expression"),
    # AWQ
    "gemv: group": ("autoawq-gemv-g64", {"group_size": 32}, {}, 3, f"{DOWN}.*group_size 32"),
    "gemv: zeros": ("autoawq-gemv-g64", {}, {f"{K}.qzeros": ("I32", [64, 1])}, 3, rf"{K}.qzeros.*\[64, 2\]"),
    "gemv as fast": ("autoawq-gemv-g64", {"version": "gemv_fast"}, {}, 3, f"{DOWN}.qweight.*i16"),
    # compressed-tensors
    "ct: bits": ("ct-w4a16-g64", {f"{WEIGHTS}.num_bits": 8}, {}, 3, f"{DOWN}.weight_packed.*num_bits"),
    "ct: group": ("ct-w4a16-g64", {f"{WEIGHTS}.group_size": 32}, {}, 3, f"{DOWN}.weight_scale.*group_0"),
    "ct: no group size": ("ct-w4a16-g64", {f"{WEIGHTS}.group_size": GONE}, {}, 3, "key group_size is missing"),
    "ct: strategy": ("ct-w4a16-g64", {f"{WEIGHTS}.strategy": "channel"}, {}, 3, f"{DOWN}.weight_scale.*channel"),
    "ct: no strategy": ("ct-w4a16-g64", {f"{WEIGHTS}.strategy": "token"}, {}, 3, "key strategy: .*found 'token'"),
    "ct: zeros": ("ct-w4a16-g64", {f"{WEIGHTS}.symmetric": False}, {}, 3, f"{DOWN}.*weight_zero_point"),
    "ct: shape": ("ct-w4a16-g64", {}, {f"{K}.weight_shape": GONE}, 3, f"{K}.weight_packed.*weight_shape"),
    "ct: scales": ("ct-w4a16-g64", {}, {f"{K}.weight_scale": GONE}, 3, f"{K}.weight_packed.*weight_scale.*group_0"),
    "ct: no g_idx": ("ct-w4a16-actorder", {}, {f"{K}.weight_g_idx": GONE}, 3, f"{K}.*g_idx.*actorder"),
    "ct: ignored": ("ct-w4a16-g64", {"ignore": [K]}, {}, 3, f"{K}.*ignore"),
    "ct: no target": ("ct-mixed", {"config_groups.group_0.targets": ["re:.*q_proj"]}, {}, 3, f"{K}.*config_groups"),
    "ct: format": ("ct-mixed", {"config_groups.group_0.format": GONE}, {}, 3, "key format is missing"),
    "ct: endless target": ("ct-mixed", {"ignore": ["re:(.*)*x"]}, {}, 3, "ignore.*regular expression"),
    "ct: other codes": ("ct-fp8-channel", {}, {f"{K}.weight": ("I8", [64, 128])}, 3, f"{K}.weight.*f8_e4m3"),
    "ct: block": ("ct-fp8-block", {f"{WEIGHTS}.block_structure": [64, 64]}, {}, 3, f"{DOWN}.weight_scale.*block"),
    "ct: no block": ("ct-fp8-block", {f"{WEIGHTS}.block_structure": None}, {}, 3, "key block_structure: .*found null"),
    "ct: global": ("ct-nvfp4", {}, {f"{K}.weight_global_scale": GONE}, 3, f"{K}.*weight_global_scale"),
    "ct: type": ("ct-nvfp4", {f"{WEIGHTS}.type": "int"}, {}, 3, "key type: .*found 'int'"),
    "ct: mxfp4 of 16": ("ct-mxfp4", {f"{WEIGHTS}.group_size": 16}, {}, 3, "key group_size: .*found 16"),
    # FP8, modelopt
    "fp8: block": ("fp8-deepseek-block", {"weight_block_size": [64, 64]}, {}, 3, f"{DOWN}.*weight_block_size"),
    "fp8: half a block": ("fp8-deepseek-block", {"weight_block_size": [128]}, {}, 3, "key weight_block_size: "),
    "fp8: no scale": ("fp8-deepseek-block", {}, {f"{K}.weight_scale_inv": GONE}, 3, f"{K}.weight.*weight_scale_inv"),
    "fp8: left out": ("fp8-deepseek-block", {"modules_to_not_convert": [K]}, {}, 3, f"{K}.*modules_to_not_convert"),
    "fp8: fmt": ("fp8-deepseek-block", {"fmt": "e5m2"}, {}, 3, f"{DOWN}.weight.*fmt"),
    "modelopt: second": ("modelopt-nvfp4", {}, {f"{K}.weight_scale_2": GONE}, 3, f"{K}.weight.*weight_scale_2"),
    "modelopt: other": ("modelopt-nvfp4", {"quant_algo": "FP8"}, {}, 3, f"{DOWN}.weight.*quant_algo"),
    "modelopt: ignored": ("modelopt-fp8", {"ignore": ["*k_proj"]}, {}, 3, f"{K}.weight.*ignore"),
    # bitsandbytes
    "bnb: neither": ("bnb-nf4", {"load_in_4bit": False}, {}, 3, "key load_in_4bit: .*found False"),
    "bnb: 8 bits": ("bnb-nf4", {"load_in_4bit": False, "load_in_8bit": True}, {}, 3, f"load_in_4bit.*{DOWN}"),
    "bnb: absmax": ("bnb-nf4", {}, {f"{K}.weight.absmax": ("F32", [8])}, 3, rf"{K}.weight.absmax.*\[512\]"),
    "bnb: no absmax": ("bnb-nf4", {}, {f"{K}.weight.absmax": GONE}, 3, f"{K}.*weight.absmax"),
    "bnb: no state": ("bnb-nf4", {}, {f"{K}.weight.quant_state.bitsandbytes__nf4": GONE}, 3, f"{K}.weight.(absmax|qu)"),
    "bnb: nested": ("bnb-nf4-double", {}, {f"{K}.weight.nested_absmax": GONE}, 3, f"{K}.*nested_absmax"),
    "bnb: skipped": ("bnb-nf4", {"llm_int8_skip_modules": ["k_proj"]}, {}, 3, f"{K}.*llm_int8_skip_modules"),
    "bnb: rows": ("bnb-int8", {}, {f"{K}.SCB": ("F32", [128])}, 3, rf"{K}.SCB.*\[64\]"),
    # Quark
    "quark: group": ("quark-int4-g64-sym", {"global_quant_config.weight.group_size": 32}, {}, 3,
                     f"{DOWN}.*global_quant_config"),
    "quark: dtype": ("quark-int4-g64-sym", {"global_quant_config.weight.dtype": "int8"}, {}, 3, f"{DOWN}.weight.*int8"),
    "quark: excluded": ("quark-int4-g64-sym", {"exclude": ["*k_proj"]}, {}, 3, f"{K}.*exclude"),
    "quark: dense": ("quark-int8-channel", {"layer_quant_config": {"*k_proj": {"weight": None}}}, {}, 3,
                     f"{K}.weight.*dense"),
    "quark: zeros": ("quark-uint4-g64-asym", {}, {f"{K}.weight_zero_point": GONE}, 3, f"{K}.*weight_zero_point"),
    "quark: scheme": ("quark-mxfp4", {"global_quant_config.weight.qscheme": "per_tensor"}, {}, 3, "key qscheme: "),
    # HQQ, torchao, gpt-oss
    "hqq: bits": ("hqq-b4-g64", {"quant_config.weight_quant_params.nbits": 8}, {}, 3, f"key nbits: .*{DOWN}.*found 8"),
    "hqq: scale": ("hqq-b4-g64", {}, {f"{K}.scale": GONE}, 3, f"{K}.W_q.*scale"),
    "hqq: no shape": ("hqq-b4-g64", {}, {f"{K}.shape": GONE}, 3, f"{K}.W_q.*{K}.shape"),
    "hqq: skipped": ("hqq-b4-g64", {"skip_modules": [K]}, {}, 3, f"{K}.W_q.*skip_modules"),
    "torchao: scale": ("torchao-int8-row", {}, {f"{K}._weight_scale": ("F32", [64, 2])}, 3,
                       rf"{K}._weight_scale.*64, 1"),
    "torchao: listed": ("torchao-int8-row", {"modules_to_not_convert": [K]}, {}, 3, f"{K}.*modules_to_not_convert"),
    "gpt-oss: scales": ("gpt-oss-mxfp4", {}, {f"{EXPERTS}_scales": GONE}, 3, f"{EXPERTS}_blocks.*_scales"),
    "gpt-oss: blocks": ("gpt-oss-mxfp4", {}, {f"{EXPERTS}_blocks": GONE}, 3, f"{EXPERTS}_scales.*_blocks"),
    "gpt-oss: shape": ("gpt-oss-mxfp4", {}, {f"{EXPERTS}_scales": ("U8", [4, 64, 6])}, 3,
                       f"{EXPERTS}_scales.*4, 64, 3"),
    "gpt-oss: left out": ("gpt-oss-mxfp4", {"modules_to_not_convert": ["model.layers.*.mlp"]}, {}, 3,
                          f"{EXPERTS}_blocks.*modules_to_not_convert"),
}  # fmt: skip


def changed(settings: dict[str, Any], edits: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with some keys, dotted, replaced or taken out."""
    for path, value in edits.items():
        *parents, key = path.split(".")
        place = settings
        for parent in parents:
            place = place[parent]
        if value is GONE:
            place.pop(key)
        else:
            place[key] = value
    return settings


def write(root: Path, case: str, settings: Mapping[str, Any], tensors: Mapping[str, Any]) -> Path:
    """The case with its changes, as a folder."""
    found, conf = stored(DATA / case), config(DATA / case)
    for name, spec in tensors.items():
        if spec is GONE:
            del found[name]
            continue
        count = BYTES.get(spec[0], 1)
        for size in spec[1]:
            count *= size
        found[name] = Stored(spec[0], tuple(spec[1]), bytes(count))
    header: dict[str, Any] = {"__metadata__": _metadata(case)}
    data = b""
    for name, array in found.items():
        offsets = [len(data), len(data) + len(array.data)]
        header[name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += array.data
    text = json.dumps(header).encode()
    conf["quantization_config"] = changed(conf["quantization_config"], settings)
    root.mkdir(parents=True, exist_ok=True)
    (root / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (root / "config.json").write_text(json.dumps(conf))
    return root


def _metadata(case: str) -> Any:
    raw = (DATA / case / "model.safetensors").read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]


@pytest.mark.parametrize("what", WRONG)
def test_contradictions(what: str, tmp_path: Path) -> None:
    case, settings, tensors, code, said = WRONG[what]
    with pytest.raises(QuantError) as error:
        open_source(write(tmp_path / "m", case, settings, tensors))
    message = str(error.value)
    assert (error.value.exit_code, re.search(said, message) is not None) == (code, True), message
    assert str(tmp_path) in message and "Traceback" not in message


def test_there_are_fifty() -> None:
    assert sum(code == 3 for *_, code, _ in WRONG.values()) >= 50


def test_each_has_its_own_sentence(tmp_path: Path) -> None:
    said = []
    for what, (case, settings, tensors, _, _) in WRONG.items():
        with pytest.raises(QuantError) as error:
            open_source(write(tmp_path / what.replace(":", ""), case, settings, tensors))
        said.append(str(error.value).replace(str(tmp_path / what.replace(":", "")), ""))
    assert len(set(said)) == len(said)


@pytest.mark.parametrize("case", ["gptq-b4-g64-sym", "ct-mixed", "quark-mixed"])
def test_a_list_of_dense_modules_may_name_absent_ones(case: str, tmp_path: Path) -> None:
    key = {"ct-mixed": "ignore", "quark-mixed": "exclude"}.get(case, "modules_to_not_convert")
    assert open_source(write(tmp_path / "m", case, {key: ["model.layers.99.mlp.up_proj", "lm_head"]}, {})).weights


def test_an_unchanged_one_is_read(tmp_path: Path) -> None:
    """Of every case that is changed above: what is refused there is the change."""
    for case in {case for case, *_ in WRONG.values()}:
        assert open_source(write(tmp_path / case, case, {}, {})).weights
