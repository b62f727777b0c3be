"""Dense Hugging Face folders: every dtype, sharded or not, tied or not, and what is no dense folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.dense import Dense
from quantcli.sources.detect import open_source
from tests.builders import BF16, LLAMA, folder_of, llama_tensors, sharded, tiny_llama

ONE = {"a.weight": np.ones((2, 8), np.float16)}


@pytest.mark.parametrize(("dtype", "name"), [(BF16, "bf16"), (np.dtype("f2"), "f16"), (np.dtype("f4"), "f32")])
def test_a_single_file_of_every_dtype(dtype: Any, name: str, tmp_path: Path) -> None:
    found = open_source(tiny_llama(tmp_path / "m", dtype))
    expected = llama_tensors(LLAMA, dtype)
    assert (found.kind, found.names, found.warnings) == ("hf", "hf", ())
    assert list(found.weights) == sorted(expected)
    for key, weight in found.weights.items():
        assert (weight.scheme, weight.shape) == (Dense(name), expected[key].shape)
        assert weight.parts["weight"].read().tobytes() == expected[key].tobytes()
    assert [path.name for path in found.sidecars] == ["tokenizer.json", "tokenizer_config.json"]
    assert found.config["model_type"] == "llama"


def test_sharded_is_the_same(tmp_path: Path) -> None:
    tensors = llama_tensors(LLAMA)
    names = sorted(tensors, reverse=True)
    shards = {f"model-0000{i + 1}-of-00003.safetensors": {n: tensors[n] for n in names[i::3]} for i in range(3)}
    found = open_source(sharded(tmp_path / "s", shards, LLAMA))
    whole = open_source(tiny_llama(tmp_path / "w"))
    assert len(found.files) == 3
    assert list(found.weights) == list(whole.weights)
    for name, weight in whole.weights.items():
        assert weight.parts["weight"].read().tobytes() == found.weights[name].parts["weight"].read().tobytes()


def test_tied_embeddings_have_no_head(tmp_path: Path) -> None:
    found = open_source(tiny_llama(tmp_path, tie_word_embeddings=True))
    assert "model.embed_tokens.weight" in found.weights and "lm_head.weight" not in found.weights


def test_other_dtypes_are_listed(tmp_path: Path) -> None:
    tensors = {"ids": np.ones(3, np.int64), "mask": np.ones(2, np.bool_), "d": np.ones(1)}
    found = open_source(folder_of(tmp_path, tensors))
    assert {name: weight.scheme.name for name, weight in found.weights.items()} == {
        "ids": "i64",
        "mask": "bool",
        "d": "f64",
    }


@pytest.mark.parametrize("settings", [{}, None])
def test_empty_settings_are_none(settings: object, tmp_path: Path) -> None:
    assert open_source(folder_of(tmp_path, ONE, {"quantization_config": settings})).kind == "hf"


@pytest.mark.parametrize("method", ["eetq", "vptq", "AWQ?", None, 7])
def test_other_quantizers_are_not_read_yet(method: object, tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": method, "bits": 4}}
    with pytest.raises(
        NotPossible, match=f"quantization_config: quant_method {method!r} is not supported".replace("?", ".")
    ):
        open_source(folder_of(tmp_path, ONE, config))


def test_another_quantizers_words_are_not_taken_for_mlx(tmp_path: Path) -> None:
    tensors = {"m.weight": np.zeros((2, 8), np.uint32), "m.scales": np.ones((2, 1), np.float16)}
    with pytest.raises(NotPossible, match="quant_method 'eetq'"):
        open_source(folder_of(tmp_path, tensors, {"quantization_config": {"quant_method": "eetq"}}))


@pytest.mark.parametrize("settings", [[1], "awq", 4, True])
def test_settings_that_are_no_object(settings: object, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="config.json: key quantization_config: expected an object, found "):
        open_source(folder_of(tmp_path, ONE, {"quantization_config": settings}))


@pytest.mark.parametrize(
    "name",
    [
        "m.qweight",
        "m.qzeros",
        "m.weight_packed",
        "m.weight_scale",
        "m.weight_scale_inv",
        "experts_blocks",
        "m.weight.absmax",
    ],
)
def test_quantized_tensors_without_settings(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"tensor {name}: is part of a quantized weight, .*config.json"):
        open_source(folder_of(tmp_path, {**ONE, name: np.zeros((8, 8), np.int32)}))
