"""docs/repacks.md (`make docs`): what each quantized weight becomes in another format, its grade and its error.

The pairs are those that a conversion without a scheme comes to: they follow from `grid` and `fits`. Errors are measured
on rows of a real weight, encoded in the source scheme and repacked (where nothing holds the grid: encoded anew).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import to_float32
from quantcli.convert.planning.routes import fallback, holders_of, smaller_symmetric
from quantcli.errors import BadInput
from quantcli.schemes import ggml
from quantcli.schemes.base import Codes, Error, Grade, Grid, Scheme
from quantcli.schemes.hf.awq import Awq
from quantcli.schemes.hf.scaled import Scales
from quantcli.schemes.mlx.affine import BITS, GROUPS, Affine
from quantcli.schemes.mlx.mx_floats import MODES, MxFloat
from quantcli.sources.detect import open_source
from quantcli.targets import TARGETS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "repacks.md"
#: The model that errors are measured on.
MODEL = ROOT / "examples" / "demo-qwen3"

HEAD = """\
# Repacks

Written by `make docs`. What a quantized weight becomes in another format when no scheme is asked
for; [numbers.md](numbers.md#weights-that-are-quantized-already) has the rules.

* **from**, **to**: schemes, as in `quant schemes`.
* **MLX scales**: dtypes of the scales and biases in the MLX folder that is read or written.
* **grade**: `exact` keeps the float32 values. `codes-exact` keeps the codes and rounds scales or
  biases. `lossy`: no scheme of the target can represent the codes, so the smallest scheme that adds
  at most 1% takes the values.
* **relative RMSE**: the largest error of the schemes in the row, measured on a weight of
  `examples/demo-qwen3`.

"""

#: The weight that errors are measured on, as the names of most models end, and its rows.
WEIGHT, ROWS = "layers.0.mlp.down_proj.weight", 64

#: Dtypes of MLX scales.
SCALE_DTYPES = ("f16", "bf16", "f32")

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Repack:
    """One row: what a scheme of a family becomes. scales: the dtype of those on MLX's side, None where it is fixed.

    where: the scheme that takes the codes instead where the scales (and biases) themselves allow it, and its grade.
    """

    source: str
    family: str
    to: str
    scales: str | None
    grade: Grade
    error: Error
    where: tuple[str, Grade] | None = None


def repacks(values: Values) -> Iterator[Repack]:
    """All pairs, with errors on these values (rows, columns), columns a multiple of 256."""
    for blocks in ggml.TYPES.values():
        for dtype in ("f16", "f32"):
            yield _repack(blocks, "mlx", dtype, values)
    for scheme in _mlx():
        yield _repack(scheme, "gguf", getattr(scheme, "scale_dtype", None), values)
    for group in GROUPS:
        scales = Scales("f16", 1, group, transposed=True)
        for awq in (Awq(columns=values.shape[1], scales=scales, symmetric=symmetric) for symmetric in (False, True)):
            for dtype in ("f16", "f32"):
                yield _repack(awq, "mlx", dtype, values)
            yield _repack(awq, "gguf", None, values)


def _mlx() -> Iterator[Scheme]:
    yield from (Affine(bits, group, dtype) for bits in BITS for group in GROUPS for dtype in SCALE_DTYPES)
    yield from (MxFloat(mode) for mode in MODES)


def _repack(scheme: Scheme, target: str, dtype: str | None, values: Values) -> Repack:
    holders, shape, grid = TARGETS[target]().holders(dtype or "f16"), values.shape, scheme.grid()
    found = next(holders_of(grid, holders, shape), None) if grid else None
    scales = dtype if scheme.family == "mlx" or isinstance(found[0] if found else None, Affine) else None
    if found is not None:
        assert grid is not None
        _, error = found[0].repack(_codes(scheme, values))
        where = _where(grid, list(smaller_symmetric(*found, holders, grid, shape)), shape)
        return Repack(scheme.name, scheme.family, found[0].name, scales, found[1], error, where)
    taker = fallback(holders, shape)
    assert taker is not None
    decoded = scheme.decode(scheme.encode(values, importance=np.ones((1, shape[1]), np.float32))[0])
    return Repack(
        scheme.name, scheme.family, taker.name, dtype if isinstance(taker, Affine) else scales, Grade.LOSSY,
        taker.encode(decoded)[1], _where(grid, holders, shape),
    )  # fmt: skip


def _where(grid: Grid | None, holders: Sequence[Scheme], shape: tuple[int, ...]) -> tuple[str, Grade] | None:
    """The smallest scheme that may hold a grid's codes, by its scales."""
    able = sorted((s for s in holders if not s.unfit(shape)), key=lambda s: s.bits_per_weight(shape))
    for scheme in able if grid else ():
        assert grid is not None
        if isinstance(grade := scheme.may_fit(grid, shape), Grade):
            return scheme.name, grade
    return None


def _codes(scheme: Scheme, values: Values) -> Codes:
    """Values on the scheme's grid; those of a layout that is read only are rounded to it here."""
    if not isinstance(scheme, Awq):
        return scheme.codes(scheme.encode(values)[0])
    grid, top = scheme.grid(), 15
    assert grid is not None
    groups = values.reshape(len(values), -1, grid.group)
    low, high = np.minimum(groups.min(2), 0), np.maximum(groups.max(2), 0)
    if grid.zero is not None:
        scales, zeros = np.abs(groups).max(2) / (top - grid.zero), np.full(low.shape, grid.zero)
    else:
        scales = (high - low) / top
        zeros = np.rint(-low / scales)
    scales = scales.astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(groups / scales[:, :, None]) + zeros[:, :, None], 0, top).astype(np.uint8)
    return Codes(grid, codes.reshape(values.shape), scales, (-zeros * scales).astype(np.float32))


def table(values: Values) -> str:
    """The pairs in Markdown; rows that differ in groups or scale dtypes only are one, with the largest error."""
    lines = ["| from | to | MLX scales | grade | relative RMSE |", "| --- | --- | --- | --- | ---: |"]
    merged: dict[tuple[object, ...], list[Repack]] = {}
    for row in repacks(values):
        merged.setdefault(_likeness(row), []).append(row)
    for rows in merged.values():
        worst = max(rows, key=lambda row: row.error.relative_rmse)
        scales = " ".join(dict.fromkeys(row.scales for row in rows if row.scales)) or "-"
        lines.append(
            f"| {_names([row.source for row in rows])} | {_names([row.to for row in rows])} | {scales} "
            f"| {_graded(worst)} | {_rmse(worst.error)} |"
        )
    return "\n".join(lines) + "\n"


def _likeness(row: Repack) -> tuple[object, ...]:
    """What rows that are told together share: source and target but for their groups, the grade and why."""
    where = (row.where[0].partition("-")[0], row.where[1]) if row.where else None
    no_grid = row.grade is Grade.LOSSY and row.where is None
    source = "" if no_grid else row.source.partition("-")[0]
    apart = row.scales if row.grade is Grade.CODES_EXACT and row.error.squared else None
    return source, row.family, row.to.partition("-")[0], row.grade, where, apart, bool(row.error.squared)


def _names(names: Sequence[str]) -> str:
    """`affine4-g{32,64}` of `affine4-g32`, `affine4-g64`."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        family, _, group = name.rpartition("-g")
        groups.setdefault(family or name, []).append(group if family else "")
    told = []
    for family, found in groups.items():
        sizes = ",".join(found)
        told.append(f"`{family}`" if not sizes else f"`{family}-g{sizes if len(found) == 1 else '{' + sizes + '}'}`")
    return " ".join(told)


def _graded(row: Repack) -> str:
    if row.where is None:
        return str(row.grade)
    return f"{row.grade}; {row.where[1]} as `{row.where[0]}` where scales allow it"


def _rmse(error: Error) -> str:
    if not error.squared:
        return "0"
    return f"{error.relative_rmse:.1e}" if error.relative_rmse < 1e-3 else f"{error.relative_rmse:.2%}"


def weight_of(folder: Path) -> Values:
    """The rows of a model's weight that errors are measured on. Raises `QuantError`."""
    source = open_source(folder)
    found = next((weight for name, weight in source.weights.items() if name.endswith(WEIGHT)), None)
    if found is None or found.shape[-1] % 256 or len(found.shape) != 2:
        raise BadInput(f"{folder}: has no {WEIGHT} with rows of a multiple of 256: name another model.")
    values: Values = to_float32(found.parts["weight"].read(0, min(ROWS, found.shape[0])))
    return values


def page() -> str:
    """Return the text of docs/repacks.md."""
    return HEAD + table(weight_of(MODEL))


def write() -> None:
    """Write docs/repacks.md."""
    DOCS.write_text(page())


if __name__ == "__main__":
    write()
