"""Every type that ggml encodes: our blocks are libggml's, byte for byte, on rows of odd distributions.

A test's name says how many rows of 256 it compares: a million, or QUANTCLI_ROWS.
"""

import os
import zlib

import numpy as np
import pytest

from quantcli.schemes.ggml import TYPES
from tests.peers import odd_rows
from tests.peers.ggml_library import contracts, quantized
from tests.peers.pinned import peer

library = peer("llama_cpp")

ROWS = int(os.environ.get("QUANTCLI_ROWS", 1_000_000))
#: Rows at a time; in every fourth of these chunks, four rows of 256 are one row of 1024.
CHUNK = 2_000

CASES = [
    pytest.param(name, weighted, id=f"{name}-{'matrix' if weighted else 'plain'}-{ROWS}")
    for name, scheme in TYPES.items()
    for weighted in (False, True)
    if (weighted or not scheme.needs_importance) and not (weighted and name == "q8_k")
]


@pytest.mark.parametrize(("name", "weighted"), CASES)
def test_blocks_are_libggmls(name: str, weighted: bool) -> None:
    if contracts(library):
        pytest.skip("this libggml was built with fused multiply-add, its bytes are others")
    random = np.random.default_rng([zlib.crc32(name.encode()), weighted])
    for number, start in enumerate(range(0, ROWS, CHUNK)):
        x = odd_rows.rows(random, min(CHUNK, ROWS - start))
        weights = odd_rows.matrix(random) if weighted else None
        if number % 4 == 3 and len(x) % 4 == 0:
            x = x.reshape(-1, 4 * odd_rows.COLUMNS)
            weights = None if weights is None else np.tile(weights, 4)
        parts, _ = TYPES[name].encode(x, importance=None if weights is None else weights[None])
        wrong = np.flatnonzero((parts["blocks"] != quantized(library, name, x, weights)).any(axis=1))
        assert not wrong.size, f"chunk {number}: rows {wrong[:8]} of {len(wrong)}, first {x[wrong[0]][:16]} ..."
