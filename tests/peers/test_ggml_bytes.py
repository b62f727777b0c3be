"""Every type that ggml encodes: our blocks are libggml's, byte for byte, on rows of odd distributions.

A test's name says how many rows of 256 it compares. QUANTCLI_ROWS sets their number for all types: `make million`.
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

#: Rows of those whose search looks codes up in a codebook, and of all others.
SLOW_ROWS, FAST_ROWS = 10_000, 1_000_000
#: Rows at a time; in every fourth of these chunks, four rows of 256 are one row of 1024.
CHUNK = 2_000


def rows_of(name: str) -> int:
    slow = name.startswith(("iq1", "iq2", "iq3"))
    return int(os.environ.get("QUANTCLI_ROWS", SLOW_ROWS if slow else FAST_ROWS))


CASES = [
    pytest.param(name, weighted, rows_of(name), id=f"{name}-{'matrix' if weighted else 'plain'}-{rows_of(name)}")
    for name, scheme in TYPES.items()
    for weighted in (False, True)
    if (weighted or not scheme.needs_importance) and not (weighted and name == "q8_k")
]


@pytest.mark.parametrize(("name", "weighted", "count"), CASES)
def test_blocks_are_libggmls(name: str, weighted: bool, count: int) -> None:
    if contracts(library):
        pytest.skip("this libggml was built with fused multiply-add, its bytes are others")
    random = np.random.default_rng([zlib.crc32(name.encode()), weighted])
    for number, start in enumerate(range(0, count, CHUNK)):
        x = odd_rows.rows(random, min(CHUNK, count - start))
        weights = odd_rows.matrix(random) if weighted else None
        if number % 4 == 3 and len(x) % 4 == 0:
            x = x.reshape(-1, 4 * odd_rows.COLUMNS)
            weights = None if weights is None else np.tile(weights, 4)
        parts, _ = TYPES[name].encode(x, importance=None if weights is None else weights[None])
        wrong = np.flatnonzero((parts["blocks"] != quantized(library, name, x, weights)).any(axis=1))
        assert not wrong.size, f"chunk {number}: rows {wrong[:8]} of {len(wrong)}, first {x[wrong[0]][:16]} ..."
