"""`tie_word_embeddings` against the tensors that are stored: the head goes, stays, or is missing."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantcli import models
from quantcli.checkpoint import Checkpoint
from quantcli.errors import BadInput, NotPossible
from quantcli.sources.detect import open_source
from quantcli.targets import TARGETS
from quantcli.targets.base import Settings
from quantcli.targets.tied import Head, same_values
from tests.builders import BF16, LLAMA, folder_of, llama_tensors, sharded, tiny_llama
from tests.conversions import config, converted, planned, schemes, stored, values

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
OUTPUTS = {"mlx": "out", "hf": "out", "gguf": "out.gguf"}


def model(root: Path, *, head: Any = None, **changes: Any) -> Path:
    """A llama with a head (its array, made from the embedding; None: none) and keys of config.json that differ."""
    tiny_llama(root, **changes)
    if "model_type" in changes and "architectures" not in changes:
        without(root, "architectures")  # which would name another family's class
    arrays = load_file(root / "model.safetensors")
    arrays.pop(HEAD, None)
    if head is not None:
        arrays[HEAD] = head(arrays[EMBEDDING])
    save_file(arrays, root / "model.safetensors")
    return root


def other(embedding: np.ndarray) -> np.ndarray:
    """Another head: one value of it differs, in the last row."""
    changed = embedding.copy()
    changed[-1, -1] += 1
    return changed


def without(root: Path, key: str) -> Path:
    """The folder without a key of its config.json."""
    settings = config(root)
    del settings[key]
    (root / "config.json").write_text(json.dumps(settings))
    return root


def head_of(root: Path) -> Head:
    source = open_source(root)
    return Head.of(source, models.find(source.config))


@pytest.mark.parametrize("target", OUTPUTS)
def test_a_head_that_differs_from_the_embedding_is_kept(target: str, tmp_path: Path) -> None:
    source = model(tmp_path / "model", head=other, tie_word_embeddings=True)
    output = tmp_path / OUTPUTS[target]
    report = converted(source, output, to=target)
    name = "output.weight" if target == "gguf" else HEAD
    np.testing.assert_array_equal(values(output)[name], values(source)[HEAD])
    assert report["left_out"] == []
    assert [HEAD in line and EMBEDDING in line for line in report["warnings"]] == [True]
    if target != "gguf":
        assert config(output)["tie_word_embeddings"] is False
    with pytest.raises(NotPossible, match=f"--strict.*{HEAD}"):
        planned(source, tmp_path / f"strict-{OUTPUTS[target]}", to=target, strict=True)


@pytest.mark.parametrize("target", OUTPUTS)
def test_the_way_back_from_a_gguf_with_a_head_is_not_tied(target: str, tmp_path: Path) -> None:
    source = model(tmp_path / "model", head=other, tie_word_embeddings=True)
    converted(source, tmp_path / "a.gguf")
    converted(tmp_path / "a.gguf", tmp_path / OUTPUTS[target], to=target)
    name = "output.weight" if target == "gguf" else HEAD
    np.testing.assert_array_equal(values(tmp_path / OUTPUTS[target])[name], values(source)[HEAD])
    if target != "gguf":
        assert config(tmp_path / OUTPUTS[target])["tie_word_embeddings"] is False


@pytest.mark.parametrize("target", ["mlx", "gguf"])
@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float32), np.dtype(np.float64)])
def test_a_head_of_the_same_values_is_left_out_whatever_its_dtype(
    target: str, dtype: np.dtype[Any], tmp_path: Path
) -> None:
    source = model(tmp_path / "model", head=lambda array: array.astype(dtype), tie_word_embeddings=True)
    report = converted(source, tmp_path / OUTPUTS[target], to=target)
    assert [tensor["name"] for tensor in report["left_out"]] == [HEAD] and report["warnings"] == []
    assert not {HEAD, "output.weight"} & values(tmp_path / OUTPUTS[target]).keys()
    if target == "mlx":
        assert config(tmp_path / "out")["tie_word_embeddings"] is True


@pytest.mark.parametrize("target", OUTPUTS)
def test_a_head_of_another_shape_is_bad_input(target: str, tmp_path: Path) -> None:
    source = model(tmp_path / "model", head=lambda array: array[:-1], tie_word_embeddings=True)
    with pytest.raises(BadInput, match=rf"tensor {HEAD}: .*\[96, 64\].*\[95, 64\]"):
        planned(source, tmp_path / OUTPUTS[target], to=target)


def quantized(root: Path, bits: int) -> Path:
    """An MLX folder whose embedding has 4 bits, its head, made from the same values, `bits`."""
    arrays = llama_tensors({**LLAMA, "tie_word_embeddings": True})
    arrays[HEAD] = arrays[EMBEDDING]
    parts: dict[str, mx.array] = {}
    entries = {}
    for name, array in arrays.items():
        dense = mx.array(array.astype(np.float32)).astype(mx.bfloat16)
        if array.ndim < 2:
            parts[name] = dense
            continue
        width = bits if name == HEAD else 4
        module = name.removesuffix(".weight")
        entries[module] = {"group_size": 64, "bits": width}
        parts[name], parts[f"{module}.scales"], parts[f"{module}.biases"] = mx.quantize(dense, 64, width)
    block = {"group_size": 64, "bits": 4, **entries}
    folder_of(root, {}, {**LLAMA, "tie_word_embeddings": True, "quantization": block})
    mx.save_safetensors(str(root / "model.safetensors"), parts)
    return root


def of_heads(report: dict[str, Any]) -> list[str]:
    """A report's warnings, but that a made folder has no tokenizer."""
    return [warning for warning in report["warnings"] if "tokenizer" not in warning]


def test_quantized_heads_are_compared_by_value(tmp_path: Path) -> None:
    source = quantized(tmp_path / "wide", 8)
    report = converted(source, tmp_path / "out")
    assert schemes(tmp_path / "out")[HEAD] == "affine8-g64" and len(of_heads(report)) == 1
    written = config(tmp_path / "out")
    assert written["tie_word_embeddings"] is False and written["quantization"]["lm_head"]["bits"] == 8
    report = converted(quantized(tmp_path / "same", 4), tmp_path / "tied")
    assert HEAD not in schemes(tmp_path / "tied") and of_heads(report) == []
    assert config(tmp_path / "tied")["tie_word_embeddings"] is True


def test_zeros_of_both_signs_and_nans_are_no_difference(tmp_path: Path) -> None:
    one, two = np.array([[0.0, np.nan]], np.float32), np.array([[-0.0, np.nan]], np.float32)
    found = open_source(folder_of(tmp_path, {"a": one, "b": two, "c": one + 1})).weights
    assert same_values(found["a"], found["b"]) and not same_values(found["a"], found["c"])


def test_a_class_that_ties_by_default_has_its_head_too(tmp_path: Path) -> None:
    source = without(model(tmp_path / "model", head=other, model_type="smollm3"), "tie_word_embeddings")
    report = converted(source, tmp_path / "out")
    assert HEAD in values(tmp_path / "out") and config(tmp_path / "out")["tie_word_embeddings"] is False
    assert [HEAD in line for line in report["warnings"]] == [True]


def test_an_mlx_folder_says_what_its_source_leaves_to_the_class(tmp_path: Path) -> None:
    """mlx-lm's llama is tied unless config.json says that it is not."""
    source = without(model(tmp_path / "model", head=other), "tie_word_embeddings")
    assert converted(source, tmp_path / "out")["warnings"] == []
    assert config(tmp_path / "out")["tie_word_embeddings"] is False
    converted(source, tmp_path / "hf", to="hf")
    assert "tie_word_embeddings" not in config(tmp_path / "hf")


@pytest.mark.parametrize("target", ["mlx", "hf"])
@pytest.mark.parametrize("place", ["top", "nested", "both"])
def test_models_without_a_table_keep_their_head(target: str, place: str, tmp_path: Path) -> None:
    tied = {"tie_word_embeddings": True}
    nested = {"text_config": {"hidden_size": 64, **(tied if place != "top" else {})}}
    arrays = {f"language_model.{name}": array for name, array in llama_tensors({**LLAMA}).items()}
    settings = {"model_type": "strange", **nested, **(tied if place != "nested" else {})}
    source = folder_of(tmp_path / "model", arrays, settings)
    report = converted(source, tmp_path / "out", to=target)
    assert sum(f"language_model.{HEAD}" in line for line in report["warnings"]) == 1
    written = config(tmp_path / "out")
    assert written["tie_word_embeddings"] is False
    assert written["text_config"] == {"hidden_size": 64, "tie_word_embeddings": False}
    assert f"language_model.{HEAD}" in stored(tmp_path / "out")


def test_models_without_a_table_whose_heads_are_equal_stay_as_they_are(tmp_path: Path) -> None:
    arrays = llama_tensors({**LLAMA})
    arrays[HEAD] = arrays[EMBEDDING]
    source = folder_of(tmp_path / "model", arrays, {"model_type": "strange", "tie_word_embeddings": True})
    assert of_heads(converted(source, tmp_path / "out", to="hf")) == []
    assert HEAD in stored(tmp_path / "out") and config(tmp_path / "out")["tie_word_embeddings"] is True


def test_an_encoder_and_its_decoder_stay_tied(tmp_path: Path) -> None:
    """There the setting says too that both have one embedding, and how outputs are scaled."""
    arrays = {"shared.weight": np.ones((8, 4), np.float32), HEAD: np.zeros((8, 4), np.float32)}
    settings = {"model_type": "t5", "is_encoder_decoder": True, "tie_word_embeddings": True}
    report = converted(folder_of(tmp_path / "model", arrays, settings), tmp_path / "out", to="hf")
    assert config(tmp_path / "out")["tie_word_embeddings"] is True
    assert HEAD in stored(tmp_path / "out") and len(of_heads(report)) == 1


@pytest.mark.parametrize("target", OUTPUTS)
def test_heads_that_cannot_be_read_are_kept_and_not_compared(target: str, tmp_path: Path) -> None:
    """As of a model on the Hub, of which there are headers only."""
    source = open_source(model(tmp_path / "model", head=lambda array: array, tie_word_embeddings=True))
    assert all(HEAD not in draft.name for draft in drafted(source, target)[0])
    (tmp_path / "model" / "model.safetensors").unlink()
    drafts, warnings = drafted(source, target)
    assert len(drafts) == 21 and len(warnings) == 1 and "not compared" in warnings[0]


def drafted(source: Checkpoint, target: str) -> tuple[list[Any], list[str]]:
    """The drafts of a target's weights without head where it is equal (a folder of one dialect keeps it)."""
    drafts, _, warnings = TARGETS[target]().drafts(source, Settings())
    return [d for d in drafts if target != "hf" or warnings or d.name != HEAD], warnings


@pytest.mark.parametrize("target", OUTPUTS)
@pytest.mark.parametrize("stated", [True, False])
def test_a_head_that_is_neither_tied_nor_stored_is_bad_input(target: str, stated: bool, tmp_path: Path) -> None:
    source = model(tmp_path / "model")
    with pytest.raises(BadInput, match=f"{HEAD}.*tie_word_embeddings"):
        planned(source if stated else without(source, "tie_word_embeddings"), tmp_path / OUTPUTS[target], to=target)


@pytest.mark.parametrize("target", ["mlx", "hf"])
def test_nor_do_models_without_a_table_do_without(target: str, tmp_path: Path) -> None:
    kinds = {"model_type": "strange", "architectures": ["StrangeForCausalLM"]}
    with pytest.raises(BadInput, match=HEAD):
        planned(model(tmp_path / "model", **kinds), tmp_path / "out", to=target)
    encoder = {"model_type": "strange", "architectures": ["StrangeModel"]}
    assert planned(model(tmp_path / "encoder", **encoder), tmp_path / "out", to=target).steps
    renamed = model(tmp_path / "renamed", **kinds)
    arrays = load_file(renamed / "model.safetensors")
    save_file({**arrays, "output_layer.weight": other(arrays[EMBEDDING])}, renamed / "model.safetensors")
    assert planned(renamed, tmp_path / "out", to=target).steps


@pytest.mark.parametrize("target", OUTPUTS)
def test_a_class_that_ties_by_default_does_without_a_head(target: str, tmp_path: Path) -> None:
    source = model(tmp_path / "model", model_type="smollm3")
    report = converted(source, tmp_path / OUTPUTS[target], to=target)
    assert sum("tie_word_embeddings is false" in line for line in report["warnings"]) == 1
    if target != "gguf":
        assert config(tmp_path / "out")["tie_word_embeddings"] is True


def test_an_mlx_folder_is_tied_where_mlx_lm_ties_it(tmp_path: Path) -> None:
    source = without(quantized(tmp_path / "model", 4), "tie_word_embeddings")
    arrays = mx.load(str(source / "model.safetensors"))
    mx.save_safetensors(
        str(source / "model.safetensors"), {k: v for k, v in arrays.items() if not k.startswith("lm_head")}
    )
    report = converted(source, tmp_path / "out")
    assert len(of_heads(report)) == 1 and config(tmp_path / "out")["tie_word_embeddings"] is True


def test_a_single_file_of_several_need_not_hold_the_head(tmp_path: Path) -> None:
    arrays = {name: array for name, array in llama_tensors({**LLAMA}).items() if name != HEAD}
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    sharded(tmp_path, {first: arrays, second: {HEAD: np.ones((96, 64), BF16)}}, LLAMA)
    Head.of(open_source(tmp_path / first), models.find(LLAMA)).check("hf")


@pytest.mark.parametrize("kind", ["cohere", "cohere2", "gemma", "gemma2"])
def test_families_without_heads_refuse_another_one_where_nothing_would_use_it(kind: str, tmp_path: Path) -> None:
    source = model(tmp_path / "model", head=other, model_type=kind)
    head = head_of(source)
    head.check("hf")
    for target in ("mlx", "gguf"):
        with pytest.raises(NotPossible, match=HEAD):
            head.check(target)
    same = head_of(model(tmp_path / "same", head=lambda array: array, model_type=kind))
    same.check("gguf")
    assert same.is_left_out("mlx") and not same.is_left_out("hf")
    assert same.settings("mlx") == {"tie_word_embeddings": True}


@pytest.mark.parametrize("value", ["yes", 1, []])
def test_a_setting_of_another_type_is_bad_input(value: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="tie_word_embeddings"):
        planned(model(tmp_path / "model", head=other, model_type="strange", **{"tie_word_embeddings": value}),
                tmp_path / "out")  # fmt: skip


@pytest.mark.parametrize("target", OUTPUTS)
def test_the_input_of_the_field_keeps_its_head(target: str, shared: Path, tmp_path: Path) -> None:
    source = shared / "field" / "hf" / "tied-with-another-head"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    converted(source, tmp_path / OUTPUTS[target], to=target)
    name = "output.weight" if target == "gguf" else HEAD
    np.testing.assert_array_equal(values(tmp_path / OUTPUTS[target])[name], values(source)[HEAD])
