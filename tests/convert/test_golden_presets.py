"""GGUF made from GGUF is what llama-quantize makes: every preset and option, with and without an importance matrix.

A manifest says which command made its file (`how`); that command's options are given to our conversion of a GGUF file
that we made ourselves, and every tensor (its place, type and SHA-256), the metadata in their order and the file's size
have to be the manifest's. Those of demo-qwen3 are committed, those of the other models are in the reference data.
A preset that needs a type which is not encoded yet is skipped.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from quantcli.convert.planning.plan import make
from quantcli.convert.planning.request import Request
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.ggml import TYPES
from quantcli.sources.detect import open_source
from tests.builders import tiny_llama
from tests.conversions import converted
from tests.convert.test_golden_gguf import DEMO, ROOT, committed, metadata, tensors, theirs

MODELS = ("micro-llama", "tiny-llama")
MATRICES = ROOT / "tests" / "data" / "imatrix"
DENSE = ("f32", "f16", "bf16")

#: llama-quantize's options -> fields of `Request`: those with one value, those that can be repeated, and the flags.
ONCE = {
    "--output-tensor-type": "output_tensor_type",
    "--token-embedding-type": "token_embedding_type",
    "--prune-layers": "prune_layers",
}
REPEATED = {
    "--tensor-type": "tensor_types",
    "--override-kv": "override_kv",
    "--include-weights": "include_weights",
    "--exclude-weights": "exclude_weights",
}
FLAGS = {
    "--pure": "pure",
    "--leave-output-tensor": "leave_output_tensor",
    "--allow-requantize": "allow_requantize",
}

#: The manifests with options; those of presets alone are demo-qwen3's.
WITH_OPTIONS = (
    "F16.from-q8_0", "IQ2_XS+imdat", "IQ4_XS.pure", "MXFP4_MOE.pure", "Q2_K.pure", "Q3_K_M.pure",
    "Q3_K_M.tt-attn_v-q8_0", "Q4_0+imdat", "Q4_0.pure", "Q4_0.tt-attn-q1_0-ffn-q2_0", "Q4_K_M+im.exclude-ffn_down",
    "Q4_K_M+im.include-attn_v", "Q4_K_M+imdat", "Q4_K_M.emb-bf16.out-q5_K", "Q4_K_M.emb-q8_0", "Q4_K_M.from-f16",
    "Q4_K_M.from-f32", "Q4_K_M.from-q8_0", "Q4_K_M.leave-output", "Q4_K_M.out-f16", "Q4_K_M.out-q8_0",
    "Q4_K_M.override-kv", "Q4_K_M.prune-1", "Q4_K_M.pure", "Q4_K_M.tt-regex-blk01-ffn_down-q6_K", "Q4_K_M.tt-two",
    "Q6_K.pure", "Q8_0.from-f32", "Q8_0.tt-all-nvfp4", "Q8_0.tt-ffn-mxfp4",
)  # fmt: skip
PRESETS = tuple(label for label in committed() if label != "refused" and not label.startswith("convert-"))
REFUSED = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S")


def asked(manifest: dict[str, Any], matrices: Path) -> tuple[str, dict[str, Any]]:
    """A manifest's command: the type of its source, and its options as fields of a `Request`."""
    words = iter(manifest["how"].split()[1:])
    plain: list[str] = []
    given: dict[str, Any] = {}
    for word in words:
        if word in ONCE:
            given[ONCE[word]] = next(words)
        elif word in REPEATED:
            given[REPEATED[word]] = (*given.get(REPEATED[word], ()), next(words))
        elif word in FLAGS:
            given[FLAGS[word]] = True
        elif word == "--imatrix":
            given["imatrix"] = matrices / next(words)
        else:
            assert not word.startswith("-"), word
            plain.append(word)
    source, _, preset, *_ = plain
    return source.removesuffix(".gguf").rpartition("-")[2], {**given, "scheme": preset.lower()}


class Sources:
    """GGUF files of the models as our own conversion makes them, each made once."""

    def __init__(self, folder: Path) -> None:
        self.made = cache(self._make)
        self.folder = folder

    def _make(self, model: Path, kind: str) -> Path:
        output = self.folder / f"{model.name}-{kind}.gguf"
        converted(model, output, scheme=kind, check=False)
        return output


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"))


def encodable(manifest: dict[str, Any]) -> None:
    """Skip a test whose file has a type that is not encoded yet, and name it."""
    absent = sorted({t["type"].lower() for t in manifest["tensors"]} - {*TYPES, *DENSE})
    if absent:
        pytest.skip(f"no encoder yet for {', '.join(absent)}")


def check(sources: Sources, model: Path, manifest: dict[str, Any], matrices: Path, output: Path) -> None:
    encodable(manifest)
    kind, options = asked(manifest, matrices)
    converted(sources.made(model, kind), output, check=False, **options)
    assert tensors(output) == theirs(manifest)
    written = metadata(output, manifest["metadata"])
    assert written == manifest["metadata"]
    assert list(written) == list(manifest["metadata"])
    assert output.stat().st_size == manifest["file_size"]


def of_shared(shared: Path, model: str, label: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shared / "fixtures" / "gguf" / model / f"{label}.json").read_text())
    return found


@pytest.mark.parametrize("label", PRESETS)
def test_presets_of_the_example(sources: Sources, tmp_path: Path, label: str) -> None:
    check(sources, DEMO, committed()[label], MATRICES / "demo-qwen3", tmp_path / "out.gguf")


@pytest.mark.parametrize("label", PRESETS + WITH_OPTIONS)
@pytest.mark.parametrize("model", MODELS)
def test_presets_and_options(shared: Path, sources: Sources, tmp_path: Path, model: str, label: str) -> None:
    manifest, folder = of_shared(shared, model, label), shared / "fixtures"
    check(sources, folder / "models" / model, manifest, folder / "gguf" / model, tmp_path / "out.gguf")


def test_every_manifest_is_held_to(shared: Path) -> None:
    for model in MODELS:
        there = {path.stem for path in (shared / "fixtures" / "gguf" / model).glob("*.json")}
        asked_for = {label for label in there if not label.startswith("convert-")} - {"refused", "perplexity"}
        assert asked_for == {*PRESETS, *WITH_OPTIONS}


@pytest.mark.parametrize("label", REFUSED)
def test_refused_without_a_matrix(sources: Sources, tmp_path: Path, label: str) -> None:
    manifest = committed()["refused"][label]
    kind, options = asked(manifest, MATRICES)
    encodable(committed()[f"{label}+im"])
    with pytest.raises(NotPossible, match="importance matrix.*--imatrix"):
        converted(sources.made(DEMO, kind), tmp_path / "out.gguf", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("label", REFUSED)
def test_a_dry_run_warns_only(sources: Sources, tmp_path: Path, label: str) -> None:
    encodable(committed()[f"{label}+im"])
    kind, options = asked(committed()["refused"][label], MATRICES)
    request = Request(output=tmp_path / "out.gguf", **options)
    plan = make(open_source(sources.made(DEMO, kind)), request, dry_run=True)
    assert [line for line in plan.warnings if "--imatrix" in line]


def test_all_that_llama_quantize_refuses_is_refused(shared: Path, sources: Sources, tmp_path: Path) -> None:
    assert set(committed()["refused"]) == set(REFUSED)
    for model in MODELS:
        refused = json.loads((shared / "fixtures" / "gguf" / model / "refused.json").read_text())
        assert set(refused) == {*REFUSED, "Q4_K_M.from-q8_0-refused"}
        kind, options = asked(refused["Q4_K_M.from-q8_0-refused"], MATRICES)
        source = sources.made(shared / "fixtures" / "models" / model, kind)
        with pytest.raises(NotPossible, match="--allow-requantize"):
            converted(source, tmp_path / "out.gguf", **options)


@pytest.mark.parametrize("label", ["Q4_K_M", "Q3_K_L", "Q2_K_S+im", "IQ4_XS+im", "IQ3_S+im", "Q5_K_S+im", "TQ1_0"])
def test_a_folder_gives_the_same_file_at_once(sources: Sources, tmp_path: Path, label: str) -> None:
    """The same bytes by way of a bf16 GGUF and straight from the folder; read back and held to the plan."""
    manifest = committed()[label]
    encodable(manifest)
    kind, options = asked(manifest, MATRICES / "demo-qwen3")
    outputs = [tmp_path / "direct.gguf", tmp_path / "detour.gguf"]
    for source, output in zip((DEMO, sources.made(DEMO, kind)), outputs, strict=True):
        assert converted(source, output, **options)["verified"]
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_the_matrix_of_another_model_is_refused(tmp_path: Path) -> None:
    """The entry and the tensor are named; a dry run only warns."""
    request = Request(output=tmp_path / "out.gguf", scheme="q4_0", imatrix=MATRICES / "imatrix.gguf")
    source = open_source(tiny_llama(tmp_path / "model"))
    with pytest.raises(BadInput, match=r"entry 'blk\.0\.\w+\.weight': expected \d+ .* found \d+"):
        make(source, request)
    assert [line for line in make(source, request, dry_run=True).warnings if "imatrix.gguf: entry 'blk.0." in line]
