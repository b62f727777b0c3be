"""Models for the server of `hub_server`: what their repositories hold, and what of it is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantcli.sources.hub import HubId
from tests.hub_server import Blob, blob

MODEL = HubId("org/model")
INDEX = "model.safetensors.index.json"


def shard(name: str, size: int, count: int = 1) -> bytes:
    """The start of a safetensors file of `size` bytes with `count` tensors: all but the data."""
    header: dict[str, Any] = {}
    length = 0
    for _ in range(3):  # the header's length depends on the offsets that depend on it
        room = size - 8 - length
        ends = [room * (i + 1) // count for i in range(count)]
        header = {
            f"{name}.{i}": {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
            for i, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))
        }
        text = json.dumps(header)
        length = length or len(text) + 200
    return length.to_bytes(8, "little") + text.encode().ljust(length)


def whole(name: str, size: int = 2000) -> Blob:
    return blob(shard(name, size).ljust(size, b"\0"), large=True)


def index(**tensors: str) -> Blob:
    return blob(json.dumps({"metadata": {}, "weight_map": tensors}).encode())


def two_shards() -> dict[str, Blob]:
    a, b = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    return {
        ".gitattributes": blob(b"*.safetensors filter=lfs"),
        "README.md": blob(b"# model"),
        "config.json": blob(b'{"model_type": "llama"}'),
        "generation_config.json": blob(b"{}"),
        "tokenizer.json": blob(b'{"model": {}}', large=True),
        "tokenizer_config.json": blob(b'{"chat_template": ""}'),
        "chat_template.jinja": blob(b"{{ messages }}"),
        "additional_chat_templates/tool_use.jinja": blob(b"{{ tools }}"),
        INDEX: index(**{"a.0": a, "b.0": b}),
        a: whole("a"),
        b: whole("b"),
        "consolidated.safetensors": whole("c"),
        "pytorch_model.bin": blob(b"\x80\x02pickle", large=True),
        "original/consolidated.00.pth": blob(b"\x80\x02pickle", large=True),
        "onnx/model.onnx": blob(b"onnx", large=True),
    }


NEEDED = {
    ".gitattributes", "README.md", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja", INDEX,
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
}  # fmt: skip


def stored(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
