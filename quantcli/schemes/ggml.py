"""The GGML types that are converted, by name: a new one is a file beside this one and a line here."""

from __future__ import annotations

from quantcli.schemes import ggml_floats, ggml_legacy, ggml_ternary, iq1, iq2, iq3, iq4, k_quants, q6_k, q8_k
from quantcli.schemes.ggml_blocks import Ggml

TYPES: dict[str, Ggml] = {
    **ggml_legacy.SCHEMES,
    **k_quants.SCHEMES,
    **q6_k.SCHEMES,
    **q8_k.SCHEMES,
    **iq1.SCHEMES,
    **iq2.SCHEMES,
    **iq3.SCHEMES,
    **iq4.SCHEMES,
    **ggml_floats.SCHEMES,
    **ggml_ternary.SCHEMES,
}
