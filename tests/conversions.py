"""Whole conversions in tests: carry one out, and look at what came out without the package's own readers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.convert.planning.plan import make
from quantcli.convert.planning.request import Request
from quantcli.convert.planning.steps import Plan
from quantcli.convert.running.conversion import convert
from quantcli.convert.running.run import Resources
from quantcli.sources.detect import open_source


def planned(source: Path, output: Path, **options: Any) -> Plan:
    """The plan of a conversion; `options` are fields of `Request`."""
    return make(open_source(source), Request(output=output, **options))


def converted(source: Path, output: Path, *, check: bool = True, **options: Any) -> dict[str, Any]:
    """Convert on the CPU, verified unless `check` is False; the report."""
    return convert(planned(source, output, **options), Resources(200_000_000, 2), lambda done, name: None, check=check)


@dataclass(frozen=True)
class Stored:
    """One tensor of a safetensors file, its bytes as they lie there."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def array(self, dtype: Any) -> NDArray[Any]:
        return np.frombuffer(self.data, dtype).reshape(self.shape)


def stored(folder: Path) -> dict[str, Stored]:
    """Every tensor of a folder's safetensors files, read by hand."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        raw = file.read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        for name, entry in json.loads(raw[8:start]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found[name] = Stored(entry["dtype"], tuple(entry["shape"]), raw[start + begin : start + end])
    return found


def config(folder: Path) -> dict[str, Any]:
    """A folder's config.json."""
    loaded: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return loaded


def values(path: Path) -> dict[str, NDArray[np.float32]]:
    """The decoded float32 values of every weight of a checkpoint, by name."""
    return {
        name: weight.scheme.decode({part: p.read() for part, p in weight.parts.items()}).reshape(weight.shape)
        for name, weight in open_source(path).weights.items()
    }


def schemes(path: Path) -> dict[str, str]:
    """The scheme of every weight of a checkpoint, by name."""
    return {name: weight.scheme.name for name, weight in open_source(path).weights.items()}
