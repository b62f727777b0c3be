"""All rows of which make_arch.py makes the cases of tests/data/arch."""

from __future__ import annotations

from collections.abc import Mapping

from tests.peers.arch_cases import Case
from tests.peers.arch_cases_listed import CASES
from tests.peers.arch_decoders import DECODERS, VARIANTS
from tests.peers.arch_nested import TOWERED

#: By the name of the folder in tests/data/arch.
ROWS: Mapping[str, Case] = {**CASES, **DECODERS, **VARIANTS, **TOWERED}
