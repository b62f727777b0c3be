"""What the families of models are tested against, and docs/families.md: `make families` writes both anew.

The cases are those of tests/data/arch, each of the family that its config.json is of. Sizes of published models for
llama-quantize's dry runs are those of tests/data/recipes and tests/peers, models for logits those of tests/peers.
"""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantcli import models
from quantcli.containers.gguf_values import Value
from quantcli.convert.inspecting.architectures import TESTED, Family, Tested, families

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "families.md"
CASES = ROOT / "tests" / "data" / "arch"
#: Types and presets of llama-quantize's dry runs: data; models by family.
POLICY = ROOT / "tests" / "data" / "recipes" / "policy.json.gz"
PUBLISHED = (ROOT / "tests" / "peers" / "published_sizes.py", "PUBLISHED")
#: Models whose logits are compared, and the shared folder that has them.
LOGITS = (ROOT / "tests" / "peers" / "test_architectures.py", "CASES")

HEAD = """\
# Families of models

Written by `make families`; `quant architectures` prints the same, with `--json` for programs.

A family is one table of tensors and settings in `quantcli/models/families`, where [the
template](../quantcli/models/families/TEMPLATE.md) shows how one is written. The family of a model is found by
`architectures` and `model_type` in its config.json, or by `general.architecture` and the other keys of a GGUF file. A
model whose `architectures` names a class that its family does not list is unknown: it is copied, cast and decoded;
quantizing it and converting it to GGUF are refused (exit 4).

## Names and directions

* **Model types**: `model_type` in config.json, aliases included.
* **Towers**: model types with towers for images or sound whose text model is of the family. A GGUF file holds the text
  model alone; folders keep the towers as they are.
* **Formats**: the family is converted from each of these formats to each other one. mlx-lm does not load families
  without `mlx` (or computes other values than theirs), and of some only the types in parentheses; an MLX folder can be
  written, with a warning, and read.
* **MTP**: formats that keep layers for multi-token prediction; the other formats leave them out.
* **Tokenizers**: kinds of vocabularies in the family's test cases (`bpe` is byte-level BPE, `spm` SentencePiece), with
  llama.cpp's name of the pre-tokenizer.
"""

TESTS = """
## Tested against

* **Tensors and metadata**: tiny models in `tests/data/arch`. Each GGUF file equals that of llama.cpp's converter: all
  metadata, and name, type, shape and SHA-256 of every tensor. Converting it back gives every tensor of the source.
  llama.cpp, transformers and mlx-lm load the outputs (`make peers`).
* **Metadata**: tiny models whose metadata alone are compared with the converter's.
* **Logits**: tiny models whose float32 logits in transformers and mlx-lm are those of the source after conversion to
  GGUF and back (`make peers`, with reference data that is not part of the repository).
* **llama-quantize**: models of published sizes whose tensor types equal those of its dry runs, for every preset.
"""


def evidence() -> dict[str, Tested]:
    """Family -> what it is tested against, from the tests' data."""
    found: dict[str, dict[str, list[str]]] = {}

    def add(family: str, kind: str, values: Iterable[str]) -> None:
        found.setdefault(family, {}).setdefault(kind, []).extend(values)

    for folder in sorted(path.parent for path in CASES.glob("*/reference.json")):
        architecture = models.find(json.loads((folder / "config.json").read_text()))
        assert architecture is not None, folder.name
        is_whole = (folder / "tensors.json").is_file()
        add(architecture.name, "cases" if is_whole else "metadata_cases", [folder.name])
        add(architecture.name, "tokenizers", [_tokenizer(json.loads((folder / "reference.json").read_text()))])
    for case in literals(*LOGITS):
        config = CASES / case / "config.json"
        architecture = models.find(json.loads(config.read_text()))
        assert architecture is not None, case
        add(architecture.name, "logits", [case])
    for family, name in _quantized():
        add(family, "quantized", [name])
    order = [family.name for family in models.FAMILIES if family.name in found]
    return {
        name: Tested(**{kind: tuple(dict.fromkeys(values)) for kind, values in found[name].items()}) for name in order
    }


def _tokenizer(reference: dict[str, Any]) -> str:
    """`bpe (qwen2)` of a case; of SentencePiece nothing more is told apart."""
    kind = str(reference["tokenizer"]).partition("-")[0]
    return kind if reference["tokenizer_pre"] == "default" else f"{kind} ({reference['tokenizer_pre']})"


def _quantized() -> Iterator[tuple[str, str]]:
    """Family and name of every model of llama-quantize's dry runs."""
    for name, model in json.loads(gzip.decompress(POLICY.read_bytes()))["models"].items():
        kind = model["architecture"]
        keys = {f"{kind}.{key}": Value("uint32", value) for key, value in model["metadata"].items()}
        architecture = models.by_gguf({"general.architecture": kind} | keys)
        assert architecture is not None, name
        yield architecture.name, name
    yield from ((family, name) for family, names in nested_keys(*PUBLISHED).items() for name in names)


def literals(path: Path, name: str) -> list[str]:
    """The texts in a module's tuple; the module is not run, since tests of peers import what they are compared with."""
    value = _assigned(path, name)
    assert isinstance(value, ast.Tuple)
    return [ast.literal_eval(element) for element in value.elts]


def nested_keys(path: Path, name: str) -> dict[str, list[str]]:
    """The keys of a module's dict of dicts."""
    value = _assigned(path, name)
    assert isinstance(value, ast.Dict)
    return {key: _keys(inner) for key, inner in zip(_keys(value), value.values, strict=True)}


def _keys(value: ast.expr) -> list[str]:
    assert isinstance(value, ast.Dict)
    return [ast.literal_eval(key) for key in value.keys if key is not None]


def _assigned(path: Path, name: str) -> ast.expr:
    """What a module assigns to a name."""
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and any(
            isinstance(target, ast.Name) and target.id == name for target in targets
        ):
            assert node.value is not None
            return node.value
    raise AssertionError(f"{path}: {name} is not there")


def data() -> str:
    """The text of `TESTED`; kinds of tests that a family has none of are left out."""
    records = {name: {kind: found for kind, found in asdict(one).items() if found} for name, one in evidence().items()}
    rows = (f"  {json.dumps(name)}: {json.dumps(record)}" for name, record in records.items())
    return "{\n" + ",\n".join(rows) + "\n}\n"


def page() -> str:
    """The text of docs/families.md, with what `TESTED` says."""
    found = families()
    return HEAD + "\n" + _table(NAMES, found) + TESTS + "\n" + _table(EVIDENCE, found)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _some(family: Family) -> str:
    """The types that mlx-lm loads, where it does not load all."""
    is_whole = not family.mlx or {*family.names} == {*family.mlx}
    return "" if is_whole else f" ({_code(family.mlx)})"


#: Title of a column -> what it says of a family.
NAMES = {
    "family": lambda family: family.name,
    "model types": lambda family: _code((*family.model_types, *family.other_names)),
    "towers": lambda family: _code(family.towers),
    "GGUF": lambda family: f"`{family.gguf}`",
    "formats": lambda family: " ".join(family.formats) + _some(family),
    "MTP": lambda family: " ".join(family.prediction),
    "tokenizers": lambda family: ", ".join(family.tested.tokenizers),
}
EVIDENCE = {
    "family": lambda family: family.name,
    "tensors and metadata": lambda family: ", ".join(family.tested.cases),
    "metadata": lambda family: ", ".join(family.tested.metadata_cases),
    "logits": lambda family: ", ".join(family.tested.logits),
    "llama-quantize": lambda family: ", ".join(family.tested.quantized),
}


def _table(columns: dict[str, Any], rows: Iterable[Family]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    lines += [f"| {' | '.join(column(family) for column in columns.values())} |" for family in rows]
    return "\n".join(lines) + "\n"


def write() -> None:
    """Write both files."""
    TESTED.write_text(data())
    DOCS.parent.mkdir(exist_ok=True)
    DOCS.write_text(page())


if __name__ == "__main__":
    write()
