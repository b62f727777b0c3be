"""hf2q's and mlx-native's quantization_config.json."""

from typing import Any

import pytest

from quantcli.errors import BadInput
from quantcli.recipes import hf2q
from quantcli.recipes.base import Decision, Origin, Recipe, Subject

BASE = {"bits": 4, "group_size": 64}
EIGHT = {"bits": 8, "group_size": 32}


def scheme(per_tensor: dict[str, Any], name: str) -> str:
    decision = hf2q.read({**BASE, "per_tensor": per_tensor}, "q.json").decide(Subject(name))
    assert decision is not None
    return decision.scheme


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        ("model.a.weight", "model.a.weight"),
        ("model.a", "model.a.weight"),
        ("model.a", "model.a.scales"),
        ("model.a", "model.a.biases"),
        ("model.a.weight", "language_model.model.a.weight"),
        ("model.a", "language_model.model.a.weight"),
        ("language_model.model.a.weight", "model.a.weight"),
        ("language_model.model.a", "model.a.weight"),
        ("model.language_model.a.weight", "language_model.model.a.weight"),
        ("language_model.model.a", "model.language_model.a.weight"),
        ("model.language_model.*", "language_model.model.a.weight"),
        ("model.*", "model.a.weight"),
        ("*.a", "model.a.weight"),
    ],
)
def test_lookup_finds(listed: str, name: str) -> None:
    assert scheme({listed: EIGHT}, name) == "affine8-g32"


@pytest.mark.parametrize("listed", ["model.a.scales", "a", "model", "model.b", "language_model.a", "MODEL.A"])
def test_lookup_misses(listed: str) -> None:
    assert scheme({listed: EIGHT}, "model.a.weight") == "affine4-g64"


ORDER = ["n.weight", "n", "language_model.n.weight", "language_model.n", "n*", "*.weight"]


@pytest.mark.parametrize("first", range(len(ORDER) - 1))
def test_order_of_lookup_is_not_that_of_the_file(first: int) -> None:
    bits = dict(zip(ORDER, (1, 2, 3, 5, 6, 8), strict=True))
    left = [key for key in ORDER[first:] if "*" not in key][::-1] + [key for key in ORDER[first:] if "*" in key]
    listed = {key: {"bits": bits[key], "group_size": 64} for key in left}
    assert scheme(listed, "n.weight") == f"affine{bits[ORDER[first]]}-g64"


def test_the_prefix_is_removed_before_it_is_added() -> None:
    listed = {"language_model.language_model.n": EIGHT, "n": {"bits": 6, "group_size": 64}}
    assert scheme(listed, "language_model.n.weight") == "affine6-g64"


def test_reasons_defaults_and_unmatched() -> None:
    recipe = hf2q.read({**BASE, "per_tensor": {"a": EIGHT, "b.*": EIGHT, "c": {"bits": 4, "group_size": 0}}}, "q.json")
    assert recipe.decide(Subject("a.weight")) == Decision("affine8-g32", "q.json: a = affine8-g32", Origin.RECIPE)
    assert recipe.decide(Subject("x.weight")) == Decision("affine4-g64", "q.json: bits and group_size", Origin.GLOBAL)
    assert recipe.decide(Subject("c.weight")) == Decision("dense", "q.json: c = dense", Origin.RECIPE)
    assert recipe.unmatched([Subject("a.weight"), Subject("x.weight")]) == ["b.*", "c"]


def test_defaults_that_are_left_out_are_those_of_mlx_native() -> None:
    decision = hf2q.read({"per_tensor": {}}, "q.json").default
    assert decision is not None and decision.scheme == "affine4-g64"


def test_entries_beside_the_defaults_and_keys_that_mean_nothing() -> None:
    recipe = hf2q.read({**BASE, "model.a": EIGHT, "version": "1.0"}, "q.json")
    decision = recipe.entry(Subject("model.a.weight"))
    assert decision is not None and decision.scheme == "affine8-g32"
    (warning,) = recipe.warnings
    assert warning.startswith("q.json: 'version'") and "ignored" in warning


def test_what_describes_the_file_is_no_warning() -> None:
    plan = {
        **BASE, "quant_method": "mixed-4-6", "component_overrides": {"v_proj": {"bits": 6, "reason": "r"}},
        "auto_resolved": True, "estimated_tok_per_sec": 105.3, "estimated_size_bytes": 10**10, "hardware": "M5",
        "confidence": 0.85, "reasoning": "because", "tensor_count": 3,
    }  # fmt: skip
    assert hf2q.read(plan, "q.json").warnings == ()


@pytest.mark.parametrize(
    ("key", "name", "hit"),
    [
        ("v_proj", "model.layers.3.self_attn.v_proj.weight", True),
        ("self_attn.v_proj", "model.layers.3.self_attn.v_proj.weight", True),
        (".v_proj", "model.layers.3.self_attn.v_proj.weight", True),
        ("v_proj.weight", "model.layers.3.self_attn.v_proj.weight", True),
        ("v_proj", "v_proj.weight", True),
        ("v_proj", "model.layers.3.self_attn.kv_proj.weight", False),
        ("proj", "model.layers.3.self_attn.v_proj.weight", False),
        ("self_attn", "model.layers.3.self_attn.v_proj.weight", False),
        ("v_proj", "model.v_proj.layers.0.weight", False),
        ("layers.3.", "model.layers.3.self_attn.v_proj.weight", True),
        (".experts.", "model.layers.0.mlp.experts.7.up_proj.weight", True),
        ("layers.3.", "model.layers.13.self_attn.v_proj.weight", False),
        ("layers.3.", "model.layers.30.self_attn.v_proj.weight", False),
        ("layers.3.", "model.decoder_layers.3.self_attn.v_proj.weight", False),
    ],
)
def test_components_match_the_end_of_a_path_at_a_dot(key: str, name: str, hit: bool) -> None:
    recipe = hf2q.read({**BASE, "component_overrides": {key: {"bits": 8}}}, "q.json")
    decision = recipe.decide(Subject(name))
    assert decision is not None and decision.scheme == ("affine8-g64" if hit else "affine4-g64")
    assert recipe.unmatched([Subject(name)]) == ([] if hit else [key])


def test_the_longer_component_decides_and_names_come_before_components() -> None:
    components = {"v_proj": {"bits": 6}, "self_attn.v_proj": {"bits": 8}, "layers.0.": {"bits": 3}}
    recipe = hf2q.read({**BASE, "component_overrides": components, "per_tensor": {"*.1.*.v_proj": {"bits": 5}}}, "q")
    modules = ("0.self_attn.v_proj", "0.x.v_proj", "0.x.q_proj", "1.self_attn.v_proj")
    found = [recipe.decide(Subject(f"model.layers.{module}.weight")) for module in modules]
    assert [decision.scheme for decision in found if decision] == [
        "affine8-g64", "affine3-g64", "affine3-g64", "affine5-g64"
    ]  # fmt: skip


def layered(**files: Any) -> Recipe:
    return hf2q.read({"quant_method": "q4_k", "bits": 4, "group_size": 32, **files}, "q.json")


def test_bits_by_name_with_what_describes_them() -> None:
    recipe = layered(
        per_layer_bits={"a.weight": 8, "b.weight": 16, "c.weight": 6, "d.weight": 16},
        quantization_info={
            "a.weight": {"method": "q8", "bits": 8, "group_size": 64, "preserved": False},
            "b.weight": {"method": "passthrough", "bits": 16, "group_size": 0, "preserved": True},
            "e.weight": {"method": "q4", "bits": 4, "group_size": 128, "preserved": False},
            "f.weight": {"method": "passthrough", "bits": 4, "group_size": 32, "preserved": True},
        },
    )
    found = {name: recipe.decide(Subject(f"{name}.weight")) for name in "abcdefg"}
    assert {name: decision.scheme for name, decision in found.items() if decision} == {
        "a": "affine8-g64", "b": "dense", "c": "affine6-g32", "d": "dense", "e": "affine4-g128", "f": "dense",
        "g": "affine4-g32",
    }  # fmt: skip
    assert recipe.warnings == ()


@pytest.mark.parametrize("value", [None, "8", 7, -1, 4.5, [8], {"bits": "x"}])
def test_bits_by_name_of_another_type_are_ignored(value: Any) -> None:
    recipe = layered(per_layer_bits={"a.weight": value})
    decision = recipe.decide(Subject("a.weight"))
    assert decision is not None and decision.scheme == "affine4-g32"
    assert len(recipe.warnings) == 1 and "a.weight" in recipe.warnings[0]


def test_bits_by_name_count_before_those_that_describe_them() -> None:
    recipe = layered(per_layer_bits={"a": 8}, quantization_info={"a": {"bits": 4, "group_size": 64}})
    decision = recipe.decide(Subject("a.weight"))
    assert decision is not None and decision.scheme == "affine8-g64"
    assert len(recipe.warnings) == 1 and "per_layer_bits says 8" in recipe.warnings[0]


def test_a_table_comes_before_flat_entries_and_those_before_bits_by_name() -> None:
    data = {**BASE, "per_tensor": {"a": {"bits": 8}}, "a": {"bits": 6}, "b": {"bits": 6}}
    recipe = hf2q.read(data | {"per_layer_bits": {"a": 3, "b": 3, "c": 3}}, "q.json")
    found = [recipe.decide(Subject(f"{name}.weight")) for name in "abc"]
    assert [decision.scheme for decision in found if decision] == ["affine8-g64", "affine6-g64", "affine3-g64"]


@pytest.mark.parametrize("key", ["", "a\n", "a\x1b[31m", "x" * 2000])
@pytest.mark.parametrize("table", ["per_tensor", "per_layer_bits", "quantization_info", "component_overrides"])
def test_keys_that_are_no_names_are_refused(table: str, key: str) -> None:
    with pytest.raises(BadInput) as caught:
        hf2q.read({**BASE, table: {key: {"bits": 8}}}, "q.json")
    assert "q.json" in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("table", ["per_tensor", "per_layer_bits", "quantization_info", "component_overrides"])
@pytest.mark.parametrize("method", [None, "mlx_affine", "q4", "q4_k_m", "mixed-4-6", "dwq-4-8", "f16", "some-new-one"])
def test_files_with_tables_are_recognised_whatever_their_method(method: str | None, table: str) -> None:
    assert hf2q.recognise({"quant_method": method, table: {}} if method else {table: {}})


#: What other quantizers write into files of that name.
FOREIGN: list[dict[str, Any]] = [
    {"bits": 4, "group_size": 128, "sym": True, "quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"},
    {"quant_method": "exl3", "version": "0.0.6", "bits": 3.5, "head_bits": 6, "tensor_storage": {"a": {"bits": 3}}},
    {"bits": 4, "group_size": 128, "desc_act": False, "sym": True, "damp_percent": 0.01},
    {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"},
    {"config_groups": {}, "format": "pack-quantized"},
    *(
        {"bits": 4, "group_size": 64, "quant_method": method}
        for method in (
            "gptq",
            "GPTQ",
            "awq",
            "compressed-tensors",
            "fp8",
            "quip",
            "some-new-one",
            "auto-gptq",
            "quanto",
        )
    ),
    {"quant_method": 4, "bits": 4},
    {"quant_method": "gptq", "bits": 4, "per_tensor": {}},
]


@pytest.mark.parametrize("data", FOREIGN, ids=repr)
def test_files_of_other_quantizers_are_not_recognised(data: dict[str, Any]) -> None:
    assert not hf2q.recognise(data)


@pytest.mark.parametrize("data", [{"model_type": "llama", "tie_word_embeddings": True, "rope_scaling": {"factor": 8}},
                                  {"architectures": ["X"]}, {"scheme": "q8_0"}, {"rule": []}], ids=repr)  # fmt: skip
def test_objects_of_another_kind_are_not_recognised(data: dict[str, Any]) -> None:
    assert not hf2q.recognise(data)
