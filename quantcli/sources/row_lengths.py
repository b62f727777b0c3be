"""How long a weight's rows are by its architecture's table, whatever its stored arrays say.

Packed codes alone do not tell bits from row length: 64 words are 512 codes of 4 bits or 256 of 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from quantcli import models
from quantcli.models import Hyperparameters


class RowLengths:
    """Row lengths by the table of a config.json's architecture and its sizes, looked up when they are asked for."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config, self.architecture = config, models.find(config)

    @cached_property
    def _sizes(self) -> Hyperparameters:
        assert self.architecture is not None
        return self.architecture.hyperparameters(self.config)

    def of(self, name: str) -> int | None:
        """The columns of a weight by its name in Hugging Face's folders; None where no table has it.

        Raises `BadInput` for sizes that make no sense.
        """
        found = self.architecture.find(name, "hf") if self.architecture is not None else []
        axes = found[0].row.axes(found[0].suffix) if found else ()
        return axes[-1].of(self._sizes) if len(axes) > 1 else None
