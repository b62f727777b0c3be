"""`--search best` against ggml's own encodings, type by type: how much less squared error, for how much more time.

Random rows of 2048 columns, without an importance matrix and (+) with a log-normal one. CPU seconds, one thread.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from quantcli.schemes.base import Scheme
from quantcli.schemes.ggml import TYPES

COLUMNS = 2048


def rows(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    gauss = rng.standard_normal((count, COLUMNS)).astype(np.float32)
    outliers = gauss * np.where(rng.random(gauss.shape) < 0.01, 20, 1).astype(np.float32)
    return {"Gaussian": gauss, "Laplace": rng.laplace(size=gauss.shape).astype(np.float32), "outliers": outliers}


def cost(scheme: Scheme, values: np.ndarray, weights: np.ndarray | None, search: str) -> tuple[float, float]:
    """Weighted squared error and CPU seconds."""
    scheme.encode(values[:1], importance=weights, search=search)  # compiles
    start = time.process_time()
    parts, _ = scheme.encode(values, importance=weights, search=search)
    seconds = time.process_time() - start
    off = np.square(scheme.decode(parts).astype(np.float64) - values)
    return float((off if weights is None else off * weights).sum()), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--only", nargs="+", metavar="TYPE", help="names of types [all that have a better search]")
    given = parser.parse_args()
    matrix = np.random.default_rng(1).lognormal(0, 1.5, (1, COLUMNS)).astype(np.float32)
    kinds = rows(given.rows)
    print(
        "## `--search best`\n\nLess weighted squared error than ggml's, and times its CPU seconds; + with a matrix.\n"
    )
    print("| type | " + " | ".join(f"{kind} | {kind} +" for kind in kinds) + " | ns a value |")
    print("| --- |" + " ---: |" * (2 * len(kinds) + 1))
    for name in given.only or [name for name, scheme in TYPES.items() if scheme.better_search]:
        cells = []
        for values in kinds.values():
            for weights in (None, matrix):
                if weights is None and TYPES[name].needs_importance:
                    cells.append("-")
                    continue
                (old, before), (new, after) = (cost(TYPES[name], values, weights, s) for s in ("ggml", "best"))
                cells.append(f"{1 - new / old:.1%}, {after / before:.1f}x")
        print(f"| {name} | {' | '.join(cells)} | {after / values.size * 1e9:.0f} |", flush=True)


if __name__ == "__main__":
    main()
