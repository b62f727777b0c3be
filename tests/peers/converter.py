"""llama.cpp's converter on many model folders in one process: `python converter.py SOURCE FOLDERS`.

SOURCE: a folder with llama.cpp's `conversion` and `gguf-py`. FOLDERS: a JSON file, {name: {"folder", "pre", "raw"}},
with "write" the file that is to be written.
Prints {name: {"metadata": {key: [type, value]}, "computed": {tensor: [numbers]}}} as JSON, or {name: {"error": text}}.
pre: the name of the pre-tokenizer, which the converter knows by hashes that tiny vocabularies do not have. raw:
config.json is read as it stands, as the converter does where transformers cannot read it.

A process of its own, since this gguf-py is another than the one that the other tests of peers import.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from pathlib import Path
from typing import Any


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

    def convert(folder: Path, pre: str, raw: bool, write: str | None) -> dict[str, Any]:
        base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
        base.AutoConfig = Raw if raw else reader
        read = base.ModelBase.load_hparams(folder, False)
        kind = conversion.get_model_class(base.get_model_architecture(read, base.ModelType.TEXT))
        model = kind(folder, gguf.LlamaFileType.MOSTLY_BF16, Path(write or folder / "never-written.gguf"))
        if write:
            model.write()
            return {}
        computed = {name: tensor.float().numpy().tolist() for name, tensor in model.generate_extra_tensors()}
        model.prepare_metadata(vocab_only=False)
        written = model.gguf_writer.kv_data[0]
        metadata = {key: [entry.type.name.lower(), plain(entry.value)] for key, entry in written.items()}
        return {"metadata": metadata, "computed": computed}

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) > 4096:
            return len(value)
        return [plain(one) for one in value] if isinstance(value, list | tuple) else value

    found = {}
    for name, one in json.loads(folders.read_text()).items():
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                found[name] = convert(Path(one["folder"]), one["pre"], one["raw"], one.get("write"))
            except Exception as error:
                found[name] = {"error": f"{type(error).__name__}: {error}"}
    json.dump(found, sys.stdout, default=lambda value: value.decode("utf-8", "replace"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
