"""The axes of a table's rows give every tensor's shape, in each dialect, of models that others have made."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from quantcli.checkpoint import Weight
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput
from quantcli.models import FAMILIES, Architecture, by_gguf, find, from_gguf
from quantcli.models.agreement import Agreement, shape_of
from quantcli.models.base import DIALECTS, Found
from quantcli.models.prediction import as_layer
from quantcli.models.sizes import ALWAYS, HEAD_DIM, HIDDEN, KEYS, N_HEADS, N_KV_HEADS, QKV, QUERIES
from quantcli.schemes.dense import Dense
from quantcli.sources.prefix import naming_of
from tests.models.families.test_arch_cases import CASES, DATA, SPELLINGS, config_of, reference
from tests.mutations import tensors

Shapes = dict[str, tuple[int, ...]]


def agreement(
    architecture: Architecture, config: Mapping[str, Any], shapes: Mapping[str, Any], dialect: str = "hf"
) -> Agreement:
    weights = {name: Weight(name, tuple(shape), Dense("bf16"), {}) for name, shape in shapes.items()}
    return Agreement(architecture, architecture.hyperparameters(config), weights, dialect, "model", "config.json")


def of_folder(case: str) -> Shapes:
    """The tensors of a case's text model as a checkpoint has them; MXFP4's two parts as the one that they make."""
    path = DATA / case / "tensors.json"
    if not path.is_file():
        pytest.skip(f"{case} has metadata only")
    layers = Reader(config_of(case)).integer("num_hidden_layers", 0, least=0)
    stated = json.loads(path.read_text())
    stored, architecture = stated["source"], find(config_of(case))
    assert architecture is not None
    towers = stated["dropped"] if "prefixes" in stated else ()
    naming = naming_of(architecture, stored)
    names = {name: as_layer(naming.weight(name), layers) for name in stored if name not in towers}
    listed = {name: tuple(stored[old][1]) for old, name in names.items()}
    joined = {
        name.removesuffix("_blocks"): (shape[0], shape[2] * shape[3] * 2, shape[1])
        for name, shape in listed.items()
        if name.endswith("_blocks")
    }
    return {n: s for n, s in listed.items() if not n.endswith(("_blocks", "_scales"))} | joined


def of_file(case: str) -> tuple[Shapes, dict[str, Any]]:
    """The tensors of a case's GGUF file, and its metadata."""
    stored = reference(case)
    shapes = {name: tuple(shape) for name, (_, shape) in stored["tensors"].items()}
    return shapes, {key: value for key, (_, value) in stored["metadata"].items()}


@pytest.mark.parametrize("architecture", FAMILIES, ids=lambda a: a.name)
def test_every_row_has_its_shape(architecture: Architecture) -> None:
    assert [row.hf for row in architecture.tensors if not row.shape] == []
    assert [row.gguf for row in architecture.computed if not row.shape] == []
    stacked = [row for row in architecture.tensors if "{e}" in row.hf]
    assert all(len(row.shape) > 1 for row in stacked)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("case", CASES)
def test_a_folder_has_the_shapes_of_its_table(case: str, spelling: str) -> None:
    config, shapes = config_of(case, spelling), of_folder(case)
    architecture = find(config)
    assert architecture is not None
    found = agreement(architecture, config, shapes)
    found.refuse()
    assert found.unneeded() == {}
    for name, rows in found.rows.items():
        assert rows and shape_of(rows[0], "hf", found.hyperparameters) == shapes[name], name


@pytest.mark.parametrize("case", CASES)
def test_a_gguf_file_has_the_shapes_of_its_table(case: str) -> None:
    shapes, metadata = of_file(case)
    architecture = by_gguf(metadata)
    assert architecture is not None
    settings = from_gguf(metadata, "a.gguf", shapes)
    weights = {name: Weight(name, shape, Dense("bf16"), {}) for name, shape in shapes.items()}
    found = Agreement(architecture, settings, weights, "gguf", "a.gguf", "its metadata")
    found.refuse()
    assert found.unneeded() == {}
    computed = {row.gguf for row in architecture.computed}
    assert {name for name, rows in found.rows.items() if not rows} <= computed


def test_an_mlx_folder_has_the_shapes_of_its_table(shared: Path) -> None:
    seen = 0
    for path in sorted((shared / "fixtures" / "arch").glob("*/mlx_lm.json")):
        listed = json.loads(path.read_text()).get("tensors", [])
        config = json.loads((path.parent / "config.json").read_text())
        architecture = find(config)
        assert architecture is not None
        # mlx-lm stores packed words of what MXFP4 is.
        shapes = {t["name"]: tuple(t["shape"]) for t in listed if t["dtype"] not in ("U32", "U8")}
        for name, shape in shapes.items():
            dialect = architecture.dialect(shapes)
            assert shape_of(architecture.find(name, dialect)[0], dialect, architecture.hyperparameters(config)) == shape
            seen += 1
    assert seen > 700


@pytest.mark.parametrize("case", CASES)
def test_a_tensor_that_is_missing_is_named(case: str) -> None:
    """Each one, but for heads and for what a GGUF alone stores: others say whether these are needed."""
    config, shapes = config_of(case), of_folder(case)
    architecture = find(config)
    assert architecture is not None
    for name in shapes:
        row = architecture.find(name, "hf")[0].row
        need = row.need("")
        if row.role == "output" or need is None:
            continue
        left = {other: shape for other, shape in shapes.items() if other != name}
        if need.all_or_none and not any(architecture.find(other, "hf")[0].row.need("") == need for other in left):
            continue  # the last one of those that a model may do without
        with pytest.raises(BadInput) as error:
            agreement(architecture, config, left).refuse()
        assert name in str(error.value)


@pytest.mark.parametrize("dialect", ["hf", "gguf"])
@pytest.mark.parametrize("case", CASES)
def test_a_tensor_of_another_shape_is_named(case: str, dialect: str) -> None:
    """A seeded dozen of each model: halved along an axis, flat, transposed."""
    shapes, metadata = of_file(case) if dialect == "gguf" else (of_folder(case), {})
    architecture = by_gguf(metadata) if metadata else find(config_of(case))
    assert architecture is not None
    settings = from_gguf(metadata, "a.gguf", shapes) if metadata else architecture.hyperparameters(config_of(case))
    changes = [c for c in tensors.changes(shapes) if c.now is not None and c.is_seen and c.now[1] != shapes[c.name]]
    for change in random.Random(f"{case} {dialect}").sample(changes, min(12, len(changes))):
        assert change.now is not None
        weights = {n: Weight(n, s, Dense("bf16"), {}) for n, s in {**shapes, change.name: change.now[1]}.items()}
        with pytest.raises(BadInput) as error:
            Agreement(architecture, settings, weights, dialect, "model", "its settings").refuse()
        was, now = list(shapes[change.name]), list(change.now[1])
        assert f"tensor {change.name}: expected shape {was}, found {now}" in str(error.value)


@pytest.mark.parametrize("case", CASES)
def test_a_bias_in_a_gguf_file_calls_for_all_that_hang_on_its_flag(case: str) -> None:
    """GGUF has no key for such a flag: the tensors have to agree among themselves."""
    shapes, metadata = of_file(case)
    architecture = by_gguf(metadata)
    assert architecture is not None
    biases = {name: architecture.find(name, "gguf") for name in shapes if name.endswith(".bias")}
    needs = {name: found[0].row.need(found[0].suffix) for name, found in biases.items() if len(found) == 1}
    for name, need in needs.items():
        if need is None or list(needs.values()).count(need) == 1:
            continue
        left = {other: shape for other, shape in shapes.items() if other != name}
        weights = {other: Weight(other, shape, Dense("bf16"), {}) for other, shape in left.items()}
        settings = from_gguf(metadata, "a.gguf", left)
        with pytest.raises(BadInput) as error:
            Agreement(architecture, settings, weights, "gguf", "a.gguf", "its metadata").refuse()
        assert name in str(error.value)


def test_sizes_are_read_as_expressions() -> None:
    assert (QUERIES.expression, KEYS.expression) == ("num_attention_heads * head_dim", "num_key_value_heads * head_dim")
    assert QKV.expression == "(num_attention_heads + 2 * num_key_value_heads) * head_dim"
    assert ((N_HEADS + N_KV_HEADS) * HEAD_DIM + HIDDEN).expression == (
        "(num_attention_heads + num_key_value_heads) * head_dim + hidden_size"
    )


@pytest.mark.parametrize("architecture", FAMILIES, ids=lambda a: a.name)
def test_rows_that_share_a_tensor_have_one_shape(architecture: Architecture) -> None:
    """Of those that split a Hugging Face tensor, and of those that make one GGUF tensor."""
    case = next((c for c in CASES if find(config_of(c)) is architecture), None)
    if case is None:
        pytest.skip(f"no case of {architecture.name}")
    settings = architecture.hyperparameters(config_of(case))
    for dialect in DIALECTS:
        shapes: dict[str, set[tuple[int, ...]]] = {}
        for row in architecture.tensors:
            for suffix in row.suffixes:
                need = row.need(suffix) or ALWAYS
                one = Found(row, suffix, 0, 0)
                if any(need.holds(settings, layer) for layer in range(settings.layers + 1)):
                    shapes.setdefault(one.name(dialect), set()).add(shape_of(one, dialect, settings))
        assert {name: found for name, found in shapes.items() if len(found) > 1} == {}
