"""The schemes that `quant schemes` lists, from all families."""

from __future__ import annotations

from collections.abc import Iterator

from quantcli.schemes import dense, ggml
from quantcli.schemes.base import Scheme
from quantcli.schemes.hf import listed as hf_listed
from quantcli.schemes.mlx import affine, mx_floats


def listed(shape: tuple[int, int]) -> Iterator[Scheme]:
    """Yield the schemes for weights of that shape, by family."""
    yield from dense.LISTED
    yield from affine.LISTED
    yield from mx_floats.LISTED
    yield from ggml.TYPES.values()
    yield from hf_listed.listed(shape)
