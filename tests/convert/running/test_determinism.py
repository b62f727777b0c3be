"""The same input, options and version give the same bytes, whatever carries them out."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from quantcli.convert.planning import slabs
from quantcli.convert.running import run as runner
from tests.builders import LLAMA, llama_tensors, sharded, tiny_awq, tiny_llama
from tests.runs import finish, quant, run, tree

CASES: list[tuple[str, dict[str, Any]]] = [
    ("out", {"scheme": "affine4-g64"}), ("out", {"scheme": "affine3-g32"}), ("out", {"scheme": "mxfp4"}),
    ("out", {"scheme": "mxfp8"}), ("out", {"scheme": "nvfp4", "overrides": ("*lm_head*=affine6-g128",)}),
    ("out", {"scheme": "f32"}), ("out", {"to": "hf", "scheme": "f16"}), ("out.gguf", {"scheme": "q4_0"}),
    ("out.gguf", {"scheme": "q5_1", "pure": True}), ("out.gguf", {"scheme": "q8_0"}), ("out.gguf", {}),
]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny", hidden_size=128)


@pytest.fixture(scope="module")
def awq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_awq(tmp_path_factory.mktemp("source") / "awq")


@pytest.mark.parametrize(("name", "options"), CASES)
def test_threads_memory_and_slabs(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]
) -> None:
    run(source, tmp_path / "good" / name, **options)
    good = tree(tmp_path / "good" / name)
    for threads, memory in ((2, 1 << 28), (5, 1 << 14), (1, 1 << 12)):
        run(source, tmp_path / f"{threads}" / name, threads=threads, memory=memory, **options)
        assert tree(tmp_path / f"{threads}" / name) == good
    monkeypatch.setattr(runner, "CPU_SLAB", 1 << 11)
    run(source, tmp_path / "slabs" / name, threads=2, **options)
    assert tree(tmp_path / "slabs" / name) == good


def test_small_slabs_are_small(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above says something only where weights are really cut."""
    seen: list[slabs.Slab] = []
    real = runner.cut
    monkeypatch.setattr(runner, "cut", lambda *arguments: seen.extend(cut := real(*arguments)) or cut)
    run(source, tmp_path / "out", threads=1, memory=1 << 12, scheme="affine4-g64")
    assert len(seen) > 100


def test_awq(awq: Path, tmp_path: Path) -> None:
    for name, options in (("out", {}), ("hf", {"to": "hf", "scheme": "f16"}), ("kept", {"to": "hf"})):
        run(awq, tmp_path / "good" / name, **options)
        for threads, memory in ((3, 1 << 12), (1, 1 << 15)):
            run(awq, tmp_path / f"{threads}" / name, threads=threads, memory=memory, **options)
            assert tree(tmp_path / f"{threads}" / name) == tree(tmp_path / "good" / name)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_order_of_shards(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """The same tensors, differently spread over differently named files, in another order."""
    tensors = llama_tensors(LLAMA)
    names = sorted(tensors)
    spreads = [
        {"model.safetensors": dict(tensors)},
        {f"model-{i}.safetensors": {n: tensors[n] for n in names[i::3]} for i in range(3)},
        {f"part-{9 - i}.safetensors": {n: tensors[n] for n in reversed(names[i * 7 : i * 7 + 7])} for i in range(3)},
    ]
    small_files = tiny_llama(tmp_path / "tiny")
    outputs = []
    for number, spread in enumerate(spreads):
        root = sharded(tmp_path / str(number) / "model", spread, LLAMA)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (root / file).write_bytes((small_files / file).read_bytes())
        run(root, tmp_path / "outputs" / str(number) / name, **options)
        outputs.append(tree(tmp_path / "outputs" / str(number) / name))
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.parametrize(("name", "scheme"), [("out", "affine4-g64"), ("out.gguf", "q4_0")])
def test_hash_seed(source: Path, tmp_path: Path, name: str, scheme: str) -> None:
    found = set()
    for seed in ("0", "1", "2"):
        output = tmp_path / seed / name
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        code, _, err = finish(quant("convert", source, output, "-s", scheme, env=environment))
        assert code == 0, err
        found.add(hashlib.sha256(repr(sorted(tree(output).items())).encode()).hexdigest())
    assert len(found) == 1


@pytest.mark.parametrize(("name", "options"), CASES)
def test_mlx_device(source: Path, tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """The array form of every scheme, on MLX's CPU backend, gives the bits of the kernels."""
    run(source, tmp_path / "cpu" / name, **options)
    run(source, tmp_path / "mlx" / name, device="gpu", check=True, **options)
    assert tree(tmp_path / "mlx" / name) == tree(tmp_path / "cpu" / name)
    run(source, tmp_path / "slabs" / name, device="gpu", memory=1 << 15, **options)
    assert tree(tmp_path / "slabs" / name) == tree(tmp_path / "cpu" / name)
