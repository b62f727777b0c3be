"""Writes cases of tests/data/arch: a tiny model of a family, and what llama.cpp's converter makes of it.

    python -m tests.peers.make_arch NAME ...                a row of the tables in tests/peers/arch_table.py
    python -m tests.peers.make_arch FOLDER ...              a folder of reference data, ../shared/fixtures/arch2/NAME,
                                                            or a case as it stands: tests/data/arch/NAME
    python -m tests.peers.make_arch --into /tmp/cases ...   another place than tests/data/arch
    python -m tests.peers.make_arch --check NAME ...        write nothing, and say what a written case would change
    python -m tests.peers.make_arch --no-mtp FOLDER ...     as convert_hf_to_gguf.py --no-mtp, which a model needs whose
                                                            layers for multi-token prediction are not there

Run from the top of the checkout with .venv-peers (transformers 5.23.0, and in build/peers the source package of
llama-cpp-python 0.3.36, which `make peers` fetches), or `make arch-cases CASES="NAME ..."`. A row needs a class in
transformers or a list of tensors; a folder needs its config.json, case.json and the header of its model.safetensors.

A case is a folder with
    config.json, generation_config.json   as published
    config-v5.json                        as transformers 5 saves it, where that differs
    config-minimal.json                   without what the class in transformers assumes anyway, where that differs
    reference.json                        tokenizer, pre-tokenizer, options of converter.py that the model needs;
                                          the file's metadata (but the vocabulary's arrays),
                                          types and shapes of its tensors, values of those that the converter computes
    tensors.json                          source: name -> dtype, shape; files: how many hold them, where not one;
                                          prefixes: of a text model in one with towers, those of tests/prefixes.py
                                          under which the converter makes the same file;
                                          dropped: those that the converter does not read; gguf: name -> type, shape,
                                          SHA-256. A tensor's values follow from its name (`contents`)
Shapes are rows first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.convert.test_golden_arch import DATA, write_tensors
from tests.peers.arch_checkpoint import Checkpoint, from_folder, from_table, minimal
from tests.peers.arch_table import ROWS
from tests.peers.pinned import llama_cpp_source
from tests.prefixes import PREFIXES

#: Metadata that other data hold: tests/data/tokenizers has the vocabularies.
VOCABULARY = (
    "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores", "tokenizer.ggml.merges",
    "tokenizer.chat_template",
)  # fmt: skip


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """The model as the converter takes it: settings, weights, tokenizer."""
    folder.mkdir(parents=True)
    for name in ("config.json", "generation_config.json"):
        if name in checkpoint.configs:
            (folder / name).write_text(json.dumps(checkpoint.configs[name]))
    write_tensors(folder, checkpoint.tensors, checkpoint.files, checkpoint.values_of)
    for file in checkpoint.tokenizer.iterdir():
        if file.suffix != ".gz":
            shutil.copy(file, folder)


def placed(root: Path, name: str) -> Path:
    """The folder of a model, whose name gets into the file: under another prefix it is the same."""
    return root / name / name.partition("@")[0]


def convert(root: Path, checkpoints: Mapping[str, Checkpoint]) -> dict[str, dict[str, Any]]:
    """What converter.py says of each model, whose folder is `placed`, and the file root/NAME.gguf."""
    jobs = {}
    for name, one in checkpoints.items():
        write_checkpoint(placed(root, name), one)
        jobs[name] = {"folder": str(placed(root, name)), "pre": one.pre, "write": str(root / f"{name}.gguf")}
        jobs[name] |= {"raw": False, **one.converter}
    (root / "jobs.json").write_text(json.dumps(jobs))
    worker = Path(__file__).with_name("converter.py")
    source = llama_cpp_source(root / "source")
    done = subprocess.run(
        [sys.executable, str(worker), str(source), str(root / "jobs.json")],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    said: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return said


def metadata(file: gguf.GGUFReader) -> dict[str, list[Any]]:
    """Key -> type, value, in the order of the file."""
    found = {}
    for key, field in file.fields.items():
        if not key.startswith("GGUF."):
            kinds = [kind.name for kind in field.types]
            found[key] = [":".join((kinds[0], *kinds[-1:])) if len(kinds) > 1 else kinds[0], field.contents()]
    return found


def tensors(file: gguf.GGUFReader) -> dict[str, list[Any]]:
    """Name -> type, shape, SHA-256, in the order of the file."""
    return {
        one.name: [
            one.tensor_type.name,
            [int(size) for size in reversed(one.shape)],
            hashlib.sha256(np.ascontiguousarray(one.data).tobytes()).hexdigest(),
        ]
        for one in file.tensors
    }


def unread(folder: Path, read: list[list[Any]]) -> list[str]:
    """The tensors of a folder of which the converter did not load the bytes."""
    places = {(name, offset) for name, offset in read}
    names = []
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        names += [
            name
            for name, one in header.items()
            if name != "__metadata__" and (path.name, 8 + size + one["data_offsets"][0]) not in places
        ]
    return sorted(names)


def files_of(
    checkpoint: Checkpoint, folder: Path, path: Path, said: Mapping[str, Any], prefixes: list[str]
) -> dict[str, str]:
    """The files of a case: name -> text. folder: the model; path: the converter's file."""
    file = gguf.GGUFReader(path)
    made = tensors(file)
    reference = {
        "tokenizer": checkpoint.tokenizer.name,
        "tokenizer_pre": checkpoint.pre,
        **({"converter": dict(checkpoint.converter)} if checkpoint.converter else {}),
        "metadata": {key: one for key, one in metadata(file).items() if key not in VOCABULARY},
        "tensors": {name: one[:2] for name, one in made.items()},
        "values": said["computed"],
    }
    stated = {"source": checkpoint.tensors} | ({"files": checkpoint.files} if checkpoint.files > 1 else {})
    stated |= {"prefixes": prefixes} if checkpoint.is_nested else {}
    stated |= {"dropped": unread(folder, said["read"]), "gguf": made}
    configs = {**checkpoint.configs, "config-minimal.json": minimal(checkpoint.configs["config.json"])}
    if configs["config-minimal.json"] == configs["config.json"]:
        del configs["config-minimal.json"]
    texts = {name: json.dumps(config, indent=1) + "\n" for name, config in configs.items()}
    return {**texts, "reference.json": "\n".join(lines(reference, " ")), "tensors.json": "\n".join(lines(stated, ""))}


def made(root: Path, checkpoints: Mapping[str, Checkpoint]) -> Iterator[tuple[str, dict[str, str]]]:
    """The name of each case, and its files; "error" where the converter refuses the model."""
    others = {
        f"{name}@{prefix}": one.under(prefix)
        for name, one in checkpoints.items()
        if one.is_nested
        for prefix in PREFIXES
    }
    told = convert(root, {**checkpoints, **others})
    for name, checkpoint in checkpoints.items():
        if "error" in told[name]:
            yield name, {"error": told[name]["error"]}
        else:
            path = root / f"{name}.gguf"
            prefixes = [one for one in PREFIXES if checkpoint.is_nested and is_same(root, name, one, told)]
            yield name, files_of(checkpoint, placed(root, name), path, told[name], prefixes)


def is_same(root: Path, name: str, prefix: str, told: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the converter makes the same of a model under another prefix."""
    other = f"{name}@{prefix}"
    one, two = (
        (gguf.GGUFReader(root / f"{which}.gguf") for which in (name, other))
        if "error" not in told[other]
        else (None, None)
    )
    return one is not None and two is not None and (tensors(one), metadata(one)) == (tensors(two), metadata(two))


def lines(value: Mapping[str, Any], indent: str) -> Iterator[str]:
    """JSON with a line for each entry of the objects in an object."""
    yield "{"
    for i, (key, one) in enumerate(value.items()):
        comma = "," if i + 1 < len(value) else ""
        if isinstance(one, dict) and key not in ("converter", "values"):
            yield f"{indent}{json.dumps(key)}: {{"
            entries = [f"{2 * indent}{json.dumps(name)}: {json.dumps(entry)}" for name, entry in one.items()]
            yield ",\n".join(entries)
            yield f"{indent}}}{comma}"
        else:
            yield f"{indent}{json.dumps(key)}: {json.dumps(one)}{comma}"
    yield "}\n"


def differences(folder: Path, texts: Mapping[str, str]) -> Iterator[str]:
    """What a written case would change."""
    for name in sorted({*texts, *(file.name for file in folder.glob("*.json"))}):
        old = (folder / name).read_text() if (folder / name).is_file() else None
        if old == texts.get(name):
            yield f"{name}: the same"
        elif old is None or name not in texts:
            yield f"{name}: {'new' if old is None else 'no longer there'}"
        else:
            yield from (f"{name}: {text}" for text in changes(json.loads(old), json.loads(texts[name])))


def changes(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """What differs between two values of JSON; that the text alone does is said, too."""
    if isinstance(old, dict) and isinstance(new, dict) and old != new:
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                yield from changes(old.get(key), new.get(key), f"{where}/{key}")
    else:
        yield f"{where}: {old!r:.100} is now {new!r:.100}" if old != new else "spelled otherwise"


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--into", type=Path, default=DATA / "arch")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--no-mtp", action="store_true")
    asked = parser.parse_args()
    checkpoints = {
        Path(one).name: from_folder(Path(one)) if Path(one).is_dir() else from_table(ROWS[one]) for one in asked.cases
    }
    if asked.no_mtp:
        checkpoints = {
            name: replace(one, converter={**one.converter, "no_mtp": True}) for name, one in checkpoints.items()
        }
    with tempfile.TemporaryDirectory() as root:
        for name, texts in made(Path(root), checkpoints):
            if "error" in texts:
                print(f"{name}: {texts['error']}", file=sys.stderr)
                continue
            for text in differences(asked.into / name, texts):
                print(f"{name}/{text}")
            if not asked.check:
                (asked.into / name).mkdir(parents=True, exist_ok=True)
                for old in (asked.into / name).glob("*.json"):
                    old.unlink()
                for file, text in texts.items():
                    (asked.into / name / file).write_text(text)


if __name__ == "__main__":
    main()
