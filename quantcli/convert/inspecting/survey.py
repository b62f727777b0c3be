"""What `quant inspect` prints about a checkpoint, from its headers only: an entry per weight, totals, checks."""

from __future__ import annotations

import fnmatch
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from quantcli.checkpoint import Checkpoint, Weight
from quantcli.containers.gguf_values import ArrayValue, Value
from quantcli.containers.imatrix import ImportanceMatrix

T = TypeVar("T", bound=tuple[Any, ...])

#: A layer or expert number in a name.
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def entry(weight: Weight) -> dict[str, Any]:
    """Return a weight as `inspect --json` prints it."""
    return {
        "name": weight.name,
        "shape": list(weight.shape),
        "scheme": weight.scheme.name,
        "family": weight.scheme.family,
        "bits_per_weight": round(8 * weight.nbytes / max(1, math.prod(weight.shape)), 4),
        "bits": weight.scheme.code_bits,
        "group_size": weight.scheme.group_size,
        "scale_dtype": weight.scheme.scales_dtype,
        "bytes": weight.nbytes,
        "reason": weight.reason,
        "parts": [
            {
                "name": part.name,
                "dtype": part.dtype,
                "shape": list(part.shape),
                "bytes": part.nbytes,
                "file": part.file.name,
            }
            for part in weight.parts.values()
        ],
    }


def totals(weights: Iterable[Weight]) -> dict[str, Any]:
    """Return counts and sizes over all given weights."""
    listed = list(weights)
    elements = sum(math.prod(w.shape) for w in listed)
    stored = sum(w.nbytes for w in listed)
    return {
        "weights": len(listed),
        "parameters": elements,
        "bytes": stored,
        "bits_per_weight": round(8 * stored / max(1, elements), 4),
        "schemes": dict(sorted(Counter(w.scheme.name for w in listed).items())),
    }


def matching(source: Checkpoint, pattern: str) -> list[Weight]:
    """Return the weights whose names match a glob in any dialect (of stacked experts, the first expert's name)."""
    from quantcli.models import by_gguf, find
    from quantcli.models.base import DIALECTS

    architecture = by_gguf(source.metadata) if source.metadata else find(source.config)
    own = ("gguf",) if source.names == "gguf" else ("hf", "mlx")

    def names(name: str) -> set[str]:
        rows = [row for dialect in own if architecture for row in architecture.find(name, dialect)]
        return {name, source.naming.stored(name)} | {
            row.name(dialect, row.expert or 0) for row in rows for dialect in DIALECTS
        }

    return [w for w in source.weights.values() if any(matches(name, pattern) for name in names(w.name))]


def survey(source: Checkpoint, weights: Sequence[Weight]) -> dict[str, Any]:
    """Return what `inspect --json` prints about a checkpoint and the given weights of it."""
    return {
        "survey_version": 1,
        "source": str(source.root),
        "kind": source.kind,
        "model": model_of(source),
        "weights": [entry(w) for w in weights],
        "totals": totals(weights),
        "warnings": list(source.warnings),
    }


def survey_matrix(matrix: ImportanceMatrix, source: str, pattern: str | None = None) -> dict[str, Any]:
    """Return what `inspect --json` prints about an importance matrix: all but its values. pattern: a glob for names.

    The field `counted` has the tokens counted for the tensor or for each expert; in the legacy form, the calls.
    """
    names = [name for name in matrix.entries if pattern is None or matches(name, pattern)]
    return {
        "survey_version": 1,
        "source": source,
        "kind": "imatrix",
        "form": "dat" if matrix.legacy else "gguf",
        "datasets": list(matrix.datasets),
        "chunks": matrix.chunks,
        "chunk_size": matrix.chunk_size or None,
        "unit": "calls" if matrix.legacy else "tokens",
        "entries": [
            {"name": name, "values": matrix.entries[name].size, "counted": list(matrix.counts[name])} for name in names
        ],
    }


def metadata(source: Checkpoint) -> dict[str, Any]:
    """Return the keys of a GGUF file, or of config.json, as `inspect --metadata --json` prints them."""
    return {key: plain(value) for key, value in (source.metadata or source.config_json).items()}


def plain(value: Any, most: int | None = None) -> Any:
    """Return a metadata value in a form that JSON can hold.

    An array with more than `most` elements becomes its length and first elements; a float32 the shortest decimal that
    identifies it; NaN and Inf a text in NumPy's spelling (`nan`); text that is not UTF-8 has replacement characters.
    value: as read, or a `Value` of a GGUF file.
    """
    kind, held = value if isinstance(value, Value) else ("", value)
    if isinstance(held, dict):
        return {key: plain(one) for key, one in held.items()}
    if isinstance(held, ArrayValue | list):
        length = held.length if isinstance(held, ArrayValue) else len(held)
        first = [plain(one, most) for one in _elements(held)[:most]]
        return first if most is None or length <= most else {"length": length, "first": first}
    if isinstance(held, bytes):
        return held.decode("utf-8", "replace")
    if isinstance(held, float):
        return (float(str(np.float32(held))) if kind == "float32" else held) if math.isfinite(held) else str(held)
    return held


def _elements(array: ArrayValue | list[Any]) -> Sequence[Any]:
    if isinstance(array, list):
        return array
    if array.element == "array":
        return array.arrays()
    elements = array.decode()
    return [Value(array.element, one) for one in elements] if array.element == "float32" else elements


def model_of(source: Checkpoint) -> str | None:
    """Return the architecture's name as the source spells it, None if it has none."""
    if source.metadata:
        name = source.metadata.get("general.architecture")
        return str(plain(name)) if name else None
    kind = source.config_json.get("model_type")
    return kind if isinstance(kind, str) else None


def matches(name: str, pattern: str) -> bool:
    """Return whether a glob matches a weight's name, with or without `.weight`."""
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.removesuffix(".weight"), pattern)


@dataclass(frozen=True)
class Unmet:
    """A check of `inspect` that failed, as an error message."""

    message: str


def requirements(
    source: Checkpoint, required: Sequence[tuple[str, str]], max_bpw: float | None, max_size: int | None
) -> list[Unmet]:
    """Return the checks that fail.

    required: pairs (glob, scheme): at least one weight must match, and all that match must have the scheme. max_size:
    in bytes.
    """
    total = totals(source.weights.values())
    unmet = []
    if max_bpw is not None and total["bits_per_weight"] > max_bpw:
        unmet.append(Unmet(f"--max-bpw {max_bpw}: the model has {total['bits_per_weight']} bits per weight."))
    if max_size is not None and total["bytes"] > max_size:
        unmet.append(Unmet(f"--max-size {max_size}: the tensors take {total['bytes']} bytes."))
    for glob, scheme in required:
        required_weights = matching(source, glob)
        others = [w for w in required_weights if w.scheme.name != scheme]
        if not required_weights:
            unmet.append(Unmet(f"--require {glob}={scheme}: no weight matches."))
        elif others:
            unmet.append(
                Unmet(
                    f"--require {glob}={scheme}: {len(others)} of {len(required_weights)} weights have another scheme; "
                    f"the first is {others[0].name} ({others[0].scheme.name})."
                )
            )
    return unmet


def without_numbers(cells: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return cells without layer numbers: what decided a scheme may quote the weight's name."""
    return tuple(NUMBER.sub("*", cell) if isinstance(cell, str) else cell for cell in cells)


def fold(rows: Sequence[tuple[str, T]], same: Callable[[T], T] = lambda cells: cells) -> list[tuple[str, int, T]]:
    """Return rows (name, number of rows, cells), one for all rows that differ only in a layer number of the name.

    same: maps cells to what has to be equal. Rows keep their order.

    >>> fold([("a.0.w", (1,)), ("a.1.w", (1,)), ("a.2.w", (2,))])
    [('a.{0-1}.w', 2, (1,)), ('a.2.w', 1, (2,))]
    """
    groups: dict[tuple[str, T], list[int | None]] = {}
    for name, cells in rows:
        numbers = NUMBER.findall(name)
        cells = same(cells) if len(numbers) == 1 else cells
        pattern = NUMBER.sub("{}", name, count=1) if len(numbers) == 1 else name
        groups.setdefault((pattern, cells), []).append(int(numbers[0]) if len(numbers) == 1 else None)
    return [(_folded(pattern, numbers), len(numbers), cells) for (pattern, cells), numbers in groups.items()]


def _folded(pattern: str, numbers: Sequence[int | None]) -> str:
    layers = sorted(n for n in numbers if n is not None)
    if not layers:
        return pattern
    return pattern.replace("{}", str(layers[0]) if len(layers) == 1 else f"{{{ranges(layers)}}}", 1)


def ranges(numbers: Sequence[int]) -> str:
    """Return sorted numbers as ranges.

    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    out: list[str] = []
    start = previous = numbers[0]
    for number in [*numbers[1:], None]:
        if number is not None and number == previous + 1:
            previous = number
            continue
        out.append(str(start) if start == previous else f"{start}-{previous}")
        if number is not None:
            start = previous = number
    return ",".join(out)
