"""llama-quantize's choices against its own dry runs.

tests/data/recipes/policy.json.gz: of seven models, tensors (shape in GGUF order, source type) in the order in which
llama-quantize handles them, with the type of each as run-length text, for every ftype, without and with an importance
matrix; the ftypes whose run would demand one; and the same with options.
"""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from quantcli.containers.gguf_values import Value
from quantcli.errors import NotPossible
from quantcli.recipes import llama_cpp, prune
from quantcli.recipes.base import Decision
from quantcli.recipes.llama_cpp import Facts, Options, Tensor

DATA = Path(__file__).resolve().parent.parent / "data" / "recipes" / "policy.json.gz"
POLICY = json.loads(gzip.decompress(DATA.read_bytes()))
PRESETS = (*llama_cpp.FTYPES, llama_cpp.COPY)
VARIANTS = ("no_imatrix", "imatrix")


def tensors_of(model: dict[str, Any]) -> list[Tensor]:
    return [Tensor(name, tuple(shape[::-1]), kind) for name, shape, kind in model["tensors"]]


def unrolled(text: str) -> list[str]:
    runs = [run.lower().partition("*") for run in text.split()]
    return [kind for kind, _, count in runs for _ in range(int(count or 1))]


def facts_of(model: dict[str, Any], importance: bool = False) -> Facts:
    architecture = model["architecture"]
    keys = {f"{architecture}.{key}": Value("uint32", value) for key, value in model["metadata"].items()}
    return Facts.of({"general.architecture": Value("string", architecture)} | keys, importance)


def values_of(texts: list[str], option: str) -> list[str]:
    return [texts[i + 1] for i, text in enumerate(texts) if text == option]


def options_of(texts: list[str]) -> Options:
    """The options of a dry run's command line."""

    def kind(option: str) -> str | None:
        return next(iter(value.lower() for value in values_of(texts, option)), None)

    patterns = tuple(map(llama_cpp.tensor_type, values_of(texts, "--tensor-type")))
    output, embedding = kind("--output-tensor-type"), kind("--token-embedding-type")
    return Options("--pure" in texts, "--leave-output-tensor" in texts, output, embedding, patterns)


def dry_run(
    tensors: list[Tensor], ftype: str, facts: Facts, options: Options, wanted: str | dict[str, str]
) -> dict[str, Decision] | None:
    """Assert that each tensor, in this order, gets the type of the dry run; where that refused, so do we."""
    preset = llama_cpp.find(ftype)
    assert preset
    if not isinstance(wanted, str):
        assert "no tensor type fallback" in wanted["error"]
        with pytest.raises(NotPossible, match="no replacement"):
            llama_cpp.assign(tensors, preset, facts, options)
        return None
    found = llama_cpp.assign(tensors, preset, facts, options)
    assert list(found) == [tensor.name for tensor in tensors]
    assert [decision.scheme for decision in found.values()] == unrolled(wanted)
    assert all(decision.reason for decision in found.values())
    return found


def compare(model: dict[str, Any], preset: str) -> int:
    """Assert that a preset's types equal the dry runs', without and with a matrix; how many assignments that are."""
    ftype, tensors = preset.upper(), tensors_of(model)
    assert set(model["types"]) == {name.upper() for name in PRESETS}
    given = model["types"][ftype]
    plain = dry_run(tensors, ftype, facts_of(model), Options(), given["no_imatrix"])
    wanted = given["no_imatrix"] if given["imatrix"] == "same" else given["imatrix"]
    dry_run(tensors, ftype, facts_of(model, importance=True), Options(), wanted)
    if plain is None:
        return 0
    assert bool(llama_cpp.demands_importance(plain, preset)) == (ftype in model["needs_imatrix"])
    fallbacks = sum(decision.wanted is not None for decision in plain.values())
    assert fallbacks == model["fallbacks_no_imatrix"].get(ftype, 0)
    return 2 * len(tensors)


def compare_case(case: dict[str, Any], model: dict[str, Any]) -> None:
    """A dry run with options."""
    texts, ftype, tensors = case["options"], case["ftype"], tensors_of(model)
    for layers in map(prune.parse, values_of(texts, "--prune-layers")):
        left = prune.prune([tensor.name for tensor in tensors], layers)
        assert left.layers == model["metadata"]["block_count"] - len(layers)
        tensors = [Tensor(left.names[t.name], t.shape, t.type) for t in tensors if t.name in left.names]
    facts = facts_of(model, "--imatrix" in texts)
    found = dry_run(tensors, ftype, facts, options_of(texts), case["types"])
    if found is not None and not facts.importance:
        assert bool(llama_cpp.demands_importance(found, ftype.lower())) == case["warns_needs_imatrix"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("model", POLICY["models"])
def test_types(model: str, preset: str) -> None:
    compare(POLICY["models"][model], preset)


def test_the_order_of_the_file_does_not_matter() -> None:
    for data in POLICY["models"].values():
        ordered = tensors_of(data)
        shuffled = [ordered[index] for index in data["file_order"]]
        wanted = llama_cpp.assign(ordered, "q4_k_m", facts_of(data))
        found = llama_cpp.assign(shuffled, "q4_k_m", facts_of(data))
        assert shuffled != ordered and found == wanted and list(found) == list(wanted)


@pytest.mark.parametrize("case", POLICY["options"], ids=lambda c: f"{c['model']} {' '.join(c['options'])} {c['ftype']}")
def test_options(case: dict[str, Any]) -> None:
    compare_case(case, POLICY["models"][case["model"]])


def test_every_model_of_the_fixtures(shared: Path) -> None:
    folder = shared / "fixtures/policy"
    models = {p.name: json.loads(gzip.decompress(p.read_bytes())) for p in sorted(folder.glob("*.json.gz"))}
    cases = models.pop("options.json.gz")
    assert (len(models), len(cases)) == (19, 170)
    assert sum(compare(model, preset) for model in models.values() for preset in PRESETS) == 415_958
    for case in cases:
        compare_case(case, models[f"{case['model']}.json.gz"])


#: What a manifest's label says beyond the ftype and the matrix.
PLAIN = re.compile(r"([A-Z0-9_]+)(\+im)?$")


def test_file_types_and_manifests(shared: Path) -> None:
    compared = 0
    for path in sorted((shared / "fixtures/gguf").glob("*/*.json")):
        label = PLAIN.fullmatch(path.stem)
        if label is None or label[1].lower() not in llama_cpp.FTYPES:
            continue
        manifest = json.loads(path.read_text())
        metadata = {key: Value(kind, value) for key, (kind, value) in manifest["metadata"].items()}
        tensors = [Tensor(t["name"], tuple(t["shape"][::-1]), "bf16") for t in manifest["tensors"]]
        dense = [Tensor(t.name, t.shape, "f32" if llama_cpp.never(t.name, t.shape) else "bf16") for t in tensors]
        ftype = label[1].lower()
        found = llama_cpp.assign(dense, ftype, Facts.of(metadata, importance=bool(label[2])))
        assert {n: d.scheme for n, d in found.items()} == {t["name"]: t["type"].lower() for t in manifest["tensors"]}
        assert metadata["general.file_type"].value == llama_cpp.FTYPES[ftype].number
        compared += 1
    assert compared >= 180


def test_what_llama_quantize_refuses_without_a_matrix(shared: Path) -> None:
    for path in (shared / "fixtures/gguf").glob("*/refused.json"):
        refused = {name.lower() for name in json.loads(path.read_text()) if name.lower() in llama_cpp.FTYPES}
        manifest = json.loads((path.parent / "F32.json").read_text())
        tensors = [Tensor(t["name"], tuple(t["shape"][::-1]), "bf16") for t in manifest["tensors"]]
        facts = Facts.of({key: Value(kind, value) for key, (kind, value) in manifest["metadata"].items()})
        found = {name: llama_cpp.assign(tensors, name, facts) for name in llama_cpp.FTYPES}
        assert {name for name in found if llama_cpp.demands_importance(found[name], name)} == refused
