"""GGUF files hold what llama.cpp's converter and llama-quantize write: tensors, their order and place, metadata.

The manifests of demo-qwen3 are committed (its model is the example's), those of the other models lie in the reference
data: llama.cpp of llama-cpp-python 0.3.36. `convert-*` come straight from the converter, others from llama-quantize.
An array of metadata with more than 32 entries is there as its length and the SHA-256 of its stored bytes.
"""

import gzip
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from quantcli.containers import gguf
from tests.conversions import converted

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "examples" / "demo-qwen3"
MODELS = ("tiny-llama", "micro-llama", "tiny-mistral-spm")
CONVERTED = ("convert-f32", "convert-bf16", "convert-f16", "convert-q8_0")
QUANTIZED = ("F32", "BF16", "F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q6_K")
PURE = ("Q4_0.pure", "Q6_K.pure")

#: A dense file of ours has its keys in the converter's order, a quantized one in llama-quantize's, which moves some to
#: the end; for these the other tool wrote the manifest.
OTHER_ORDER = ("convert-q8_0", "F32", "BF16", "F16")

#: Options that choose types: for each, the tensors that they reach (a regex) and the type these get then.
#: llama-quantize encodes a tensor the same whatever the mixture, so each tensor's hash is in the manifest of its type.
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "leave-output": ({"leave_output_tensor": True}, {"^output": "BF16"}),
    "output-f16": ({"output_tensor_type": "F16"}, {"^output": "F16"}),
    "output-q8_0": ({"output_tensor_type": "q8_0"}, {"^output": "Q8_0"}),
    "embedding-q8_0": ({"token_embedding_type": "q8_0"}, {"token_embd": "Q8_0"}),
    "both": (
        {"token_embedding_type": "bf16", "output_tensor_type": "q8_0"},
        {"token_embd": "BF16", "^output": "Q8_0"},
    ),
    "one-tensor": ({"tensor_types": ("attn_v=q8_0",)}, {"attn_v": "Q8_0"}),
    "first-match": (
        {"tensor_types": (r"BLK\.1\.ffn=q5_0", "ffn_down=q8_0")},
        {r"blk\.1\.ffn": "Q5_0", "ffn_down": "Q8_0"},
    ),
    "pure-but-one": ({"pure": True, "tensor_types": ("attn_q=q6_K",)}, {"attn_q": "Q6_K", "^output": "Q4_0.pure"}),
}  # fmt: skip


@cache
def committed() -> dict[str, Any]:
    raw = (ROOT / "tests" / "data" / "gguf_manifests" / "demo-qwen3.json.gz").read_bytes()
    manifests: dict[str, Any] = json.loads(gzip.decompress(raw))
    return manifests


def options(label: str) -> dict[str, Any]:
    """A manifest's label as options of a conversion."""
    name, _, pure = label.removeprefix("convert-").partition(".")
    return {"scheme": name.lower(), "pure": pure == "pure"}


def tensors(path: Path) -> list[dict[str, Any]]:
    """What a manifest tells of a file's tensors, in file order."""
    header, raw = gguf.read(path), path.read_bytes()
    start = min(tensor.offset for tensor in header.tensors.values())
    return [
        {
            "name": tensor.name,
            "shape": list(reversed(tensor.shape)),
            "type": tensor.type_name,
            "offset": tensor.offset - start,
            "nbytes": tensor.nbytes,
            "sha256": hashlib.sha256(raw[tensor.offset : tensor.offset + tensor.nbytes]).hexdigest(),
        }
        for tensor in header.tensors.values()
    ]


def theirs(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**tensor, "type": tensor["type"].lower()} for tensor in manifest["tensors"]]


def metadata(path: Path, manifest: dict[str, Any]) -> dict[str, list[Any]]:
    """A file's metadata as a manifest spells it."""
    return {key: [v.type, spelled(v, manifest.get(key))] for key, v in gguf.read(path).metadata.items()}


def spelled(value: Any, wanted: Any) -> Any:
    array = value.value
    if not hasattr(array, "payload"):
        return array
    if wanted is not None and isinstance(wanted[1], dict):
        return {"length": array.length, "sha256": hashlib.sha256(array.payload).hexdigest()}
    return [item.decode() if isinstance(item, bytes) else item for item in array.decode()]


def check(source: Path, output: Path, label: str, manifest: dict[str, Any]) -> None:
    """Convert as the label says; tensors and metadata are the manifest's."""
    report = converted(source, output, **options(label))
    assert report["verified"]
    ours, expected = tensors(output), theirs(manifest)
    if label.startswith("convert-"):  # the converter keeps the checkpoint's order, we have llama-quantize's
        ours, expected = ([{**t, "offset": 0} for t in sorted(x, key=lambda t: t["name"])] for x in (ours, expected))
    assert ours == expected
    written = metadata(output, manifest["metadata"])
    assert written == manifest["metadata"]
    if label not in OTHER_ORDER:
        assert list(written) == list(manifest["metadata"])
    assert output.stat().st_size == manifest["file_size"]


@pytest.mark.parametrize("label", CONVERTED + QUANTIZED)
def test_as_llama_cpp_converts_the_example(tmp_path: Path, label: str) -> None:
    check(DEMO, tmp_path / "out.gguf", label, committed()[label])


CASES = [(model, label) for model in MODELS for label in CONVERTED + QUANTIZED]
CASES += [(model, label) for model in ("tiny-llama", "micro-llama") for label in PURE]


@pytest.mark.parametrize(("model", "label"), CASES)
def test_as_llama_cpp_converts(shared: Path, tmp_path: Path, model: str, label: str) -> None:
    manifest = json.loads((shared / "fixtures" / "gguf" / model / f"{label}.json").read_text())
    check(shared / "fixtures" / "models" / model, tmp_path / "out.gguf", label, manifest)


def test_the_committed_manifests_are_those_of_the_reference_data(shared: Path) -> None:
    folder = shared / "fixtures" / "gguf" / "demo-qwen3"
    assert committed() == {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_of_llama_quantize(shared: Path, tmp_path: Path, case: str) -> None:
    given, reached = OPTIONS[case]
    folder = shared / "fixtures" / "gguf" / "tiny-llama"

    def by_name(label: str) -> dict[str, dict[str, Any]]:
        return {t["name"]: t for t in theirs(json.loads((folder / f"{label}.json").read_text()))}

    expected = {}
    for name, tensor in by_name("Q4_0").items():
        label = next((to for part, to in reached.items() if re.search(part, name) and "norm" not in name), None)
        expected[name] = by_name(label)[name] if label else tensor
    output = tmp_path / "out.gguf"
    converted(shared / "fixtures" / "models" / "tiny-llama", output, scheme="q4_0", **given)
    ours = tensors(output)
    assert [t["name"] for t in ours] == list(expected)
    assert [(t["name"], t["type"], t["sha256"]) for t in ours] == [
        (t["name"], t["type"], t["sha256"]) for t in expected.values()
    ]
    assert gguf.read(output).metadata["general.file_type"].value == 2


def test_options_on_the_example(tmp_path: Path) -> None:
    """A tied model: its embedding is the output tensor too, and `--output-tensor-type` decides it."""
    output = tmp_path / "out.gguf"
    converted(DEMO, output, scheme="q4_0", output_tensor_type="q8_0", tensor_types=("ffn_up=q5_1",))
    manifests = {
        label: {t["name"]: (t["type"].lower(), t["sha256"]) for t in committed()[label]["tensors"]}
        for label in ("Q4_0", "Q8_0", "Q5_1")
    }
    expected = dict(manifests["Q4_0"])
    expected |= {name: found for name, found in manifests["Q5_1"].items() if "ffn_up" in name}
    expected["token_embd.weight"] = manifests["Q8_0"]["token_embd.weight"]
    assert {t["name"]: (t["type"], t["sha256"]) for t in tensors(output)} == expected
