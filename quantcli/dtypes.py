"""How users spell dtypes. A file of its own, since the command line knows them before numpy is loaded."""

from __future__ import annotations

#: Those that dense weights of an output have.
DENSE_DTYPES = ("f32", "f16", "bf16")
