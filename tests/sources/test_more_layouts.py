"""Layouts of newer releases, as their owners wrote them: the owner's own values, copied as stored, or decoded.

tests/data/layouts is made by tests/peers/make_layouts.py; `truth.json` has the SHA-256 of what each owner's own
dequantizer gives, with and without negative zeros.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.convert.inspecting.survey import entry
from quantcli.errors import NotPossible
from quantcli.schemes.base import matrix_shape
from quantcli.sources.detect import open_source
from quantcli.virtual import read_rows
from tests.builders import LLAMA, byte_level_tokenizer, folder_of, llama_tensors
from tests.conversions import config, converted, stored
from tests.sources.test_quantized_sources import hashes, packed, whole

DATA = Path(__file__).resolve().parent.parent / "data" / "layouts"
CASES = sorted(path.name for path in DATA.iterdir() if (path / "truth.json").exists())

#: case -> family of its weights, their schemes and groups
SCHEMES = {
    "ct-fp8-stacked": "ct fp8-e4m3-channel 96",
    "ct-mxfp6": "ct mxfp6-e2m3 32",
    "deepseek-v4": "fp8 fp8-e4m3-block32 32, mxfp4 32, mxfp8 32",
    "fp8-stacked": "fp8 fp8-e4m3-block32 32",
    "modelopt-fp8-block": "modelopt fp8-e4m3-block128 128, fp8-e4m3-tensor 64",
    "modelopt-fp8-channel": "modelopt fp8-e4m3-channel 160, fp8-e4m3-channel 64",
    "modelopt-int8": "modelopt int8-channel 160, int8-channel 64",
    "modelopt-mixed": "modelopt fp8-e4m3-tensor 64, mxfp8 32, nvfp4 16",
    "modelopt-mxfp4": "modelopt mxfp4 32",
    "modelopt-mxfp8": "modelopt mxfp8 32",
    "modelopt-nvfp4-g32": "modelopt nvfp4-g32 32",
    "mxfp8": "fp8 mxfp8 32",
    "quanto-qfloat8": "quanto fp8-e4m3-channel 160, fp8-e4m3-channel 64",
    "quanto-qint2": "quanto uint2-channel 64, uint2-g32 32",
    "quanto-qint4": "quanto uint4-channel 64, uint4-g32 32",
    "quanto-qint8": "quanto int8-channel 160, int8-channel 64",
    "torchao-float8-block": "torchao fp8-e4m3-block32 32",
    "torchao-float8-e5m2": "torchao fp8-e5m2-channel 160, fp8-e5m2-channel 64",
    "torchao-float8-row": "torchao fp8-e4m3-channel 160, fp8-e4m3-channel 64",
    "torchao-float8-stacked": "torchao fp8-e4m3-channel 64",
    "torchao-float8-tensor": "torchao fp8-e4m3-tensor 160, fp8-e4m3-tensor 64",
    "torchao-int8-asym": "torchao int8-asym-channel 160, int8-asym-channel 64",
    "torchao-intx3-row": "torchao int3-channel 160, int3-channel 64",
    "torchao-intx4": "torchao int4-g32 32",
    "torchao-intx4-asym": "torchao uint4-g32 32",
    "torchao-intx8": "torchao int8-asym-g32 32",
}
#: Owners whose arithmetic loses the sign of zero, and ours does not.
SIGNLESS = ("modelopt-mxfp4", "modelopt-nvfp4-g32", "modelopt-mixed")


def truth(case: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads((DATA / case / "truth.json").read_text())
    return found


def part_of(case: str, root: Path, **settings: Any) -> Path:
    """The case as a model without a table, since some of its weights are no whole model; a copy with other settings."""
    folder = root / case
    shutil.copytree(DATA / case, folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    kept = {key: value for key, value in config(folder).items() if key not in ("architectures", "num_hidden_layers")}
    is_packed = case in ("quanto-qint2", "quanto-qint4")
    (folder / "config.json").write_text(
        json.dumps(config(folder) | settings if is_packed else {**kept, "model_type": "part", **settings})
    )
    return folder


def test_every_case_is_listed() -> None:
    assert list(SCHEMES) == CASES


@pytest.mark.parametrize("case", CASES)
def test_values_are_the_owners(case: str) -> None:
    source = open_source(DATA / case)
    weights = packed(source)
    wanted = truth(case)
    assert {name for name in weights if not name.endswith("tid2eid")} == wanted.keys()
    assert source.warnings == ()
    for name, hashed in wanted.items():
        values = weights[name].scheme.decode(whole(weights[name]))
        found = hashes(values.reshape(weights[name].shape))
        assert found[1] == hashed[1], name
        assert found[0] == hashed[0] or case in SIGNLESS, name


@pytest.mark.parametrize("case", CASES)
def test_slabs_are_the_whole(case: str) -> None:
    """The smallest ranges of rows that the layout can be cut into, values and codes."""
    source = open_source(DATA / case)
    for weight in (source.weights[name] for name in truth(case)):
        scheme, specs = weight.scheme, weight.scheme.layout(weight.shape)
        rows, step = matrix_shape(weight.shape)[0], int(np.lcm.reduce([spec.rows for spec in specs.values()]))
        values, codes = scheme.decode(whole(weight)), scheme.codes(whole(weight))
        assert np.abs(values - codes.values()).max() <= np.abs(values).max() * 2.0**-6
        for start in range(0, rows, step):
            parts = read_rows(weight, specs, start, min(start + step, rows))
            assert np.array_equal(scheme.decode(parts), values[start : start + step])
            assert np.array_equal(scheme.codes(parts).codes, codes.codes[start : start + step])


@pytest.mark.parametrize("case", CASES)
def test_inspect_names_scheme_and_group(case: str) -> None:
    source = open_source(DATA / case)
    shown = [entry(source.weights[name]) for name in sorted(truth(case))]
    family, _, listed = SCHEMES[case].partition(" ")
    assert {one["family"] for one in shown} == {family}
    assert {f"{one['scheme']} {one['group_size']}" for one in shown} == set(listed.split(", "))
    assert all(one["reason"] for one in shown)


@pytest.mark.parametrize("case", CASES)
def test_without_a_scheme_the_layout_is_copied(case: str, tmp_path: Path) -> None:
    source = part_of(case, tmp_path)
    report = converted(source, tmp_path / "out", to="hf")
    assert set(report["totals"]["routes"]) == {"copy"}
    assert stored(tmp_path / "out") == stored(source)
    assert config(tmp_path / "out").get("quantization_config") == config(source).get("quantization_config")
    again = open_source(tmp_path / "out")
    assert {name: one.scheme for name, one in packed(again).items()} == {
        name: one.scheme for name, one in packed(open_source(source)).items()
    }
    qmap = source / "quanto_qmap.json"
    assert not qmap.exists() or (tmp_path / "out" / qmap.name).read_bytes() == qmap.read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_a_folder_of_float32(case: str, tmp_path: Path) -> None:
    converted(part_of(case, tmp_path), tmp_path / "out", to="hf", scheme="f32")
    found = stored(tmp_path / "out")
    assert {name: hashes(found[name].array("<f4"))[1] for name in truth(case)} == {
        name: hashed[1] for name, hashed in truth(case).items()
    }
    assert not any(name.endswith(("scale", "scale_inv", "_data", "zero_point")) for name in found if "hc_" not in name)
    assert "quantization_config" not in config(tmp_path / "out")
    assert not (tmp_path / "out" / "quanto_qmap.json").exists()


#: What has an exact place in MLX -> its scheme there.
EXACT_IN_MLX = {
    "deepseek-v4": "mxfp4",
    "modelopt-mxfp4": "mxfp4",
    "modelopt-mxfp8": "mxfp8",
    "mxfp8": "mxfp8",
    "torchao-intx4": "affine4-g32",
    "torchao-intx4-asym": "affine4-g32",
}


@pytest.mark.parametrize("case", EXACT_IN_MLX)
def test_codes_stay_as_they_are_in_mlx(case: str, tmp_path: Path) -> None:
    """Without a scheme, and with no value rounded."""
    report = converted(part_of(case, tmp_path), tmp_path / "out", dtype="f32", scale_dtype="f32")
    weights = {w["name"]: w for w in report["weights"] if w["route"] == "repack"}
    assert EXACT_IN_MLX[case] in {w["scheme"] for w in weights.values()}
    assert {w["grade"] for w in weights.values()} == {"exact"}
    found = open_source(tmp_path / "out")
    for name, hashed in truth(case).items():
        if name in weights:
            values = found.weights[name].scheme.decode(whole(found.weights[name]))
            assert hashes(values.astype("<f4"))[1] == hashed[1] or case.startswith("torchao"), name


def test_codes_of_mxfp4_stay_as_they_are_in_gguf(tmp_path: Path) -> None:
    """All linears of a llama as modelopt has MXFP4; rows of queries and keys move."""
    random, tensors, linears = np.random.default_rng(4), {}, set()
    for name, dense in llama_tensors(LLAMA).items():
        if not name.endswith("_proj.weight"):
            tensors[name] = dense
            continue
        linears.add(name)
        (rows, columns), module = dense.shape, name.removesuffix(".weight")
        tensors[name] = random.integers(0, 256, (rows, columns // 2), dtype=np.uint8)
        tensors[f"{module}.weight_scale"] = random.integers(110, 125, (rows, columns // 32), dtype=np.uint8)
    settings = {"quant_method": "modelopt", "quant_algo": "W4A8_MXFP4_FP8", "ignore": ["lm_head", "*embed*"]}
    source = folder_of(tmp_path / "m", tensors, {**LLAMA, "quantization_config": settings})
    (source / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()))
    report = converted(source, tmp_path / "a.gguf")
    found = [w for w in report["weights"] if w["route"] == "repack"]
    assert {(w["scheme"], w["grade"]) for w in found} == {("mxfp4", "exact")} and len(found) == len(linears)


@pytest.mark.parametrize("case", ["quanto-qint4", "quanto-qint2"])
def test_shifts_of_quanto_are_biases_in_mlx(case: str, tmp_path: Path) -> None:
    """Codes, scales and shifts of a whole model go over as they are; the tool rounds the product first."""
    report = converted(DATA / case, tmp_path / "out", dtype="f32", scale_dtype="f32")
    routes = {w["route"] for w in report["weights"] if w["name"] in truth(case)}
    assert routes == {"repack"}
    source, found = open_source(DATA / case), open_source(tmp_path / "out")
    for name in truth(case):
        ours, theirs = found.weights[name], source.weights[name]
        codes, owned = ours.scheme.codes(whole(ours)), theirs.scheme.codes(whole(theirs))
        assert np.array_equal(codes.codes, owned.codes)
        assert np.array_equal(np.unique(codes.scales), np.unique(owned.scales))


@pytest.mark.parametrize(("case", "scheme"), [("quanto-qint4", "q4_1"), ("quanto-qint8", "q8_0")])
def test_codes_of_quanto_stay_as_they_are_in_gguf(case: str, scheme: str, tmp_path: Path) -> None:
    shutil.copytree(DATA / case, tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()))
    report = converted(tmp_path / "m", tmp_path / "a.gguf")
    found = [w for w in report["weights"] if w["route"] == "repack"]
    assert {(w["scheme"], w["grade"]) for w in found} == {(scheme, "exact")} and len(found) == len(truth(case))


@pytest.mark.parametrize("case", ["quanto-qint8", "quanto-qfloat8"])
@pytest.mark.parametrize("files", [("model.safetensors",), ("model.safetensors", "config.json")], ids=str)
def test_quanto_is_known_by_its_tensors(case: str, files: tuple[str, ...], tmp_path: Path) -> None:
    """Without the map: the one file, alone or with a config.json that says nothing of it."""
    for name in files:
        shutil.copy(DATA / case / name, tmp_path / name)
    source = open_source(tmp_path / "model.safetensors")
    assert source.kind == "quanto"
    for name, hashed in truth(case).items():
        assert hashes(source.weights[name].scheme.decode(whole(source.weights[name])))[1] == hashed[1]


def test_packed_codes_of_quanto_alone_are_refused_by_its_name(tmp_path: Path) -> None:
    shutil.copy(DATA / "quanto-qint4" / "model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(NotPossible, match="optimum-quanto"):
        open_source(tmp_path / "model.safetensors")


def test_one_weight_of_quanto_cannot_become_dense(tmp_path: Path) -> None:
    """The map of modules is copied, and would call it quantized."""
    with pytest.raises(NotPossible, match=r"k_proj.*optimum-quanto"):
        converted(part_of("quanto-qint8", tmp_path), tmp_path / "out", to="hf", overrides=["*.k_proj=bf16"])


@pytest.mark.parametrize("case", ["torchao-intx4", "torchao-float8-row", "mxfp8", "deepseek-v4", "ct-mxfp6"])
def test_one_weight_becomes_dense_and_the_settings_say_so(case: str, tmp_path: Path) -> None:
    name = sorted(truth(case))[-1].removesuffix(".weight")
    converted(part_of(case, tmp_path), tmp_path / "out", to="hf", overrides=[f"{name}=bf16"])
    again = open_source(tmp_path / "out")
    assert again.weights[f"{name}.weight"].scheme.name == "bf16" and again.warnings == ()
    settings = config(tmp_path / "out")["quantization_config"]
    lists = ("ignored_layers", "modules_to_not_convert", "ignore")
    assert any(name in (settings.get(key) or ()) for key in lists)
    if case.startswith("torchao"):
        assert json.loads(again.header[f"{name}.weight"]) == {"_type": "Tensor"}
