"""A dense model with a quantization_config.json next to it: every form of the file, every output, every rank."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quantcli.cli.app import app
from quantcli.convert.planning.plan import Plan
from quantcli.errors import BadInput, WrongUsage
from quantcli.recipes.base import Recipe, Rule, Subject, Way
from quantcli.recipes.unmatched import unmatched
from quantcli.sources.detect import open_source
from tests.builders import tiny_llama
from tests.conversions import config, converted, planned, schemes, stored

FILE = "quantization_config.json"
DOWN = [f"model.layers.{i}.mlp.down_proj.weight" for i in range(2)]
Q8 = {"bits": 8, "group_size": 32}
Q4 = {"bits": 4, "group_size": 64}
EIGHT = {"method": "q8", "bits": 8, "group_size": 32, "preserved": False}
NORM = {"method": "passthrough", "bits": 16, "group_size": 0, "preserved": True}

#: Forms of the file; each says 8 bits for `down_proj` and leaves `lm_head` dense.
FORMS: dict[str, Any] = {
    "flat": {**Q4, **{name.removesuffix(".weight"): Q8 for name in DOWN}, "lm_head": False},
    "per_tensor": {**Q4, "per_tensor": {**dict.fromkeys(DOWN, Q8), "lm_head.weight": {"bits": 16}}},
    "globs": {"group_size": 32, "per_tensor": {"*.down_proj": {"bits": 8}, "lm_head*": False}},
    "hf2q": {
        "quant_method": "mixed-4-8", **Q4, "tensor_count": 4,
        "per_tensor": {**dict.fromkeys(DOWN, EIGHT), "lm_head.weight": NORM, "model.norm.weight": NORM},
    },
    "hf2q's safetensors": {
        "quant_method": "q4_k", "bits": 4, "group_size": 32,
        "per_layer_bits": {**dict.fromkeys(DOWN, 8), "lm_head.weight": 16},
        "quantization_info": {"lm_head.weight": NORM},
    },
    "components": {
        "quant_method": "mixed-4-8", "bits": 4, "group_size": 32, "auto_resolved": True,
        "component_overrides": {"mlp.down_proj": {"bits": 8, "reason": "r"}, "lm_head": {"bits": 16, "reason": "r"}},
    },
    "a config's block": {"quantization": {**Q4, **dict.fromkeys(DOWN, Q8), "lm_head": False}},
    "language_model": {**Q4, **{f"language_model.{name}": Q8 for name in DOWN}, "language_model.lm_head": False},
}  # fmt: skip

#: Options that ask for a quantizing scheme, by output.
SCHEMES: dict[str, dict[str, Any]] = {
    "mlx": {"scheme": "affine4-g64"}, "bits": {"bits": 4}, "gguf": {"scheme": "q8_0"}, "type": {"scheme": "mxfp4"},
    "hf": {"to": "hf", "scheme": "int8-channel"}, "bnb": {"to": "hf", "scheme": "nf4-g64"},
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "in")


def with_file(model: Path, folder: Path, content: Any) -> Path:
    """The model in a folder of its own, with that file."""
    folder.mkdir(parents=True)
    for path in model.iterdir():
        (folder / path.name).hardlink_to(path)
    (folder / FILE).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def output_of(folder: Path, option: str) -> Path:
    return folder / ("out.gguf" if option in ("gguf", "type") else "out")


def scheme_of(plan: Plan) -> dict[str, str]:
    return {step.name: step.scheme.name for step in plan.steps}


@pytest.mark.parametrize("option", ["mlx", "bits"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_counts_for_an_mlx_folder(form: str, option: str, model: Path, tmp_path: Path) -> None:
    plain = scheme_of(planned(model, tmp_path / "out", **SCHEMES[option]))
    plan = planned(with_file(model, tmp_path / "in", FORMS[form]), tmp_path / "out", **SCHEMES[option])
    assert scheme_of(plan) == plain | dict.fromkeys(DOWN, "affine8-g32") | {"lm_head.weight": "bf16"}
    reasons = {step.name: step.reason for step in plan.steps}
    assert all(reasons[name].startswith(f"{FILE}: ") for name in (*DOWN, "lm_head.weight"))
    assert plan.warnings == ()
    (note,) = plan.notes
    assert FILE in note and "2 affine8-g32" in note
    assert FILE not in {file.name for file in plan.files}, "the output's own settings stand in its config.json"


@pytest.mark.parametrize("option", [name for name in SCHEMES if name not in ("mlx", "bits")])
@pytest.mark.parametrize("form", FORMS)
def test_entries_in_mlxs_terms_count_for_no_other_output(form: str, option: str, model: Path, tmp_path: Path) -> None:
    head = "lm_head.weight" if option in ("hf", "bnb") else "output.weight"
    bare = planned(model, output_of(tmp_path, option), **SCHEMES[option])
    plan = planned(with_file(model, tmp_path / "in", FORMS[form]), output_of(tmp_path, option), **SCHEMES[option])
    assert scheme_of(plan) == scheme_of(bare) | {head: "bf16"}
    (warning,) = [line for line in plan.warnings if line not in bare.warnings]
    assert FILE in warning and "2 weights" in warning and DOWN[0] in warning
    assert len(plan.notes) == 1 and FILE in plan.notes[0]


@pytest.mark.parametrize("option", SCHEMES)
def test_its_own_bits_rank_below_the_scheme(option: str, model: Path, tmp_path: Path) -> None:
    bare = planned(model, output_of(tmp_path, option), **SCHEMES[option])
    source = with_file(model, tmp_path / "in", {"quant_method": "mlx_affine", "bits": 8, "group_size": 32})
    plan = planned(source, output_of(tmp_path, option), **SCHEMES[option])
    assert (scheme_of(plan), plan.warnings) == (scheme_of(bare), bare.warnings)
    assert len(plan.notes) == 1 and "decides no weight" in plan.notes[0]


def test_its_rank_among_overrides_recipes_and_mixtures(model: Path, tmp_path: Path) -> None:
    layer = "model.layers.{}.self_attn.{}_proj"
    source = with_file(model, tmp_path / "in", {"per_tensor": {"*self_attn*": {"bits": 5, "group_size": 32}}})
    rules = [{"match": layer.format(0, "q"), "scheme": "affine6-g64"}, {"match": "*.k_proj", "scheme": "affine6-g64"}]
    (tmp_path / "rules.json").write_text(json.dumps({"rule": rules}))
    given = {"recipe": tmp_path / "rules.json", "overrides": (f"{layer.format(0, 'q')}=affine8-g64",)}
    for scheme in ("mixed_3_6", "affine4-g64"):
        found = scheme_of(planned(source, tmp_path / "out", scheme=scheme, **given))
        assert found[f"{layer.format(0, 'q')}.weight"] == "affine8-g64"
        assert found[f"{layer.format(1, 'k')}.weight"] == "affine6-g64"
        assert found[f"{layer.format(1, 'q')}.weight"] == "affine5-g32"
        assert found["model.embed_tokens.weight"] in ("affine3-g64", "affine4-g64")


def test_options_of_llama_quantize_rank_above_it(model: Path, tmp_path: Path) -> None:
    source = with_file(model, tmp_path / "in", {"lm_head": False, "model.embed_tokens": False})
    options: list[dict[str, Any]] = [{"pure": True}, {"output_tensor_type": "q8_0"}, {"tensor_types": ("output=q8_0",)}]
    for option in options:
        plan = planned(source, tmp_path / "out.gguf", scheme="q8_0", **option)
        assert scheme_of(plan)["output.weight"] == "q8_0"
        assert scheme_of(plan)["token_embd.weight"] == ("q8_0" if "pure" in option else "bf16")
        assert ("decides no weight" if "pure" in option else "1 dense") in plan.notes[0]


@pytest.mark.parametrize(
    "options", [{}, {"scheme": "keep"}, {"scheme": "f16"}, {"overrides": ("lm_head=f32",)}], ids=str
)
@pytest.mark.parametrize("to", ["mlx", "hf", "gguf"])
def test_without_a_quantizing_scheme_one_line_says_so(to: str, options: Any, model: Path, tmp_path: Path) -> None:
    output = tmp_path / ("out.gguf" if to == "gguf" else "out")
    source = with_file(model, tmp_path / "in", FORMS["per_tensor"])
    bare = planned(model, output, to=to, **options)
    plan = planned(source, output, to=to, strict=True, **options)
    assert (scheme_of(plan), plan.warnings) == (scheme_of(bare), ())
    (note,) = plan.notes
    assert note.startswith(FILE) and "not applied" in note and (str(source / FILE) in note) == (to == "mlx")
    copies = {file.name: file.copy_of for file in plan.files if file.name == FILE}
    assert copies == ({} if to == "gguf" else {FILE: source / FILE})


def test_what_the_line_advises_works(model: Path, tmp_path: Path) -> None:
    source = with_file(model, tmp_path / "in", {"bits": 6, "group_size": 64, "per_tensor": dict.fromkeys(DOWN, Q8)})
    plan = planned(source, tmp_path / "out", recipe=source / FILE)
    assert plan.notes == () and plan.warnings == ()
    assert {scheme_of(plan)[name] for name in DOWN} == {"affine8-g32"}
    assert scheme_of(plan)["model.embed_tokens.weight"] == "affine6-g64"


def test_a_recipe_that_a_gguf_file_cannot_have_is_named_as_what_asks_for_it(model: Path, tmp_path: Path) -> None:
    source = with_file(model, tmp_path / "in", {"bits": 6})
    with pytest.raises(WrongUsage, match=f"{FILE}: bits and group_size: affine6-g64"):
        planned(source, tmp_path / "out.gguf", recipe=source / FILE)


def test_a_dense_copy_has_the_file_byte_for_byte_and_a_quantized_output_its_meaning(
    model: Path, tmp_path: Path
) -> None:
    source = with_file(model, tmp_path / "in", FORMS["hf2q"])
    report = converted(source, tmp_path / "copy", to="hf")
    assert (tmp_path / "copy" / FILE).read_bytes() == (source / FILE).read_bytes()
    assert FILE in {file["name"] for file in report["files"]} and len(report["notes"]) == 1
    assert stored(tmp_path / "copy").keys() == stored(source).keys()
    converted(tmp_path / "copy", tmp_path / "mlx", scheme="affine4-g64")
    assert not (tmp_path / "mlx" / FILE).exists()
    found = schemes(tmp_path / "mlx")
    assert {found[name] for name in DOWN} == {"affine8-g32"} and found["lm_head.weight"] == "bf16"
    block = config(tmp_path / "mlx")["quantization"]
    assert {name for name in block if "." in name} == {name.removesuffix(".weight") for name in DOWN}


def test_an_mlx_folder_of_both_files_becomes_one_with_all_in_config_json(model: Path, tmp_path: Path) -> None:
    converted(model, tmp_path / "a", scheme="affine4-g64", overrides=("*.down_proj=affine8-g32",))
    made = config(tmp_path / "a")
    block = made.pop("quantization")
    del made["quantization_config"]
    (tmp_path / "a" / "config.json").write_text(json.dumps(made))
    (tmp_path / "a" / FILE).write_text(json.dumps(block))
    assert open_source(tmp_path / "a").warnings == ()
    converted(tmp_path / "a", tmp_path / "b")
    assert config(tmp_path / "b")["quantization"] == block
    assert schemes(tmp_path / "b") == schemes(tmp_path / "a")


FOREIGN = [
    {"quant_method": "gptq", "bits": 8, "group_size": 32, "per_tensor": {"*": Q8}},
    {"quant_method": "exl3", "bits": 4.0, "tensor_storage": {}},
    {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True},
    {"bits": 8, "group_size": 32, "desc_act": False, "sym": True},
    {"something": {"else": 1}},
]


@pytest.mark.parametrize("options", [{}, SCHEMES["mlx"], SCHEMES["hf"]], ids=str)
@pytest.mark.parametrize("content", FOREIGN, ids=repr)
def test_another_quantizers_file_does_not_count(content: Any, options: Any, model: Path, tmp_path: Path) -> None:
    bare = planned(model, tmp_path / "out", **options)
    plan = planned(with_file(model, tmp_path / "in", content), tmp_path / "out", **options)
    assert (scheme_of(plan), plan.warnings) == (scheme_of(bare), bare.warnings)
    (note,) = plan.notes
    assert "not applied" in note and str(content.get("quant_method", "MLX")) in note


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "\x00", '{"per_tensor": {"": {}}}'])
def test_a_file_that_cannot_be_read_is_refused_where_it_counts(text: str, model: Path, tmp_path: Path) -> None:
    source = with_file(model, tmp_path / "in", text)
    (note,) = planned(source, tmp_path / "out").notes
    assert FILE in note
    with pytest.raises(BadInput, match=FILE):
        planned(source, tmp_path / "out", scheme="affine4-g64")


def test_a_folder_of_another_quantizer_keeps_its_own_settings(shared: Path, tmp_path: Path) -> None:
    folders = sorted((shared / "fixtures/quantized").glob("autoround*"))
    assert folders
    for folder in folders:
        plan = planned(folder, tmp_path / "out", to="hf")
        assert (plan.source.beside, plan.notes, plan.source.kind == "hf") == (None, (), False)


def test_entries_that_match_nothing_and_that_cannot_be_had_are_one_warning_each(model: Path, tmp_path: Path) -> None:
    gone = {f"model.layers.{i}.mlp.gone": Q8 for i in range(30)}
    norms = {f"model.layers.{i}.input_layernorm": Q8 for i in range(2)}
    wide = {f"model.layers.{i}.self_attn.q_proj": {"bits": 8, "group_size": 128} for i in range(2)}
    plan = planned(with_file(model, tmp_path / "in", gone | norms | wide), tmp_path / "out", scheme="affine4-g64")
    assert len(plan.warnings) == 3
    assert "layers.0.mlp.gone" in plan.warnings[0] and "30 such" in plan.warnings[0]
    assert "2 weights" in plan.warnings[1] and "input_layernorm" in plan.warnings[1]
    assert "fall back from affine8-g128" in plan.warnings[2]


@pytest.mark.parametrize(("rest", "wanted"), [(8, []), (6, ["experts.1"])])
def test_experts_that_are_listed_one_by_one_are_matched_by_the_first(rest: int, wanted: list[str]) -> None:
    names = [f"m.experts.{i}.up_proj" for i in range(4)]
    entries = {name: Rule(name, f"affine{8 if i == 0 else rest}-g64", "", Way.EXACT) for i, name in enumerate(names)}
    stacked = Subject("m.switch_mlp.up_proj.weight", others=(f"{names[0]}.weight",))
    found = unmatched(Recipe("r", entries=entries), [stacked])
    assert len(found) == len(wanted) and all(part in line for part, line in zip(wanted, found, strict=True))
    assert len(unmatched(Recipe("r", entries=entries), [Subject("other.weight")])) == 1


def test_the_summary_and_the_dry_run_name_the_file(model: Path, tmp_path: Path) -> None:
    source = with_file(model, tmp_path / "in", FORMS["per_tensor"])
    for options in ([], ["--dry-run"]):
        done = CliRunner().invoke(
            app, ["convert", str(source), str(tmp_path / "out"), "-s", "affine4-g64", *options, "--force"]
        )
        assert done.exit_code == 0, done.output
        assert [line for line in done.stdout.splitlines() if "next to the model decides 3 of" in line]
    done = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "out2"), "--strict", "--json"])
    assert done.exit_code == 0 and len(json.loads(done.stdout)["notes"]) == 1


def test_a_change_of_the_file_is_a_change_of_the_source(model: Path, tmp_path: Path) -> None:
    source = with_file(model, tmp_path / "in", FORMS["per_tensor"])
    assert FILE in {stamp.path.name for stamp in planned(source, tmp_path / "out").stamps}
