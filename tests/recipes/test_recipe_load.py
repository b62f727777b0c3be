"""Recipe files: the dialect is told by the content."""

import json
from pathlib import Path

import pytest

from quantcli import recipes
from quantcli.errors import BadInput, NotPossible, Surroundings
from quantcli.recipes.base import Subject

BASE = {"group_size": 64, "bits": 4}
WEIGHT = Subject("model.layers.0.mlp.down_proj.weight")
MODULE = WEIGHT.module
RULES = 'scheme = "affine4-g64"\n[[rule]]\nmatch = "*.down_proj"\nscheme = "affine8-g32"\n'
EIGHT = {"group_size": 32, "bits": 8}


def write(folder: Path, content: str | bytes | dict[str, object], name: str = "recipe") -> Path:
    path = folder / name
    data = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("name", ["config.json", "recipe.toml", "whatever"])
@pytest.mark.parametrize(
    "content",
    [
        {"model_type": "llama", "quantization": {**BASE, MODULE: EIGHT}},
        {"model_type": "llama", "quantization_config": {**BASE, MODULE: EIGHT}},
        {**BASE, "per_tensor": {MODULE: EIGHT}},
        {**BASE, MODULE: EIGHT},
        {"scheme": "affine4-g64", "rule": [{"match": "*.down_proj", "scheme": "affine8-g32"}]},
        RULES,
        "\ufeff" + RULES,
        "\ufeff" + json.dumps({**BASE, "per_tensor": {MODULE: EIGHT}}),
    ],
)
def test_dialects_are_told_by_content(content: str | dict[str, object], name: str, tmp_path: Path) -> None:
    recipe = recipes.load(write(tmp_path, content, name))
    entry, default = recipe.entry(WEIGHT), recipe.default
    assert entry is not None and default is not None
    assert (entry.scheme, default.scheme) == ("affine8-g32", "affine4-g64")
    assert name in entry.reason and name in default.reason


@pytest.mark.parametrize(
    "content",
    [
        {"global_quant_config": {}, "layer_quant_config": {}, "exclude": ["lm_head"]},
        {"quant_method": "quark", "bits": 4, "group_size": 64},
        {"model_type": "llama", "quantization_config": {"quant_method": "quark", "global_quant_config": {}}},
    ],
)
def test_quark_is_recognised_and_refused(content: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="Quark .* not supported .* TOML"):
        recipes.load(write(tmp_path, content))


def test_quark_fixtures_are_recognised(shared: Path) -> None:
    files = sorted((shared / "fixtures/quark_configs").glob("*.config.json"))
    assert len(files) == 18
    for path in files:
        with pytest.raises(NotPossible, match="Quark"):
            recipes.load(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is not a supported recipe.* an MLX config.json .*; an hf2q .*; quant's rules"),
        ("# a comment", "is not a supported recipe"),
        ('title = "x"', "is not a supported recipe"),
        ({"model_type": "llama"}, "is not a supported recipe"),
        ({"bits": 4, "group_size": 64, "quant_method": "auto-round"}, "is not a supported recipe"),
        ({"quantization_config": {"quant_method": "awq", **BASE}}, "is not a supported recipe"),
        ({"quantization": None}, "key quantization: .* null"),
        ({"quantization": [4]}, r"quantization: .* found \[4\]"),
        ('{"rule": [], "rule": []}', "'rule' appears twice"),
        ('{"scheme": "f16"', "is not JSON"),
        ("[1, 2]", "is neither a JSON object nor TOML|is not a supported recipe"),
        ("scheme = ", "is neither a JSON object nor TOML"),
        ('scheme = "f16"\nscheme = "f16"', "is neither a JSON object nor TOML"),
        ("x = 1" + "0" * 5000, "is neither a JSON object nor TOML"),
        (b"{\xff}", "is not UTF-8"),
        (b"scheme = '\xff'", "is not UTF-8"),
        ('{"a":' * 100_000, "nested too deep|is not JSON"),
        ("x = " + "[" * 100_000, "nested too deep"),
        (b"\x80\x02}q\x00.", "is not UTF-8"),
    ],
)
def test_what_is_no_recipe(content: str | bytes | dict[str, object], says: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    with pytest.raises(BadInput, match=says) as caught:
        recipes.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 800


def test_a_folder_a_missing_file_a_huge_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a folder.* config.json"):
        recipes.load(tmp_path)
    with pytest.raises(Surroundings):
        recipes.load(tmp_path / "none.toml")
    with open(tmp_path / "huge", "wb") as handle:
        handle.truncate(recipes.MAX_BYTES + 1)
    with pytest.raises(BadInput, match=f"{recipes.MAX_BYTES + 1} .* {recipes.MAX_BYTES}"):
        recipes.load(tmp_path / "huge")
