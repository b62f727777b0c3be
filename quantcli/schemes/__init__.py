"""Number formats: what all schemes are (base.py), those without a family, and a folder for each family of layouts."""

from __future__ import annotations

from quantcli.schemes.base import Scheme


def ggml_scheme(name: str) -> Scheme | None:
    """The quantized GGML type of that name, None where it is not converted yet."""
    from quantcli.schemes.ggml import TYPES

    return TYPES.get(name)
