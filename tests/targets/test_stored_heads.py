"""Tied models in formats whose runtimes load none without a stored output matrix: the embedding is stored twice.

Which families these are, llama.cpp and mlx-lm say in tests/peers/test_tied_heads.py.
"""

from pathlib import Path

import numpy as np
import pytest

from quantcli.errors import NotPossible
from quantcli.models import FAMILIES
from tests.arch_models import TIED, tied_model
from tests.conversions import config, converted, planned, schemes, stored, values
from tests.gguf_files import load, save

#: Family -> a case of it.
CASES = {
    "bailing_moe_v2": "bailing_moe_v2", "deepseek_v2": "deepseek_v2", "deepseek_v3": "deepseek_v3",
    "deepseek_v32": "deepseek_v32", "dots1": "dots1", "exaone_moe": "exaone_moe", "glm4": "glm4",
    "glm4_moe": "glm4_moe", "glm4_moe_lite": "glm4_moe_lite", "glm_moe_dsa": "glm_moe_dsa", "gpt_neox": "gpt_neox",
    "gpt_oss": "gpt_oss", "mellum": "mellum", "mimo_v2_flash": "mimo_v2_flash", "minimax_m2": "minimax_m2",
    "nemotron": "nemotron", "olmo2": "olmo2", "olmoe": "olmoe", "phi": "phi", "phimoe": "phimoe_mini",
    "qwen2_moe": "qwen2_moe", "solar_open": "solar_open", "stablelm": "stablelm", "step3p5": "step3p5",
}  # fmt: skip
STORED_IN = {family.name: family.stores_head for family in FAMILIES}
#: mlx-lm does not load the case of GLM-5, in which not every layer has an indexer.
UNLOADED = {"mlx": ("glm_moe_dsa",), "gguf": ()}
GGUF, MLX = (
    [case for family, case in CASES.items() if dialect in STORED_IN[family] and family not in UNLOADED[dialect]]
    for dialect in ("gguf", "mlx")
)
#: Settings of a case that llama.cpp computes without.
UNREAD = {"mellum": ["rope_theta", "attention_factor"]}
HEADS = {"gpt_neox": "embed_out.weight"}
EMBEDDINGS = {"gpt_neox": "model.embed_in.weight"}


def test_the_families_are_those_of_the_tables() -> None:
    assert {family.name for family in FAMILIES if family.stores_head} == CASES.keys()


@pytest.mark.parametrize("case", GGUF)
def test_gguf_has_the_embedding_as_its_output_matrix_and_comes_back_tied(case: str, tmp_path: Path) -> None:
    source = tied_model(tmp_path, case)
    report = converted(source, tmp_path / "a.gguf")
    for warning, key in zip(report["warnings"], UNREAD.get(case, []), strict=True):
        assert key in warning
    found = values(tmp_path / "a.gguf")
    assert np.array_equal(found["output.weight"], found["token_embd.weight"])
    origin = {weight["name"]: weight["from"]["name"] for weight in report["weights"] if "from" in weight}
    assert origin["output.weight"] == origin["token_embd.weight"]
    report = converted(tmp_path / "a.gguf", tmp_path / "hf", to="hf")
    assert [tensor["name"] for tensor in report["left_out"]] == ["output.weight"]
    assert config(tmp_path / "hf")[TIED] is True
    assert stored(tmp_path / "hf") == stored(source)


@pytest.mark.parametrize("case", MLX)
@pytest.mark.parametrize("by_way_of_gguf", [False, True])
def test_mlx_has_the_embedding_as_its_output_matrix(case: str, by_way_of_gguf: bool, tmp_path: Path) -> None:
    source = tied_model(tmp_path, case)
    if by_way_of_gguf:
        converted(source, tmp_path / "a.gguf")
    converted(tmp_path / "a.gguf" if by_way_of_gguf else source, tmp_path / "mlx", scheme="affine4-g32")
    head = "model.embed_out.weight" if case == "gpt_neox" else "lm_head.weight"
    found = values(tmp_path / "mlx")
    assert np.array_equal(found[head], found[EMBEDDINGS.get(case, "model.embed_tokens.weight")])
    assert schemes(tmp_path / "mlx")[head] == "affine4-g32"
    assert config(tmp_path / "mlx")[TIED] is True
    converted(tmp_path / "mlx", tmp_path / "again", strict=True)
    assert stored(tmp_path / "again") == stored(tmp_path / "mlx")


@pytest.mark.parametrize("case", ["olmo2", "gpt_neox"])
def test_a_head_of_its_own_stays_in_gguf_and_in_the_folder(case: str, tmp_path: Path) -> None:
    """Also one that a preset gives more bits than the embedding."""
    source = tied_model(tmp_path, case)
    converted(source, tmp_path / "a.gguf", overrides=("output.weight=q8_0", "token_embd.weight=q4_0"))
    assert schemes(tmp_path / "a.gguf")["output.weight"] == "q8_0"
    converted(tmp_path / "a.gguf", tmp_path / "hf", to="hf")
    assert HEADS.get(case, "lm_head.weight") in stored(tmp_path / "hf")
    assert config(tmp_path / "hf")[TIED] is False


def test_families_that_do_without_store_the_embedding_once(tmp_path: Path) -> None:
    source = tied_model(tmp_path, "qwen3")
    for output, name in ((tmp_path / "a.gguf", "output.weight"), (tmp_path / "mlx", "lm_head.weight")):
        converted(source, output)
        assert name not in values(output)


def test_a_copied_file_without_a_head_is_named(tmp_path: Path) -> None:
    """llama.cpp's converter writes such files; the copy is as the source is."""
    converted(tied_model(tmp_path, "olmo2"), tmp_path / "a.gguf")
    metadata, tensors = load(tmp_path / "a.gguf")
    del tensors["output.weight"]
    save(tmp_path / "b.gguf", metadata, tensors)
    report = converted(tmp_path / "b.gguf", tmp_path / "c.gguf")
    assert ["output.weight" in line for line in report["warnings"]] == [True]
    with pytest.raises(NotPossible, match=r"--strict"):
        planned(tmp_path / "b.gguf", tmp_path / "d.gguf", strict=True)
    assert converted(tmp_path / "b.gguf", tmp_path / "hf", to="hf")["warnings"] == []
    assert converted(tmp_path / "a.gguf", tmp_path / "e.gguf")["warnings"] == []
