"""The template of a further family, taken as it stands: a line in the registry is all that it needs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from quantcli import models
from quantcli.containers import safetensors
from quantcli.errors import NotPossible
from quantcli.models import Architecture, by_gguf, find
from quantcli.sources.detect import open_source
from tests.conversions import converted

TEMPLATE = Path(models.__file__).parent / "families" / "TEMPLATE.md"
CONFIG = {
    "model_type": "newcomer", "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "vocab_size": 512,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "num_experts": 2,
    "num_experts_per_tok": 1, "extra_scale": 0.5, "torch_dtype": "bfloat16", "tie_word_embeddings": True,
}  # fmt: skip
LAYER = "model.layers.0"
SHAPES = {
    "model.embed_tokens.weight": (512, 32),
    "model.norm.weight": (32,),
    **{f"{LAYER}.{n}.weight": (32,) for n in ("input_layernorm", "post_attention_layernorm", "extra_layernorm")},
    **{f"{LAYER}.self_attn.{n}_proj.weight": (16 if n in "kv" else 32, 32) for n in "qkvo"},
    f"{LAYER}.mlp.gate.weight": (2, 32),
    **{f"{LAYER}.mlp.experts.{e}.{n}_proj.weight": (32, 32) for e in (0, 1) for n in ("gate", "up", "down")},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that the template's record describes."""
    made = tmp_path / "newcomer"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(CONFIG))
    header, offsets = safetensors.layout({name: ("bf16", shape) for name, shape in SHAPES.items()}, {"format": "pt"})
    with open(made / "model.safetensors", "wb") as file:
        file.write(header)
        for number, (name, shape) in enumerate(SHAPES.items()):
            file.seek(offsets[name])
            words = (np.arange(np.prod(shape)) * (number * 2 + 3)) % 128 + 0x3F00
            file.write(words.astype("<u2").tobytes())
    data = Path(__file__).resolve().parent.parent.parent / "data" / "tokenizers" / "micro-llama"
    for file_ in data.iterdir():
        if file_.name.startswith("tokenizer"):
            (made / file_.name).write_bytes(file_.read_bytes())
    return made


@pytest.fixture
def newcomer(monkeypatch: pytest.MonkeyPatch) -> Architecture:
    """The template's record, registered."""
    (code,) = re.findall(r"```python\n(.*?)```", TEMPLATE.read_text(), re.DOTALL)
    assert 25 <= code.count("\n") <= 45
    module = ModuleType("newcomer")
    exec(compile(code, str(TEMPLATE), "exec"), module.__dict__)
    record: Architecture = module.NEWCOMER
    monkeypatch.setattr(models, "FAMILIES", (*models.FAMILIES, record))
    monkeypatch.setitem(models.ARCHITECTURES, record.name, record)
    return record


def test_the_record_is_found(newcomer: Architecture) -> None:
    assert find(CONFIG) is by_gguf({"general.architecture": "newcomer"}) is newcomer


def test_there_and_back(folder: Path, newcomer: Architecture, tmp_path: Path) -> None:
    converted(folder, tmp_path / "mlx", to="mlx")
    assert f"{LAYER}.mlp.switch_mlp.up_proj.weight" in open_source(tmp_path / "mlx").weights
    for name, source in (("hf", folder), ("again", tmp_path / "mlx")):
        converted(source, tmp_path / f"{name}.gguf", to="gguf")
        weights = open_source(tmp_path / f"{name}.gguf").weights
        assert weights["blk.0.ffn_up_exps.weight"].shape == (2, 32, 32) and len(weights) == 13
        converted(tmp_path / f"{name}.gguf", tmp_path / name, to="hf")
        for tensor, weight in open_source(folder).weights.items():
            back = open_source(tmp_path / name).weights[tensor]
            assert back.parts["weight"].read().tobytes() == weight.parts["weight"].read().tobytes(), tensor
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["extra_scale"] == 0.5 and config["num_experts"] == 2


def test_without_it_the_template_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match=r"'newcomer'.*quantcli/models/families/newcomer\.py.*TEMPLATE\.md"):
        converted(folder, tmp_path / "a.gguf", to="gguf")
    report = converted(folder, tmp_path / "mlx", to="mlx")
    assert any("'newcomer'" in warning and "names" in warning for warning in report["warnings"])
    assert f"{LAYER}.mlp.experts.1.up_proj.weight" in open_source(tmp_path / "mlx").weights
