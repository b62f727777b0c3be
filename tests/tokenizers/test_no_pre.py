"""A GGUF file without `tokenizer.ggml.pre`: llama.cpp logs it and cuts text by its default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import tiny_llama
from tests.conversions import converted
from tests.gguf_files import load, save

PRE = "tokenizer.ggml.pre"


def made(root: Path, pre: tuple[str, Any] | None) -> Path:
    converted(tiny_llama(root / "m"), root / "own.gguf")
    keys, tensors = load(root / "own.gguf")
    keys.pop(PRE)
    return save(root / "in.gguf", keys if pre is None else keys | {PRE: pre}, tensors)


def said(report: dict[str, Any]) -> list[str]:
    return [warning for warning in report["warnings"] if PRE in warning]


@pytest.mark.parametrize("pre", [None, ("string", "")])
@pytest.mark.parametrize("output", ["out.gguf", "out"])
def test_a_missing_pre_tokenizer_is_a_warning(output: str, pre: tuple[str, Any] | None, tmp_path: Path) -> None:
    (warning,) = said(converted(made(tmp_path, pre), tmp_path / output))
    assert "`default`" in warning


@pytest.mark.parametrize("pre", ["default", "llama-bpe"])
def test_a_named_one_is_none(pre: str, tmp_path: Path) -> None:
    source = made(tmp_path, ("string", pre))
    assert said(converted(source, tmp_path / "out.gguf")) == said(converted(source, tmp_path / "out")) == []


def test_the_option_sets_it(tmp_path: Path) -> None:
    source = made(tmp_path, None)
    report = converted(source, tmp_path / "out.gguf", override_kv=(f"{PRE}=str:qwen2",))
    assert said(report) == []
    assert load(tmp_path / "out.gguf")[0][PRE] == ("string", "qwen2")


def test_other_vocabularies_have_no_choice(tmp_path: Path) -> None:
    source = made(tmp_path, None)
    keys, tensors = load(source)
    count = keys["tokenizer.ggml.tokens"][1].length
    keys |= {"tokenizer.ggml.model": ("string", "llama"), "tokenizer.ggml.scores": ("array[float32]", (0.0,) * count)}
    save(tmp_path / "spm.gguf", keys, tensors)
    assert said(converted(tmp_path / "spm.gguf", tmp_path / "out.gguf")) == []
