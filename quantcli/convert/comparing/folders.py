"""Differences between the files of two model folders, other than tensors.

config.json is compared under all spellings of its settings, other JSON files key by key, all other files byte by byte.
The tokenizer's files belong to `compare_tokenizers`. What does not describe the model is listed and not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from quantcli import models
from quantcli.checkpoint import Checkpoint
from quantcli.containers.json_text import MAX_BYTES, load_object
from quantcli.convert.comparing.spellings import Spelled
from quantcli.convert.comparing.tokenizer_files import JSON_FILES, OTHERS
from quantcli.convert.comparing.values import (
    ABSENT,
    FieldDifference,
    Found,
    NotCompared,
    at_most,
    contents,
    json_differences,
    json_equal,
    plain,
)
from quantcli.errors import BadInput
from quantcli.models import Architecture
from quantcli.recipes.mlx_config import spelled_out
from quantcli.recipes.quantizers import STORAGE_WORDS, STORED_UNDER
from quantcli.sources.folder import CONFIG, LocalFolder
from quantcli.sources.tensor_files import INDEX, PICKLES
from quantcli.targets.model import Model
from quantcli.tokenizers.files import Files
from quantcli.tokenizers.listed import GENERATION

#: Keys of any JSON object that do not describe the model.
UNCOUNTED = ("transformers_version", "_name_or_path", "use_cache")
#: Keys that describe how weights are stored: folders of two kinds differ in them.
STORAGE = (*STORED_UNDER, *STORAGE_WORDS)

#: Files of the tokenizer, which `compare_tokenizers` compares.
TOKENIZER = (*JSON_FILES, *OTHERS)
#: Files for people: suffixes, and how names start.
DOCUMENTS = (".md", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf")
PAPERS = ("LICENSE", "NOTICE", ".gitattributes", ".gitignore", "USE_POLICY", "quant_report.json")
#: Suffixes of files that hold tensors.
TENSORS = (".safetensors", ".gguf", ".h5", ".msgpack", ".onnx", ".npz", *PICKLES)

#: Why a file of one side is not compared.
NO_FILE = "the other model has no such file"

#: The keys that transformers takes from config.json if there is no generation_config.json.
FROM_CONFIG = ("bos_token_id", "eos_token_id", "pad_token_id")


def compare_folders(a: Checkpoint, b: Checkpoint) -> Found:
    """Compare all files except tensors and tokenizers. Raises `BadInput` for a malformed config.json."""
    found = Found()
    _add(found, _configs(a, b, found), CONFIG)
    _add(found, _generation(a, b), GENERATION, prefix=f"{GENERATION}: ")
    _files(a, b, found)
    return found


def _add(found: Found, differences: Iterator[FieldDifference], where: str, prefix: str = "") -> None:
    """Add differences, those that do not count separately."""
    counted: list[FieldDifference] = []
    for one in differences:
        named = FieldDifference(f"{prefix}{one.key}", one.a, one.b)
        (found.uncounted if one.key.rpartition(".")[2] in UNCOUNTED else counted).append(named)
    found.fields += at_most(counted, where)


def _configs(a: Checkpoint, b: Checkpoint, found: Found) -> Iterator[FieldDifference]:
    """Yield the differences of config.json, by its keys."""
    if bool(a.config_json) is not bool(b.config_json):
        side = "A" if a.config_json else "B"
        keys = tuple(a.config_json or b.config_json)
        found.not_compared.append(NotCompared(side, CONFIG, keys, "the other model has no config.json"))
        return
    ours, theirs = (Spelled.of(s.config_json, _of_whole(s), f"{s.root}/{CONFIG}") for s in (a, b))
    for key in {**a.config_json, **b.config_json}:
        both = ours.value(key, theirs), theirs.value(key, ours)
        if key in STORED_UNDER and a.kind == b.kind == "mlx":
            both = spelled_out(both[0]), spelled_out(both[1])
        differences = list(json_differences(*both, key))
        storage = [one for one in differences if a.kind != b.kind and set(STORAGE).intersection(one.key.split("."))]
        found.uncounted += at_most(storage, key)
        if not differences and not json_equal(*(s.config_json.get(key, ABSENT) for s in (a, b))):
            written = (plain(s.config_json.get(key)) for s in (a, b))
            found.uncounted.append(FieldDifference(key, *written))  # spelled differently, or a default of the class
        yield from (one for one in differences if one not in storage)


def _of_whole(source: Checkpoint) -> Architecture | None:
    """Return the architecture that config.json describes; None if the text model is only a part of it."""
    return Model.of(source).architecture if models.multimodal(source.config_json) is None else None


def _generation(a: Checkpoint, b: Checkpoint) -> Iterator[FieldDifference]:
    """Yield the differences of generation_config.json; without one, config.json's keys count."""
    if not any(Files(source.root).has(GENERATION) for source in (a, b)):
        return iter(())
    return json_differences(_generation_config(a), _generation_config(b))


def _generation_config(source: Checkpoint) -> Mapping[str, Any]:
    files = Files(source.root)
    if files.has(GENERATION):
        return files.json(GENERATION)
    return {key: source.config[key] for key in FROM_CONFIG if source.config.get(key) is not None}


def _files(a: Checkpoint, b: Checkpoint, found: Found) -> None:
    """Compare all other files that both folders have; name those that one lacks or that are not read."""
    ours, theirs = (_others(source) for source in (a, b))
    for name in [name for name in ours if name in theirs and _is_read(name, a) and _is_read(name, b)]:
        differences = _one_file(name, Files(a.root), Files(b.root))
        if _is_paper(name):
            found.uncounted += [replace(d, key=f"{plain(name)}: {d.key}") for d in at_most(differences, plain(name))]
        else:
            _add(found, differences, name, prefix=f"{plain(name)}: ")
    for side, own, other in (("A", ours, theirs), ("B", theirs, ours)):
        unread = tuple(name for name in own if not _is_read(name, a if side == "A" else b))
        lone = tuple(n for n in own if n not in other and n not in unread and not _is_paper(n))
        for names, reason in ((lone, NO_FILE), (unread, "not read")):
            if names:
                found.not_compared.append(NotCompared(side, "files", tuple(map(plain, names)), reason))


def _is_read(name: str, source: Checkpoint) -> bool:
    """Return whether the contents of a file are compared: it holds no tensors and is small enough."""
    return not name.endswith(TENSORS) and (source.root / name).stat().st_size <= MAX_BYTES


def _others(source: Checkpoint) -> dict[str, None]:
    """List a folder's files except tensors that were read, the tokenizer's files, and those compared already."""
    used = {path.name for path in source.files} | {CONFIG, GENERATION, INDEX, *TOKENIZER}
    names = LocalFolder(source.root).names()
    return {name: None for name in names if name not in used and PurePosixPath(name).suffix != ".jinja"}


def others(source: Checkpoint) -> list[str]:
    """List the files of a folder except config files, tensors, the tokenizer's files, and documents."""
    return [name for name in _others(source) if not _is_paper(name)]


def _is_paper(name: str) -> bool:
    return name.lower().endswith(DOCUMENTS) or PurePosixPath(name).name.startswith(PAPERS)


def _one_file(name: str, a: Files, b: Files) -> Iterator[FieldDifference]:
    """Compare two files of one name: JSON objects by key, others by their bytes."""
    ours, theirs = a.bytes(name), b.bytes(name)
    if ours == theirs:
        return iter(())
    first, second = (_object(data, name) for data in (ours, theirs))
    if first is None or second is None:
        return iter(contents(ours, theirs))
    return json_differences(first, second)


def _object(data: bytes, name: str) -> dict[str, Any] | None:
    """Return the object of a JSON file; None for anything else, which is compared by its bytes."""
    try:
        return load_object(data, name) if name.endswith(".json") else None
    except BadInput:
        return None
