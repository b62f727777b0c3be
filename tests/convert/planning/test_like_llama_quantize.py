"""Options and models for which llama-quantize's own outcome was recorded (llama.cpp as in llama-cpp-python 0.3.36)."""

from pathlib import Path
from typing import Any

import gguf as library
import numpy as np
import pytest

from quantcli.containers import gguf
from quantcli.containers.gguf_values import ArrayValue, Value
from quantcli.errors import NotPossible
from quantcli.recipes.llama_cpp import Facts
from tests.conversions import converted, planned

MATRICES = ("attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up")


def model(path: Path, architecture: str = "llama", layers: int = 2, *, experts: int = 0, **keys: int) -> Path:
    """A model that llama-quantize loads; keys: further ones of its architecture, of uint32."""
    writer = library.GGUFWriter(path, architecture)
    numbers = {"context_length": 64, "embedding_length": 256, "feed_forward_length": 256, "vocab_size": 8}
    numbers |= {"block_count": layers, "attention.head_count": 4, "attention.head_count_kv": 2}
    numbers |= {"expert_count": experts, "expert_used_count": 1} if experts else {}
    for key, number in (numbers | {k.replace("__", "."): v for k, v in keys.items()}).items():
        writer.add_uint32(f"{architecture}.{key}", number)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    if architecture == "graniteswitch":
        writer.add_float32(f"{architecture}.logit_scale", 1.0)
        for key in ("activate", "substitute"):
            writer.add_array(f"{architecture}.adapters.token_ids_{key}", [1])
    writer.add_tensor("token_embd.weight", np.ones((8, 256), np.float32))
    writer.add_tensor("output.weight", np.ones((8, 256), np.float32))
    for layer in range(layers):
        for name in MATRICES:
            stacked = experts and name.startswith("ffn")
            shape = (experts, 4, 256) if stacked else (4, 256)
            writer.add_tensor(f"blk.{layer}.{name}{'_exps' if stacked else ''}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def types(source: Path, scheme: str, **options: Any) -> dict[str, str]:
    plan = planned(source, source.with_name("out.gguf"), scheme=scheme, **options)
    return {step.name.removesuffix(".weight"): step.scheme.name for step in plan.steps}


HEADS, LAYERS = "llama.attention.head_count_kv", "llama.block_count"


@pytest.mark.parametrize(
    ("scheme", "given", "tensor", "expected"),
    [
        ("q2_k", (), "attn_v", "q3_k"),
        ("q2_k", (f"{HEADS}=int:1",), "attn_v", "q4_k"),
        ("q4_k_m", (), "ffn_down", "q4_k"),
        ("q4_k_m", (f"{LAYERS}=int:16",), "ffn_down", "q6_k"),
        ("q4_k_m", (f"{LAYERS}=int:16", f"{LAYERS}=int:2"), "ffn_down", "q6_k"),
    ],
)
def test_overridden_keys_choose_types(
    tmp_path: Path, scheme: str, given: tuple[str, ...], tensor: str, expected: str
) -> None:
    """The loader takes them before anything is chosen: a key's first one."""
    assert types(model(tmp_path / "in.gguf"), scheme, override_kv=given)[f"blk.0.{tensor}"] == expected


def test_overridden_experts_choose_types(tmp_path: Path) -> None:
    source = model(tmp_path / "in.gguf", "qwen3moe", experts=8)
    found = types(source, "q4_k_m", override_kv=("qwen3moe.expert_count=int:4",))
    assert [found[f"blk.1.attn_{name}"] for name in ("k", "v", "output")] == ["q4_k", "q6_k", "q4_k"]


def test_an_override_of_a_key_by_layers_needs_the_key() -> None:
    """`head_count_kv` overrides a number that the file has, neither an array nor nothing."""
    heads = {"general.architecture": Value("string", "llama"), "llama.attention.head_count": Value("uint32", 8)}
    override = {HEADS: Value("uint32", 1)}
    assert Facts.of(heads, overrides=override).kv_heads == 8
    assert Facts.of(heads | {HEADS: Value("uint32", 4)}, overrides=override).kv_heads == 1
    by_layer = {HEADS: Value("array[uint32]", ArrayValue("uint32", 2, np.array([2, 4], "<u4").tobytes()))}
    assert Facts.of(heads | by_layer, overrides=override).kv_heads == 2
    experts = {"llama.expert_count": Value("uint32", 4)}
    assert Facts.of(heads, overrides=experts).experts == 4


def test_the_architecture_is_overridden_too() -> None:
    stored = {f"{name}.block_count": Value("uint32", n) for name, n in (("llama", 2), ("falcon", 3))}
    stored["general.architecture"] = Value("string", "llama")
    facts = Facts.of(stored, overrides={"general.architecture": Value("string", "falcon")})
    assert (facts.architecture, facts.block_count) == ("falcon", 3)


def test_pruned_layers_are_counted_last(tmp_path: Path) -> None:
    """The number of layers that are left stands after all overrides, and is stronger than one of the same key."""
    source, output = model(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    converted(source, output, scheme="q4_0", prune_layers="1", override_kv=(f"{LAYERS}=int:16", "a.b=int:1"))
    found = gguf.read(output).metadata
    assert list(found)[-2:] == ["a.b", LAYERS] and found[LAYERS] == ("uint32", 1)


@pytest.mark.parametrize(
    ("architecture", "layers", "keys", "scheme", "better"),
    [
        ("nanbeige", 9, {"num_loops": 1}, "q4_k_m", {0, 3, 6, 7, 8}),
        ("nanbeige", 9, {"num_loops": 3}, "q4_k_m", {0, 1, 2, 5, 8}),
        ("nanbeige", 9, {"num_loops": 3, "nextn_predict_layers": 1}, "q4_k_m", {0, 1, 2, 5, 8}),
        ("nanbeige", 9, {"num_loops": 3}, "q4_k_s", {0, 1, 2}),
        ("graniteswitch", 15, {"adapters__count": 1, "adapters__lora_rank": 1}, "q4_k_m", {0, 1, 4, 7, 10, 13, 14}),
        ("graniteswitch", 15, {"adapters__count": 1, "adapters__lora_rank": 1}, "q4_k_s", {0, 1}),
    ],
)
def test_architectures_with_layers_of_their_own_count(
    tmp_path: Path, architecture: str, layers: int, keys: dict[str, int], scheme: str, better: set[int]
) -> None:
    """The layers whose ffn_down gets more bits: as many as there are when the model runs count, not those stored."""
    found = types(model(tmp_path / "in.gguf", architecture, layers, **keys), scheme)
    assert {layer for layer in range(layers) if found[f"blk.{layer}.ffn_down"] != "q4_k"} == better


def test_clip_has_no_numbers(tmp_path: Path) -> None:
    """Neither layers nor experts: all of its ffn_down are within the last eighth of none."""
    found = types(model(tmp_path / "in.gguf", "clip", 4, experts=8), "q4_k_m")
    assert {found[f"blk.{layer}.ffn_down_exps"] for layer in range(4)} == {"q6_k"}
    assert [found[f"blk.0.attn_{name}"] for name in ("k", "v", "output")] == ["q4_k", "q4_k", "q4_k"]


def test_an_option_without_effect_is_a_warning(tmp_path: Path) -> None:
    source, options = model(tmp_path / "in.gguf"), {"scheme": "f16", "tensor_types": ("attn_v=q8_0",)}
    said = "--tensor-type attn_v=q8_0 has no effect: f16 quantizes nothing."
    assert planned(source, tmp_path / "out.gguf", **options).warnings == (said,)
    with pytest.raises(NotPossible, match="--strict: --tensor-type attn_v=q8_0 has no effect"):
        planned(source, tmp_path / "out.gguf", strict=True, **options)
