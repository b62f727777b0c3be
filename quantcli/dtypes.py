"""How users spell dtypes. A separate file, because the command line needs them before numpy is imported."""

from __future__ import annotations

#: Dtypes that dense weights of an output can have.
DENSE_DTYPES = ("f32", "f16", "bf16")
