"""How long a weight's rows are by its architecture's table, whatever its stored arrays say.

Packed codes alone do not tell bits from row length: 64 words are 512 codes of 4 bits or 256 of 8.
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
    """Row lengths by the table of a config.json's architecture and its sizes, looked up when they are asked for.

    names: of the stored tensors, whose prefix is not always the table's.
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
        """The columns of a weight by its stored name; None where no table has it.

        Raises `BadInput` for sizes that make no sense.
        """
        found = self.architecture.find(self._naming.weight(name), "hf") if self.architecture is not None else []
        axes = found[0].row.axes(found[0].suffix) if found else ()
        return axes[-1].of(self._sizes) if len(axes) > 1 else None
