"""Where levels change from candidate to candidate, against all candidates tried one by one."""

import numpy as np
import pytest

from quantcli.kernels.ggml.codebooks.levels import crossings, levels_at
from quantcli.kernels.ggml.codebooks.search import rules
from quantcli.schemes.ggml.iq2 import RULES as IQ2
from quantcli.schemes.ggml.iq3 import RULES as IQ3

TYPES = {name: (8, 3, of) for name, of in IQ2.items()} | {name: (4, 8, of) for name, of in IQ3.items()}


def groups(rng: np.random.Generator, size: int, codes: np.ndarray) -> list[np.ndarray]:
    """Random magnitudes, some of them negative or 0; and values whose level changes just at a candidate."""
    random = np.abs(rng.standard_normal((40, size)).astype(np.float32)) * np.float32(10) ** rng.integers(-9, 9, (40, 1))
    random[rng.random(random.shape) < 0.1] *= -1
    random[rng.random(random.shape) < 0.1] = 0
    edges = 2 * rng.integers(1, 8, (40, size)) / rng.choice(codes, (40, size)) * (1 + rng.integers(-2, 3) * 2.0**-23)
    edges[:, 0] = 1
    return [*random.astype(np.float32), *np.minimum(edges, 1).astype(np.float32)]


@pytest.mark.parametrize("name", TYPES)
def test_levels_change_where_they_are_found_to(rng: np.random.Generator, name: str) -> None:
    width, base, of = TYPES[name]
    kind = rules(width=width, base=base, **of)
    low, high, cross = (np.zeros(32, np.int32) for _ in range(3))
    for x in groups(rng, kind.group, kind.codes):
        peak = x.max()
        inverse = (kind.codes[: kind.tried] / peak).astype(np.float32)
        steps = np.float32(0.5) * (inverse[:, None] * x - np.float32(1))
        levels = np.clip(np.rint(steps), 0, base - 1).astype(int)
        levels_at(x, 0, kind.group, inverse[0], base, low)
        levels_at(x, 0, kind.group, inverse[-1], base, high)
        assert (low[: kind.group] == levels[0]).all() and (high[: kind.group] == levels[-1]).all()
        for event in range(1, (high - low).max() + 1):
            crossings(x, 0, kind, peak, low, high, np.int32(event), cross)
            wanted = (levels < low[: kind.group] + event).sum(axis=0)
            assert (np.minimum(cross[: kind.group], kind.tried) == wanted).all()
