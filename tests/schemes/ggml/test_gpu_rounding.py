"""GGML's searches on a device that rounds otherwise: errors grow no more than search.py's docstring says.

Such a device is made up: each sum, distance, quotient and root of a search on MLX's CPU device comes out a unit in the
last place off or not, by a hash of its bits, and sums run over a tree. Rows are like those of weights.
"""

import re
from typing import Any

import numpy as np
import pytest

from quantcli.arrays import Device
from quantcli.schemes import ggml_scheme
from quantcli.schemes.ggml import iq, iq1, iq1_search, iq4, iq_search, q6_k, search

#: How much larger than ggml's a block's weighted error may be, by type, as the docstring says.
BOUNDS = {
    name: float(bound)
    for bound, names in re.findall(r"^    +(\d+) times   +(.+)$", search.__doc__ or "", re.MULTILINE)
    for name in names.split()
}
#: Super-blocks that are tried: fewer of those types that are slow, and of which many come out otherwise.
COUNT, FEW = 768, {"iq2_xs": 192, "iq2_s": 192, "iq3_xxs": 192}
#: Types whose blocks hardly ever come out otherwise: so many more units are added.
STEADY = {"iq1_s": 16, "iq1_m": 16, "iq2_xxs": 64}


def round_otherwise(monkeypatch: pytest.MonkeyPatch, units: int) -> None:
    import mlx.core as mx

    def off(v: Any) -> Any:
        """v less a unit of its last place, as it is, or more by it; what the CPU kernels make stays as it is."""
        if isinstance(v, np.ndarray):
            return v
        third = (v.view(mx.uint32) * mx.array(0x9E3779B1, dtype=mx.uint32) >> 16) % 3
        return v * (1 + (third.astype(mx.float32) - 1) * units * 2.0**-23)

    nearest, codes, rint, root, scan = search.nearest, iq4._nearest, q6_k._rint, mx.sqrt, mx.cumsum
    distances, sub_scales = iq_search._distances, iq.sub_scales
    monkeypatch.setattr(search, "total", lambda rows: off(mx.sum(rows, axis=0, keepdims=True)))
    monkeypatch.setattr(search, "nearest", lambda v: nearest(off(v)))
    monkeypatch.setattr(iq4, "_nearest", lambda v: codes(off(v)))
    monkeypatch.setattr(q6_k, "_rint", lambda v: rint(off(v)))
    monkeypatch.setattr(iq_search, "_distances", lambda *given: off(distances(*given)))
    monkeypatch.setattr(mx, "sqrt", lambda v: off(root(v)))
    monkeypatch.setattr(mx, "cumsum", lambda v, axis: off(scan(v, axis=axis)))
    for module in (iq, iq1, iq1_search):
        monkeypatch.setattr(module, "sub_scales", lambda v, *rest: sub_scales(off(v), *rest))
    for name in ("_tries32", "_tries16"):
        tries = getattr(iq1_search, name)
        each = lambda *given, tries=tries: [(off(along), off(square)) for along, square in tries(*given)]  # noqa: E731
        monkeypatch.setattr(iq1_search, name, each)


def rows(count: int) -> np.ndarray[Any, Any]:
    """float32 (count / 512, 512), of bf16 precision, Laplace, with heavy tails and with outliers by turns."""
    rng = np.random.default_rng(7)
    values = rng.standard_normal((count // 512, 512)).astype(np.float32)
    values[0::4] = (values[0::4].view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    values[1::4] = rng.laplace(size=values[1::4].shape)
    values[2::4] = rng.standard_t(4, values[2::4].shape)
    values[3::4] *= np.where(rng.random(values[3::4].shape) < 0.01, 15, 1)
    return values


def block_errors(name: str, blocks: Any, values: Any, weights: Any) -> Any:
    off = ggml_scheme(name).decode({"blocks": blocks}).astype(np.float64) - values
    return (weights * off * off).reshape(-1, ggml_scheme(name).ggml_type.block_size).sum(axis=1)


def test_all_searches_have_a_bound() -> None:
    searched = {"q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"}
    assert set(BOUNDS) == searched | {"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"}


@pytest.mark.parametrize("name", BOUNDS)
def test_errors_grow_within_the_bound(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    round_otherwise(monkeypatch, STEADY.get(name, 1))
    scheme, values = ggml_scheme(name), rows(FEW.get(name, COUNT) * 256)
    matrix = np.random.default_rng(3).lognormal(0, 1, (1, 512)).astype(np.float32)
    for importance in (None, matrix):
        if importance is None and (scheme.needs_importance or name in ("q4_0", "q4_1", "q5_0", "q5_1")):
            continue
        ggml = scheme.encode(values, importance=importance)[0]["blocks"]
        ours = scheme.encode(values, Device.MLX, importance)[0]["blocks"]
        weights = 1 if importance is None else importance.astype(np.float64)
        old, new = (block_errors(name, blocks, values, weights) for blocks in (ggml, ours))
        assert (new <= BOUNDS[name] * old).all(), (new / old).max()
        assert new.sum() < 1.02 * old.sum()
    assert (ours != ggml).any()
