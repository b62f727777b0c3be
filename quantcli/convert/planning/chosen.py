"""What deciding gives a plan: a scheme's name for every draft, with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantcli.convert.planning.beside import Beside
from quantcli.recipes.base import Decision, Origin

NO_FILE = Beside()
KEEP = Decision("keep", "keep", Origin.DEFAULT)


@dataclass(frozen=True)
class Chosen:
    """A decision for each draft by name. preset: of mlx-lm's mixtures; common: the scheme given for the whole model.

    file_type: GGUF's number of the mixture, None where none was asked for. demanding: weights that llama-quantize does
    not make without an entry in an importance matrix. asked: the scheme for the whole model that an option gives.
    beside: the `quantization_config.json` next to a dense model.
    """

    of: Mapping[str, Decision]
    preset: str | None
    common: str | None
    file_type: int | None
    warnings: tuple[str, ...]
    demanding: frozenset[str] = frozenset()
    asked: Decision | None = None
    beside: Beside = NO_FILE
