"""The report says what was done, and nothing that is not so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quantcli
from quantcli.convert.running.report import report_path
from tests.builders import tiny_awq, tiny_llama
from tests.conversions import values
from tests.runs import finish, quant, run, tree


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def written(output: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(report_path(output, output.is_dir()).read_text())
    return loaded


def test_where_it_lies(tmp_path: Path) -> None:
    assert report_path(tmp_path / "x", True) == tmp_path / "x" / "quant_report.json"
    assert report_path(tmp_path / "x.gguf", False) == tmp_path / "x.gguf.report.json"


@pytest.mark.parametrize(
    ("name", "options"),
    [("out", {"scheme": "affine4-g64", "shard_size": 20_000}), ("out.gguf", {"scheme": "q4_0"}), ("out", {"to": "hf"})],
)
def test_hashes_sizes_and_versions(source: Path, tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    given = run(source, tmp_path / name, **options)
    report = written(tmp_path / name)
    assert report == given and report["versions"]["quantcli"] == quantcli.__version__
    assert {"mlx", "numba", "numpy", "python"} <= set(report["versions"])
    files = {file["name"]: (file["bytes"], file["sha256"]) for file in report["files"]}
    real = {key or name: data for key, data in tree(tmp_path / name).items()}
    assert files == {key: (len(data), hashlib.sha256(data).hexdigest()) for key, data in real.items()}
    assert report["bytes"] == sum(map(len, real.values()))


def test_sources(source: Path, tmp_path: Path) -> None:
    for check in (False, True):
        report = run(source, tmp_path / str(check), scheme="affine4-g64", check=check)
        found = {entry["name"]: entry for entry in report["sources"]}
        assert set(found) == {path.name for path in source.iterdir()} and report["verified"] is check
        for path in source.iterdir():
            assert found[path.name]["bytes"] == path.stat().st_size
            assert found[path.name]["mtime_ns"] == path.stat().st_mtime_ns
            assert found[path.name].get("sha256") == (sha256(path) if check else None)
        data = (source / "model.safetensors").read_bytes()
        header = data[: 8 + int.from_bytes(data[:8], "little")]
        assert found["model.safetensors"]["header_sha256"] == hashlib.sha256(header).hexdigest()


def test_the_hubs_own_hash(source: Path, tmp_path: Path) -> None:
    root = tiny_llama(tmp_path / "model")
    digest = sha256(root / "model.safetensors")
    (tmp_path / "blobs").mkdir()
    (root / "model.safetensors").rename(tmp_path / "blobs" / digest)
    (root / "model.safetensors").symlink_to(tmp_path / "blobs" / digest)
    report = run(root, tmp_path / "out")
    found = {entry["name"]: entry for entry in report["sources"]}
    assert found["model.safetensors"]["hub_sha256"] == digest and "sha256" not in found["model.safetensors"]
    assert "hub_sha256" not in found["config.json"]
    assert run(root, tmp_path / "out2", check=True)["verified"]


def test_every_weight(source: Path, tmp_path: Path) -> None:
    report = run(source, tmp_path / "out", scheme="affine4-g64", overrides=("*down_proj=f16",))
    weights = {weight["name"]: weight for weight in report["weights"]}
    was, became = values(source), values(tmp_path / "out")
    assert list(weights) == [weight["name"] for weight in report["weights"]] and set(weights) == set(became)
    for name, weight in weights.items():
        off = became[name].astype(np.float64) - was[name].astype(np.float64)
        rmse = float(np.sqrt((off**2).sum() / (was[name].astype(np.float64) ** 2).sum()))
        assert weight["relative_rmse"] == pytest.approx(rmse, rel=1e-4, abs=1e-12)
        assert weight["largest_error"] == pytest.approx(float(np.abs(off).max()), rel=1e-5, abs=1e-12)
        assert weight["grade"] == ("lossy" if rmse else "exact") and weight["reason"]
    quantized, cast = weights["model.layers.0.mlp.up_proj.weight"], weights["model.layers.0.mlp.down_proj.weight"]
    assert (quantized["route"], quantized["scheme"], quantized["bits_per_weight"]) == ("quantize", "affine4-g64", 4.5)
    assert (cast["route"], cast["scheme"]) == ("cast", "f16") and "down_proj=f16" in cast["reason"]
    assert report["totals"]["routes"] == {"cast": 2, "copy": 5, "quantize": 14}


def test_a_repack_states_its_error(tmp_path: Path) -> None:
    report = run(tiny_awq(tmp_path / "awq"), tmp_path / "out", check=True)
    repacked = [weight for weight in report["weights"] if weight["route"] == "repack"]
    assert repacked and {weight["grade"] for weight in repacked} <= {"exact", "codes-exact"}
    assert all((weight["relative_rmse"] > 0) == (weight["grade"] == "codes-exact") for weight in repacked)


def test_on_stdout(source: Path, tmp_path: Path) -> None:
    code, out, _ = finish(quant("convert", source, tmp_path / "out.gguf", "-s", "q8_0", "--json"))
    assert code == 0 and json.loads(out) == written(tmp_path / "out.gguf")
    assert json.loads(out)["command"][:2] == ["convert", str(source)]
