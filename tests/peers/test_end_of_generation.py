"""The tokens at which llama.cpp ends an answer are those at which a folder made of a GGUF file does."""

import ctypes
from pathlib import Path

import pytest

from tests.builders import tiny_llama
from tests.conversions import converted
from tests.peers.pinned import peer
from tests.tokenizers import kinds, tiny
from tests.tokenizers.test_ends import CASES, ours

llama_cpp = peer("llama_cpp")

#: Takes llama.cpp's log, and drops it; kept alive here.
SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)

#: Attributes of tokens that are matched in a text before it is split: unknown, control, user defined.
MATCHED = 1 | 8 | 16


def theirs(path: Path) -> tuple[set[int], set[int]]:
    """The ids at which llama.cpp ends an answer, and those that it matches whole in a text."""
    llama_cpp.llama_backend_init()
    llama_cpp.llama_log_set(SILENT, ctypes.c_void_p(0))
    settings = llama_cpp.llama_model_default_params()
    settings.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
    assert model, f"llama.cpp does not load {path}"
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    count = llama_cpp.llama_vocab_n_tokens(vocabulary)
    ends = {number for number in range(count) if llama_cpp.llama_vocab_is_eog(vocabulary, number)}
    matched = {n for n in range(count) if llama_cpp.llama_vocab_get_attr(vocabulary, n) & MATCHED}
    llama_cpp.llama_model_free(model)
    return ends, matched


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_the_end_of_generation_sets_of_all_kinds_are_equal(tmp_path: Path, kind: str) -> None:
    path = kinds.gguf_file(tmp_path / "a.gguf", kind)
    assert ours(kinds.stored(path)) == theirs(path)
    assert theirs(path)[0]


@pytest.mark.parametrize("model", tiny.START)
def test_the_committed_sets_are_llama_cpps(tmp_path: Path, model: str) -> None:
    """Those that tests/tokenizers/test_ends.py holds our sets to."""
    for name, texts, types, special, ends, matched in CASES:
        if name == model:
            path = tiny.gguf_file(tmp_path / "a.gguf", model, texts, types, special)
            assert theirs(path) == (set(ends), set(matched)), (texts, types, special)


def test_llama_cpp_stops_at_the_ends_that_a_folder_lists(tmp_path: Path) -> None:
    """Those of both files, up to as many as GGUF has keys for; 94 is known by its text."""
    root = tiny_llama(tmp_path / "a", eos_token_id=[94, 8])
    (root / "generation_config.json").write_text('{"eos_token_id": [94, 7, 9]}')
    converted(root, tmp_path / "a.gguf", to="gguf")
    assert theirs(tmp_path / "a.gguf")[0] == {94, 7, 9}
    (root / "tokenizer_config.json").write_text('{"bos_token": "<|begin|>"}')
    (root / "generation_config.json").write_text('{"eos_token_id": [7, 94, 9]}')
    converted(root, tmp_path / "b.gguf", to="gguf")
    assert theirs(tmp_path / "b.gguf")[0] == {94, 7, 8, 9}
