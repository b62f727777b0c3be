"""Embedding checkpoints: tensors without the prefix `model.`, no head, a class that ends in Model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.errors import NotPossible
from quantcli.sources.detect import open_source
from tests.builders import BF16, folder_of
from tests.conversions import config, converted, planned, stored, values

DEMO = Path(__file__).resolve().parent.parent.parent / "examples" / "demo-qwen3"
#: Model type -> the class without a head that llama.cpp's converter registers, and that with one.
CLASSES = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}


def embedding(root: Path, kind: str = "qwen3", *, prefix: str = "", tied: bool = True, suffix: str = "Model") -> Path:
    """The demo model as a sentence-transformers model that pools the last token, or another type's of its sizes."""
    shutil.copytree(DEMO, root, copy_function=shutil.copyfile)
    tensors = {name.replace("model.", prefix, 1): one.array(BF16) for name, one in stored(DEMO).items()}
    if kind != "qwen3":
        tensors = {
            name: array for name, array in tensors.items() if not name.endswith(("q_norm.weight", "k_norm.weight"))
        }
    if kind == "qwen2":
        random = np.random.default_rng(1)
        for name in [name for name in tensors if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))]:
            rows = tensors[name].shape[0]
            tensors[name.replace(".weight", ".bias")] = random.normal(0, 1, rows).astype(BF16)
    found = config(DEMO) | {
        "architectures": [f"{CLASSES[kind]}{suffix}"],
        "model_type": kind,
        "tie_word_embeddings": tied,
    }
    folder_of(root, tensors, found)
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""},
               {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]  # fmt: skip
    (root / "modules.json").write_text(json.dumps(modules))
    (root / "1_Pooling").mkdir(exist_ok=True)
    (root / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
    return root


def same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


#: Model type, prefix of the stored names, suffix of the class, whether its settings tie a head.
WITHOUT_HEAD = (
    *((kind, "", "Model", True) for kind in CLASSES), ("qwen3", "", "ForCausalLM", True),
    ("qwen3", "", "Model", False), ("qwen3", "", "ForCausalLM", False), ("qwen3", "model.", "Model", True),
    ("qwen2", "model.", "Model", False),
)  # fmt: skip


@pytest.mark.parametrize(("kind", "prefix", "suffix", "tied"), WITHOUT_HEAD)
def test_gguf_is_that_of_the_whole_model(kind: str, prefix: str, suffix: str, tied: bool, tmp_path: Path) -> None:
    whole = embedding(tmp_path / "whole", kind, prefix="model.", suffix="ForCausalLM")
    source = embedding(tmp_path / "m", kind, prefix=prefix, suffix=suffix, tied=tied)
    assert open_source(source).warnings == ()
    for path in (whole, source):
        converted(path, path / "a.gguf", check=False)
    assert same(values(source / "a.gguf"), values(whole / "a.gguf"))
    ours, theirs = (open_source(path / "a.gguf").metadata for path in (source, whole))
    assert {key: one.value for key, one in ours.items() if key != "general.name"} == {
        key: one.value for key, one in theirs.items() if key != "general.name"
    }
    assert ours[f"{kind}.pooling_type"].value == 3


@pytest.mark.parametrize("suffix", ["Model", "ForCausalLM"])
def test_mlx_folders_have_a_whole_models_names_and_are_tied(suffix: str, tmp_path: Path) -> None:
    source = embedding(tmp_path / "m", tied=False, suffix=suffix)
    converted(source, tmp_path / "mlx", scheme="affine4-g32")
    found = stored(tmp_path / "mlx")
    assert all(name.startswith("model.") for name in found) and "model.layers.0.mlp.up_proj.scales" in found
    assert config(tmp_path / "mlx")["tie_word_embeddings"] is True


def test_folders_keep_the_names_that_are_stored(tmp_path: Path) -> None:
    source = embedding(tmp_path / "m")
    converted(source, tmp_path / "hf", to="hf")
    assert stored(tmp_path / "hf") == stored(source)
    assert config(tmp_path / "hf") == config(source)
    converted(source, tmp_path / "q", to="hf", scheme="int8-channel")
    assert "layers.0.mlp.up_proj.weight_scale" in stored(tmp_path / "q")
    assert not [name for name in stored(tmp_path / "q") if name.startswith("model.")]
    converted(tmp_path / "q", tmp_path / "same", to="hf")
    assert stored(tmp_path / "same") == stored(tmp_path / "q")
    converted(tmp_path / "q", tmp_path / "one", to="hf", overrides=("model.layers.0.mlp.up_proj.weight=bf16",))
    assert stored(tmp_path / "one")["layers.0.mlp.up_proj.weight"].dtype == "BF16"
    assert "layers.0.mlp.up_proj" in config(tmp_path / "one")["quantization_config"]["ignore"]


def test_a_file_goes_back_to_a_folder_that_pools(tmp_path: Path) -> None:
    converted(embedding(tmp_path / "m"), tmp_path / "a.gguf")
    converted(tmp_path / "a.gguf", tmp_path / "hf", to="hf")
    found = config(tmp_path / "hf")
    assert found["architectures"] == ["Qwen3ForCausalLM"] and found["tie_word_embeddings"] is True
    assert json.loads((tmp_path / "hf" / "1_Pooling" / "config.json").read_text())["pooling_mode_lasttoken"] is True
    assert same(values(tmp_path / "hf"), values(DEMO))


@pytest.mark.parametrize("name", ["MistralModel", "Gemma3TextModel", "Qwen3ForSequenceClassification"])
def test_other_classes_stay_unknown(name: str, tmp_path: Path) -> None:
    source = embedding(tmp_path / "m")
    (source / "config.json").write_text(json.dumps(config(source) | {"architectures": [name]}))
    with pytest.raises(NotPossible, match=name):
        planned(source, tmp_path / "a.gguf")
