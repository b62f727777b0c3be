"""Llama 3's rope factors: ours are the bytes of llama.cpp's converter, and give settings with the same bytes back.

The converter's own bytes depend on the machine; they are those of PyTorch's AVX2 path here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from quantcli.models.rope import Rope, llama3_factors, llama3_from_factors
from tests.peers.pinned import llama_cpp_source, peer

peer("torch")

Settings = tuple[float, int, float, float, float, int]

THETAS = (
    10000.0,
    10000,
    20000.0,
    50000.0,
    150000.0,
    250000,
    300000.0,
    500000.0,
    500001.0,
    1e6,
    5e6,
    8e6,
    1e7,
    12345.678,
)
HEADS = (32, 64, 96, 128, 160, 192, 256)
#: factor, low, high, original context
FACTORS = (
    (8.0, 1.0, 4.0, 8192), (8.0, 1.0, 4.0, 64), (8.0, 1.0, 4.0, 32), (32.0, 1.0, 4.0, 8192), (16, 1, 4, 8192),
    (2.5, 0.5, 3.0, 4096), (20.0, 1.7, 6.3, 1000), (48.0, 1.0, 32.0, 131072), (4.0, 1.0, 2.0, 2048),
    (64.0, 1.0, 4.0, 131072), (10.0, 1.0, 1.5, 512),
)  # fmt: skip
#: Bases that nobody rounded, for the powers themselves.
ODD_THETAS = tuple(float(theta) for theta in 10 ** np.random.default_rng(8).uniform(2, 8, 220))


def combinations() -> list[Settings]:
    odd = [(theta, head, 8.0, 1.0, 4.0, 8192) for theta in ODD_THETAS for head in (32, 64, 96, 128, 256)]
    return [(theta, head, *factors) for theta, head, factors in product(THETAS, HEADS, FACTORS)] + odd


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[Settings, bytes]:
    source = llama_cpp_source(tmp_path_factory.mktemp("llama.cpp"))
    worker, given = Path(__file__).with_name("rope_factors.py"), combinations()
    ran = subprocess.run(
        [sys.executable, worker, source], input=json.dumps(given), capture_output=True, text=True, check=True,
        env=os.environ | {"ATEN_CPU_CAPABILITY": "avx2"},
    )  # fmt: skip
    capability, *lines = ran.stdout.split()
    if capability != "AVX2":
        pytest.skip(f"PyTorch takes its {capability} path on this machine, not AVX2")
    return dict(zip(given, map(bytes.fromhex, lines), strict=True))


def rope(settings: Settings) -> Rope:
    theta, _, factor, low, high, context = settings
    return Rope(float(theta), "llama3", float(factor), context, float(low), float(high))


def ours(found: Rope | None, head: int) -> bytes:
    """The bytes that settings give; factors of 1 of no settings."""
    factors = np.ones(head // 2, np.float32) if found is None else llama3_factors(found, head)
    assert factors is not None
    return factors.tobytes()


def test_factors_are_the_converters(theirs: dict[Settings, bytes]) -> None:
    assert len(theirs) >= 2000
    differing = [settings for settings, wanted in theirs.items() if ours(rope(settings), settings[1]) != wanted]
    assert not differing


def test_settings_found_in_factors_give_them_again(theirs: dict[Settings, bytes]) -> None:
    unlike = []
    for settings, wanted in theirs.items():
        found = llama3_from_factors(np.frombuffer(wanted, np.float32).tolist(), float(settings[0]))
        if ours(found, settings[1]) != wanted:
            unlike.append(settings)
    assert not unlike
