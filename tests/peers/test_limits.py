"""Models that llama.cpp or mlx-lm does not load whatever their file: exactly these are warned of."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from quantcli.convert.inspecting.architectures import families
from quantcli.errors import NotPossible
from tests.arch_models import arch_model, architecture_of, biased_model, flags_of_biases, wide_model
from tests.conversions import converted
from tests.convert.test_golden_arch import CASES
from tests.peers.pinned import peer

peer("llama_cpp")
peer("mlx_lm")

from mlx_lm.utils import MODEL_REMAPPING, load_model  # noqa: E402

from tests.peers.test_llama_cpp import ABORTS, Runner  # noqa: E402

#: One case of each model type whose heads may have another width than the model.
WIDE = (
    "cohere", "cohere2", "ernie4_5", "exaone4", "gemma", "glm4", "glm4_moe", "gpt_oss", "internlm3", "llama",
    "mistral", "mixtral", "nemotron", "olmo2", "olmo3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3",
    "starcoder2",
)  # fmt: skip
#: Those of which GGUF has no key for the width.
WIDE_IN_MLX = ("gemma2", "granite", "phi3", "stablelm")
#: One case of each family, and each key that says that modules have a bias.
FIRST = {architecture_of(case).name: case for case in reversed(CASES)}
BIASED = [(case, flag) for case in FIRST.values() for flag in flags_of_biases(case)]


def is_loaded(output: Path) -> bool:
    try:
        Runner(output) if output.suffix == ".gguf" else load_model(output, strict=True)
    except (
        AssertionError,
        ValueError,
        KeyError,
        AttributeError,
        SystemExit,
    ):  # mlx-lm's olmo asks for another package and exits
        return False
    return True


def agrees(source: Path, output: Path) -> None:
    """The output is loaded, or a warning says that it is not, for each reason once."""
    warnings = [line for line in converted(source, output)["warnings"] if "does not load" in line]
    assert is_loaded(output) == (not warnings)
    assert len({*warnings}) == len(warnings)


@pytest.mark.parametrize("output", ["a.gguf", "mlx"])
@pytest.mark.parametrize("case", [case for case in CASES if case not in ABORTS])
def test_every_case_is_loaded_or_named(tmp_path: Path, case: str, output: str) -> None:
    agrees(arch_model(tmp_path, case), tmp_path / output)


@pytest.mark.parametrize("output", ["a.gguf", "mlx"])
@pytest.mark.parametrize(("case", "flag"), BIASED)
def test_every_flag_of_biases_is_loaded_or_named(tmp_path: Path, case: str, flag: str, output: str) -> None:
    """Where the table refuses the flag, a GGUF file of it is refused by name."""
    try:
        agrees(biased_model(tmp_path, case, flag), tmp_path / output)
    except NotPossible as error:
        assert output == "a.gguf" and f"{flag} True" in str(error)


@pytest.mark.parametrize(
    ("case", "output"),
    [*((case, output) for case in WIDE for output in ("a.gguf", "mlx")), *((case, "mlx") for case in WIDE_IN_MLX)],
)
def test_wide_heads_are_loaded_or_named(tmp_path: Path, case: str, output: str) -> None:
    agrees(wide_model(tmp_path, case), tmp_path / output)


#: Types of mlx-lm's that are not the tables', though their names are: OLMo as it was before transformers had it (with a
#: package that reads it), and Hunyuan with weights of experts that nothing divides by their sum (test_hunyuan).
OTHER_MODELS = ("olmo", "hunyuan")


def test_mlx_lm_has_the_model_types_that_are_said_to_load_in_it_and_no_others() -> None:
    for family in families():
        known = {kind for kind in family.names if find_spec(f"mlx_lm.models.{MODEL_REMAPPING.get(kind, kind)}")}
        assert known - {*OTHER_MODELS} == {*family.mlx}, family.name
