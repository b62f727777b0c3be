"""Metadata equal what llama.cpp's converter and llama-quantize wrote: keys, order, types, values."""

import hashlib
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.checkpoint import Vocabulary
from quantcli.errors import BadInput, NotPossible
from quantcli.models import Hyperparameters, Rope, find
from quantcli.targets.gguf_general import front_matter, general, size_label, take_apart, title
from quantcli.targets.gguf_metadata import keys, metadata, model_name
from quantcli.tokenizers import load

DATA = Path(__file__).resolve().parent.parent / "data"
MODELS = ["tiny-llama", "micro-llama", "tiny-mistral-spm", "demo-qwen3"]
CASES = (
    "cohere2", "deepseek_v2", "deepseek_v2_lite", "deepseek_v3", "ernie4_5", "falcon", "gemma", "gemma2",
    "gemma3_text", "glm4_moe", "gpt_neox", "gpt_oss", "gpt_oss_mxfp4", "granite", "internlm3", "llama",
    "llama_linear", "llama_llama3rope", "llama_yarn", "mamba", "mistral", "mixtral", "nemotron", "olmo2", "olmo3",
    "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "starcoder2",
)  # fmt: skip
FILE_TYPES = {"convert-f32": 0, "convert-f16": 1, "convert-q8_0": 7, "convert-bf16": 32}
FILE_TYPES |= {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "BF16": 32}


def produced(
    folder: Path,
    config: dict[str, Any],
    tokenizer: Path,
    shapes: dict[str, tuple[int, ...]],
    file_type: int,
    quantized: bool,
) -> dict[str, tuple[str, Any]]:
    architecture = find(config)
    assert architecture is not None
    return metadata(
        architecture.hyperparameters(config),
        load(tokenizer, config, architecture.vocabulary),
        source=folder,
        config=config,
        file_type=file_type,
        shapes=shapes,
        quantized=quantized,
    )


def as_stored(kind: str, value: Any) -> Any:
    return float(np.float32(value)) if kind == "float32" else value


def payload_hash(kind: str, values: tuple[Any, ...]) -> str:
    """The hash of an array's bytes as a GGUF file stores them."""
    if kind == "array[string]":
        texts = [v if isinstance(v, bytes) else v.encode() for v in values]
        return hashlib.sha256(b"".join(struct.pack("<Q", len(t)) + t for t in texts)).hexdigest()
    return hashlib.sha256(
        np.array(values, {"array[int32]": "<i4", "array[float32]": "<f4"}[kind]).tobytes()
    ).hexdigest()


def json_hash(kind: str, values: tuple[Any, ...]) -> str:
    """The hash of an array spelled as JSON."""
    plain = [v.decode() if isinstance(v, bytes) else float(np.float32(v)) if "float" in kind else v for v in values]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def compare(mine: dict[str, tuple[str, Any]], wanted: dict[str, Any], hashed: Callable[[str, Any], str]) -> None:
    assert list(mine) == list(wanted)
    for key, (kind, value) in mine.items():
        their_kind, theirs = wanted[key]
        spelled = their_kind.lower()
        assert kind == (f"array[{spelled[6:]}]" if spelled.startswith("array:") else spelled), key
        value = list(value) if isinstance(value, tuple) and len(value) <= 32 else value
        if isinstance(theirs, dict):
            assert (len(value), hashed(kind, value)) == (theirs.get("length", theirs.get("len")), theirs["sha256"]), key
        else:
            assert as_stored(kind, value) == theirs, key


def shapes_of(manifest: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {tensor["name"]: tuple(reversed(tensor["shape"])) for tensor in manifest["tensors"]}


@pytest.mark.parametrize("model", MODELS)
def test_as_llama_cpp_wrote_it(shared: Path, model: str) -> None:
    folder = shared / "fixtures" / "models" / model
    config = json.loads((folder / "config.json").read_text())
    for label, file_type in FILE_TYPES.items():
        manifest = json.loads((shared / "fixtures" / "gguf" / model / f"{label}.json").read_text())
        mine = produced(folder, config, folder, shapes_of(manifest), file_type, not label.startswith("convert"))
        compare(mine, manifest["metadata"], payload_hash)


@pytest.mark.parametrize("spelling", ["config.json", "config-v5.json"])
@pytest.mark.parametrize("case", CASES)
def test_as_llama_cpp_wrote_it_for_each_architecture(shared: Path, case: str, spelling: str) -> None:
    """All metadata, the vocabulary's included, as the converter and llama-quantize wrote them."""
    folder = shared / "fixtures" / "arch" / case
    tokenizer = (
        shared / "fixtures" / "arch" / "_tokenizers" / json.loads((folder / "case.json").read_text())["tokenizer"]
    )
    config = json.loads((folder / spelling).read_text())
    for label, file_type, quantized in (("bf16", 32, False), ("q4_k_m", 15, True)):
        if (folder / f"reference-{label}.json").is_file():
            manifest = json.loads((folder / f"reference-{label}.json").read_text())
            stored = manifest["metadata"].get("general.file_type", [0, file_type])[1]
            mine = produced(folder, config, tokenizer, shapes_of(manifest), stored, quantized)
            compare(mine, manifest["metadata"], json_hash)


@pytest.mark.parametrize("model", ["micro-llama", "small-spm"])
def test_as_llama_cpp_wrote_it_without_the_shared_folder(model: str) -> None:
    folder = DATA / "tokenizers" / model
    expected = json.loads((folder / "gguf.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    mine = produced(folder, config, folder, {"all": (expected["parameters"],)}, expected["file_type"], False)
    compare(mine, expected["metadata"], {"bytes": payload_hash, "json": json_hash}[expected["hash_over"]])


def sizes(**changed: Any) -> Hyperparameters:
    standard: dict[str, Any] = dict(
        architecture="llama", layers=2, context_length=512, embedding_length=64, vocab_size=9
    )
    standard |= dict(feed_forward_length=128, heads=4, kv_heads=2, head_dim=16, norm_eps=1e-5, rope=Rope())
    return Hyperparameters(**(standard | changed))


def test_yarn_writes_what_the_config_says() -> None:
    rope = Rope(1e4, "yarn", 4.0, 128, beta_fast=32.0, beta_slow=1.0, attention_factor=1.1, extrapolation_factor=0.5)
    written = keys(sizes(rope=rope), None, {}, 1, False)
    scaling = {key.removeprefix("llama.rope.scaling."): value for key, value in written.items() if ".scaling." in key}
    assert scaling == {
        "type": ("string", "yarn"),
        "factor": ("float32", 4.0),
        "original_context_length": ("uint32", 128),
        "yarn_ext_factor": ("float32", 0.5),
        "yarn_attn_factor": ("float32", 1.1),
        "yarn_beta_fast": ("float32", 32.0),
        "yarn_beta_slow": ("float32", 1.0),
    }


def test_head_sizes_are_written_where_they_are_named() -> None:
    assert "qwen2.attention.key_length" not in keys(sizes(architecture="qwen2"), None, {}, 1, False)
    assert "qwen2.attention.key_length" in keys(sizes(architecture="qwen2", states_head_dim=True), None, {}, 1, False)


def test_an_architecture_without_a_table_is_refused() -> None:
    with pytest.raises(NotPossible, match="gemma9"):
        keys(sizes(architecture="gemma9"), None, {}, 1, False)


def test_a_folder_of_the_hub_cache_is_called_after_its_model() -> None:
    assert model_name(Path("hub/models--org--Some-1B/snapshots/0123abcd")) == "org/Some-1B"
    assert model_name(Path("hub/snapshots/0123abcd")) == "0123abcd"
    assert model_name(Path("models/Some-1B/")) == "Some-1B"


def test_named_chat_templates() -> None:
    vocabulary = Vocabulary(
        "bpe",
        "gpt-2",
        (b"a",),
        (1,),
        None,
        (),
        {"cls": 0},
        {},
        chat_template="D",
        chat_templates={"tool": "T", "rag": "R"},
    )
    written = keys(sizes(), vocabulary, {}, 1, False)
    assert [written[f"tokenizer.chat_template{name}"][1] for name in ("", ".tool", ".rag")] == ["D", "T", "R"]
    assert written["tokenizer.chat_templates"] == ("array[string]", ["rag", "tool"])
    assert "tokenizer.ggml.cls_token_id" not in written


@pytest.mark.parametrize(
    ("count", "label"),
    [
        (0, "0.00K"),
        (999, "1.0K"),
        (895_232, "895K"),
        (1_000_000, "1000K"),
        (1_443_072, "1.4M"),
        (8_030_261_248, "8.0B"),
        (70_553_706_496, "71B"),
        (1_026_408_232_448, "1.0T"),
    ],
)
def test_size_labels(count: int, label: str) -> None:
    assert size_label(count) == label


@pytest.mark.parametrize(
    ("name", "parameters", "parts"),
    [
        ("tiny-llama", 4_196_608, (None, None, None, None)),
        ("Llama-3.2-1B-Instruct", 1_235_814_432, ("Llama-3.2", "Instruct", None, "1B")),
        ("Qwen3-4B-Instruct-2507", 4_022_468_096, ("Qwen3", "Instruct", "2507", "4B")),
        ("Mistral-7B-Instruct-v0.3", 7_248_023_552, ("Mistral", "Instruct", "v0.3", "7B")),
        ("Phi-3-mini-4k-instruct", 3_821_079_552, ("Phi-3", "4k-instruct", None, "mini")),
        ("bloom-7b1", 7_069_016_064, ("bloom", None, None, "7.1B")),
        ("Mixtral-8x7B-v0.1", 46_702_792_704, ("Mixtral", None, "v0.1", "8x7B")),
        ("some model of mine", 10**9, (None, None, None, None)),
        ("--", 10**9, (None, None, None, None)),
        ("", 10**9, (None, None, None, None)),
    ],
)
def test_names_taken_apart_as_llama_cpp_does(name: str, parameters: int, parts: tuple[str | None, ...]) -> None:
    found = take_apart(name, parameters)
    assert (found.basename, found.finetune, found.version, found.size_label) == parts


def test_titles() -> None:
    assert title("demo-qwen3") == "Demo Qwen3"
    assert title("llama_llama3rope") == "Llama_Llama3Rope"
    assert title("v1.5-7b-SmolLM") == "v1.5 7b SmolLM"


CARD = """---
license: apache-2.0
base_model:
- org/Base-1B-v2
- https://huggingface.co/org/Other
language: [en, 'de']
tags:
  - chat
  - "text: mine"
datasets: org/texts
pipeline_tag: text-generation
widget:
  - text: nested
    more: things
---
# A card
"""


def test_model_card() -> None:
    found = general("m", {}, {}, front_matter(CARD), 10**9)
    assert found == {
        "general.name": ("string", "M"),
        "general.size_label": ("string", "1000M"),
        "general.license": ("string", "apache-2.0"),
        "general.base_model.count": ("uint32", 2),
        "general.base_model.0.name": ("string", "Base 1B v2"),
        "general.base_model.0.version": ("string", "v2"),
        "general.base_model.0.organization": ("string", "Org"),
        "general.base_model.0.repo_url": ("string", "https://huggingface.co/org/Base-1B-v2"),
        "general.base_model.1.name": ("string", "Other"),
        "general.base_model.1.organization": ("string", "Org"),
        "general.base_model.1.repo_url": ("string", "https://huggingface.co/org/Other"),
        "general.dataset.count": ("uint32", 1),
        "general.dataset.0.name": ("string", "Texts"),
        "general.dataset.0.organization": ("string", "Org"),
        "general.dataset.0.repo_url": ("string", "https://huggingface.co/org/texts"),
        "general.tags": ("array[string]", ["chat", "text-generation"]),
        "general.languages": ("array[string]", ["en", "de"]),
    }
    assert front_matter("# no front matter") == front_matter("") == front_matter("---\nlicense: mit\n") == {}


def test_sampling_values() -> None:
    found = general("m", {}, {"top_k": 20, "temperature": 1, "repetition_penalty": 1.05, "do_sample": True}, {}, 10**9)
    assert list(found.items())[:3] == [
        ("general.sampling.top_k", ("int32", 20)),
        ("general.sampling.temp", ("float32", 1.0)),
        ("general.sampling.penalty_repeat", ("float32", 1.05)),
    ]


@pytest.mark.parametrize("value", ["hot", True, [1], 1e300, float("nan"), 10**400])
def test_sampling_values_that_mean_nothing(value: object) -> None:
    with pytest.raises(
        BadInput, match=rf"generation_config\.json: key temperature: .*float32.*{re.escape(repr(value)[:40])}"
    ):
        general("m", {}, {"temperature": value}, {}, 10**9)
