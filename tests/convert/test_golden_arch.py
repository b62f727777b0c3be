"""Models of every family, there and back: to GGUF as llama.cpp's converter makes it, to MLX, and back as it was.

`tests/data/arch/*/tensors.json` has the names, dtypes and shapes of tiny models' tensors, and for values that follow
from their names the SHA-256 of what llama.cpp's converter (llama-cpp-python 0.3.36) makes of each. What mlx-lm makes
is held to its own results on the shared models.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import numpy as np
import pytest

from quantcli.containers import safetensors
from quantcli.models import FAMILIES, find
from quantcli.sources.detect import open_source
from tests.conversions import converted

DATA = Path(__file__).resolve().parent.parent / "data"
CASES = sorted(path.parent.name for path in DATA.glob("arch/*/tensors.json"))
#: What names of a text model begin with that has towers next to it; without them it is `model.`
TEXT = re.compile(r"^(model\.language_model|language_model\.model|model\.text_model)\.")
T = TypeVar("T")
#: Scheme, shape, SHA-256.
Hashed = tuple[str, tuple[int, ...], str]
#: By family, ends of names that mlx-lm casts, though the source has them in float32: what comes back of MLX is in bf16.
CAST_BY_MLX = {"dots1": "e_score_correction_bias"}
#: By family, ends of names of tensors that mlx-lm does without, so that they do not come back.
UNREAD_BY_MLX = {"ernie4_5_moe": "e_score_correction_bias"}
DTYPES = {"BF16": "bf16", "F32": "f32", "U8": "u8"}


#: Families whose norms are stored as their distance from 1, in MLX's folders as they are: what 16 bits do not hold of
#: the sum is lost.
FROM_ONE = ("step3p5", "qwen3_next", "qwen3_5", "qwen3_5_moe")
#: Families of which mlx-lm loads no tied model without a head.
IN_MLX_WITH_A_HEAD = {family.name for family in FAMILIES if "mlx" in family.stores_head}
#: Families whose experts are stored stacked, each (in, out), and come back one by one, as the text model's class has.
STACKED = ("qwen3_vl_moe",)


def contents(name: str, dtype: str, shape: list[int]) -> bytes:
    """Values that follow from a tensor's name: from 1/64 to 2, either sign."""
    count = math.prod(shape)
    mixed = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(crc32(name.encode()))) >> np.uint64(
        11
    )
    if dtype == "U8":  # scales of MXFP4 are exponents
        return (
            ((mixed & np.uint64(7)) + 120 if name.endswith("_scales") else mixed & np.uint64(255))
            .astype("u1")
            .tobytes()
        )
    words = (mixed & np.uint64(0x807F)) | ((np.uint64(0x79) + ((mixed >> np.uint64(8)) % np.uint64(7))) << np.uint64(7))
    return words.astype("<u2").tobytes() if dtype == "BF16" else (words.astype("<u4") << 16).astype("<u4").tobytes()


def layer_of(name: str) -> int:
    """The number of the layer in a name; -1 outside the layers."""
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else -1


def write_tensors(
    folder: Path, tensors: Mapping[str, list[Any]], files: int = 1, values_of: Mapping[str, str] | None = None
) -> None:
    """The weights of a model (name -> dtype, shape), in one file or in several with their index.

    values_of: name -> the name that its values follow from, where not its own.
    """
    names, size = list(tensors), -(-len(tensors) // files)
    numbered = [f"model-{i + 1:05}-of-{files:05}.safetensors" for i in range(files)]
    placed = {name: numbered[i // size] if files > 1 else "model.safetensors" for i, name in enumerate(names)}
    for file_name in dict.fromkeys(placed.values()):
        held = {name: tensors[name] for name in names if placed[name] == file_name}
        specs = {name: (DTYPES[dtype], tuple(shape)) for name, (dtype, shape) in held.items()}
        header, offsets = safetensors.layout(specs, {"format": "pt"})
        with open(folder / file_name, "wb") as file:
            file.write(header)
            for name, (dtype, shape) in held.items():
                file.seek(offsets[name])
                file.write(contents((values_of or {}).get(name, name), dtype, shape))
    if files > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def write_model(folder: Path, case: str, tensors: Mapping[str, list[Any]], files: int = 1) -> None:
    """config.json and weights of a case."""
    folder.mkdir()
    for name in ("config.json", "generation_config.json"):
        if (DATA / "arch" / case / name).is_file():
            shutil.copy(DATA / "arch" / case / name, folder)
    write_tensors(folder, tensors, files)


def reference(case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "arch" / case / "tensors.json").read_text())
    return found


def of_text(tensors: Mapping[str, T]) -> dict[str, T]:
    """A text model's tensors under the names that they have without towers next to them."""
    return {TEXT.sub("model.", name).removeprefix("language_model."): one for name, one in tensors.items()}


def hashes(path: Path) -> dict[str, Hashed]:
    """Every tensor of a checkpoint: scheme, shape, SHA-256 of its bytes."""
    return {
        name: (
            w.scheme.name,
            w.shape,
            hashlib.sha256(b"".join(p.read_bytes(0, p.nbytes) for p in w.parts.values())).hexdigest(),
        )
        for name, w in open_source(path).weights.items()
    }


def family_of(case: str) -> str:
    """The name of the table that a case is of."""
    architecture = find(json.loads((DATA / "arch" / case / "config.json").read_text()))
    assert architecture is not None
    return architecture.name


def ends_of(family: str) -> tuple[str, str]:
    """What a family calls its embedding and its output matrix."""
    (rows,) = (one.tensors for one in FAMILIES if one.name == family)
    names = {row.role: f"{row.hf}.weight" for row in rows}
    return names["token_embd"], names["output"]


def one_by_one(tensors: Mapping[str, Hashed]) -> dict[str, Hashed]:
    """A text model's tensors with its stacked experts one by one."""
    made = {}
    for name, (scheme, shape, sha) in tensors.items():
        start, _, kind = name.rpartition(".experts.")
        if not start:
            made[name] = (scheme, shape, sha)
            continue
        stored = name.replace("model.", "model.language_model.", 1)
        stacked = np.frombuffer(contents(stored, "BF16", list(shape)), "<u2").reshape(shape)
        parts = np.split(stacked, 2, axis=2) if kind == "gate_up_proj" else [stacked]
        names = ("gate_proj", "up_proj") if kind == "gate_up_proj" else ("down_proj",)
        for expert in range(shape[0]):
            for part, module in zip(parts, names, strict=True):
                matrix = np.ascontiguousarray(part[expert].T)
                key = f"{start}.experts.{expert}.{module}.weight"
                made[key] = (scheme, matrix.shape, hashlib.sha256(matrix.tobytes()).hexdigest())
    return made


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A case's folder, named like it."""
    case = str(request.param)
    golden = reference(case)
    write_model(tmp_path / case, case, golden["source"], golden.get("files", 1))
    kind = json.loads((DATA / "arch" / case / "reference.json").read_text())["tokenizer"]
    for file in (DATA / "tokenizers" / "kinds" / kind).glob("*.json"):
        shutil.copy(file, tmp_path / case)
    return tmp_path / case


def test_to_gguf_as_llama_cpp_does_it_and_back(model: Path, tmp_path: Path) -> None:
    golden, family = reference(model.name), family_of(model.name)
    file = tmp_path / "model.gguf"
    converted(model, file, dtype="bf16", to="gguf")
    made = hashes(file)
    wanted = {name: (kind.lower(), tuple(shape), sha) for name, (kind, shape, sha) in golden["gguf"].items()}
    assert made == wanted
    converted(file, tmp_path / "back", to="hf")
    before = of_text({name: entry for name, entry in hashes(model).items() if name not in golden["dropped"]})
    before = one_by_one(before) if family in STACKED else before
    assert of_text(hashes(tmp_path / "back")) == before
    # The way over MLX's dialect is the same, but that MLX has no layers for multi-token prediction.
    wide = {"dtype": "f32"} if family in FROM_ONE else {}
    converted(file, tmp_path / "mlx", to="mlx", **wide)
    converted(tmp_path / "mlx", tmp_path / "again", to="hf", **{key: "bf16" for key in wide})
    config = json.loads((model / "config.json").read_text())
    layers = config.get("text_config", config)["num_hidden_layers"]
    unread = UNREAD_BY_MLX.get(family, "-")
    text = {
        name: entry
        for name, entry in before.items()
        if layer_of(name) < layers and not name.startswith("mtp.") and not name.endswith(unread)
    }
    for name, (_, shape, _) in text.items():
        if name.endswith(CAST_BY_MLX.get(family, "-")):
            text[name] = ("bf16", shape, hashlib.sha256(contents(name, "BF16", list(shape))).hexdigest())
    embedding, head = ends_of(family)
    if family in IN_MLX_WITH_A_HEAD and head not in text:
        text[head] = text[embedding]
    assert of_text(hashes(tmp_path / "again")) == text
