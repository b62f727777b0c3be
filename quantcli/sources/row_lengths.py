"""The length of a weight's rows by its architecture's table, independent of its stored arrays.

Packed codes alone do not determine bits and row length: 64 words are 512 codes of 4 bits, or 256 codes of 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from quantcli import models
from quantcli.checkpoint import Naming
from quantcli.models import Hyperparameters
from quantcli.sources.prefix import naming_of


class RowLengths:
    """Row lengths by the table of config.json's architecture and its sizes, computed on demand.

    names: those of the stored tensors, whose prefix may differ from the table's.
    """

    def __init__(self, config: Mapping[str, Any], names: Iterable[str]) -> None:
        self.config, self.architecture, self.names = config, models.find(config), tuple(names)

    @cached_property
    def _sizes(self) -> Hyperparameters:
        assert self.architecture is not None
        return self.architecture.hyperparameters(models.text_settings(self.config))

    @cached_property
    def _naming(self) -> Naming:
        return Naming() if self.architecture is None else naming_of(self.architecture, self.names)

    def of(self, name: str) -> int | None:
        """Return the columns of a weight by its stored name; None if no table lists it.

        Raises `BadInput` for invalid sizes in config.json.
        """
        matches = self.architecture.find(self._naming.weight(name), "hf") if self.architecture is not None else []
        axes = matches[0].row.axes(matches[0].suffix) if matches else ()
        return axes[-1].of(self._sizes) if len(axes) > 1 else None
