"""The GGML types that are converted, by name: a new one is a file beside this one and a line here."""

from __future__ import annotations

from quantcli.schemes import ggml_legacy, q6_k
from quantcli.schemes.ggml_blocks import Ggml

TYPES: dict[str, Ggml] = {**ggml_legacy.SCHEMES, **q6_k.SCHEMES}
