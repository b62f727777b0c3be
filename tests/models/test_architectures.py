"""Every name of a table is one tensor; families are found by either dialect's metadata; rows go where they belong."""

import numpy as np
import pytest

from quantcli.containers.gguf_values import Value
from quantcli.errors import BadInput
from quantcli.models import (
    ARCHITECTURES,
    FAMILIES,
    Architecture,
    Hyperparameters,
    PermuteRows,
    Rope,
    by_gguf,
    find,
)
from quantcli.models.base import DIALECTS
from quantcli.models.families.llama import rope_factors

TABLES = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda a: a.name)


def sizes(**changed: object) -> Hyperparameters:
    standard = dict(architecture="llama", layers=2, context_length=512, embedding_length=64, feed_forward_length=128)
    standard |= dict(heads=4, kv_heads=2, head_dim=16, norm_eps=1e-5, vocab_size=100, rope=Rope())
    return Hyperparameters(**(standard | changed))  # type: ignore[arg-type]


def every_name(architecture: Architecture, layers: int, dialect: str = "hf") -> list[str]:
    """All names that a table can stand for in a dialect, one for each of three experts where it has one an expert."""
    return [
        f"{pattern}.{suffix}".removesuffix(".").replace("{i}", str(i)).replace("{e}", str(e))
        for pattern, suffix in dict.fromkeys(
            (row.pattern(dialect), suffix)
            for row in architecture.tensors
            for suffix in row.suffixes
            if not row.read_only
        )
        for i in range(layers if "{i}" in pattern else 1)
        for e in range(3 if "{e}" in pattern else 1)
    ]


@TABLES
def test_every_name_is_one_tensor(architecture: Architecture) -> None:
    for dialect in DIALECTS:
        names = every_name(architecture, 13, dialect)
        assert len(set(names)) == len(names)
        for name in names:
            found = architecture.find(name, dialect)
            assert found and all(one.name(dialect) == name for one in found)
            assert {architecture.layer(name)} == {architecture.layer(one.name("gguf")) for one in found}
            assert architecture.role(name) == found[0].row.role
    gguf = every_name(architecture, 13, "gguf")
    assert not {row.gguf for row in architecture.computed} & set(gguf)


@TABLES
def test_what_is_only_read_stands_for_a_tensor_that_is_written(architecture: Architecture) -> None:
    others = {row.hf for row in architecture.tensors if row.read_only}
    assert len(others) == {"minimax_m2": 6, "mixtral": 5, "phimoe": 5, "qwen3_5_moe": 3}.get(
        architecture.name, 2 if "ffn_up_exps" in roles(architecture) else 0
    )
    for name in [pattern.replace("{i}", "3").replace("{e}", "2") for pattern in others]:
        found = architecture.find(name, "hf")
        assert found and all(one.name("hf") == name for one in found)
        for one in found:
            written = architecture.written(one.row)
            assert not written.read_only and written.gguf == one.row.gguf
            assert architecture.find(one.name("gguf"), "gguf")[0].row is written
        assert not architecture.find(name, "mlx") and not architecture.find(name, "gguf")


def roles(architecture: Architecture) -> set[str]:
    """Those of stacked experts that other families have one by one."""
    return {row.role for row in architecture.tensors if "{e}" in row.hf}


@TABLES
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.{i}.self_attn.q_proj.weight",
        "blk.{i}.attn_q.weight",
        "model.layers.01.self_attn.q_proj.weight",
        "model.layers.-1.self_attn.q_proj.weight",
        "model.layers.١.self_attn.q_proj.weight",
        "model.layers.9999999999.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.q_proj.scales",
        "model.layers..self_attn.q_proj.weight",
        "model.embed_tokens.bias",
        "{i}",
        "",
        "weight",
    ],
)
def test_unknown_names_have_no_place(architecture: Architecture, name: str) -> None:
    assert not any(architecture.find(name, dialect) for dialect in DIALECTS)
    assert architecture.to_gguf(name) is None
    assert architecture.role(name) is None


def test_lookup() -> None:
    assert find({"model_type": "mistral"}) is ARCHITECTURES["llama"]
    assert find({"model_type": "qwen3"}) is by_gguf({"general.architecture": "qwen3"}) is ARCHITECTURES["qwen3"]
    assert find({"model_type": "mamba2"}) is None
    assert find({"model_type": ["llama"]}) is None
    assert find({}) is None
    assert by_gguf({"general.architecture": "mamba2"}) is by_gguf({}) is None


def test_families_of_one_gguf_name_are_told_apart_by_the_metadata() -> None:
    llama = {"general.architecture": "llama"}
    assert by_gguf(llama) is ARCHITECTURES["llama"]
    assert by_gguf(llama | {"llama.expert_count": Value("uint32", 8)}) is ARCHITECTURES["mixtral"]
    deepseek = {"general.architecture": "deepseek2"}
    assert by_gguf(deepseek) is ARCHITECTURES["deepseek_v2"]
    assert by_gguf(deepseek | {"deepseek2.expert_gating_func": 2}) is ARCHITECTURES["deepseek_v3"]


def test_families_of_one_gguf_name_have_one_rest() -> None:
    names = {family.gguf for family in FAMILIES}
    for name in names:
        assert sum(family.gguf == name and family.when is None for family in FAMILIES) == 1, name


def test_roles() -> None:
    llama = ARCHITECTURES["llama"]
    assert llama.role("rope_freqs.weight") == "rope_freqs"
    assert llama.role("lm_head.weight") == llama.role("output.weight") == "output"


def test_permutation_of_one_head() -> None:
    assert PermuteRows("heads").index(8, sizes(heads=1)).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert PermuteRows("heads").index(8, sizes(heads=2)).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_rows_that_are_no_heads_are_refused() -> None:
    with pytest.raises(BadInput, match="60 rows cannot be split into 4 attention heads"):
        PermuteRows("heads").index(60, sizes())


def test_rope_factors_of_llama_3() -> None:
    """What llama.cpp's converter wrote for head_dim 32, theta 500000, factor 8, factors 1 and 4, 8192 tokens."""
    rope = Rope(500000.0, "llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
    factors = rope_factors(sizes(head_dim=32, rope=rope))
    assert factors is not None and factors.dtype == np.float32
    assert factors.tolist() == [1.0] * 8 + [2.6945300102233887] + [8.0] * 7
    assert rope_factors(sizes()) is None
