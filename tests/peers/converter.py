"""llama.cpp's converter on many model folders in one process: `python converter.py SOURCE FOLDERS`.

SOURCE: a folder with llama.cpp's `conversion` and `gguf-py`. FOLDERS: a JSON file, {name: {"folder", "pre", "raw"}}.
Prints {name: {"metadata": {key: [type, value]}, "computed": {tensor: [numbers]}}} as JSON, or {name: {"error": text}}.
pre: the name of the pre-tokenizer, which the converter knows by hashes that tiny vocabularies do not have. raw:
config.json is read as it stands, as the converter does where transformers cannot read it. Optional: write, the file
that is written; then {name: {"computed", "read"}} is printed, where read are the places in the safetensors files,
[file name, offset], whose bytes went into it. plain_tokenizer: tokenizer.json is loaded whatever config.json says, for
model types that transformers does not have. add_bos: the tokenizer is taken for one that starts texts with BOS. no_mtp:
layers for multi-token prediction are left out. gpt2_vocab: the vocabulary is taken from tokenizer.json, for models
whose own tokenizer's code would be asked. ranks: {"file", "special_tokens"}, all that the converter asks of the code of
a tokenizer that keeps its ranks in a file of tiktoken's.

A process of its own, since this gguf-py is another than the one that the other tests of peers import.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock


class Ranks:
    """A tokenizer with ranks, as the classes of Kimi, Hunyuan and Qwen show them."""

    def __init__(self, file: str, special_tokens: dict[str, int]) -> None:
        from tiktoken.load import load_tiktoken_bpe

        self.mergeable_ranks = load_tiktoken_bpe(file)
        self.special_tokens = special_tokens
        self.model = SimpleNamespace(_mergeable_ranks=self.mergeable_ranks)
        self.vocab_size = len(self.mergeable_ranks) + len(special_tokens)

    def get_vocab(self) -> dict[bytes, int]:
        return self.mergeable_ranks


@contextlib.contextmanager
def patched(
    plain_tokenizer: bool = False, add_bos: bool = False, ranks: dict[str, Any] | None = None
) -> Iterator[None]:
    """Transformers with the tokenizer that a folder needs."""
    import transformers
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    def fast(folder: Any, *_: Any, trust_remote_code: bool = False, **further: Any) -> Any:
        return transformers.PreTrainedTokenizerFast.from_pretrained(folder, **further)

    with contextlib.ExitStack() as stack:
        if plain_tokenizer:
            stack.enter_context(mock.patch.object(transformers.AutoTokenizer, "from_pretrained", fast))
        if ranks is not None:
            made = Ranks(**ranks)
            stack.enter_context(mock.patch.object(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: made))
        if add_bos:
            true = property(lambda self: True, lambda self, value: None)
            stack.enter_context(mock.patch.object(TokenizersBackend, "add_bos_token", true))
        yield


def main(source: Path, folders: Path) -> None:
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    import conversion
    import gguf
    from conversion import base

    logging.disable(logging.CRITICAL)
    reader = base.AutoConfig

    class Raw:
        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> None:
            raise RuntimeError("config.json is read as it stands")

    def convert(
        folder: Path,
        pre: str,
        raw: bool,
        write: str | None = None,
        no_mtp: bool = False,
        gpt2_vocab: bool = False,
        **tokenizer: Any,
    ) -> dict[str, Any]:
        base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
        base.AutoConfig = Raw if raw else reader
        with patched(**tokenizer):
            config = base.ModelBase.load_hparams(folder, False)
            kind = conversion.get_model_class(base.get_model_architecture(config, base.ModelType.TEXT))
            kind.no_mtp = no_mtp
            model = kind(folder, gguf.LlamaFileType.MOSTLY_BF16, Path(write or folder / "never-written.gguf"))
            if gpt2_vocab:
                model.set_vocab = model._set_vocab_gpt2
            if write:
                return written(model)
            computed = {name: numbers(tensor) for name, tensor in model.generate_extra_tensors()}
            model.prepare_metadata(vocab_only=False)
        metadata = {
            key: [entry.type.name.lower(), plain(entry.value)] for key, entry in model.gguf_writer.kv_data[0].items()
        }
        return {"metadata": metadata, "computed": computed}

    def written(model: Any) -> dict[str, Any]:
        """Write the file and note the tensors that it computes, and the bytes that it reads: each when it is needed."""
        computed: dict[str, Any] = {}
        read = []
        extra, load = model.generate_extra_tensors, gguf.utility.LocalTensor.mmap_bytes

        def noted() -> Iterator[tuple[str, Any]]:
            for name, tensor in extra():
                computed[name] = numbers(tensor)
                yield name, tensor

        def loaded(tensor: Any) -> Any:
            read.append([Path(tensor.data_range.filename).name, tensor.data_range.offset])
            return load(tensor)

        model.generate_extra_tensors = noted
        with mock.patch.object(gguf.utility.LocalTensor, "mmap_bytes", loaded):
            model.write()
        return {"computed": computed, "read": read}

    def numbers(tensor: Any) -> Any:
        return tensor.float().numpy().tolist()

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) > 4096:
            return len(value)
        return [plain(one) for one in value] if isinstance(value, list | tuple) else value

    found = {}
    for name, one in json.loads(folders.read_text()).items():
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                found[name] = convert(**{**one, "folder": Path(one["folder"])})
            except Exception as error:
                found[name] = {"error": f"{type(error).__name__}: {error}"}
    json.dump(found, sys.stdout, default=lambda value: value.decode("utf-8", "replace"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
