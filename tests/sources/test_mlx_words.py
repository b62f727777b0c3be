"""What MLX folders of today's tools say in config.json: nulls, words of other converters, settings left over."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.checkpoint import Checkpoint
from quantcli.convert.comparing.folders import compare_folders
from quantcli.errors import BadInput, QuantError
from quantcli.recipes import load
from quantcli.recipes.base import Subject
from quantcli.sources.detect import open_source
from tests.builders import BF16, folder_of, tiny_llama
from tests.conversions import config, converted, planned, stored
from tests.sources.test_mlx_source import COLUMNS, MODES, ROWS, Tensors, affine, scaled

Q4 = {"group_size": 64, "bits": 4}
FILE = "quantization_config.json"
BF16_ROWS = np.ones((ROWS, COLUMNS), BF16)

#: An object with nulls -> the scheme that it means.
NULLS: list[tuple[dict[str, Any], str]] = [
    *[({"group_size": None, "bits": bits, "mode": "affine"}, f"affine{bits}-g64") for bits in (2, 3, 4, 5, 6, 8)],
    *[({"group_size": group, "bits": None, "mode": "affine"}, f"affine4-g{group}") for group in (32, 64, 128)],
    ({"group_size": None, "bits": None, "mode": None}, "affine4-g64"),
    ({"group_size": None, "bits": 6, "mode": None}, "affine6-g64"),
    ({"group_size": None, "bits": None}, "affine4-g64"),
    *[({"group_size": None, "bits": None, "mode": mode}, mode) for mode in MODES],
    *[({"group_size": None, "bits": bits, "mode": mode}, mode) for mode, (bits, _) in MODES.items()],
    *[({"group_size": group, "bits": None, "mode": mode}, mode) for mode, (_, group) in MODES.items()],
]
IDS = [json.dumps(said) for said, _ in NULLS]


def arrays(scheme: str, name: str = "m.q") -> Tensors:
    """A module of a scheme."""
    if scheme in MODES:
        return scaled(scheme, name)
    bits, _, group = scheme.removeprefix("affine").partition("-g")
    return affine(int(bits), int(group), name=name)


def opened(root: Path, tensors: Tensors, block: Any, **further: Any) -> Checkpoint:
    named = {} if block is None else {"quantization": block}
    return open_source(folder_of(root, tensors, {"model_type": "llama", **named, **further}))


def schemes(found: Checkpoint) -> dict[str, str]:
    return {name: weight.scheme.name for name, weight in found.weights.items()}


@pytest.mark.parametrize(("said", "scheme"), NULLS, ids=IDS)
def test_a_null_is_the_modes_default(said: dict[str, Any], scheme: str, tmp_path: Path) -> None:
    """For all modules, for one, in either file; a group size of the file does not count for a module's null."""
    other = {"group_size": 128, "bits": 3}
    places: dict[str, tuple[dict[str, Any], Any]] = {
        "top": ({"quantization": said}, None),
        "module": ({"quantization": {**other, "m.q": said}}, None),
        "mirror": ({"quantization_config": said}, None),
        "file": ({}, said),
        "module in the file": ({}, {**other, "m.q": said}),
        "per_tensor": ({}, {**other, "per_tensor": {"m.q.weight": said}}),
    }
    for place, (named, beside) in places.items():
        root = folder_of(tmp_path / place, arrays(scheme), {"model_type": "llama", **named})
        if beside is not None:
            (root / FILE).write_text(json.dumps(beside))
        found = open_source(root)
        assert (schemes(found), found.warnings) == ({"m.q.weight": scheme}, ()), place


@pytest.mark.parametrize(("said", "scheme"), NULLS, ids=IDS)
@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_a_null_in_a_recipe(key: str, said: dict[str, Any], scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for block in (said, {"group_size": 128, "bits": 3, "m.q": said}):
        path.write_text(json.dumps({"model_type": "llama", key: block}))
        recipe = load(path)
        decision = recipe.decide(Subject("m.q.weight"))
        assert decision is not None and (decision.scheme, recipe.warnings) == (scheme, ())


def test_a_recipe_of_nulls_decides_a_conversion(tmp_path: Path) -> None:
    """As mlx_lm.convert writes it with --quant-predicate: 64 for every null, whatever the file's own group size."""
    block = {"group_size": 32, "bits": 4, "mode": "affine"} | {
        f"model.layers.{i}.mlp.up_proj": {"group_size": None, "bits": bits, "mode": "affine"}
        for i, bits in enumerate((3, 6))
    }
    (tmp_path / "recipe.json").write_text(json.dumps({"quantization": block, "quantization_config": block}))
    source = tiny_llama(tmp_path / "source")
    report = converted(source, tmp_path / "out", recipe=tmp_path / "recipe.json")
    got = {weight["name"]: weight["scheme"] for weight in report["weights"]}
    assert [got[f"model.layers.{i}.mlp.up_proj.weight"] for i in (0, 1)] == ["affine3-g64", "affine6-g64"]
    assert got["model.layers.0.mlp.gate_proj.weight"] == "affine4-g32" and not report["warnings"]


@pytest.mark.parametrize("method", ["quark", "gptq", "awq", "compressed-tensors", "modelopt"])
def test_a_recipe_next_to_settings_left_over(method: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    stale = {"quant_method": method, "global_quant_config": {}}
    path.write_text(json.dumps({"quantization": {**Q4, "m.q": False}, "quantization_config": stale}))
    recipe = load(path)
    decisions = [recipe.decide(Subject(name)) for name in ("m.q.weight", "m.k.weight")]
    assert [found.scheme for found in decisions if found] == ["dense", "affine4-g64"]
    (warning,) = recipe.warnings
    assert repr(method) in warning


def test_names_within_a_larger_model(tmp_path: Path) -> None:
    """As mlx-vlm writes them, and in Hugging Face's spelling."""
    name = "language_model.model.layers.0.mlp.up_proj"
    tensors = {
        **affine(8, name=name),
        **affine(name=name.replace("up", "down")),
        "vision_tower.b.qkv.weight": BF16_ROWS,
    }
    for number, key in enumerate((name, name.replace("language_model.model", "model.language_model"), name[15:])):
        block = {**Q4, key: {"group_size": None, "bits": 8}, "vision_tower.b.qkv": False, "vision_tower": False}
        found = opened(tmp_path / str(number), tensors, block)
        assert [weight.scheme.name for weight in found.weights.values()] == ["affine4-g64", "affine8-g64", "bf16"]
        assert found.warnings == ()


#: Words that name no module, with values of every type.
WORDS: list[tuple[str, Any]] = [
    ("scheme", "direct_affine_4bit_v1"), ("quant_method", "mlx"), ("quant_method", "direct"), ("version", 2),
    ("version", "1.0"), ("linear_class", "QuantizedLinear"), ("quantization_mode", "affine"), ("sym", False),
    ("zero_point", True), ("metadata", {"tool": "x", "bits": "four"}), ("layers", ["m.q"]), ("ratio", 0.5),
    ("empty", None), ("m.gone", {"group_size": 64, "bits": 8}), ("m.gone", {"bits": 8}), ("m.gone", "x"),
    ("m.*.gone", True), ("m", {"group_size": 64, "bits": 4}), ("m", "Qwen/Qwen3"),
]  # fmt: skip


@pytest.mark.parametrize(("word", "value"), WORDS, ids=repr)
def test_a_word_that_names_no_module_is_a_warning(word: str, value: Any, tmp_path: Path) -> None:
    found = opened(tmp_path, affine(), {**Q4, word: value})
    assert schemes(found) == {"m.q.weight": "affine4-g64"}
    (warning,) = found.warnings
    assert repr(word) in warning and "config.json: quantization" in warning
    assert found.malformed == (warning,)


def test_words_are_one_warning_with_their_number(tmp_path: Path) -> None:
    block = {**Q4, "scheme": "x", "version": 1, **{f"m.{i}": {"group_size": 64, "bits": 8} for i in range(90)}}
    (warning,) = opened(tmp_path, affine(), block).warnings
    assert "92 keys" in warning and "'scheme', 'version'" in warning and len(warning) < 400


@pytest.mark.parametrize(
    "value", ["false", 0, None, [], 4.5, {"bits": 4}, {**Q4, "sym": 1}, {**Q4, "bits": 7}], ids=repr
)
@pytest.mark.parametrize(
    "key", ["m.q", "m.q.weight", "language_model.m.q", "m.norm", "m.mixer", "m.mixer.A_log", "m.*", "*.norm"]
)
def test_a_key_that_names_a_module_is_strict(key: str, value: Any, tmp_path: Path) -> None:
    tensors = {**affine(), "m.norm.weight": np.ones(8, BF16), "m.mixer.A_log": np.ones(8, np.float32)}
    with pytest.raises(BadInput, match=r"config\.json: quantization\["):
        opened(tmp_path, tensors, {**Q4, key: value})


@pytest.mark.parametrize("head", [False, True, Q4, {"group_size": None, "bits": 8}], ids=repr)
def test_dense_paths_and_heads_that_are_not_stored_are_no_warning(head: Any, tmp_path: Path) -> None:
    """AutoRound lists the head of a tied model as dense, other tools whole towers."""
    block = {**Q4, "lm_head": head, "model.vision.0.qkv": False, "m": False}
    assert opened(tmp_path, affine(), block).warnings == ()


def test_words_in_a_lone_mirror_of_hf2q(tmp_path: Path) -> None:
    folder_of(tmp_path, affine(), {"model_type": "llama", "quantization_config": {"quant_method": "mlx_affine", **Q4}})
    assert open_source(tmp_path).warnings == ()


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama as an MLX folder."""
    root = tmp_path_factory.mktemp("mlx")
    converted(tiny_llama(root / "dense"), root / "mlx", scheme="affine4-g64")
    (root / "mlx" / "quant_report.json").unlink()
    return root / "mlx"


def changed(folder: Path, root: Path, **changes: Any) -> Path:
    """A copy of a folder with keys of config.json changed."""
    root.mkdir()
    for path in folder.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    (root / "config.json").write_text(json.dumps(config(folder) | changes))
    return root


@pytest.mark.parametrize("options", [{}, {"to": "hf"}, {"to": "gguf"}], ids=["mlx", "hf", "gguf"])
def test_words_are_refused_as_bad_input_when_strict(options: dict[str, Any], quantized: Path, tmp_path: Path) -> None:
    block = {**config(quantized)["quantization"], "scheme": "direct_affine_4bit_v1"}
    folder = changed(quantized, tmp_path / "words", quantization=block, quantization_config=block)
    output = tmp_path / ("out.gguf" if "gguf" in options.values() else "out")
    with pytest.raises(QuantError, match="'scheme'") as caught:
        planned(folder, output, strict=True, **options)
    assert caught.value.exit_code == 3
    plan = planned(folder, output, **options)
    assert any("'scheme'" in warning for warning in plan.warnings)
    planned(quantized, tmp_path / "sound", strict=True)


def test_a_null_and_what_it_stands_for_are_no_difference(quantized: Path, tmp_path: Path) -> None:
    entry = {"group_size": 64, "bits": 4, "mode": "affine"}
    blocks = [
        {**entry, "model.layers.0.mlp.up_proj": {key: None if null else value for key, value in entry.items()}}
        for null in (False, True)
    ]
    folders = [
        changed(quantized, tmp_path / str(number), quantization=block, quantization_config=block)
        for number, block in enumerate(blocks)
    ]
    found = compare_folders(*map(open_source, folders))
    assert found.fields == [] and {field.key for field in found.uncounted} == {"quantization", "quantization_config"}


#: Settings of the model that MLX's were made from, by what they are.
LEFTOVERS: dict[str, dict[str, Any]] = {
    "fp8": {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}},
    "no method": {"quantization_config": {"desc_act": True, "sym": True, "bits": 4, "group_size": 128}},
    "unknown method": {"quantization_config": {"quant_method": "nobody", "bits": 1}},
    "compression_config": {"compression_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}},
    "in text_config": {"text_config": {"quantization_config": {"quant_method": "compressed-tensors"}}},
    "in a part of a part": {"thinker_config": {"text_config": {"quantization_config": {"quant_method": "gptq"}}}},
    "another MLX block in text_config": {"text_config": {"quantization": {"group_size": 32, "bits": 8}}},
    "two": {"quantization_config": {"quant_method": "awq"}, "compression_config": {"config_groups": {}}},
} | {
    method: {"quantization_config": {"quant_method": method, "bits": 4, "group_size": 128}}
    for method in (
        "aqlm", "auto-round", "awq", "bitsandbytes", "compressed-tensors", "fbgemm_fp8", "gptq", "hqq", "modelopt",
        "mxfp4", "mxfp8", "quanto", "quark", "torchao",
    )
}  # fmt: skip


def mentions(found: Any, word: str) -> bool:
    """Whether a JSON value has the word as a key, at any depth."""
    if isinstance(found, dict):
        return word in found or any(mentions(value, word) for value in found.values())
    return isinstance(found, list) and any(mentions(value, word) for value in found)


@pytest.mark.parametrize("case", LEFTOVERS)
def test_settings_left_over_do_not_count(case: str, quantized: Path, tmp_path: Path) -> None:
    stale = {"quantization_config": None} | LEFTOVERS[case]
    folder = changed(quantized, tmp_path / "stale", **stale)
    found = open_source(folder)
    assert (found.kind, schemes(found)) == ("mlx", schemes(open_source(quantized)))
    (warning,) = found.warnings
    for key in LEFTOVERS[case]:
        assert key in warning
    assert "quantization" in warning


@pytest.mark.parametrize("case", ["fp8", "in text_config", "in a part of a part", "two"])
def test_settings_left_over_are_in_no_output(case: str, quantized: Path, tmp_path: Path) -> None:
    stale = {"quantization_config": None} | LEFTOVERS[case]
    folder = changed(quantized, tmp_path / "stale", **stale)
    converted(folder, tmp_path / "mlx")
    assert stored(tmp_path / "mlx") == stored(quantized)
    ours = config(tmp_path / "mlx")
    assert ours.pop("quantization") == ours.pop("quantization_config") == config(quantized)["quantization"]
    converted(folder, tmp_path / "hf", to="hf")
    for left in (ours, config(tmp_path / "hf")):
        assert not any(mentions(left, word) for word in ("quantization", "quantization_config", "compression_config"))
        assert {key for key in left if key.endswith("_config")} == {
            key for key in stale if key in ("text_config", "thinker_config")
        }


def test_settings_left_over_say_nothing_in_gguf(tmp_path: Path) -> None:
    converted(tiny_llama(tmp_path / "dense"), tmp_path / "mlx", scheme="nvfp4")
    stale = {"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4"}
    folder = changed(tmp_path / "mlx", tmp_path / "stale", quantization_config=stale)
    converted(folder, tmp_path / "out.gguf")
    assert not [key for key in open_source(tmp_path / "out.gguf").metadata if key.startswith("general.tensor_extra")]


def test_modelopts_file_next_to_mlx_weights_does_not_count(quantized: Path, tmp_path: Path) -> None:
    folder = changed(quantized, tmp_path / "stale", quantization_config=None)
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    found = open_source(folder)
    assert (found.kind, found.warnings) == ("mlx", ())


@pytest.mark.parametrize("packing", ["mlx", "auto_round:mlx"])
@pytest.mark.parametrize("is_listed", [True, False])
def test_mlx_folders_of_auto_round(packing: str, is_listed: bool, tmp_path: Path) -> None:
    """Its export writes `quantization`, and settings for its own loader next to it, in text_config too."""
    own = {
        "quant_method": "auto-round", "packing_format": packing, "bits": 4, "group_size": 128, "sym": True,
        "data_type": "int",
    }  # fmt: skip
    block = {"group_size": 128, "bits": 4, "m.q": {"group_size": 128, "bits": 4}, "lm_head": False}
    nested = {"text_config": {"quantization": {"group_size": 128, "bits": 4, "q": Q4}, "quantization_config": own}}
    tensors = {**affine(4, 128), "n.weight": BF16_ROWS}
    found = opened(tmp_path, tensors, block if is_listed else None, quantization_config=own, **nested)
    assert (found.kind, schemes(found), found.warnings) == (
        "mlx",
        {"m.q.weight": "affine4-g128", "n.weight": "bf16"},
        (),
    )


def test_a_dense_matrix_that_is_listed_as_quantized_is_read_with_a_warning(tmp_path: Path) -> None:
    names = ("n.a", "n.b", "n.c")
    tensors = {
        **affine(),
        **{f"{name}.weight": BF16_ROWS for name in names},
        "v.weight": np.ones(8, BF16),
    }
    found = opened(tmp_path, tensors, {**Q4, "n.a": Q4, "n.b": True, "n.c": False, "v": Q4})
    (warning,) = found.warnings
    assert "2 modules (the first: n.a)" in warning and "dense" in warning
    assert {found.weights[f"{name}.weight"].scheme.name for name in names} == {"bf16"}


def test_a_folder_without_a_quantized_weight_is_read_with_a_warning(tmp_path: Path) -> None:
    """What a tool leaves that decodes the weights and not the settings."""
    found = opened(tmp_path, {"n.weight": BF16_ROWS}, {"group_size": None, "bits": 3})
    (warning,) = found.warnings
    assert schemes(found) == {"n.weight": "bf16"}
    assert "affine with 3 bits in groups of 64" in warning and "no weight is quantized" in warning


@pytest.mark.parametrize(
    ("beside", "says"),
    [
        ({"quant_method": "gptq", "bits": 8}, "quant_method 'gptq'"),
        ({"bits": 2, "group_size": 128, "desc_act": False}, "another quantizer's"),
    ],
)
def test_the_error_says_whose_file_was_passed_over(beside: Any, says: str, tmp_path: Path) -> None:
    folder_of(tmp_path, affine())
    (tmp_path / FILE).write_text(json.dumps(beside))
    with pytest.raises(BadInput) as caught:
        open_source(tmp_path)
    assert FILE in str(caught.value) and says in str(caught.value) and "m.q.weight" in str(caught.value)
