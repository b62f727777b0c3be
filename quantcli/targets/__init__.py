"""Registry of targets by the value of `--to`. To add one, write a file and add a line here."""

from __future__ import annotations

from collections.abc import Callable

from quantcli.targets.base import Target
from quantcli.targets.gguf import GgufTarget
from quantcli.targets.hf import HfTarget
from quantcli.targets.mlx import MlxTarget

TARGETS: dict[str, Callable[[], Target]] = {"mlx": MlxTarget, "gguf": GgufTarget, "hf": HfTarget}
