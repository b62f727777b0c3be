"""The result of deciding: the name of a scheme for every draft, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantcli.convert.planning.settings_file import SettingsFile
from quantcli.recipes.base import Decision, Origin

NO_FILE = SettingsFile()
KEEP = Decision("keep", "keep", Origin.DEFAULT)


@dataclass(frozen=True)
class Chosen:
    """A decision for each draft by name. preset: one of mlx-lm's mixtures. common: the scheme for the whole model.

    file_type: GGUF's number of the mixture, None if none was requested. demanding: weights that llama-quantize refuses
    to write without an entry in an importance matrix. asked: the scheme for the whole model that an option gives.
    settings_file: the `quantization_config.json` next to a dense model.
    """

    of: Mapping[str, Decision]
    preset: str | None
    common: str | None
    file_type: int | None
    warnings: tuple[str, ...]
    demanding: frozenset[str] = frozenset()
    asked: Decision | None = None
    settings_file: SettingsFile = NO_FILE
