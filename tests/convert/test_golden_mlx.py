"""MLX folders hold, tensor for tensor, what mlx_lm.convert writes: manifests of mlx-lm 0.32.2 on mlx 0.32.4.

The manifests of demo-qwen3 are committed (its model is the example's), those of the other models lie in the reference
data. A manifest has name, shape, dtype and SHA-256 of every tensor, and the `quantization` block of config.json.
"""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conversions import config, converted, stored

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "examples" / "demo-qwen3"
MIXTURES = ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")
OTHERS = (
    "affine4-g64-float16", "mxfp4", "mxfp8", "nvfp4", *MIXTURES, "dense-float16", "dense-bfloat16", "dense-float32",
)  # fmt: skip
EVERY_GROUP = tuple(f"affine{bits}-g{group}" for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)) + OTHERS
FEWER_GROUPS = (
    "affine2-g32", "affine3-g64", "affine4-g32", "affine4-g64", "affine5-g32", "affine6-g64", "affine8-g64",
    "affine8-g128", *OTHERS,
)  # fmt: skip
CASES = {"tiny-llama": EVERY_GROUP, "tiny-mistral-spm": FEWER_GROUPS, "demo-qwen3": FEWER_GROUPS}
DTYPES = {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}


def options(case: str) -> dict[str, Any]:
    """A case's name as options of a conversion."""
    scheme, _, dtype = case.rpartition("-")
    if dtype not in DTYPES:
        return {"scheme": case}
    return {"dtype": DTYPES[dtype]} | ({} if scheme == "dense" else {"scheme": scheme})


@cache
def committed() -> dict[str, Any]:
    manifests: dict[str, Any] = json.loads(gzip.decompress((ROOT / "tests/data/mlx/demo-qwen3.json.gz").read_bytes()))
    return manifests


def check(source: Path, output: Path, case: str, manifest: dict[str, Any]) -> None:
    """Convert as the case says; everything that the manifest tells of is the same."""
    report = converted(source, output, **options(case))
    assert report["verified"] and report["warnings"] == []
    found = stored(output)
    ours = {name: (t.dtype, list(t.shape), t.sha256) for name, t in found.items()}
    assert ours == {t["name"]: (t["dtype"], t["shape"], t["sha256"]) for t in manifest["tensors"]}
    written = config(output)
    assert written.get("quantization") == manifest["quantization"]
    assert written.get("quantization_config") == manifest["quantization"]
    check_index(output, set(ours), sum(len(t.data) for t in found.values()))
    check_sidecars(source, output, set(manifest["files"]))


def check_index(output: Path, names: set[str], nbytes: int) -> None:
    index = json.loads((output / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == dict.fromkeys(sorted(names), "model.safetensors")
    assert index["metadata"]["total_size"] == nbytes


def check_sidecars(source: Path, output: Path, theirs: set[str]) -> None:
    """The files that mlx-lm writes are all there; the others, its README among them, are the source's own bytes."""
    ours = {path.name for path in output.iterdir()}
    assert theirs - {"README.md"} <= ours
    own = {"config.json", "model.safetensors", "model.safetensors.index.json", "quant_report.json"}
    for name in ours - own:
        assert (output / name).read_bytes() == (source / name).read_bytes(), name
    assert "tokenizer.json" in ours - own


@pytest.mark.parametrize("case", CASES["demo-qwen3"])
def test_as_mlx_lm_converts_the_example(tmp_path: Path, case: str) -> None:
    check(DEMO, tmp_path / "out", case, committed()[case])


@pytest.mark.parametrize(
    ("model", "case"), [(model, case) for model in ("tiny-llama", "tiny-mistral-spm") for case in CASES[model]]
)
def test_as_mlx_lm_converts(shared: Path, tmp_path: Path, model: str, case: str) -> None:
    manifest = json.loads((shared / "fixtures" / "mlx" / f"{model}-{case}.json").read_text())
    check(shared / "fixtures" / "models" / model, tmp_path / "out", case, manifest)


def test_no_manifest_is_left_out(shared: Path) -> None:
    there = {path.stem for path in (shared / "fixtures" / "mlx").glob("*.json")}
    assert there == {f"{model}-{case}" for model, cases in CASES.items() for case in cases}
    for case, manifest in committed().items():
        path = shared / "fixtures" / "mlx" / f"demo-qwen3-{case}.json"
        assert json.loads(path.read_text()) == manifest


@pytest.mark.parametrize(
    ("spelled", "case"),
    [
        ({"bits": 4}, "affine4-g64"),
        ({"bits": 4, "group_size": 32}, "affine4-g32"),
        ({"bits": 8, "group_size": 128, "mode": "affine"}, "affine8-g128"),
        ({"mode": "mxfp4"}, "mxfp4"),
        ({"mode": "nvfp4", "bits": 4, "group_size": 16}, "nvfp4"),
    ],
)
def test_mlx_lm_options_mean_the_same(tmp_path: Path, spelled: dict[str, Any], case: str) -> None:
    converted(DEMO, tmp_path / "out", check=False, **spelled)
    expected = {t["name"]: t["sha256"] for t in committed()[case]["tensors"]}
    assert {name: tensor.sha256 for name, tensor in stored(tmp_path / "out").items()} == expected
    assert config(tmp_path / "out")["quantization"] == committed()[case]["quantization"]


def test_shards_hold_the_same_tensors(tmp_path: Path) -> None:
    output = tmp_path / "out"
    converted(DEMO, output, scheme="affine4-g64", shard_size=500_000)
    expected = {t["name"]: t["sha256"] for t in committed()["affine4-g64"]["tensors"]}
    assert {name: tensor.sha256 for name, tensor in stored(output).items()} == expected
    files = sorted(output.glob("*.safetensors"))
    count = len(files)
    assert count > 2
    assert [file.name for file in files] == [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    index = json.loads((output / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: file.name for file in files for name in names_in(file)}


def names_in(file: Path) -> list[str]:
    raw = file.read_bytes()
    return [name for name in json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]) if name != "__metadata__"]
