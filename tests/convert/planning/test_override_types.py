"""Values of `--override-kv` are held to the types of their keys; schemes for files that are no models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.containers import gguf
from quantcli.errors import NotPossible, WrongUsage
from tests.builders import tiny_llama
from tests.conversions import converted, planned
from tests.gguf_files import of_values, save

KEYS: dict[str, tuple[str, Any]] = {
    "general.architecture": ("string", "llama"), "llama.block_count": ("uint32", 1), "a.u8": ("uint8", 1),
    "a.i8": ("int8", -1), "a.u16": ("uint16", 1), "a.i32": ("int32", -1), "a.u64": ("uint64", 2**40),
    "a.i64": ("int64", -(2**40)), "a.float": ("float32", 0.5), "a.flag": ("bool", True), "a.text": ("string", "x"),
    "a.list": ("array[int32]", [1, 2]), "llama.feed_forward_length": ("array[int32]", [8, 9]),
}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(tmp_path / "in.gguf", KEYS, {"token_embd.weight": of_values(np.ones((2, 32)))})


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("a.u8=int:255", ("uint8", 255)),
        ("a.i8=int:-128", ("int8", -128)),
        ("a.i32=int:-7", ("int32", -7)),
        ("a.i32=int:7", ("int32", 7)),
        ("a.u64=int:18446744073709551615", ("uint64", 2**64 - 1)),
        ("a.i64=int:-9223372036854775808", ("int64", -(2**63))),
        ("a.float=float:1", ("float32", 1.0)),
        ("a.text=str:-1", ("string", "-1")),
        ("llama.block_count=int:4294967295", ("uint32", 2**32 - 1)),
        ("llama.feed_forward_length=int:16", ("uint32", 16)),
        ("new.key=int:7", ("uint32", 7)),
        ("general.sampling.top_k=int:-1", ("int32", -1)),
        ("llama.context_length=int:0", ("uint32", 0)),
        ("tokenizer.ggml.eot_token_id=int:3", ("uint32", 3)),
        ("tokenizer.ggml.add_bos_token=bool:false", ("bool", False)),
    ],
)
def test_a_known_key_keeps_its_type(source: Path, tmp_path: Path, given: str, written: tuple[str, Any]) -> None:
    assert converted(source, tmp_path / "out.gguf", override_kv=(given,))["verified"]
    assert gguf.read(tmp_path / "out.gguf").metadata[given.partition("=")[0]] == written


@pytest.mark.parametrize(
    "given",
    ["a.u8=int:256", "a.u8=int:-1", "a.i8=int:128", "a.u16=int:65536", "a.i32=int:2147483648", "a.u64=int:-1",
     "a.i64=int:9223372036854775808", "llama.block_count=int:-1", "llama.block_count=int:4294967296",
     "llama.block_count=float:1", "llama.block_count=str:1", "llama.block_count=bool:true", "a.float=int:1",
     "a.flag=int:1", "a.flag=str:true", "a.text=int:1", "a.text=bool:true", "a.list=int:1", "a.list=str:1",
     "llama.feed_forward_length=int:-1", "llama.feed_forward_length=str:1",
     "new.key=int:4294967296", "new.key=int:-4294967296", "general.author=int:3", "general.sampling.top_k=float:1",
     "mystery.context_length=str:x", "mystery.attention.causal=int:1",
     "general.architecture=int:3", "general.name=int:3", "llama.rope.freq_base=int:10000",
     "llama.context_length=float:8", "tokenizer.ggml.eot_token_id=int:-1", "tokenizer.ggml.add_bos_token=int:1",
     "tokenizer.chat_template=bool:true"],
)  # fmt: skip
def test_a_value_that_does_not_fit_its_key_is_refused(source: Path, tmp_path: Path, given: str) -> None:
    with pytest.raises(WrongUsage, match=given.partition("=")[0]):
        planned(source, tmp_path / "out.gguf", override_kv=(given,))


def test_a_negative_number_for_a_new_key_is_a_warning(source: Path, tmp_path: Path) -> None:
    """llama-quantize writes its magnitude; --strict refuses it."""
    report = converted(source, tmp_path / "out.gguf", override_kv=("new.key=int:-7",))
    assert gguf.read(tmp_path / "out.gguf").metadata["new.key"] == ("uint32", 7)
    assert len(report["warnings"]) == 1 and "new.key" in report["warnings"][0]
    with pytest.raises(NotPossible, match=r"new\.key"):
        planned(source, tmp_path / "no.gguf", override_kv=("new.key=int:-7",), strict=True)


def test_keys_of_a_file_from_a_folder_have_their_types_too(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "llama")
    converted(folder, tmp_path / "out.gguf", override_kv=("llama.context_length=int:99", "general.name=str:mine"))
    found = gguf.read(tmp_path / "out.gguf").metadata
    assert found["llama.context_length"] == ("uint32", 99) and found["general.name"] == ("string", "mine")
    for given in ("llama.context_length=int:-1", "llama.rope.freq_base=int:1", "tokenizer.ggml.tokens=str:x"):
        with pytest.raises(WrongUsage, match=given.partition("=")[0]):
            planned(folder, tmp_path / "no.gguf", override_kv=(given,))


@pytest.mark.parametrize(
    "keys",
    [
        {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"},
        {"general.architecture": "controlvector"},
    ],
)
def test_an_adapter_is_only_copied(tmp_path: Path, keys: dict[str, str]) -> None:
    typed: dict[str, tuple[str, Any]] = {key: ("string", value) for key, value in keys.items()}
    tensors = {"blk.0.attn_q.weight.lora_a": of_values(np.ones((4, 32))), "direction.1": of_values(np.ones(32))}
    file = save(tmp_path / "in.gguf", typed | {"general.file_type": ("uint32", 0)}, tensors)
    for scheme in ("q8_0", "q4_k_m", "f16", "iq2_xs"):
        with pytest.raises(NotPossible, match=f"--scheme {scheme}: .*(adapter|control vector)"):
            planned(file, tmp_path / "no.gguf", scheme=scheme)
    for i, options in enumerate(({}, {"scheme": "keep"}, {"scheme": "copy"})):
        converted(file, tmp_path / f"{i}.gguf", **options)
        assert gguf.read(tmp_path / f"{i}.gguf").metadata["general.file_type"] == ("uint32", 0)
