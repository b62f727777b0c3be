"""Comparing two checkpoints for `diff`: paired weights are decoded and compared slab by slab."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint, Weight
from quantcli.convert.comparing.align import Aligned, align
from quantcli.convert.comparing.difference import Difference, between, equal_in
from quantcli.convert.comparing.settings import compare_settings
from quantcli.convert.comparing.tensor import StoredTensor, Tensor
from quantcli.convert.comparing.tokenizer_files import TokenizerDifference
from quantcli.convert.comparing.tokenizers import compare_tokenizers
from quantcli.convert.comparing.values import FieldDifference, NotCompared
from quantcli.convert.inspecting.survey import matches
from quantcli.convert.running.run import CPU_SLAB, Progress
from quantcli.convert.running.threads import in_threads
from quantcli.errors import Surroundings, WrongUsage
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import holds

#: Bytes that are read at a time when stored bytes are compared.
BYTES = 4 << 20


class Verdict(StrEnum):
    EQUAL = "equal"
    ROUNDED = "equal after rounding"
    DIFFERS = "differs"
    SHAPES = "shapes differ"
    UNDECODED = "not decoded"


@dataclass(frozen=True)
class WeightDifference:
    """One weight of both checkpoints. rounded_to: the dtype to which both must be rounded to be equal.

    difference: None if values could not be compared.
    """

    a: Tensor
    b: Tensor
    verdict: Verdict
    difference: Difference | None = None
    rounded_to: str | None = None

    @property
    def name(self) -> str:
        return self.a.name

    @property
    def result(self) -> str:
        """The verdict in words."""
        return f"{self.verdict} to {self.rounded_to}" if self.rounded_to else str(self.verdict)

    @property
    def severity(self) -> tuple[int, float]:
        """A key by which worse differences are larger: shapes, NaN or Inf on one side, relative RMSE, not decoded."""
        if self.difference is None:
            return (4 if self.verdict is Verdict.SHAPES else 1), 0.0
        if self.difference.nonfinite:
            return 3, self.difference.relative_rmse
        return (0 if self.verdict is Verdict.EQUAL else 2), self.difference.relative_rmse


@dataclass(frozen=True)
class Comparison:
    """Two compared checkpoints: weights, worst first; weights of one side only; other differences.

    uncounted: settings that differ and do not describe the model. not_compared: parts that could not be compared.
    """

    a: Checkpoint
    b: Checkpoint
    weights: tuple[WeightDifference, ...]
    only_a: tuple[Tensor, ...]
    only_b: tuple[Tensor, ...]
    fields: tuple[FieldDifference, ...]
    tokenizer: tuple[TokenizerDifference, ...]
    uncounted: tuple[FieldDifference, ...]
    not_compared: tuple[NotCompared, ...]
    notes: tuple[str, ...]

    @property
    def total(self) -> Difference:
        """The difference over all compared weights."""
        return sum((w.difference for w in self.weights if w.difference), Difference())

    def count(self, verdict: Verdict) -> int:
        return sum(w.verdict is verdict for w in self.weights)


def nbytes(aligned: Aligned) -> int:
    """Return the stored bytes of all pairs, of both sides."""
    return sum(tensor.nbytes for pair in aligned.pairs for tensor in pair)


def chosen(a: Checkpoint, b: Checkpoint, pattern: str | None = None) -> Aligned:
    """Return the pairs to compare: all, or those whose names in either dialect match a glob.

    Raises `WrongUsage` if none matches, and the errors of `align`.
    """
    aligned = align(a, b)
    if pattern is None:
        return aligned
    filtered = Aligned(
        tuple(pair for pair in aligned.pairs if any(_matches(t, pattern) for t in pair)),
        tuple(t for t in aligned.only_a if _matches(t, pattern)),
        tuple(t for t in aligned.only_b if _matches(t, pattern)),
        aligned.notes,
        aligned.left,
    )
    if not (filtered.pairs or filtered.only_a or filtered.only_b):
        raise WrongUsage(f"--filter: no weight of A or B matches {pattern}.")
    return filtered


def _matches(tensor: Tensor, pattern: str) -> bool:
    return any(matches(name, pattern) for name in tensor.subject.spellings)


def compare(
    a: Checkpoint, b: Checkpoint, aligned: Aligned, max_memory: int, threads: int, progress: Progress
) -> Comparison:
    """Read and compare the pairs of `aligned`. max_memory: bytes of slabs over all threads. Raises `QuantError`."""
    settings, tokens = compare_settings(a, b), compare_tokenizers(a, b)
    budget = min(max_memory // (2 * threads), CPU_SLAB)
    weights = []
    with closing(in_threads(aligned.pairs, lambda pair: _pair(pair[0], pair[1], budget), threads)) as results:
        for _, weight in results:
            weights.append(weight)
            progress(weight.a.nbytes + weight.b.nbytes, weight.name)
    weights.sort(key=lambda w: (-w.severity[0], -w.severity[1], w.name))
    return Comparison(
        a, b, tuple(weights), aligned.only_a, aligned.only_b, tuple(settings.fields), tuple(tokens.differences),
        tuple(settings.uncounted), (*aligned.left, *settings.not_compared, *tokens.not_compared), aligned.notes,
    )  # fmt: skip


def _pair(a: Tensor, b: Tensor, budget: int) -> WeightDifference:
    """Compare one weight of both sides."""
    try:
        if (a.shape or (1,)) != (b.shape or (1,)):
            return WeightDifference(a, b, Verdict.SHAPES)
        if not (a.decodes and b.decodes):
            same = _same_bytes(a, b)
            return WeightDifference(a, b, Verdict.EQUAL if same else Verdict.UNDECODED, Difference() if same else None)
        return _values(a, b, budget)
    except OSError as error:
        raise Surroundings(
            f"{error.filename}: cannot be read ({error.strerror}) for tensor {a.name}. Check the disk."
        ) from error


def _values(a: Tensor, b: Tensor, budget: int) -> WeightDifference:
    total = Difference()
    rounded = _narrower(a.scheme, b.scheme)
    # Ranges of rows that suit both layouts, and the permutation of the side that has one.
    first, second = (b, a) if b.is_permuted else (a, b)
    for slab in first.slabs(second.scheme, budget):
        ours, theirs = a.decoded(slab), b.decoded(slab)
        difference = between(ours, theirs)
        total += difference
        if difference.unequal:
            rounded = [dtype for dtype in rounded if equal_in(dtype, ours, theirs)]
    if total.unequal == 0:
        return WeightDifference(a, b, Verdict.EQUAL, total)
    if rounded:
        return WeightDifference(a, b, Verdict.ROUNDED, total, rounded[0])
    return WeightDifference(a, b, Verdict.DIFFERS, total)


def _narrower(a: Scheme, b: Scheme) -> list[str]:
    """Return the dtypes of one side's values that cannot hold the other's: AWQ's f16, the narrower dense dtype."""
    dtypes = {s.values_dtype for s in (a, b)} & set(FLOATS)
    wide = [s.values_dtype for s in (a, b) if s.values_dtype in FLOATS]
    return sorted(d for d in dtypes if not all(holds(d, other) for other in wide))


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    """Return whether two weights of one scheme, with rows in one order, are stored as the same bytes."""
    if not (isinstance(a, StoredTensor) and isinstance(b, StoredTensor)):
        return False
    if a.scheme != b.scheme or a.source.rows is not b.source.rows:
        return False
    return all(_same_part(a.source.weight, b.source.weight, name) for name in a.source.weight.parts)


def _same_part(a: Weight, b: Weight, name: str) -> bool:
    first, second = a.parts[name], b.parts[name]
    ranges = ((start, min(start + BYTES, first.nbytes)) for start in range(0, first.nbytes, BYTES))
    return first.nbytes == second.nbytes and all(
        np.array_equal(first.read_bytes(*span), second.read_bytes(*span)) for span in ranges
    )


def failures(found: Comparison, max_rmse: float) -> list[str]:
    """Return what `--max-rmse` does not allow, as clauses, worst first: with NaN on one side and missing weights."""
    above = []
    for weight in found.weights:
        difference = weight.difference
        if difference is None:
            above.append(f"{weight.name}: {weight.result}, so its error is unknown")
        elif difference.nonfinite:
            above.append(f"{weight.name}: {difference.nonfinite} values are NaN or Inf on one side only")
        elif difference.relative_rmse > max_rmse:
            above.append(f"{weight.name}: relative RMSE {difference.relative_rmse:.4g} is above {max_rmse:g}")
    return above + [
        f"{t.name}: is only in {side}" for side, ts in (("A", found.only_a), ("B", found.only_b)) for t in ts
    ]


def unequal(found: Comparison) -> list[str]:
    """Return what `--strict` does not allow, as clauses: everything that differs or was not compared."""
    weights = [f"{w.name}: {w.result}" for w in found.weights if w.verdict is not Verdict.EQUAL]
    lone = [f"{t.name}: is only in {side}" for side, ts in (("A", found.only_a), ("B", found.only_b)) for t in ts]
    settings = [f"{f.key}: differs" for f in found.fields]
    tokens = [
        f"tokenizer: {t.count} {'differences' if t.count > 1 else 'difference'} in {t.what}" for t in found.tokenizer
    ]
    left = [
        f"{n.what} of {n.side}{': ' if n.names else ''}{', '.join(n.names[:3])}: not compared"
        for n in found.not_compared
    ]
    return [*weights, *lone, *settings, *tokens, *left]


def as_json(found: Comparison) -> dict[str, Any]:
    """Return the comparison as `diff --json` prints it; infinite numbers are null."""
    total = found.total
    return {
        "diff_version": 2,
        "a": _checkpoint(found.a),
        "b": _checkpoint(found.b),
        "weights": [_weight_json(w) for w in found.weights],
        "only_a": [_tensor_json(t) for t in found.only_a],
        "only_b": [_tensor_json(t) for t in found.only_b],
        "metadata": [_field_json(f) for f in found.fields],
        "tokenizer": [{"what": t.what, "count": t.count, "first": list(t.first)} for t in found.tokenizer],
        "uncounted": [_field_json(f) for f in found.uncounted],
        "not_compared": [
            {"side": n.side, "what": n.what, "names": list(n.names), "reason": n.reason} for n in found.not_compared
        ],
        "totals": {
            **{verdict.name.lower(): found.count(verdict) for verdict in Verdict},
            "only_a": len(found.only_a),
            "only_b": len(found.only_b),
            **_numbers(total),
        },
        "notes": list(found.notes),
    }


def _field_json(difference: FieldDifference) -> dict[str, Any]:
    return {"key": difference.key, "a": difference.a, "b": difference.b}


def _checkpoint(source: Checkpoint) -> dict[str, Any]:
    return {"source": str(source.root), "kind": source.kind, "weights": len(source.weights)}


def _tensor_json(tensor: Tensor) -> dict[str, Any]:
    scheme = tensor.scheme
    return {
        "name": tensor.stored_name,
        "scheme": scheme.name,
        "family": scheme.family,
        "shape": list(tensor.shape),
    }


def _weight_json(weight: WeightDifference) -> dict[str, Any]:
    numbers = _numbers(weight.difference) if weight.difference else dict.fromkeys(_numbers(Difference()))
    return {
        "name": weight.name,
        "a": _tensor_json(weight.a),
        "b": _tensor_json(weight.b),
        "verdict": weight.verdict.name.lower(),
        "rounded_to": weight.rounded_to,
        **numbers,
    }


def _numbers(difference: Difference) -> dict[str, float | int | None]:
    floats = {
        "mse": difference.mse,
        "relative_rmse": difference.relative_rmse,
        "max_error": difference.largest,
        "cosine": difference.cosine,
    }
    finite = {key: value if math.isfinite(value) else None for key, value in floats.items()}
    return {"unequal": difference.unequal, "nonfinite": difference.nonfinite, **finite}
