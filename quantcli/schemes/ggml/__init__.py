"""The GGML types that are converted, by name.

A new one is a file next to this one and a line here, a row in containers/ggml_types.py, and one in recipes/ftypes.py
where llama-quantize can be asked for it.
"""

from __future__ import annotations

from quantcli.schemes.ggml import floats, iq1, iq2, iq3, iq4, k_quants, legacy, q6_k, q8_k, ternary
from quantcli.schemes.ggml.blocks import Ggml

TYPES: dict[str, Ggml] = {
    **legacy.SCHEMES,
    **k_quants.SCHEMES,
    **q6_k.SCHEMES,
    **q8_k.SCHEMES,
    **iq1.SCHEMES,
    **iq2.SCHEMES,
    **iq3.SCHEMES,
    **iq4.SCHEMES,
    **floats.SCHEMES,
    **ternary.SCHEMES,
}
