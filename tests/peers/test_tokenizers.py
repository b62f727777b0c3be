"""Tokenizers of 17 kinds: llama.cpp on the GGUF that we write, transformers on the files that we rebuild from it."""

import ctypes
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantcli.tokenizers.special import FURTHER
from quantcli.tokenizers.write import files
from tests.peers.pinned import peer
from tests.tokenizers.kinds import KINDS, conventions_of, gguf_file, packed, probes, stored

llama_cpp = peer("llama_cpp")
transformers = peer("transformers")

#: Takes llama.cpp's log, and drops it; kept alive here.
SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)


#: A model whose config stands beside the tokenizer -> its model_type, where that is another word.
MODEL_TYPES = {"llama_llama3rope": "llama"}


class Reader:
    """The vocabulary of a GGUF file in llama.cpp."""

    def __init__(self, path: Path) -> None:
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(SILENT, ctypes.c_void_p(0))
        settings = llama_cpp.llama_model_default_params()
        settings.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        assert self.model, f"llama.cpp does not load {path}"
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)

    def __del__(self) -> None:
        if self.model:
            llama_cpp.llama_model_free(self.model)

    def tokens(self, text: str, add_special: bool, parse_special: bool = True) -> list[int]:
        raw = text.encode()
        space = (llama_cpp.llama_token * (len(raw) + 16))()
        count = llama_cpp.llama_tokenize(self.vocabulary, raw, len(raw), space, len(space), add_special, parse_special)
        assert count >= 0
        return list(space[:count])


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_reads_what_we_write(tmp_path: Path, kind: str) -> None:
    """As the file that its own converter wrote, also where it differs from the source's tokenizer."""
    reader = Reader(gguf_file(tmp_path / "model.gguf", kind))
    for probe in probes(kind):
        assert reader.tokens(probe["text"], False) == probe["llama_cpp"], probe
        assert reader.tokens(probe["text"], True) == probe["llama_cpp_with_special"], probe


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_what_we_rebuild(tmp_path: Path, kind: str, own: bool) -> None:
    """As the tokenizers library reads the source's tokenizer.json, beside a model of the kind's own family or none.

    Of qwen2 this version takes its own class whatever tokenizer_config.json says.
    """
    vocabulary = stored(gguf_file(tmp_path / "model.gguf", kind))
    for name, data in files(vocabulary, conventions_of(kind), 4096).files.items():
        (tmp_path / name).write_bytes(data)
    if own:
        case = packed(kind, "gguf_vocab.json.gz")["config_from_case"]
        model_type = MODEL_TYPES.get(case, case)
        (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for probe in probes(kind):
        assert tokenizer.encode(probe["text"], add_special_tokens=False) == probe["tokenizers"], probe
        assert tokenizer.encode(probe["text"]) == probe["tokenizers_with_special"], probe
    assert tokenizer.chat_template == vocabulary.chat_template
    assert tokenizer.eos_token_id == vocabulary.special["eos"]
    assert tokenizer.bos_token_id == vocabulary.special.get("bos")
    assert tokenizer.model_max_length == 4096


@pytest.mark.parametrize("kind", KINDS)
def test_roles_that_transformers_does_not_know_change_no_ids(tmp_path: Path, kind: str) -> None:
    """End of turn and message, fill-in-the-middle: it keeps them as attributes."""
    vocabulary = stored(gguf_file(tmp_path / "model.gguf", kind))
    special = [number for number, type_ in enumerate(vocabulary.types) if type_ == 3]
    roles = {role: special[place % len(special)] for place, role in enumerate(FURTHER)}
    made = files(replace(vocabulary, special={**vocabulary.special, **roles}), conventions_of(kind))
    assert made.warnings == ()
    for name, data in made.files.items():
        (tmp_path / name).write_bytes(data)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for probe in probes(kind):
        assert tokenizer.encode(probe["text"]) == probe["tokenizers_with_special"], probe
    for role, number in roles.items():
        assert tokenizer.convert_tokens_to_ids(getattr(tokenizer, f"{role}_token")) == number
