"""What options do to a tiny model's weights: overrides, recipes, fallbacks, requantizing, dtypes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.errors import NotPossible, WrongUsage
from tests.builders import BF16, LLAMA, folder_of, llama_tensors, tiny_llama
from tests.conversions import config, converted, planned, schemes, stored, values

Sources = Callable[[str], Path]


# Overrides and recipes.


def test_overrides_land_in_the_config_and_are_read_back(source: Sources) -> None:
    folder = source("mixed")
    attention = {f"model.layers.1.self_attn.{p}_proj": {"group_size": 32, "bits": 4, "mode": "mxfp4"} for p in "qkvo"}
    down = {f"model.layers.{i}.mlp.down_proj": {"group_size": 32, "bits": 8, "mode": "affine"} for i in range(2)}
    expected = {"group_size": 64, "bits": 4, "mode": "affine"} | attention | down
    block = config(folder)["quantization"]
    assert {key: value for key, value in block.items() if value is not False} == expected
    assert config(folder)["quantization_config"] == block
    found = schemes(folder)
    assert found["lm_head.weight"] == "bf16"
    for name, tensor in stored(folder).items():
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and tensor.dtype == "U32":
            wanted = expected.get(module, expected)
            affine = f"affine{wanted['bits']}-g{wanted['group_size']}"
            assert found[name] == (affine if wanted["mode"] == "affine" else wanted["mode"]), name


RECIPES = {
    "rules.toml": 'scheme = "affine4-g64"\n[[rule]]\nmatch = "*.down_proj"\nscheme = "affine8-g32"\n'
    '[[rule]]\nmatch = "lm_head"\nscheme = "bf16"\n',
    "rules.json": '{"scheme": "affine4-g64", "rule": [{"match": "*.down_proj", "scheme": "affine8-g32"},'
    ' {"match": "re:^lm_head", "scheme": "bf16"}]}',
    "mlx/config.json": '{"quantization": {"group_size": 64, "bits": 4, "lm_head": false,'
    ' "model.layers.0.mlp.down_proj": {"group_size": 32, "bits": 8},'
    ' "model.layers.1.mlp.down_proj": {"group_size": 32, "bits": 8}}}',
    "quantization_config.json": '{"bits": 4, "group_size": 64, "per_tensor": {'
    '"model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 32},'
    ' "model.layers.1.mlp.down_proj.weight": {"bits": 8, "group_size": 32}}}',
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_of_every_dialect(source: Sources, tmp_path: Path, name: str) -> None:
    recipe = tmp_path / name
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(RECIPES[name])
    given = () if "lm_head" in RECIPES[name] else ("lm_head=bf16",)
    converted(source("hf-bf16"), tmp_path / "out", recipe=recipe, overrides=given, strict=True)
    for weight, scheme in schemes(tmp_path / "out").items():
        expected = "bf16" if "norm" in weight or weight == "lm_head.weight" else "affine4-g64"
        assert scheme == ("affine8-g32" if "down_proj" in weight else expected), weight


def test_override_beats_recipe_beats_scheme_of_the_source(source: Sources, tmp_path: Path) -> None:
    recipe = tmp_path / "rules.toml"
    recipe.write_text('[[rule]]\nmatch = "*.mlp.*"\nscheme = "affine8-g64"\n')
    converted(source("affine4-g64"), tmp_path / "out", recipe=recipe, overrides=("*.down_proj=affine6-g32",))
    found = schemes(tmp_path / "out")
    assert {found[n] for n in found if "down_proj" in n} == {"affine6-g32"}
    assert {found[n] for n in found if "gate_proj" in n or "up_proj" in n} == {"affine8-g64"}
    assert {found[n] for n in found if "self_attn" in n} == {"affine4-g64"}


def test_override_in_gguf(source: Sources, tmp_path: Path) -> None:
    """By HF name, module path or GGUF name; the plain type, not the mixture."""
    given = ("model.layers.0.mlp.*=q8_0", "blk.1.attn_v.weight=q5_1", "output.weight=q4_0")
    converted(source("hf-bf16"), tmp_path / "out.gguf", scheme="q4_0", overrides=given)
    found = schemes(tmp_path / "out.gguf")
    assert {found[f"blk.0.ffn_{x}.weight"] for x in ("gate", "up", "down")} == {"q8_0"}
    assert found["blk.1.attn_v.weight"] == "q5_1"
    assert found["output.weight"] == "q4_0"


def test_pattern_that_matches_nothing(source: Sources, tmp_path: Path) -> None:
    plan = planned(source("hf-bf16"), tmp_path / "out", scheme="affine4-g64", overrides=("*.experts.*=mxfp4",))
    assert len(plan.warnings) == 1 and "*.experts.*" in plan.warnings[0]
    with pytest.raises(NotPossible, match="--strict"):
        planned(source("hf-bf16"), tmp_path / "out", overrides=("*.experts.*=mxfp4",), strict=True)


# Fallbacks and what refuses them.


def test_fallback_is_listed(source: Sources, tmp_path: Path) -> None:
    report = converted(source("affine6-g64"), tmp_path / "out.gguf")
    fallen = [w for w in report["weights"] if "fallback_from" in w]
    assert report["totals"]["fallbacks"] == len(fallen) == 16
    assert {(w["fallback_from"], w["scheme"], w["route"]) for w in fallen} == {("affine6-g64", "q8_0", "requantize")}
    assert [w for w in report["warnings"] if "16 weights fall back from affine6-g64 to q8_0" in w]
    assert max(w["relative_rmse"] for w in fallen) < 0.01


def test_named_fallback(source: Sources, tmp_path: Path) -> None:
    converted(source("affine6-g64"), tmp_path / "out.gguf", fallback="bf16")
    assert set(schemes(tmp_path / "out.gguf").values()) == {"bf16", "f32"}
    with pytest.raises(WrongUsage, match="affine8-g64"):
        planned(source("affine6-g64"), tmp_path / "other.gguf", fallback="affine8-g64")


def test_what_was_asked_for_is_fallen_back_to(source: Sources, tmp_path: Path) -> None:
    """As long as it adds no more than a fallback may; 4 bits are not put on what had 8."""
    gguf = tmp_path / "q6_k.gguf"
    tiny = tiny_llama(tmp_path / "tiny", hidden_size=256, intermediate_size=256)
    converted(tiny, gguf, scheme="q6_k", overrides=("*embed_tokens=bf16",))
    for scheme, got in (("affine8-g32", "affine8-g32"), ("affine4-g32", "affine8-g128")):
        report = converted(gguf, tmp_path / scheme, scheme=scheme)
        assert {w["scheme"] for w in report["weights"] if "fallback_from" in w} == {got}
    with pytest.raises(WrongUsage, match="--fallback int8-channel"):
        planned(gguf, tmp_path / "hf", to="hf", fallback="int8-channel")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"fallback": "none"}, "--fallback none"),
        ({"strict": True}, "--strict"),
        ({"lossless": "exact"}, "--lossless exact"),
        ({"lossless": "codes"}, "--lossless codes"),
    ],
)
def test_fallback_refused(source: Sources, tmp_path: Path, given: dict[str, Any], says: str) -> None:
    with pytest.raises(NotPossible, match=says) as caught:
        planned(source("affine6-g64"), tmp_path / "out.gguf", **given)
    assert "output.weight" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "given", "names"),
    [
        ("hf-bf16", {"scheme": "affine8-g32"}, "lm_head.weight"),
        ("affine4-g64", {"to": "hf"}, "lm_head.weight"),
        ("hf-f32", {"dtype": "f16"}, "lm_head.weight"),
        ("awq", {}, "layers.0.mlp.down_proj.weight"),
    ],
)
def test_lossless_names_the_weights(
    source: Sources, tmp_path: Path, kind: str, given: dict[str, Any], names: str
) -> None:
    with pytest.raises(NotPossible, match=names):
        planned(source(kind), tmp_path / "out", lossless="exact", **given)


@pytest.mark.parametrize(
    ("kind", "name", "given"),
    [
        ("hf-bf16", "out", {}),
        ("hf-bf16", "out", {"dtype": "f32"}),
        ("hf-bf16", "out.gguf", {}),
        ("affine4-g64", "out", {}),
        ("affine4-g64", "out", {"to": "hf", "scheme": "f32"}),
        ("affine4-g64", "out.gguf", {}),
        ("mxfp4", "out", {"to": "hf"}),
        ("awq", "out", {"scale_dtype": "f32"}),
        ("awq-symmetric", "out.gguf", {}),
    ],
)
def test_lossless_lets_pass(source: Sources, tmp_path: Path, kind: str, name: str, given: dict[str, Any]) -> None:
    report = converted(source(kind), tmp_path / name, lossless="exact", **given)
    assert report["totals"]["grades"] == {"exact": 21}
    assert max(w["largest_error"] for w in report["weights"]) == 0


# An explicit scheme on weights that are quantized already.


def test_override_of_a_quantized_weight_is_refused(source: Sources, tmp_path: Path) -> None:
    for given in (
        {"overrides": ("*.down_proj=affine3-g64",)},
        {"overrides": ("lm_head=mxfp4",), "scheme": "affine4-g64"},
    ):
        with pytest.raises(NotPossible, match="--allow-requantize"):
            planned(source("affine4-g64"), tmp_path / "out", **given)
    with pytest.raises(NotPossible, match="--allow-requantize"):
        planned(source("affine4-g64"), tmp_path / "out.gguf", scheme="q4_1", tensor_types=("ffn_down=q8_0",))


def test_allow_requantize(source: Sources, tmp_path: Path) -> None:
    report = converted(source("affine8-g32"), tmp_path / "out", scheme="affine4-g64", allow_requantize=True)
    assert report["totals"]["routes"] == {"copy": 5, "requantize": 16}
    converted(source("hf-bf16"), tmp_path / "direct", scheme="affine4-g64")
    ours, direct = values(tmp_path / "out"), values(tmp_path / "direct")
    name = "model.layers.0.mlp.down_proj.weight"
    assert 0 < np.abs(ours[name] - direct[name]).max() < 0.05
    report = converted(source("affine4-g64"), tmp_path / "out.gguf", scheme="q4_0", allow_requantize=True)
    assert report["totals"]["schemes"] == {"f32": 5, "q4_0": 15, "q8_0": 1}


def test_scheme_for_dense_weights_only(source: Sources, tmp_path: Path) -> None:
    """Embedding and lm_head of an AWQ model are dense and take the scheme, its own weights keep their codes."""
    report = converted(source("awq"), tmp_path / "out", scheme="affine8-g32")
    repacked = {w["name"] for w in report["weights"] if w["route"] == "repack"}
    assert {w["scheme"] for w in report["weights"] if w["route"] == "quantize"} == {"affine8-g32"}
    assert len(repacked) == 14
    report = converted(source("awq"), tmp_path / "other", scheme="affine3-g64")
    kept = [w for w in report["weights"] if w["route"] == "repack"]
    assert {(w["scheme"], w["reason"]) for w in kept} == {
        ("affine4-g64", "keeps its codes: affine3-g64 would round them again")
    }


# Dtypes.


@pytest.mark.parametrize(
    ("kind", "name", "given", "expected"),
    [
        ("hf-bf16", "out", {"dtype": "f16"}, {"f16"}),
        ("hf-f32", "out", {"dtype": "bf16"}, {"bf16"}),
        ("hf-bf16", "out", {"to": "hf", "dtype": "f32"}, {"f32"}),
        ("hf-bf16", "out.gguf", {"dtype": "f16"}, {"f16", "f32"}),
        ("hf-f32", "out.gguf", {"dtype": "bf16"}, {"bf16", "f32"}),
        ("affine4-g64", "out", {"dtype": "f32"}, {"affine4-g64", "f32"}),
        ("affine4-g64", "out", {"to": "hf", "dtype": "f32"}, {"f32"}),
    ],
)
def test_dtype(
    source: Sources, tmp_path: Path, kind: str, name: str, given: dict[str, Any], expected: set[str]
) -> None:
    converted(source(kind), tmp_path / name, **given)
    assert set(schemes(tmp_path / name).values()) == expected


def test_dtype_comes_before_quantizing(source: Sources, tmp_path: Path) -> None:
    """As mlx-lm does it: an f32 model cast to bf16 first gives the bf16 model's codes and bf16 scales."""
    converted(source("hf-f32"), tmp_path / "cast", to="hf", dtype="bf16")
    converted(tmp_path / "cast", tmp_path / "two", scheme="affine4-g64")
    converted(source("hf-f32"), tmp_path / "one", scheme="affine4-g64", dtype="bf16")
    assert stored(tmp_path / "one") == stored(tmp_path / "two")
    assert stored(tmp_path / "one")["lm_head.scales"].dtype == "BF16"


def with_keys(folder: Path, keys: dict[str, Any]) -> Path:
    """A folder whose config.json has other keys; None removes one."""
    changed = {key: value for key, value in {**config(folder), **keys}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(changed))
    return folder


@pytest.mark.parametrize(
    ("keys", "to", "expected"),
    [
        ({"torch_dtype": "float16"}, "mlx", "f16"),
        ({"torch_dtype": None, "dtype": "float16"}, "mlx", "f32"),
        ({"torch_dtype": None, "text_config": {"dtype": "bfloat16"}}, "mlx", "bf16"),
        ({"torch_dtype": "float16"}, "hf", "f32"),
        ({"torch_dtype": "float16"}, "gguf", "f32"),
    ],
)
def test_dense_dtype_by_target(tmp_path: Path, keys: dict[str, Any], to: str, expected: str) -> None:
    """mlx-lm casts to `torch_dtype` (not to a top-level `dtype`); the other targets leave dense tensors as stored."""
    folder = with_keys(tiny_llama(tmp_path / "source", np.dtype(np.float32)), keys)
    output = tmp_path / ("out.gguf" if to == "gguf" else "out")
    converted(folder, output, to=to)
    assert set(schemes(output).values()) == {expected}


@pytest.mark.parametrize(
    "keys", [{"torch_dtype": "float16", "dtype": "bfloat16"}, {"torch_dtype": None, "dtype": "bfloat16"},
             {"torch_dtype": None}],
)  # fmt: skip
def test_decoded_dtype_of_hf(source: Sources, tmp_path: Path, keys: dict[str, Any]) -> None:
    """What is decoded takes the dtype of its scales, whatever config.json says, which then says it too."""
    converted(source("hf-f32"), tmp_path / "mlx", scheme="affine4-g64", dtype="f32")
    converted(with_keys(tmp_path / "mlx", keys), tmp_path / "out", to="hf")
    assert set(schemes(tmp_path / "out").values()) == {"f32"}
    made = config(tmp_path / "out")
    assert {made[key] for key in ("torch_dtype", "dtype") if key in made} == {"float32"}


@pytest.mark.parametrize("to", ["mlx", "hf"])
@pytest.mark.parametrize("given", [{"dtype": "bf16"}, {"scheme": "bf16"}], ids=["dtype", "scheme"])
def test_config_names_the_dtype_of_the_tensors(source: Sources, tmp_path: Path, to: str, given: dict[str, Any]) -> None:
    converted(source("hf-f32"), tmp_path / "out", to=to, **given)
    assert set(schemes(tmp_path / "out").values()) == {"bf16"}
    assert config(tmp_path / "out")["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("kind", "given", "scales"),
    [
        ("hf-bf16", {"scheme": "affine4-g64"}, "BF16"),
        ("hf-bf16", {"scheme": "affine4-g64", "scale_dtype": "f16"}, "F16"),
        ("hf-bf16", {"scheme": "affine4-g64", "scale_dtype": "f32"}, "F32"),
        ("hf-f16", {"scheme": "affine4-g64"}, "F16"),
        ("affine4-g64", {}, "BF16"),
        ("affine4-g64", {"scale_dtype": "f32"}, "F32"),
        ("affine4-g64", {"dtype": "f16"}, "BF16"),
        ("affine4-g64", {"scheme": "affine4-g32"}, "BF16"),
        ("affine4-g64", {"scheme": "affine4-g32", "dtype": "f16"}, "BF16"),
        ("hf-bf16", {"scheme": "affine4-g64", "dtype": "f16"}, "F16"),
        ("awq", {}, "F16"),
        ("awq", {"scale_dtype": "bf16"}, "BF16"),
    ],
)
def test_scale_dtype(source: Sources, tmp_path: Path, kind: str, given: dict[str, Any], scales: str) -> None:
    converted(source(kind), tmp_path / "out", **given)
    found = stored(tmp_path / "out")
    module = "model.layers.0.mlp.up_proj"
    assert (found[f"{module}.scales"].dtype, found[f"{module}.biases"].dtype) == (scales, scales)


def test_scales_that_differ_from_the_dense_dtype_are_warned_of(source: Sources, tmp_path: Path) -> None:
    plan = planned(source("affine4-g64"), tmp_path / "out", scale_dtype="f32")
    assert any("float32" in warning and "--scale-dtype" in warning for warning in plan.warnings)


def test_overflowing_scale_names_the_way_out(tmp_path: Path) -> None:
    tensors = llama_tensors(LLAMA)
    tensors["model.layers.0.mlp.up_proj.weight"] = (tensors["model.layers.0.mlp.up_proj.weight"] * 1e8).astype(BF16)
    folder = folder_of(tmp_path / "source", tensors, LLAMA)
    with pytest.raises(NotPossible, match="--scale-dtype f32") as caught:
        converted(folder, tmp_path / "out", scheme="affine4-g64", scale_dtype="f16")
    assert "layers.0.mlp.up_proj" in str(caught.value)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_bare_fp8_is_decoded_where_it_has_no_place(source: Sources, tmp_path: Path) -> None:
    report = converted(source("hf-bf16"), tmp_path / "fp8", to="hf", scheme="fp8-e5m2")
    eights = {w["name"] for w in report["weights"] if w["scheme"] == "fp8-e5m2"}
    kept = converted(tmp_path / "fp8", tmp_path / "mlx")
    assert eights and {w["grade"] for w in kept["weights"] if w["name"] in eights} == {"exact"}
    report = converted(tmp_path / "fp8", tmp_path / "affine", scheme="affine4-g64")
    assert {w["scheme"] for w in report["weights"] if w["name"] in eights} == {"affine4-g64"}
