"""llama-quantize's types for models of published sizes, by dry runs over files of a header alone.

Of every family that fixtures/policy of the reference data has no model of: metadata and tensors are what its table
makes of the settings, so that both sides see what a converted release holds. Every ftype, without and with an
importance matrix.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quantcli import models
from quantcli.containers import gguf_write
from quantcli.containers.gguf_values import Value
from quantcli.errors import NotPossible
from quantcli.models import FAMILIES
from quantcli.recipes import llama_cpp
from quantcli.recipes.llama_cpp import Facts, Tensor
from quantcli.targets import gguf_metadata
from tests.peers.published_sizes import PUBLISHED, Published
from tests.peers.table_models import tensors
from tests.peers.test_llama_quantize import dry_run

#: Families whose rules other data hold: tests/data/recipes and test_llama_quantize.py.
ELSEWHERE = (
    "cohere", "cohere2", "deepseek_v2", "ernie4_5", "exaone4", "falcon", "falcon_mamba", "gemma", "gemma2", "glm4",
    "glm4_moe", "gpt_neox", "gpt_oss", "granite", "llama", "mamba", "mixtral", "nemotron", "olmo2", "phi3", "qwen2",
    "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2",
)  # fmt: skip
MODELS = [(family, name) for family, rows in PUBLISHED.items() for name in rows]


def test_every_family_has_a_published_model() -> None:
    assert {*PUBLISHED} == {family.name for family in FAMILIES} - {*ELSEWHERE}


def header_only(path: Path, model: Published) -> tuple[dict[str, Value], list[Tensor]]:
    """Write a GGUF file of the model whose data is a hole; its metadata and tensors."""
    architecture = models.find(model.config)
    assert architecture is not None
    h = architecture.hyperparameters(models.text_settings(model.config))
    keys = gguf_metadata.keys(h, None, {}, file_type=32, quantized=False)
    metadata = {key: Value(kind, value) for key, (kind, value) in keys.items()}
    shapes = tensors(model.config, "gguf")
    listed = [Tensor(name, shape, "f32" if len(shape) < 2 else "bf16") for name, shape in shapes.items()]
    start, _, size = gguf_write.header(metadata, [(one.name, one.shape, one.type) for one in listed])
    path.write_bytes(start)
    os.truncate(path, size)
    return metadata, listed


@pytest.mark.parametrize(("family", "name"), MODELS)
def test_types_are_those_of_the_dry_runs(tmp_path: Path, family: str, name: str) -> None:
    path = tmp_path / "model.gguf"
    metadata, listed = header_only(path, PUBLISHED[family][name])
    compared = 0
    for ftype, one in llama_cpp.FTYPES.items():
        for importance in (False, True):
            wanted, facts = dry_run(path, one.number, importance), Facts.of(metadata, importance)
            if wanted is None:
                with pytest.raises(NotPossible):
                    llama_cpp.assign(listed, ftype, facts)
                continue
            chosen = llama_cpp.assign(listed, ftype, facts)
            assert {key: decision.scheme for key, decision in chosen.items()} == wanted, (ftype, importance)
            assert list(chosen) == list(wanted) and len(wanted) == len(listed)
            compared += 1
    assert compared > len(llama_cpp.FTYPES)
