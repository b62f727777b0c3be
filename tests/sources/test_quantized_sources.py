"""Checkpoints that the quantizers themselves made: the same values as theirs, whole and in slabs, copied as stored.

tests/data/quantized has two weights of each of 53 cases, cut out by cut.py; whole ones are looked at where they are at
hand. `truth.json` has the SHA-256 of what each tool decodes, with and without negative zeros.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from quantcli.checkpoint import Checkpoint, Weight
from quantcli.convert.inspecting.survey import entry
from quantcli.schemes.base import matrix_shape
from quantcli.schemes.dense import Dense
from quantcli.sources.detect import open_source
from quantcli.virtual import read_rows
from tests.conversions import config, converted, stored

DATA = Path(__file__).resolve().parent.parent / "data" / "quantized"
CASES = sorted(path.name for path in DATA.iterdir() if path.is_dir() and (path / "truth.json").exists())

#: case -> scheme of k_proj (experts' gate_up_proj), family, group of it; of down_proj where it differs
SCHEMES = {
    "autoawq-gemm-g64": "awq uint4-g64 64",
    "autoawq-gemv-g64": "awq-gemv uint4-g64 64",
    "autoawq-gemvfast-g64": "awq-gemv-fast uint4-g64 64",
    "autoround-as-awq-b4-g64-sym": "awq int4-g64 64",
    "autoround-as-gptq-b4-g64": "gptq int4-g64 64",
    "autoround-b4-g64": "gptq int4-g64 64",
    "bnb-fp4": "bnb fp4-g64 64",
    "bnb-int8": "bnb int8-channel 128",
    "bnb-nf4": "bnb nf4-g64 64",
    "bnb-nf4-double": "bnb nf4-double-g64 64",
    "ct-fp8-block": "ct fp8-e4m3-block128 128",
    "ct-fp8-channel": "ct fp8-e4m3-channel 128",
    "ct-fp8-tensor": "ct fp8-e4m3-tensor 128",
    "ct-mixed": "ct uint4-g32 32",
    "ct-mxfp4": "ct mxfp4 32",
    "ct-mxfp8": "ct mxfp8 32",
    "ct-nvfp4": "ct nvfp4 16",
    "ct-w3a16-dense-g64": "ct uint3-g64 64",
    "ct-w3a16-naive-g64": "ct uint3-g64 64",
    "ct-w3a16-padded-g64": "ct int3-g64 64",
    "ct-w4a16-actorder": "ct int4-g64 64",
    "ct-w4a16-actorder-static": "ct int4-g64 64",
    "ct-w4a16-asym-g64": "ct uint4-g64 64",
    "ct-w4a16-g64": "ct int4-g64 64",
    "ct-w8a16": "ct int8-g32 32",
    "ct-w8a8-int8-channel": "ct int8-channel 128",
    "fp8-deepseek-block": "fp8 fp8-e4m3-block128 128",
    "fp8-ue8m0": "fp8 fp8-e4m3-block128 128",
    "gpt-oss-mxfp4": "gpt-oss mxfp4 32",
    "gptq-b2-g64": "gptq uint2-g64 64",
    "gptq-b3-g64": "gptq int3-g64 64",
    "gptq-b3-planar": "gptq uint3-g64 64",
    "gptq-b4-actorder": "gptq int4-g64 64",
    "gptq-b4-asym-zero0": "gptq uint4-g64 64",
    "gptq-b4-channel": "gptq int4-channel 128",
    "gptq-b4-g32-asym": "gptq uint4-g32 32",
    "gptq-b4-g64-sym": "gptq int4-g64 64",
    "gptq-b5-planar": "gptq int5-g64 64",
    "gptq-b8-g128": "gptq int8-g128 128",
    "gptq-v2-format": "gptq uint4-g64 64",
    "hqq-b4-g64": "hqq uint4-g64 64",
    "modelopt-fp8": "modelopt fp8-e4m3-tensor 128",
    "modelopt-nvfp4": "modelopt nvfp4 16",
    "quark-fp8-tensor": "quark fp8-e4m3-tensor 128",
    "quark-int4-g64-sym": "quark int4-g64 64",
    "quark-int4-g64-sym-order": "quark int4-g64 64",
    "quark-int8-channel": "quark int8-channel 128",
    "quark-mixed": "quark int8-channel 128",
    "quark-mxfp4": "quark mxfp4 32",
    "quark-mxfp6-e2m3": "quark mxfp6-e2m3 32",
    "quark-mxfp6-e3m2": "quark mxfp6-e3m2 32",
    "quark-uint4-g64-asym": "quark uint4-g64 64",
    "torchao-int8-row": "torchao int8-channel 128",
}
#: Tools whose arithmetic loses the sign of zero, and ours does not.
SIGNLESS = ("autoround-as-awq-b4-g64-sym", "autoround-as-gptq-b4-g64", "autoround-b4-g64", "modelopt-nvfp4")
#: Columns in no order of groups: no grid.
ORDERED = ("ct-w4a16-actorder", "gptq-b4-actorder")
#: One case of every family, and of each kind of slab, for whole conversions.
CONVERTED = (
    "autoawq-gemvfast-g64", "bnb-int8", "bnb-nf4-double", "ct-nvfp4", "ct-w3a16-dense-g64", "fp8-deepseek-block",
    "gptq-b4-actorder", "hqq-b4-g64", "modelopt-fp8", "quark-uint4-g64-asym", "torchao-int8-row",
)  # fmt: skip


def packed(source: Checkpoint) -> dict[str, Weight]:
    return {name: weight for name, weight in source.weights.items() if not isinstance(weight.scheme, Dense)}


def as_the_tool_has_it(weight: Weight, values: np.ndarray) -> np.ndarray:
    """transformers' experts of gpt-oss are the transposes of what is stored."""
    shaped = values.reshape(weight.shape)
    return np.ascontiguousarray(shaped.swapaxes(-1, -2)) if weight.scheme.family == "gpt-oss" else shaped


def hashes(values: np.ndarray) -> list[str]:
    """As in truth.json: of the float32 bytes, and of those without negative zeros."""
    return [hashlib.sha256(found.astype("<f4").tobytes()).hexdigest() for found in (values, values + np.float32(0))]


def whole(weight: Weight) -> dict[str, np.ndarray]:
    return {name: part.read() for name, part in weight.parts.items()}


def test_every_case_is_listed() -> None:
    assert list(SCHEMES) == CASES and len(CASES) == 53


@pytest.mark.parametrize("case", CASES)
def test_values_are_the_tools(case: str) -> None:
    truth = json.loads((DATA / case / "truth.json").read_text())
    source = open_source(DATA / case)
    weights = packed(source)
    assert weights.keys() == truth.keys()
    dense = [name for name in source.weights if name not in truth]
    assert dense == [] or case == "gpt-oss-mxfp4"
    for name, weight in weights.items():
        found = hashes(as_the_tool_has_it(weight, weight.scheme.decode(whole(weight))))
        assert found[1] == truth[name][1]
        assert (found[0] == truth[name][0]) or case in SIGNLESS


@pytest.mark.parametrize("case", CASES)
def test_slabs_are_the_whole(case: str) -> None:
    """The smallest ranges of rows that the layout can be cut into, values and codes."""
    for weight in packed(open_source(DATA / case)).values():
        scheme, specs = weight.scheme, weight.scheme.layout(weight.shape)
        rows, step = matrix_shape(weight.shape)[0], int(np.lcm.reduce([spec.rows for spec in specs.values()]))
        ranges = [(start, min(start + step, rows)) for start in range(0, rows, step)][-6:]
        values = scheme.decode(whole(weight))
        codes = scheme.codes(whole(weight)) if scheme.grid() else None
        for start, stop in ranges:
            parts = read_rows(weight, specs, start, stop)
            assert np.array_equal(scheme.decode(parts), values[start:stop])
            if codes is not None:
                some = scheme.codes(parts)
                assert np.array_equal(some.codes, codes.codes[start:stop])
                assert np.array_equal(some.scales, codes.scales[start:stop])
        assert (codes is None) == (case in ORDERED)


@pytest.mark.parametrize("case", CASES)
def test_codes_are_near_the_values(case: str) -> None:
    """Codes hold scales and zero points unrounded, the tool rounds: to half precision or to float32."""
    for weight in packed(open_source(DATA / case)).values():
        if weight.scheme.grid() is not None:
            values, codes = weight.scheme.decode(whole(weight)), weight.scheme.codes(whole(weight)).values()
            largest = np.abs(values).max()
            assert np.abs(values - codes).max() <= largest * 2.0**-7
            assert int(weight.scheme.codes(whole(weight)).codes.max()) < 2 ** weight.scheme.grid().bits


@pytest.mark.parametrize("case", CASES)
def test_inspect_names_scheme_group_and_settings(case: str) -> None:
    weights = packed(open_source(DATA / case))
    name = next(n for n in weights if n.endswith(("k_proj.weight", "gate_up_proj")))
    told = entry(weights[name])
    assert f"{told['family']} {told['scheme']} {told['group_size']}" == SCHEMES[case]
    assert told["reason"] and 2 <= told["bits"] <= 8


def part_of(case: str, root: Path) -> Path:
    """The case as a model without a table: two of its weights are no whole model of its family."""
    folder = root / case
    shutil.copytree(DATA / case, folder)
    settings = {
        key: value for key, value in config(folder).items() if key not in ("architectures", "num_hidden_layers")
    }
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "part"}))
    return folder


@pytest.mark.parametrize("case", CONVERTED)
def test_a_folder_of_float32(case: str, tmp_path: Path) -> None:
    converted(part_of(case, tmp_path), tmp_path / "out", to="hf", scheme="f32")
    truth, found = json.loads((DATA / case / "truth.json").read_text()), stored(tmp_path / "out")
    assert {name: hashes(found[name].array("<f4"))[1] for name in truth} == {n: t[1] for n, t in truth.items()}
    assert found.keys() == truth.keys() and "quantization_config" not in config(tmp_path / "out")


@pytest.mark.parametrize("case", [*CONVERTED, "gpt-oss-mxfp4"])
def test_without_a_scheme_the_layout_is_copied(case: str, tmp_path: Path) -> None:
    report = converted(part_of(case, tmp_path), tmp_path / "out", to="hf")
    assert set(report["totals"]["routes"]) == {"copy"}
    assert stored(tmp_path / "out") == stored(DATA / case)
    assert config(tmp_path / "out")["quantization_config"] == config(DATA / case)["quantization_config"]
    assert packed(open_source(tmp_path / "out")).keys() == packed(open_source(DATA / case)).keys()


def test_experts_of_gpt_oss_are_turned(shared: Path, tmp_path: Path) -> None:
    whole_model = shared / "fixtures" / "quantized" / "gpt-oss-mxfp4"
    converted(whole_model, tmp_path / "out", to="hf", scheme="f32")
    truth, found = json.loads((DATA / "gpt-oss-mxfp4" / "truth.json").read_text()), stored(tmp_path / "out")
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert found[name].shape == (4, 64, 192) and hashes(found[name].array("<f4")) == truth[name]


@pytest.mark.parametrize("case", CASES)
def test_whole_checkpoints(case: str, shared: Path) -> None:
    folder = shared / "fixtures" / "quantized" / case
    truth = json.loads((folder / "truth.json").read_text())["tensors"]
    weights = packed(open_source(folder))
    assert weights.keys() == truth.keys()
    for name, weight in weights.items():
        found = hashes(as_the_tool_has_it(weight, weight.scheme.decode(whole(weight))))
        assert found[1] == truth[name]["sha256_f32_no_negative_zero"], name


def test_settings_of_modelopt_in_their_own_file(tmp_path: Path) -> None:
    """Before they came into config.json."""
    case = DATA / "modelopt-nvfp4"
    (tmp_path / "model.safetensors").write_bytes((case / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": "bfloat16"}))
    stated = {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"], "kv_cache_quant_algo": None}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": stated}))
    source = open_source(tmp_path)
    assert source.kind == "modelopt" and {w.scheme.name for w in packed(source).values()} == {"nvfp4"}
