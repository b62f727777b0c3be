"""Where a folder says how its weights are quantized: every place and spelling, and none of it in dense outputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16, float8_e4m3fn

from quantcli.errors import BadInput, NotPossible
from quantcli.sources.detect import open_source
from quantcli.sources.folder import LocalFolder
from quantcli.sources.stated import stated
from tests.builders import folder_of, llama_tensors, tiny_llama
from tests.conversions import config, converted, stored, values

DATA = Path(__file__).resolve().parent.parent / "data" / "quantized"
OLD = {"quantization_config", "compression_config"}

#: Where settings stand, by their keys.
PLACES = {
    "top": ("quantization_config",),
    "text": ("text_config", "quantization_config"),
    "llm": ("llm_config", "quantization_config"),
    "language": ("language_config", "quantization_config"),
    "thinker": ("thinker_config", "text_config", "quantization_config"),
    "compression": ("compression_config",),
    "text compression": ("text_config", "compression_config"),
}


def moved(case: str, root: Path, path: tuple[str, ...], *, without: str | None = None) -> Path:
    """The case with its settings in another place; without: a key that they leave out."""
    shutil.copytree(DATA / case, root, copy_function=shutil.copyfile)
    root.chmod(0o755)
    found = config(root)
    block = found.pop("quantization_config")
    block.pop(without, None)
    write(root, nested(found, path, block))
    return root


def nested(outer: Mapping[str, Any], path: tuple[str, ...], block: Any) -> dict[str, Any]:
    key, *rest = path
    inner = outer.get(key)
    return {
        **outer,
        key: nested(inner if isinstance(inner, dict) else {"kept": 1}, tuple(rest), block) if rest else block,
    }


def write(root: Path, found: Mapping[str, Any]) -> None:
    (root / "config.json").write_text(json.dumps(found))


def every_key(value: Any) -> set[str]:
    if not isinstance(value, Mapping):
        return set()
    return {*value, *(key for inner in value.values() for key in every_key(inner))}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("case", ["ct-w4a16-g64", "fp8-deepseek-block", "gptq-b4-g64-sym"])
def test_settings_are_read_wherever_loaders_look_for_them(case: str, place: str, tmp_path: Path) -> None:
    source = moved(case, tmp_path / "m", PLACES[place])
    found, wanted = values(source), values(DATA / case)
    assert found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert open_source(source).warnings == open_source(DATA / case).warnings


@pytest.mark.parametrize("place", PLACES)
def test_errors_name_the_place(place: str, tmp_path: Path) -> None:
    source = moved("gptq-b4-g64-sym", tmp_path / "m", PLACES[place])
    found = config(source)
    write(source, nested(found, PLACES[place], {"quant_method": "gptq", "bits": 11, "group_size": 64}))
    with pytest.raises(BadInput, match=r"\.".join(PLACES[place]) + r": key bits: .*found 11"):
        open_source(source)
    write(source, nested(found, PLACES[place], {"quant_method": "tea-leaves"}))
    with pytest.raises(NotPossible, match=r"\.".join(PLACES[place]) + r": quant_method 'tea-leaves'"):
        open_source(source)
    *outer, key = PLACES[place]
    for odd in (7, "x", [1]):
        write(source, nested(found, PLACES[place], odd))
        with pytest.raises(BadInput, match=r"config\.json: " + r"\.".join(outer) + f"(: )?key {key}: .*found "):
            open_source(source)


@pytest.mark.parametrize("place", ["text", "thinker", "compression"])
@pytest.mark.parametrize("output", ["hf", "mlx", "mlx4"])
def test_no_copy_of_them_stays_in_outputs_of_another_layout(output: str, place: str, tmp_path: Path) -> None:
    source = quantized_llama(tmp_path / "m", PLACES[place])
    options = {"hf": {"to": "hf", "scheme": "bf16"}, "mlx": {"scheme": "bf16"}, "mlx4": {"scheme": "affine4-g32"}}
    converted(source, tmp_path / output, **options[output])
    found = config(tmp_path / output)
    mirror = {"quantization", "quantization_config"} if output == "mlx4" else set()
    assert every_key(found).intersection({*OLD, "quantization"}) == mirror
    assert all(not every_key(value).intersection(OLD) for value in found.values())
    outer = PLACES[place][0]
    assert outer in OLD or found[outer] == (
        {"text_config": {"kept": 1}, "kept": 1} if place == "thinker" else {"kept": 1}
    )


@pytest.mark.parametrize("place", ["top", "text", "compression"])
def test_a_kept_layout_keeps_them_where_they_stand(place: str, tmp_path: Path) -> None:
    source = quantized_llama(tmp_path / "m", PLACES[place])
    converted(source, tmp_path / "same", to="hf")
    assert stored(tmp_path / "same") == stored(source) and config(tmp_path / "same") == config(source)
    name = "model.layers.0.mlp.up_proj"
    converted(source, tmp_path / "one", to="hf", overrides=(f"{name}.weight=bf16",))
    block: Any = config(tmp_path / "one")
    for key in PLACES[place]:
        block = block[key]
    assert block["modules_to_not_convert"] == ["lm_head", name]
    assert open_source(tmp_path / "one").warnings == ()


def quantized_llama(root: Path, path: tuple[str, ...]) -> Path:
    """A small llama in FP8 with its settings in a place."""
    tiny_llama(root)
    found = config(root)
    tensors = llama_tensors(found)
    for name in [name for name in tensors if "_proj" in name]:
        tensors[name.replace(".weight", ".weight_scale_inv")] = np.ones((), np.float32)
        tensors[name] = tensors[name].astype(float8_e4m3fn)
    block = {"quant_method": "fp8", "modules_to_not_convert": ["lm_head"]}
    return folder_of(root, tensors, nested(found, path, block))


def test_the_first_place_counts_and_others_that_differ_are_named(tmp_path: Path) -> None:
    source = moved("fp8-deepseek-block", tmp_path / "m", ("quantization_config",))
    found = config(source)
    block = found["quantization_config"]
    write(source, {**found, "text_config": {"quantization_config": block}})
    assert open_source(source).warnings == ()
    write(source, {**found, "text_config": {"quantization_config": {**block, "quant_method": "awq"}}})
    (warning,) = open_source(source).warnings
    assert "text_config.quantization_config" in warning and "quantization_config is used" in warning
    write(source, {**found, "quantization_config": None, "text_config": {"quantization_config": block}})
    assert open_source(source).warnings == ()


#: quant_method as files have it -> a case, the keys that tell where there is none.
METHODS = {
    "compressed_tensors": "ct-w4a16-g64", "Compressed-Tensors": "ct-w4a16-g64", "AWQ": "autoawq-gemm-g64",
    "FP8": "fp8-deepseek-block", "intel/auto-round": "autoround-b4-g64", "auto_round": "autoround-b4-g64",
    "bitsandbytes_4bit": "bnb-nf4",
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_spellings_of_quant_method(method: str, tmp_path: Path) -> None:
    case = METHODS[method]
    source = moved(case, tmp_path / "m", ("quantization_config",))
    write(source, nested(config(source), ("quantization_config", "quant_method"), method))
    assert open_source(source).kind == open_source(DATA / case).kind
    assert open_source(source).warnings == open_source(DATA / case).warnings


@pytest.mark.parametrize(
    ("case", "path"),
    [("bnb-nf4", ("quantization_config",)), ("bnb-int8", ("quantization_config",)),
     ("ct-fp8-channel", ("compression_config",)), ("ct-w4a16-g64", ("text_config", "compression_config"))],
)  # fmt: skip
def test_other_keys_tell_a_method_that_is_left_out(case: str, path: tuple[str, ...], tmp_path: Path) -> None:
    assert open_source(moved(case, tmp_path / "m", path, without="quant_method")).kind == open_source(DATA / case).kind


#: File -> a case whose settings it has, under which key, and what it says.
FILES: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "hf_quant_config.json": ("modelopt-fp8", "quantization", {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}),
    "quantize_config.json": ("gptq-b4-g64-sym", None, {"bits": 4, "group_size": 64, "sym": True, "desc_act": False}),
    "quant_config.json": ("autoawq-gemm-g64", None, {"w_bit": 4, "q_group_size": 64, "zero_point": True}),
}


@pytest.mark.parametrize("file", FILES)
def test_settings_in_a_file_of_their_own(file: str, tmp_path: Path) -> None:
    case, key, block = FILES[file]
    source = moved(case, tmp_path / "m", ("nowhere",))
    write(source, {key: value for key, value in config(source).items() if key != "nowhere"})
    (source / file).write_text(json.dumps({key: block} if key else block))
    found, wanted = values(source), values(DATA / case)
    assert found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_stray_file_without_packed_tensors_says_nothing(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "m")
    (tmp_path / "m" / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 64}))
    source = open_source(tmp_path / "m")
    assert source.warnings == () and "quantization_config" not in source.config


def test_settings_of_modelopt_in_its_older_form(tmp_path: Path) -> None:
    source = moved("modelopt-fp8", tmp_path / "m", ("quantization_config",))
    found = config(source)
    inner = {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    write(source, {**found, "quantization_config": {"producer": {"name": "modelopt"}, "quantization": inner}})
    assert open_source(source).kind == "modelopt"


SCALES = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
#: Settings of the cache of keys and values alone, and the ends of the scales that come with them.
CACHE: dict[str, dict[str, Any]] = {
    "modelopt": {"quant_method": "modelopt", "quant_algo": None, "kv_cache_quant_algo": "FP8"},
    "modelopt, scheme": {"quant_method": "modelopt", "kv_cache_scheme": SCALES, "producer": {"name": "modelopt"}},
    "modelopt, older": {"producer": {"name": "modelopt"}, "quantization": {"kv_cache_quant_algo": "FP8"}},
    "ct": {"quant_method": "compressed-tensors", "config_groups": {}, "kv_cache_scheme": SCALES, "format": "dense"},
    "ct, no groups": {"quant_method": "compressed-tensors", "kv_cache_scheme": SCALES, "ignore": ["lm_head"]},
    "ct, null": {"quant_method": "compressed-tensors", "config_groups": None, "kv_cache_scheme": SCALES},
    "ct, activations": {
        "quant_method": "compressed-tensors", "kv_cache_scheme": SCALES,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": None, "input_activations": SCALES}},
    },
    "quark": {
        "quant_method": "quark", "export": {"kv_cache_group": ["*k_proj", "*v_proj"]},
        "global_quant_config": {"weight": None}, "kv_cache_quant_config": {"*k_proj": {"output_tensors": {}}},
        "layer_quant_config": {"*k_proj": {"weight": None, "output_tensors": {"dtype": "fp8_e4m3"}}},
    },
}  # fmt: skip


@pytest.mark.parametrize("settings", CACHE)
@pytest.mark.parametrize("path", [("quantization_config",), ("text_config", "quantization_config")])
def test_settings_of_the_cache_alone_leave_a_model_dense(path: tuple[str, ...], settings: str, tmp_path: Path) -> None:
    tiny_llama(tmp_path / "m")
    found = config(tmp_path / "m")
    tensors = llama_tensors(found)
    scales = {f"model.layers.0.self_attn.{name}": np.ones(1, bfloat16) for name in ("k_scale", "v_scale")}
    folder_of(tmp_path / "m", {**tensors, **scales}, nested(found, path, CACHE[settings]))
    source = open_source(tmp_path / "m")
    assert (source.kind, source.warnings) == ("hf", ())
    assert {name for name, weight in source.weights.items() if weight.scheme.name == "bf16"} == {*tensors, *scales}
    converted(tmp_path / "m", tmp_path / "hf", to="hf")
    assert not every_key(config(tmp_path / "hf")).intersection(OLD)


def test_a_file_of_modelopt_that_is_of_the_cache_alone(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "m")
    (tmp_path / "m" / "hf_quant_config.json").write_text(
        json.dumps(
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}}
        )
    )
    assert (open_source(tmp_path / "m").kind, open_source(tmp_path / "m").warnings) == ("hf", ())
    converted(tmp_path / "m", tmp_path / "hf", to="hf")
    assert "quantization_config" not in config(tmp_path / "hf")
    assert not (tmp_path / "hf" / "hf_quant_config.json").exists()


@pytest.mark.parametrize("method", ["awq", "bitsandbytes", "compressed-tensors", "fp8", "gptq", "modelopt", "quark"])
def test_settings_of_weights_that_are_all_dense_are_named(method: str, tmp_path: Path) -> None:
    tiny_llama(tmp_path / "m")
    found = config(tmp_path / "m")
    block = {
        "quant_method": method, "load_in_4bit": True, "quant_algo": "FP8", "bits": 4, "group_size": 64,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": SCALES}},
        "global_quant_config": {"weight": {"dtype": "int4"}},
    }  # fmt: skip
    write(tmp_path / "m", {**found, "quantization_config": block})
    (warning,) = open_source(tmp_path / "m").warnings
    assert method in warning and "matrices" in warning
    with pytest.raises(NotPossible, match=method):
        converted(tmp_path / "m", tmp_path / "hf", to="hf", strict=True)


def test_places_in_order(tmp_path: Path) -> None:
    block = {"quant_method": "fp8"}
    tiny_llama(tmp_path / "m")
    for first, second in zip(list(PLACES.values())[:-2], list(PLACES.values())[1:-2], strict=False):
        both = nested(nested({}, second, {**block, "bits": 8}), first, block)
        assert stated(LocalFolder(tmp_path / "m"), both, ()).path == first
