"""The GGML types that are converted, by name.

A new one is a file next to this one and a line here, a row in containers/ggml_types.py, and one in recipes/ftypes.py
where llama-quantize can be asked for it.
"""

from __future__ import annotations

from quantcli.schemes.ggml import floats as ggml_floats
from quantcli.schemes.ggml import iq1, iq2, iq3, iq4, k_quants, q6_k, q8_k
from quantcli.schemes.ggml import legacy as ggml_legacy
from quantcli.schemes.ggml import ternary as ggml_ternary
from quantcli.schemes.ggml.blocks import Ggml

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
