"""Targets by their `--to` word. A new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable

from quantcli.targets.base import Target
from quantcli.targets.gguf import GgufTarget
from quantcli.targets.hf import HfTarget
from quantcli.targets.mlx import MlxTarget

TARGETS: dict[str, Callable[[], Target]] = {"mlx": MlxTarget, "gguf": GgufTarget, "hf": HfTarget}
