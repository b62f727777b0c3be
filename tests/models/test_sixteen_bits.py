"""In which 16-bit dtypes a model works, by family, by model type, and by the language model that others are made of."""

from typing import Any

import pytest

from quantcli import models
from quantcli.models.families.untabled import UNTABLED

#: What vLLM refuses float16 for (vllm/config/model.py).
REFUSED_BY_VLLM = ("gemma2", "gemma3", "gemma3_text", "glm4", "plamo2")
#: What does not work in float16 beside these: T5 and later Gemmas, and what overflows in transformers.
OVERFLOWING = ("gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "t5", "mt5", "umt5", "gpt_oss", "deepseek_v2")
#: Those that have the decoder of such a model under another name, as transformers' and vLLM's classes say.
SISTERS = ("t5gemma", "t5_gemma_module", "t5gemma2", "t5gemma2_text", "shieldgemma2", "glm4v", "glm4v_text")
WORKING = (
    "llama",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "gemma",
    "glm4_moe",
    "mistral",
    "phi3",
    "deepseek_v3",
    "mixtral",
    "paligemma",
    "glm4v_moe",
    "glm4v_moe_text",
)


@pytest.mark.parametrize("kind", [*REFUSED_BY_VLLM, *OVERFLOWING, *SISTERS])
def test_model_types_that_do_not_work_in_float16(kind: str) -> None:
    named, found = models.sixteen_bits({"model_type": kind}, {})
    assert named == kind and found.why
    assert not found.works("f16", "hf")
    assert all(found.works(dtype, target) for dtype in ("bf16", "f32", "f64") for target in ("hf", "mlx"))
    assert found.works("f16", "gguf")


@pytest.mark.parametrize("kind", [*WORKING, "unheard_of"])
def test_the_others_work_in_both(kind: str) -> None:
    _, found = models.sixteen_bits({"model_type": kind}, {})
    assert not found.why
    assert all(found.works(dtype, target) for dtype in ("f16", "bf16") for target in ("hf", "mlx", "gguf"))


def test_only_gemma_3_is_clipped_in_mlx_lm() -> None:
    families = {family.name: family.sixteen_bits for family in models.FAMILIES}
    clipped = {name for name, found in {**families, **UNTABLED}.items() if found.why and found.works("f16", "mlx")}
    assert clipped == {"gemma3"}


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "paligemma", "text_config": {"model_type": "gemma2"}}, "gemma2"),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, "gemma3"),
        ({"model_type": "internvl_chat", "llm_config": {"model_type": "gpt_oss"}}, "gpt_oss"),
        ({"model_type": "gemma3_text", "architectures": ["Gemma3TextModel"]}, "gemma3_text"),
        ({"text_config": {"model_type": "glm4"}}, "glm4"),
        ({"model_type": "glm46v", "text_config": {"model_type": "glm4v_text"}}, "glm4v_text"),
    ],
)
def test_language_models_of_others_and_unknown_classes(config: dict[str, Any], kind: str) -> None:
    named, found = models.sixteen_bits(config, {})
    assert (named, found.works("f16", "hf")) == (kind, False)


@pytest.mark.parametrize("kind", [None, 3, ["gemma2"], {"gemma2": 1}, True])
def test_a_model_type_of_another_kind_is_none(kind: Any) -> None:
    assert models.sixteen_bits({"model_type": kind, "text_config": kind}, {}) == ("", models.SixteenBits())


def test_families_of_gguf_files() -> None:
    assert not models.sixteen_bits({}, {"general.architecture": "gemma3"})[1].works("f16", "hf")
    assert models.sixteen_bits({}, {"general.architecture": "llama"})[1].works("f16", "hf")


def test_no_model_type_is_in_both_tables() -> None:
    assert not set(UNTABLED).intersection(models.KINDS)
