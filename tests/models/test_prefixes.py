"""Text models in models with towers: one table serves all prefixes, flat and nested settings, classes and aliases."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli import models
from quantcli.convert.inspecting.survey import matching
from quantcli.errors import BadInput, NotPossible
from quantcli.models.families.aliases import ALIASES
from quantcli.sources.detect import open_source
from quantcli.targets.model import NO_TOWERS, Model
from tests.arch_models import arch_model, architecture_of, config_of
from tests.builders import BF16, folder_of
from tests.conversions import config, converted, planned, stored
from tests.convert.test_golden_arch import CASES, hashes, reference

#: One case of each family, of those that have no towers already.
FIRST = {architecture_of(case).name: case for case in reversed(CASES) if "prefixes" not in reference(case)}
#: What stands in place of a text model's own prefix, and before its head.
PREFIXES = (
    ("model.language_model.", ""), ("language_model.model.", "language_model."), ("language_model.", "language_model."),
    ("model.text_model.", ""), ("", ""), (None, ""),
)  # fmt: skip
TOWER = {
    "model.vision_tower.blocks.0.mlp.fc1.weight": np.full((4, 8), 1.5, BF16),
    "visual.norm.weight": np.ones(3, "f4"),
}


#: What stands around the text model's settings: of a class that no table lists, of one that a table does.
SOME = {"model_type": "some_vl", "architectures": ["SomeForConditionalGeneration"]}
MISTRAL = {"model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"]}


def prefix_of(case: str) -> str:
    """What the names of a case's text model begin with."""
    embedding = next(row.hf for row in architecture_of(case).tensors if row.role == "token_embd")
    return embedding.partition(".")[0] + "."


def nested(root: Path, case: str, prefix: str | None, before_head: str, around: Mapping[str, Any] = SOME) -> Path:
    """A case as the text model of one with towers. prefix: None leaves the names as they are."""
    root.mkdir(parents=True, exist_ok=True)
    folder, own = arch_model(root, case), prefix_of(case)

    def name(old: str) -> str:
        if prefix is None or old.startswith("mtp."):  # releases have this module outside the text model
            return old
        return prefix + old.removeprefix(own) if old.startswith(own) else before_head + old

    arrays = {name(old): one.array(BF16 if one.dtype == "BF16" else {"F32": "f4", "U8": "u1"}[one.dtype])
              for old, one in stored(folder).items()}  # fmt: skip
    text = config(folder)
    settings = {**around, "text_config": text, "vision_config": {"depth": 1}, "image_token_id": 7}
    folder_of(folder, {**arrays, **TOWER}, settings)
    return folder


def seen(folder: Path) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """The tensors of a checkpoint's text model, under the names that the table has."""
    source = open_source(folder)
    return {
        name: (weight.shape, b"".join(part.read_bytes(0, part.nbytes) for part in weight.parts.values()))
        for name, weight in source.weights.items()
        if name not in source.towers
    }


@pytest.mark.parametrize("case", FIRST.values(), ids=FIRST)
def test_a_text_model_is_the_flat_one_under_every_prefix(case: str, tmp_path: Path) -> None:
    flat = arch_model(tmp_path, case)
    wanted, settings = seen(flat), Model.of(open_source(flat)).hyperparameters
    for number, (prefix, before_head) in enumerate(PREFIXES):
        source = nested(tmp_path / str(number), case, prefix, before_head)
        assert seen(source) == wanted
        assert open_source(source).towers == TOWER.keys()
        assert Model.of(open_source(source)).hyperparameters == settings


@pytest.mark.parametrize("case", FIRST.values(), ids=FIRST)
def test_gguf_is_that_of_the_flat_model(case: str, tmp_path: Path) -> None:
    prefix, before_head = PREFIXES[[*FIRST.values()].index(case) % len(PREFIXES)]
    flat, source = arch_model(tmp_path, case), nested(tmp_path / "nested", case, prefix, before_head)
    for folder in (flat, source):
        converted(folder, folder / "a.gguf", check=False, dtype="bf16")
    assert hashes(source / "a.gguf") == hashes(flat / "a.gguf")
    ours, theirs = (open_source(folder / "a.gguf").metadata for folder in (source, flat))
    assert ours == theirs


def test_towers_are_left_out_of_gguf_with_a_warning(tmp_path: Path) -> None:
    source = nested(tmp_path, "qwen3", "model.language_model.", "")
    made = planned(source, tmp_path / "a.gguf", dtype="bf16")
    assert {left.name for left in made.left} == TOWER.keys()
    (warning,) = made.warnings
    assert warning.startswith("2 tensors ") and "model.vision_tower.blocks.0.mlp.fc1.weight" in warning
    assert NO_TOWERS in warning
    with pytest.raises(NotPossible, match="vision_tower"):
        planned(source, tmp_path / "a.gguf", dtype="bf16", strict=True)


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "f16"}, {"scheme": "affine4-g32"}, {"to": "hf", "scheme": "int8-channel"}], ids=str
)
def test_folders_keep_towers_as_they_are(options: dict[str, Any], tmp_path: Path) -> None:
    source = nested(tmp_path, "qwen3", "model.language_model.", "")
    report = converted(source, tmp_path / "out", **options)
    assert not [text for text in report["warnings"] if "dense tensors" in text]
    before, after = stored(source), stored(tmp_path / "out")
    assert {name: after[name] for name in TOWER} == {name: before[name] for name in TOWER}
    assert config(tmp_path / "out")["vision_config"] == {"depth": 1}
    text = {name for name in after if name not in TOWER and not name.startswith("lm_head.")}
    assert all(name.startswith("model.language_model.") for name in text)


def test_a_folder_has_the_names_of_its_source(tmp_path: Path) -> None:
    for number, (prefix, before_head) in enumerate(PREFIXES):
        source = nested(tmp_path / str(number), "qwen2", prefix, before_head)
        converted(source, source / "hf", to="hf")
        assert stored(source / "hf") == stored(source)
        assert config(source / "hf") == config(source)


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."])
def test_mlx_folders_have_the_names_of_mlx_lm(prefix: str, tmp_path: Path) -> None:
    source = nested(tmp_path, "mistral", prefix, "language_model.", MISTRAL)
    converted(source, tmp_path / "mlx", scheme="affine4-g32", overrides=("*v_proj=affine8-g32",))
    assert "language_model.model.layers.0.self_attn.q_proj.scales" in stored(tmp_path / "mlx")
    assert "language_model.lm_head.scales" in stored(tmp_path / "mlx")
    assert "vision_tower.blocks.0.mlp.fc1.weight" in stored(tmp_path / "mlx")
    listed = [key for key in config(tmp_path / "mlx")["quantization"] if "." in key]
    assert listed and all(key.startswith("language_model.model.layers.") for key in listed)
    again = open_source(tmp_path / "mlx")
    assert again.weights["model.layers.1.self_attn.v_proj.weight"].scheme.name == "affine8-g32"


#: Around a case, what stands before the names of its text model in releases, and the name of a tensor of the tower.
SPELLED = {
    "qwen2": (
        {"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"]},
        "model.",
        "visual.",
    ),
    "qwen3_5_text": (
        {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]},
        "model.language_model.",
        "model.visual.",
    ),
}


@pytest.mark.parametrize("case", SPELLED)
def test_folders_have_the_names_that_their_readers_know(case: str, tmp_path: Path) -> None:
    """mlx-lm and mlx-vlm know one name of a tower, transformers another; the text model's differ, too."""
    around, prefix, tower = SPELLED[case]
    source = nested(tmp_path, case, prefix, "", around)
    before = {name for name in stored(source) if "tower" not in name}
    converted(source, tmp_path / "mlx", to="mlx")
    starts = {name.partition(".")[0] for name in stored(tmp_path / "mlx")}
    assert starts == {"language_model", "vision_tower"}
    assert "vision_tower.norm.weight" in stored(tmp_path / "mlx")
    converted(tmp_path / "mlx", tmp_path / "hf", to="hf")
    made = stored(tmp_path / "hf")
    assert made[f"{tower}norm.weight"] == stored(source)["visual.norm.weight"]
    assert {name for name in made if "visual" not in name} == before - {"visual.norm.weight"}


NAMES = (
    "language_model.model.layers.0.mlp.up_proj", "language_model.model.layers.0.mlp.up_proj.weight",
    "model.layers.0.mlp.up_proj", "blk.0.ffn_up",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ["a.gguf", "mlx"])
def test_overrides_know_a_weight_by_all_its_names(name: str, target: str, tmp_path: Path) -> None:
    source = nested(tmp_path, "mistral", "language_model.model.", "language_model.", MISTRAL)
    scheme = "q8_0" if target.endswith("gguf") else "affine8-g32"
    made = planned(source, tmp_path / target, overrides=(f"{name}={scheme}",))
    (found,) = [step.name for step in made.steps if step.scheme.name == scheme]
    assert found in ("blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight")
    assert not [text for text in made.warnings if "matches" in text]


def test_drop_and_requirements_know_stored_names(tmp_path: Path) -> None:
    source = nested(tmp_path, "mistral", "language_model.model.", "language_model.", MISTRAL)
    with pytest.raises(BadInput, match=r"layers\.0\.mlp\.up_proj\.weight.* source has it.*--drop"):
        planned(source, tmp_path / "out", drop=("language_model.model.layers.0.mlp.up_proj",), to="hf")
    names = {weight.name for weight in matching(open_source(source), "language_model.model.layers.0.mlp.*")}
    assert names == {f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}


SMOL = {"model_type": "smolvlm", "architectures": ["SmolVLMForConditionalGeneration"]}
TEXT = {"model_type": "llama"}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({**SMOL, "text_config": {**TEXT, "architectures": ["VLlama3ForCausalLM"]}}, "llama"),
        ({**SMOL, "text_config": TEXT}, "llama"),
        ({"model_type": "smolvlm", "text_config": TEXT}, "llama"),
        ({**MISTRAL, "text_config": {"model_type": "mistral"}}, "mistral3"),
        ({**MISTRAL, "text_config": {"model_type": "ministral3"}}, "mistral3"),
        ({"model_type": "mistral3", "text_config": {"model_type": "mistral"}}, "mistral3"),
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}, "llama"),
        ({"model_type": "mistral"}, "llama"),
        ({**TEXT, "text_config": {"dtype": "bfloat16"}}, "llama"),
        ({"model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"]}, "deepseek_v3"),
        ({"model_type": "joyai_llm_flash", "architectures": ["DeepseekV3ForCausalLM"]}, "deepseek_v3"),
        ({"model_type": "xverse", "architectures": ["XverseForCausalLM"]}, "llama"),
        ({"model_type": "iquestcoder", "architectures": ["IQuestCoderForCausalLM"]}, "llama"),
        ({"model_type": "some_vl", "text_config": {"model_type": "qwen3"}}, "qwen3"),
        ({"model_type": "some_vl", "llm_config": {**TEXT, "architectures": ["LlamaForCausalLM"]}}, "llama"),
    ],
)
def test_families_by_class_and_model_type(settings: dict[str, Any], name: str) -> None:
    found = models.find(settings)
    assert found is not None and found.name == name
    again = models.text_settings(models.text_settings(settings))
    assert again == models.text_settings(settings) and models.find(again) is found


@pytest.mark.parametrize(
    ("settings", "unlisted"),
    [
        ({"model_type": "qwen3", "architectures": ["Qwen3ForRewards"]}, "Qwen3ForRewards"),
        ({**MISTRAL, "architectures": ["MistralForRewards"], "text_config": TEXT}, "MistralForRewards"),
        ({"model_type": "some_vl", "architectures": ["SomeForRewards"], "text_config": TEXT}, "SomeForRewards"),
        ({**SMOL, "text_config": {**TEXT, "architectures": ["LlamaForRewards"]}}, "LlamaForRewards"),
        ({**SMOL, "text_config": {"model_type": "unheard_of"}}, None),
    ],
)  # fmt: skip
def test_other_classes_are_unknown(settings: dict[str, Any], unlisted: str | None) -> None:
    assert models.find(settings) is None
    assert models.unknown_class(settings) == (None if unlisted is None else f"'{unlisted}'")
    assert models.text_settings(settings) is settings


def test_an_unlisted_class_is_copied_and_decoded_but_neither_quantized_nor_made_into_gguf(tmp_path: Path) -> None:
    source = arch_model(tmp_path, "qwen3", settings={"architectures": ["Qwen3ForSequenceClassification"]})
    for options in ({"to": "hf"}, {"to": "hf", "dtype": "f16"}, {"to": "mlx"}):
        converted(source, tmp_path / f"out-{len(options)}-{options['to']}", **options)
    for options in ({"to": "mlx", "scheme": "affine4-g32"}, {"to": "gguf"}):
        name = "a.gguf" if options["to"] == "gguf" else "mlx"
        with pytest.raises(NotPossible, match="Qwen3ForSequenceClassification"):
            planned(source, tmp_path / name, **options)
    planned(source, tmp_path / "mlx", scheme="affine4-g32", allow_unknown_architecture=True)


@pytest.mark.parametrize("case", FIRST.values(), ids=FIRST)
@pytest.mark.parametrize("options", [{"to": "mlx", "scheme": "affine4-g32"}, {"to": "gguf"}], ids=["mlx", "gguf"])
def test_an_unlisted_class_of_any_family_is_exit_4(case: str, options: dict[str, str], tmp_path: Path) -> None:
    (listed,) = config_of(case)["architectures"]
    strange = re.sub("For[A-Za-z]+$", "ForSequenceClassification", listed)
    source = arch_model(tmp_path, case, settings={"architectures": [strange]})
    with pytest.raises(NotPossible, match=f"'{strange}'") as refused:
        planned(source, tmp_path / ("a.gguf" if options["to"] == "gguf" else "mlx"), **options)
    assert refused.value.exit_code == 4


@pytest.mark.parametrize("family", models.FAMILIES, ids=lambda family: family.name)
def test_no_table_stands_for_the_base_class_with_another_head(family: models.Architecture) -> None:
    of_towers = [(one.model_type, one.class_name) for one in family.multimodal]
    for kind, listed in [*family.classes.items(), *of_towers]:
        strange = re.sub("For[A-Za-z]+$", "ForSequenceClassification", listed)
        settings = {"model_type": kind, "architectures": [strange]}
        assert models.find(settings) is None
        assert models.unknown_class(settings) == f"'{strange}'"


@pytest.mark.parametrize(("alias", "kind"), ALIASES.items(), ids=ALIASES)
def test_an_alias_gives_its_familys_bytes(alias: str, kind: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if config_of(case)["model_type"] == kind)
    folder = arch_model(tmp_path, case)
    converted(folder, tmp_path / "a.gguf", check=False, dtype="bf16")
    settings = {**config(folder), "model_type": alias}
    (folder / "config.json").write_text(json.dumps(settings))
    converted(folder, tmp_path / "b.gguf", check=False, dtype="bf16")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    converted(folder, tmp_path / "hf", to="hf")
    assert config(tmp_path / "hf") == settings


def test_a_tied_text_model_is_tied_alike_around_it(tmp_path: Path) -> None:
    """mlx-lm makes the text model of its block alone."""
    source = nested(
        tmp_path, "mistral", "language_model.model.", "language_model.", {**MISTRAL, "tie_word_embeddings": False}
    )
    settings = config(source)
    settings["text_config"]["tie_word_embeddings"] = True
    (source / "config.json").write_text(json.dumps(settings))
    converted(source, tmp_path / "mlx", to="mlx")
    assert config(tmp_path / "mlx")["text_config"]["tie_word_embeddings"] is False
    assert "language_model.lm_head.weight" in stored(tmp_path / "mlx")


def test_a_quantized_tower_is_copied(tmp_path: Path) -> None:
    packed = {f"vision_tower.fc1.{part}": np.zeros(shape, dtype) for part, shape, dtype in (
        ("weight", (32, 8), "u4"), ("scales", (32, 1), BF16), ("biases", (32, 1), BF16))}  # fmt: skip
    source = nested(tmp_path, "mistral", "language_model.model.", "language_model.", MISTRAL)
    arrays = {name: one.array(BF16 if one.dtype == "BF16" else "f4") for name, one in stored(source).items()}
    settings = {**config(source), "quantization": {"group_size": 64, "bits": 4}}
    folder_of(source, {**arrays, **packed}, settings)
    converted(source, tmp_path / "mlx", to="mlx")
    made = stored(tmp_path / "mlx")
    assert {name: made[name].dtype for name in packed} == {name: stored(source)[name].dtype for name in packed}
    assert config(tmp_path / "mlx")["quantization"] == {"group_size": 64, "bits": 4, "mode": "affine"}


def test_ministrals_scaling_comes_back(tmp_path: Path) -> None:
    rope = {
        "rope_type": "yarn", "type": "yarn", "factor": 16.0, "original_max_position_embeddings": 16, "beta_fast": 32.0,
        "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "rope_theta": 1e6, "llama_4_scaling_beta": 0.1,
    }  # fmt: skip
    source = nested(tmp_path, "mistral", "language_model.model.", "language_model.", MISTRAL)
    text = {k: v for k, v in config(source)["text_config"].items() if k not in ("architectures", "sliding_window")}
    repeated = {"max_position_embeddings": text["max_position_embeddings"]}
    text |= {"model_type": "ministral3", "rope_parameters": rope | repeated, "rope_scaling": None, "rope_theta": 1e6}
    (source / "config.json").write_text(json.dumps({**config(source), "text_config": text}))
    assert len(planned(source, tmp_path / "a.gguf", dtype="bf16").warnings) == 1
    converted(source, tmp_path / "a.gguf", check=False, dtype="bf16")
    keys = open_source(tmp_path / "a.gguf").metadata
    assert keys["general.architecture"].value == "mistral3"
    assert keys["mistral3.rope.scaling.yarn_log_multiplier"].value == 1.0
    assert keys["mistral3.attention.temperature_scale"].value == pytest.approx(0.1)
    converted(tmp_path / "a.gguf", tmp_path / "back", to="hf")
    back = config(tmp_path / "back")
    assert (back["model_type"], back["rope_parameters"]) == ("ministral3", rope)
    assert planned(tmp_path / "a.gguf", tmp_path / "mlx", to="mlx").warnings == ()


@pytest.mark.parametrize("classes", [{}, {"architectures": ["Qwen3VLForConditionalGeneration"]}])
def test_settings_of_a_tower_that_the_text_model_needs_are_lifted(classes: dict[str, Any]) -> None:
    settings = {
        "model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"],
        "text_config": {"model_type": "qwen3_vl_text", "hidden_size": 8, **classes},
        "vision_config": {"deepstack_visual_indexes": [5, 11], "hidden_size": 4},
    }  # fmt: skip
    found = models.text_settings(settings)
    assert (found["deepstack_visual_indexes"], found["hidden_size"]) == ([5, 11], 8)
    assert models.text_settings(found) == found
