"""MLX folders with a quantization_config.json: alone, next to config.json's block in agreement and in disagreement."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.checkpoint import Checkpoint
from quantcli.convert.inspecting.rules import explain
from quantcli.convert.planning.plan import make
from quantcli.convert.planning.request import Request
from quantcli.errors import BadInput, QuantError
from quantcli.sources.detect import open_source
from tests.builders import BF16, folder_of, safetensors_bytes
from tests.sources.test_mlx_source import COLUMNS, ROWS, Tensors, affine, of, scaled

Q4 = {"group_size": 64, "bits": 4}
Q8 = {"group_size": 64, "bits": 8}
FILE = "quantization_config.json"

#: Three modules: a has 4 bits, b 8 bits, n is dense.
TENSORS: Tensors = {**affine(name="a"), **affine(8, name="b"), "n.weight": np.ones((ROWS, COLUMNS), BF16)}
SCHEMES = {"a.weight": "affine4-g64", "b.weight": "affine8-g64", "n.weight": "bf16"}


def opened(
    root: Path, beside: Any, block: Any = None, tensors: Mapping[str, np.ndarray] = TENSORS, **config: Any
) -> Checkpoint:
    named = {} if block is None else {"quantization": block}
    folder_of(root, tensors, {"model_type": "llama", **named, **config})
    (root / FILE).write_text(beside if isinstance(beside, str) else json.dumps(beside))
    return open_source(root)


def schemes(found: Checkpoint) -> dict[str, str]:
    return {name: weight.scheme.name for name, weight in found.weights.items()}


#: Every form in which the settings of TENSORS stand.
FORMS: dict[str, Any] = {
    "flat": {**Q4, "b": Q8, "n": False},
    "per_tensor": {**Q4, "per_tensor": {"b.weight": Q8}},
    "a glob": {**Q4, "per_tensor": {"b*": Q8}},
    "a missing group": {"bits": 4, "per_tensor": {"b": {"bits": 8}}},
    "nothing but one entry": {"per_tensor": {"b": {"bits": 8}}},
    "a default of 8 bits": {"bits": 8, "a": {"bits": 4}},
    "hf2q": {
        "quant_method": "mixed-4-8", **Q4, "tensor_count": 3,
        "per_tensor": {
            "a.weight": {"method": "q4", **Q4, "preserved": False},
            "b.weight": {"method": "q8", **Q8, "preserved": False},
            "n.weight": {"method": "passthrough", "bits": 16, "group_size": 0, "preserved": True},
        },
    },
    "hf2q's safetensors": {
        "quant_method": "q4_k", **Q4, "per_layer_bits": {"a.weight": 4, "b.weight": 8, "n.weight": 16},
        "quantization_info": {"n.weight": {"method": "passthrough", "bits": 16, "group_size": 64, "preserved": True}},
    },
    "components": {"quant_method": "mixed-4-8", **Q4, "component_overrides": {"b": {"bits": 8, "reason": "r"}}},
    "language_model": {**Q4, "language_model.b": Q8},
    "the block as a whole": {"quantization": {**Q4, "b": Q8}},
    "its mirror as a whole": {"quantization_config": {**Q4, "b": Q8}},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_settings_that_stand_next_to_the_config_alone(form: str, tmp_path: Path) -> None:
    found = opened(tmp_path, FORMS[form])
    assert (found.kind, schemes(found), found.warnings) == ("mlx", SCHEMES, ())
    assert found.weights["b.weight"].reason.startswith(FILE)
    assert found.beside == tmp_path / FILE


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [{**Q4, "b": Q8}, {**Q8, "a": Q4}], ids=repr)
def test_config_json_counts_where_both_say_all(form: str, block: Any, tmp_path: Path) -> None:
    found = opened(tmp_path, FORMS[form], block)
    assert schemes(found) == SCHEMES
    listed = next(name for name in "ab" if name in block)
    assert found.weights[f"{listed}.weight"].reason == f"config.json: quantization.{listed}"
    differs = form != "nothing but one entry" and (form == "a default of 8 bits") != (block["bits"] == 8)
    assert len(found.warnings) == differs
    if differs:
        assert "config.json is used" in found.warnings[0] and "the default is" in found.warnings[0]


@pytest.mark.parametrize("form", [name for name in FORMS if name != "a default of 8 bits"])
def test_a_module_that_only_the_file_names_is_taken_from_it(form: str, tmp_path: Path) -> None:
    tensors = {**affine(name="a"), **affine(8, 32, name="b")}  # 256 bits a group, as 4 bits of 64: shapes cannot tell
    beside = json.loads(json.dumps(FORMS[form]).replace('"bits": 8', '"group_size": 32, "bits": 8').replace(
        '"group_size": 64, "group_size": 32', '"group_size": 32'))  # fmt: skip
    beside = {**beside, "per_layer_bits": {}} if "per_layer_bits" in beside else beside
    if "quantization_info" in beside:
        beside["quantization_info"] = {"b.weight": {"bits": 8, "group_size": 32}}
    found = opened(tmp_path, beside, Q4, tensors)
    assert schemes(found) == {"a.weight": "affine4-g64", "b.weight": "affine8-g32"}
    assert found.weights["b.weight"].reason.startswith(FILE) and found.warnings == ()


def test_modules_on_which_the_files_differ_are_one_warning_and_config_json_counts(tmp_path: Path) -> None:
    tensors = {key: array for i in range(9) for key, array in affine(name=f"m.{i}").items()}
    block = {**Q4, **{f"m.{i}": Q4 for i in range(9)}}
    found = opened(tmp_path, {**Q4, **{f"m.{i}": {"bits": 8, "group_size": 32} for i in range(9)}}, block, tensors)
    assert set(schemes(found).values()) == {"affine4-g64"}
    (warning,) = found.warnings
    assert "m.0 is affine with 4 bits" in warning and "9 differences" in warning


@pytest.mark.parametrize(
    "entry", [{"bits": 3}, {"bits": 8}, {"bits": 16}, False, {"bits": 4, "group_size": 32}, {"mode": "mxfp4"}], ids=repr
)
def test_what_the_tensors_contradict_falls_to_the_default_of_config_json(entry: Any, tmp_path: Path) -> None:
    found = opened(tmp_path, {**Q4, "m.q": entry}, Q4, affine())
    assert schemes(found) == {"m.q.weight": "affine4-g64"}
    (warning,) = found.warnings
    assert "m.q" in warning and FILE in warning


@pytest.mark.parametrize("entry", [{"bits": 3}, {"bits": 8}, {"bits": 16}, False, {"mode": "mxfp4"}], ids=repr)
def test_what_the_tensors_contradict_in_the_only_settings_is_refused(entry: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"m\.q.*{FILE}"):
        opened(tmp_path, {**Q4, "m.q": entry}, None, affine())


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_other_modes_stand_there_as_well(mode: str, tmp_path: Path) -> None:
    found = opened(tmp_path, {**Q4, "m.q": of(mode)}, None, {**scaled(mode), **affine(name="a")})
    assert schemes(found) == {"m.q.weight": mode, "a.weight": "affine4-g64"}


FOREIGN = [
    {"quant_method": "gptq", "bits": 8, "group_size": 128, "per_tensor": {"b": {"bits": 3}}},
    {"quant_method": "auto-round", "bits": 8, "group_size": 32, "sym": True},
    {"quant_method": "exl3", "bits": 3.5, "tensor_storage": {"b": {"bits": 3}}},
    {"bits": 2, "group_size": 128, "desc_act": False, "sym": True},
    {"something": "else"},
]


@pytest.mark.parametrize("beside", FOREIGN, ids=repr)
def test_the_file_of_another_quantizer_is_not_read(beside: Any, tmp_path: Path) -> None:
    found = opened(tmp_path / "a", beside, {**Q4, "b": Q8})
    assert (schemes(found), found.warnings) == (SCHEMES, ())
    with pytest.raises(BadInput, match=r"config\.json has no `quantization`"):
        opened(tmp_path / "b", beside)


BROKEN = ["", "[]", "{", '{"bits": 4, "bits": 8}', "null", '{"a":' * 200, "\x00", '{"per_tensor": {"": {}}}']


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_cannot_be_read_is_a_warning_next_to_a_block_and_an_error_alone(text: str, tmp_path: Path) -> None:
    found = opened(tmp_path / "a", text, {**Q4, "b": Q8})
    assert schemes(found) == SCHEMES
    assert len(found.warnings) == 1 and FILE in found.warnings[0]
    with pytest.raises(BadInput, match=FILE):
        opened(tmp_path / "b", text)


JUNK: list[Any] = [None, "8", 8, -1, 6.5, [], [8], {"bits": "8"}, {"group_size": []}, {"mode": 4}]


@pytest.mark.parametrize("value", JUNK, ids=repr)
@pytest.mark.parametrize("table", [None, "per_tensor", "quantization_info", "component_overrides"])
def test_junk_values_of_each_type_are_one_warning(table: str | None, value: Any, tmp_path: Path) -> None:
    entries = {f"m.{i}": value for i in range(3)}
    tensors = {key: array for i in range(3) for key, array in affine(name=f"m.{i}").items()}
    beside = {**Q4, **entries} if table is None else {**Q4, table: entries}
    found = opened(tmp_path, beside, None, tensors)
    assert set(schemes(found).values()) == {"affine4-g64"}
    (warning,) = found.warnings
    assert "m.0" in warning and " 3 such " in warning


@pytest.mark.parametrize("key", ["bits", "group_size", "mode", "per_tensor", "per_layer_bits", "component_overrides"])
@pytest.mark.parametrize("value", [None, "x", -1, 4.5, [1], {"a": 1}, True, 10**40], ids=repr)
def test_no_value_of_any_key_ends_in_anything_but_a_scheme_or_one_sentence(
    key: str, value: Any, tmp_path: Path
) -> None:
    for number, block in enumerate((None, {**Q4, "b": Q8})):
        try:
            found = opened(tmp_path / str(number), {**Q4, "b": Q8, key: value}, block)
        except QuantError as error:
            assert error.exit_code == 3 and FILE in str(error) and block is None
        else:
            assert schemes(found) == SCHEMES


def test_the_strict_reading_is_kept_for_config_json(tmp_path: Path) -> None:
    for number, entry in enumerate(({"bits": 8}, {**Q8, "x": 1}, "8", 8, None)):
        with pytest.raises(BadInput, match=r"config\.json"):
            opened(tmp_path / str(number), {**Q4, "b": Q8}, {**Q4, "b": entry})


def test_the_words_of_hf2q_in_config_json_are_mlxs(tmp_path: Path) -> None:
    block = {"quant_method": "mlx_affine", **Q4, "b": Q8}
    folder_of(tmp_path, TENSORS, {"model_type": "llama", "quantization_config": block})
    assert schemes(open_source(tmp_path)) == SCHEMES


@pytest.mark.parametrize("method", ["fp8", "gptq", "awq", "compressed-tensors", "bitsandbytes", "exl3"])
def test_settings_of_the_source_that_mlxs_were_made_of_do_not_count(method: str, tmp_path: Path) -> None:
    stale = {"quant_method": method, "bits": 8}
    config = {"model_type": "llama", "quantization": {**Q4, "b": Q8}, "quantization_config": stale}
    found = open_source(folder_of(tmp_path, TENSORS, config))
    assert (found.kind, schemes(found), len(found.warnings)) == ("mlx", SCHEMES, 1)


def test_a_folder_without_config_json_is_read_for_inspect_and_refused_for_convert(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(TENSORS))
    with pytest.raises(BadInput, match="config.json"):
        open_source(tmp_path)
    (tmp_path / FILE).write_text(json.dumps(FORMS["per_tensor"]))
    found = open_source(tmp_path)
    assert (found.kind, schemes(found), found.warnings) == ("mlx", SCHEMES, ())
    with pytest.raises(QuantError) as caught:
        make(found, Request(tmp_path.parent / "out"))
    assert caught.value.exit_code == 4


def test_rules_name_the_patterns_of_both_files_that_match_nothing(tmp_path: Path) -> None:
    found = opened(tmp_path, {**Q4, "b": Q8, "gone": Q8}, {**Q4, "missing": False})
    unmatched = explain(found, None, [])["unmatched"]
    assert [line.rpartition(": ")[2] for line in unmatched] == ["missing", "gone"]
    assert FILE in unmatched[1]


#: One tensor file: its arrays, and the scheme of each weight that is shown.
LONE: dict[str, tuple[Tensors, dict[str, str]]] = {
    "5 bits of 64 alone give 320": (affine(5), {"m.q.weight": "affine5-g64"}),
    "3 bits of 32": (affine(3, 32), {"m.q.weight": "affine3-g32"}),
    "mxfp4": (scaled("mxfp4"), {"m.q.weight": "mxfp4"}),
    "mxfp8": (scaled("mxfp8"), {"m.q.weight": "mxfp8"}),
    "nvfp4": (scaled("nvfp4"), {"m.q.weight": "nvfp4"}),
    "4 bits of 64, or 8 of 32": (affine(), {"m.q.weight": "u32", "m.q.scales": "f16", "m.q.biases": "f16"}),
    "no scales": ({"m.q.weight": np.zeros((2, 8), np.uint32)}, {"m.q.weight": "u32"}),
    "a vector": ({"m.q.weight": np.zeros(8, np.uint32), "m.q.scales": np.ones(1, np.float16)},
                 {"m.q.weight": "u32", "m.q.scales": "f16"}),
    "scalar scales": ({"m.q.weight": np.zeros((2, 8), np.uint32), "m.q.scales": np.ones((), np.float16)},
                      {"m.q.weight": "u32", "m.q.scales": "f16"}),
    "rows that differ": ({**affine(5), "m.q.scales": np.ones((9, 4), np.float16)},
                         {"m.q.weight": "u32", "m.q.scales": "f16", "m.q.biases": "f16"}),
    "a float module with scales of its own": (
        {**scaled("mxfp4"), "r.weight": np.ones((2, 2), np.float32), "r.scales": np.ones(2, np.float32)},
        {"m.q.weight": "mxfp4", "r.weight": "f32", "r.scales": "f32"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LONE)
def test_a_lone_file_shows_mlx_modules_as_far_as_their_shapes_tell(case: str, tmp_path: Path) -> None:
    tensors, wanted = LONE[case]
    (tmp_path / "lone.safetensors").write_bytes(safetensors_bytes(tensors))
    found = open_source(tmp_path / "lone.safetensors")
    assert schemes(found) == wanted
    unknown = "u32" in wanted.values()
    assert len(found.warnings) == unknown
    for name, weight in found.weights.items():
        assert (weight.reason == "dense") == name.startswith("r."), "a part of an MLX module is not called dense"


def test_a_lone_file_next_to_its_settings_is_read_by_them(tmp_path: Path) -> None:
    (tmp_path / "lone.safetensors").write_bytes(safetensors_bytes(affine(8, 32)))
    (tmp_path / FILE).write_text(json.dumps({"bits": 8, "group_size": 32}))
    assert schemes(open_source(tmp_path / "lone.safetensors")) == {"m.q.weight": "affine8-g32"}
