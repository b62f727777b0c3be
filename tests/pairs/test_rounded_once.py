"""A weight that is quantized already is not rounded onto another grid, unless the user allows it or no scheme of the
target holds its codes: then it is a fallback that the plan counts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantcli.convert.planning.routes import FALLBACK_ROUNDING, Route
from quantcli.convert.planning.steps import Plan, WeightStep, of_weights
from quantcli.errors import NotPossible
from tests.builders import tiny_llama
from tests.conversions import converted, planned

Sources = Callable[[str], Path]

#: What is asked of each source: the output's name and options.
REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("out", {}),
    ("out", {"scheme": "affine4-g64"}),
    ("out", {"scheme": "affine8-g32"}),
    ("out.gguf", {}),
    ("out.gguf", {"scheme": "q4_0"}),
    ("out.gguf", {"scheme": "q8_0"}),
    ("out", {"to": "hf"}),
    ("out", {"to": "hf", "scheme": "int4-g32"}),
)
FOLDERS = ("affine4-g64", "affine6-g64", "mixed", "awq")
TYPES = ("q4_0", "q8_0", "q4_k_s", "q6_k")


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model in a GGML type, whose rows fill the super-blocks."""
    root = tmp_path_factory.mktemp("files")
    model = tiny_llama(root / "model", hidden_size=256, intermediate_size=256, num_hidden_layers=1)

    def make(kind: str) -> Path:
        converted(model, root / f"{kind}.gguf", check=False, scheme=kind, pure=True)
        return root / f"{kind}.gguf"

    return make


def requantized(plan: Plan) -> list[WeightStep]:
    return [step for step in of_weights(plan.steps) if step.route is Route.REQUANTIZE]


def assert_only_fallbacks(path: Path, output: Path) -> None:
    """Of every request: what is rounded again has a scheme that loses little, in the place of one that is named."""
    for name, options in REQUESTS:
        try:
            plan = planned(path, output / name, **options)
        except NotPossible as refused:
            assert "--allow-requantize" in str(refused), refused
            continue
        for step in requantized(plan):
            assert step.wanted is not None and step.scheme.rounding <= FALLBACK_ROUNDING, (options, step.name)
            assert any(step.wanted in line and step.scheme.name in line for line in plan.warnings), plan.warnings
        try:
            assert requantized(planned(path, output / name, **options, fallback="none")) == []
        except NotPossible:
            assert requantized(plan)


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_weight_of_a_folder_is_never_rounded_twice_but_as_a_counted_fallback(
    source: Sources, tmp_path: Path, kind: str
) -> None:
    assert_only_fallbacks(source(kind), tmp_path)


@pytest.mark.parametrize("kind", TYPES)
def test_a_weight_of_a_gguf_file_is_never_rounded_twice_but_as_a_counted_fallback(
    file_of: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    assert_only_fallbacks(file_of(kind), tmp_path)


def test_a_weight_is_rounded_again_where_that_is_allowed(source: Sources, tmp_path: Path) -> None:
    plan = planned(source("affine8-g32"), tmp_path / "out", scheme="affine4-g64", allow_requantize=True)
    assert {(step.scheme.name, step.wanted) for step in requantized(plan)} == {("affine4-g64", None)}
