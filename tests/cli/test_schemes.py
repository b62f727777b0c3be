"""`quant schemes`: the facts of every number format."""

import json
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from quantcli.cli.app import app
from quantcli.containers.ggml_types import BY_NAME
from quantcli.convert.inspecting.catalogue import SHAPE, catalogue, decimal
from quantcli.recipes import names
from quantcli.recipes.ftypes import demanding
from quantcli.schemes import ggml, ggml_scheme, hf
from quantcli.schemes.hf.listed import WRITTEN
from quantcli.schemes.mlx.affine import Affine
from quantcli.schemes.readers import READERS


def quant(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["schemes", *arguments])


def listed(*arguments: str) -> list[dict[str, Any]]:
    done = quant("--json", *arguments)
    assert done.exit_code == 0
    found: list[dict[str, Any]] = json.loads(done.stdout)["schemes"]
    return found


def test_every_scheme_is_there_once() -> None:
    found = [(s["family"], s["name"]) for s in listed()]
    affine = {("mlx", f"affine{bits}-g{group}") for bits in (1, 2, 3, 4, 5, 6, 8) for group in (32, 64, 128)}
    modes = {("mlx", "mxfp4"), ("mlx", "mxfp8"), ("mlx", "nvfp4")}
    blocks = {("ggml", name) for name in ggml.TYPES}
    dense = {("dense", name) for name in ("f32", "f16", "bf16")}
    awq = {("awq", f"{kind}4-g{group}") for kind in ("uint", "int") for group in (32, 64, 128)}
    read = {(family, name) for family, name in found if family not in ("mlx", "ggml", "dense", "awq")}
    assert len(found) == len(set(found)) and set(found) == affine | modes | blocks | dense | awq | read
    assert {family for family, _ in read} == set(READERS) - {"dense", "mlx", "ggml", "awq"}
    assert {("gptq", "int3-g128"), ("ct", "nvfp4"), ("bnb", "nf4-double-g64"), ("quark", "mxfp6-e3m2")} < read
    assert set(ggml.TYPES) <= set(names.GGML)
    assert {f"q{bits}_k" for bits in (2, 3, 4, 5, 6, 8)} < set(ggml.TYPES)


@pytest.mark.parametrize(
    ("family", "name", "bits", "scales", "zero_point", "group", "targets"),
    [
        ("dense", "bf16", 16, [], None, None, ["mlx", "gguf", "hf"]),
        ("mlx", "affine3-g64", 3.5, ["f16", "bf16", "f32"], "float", 64, ["mlx"]),
        ("mlx", "mxfp4", 4.25, ["f8_e8m0"], None, 32, ["mlx"]),
        ("mlx", "nvfp4", 4.5, ["f8_e4m3"], None, 16, ["mlx"]),
        ("ggml", "mxfp4", 4.25, ["f8_e8m0"], None, 32, ["gguf"]),
        ("ggml", "nvfp4", 4.5, ["f8_e4m3"], None, 16, ["gguf"]),
        ("ggml", "q4_0", 4.5, ["f16"], None, 32, ["gguf"]),
        ("ggml", "q5_1", 6, ["f16"], "float", 32, ["gguf"]),
        ("ggml", "q3_k", 3.4375, ["i6*f16"], None, 16, ["gguf"]),
        ("ggml", "q4_k", 4.5, ["u6*f16"], "float", 32, ["gguf"]),
        ("ggml", "q6_k", 6.5625, ["i8*f16"], None, 16, ["gguf"]),
        ("ggml", "iq4_xs", 4.25, ["i6*f16"], None, 32, ["gguf"]),
        ("ggml", "tq1_0", 1.6875, ["f16"], None, 256, ["gguf"]),
        ("awq", "uint4-g128", 4.15625, ["f16", "bf16", "f32"], "integer", 128, ["hf"]),
        ("awq", "int4-g64", 4.25, ["f16", "bf16", "f32"], None, 64, ["hf"]),
        ("ct", "int4-g128", 4.125, ["bf16", "f16", "f32"], None, 128, ["hf"]),
        ("ct", "uint4-g64", 4.3125, ["bf16", "f16", "f32"], "integer", 64, ["hf"]),
        ("ct", "int3-g64", 3.25, ["bf16", "f16", "f32"], None, 64, ["hf"]),
        ("ct", "int8-tensor", 8, ["bf16", "f16", "f32"], None, None, ["hf"]),
        ("ct", "nvfp4", 4.5, ["f8_e4m3"], None, 16, ["hf"]),
        ("bnb", "nf4-g64", 4.5, ["f32"], None, 64, ["hf"]),
        ("bnb", "nf4-double-g64", 4.126953125, ["u8*f32"], None, 64, ["hf"]),
        ("bare", "fp8-e5m2", 8, [], None, None, ["hf"]),
    ],
)
def test_facts(
    family: str, name: str, bits: float, scales: list[str], zero_point: str, group: int, targets: list[str]
) -> None:
    (found,) = [entry for entry in listed(name) if entry["family"] == family]
    assert found["bits_per_weight"] == bits
    assert (found["scale_dtypes"], found["has_scale"]) == (scales, bool(scales))
    assert (found["zero_point"], found["group_size"], found["targets"]) == (zero_point, group, targets)
    assert found["gguf"] is ("gguf" in targets)
    assert not found["needs_importance_matrix"] and found["readers"]


def test_importance_matrices_are_needed_where_llama_quantize_needs_them() -> None:
    assert {s["name"] for s in listed() if s["needs_importance_matrix"]} == demanding() & set(ggml.TYPES)


def test_scales_are_tensors_of_their_own_where_more_than_one_array_is_stored() -> None:
    families = {s["family"] for s in listed()}
    separate = {family: {s["separate_scales"] for s in listed() if s["family"] == family} for family in families}
    assert {family for family, found in separate.items() if found == {False}} == {"ggml", "dense", "bare"}
    assert {family for family, found in separate.items() if found == {True}} == families - {"ggml", "dense", "bare"}
    assert [s["name"] for s in listed() if s["separate_scales"] and not s["has_scale"]] == []


def test_a_block_has_a_scale_and_a_group() -> None:
    assert [s["name"] for s in listed() if s["family"] == "ggml" and not (s["has_scale"] and s["group_size"])] == []


def test_blocks_are_ggmls() -> None:
    for found in listed():
        if found["family"] == "ggml":
            block = BY_NAME[found["name"]]
            assert (found["block_size"], found["block_bytes"]) == (block.block_size, block.block_bytes)
            assert found["bits_per_weight"] == block.bits_per_weight
        else:
            assert found["block_size"] is None and found["block_bytes"] is None


@pytest.mark.parametrize("name", ["affine4-g64", "q5_0"])
def test_rounding_is_what_a_gaussian_loses(name: str) -> None:
    scheme = ggml_scheme(name) or Affine(4, 64, "f16")
    _, error = scheme.encode(np.random.default_rng(0).standard_normal((256, 1024)).astype(np.float32))
    assert listed(name)[0]["rounding"] == pytest.approx(error.relative_rmse, rel=0.02)


@pytest.mark.parametrize("name", WRITTEN)
def test_rounding_of_hugging_face_layouts(name: str) -> None:
    scheme = hf.named(name, "f32", SHAPE)
    assert scheme is not None
    values = np.random.default_rng(0).standard_normal((128, SHAPE[1])).astype(np.float32)
    ready = hf.named(name, "f32", values.shape)
    assert ready is not None
    _, error = ready.prepare(values.shape, [values]).encode(values)
    assert scheme.rounding == pytest.approx(error.relative_rmse, rel=0.1)


def test_bits_are_exact_decimals() -> None:
    for entry in catalogue():
        assert Fraction(decimal(entry.bits)) == entry.bits


def test_the_table_fits_a_hundred_columns() -> None:
    done = quant()
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    table = lines[: 1 + len(catalogue())]
    assert re.split("  +", table[0]) == [
        "scheme", "kind", "bits", "scale", "zero point", "group", "block", "RMSE%", "stored in",
    ]  # fmt: skip
    assert max(map(len, table)) <= 100 and max(map(len, lines)) <= 100
    assert "q6_k ggml 6.5625 i8*f16 - 16 210 1.77 gguf" in [" ".join(line.split()) for line in table]
    assert any("ggml: " in line and "llama.cpp" in line for line in lines)


def test_one_scheme_is_told_in_full() -> None:
    done = quant("Q6_K")
    assert done.exit_code == 0
    assert "bits per weight:   6.5625\n" in done.stdout
    assert "block:             256 weights in 210 bytes\n" in done.stdout
    assert "importance matrix: not " in done.stdout and "importance matrix: not " not in quant("iq2_xxs").stdout


@pytest.mark.parametrize(
    ("name", "said"), [("int4-tensor", "'int4-tensor'"), ("affine7-g64", "1, 2, 3, 4, 5, 6 or 8 bits")]
)
def test_names_of_nothing_are_wrong_usage(name: str, said: str) -> None:
    done = quant(name)
    assert (done.exit_code, done.stdout) == (2, "") and said in done.stderr


def test_one_integer_grid_has_one_rounding_error_whoever_stores_it() -> None:
    found: dict[str, set[float]] = {}
    for entry in catalogue():
        if entry.name.startswith(("int", "uint")):
            found.setdefault(entry.name, set()).add(entry.rounding)
    assert {"int4-g128", "uint4-g128", "int4-g32"} <= found.keys()
    assert {name: errors for name, errors in found.items() if len(errors) > 1} == {}
