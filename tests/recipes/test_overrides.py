"""`--override GLOB=SCHEME`."""

import pytest

from quantcli.errors import WrongUsage
from quantcli.recipes import overrides
from quantcli.recipes.base import Decision, Origin, Subject

DOWN = Subject("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight")


@pytest.mark.parametrize("glob", ["*.down_proj.weight", "*.down_proj", "blk.*.ffn_down.weight", "model.layers.3.*"])
def test_the_glob_is_tried_on_all_three_names(glob: str) -> None:
    reason = f"--override {glob}=affine8-g64"
    assert overrides.parse([f"{glob}=affine8-g64"]).decide(DOWN) == Decision("affine8-g64", reason, Origin.OVERRIDE)


def test_the_last_match_wins() -> None:
    recipe = overrides.parse(["*.down_proj=q8_0", "*=Q4_0", "lm_head=bf16"])
    decision = recipe.decide(DOWN)
    assert decision is not None and decision.scheme == "q4_0"
    assert recipe.unmatched([DOWN]) == ["lm_head"]
    assert overrides.parse(["*.up_proj=keep"]).decide(DOWN) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "*.down_proj",
        "=q8_0",
        "*.down_proj=",
        "*.down_proj=q9_0",
        "*=affine4",
        "*=mixed_3_6",
        "a" * 2000 + "=f16",
    ],
)
def test_errors_quote_the_text(text: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        overrides.parse([text])
    assert repr(text[:100]) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_errors_show_the_form() -> None:
    with pytest.raises(WrongUsage, match="GLOB=SCHEME"):
        overrides.parse(["*.down_proj"])
    with pytest.raises(WrongUsage, match=r"'affine7-g64' is not a scheme .* GLOB=SCHEME"):
        overrides.parse(["*=affine7-g64"])
