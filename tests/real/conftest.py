"""What is made of the real models, once for all tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conversions import converted
from tests.peers.pinned import peer
from tests.real.releases import FOLDER, RELEASES, Release


@dataclass(frozen=True)
class Made:
    """A release and what is made of it: float32 and own dtype in Hugging Face's folders, MLX, float32 in GGUF."""

    release: Release
    gguf: Path
    hf: Path
    hf_f32: Path
    mlx: Path
    gguf_f32: Path


@pytest.fixture(scope="session", params=RELEASES, ids=[release.name for release in RELEASES])
def made(request: pytest.FixtureRequest) -> Iterator[Made]:
    """Some 3 GB, removed again."""
    release: Release = request.param
    source, work = FOLDER / f"{release.name}.gguf", FOLDER / "made" / release.name
    if not source.is_file():
        pytest.skip(f"{source.name} is not in build/real: run `make real`")
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    peer("torch").set_num_threads(1)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    found = Made(release, source, work / "hf", work / "hf-f32", work / "mlx", work / "f32.gguf")
    converted(source, found.hf, to="hf", check=False)
    converted(source, found.hf_f32, to="hf", dtype="f32", check=False)
    converted(source, found.mlx)
    converted(source, found.gguf_f32, scheme="f32", check=False)
    yield found
    shutil.rmtree(work)


@pytest.fixture(scope="session")
def tokenizer(made: Made) -> Any:
    return peer("transformers").AutoTokenizer.from_pretrained(str(made.hf))
