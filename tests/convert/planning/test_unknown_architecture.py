"""A model without a table is copied, cast and decoded; it is quantized on the user's word only.

What a scheme leaves dense is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from quantcli.cli.app import app
from quantcli.errors import NotPossible
from quantcli.targets.guessed import stays_dense, uncovered
from tests.builders import BF16, LLAMA, folder_of, llama_tensors, tiny_awq
from tests.conversions import config, converted, planned, stored
from tests.convert.planning.test_leftover_tensors import fp8
from tests.convert.test_golden_arch import reference, write_model
from tests.models.families.test_fused_experts import add_tokenizer, fused, tensors_of

UNKNOWN = {"model_type": "unheard_of", "architectures": ["UnheardOfForCausalLM"]}
LAYER = "model.layers.1"
FURTHER = {
    f"{LAYER}.mlp.gate.weight": (4, 64),
    f"{LAYER}.mlp.router.layer.weight": (4, 64),
    f"{LAYER}.mlp.shared_expert_gate.weight": (1, 64),
    f"{LAYER}.mixer.conv1d.weight": (64, 1, 4),
    f"{LAYER}.mlp.experts.gate_up_proj": (4, 64, 64),
    f"{LAYER}.moe.input_linear.weight": (4, 64, 64),
    f"{LAYER}.mlp.experts.0.w1.weight": (64, 64),
    "model.vision_tower.layers.0.attn.qkv.weight": (64, 64),
    "model.vision_tower.patch_embed.weight": (64, 3, 2, 32),
}
QUANTIZES: dict[str, dict[str, Any]] = {
    "affine": {"scheme": "affine4-g64"},
    "bits": {"bits": 4},
    "mixture": {"scheme": "mixed_3_6"},
    "mxfp4": {"scheme": "mxfp4"},
    "override": {"overrides": ("*.q_proj=affine8-g64",)},
    "int4": {"scheme": "int4-g32", "to": "hf"},
    "nf4": {"scheme": "nf4", "to": "hf"},
    "fp8": {"scheme": "fp8-e4m3-channel", "to": "hf"},
    "bare": {"scheme": "fp8-e4m3", "to": "hf"},
}


def unheard_of(root: Path, **changes: Any) -> Path:
    random = np.random.default_rng(3)
    further = {name: random.normal(0, 0.05, shape).astype(BF16) for name, shape in FURTHER.items()}
    return folder_of(root, {**llama_tensors(LLAMA), **further}, {**LLAMA, **UNKNOWN, **changes})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unheard_of(tmp_path_factory.mktemp("models") / "m")


@pytest.mark.parametrize("options", QUANTIZES.values(), ids=QUANTIZES)
def test_quantizing_is_refused(model: Path, options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="'unheard_of'.*--allow-unknown-architecture"):
        planned(model, tmp_path / "out", **options)
    plan = planned(model, tmp_path / "out", allow_unknown_architecture=True, **options)
    assert any(step.route == "quantize" for step in plan.steps)


def test_a_recipe_quantizes_too(model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('scheme = "affine4-g64"\n')
    with pytest.raises(NotPossible, match="--allow-unknown-architecture"):
        planned(model, tmp_path / "out", recipe=recipe)


def test_the_command(model: Path, tmp_path: Path) -> None:
    command = ["convert", str(model), str(tmp_path / "out"), "-s", "affine4-g64", "--dry-run"]
    assert CliRunner().invoke(app, command).exit_code == 4
    done = CliRunner().invoke(app, [*command, "--allow-unknown-architecture"])
    assert done.exit_code == 0 and "warning: " in done.stderr
    gguf = ["convert", str(model), str(tmp_path / "out.gguf"), "-s", "q8_0", "--allow-unknown-architecture"]
    assert CliRunner().invoke(app, gguf).exit_code == 4


@pytest.mark.parametrize(
    "options", [{}, {"to": "hf"}, {"dtype": "f16"}, {"scheme": "f32"}, {"to": "hf", "scheme": "bf16"}]
)
def test_copies_and_casts(model: Path, options: dict[str, Any], tmp_path: Path) -> None:
    converted(model, tmp_path / "out", **options)
    assert set(stored(tmp_path / "out")) == set(stored(model))


def test_an_unknown_class_counts_too(tmp_path: Path) -> None:
    source = folder_of(
        tmp_path / "m", llama_tensors(LLAMA), {**LLAMA, "architectures": ["LlamaForTokenClassification"]}
    )
    with pytest.raises(NotPossible, match="'LlamaForTokenClassification'"):
        planned(source, tmp_path / "out", bits=4)
    planned(source, tmp_path / "out")


def test_a_known_family_needs_no_word(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "m", llama_tensors(LLAMA), LLAMA)
    for options in QUANTIZES.values():
        assert not [w for w in planned(source, tmp_path / "out", **options).warnings if "kept dense" in w]


def test_codes_move_and_are_decoded_but_not_rounded(tmp_path: Path) -> None:
    source = tiny_awq(tmp_path / "awq")
    settings = config(source) | UNKNOWN
    (source / "config.json").write_text(json.dumps(settings))
    plan = planned(source, tmp_path / "out")
    assert {str(step.route) for step in plan.steps} == {"copy", "repack"}
    converted(source, tmp_path / "dense", to="hf", scheme="f16")
    with pytest.raises(NotPossible, match="--allow-unknown-architecture"):
        planned(source, tmp_path / "out", scheme="affine8-g64", allow_requantize=True)


def test_what_has_no_place_is_decoded(tmp_path: Path) -> None:
    """Not rounded to eight bits, as in a known family."""
    source = fp8(tmp_path / "m", {}, **UNKNOWN)
    plan = planned(source, tmp_path / "out")
    assert {step.scheme.name for step in plan.steps} == {"bf16"}
    assert any("fall" in warning and "bf16" in warning for warning in plan.warnings)
    allowed = planned(source, tmp_path / "out", allow_unknown_architecture=True)
    assert "affine8-g128" in {step.scheme.name for step in allowed.steps}
    with pytest.raises(NotPossible, match="--allow-unknown-architecture"):
        planned(source, tmp_path / "out", fallback="affine8-g64")


DENSE = {name for name in FURTHER if "w1" not in name}


@pytest.mark.parametrize("options", [QUANTIZES["affine"], QUANTIZES["mixture"], QUANTIZES["int4"]], ids=str)
def test_what_stays_dense_is_said_where_it_matters(model: Path, options: dict[str, Any], tmp_path: Path) -> None:
    plan = planned(model, tmp_path / "out", allow_unknown_architecture=True, **options)
    dense = {step.name for step in plan.steps if step.scheme.name == "bf16" and len(step.shape) > 1}
    assert dense - {"lm_head.weight", "model.embed_tokens.weight"} == DENSE
    said = [warning for warning in plan.warnings if "kept dense" in warning]
    assert len(said) == 2
    whole = sum(int(np.prod(step.shape)) for step in plan.steps)
    assert any("expert weights that are not stacked" in w for w in plan.warnings) == ("to" not in options)
    experts, tower = sorted(said, key=lambda warning: "vision" in warning)
    assert "2 matrices are kept dense" in experts and f"{100 * 2 * 4 * 64 * 64 / whole:.1f}% of all weights" in experts
    assert "model.vision_tower.layers.0.attn.qkv.weight" in tower
    with pytest.raises(NotPossible):
        planned(model, tmp_path / "out", allow_unknown_architecture=True, strict=True, **options)


def test_an_override_says_it_itself(model: Path, tmp_path: Path) -> None:
    overrides = ("*.experts.gate_up_proj=bf16", "*.moe.input_linear=bf16", "*vision*=bf16")
    plan = planned(model, tmp_path / "out", scheme="affine4-g64", allow_unknown_architecture=True, overrides=overrides)
    assert not [warning for warning in plan.warnings if "dense" in warning]


@pytest.mark.parametrize("options", [{"scheme": "affine4-g64"}, {"scheme": "int4-g64", "to": "hf"}], ids=str)
def test_an_override_reaches_what_a_scheme_spares(model: Path, options: dict[str, Any], tmp_path: Path) -> None:
    name = "model.vision_tower.layers.0.attn.qkv.weight"
    overrides = (f"{name}={options['scheme']}",)
    plan = planned(model, tmp_path / "out", allow_unknown_architecture=True, overrides=overrides, **options)
    assert {s.scheme.name for s in plan.steps if s.name == name} == {options["scheme"]}
    assert not [warning for warning in plan.warnings if "vision" in warning]


@pytest.mark.parametrize("case", ["qwen3_moe", "deepseek_v3", "mixtral"])
def test_fused_experts_of_a_known_family(case: str, tmp_path: Path) -> None:
    """transformers 5's: most of a model, and no reader of quantized folders takes them so."""
    write_model(tmp_path / "one", case, reference(case)["source"])
    folder_of(tmp_path / "m", fused(tensors_of(tmp_path / "one")), config(tmp_path / "one"))
    add_tokenizer(tmp_path / "m", case)
    scheme = {"to": "hf", "scheme": "int4-channel"}
    plan = planned(tmp_path / "m", tmp_path / "out", **scheme)
    found = [step for step in plan.steps if ".experts." in step.name]
    (said,) = [warning for warning in plan.warnings if "kept dense" in warning]
    share = sum(np.prod(s.shape) for s in found) / sum(np.prod(s.shape) for s in plan.steps)
    assert f"{len(found)} matrices are kept dense" in said and found[0].name in said and f"{100 * share:.1f}%" in said
    assert not [w for w in planned(tmp_path / "one", tmp_path / "out", **scheme).warnings if "dense" in w]
    assert not [w for w in planned(tmp_path / "m", tmp_path / "out", to="hf").warnings if "dense" in w]
    assert not [
        w for w in planned(tmp_path / "m", tmp_path / "out", bits=4, group_size=32).warnings if "kept dense" in w
    ]


NAMES = {
    "model.layers.0.mlp.gate.weight": ((8, 64), True, False),
    "model.layers.0.mlp.gate.wg.weight": ((8, 64), True, False),
    "model.layers.0.mlp.gate.weight ": ((8, 64), True, False),
    "model.layers.0.ffn.gate.weight": ((256, 64), True, True),
    "model.layers.0.mlp.gate_proj.weight": ((256, 64), False, False),
    "model.layers.0.mlp.switch_mlp.gate_proj.weight": ((8, 64, 64), False, True),
    "model.layers.0.mlp.experts.down_proj.weight": ((8, 64, 64), False, True),
    "model.layers.0.mlp.experts.w13.weight": ((8, 64, 64), True, True),
    "model.layers.0.conv.weight": ((64, 64), True, False),
    "model.layers.0.mixer.in_proj.weight": ((64, 64), False, False),
    "model.layers.0.mixer.A_log": ((64, 16), False, False),
    "model.layers.0.ffn.experts.mlp.w1": ((512, 64), False, True),
    "model.embed_tokens.weight": ((512, 64), False, False),
    "visual.blocks.0.mlp.fc1.weight": ((64, 64), True, True),
    "audio_tower.layers.0.fc1.weight": ((64, 64), True, True),
    "vit.layers.0.fc1.weight": ((64, 64), True, True),
    "model.visual.merger.fc.weight": ((64, 64), True, True),
    "visual.patch_embed.proj.weight": ((64, 3, 14, 14), True, False),
    "visual.small.weight": ((16, 64), True, False),
    "router.weight": ((256, 64), True, True),
    "router.small.weight": ((8, 64), True, False),
    "experts.w13.weight": ((8, 64, 64), True, True),
    "lm_head.weight": ((512, 64), False, False),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_without_a_table(name: str) -> None:
    shape, is_dense, is_counted = NAMES[name]
    assert (stays_dense(name.strip(), shape) is not None, uncovered(name.strip(), shape)) == (is_dense, is_counted)


#: Modules of releases without a table, as their tensors are called.
TOWERS = (
    "vpm.encoder.layers.0.self_attn.q_proj", "apm.layers.0.fc1", "tts.model.layers.0.mlp.up_proj", "tts.dvae.encoder.x",
    "dpm.layers.0.fc1", "resampler.kv_proj", "vae.decoder.mid.x", "vae2llm", "talker.model.layers.0.mlp.up_proj",
    "talker.code_predictor.model.layers.0.mlp.up_proj", "code2wav.pre_transformer.layers.0.mlp.up_proj",
    "token2wav.code2wav_dit_model.transformer_blocks.0.attn.to_q", "thinker.visual.blocks.0.attn.qkv",
    "thinker.audio_tower.layers.0.fc1", "visual_tokenizer.head.0", "vte", "audio_encoder.layers.0.fc1",
    "whisper_encoder.layers.0.fc1", "model.visual.blocks.0.attn.qkv", "vision_model.encoder.layers.0.mlp.fc1", "mlp1.1",
    "model.mlp1.3", "model.vision_embed_tokens.img_projection.0", "img_processor.layers.0.fc1", "glm_projection.fc1",
    "transformer.vision.linear_proj.gate_proj", "linear_proj.0", "linear_proj_audio.2", "siglip.layers.0.fc1",
    "model.siglip_model.layers.0.fc1", "qformer.layers.0.x", "model.projector.layers", "vit_large_projector",
    "model.embed_tokens_extend.audio_embed.encoder.encoders.0.self_attn.linear_q", "sound_projection.linear1",
    "vision_language_adapter.w_in", "patch_merger.merging_layer", "gen_vision_model.x", "gen_head.vision_head",
)  # fmt: skip
TEXT = (
    "model.layers.0.self_attn.q_proj", "thinker.model.layers.0.mlp.up_proj", "language_model.model.layers.0.mlp.fc1",
    "encoder.block.0.layer.0.SelfAttention.q", "model.encoder.layers.0.self_attn.q_proj", "h.0.mlp.linear_proj",
    "model.layers.0.attn.linear_proj", "model.layers.0.mlp1", "transformer.h.0.mlp.c_proj", "model.layers.0.mlp.mlp1",
    "llm.model.layers.0.mlp.down_proj", "model.layers.0.self_attn.projection", "model.per_layer_model_projection",
    "backbone.layers.0.mixer.in_proj", "model.layers.0.mixer.adapter", "model.layers.0.attention.wqkv", "decoder.x",
    "model.layers.0.mlp.shared_experts.up_proj", "model.layers.0.self_attn.kv_a_proj_with_mqa", "score", "output",
)  # fmt: skip


@pytest.mark.parametrize("module", TOWERS)
def test_towers_stay_dense_and_count(module: str) -> None:
    name, shape = f"{module}.weight", (64, 64)
    assert stays_dense(name, shape) is not None and uncovered(name, shape)


@pytest.mark.parametrize("module", TEXT)
def test_text_models_have_no_towers(module: str) -> None:
    assert stays_dense(f"{module}.weight", (64, 64)) is None and not uncovered(f"{module}.weight", (64, 64))


@pytest.mark.parametrize("options", [QUANTIZES["affine"], QUANTIZES["int4"], QUANTIZES["mixture"]], ids=str)
def test_every_matrix_of_towers_is_counted(options: dict[str, Any], tmp_path: Path) -> None:
    towers = {f"{module}.weight": np.ones((64, 64), BF16) for module in TOWERS}
    source = folder_of(tmp_path / "m", {**llama_tensors(LLAMA), **towers}, {**LLAMA, **UNKNOWN})
    plan = planned(source, tmp_path / "out", allow_unknown_architecture=True, **options)
    assert {step.scheme.name for step in plan.steps if step.name in towers} == {"bf16"}
    (said,) = [warning for warning in plan.warnings if "dense" in warning]
    assert f"{len(TOWERS)} matrices" in said


def test_stacked_experts_of_mlx_that_readers_of_folders_do_not_take_are_counted(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.switch_mlp.up_proj.weight"
    tensors = {**llama_tensors(LLAMA), name: np.ones((4, 64, 64), BF16)}
    source = folder_of(tmp_path / "m", tensors, {**LLAMA, **UNKNOWN})
    for options, is_said in (QUANTIZES["affine"], False), (QUANTIZES["int4"], True):
        plan = planned(source, tmp_path / "out", allow_unknown_architecture=True, **options)
        assert any(name in warning and "dense" in warning for warning in plan.warnings) == is_said
