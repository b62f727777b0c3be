"""mlx-lm's mixtures against the `quantization` blocks that mlx_lm.convert wrote.

tests/data/recipes/mixtures.json.gz: of two small models, the names of tensors and each case's block (bits of modules).
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import NotPossible, WrongUsage
from quantcli.recipes import mixtures
from quantcli.recipes.base import Decision, Origin, Subject

DATA = Path(__file__).resolve().parent.parent / "data" / "recipes" / "mixtures.json.gz"
MODELS = json.loads(gzip.decompress(DATA.read_bytes()))
RESERVED = ("group_size", "bits", "mode")


def decided(case: str, names: list[str]) -> dict[str, str]:
    """Module -> scheme of those that mlx-lm quantizes: all but norms."""
    subjects = [Subject(name) for name in names if name.endswith(".weight")]
    recipe = mixtures.mixture(case, subjects)
    found = {subject.module: recipe.decide(subject) for subject in subjects if "norm" not in subject.name}
    return {module: decision.scheme for module, decision in found.items() if decision}


@pytest.mark.parametrize("case", mixtures.MIXTURES)
@pytest.mark.parametrize("model", MODELS)
def test_equals_mlx_lm(model: str, case: str) -> None:
    block = MODELS[model]["cases"][case]
    wanted = {module: f"affine{bits}-g64" for module, bits in block.items() if module not in RESERVED}
    assert decided(case, MODELS[model]["names"]) == wanted
    assert block["bits"] == mixtures.BLOCK_BITS


def test_equals_every_fixture(shared: Path) -> None:
    files = sorted((shared / "fixtures/mlx").glob("*mixed_*.json"))
    assert len(files) == 12
    for path in files:
        manifest = json.loads(path.read_text())
        names = [tensor["name"] for tensor in manifest["tensors"]]
        block: dict[str, Any] = manifest["quantization"]
        wanted = {
            module: f"{own['mode']}{own['bits']}-g{own['group_size']}"
            for module, own in block.items()
            if module not in RESERVED
        }
        assert decided(path.stem.rsplit("-", 1)[1], names) == wanted, path.name


def test_reasons() -> None:
    subjects = [Subject(f"model.layers.{layer}.mlp.down_proj.weight") for layer in range(16)]
    subjects += [Subject("lm_head.weight"), Subject("model.embed_tokens.weight")]
    recipe = mixtures.mixture("mixed_3_6", subjects)
    more = Decision(
        "affine6-g64",
        "preset mixed_3_6: down_proj, first and last eighth of the layers, and every third between",
        Origin.PRESET,
    )
    assert [recipe.decide(s) == more for s in subjects[:16]] == [mixtures.use_more_bits(i, 16) for i in range(16)]
    assert recipe.decide(subjects[16]) == Decision("affine6-g64", "preset mixed_3_6: lm_head", Origin.PRESET)
    assert recipe.decide(subjects[17]) == Decision("affine3-g64", "preset mixed_3_6", Origin.PRESET)


def test_which_layers_get_more_bits() -> None:
    assert [i for i in range(16) if mixtures.use_more_bits(i, 16)] == [0, 1, 4, 7, 10, 13, 14, 15]


def test_the_number_of_layers_can_be_said() -> None:
    subjects = [Subject(f"model.layers.{layer}.self_attn.v_proj.weight") for layer in range(4)]
    subjects.append(Subject("model.layers.0.mlp.down_proj.weight"))
    few, many = (mixtures.mixture("mixed_4_6", subjects, layers=layers) for layers in (4, 64))
    assert next(decision.scheme for s in subjects[:4] if (decision := few.decide(s))) == "affine4-g64"
    assert {decision.scheme for s in subjects[:4] if (decision := many.decide(s))} == {"affine6-g64"}


def test_the_layer_number_stands_where_the_first_down_proj_has_it() -> None:
    assert mixtures.layer_position(["a.0.v_proj", "language_model.model.layers.3.mlp.down_proj"]) == 3
    nested = [Subject("language_model.model.layers.1.mlp.down_proj.weight"), Subject("a.b.c.x.v_proj.weight")]
    decision = mixtures.mixture("mixed_2_6", nested, layers=8).decide(nested[1])
    assert decision is not None and decision.scheme == "affine6-g64", "counts as layer 0"


def test_group_size_and_refusals() -> None:
    subjects = [Subject("model.layers.0.mlp.down_proj.weight")]
    decision = mixtures.mixture("mixed_2_6", subjects, group_size=32).decide(subjects[0])
    assert decision is not None and decision.scheme.endswith("-g32")
    with pytest.raises(WrongUsage, match="--group-size 16 with --scheme mixed_2_6"):
        mixtures.mixture("mixed_2_6", subjects, group_size=16)
    with pytest.raises(NotPossible, match="down_proj"):
        mixtures.mixture("mixed_2_6", [Subject("transformer.h.0.mlp.c_proj.weight")])
