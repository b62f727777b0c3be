"""`--search best`: never a worse block than ggml's, less error in the mean, the same file whatever carries it out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from quantcli.arrays import numpy_dtype
from quantcli.cli.app import app
from quantcli.schemes.base import Error
from quantcli.schemes.ggml import TYPES
from quantcli.schemes.mlx.affine import Affine
from tests.builders import tiny_llama
from tests.runs import run, tree

K_TYPES = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k")
COLUMNS = 1024
MATRIX = np.random.default_rng(3).lognormal(0, 1.5, (1, COLUMNS)).astype(np.float32)


def rows() -> dict[str, np.ndarray[Any, Any]]:
    """Rows of several distributions; zeros, constants and gaps among the last."""
    rng = np.random.default_rng(5)
    gauss = rng.standard_normal((6, COLUMNS)).astype(np.float32)
    outliers = gauss * np.where(rng.random(gauss.shape) < 0.01, 15, 1).astype(np.float32)
    odd = gauss.copy()
    odd[0], odd[1], odd[2], odd[3, :40], odd[3, 64:96] = 0, 1, -3, 0, 0
    odd[4], odd[5] = odd[4] * np.float32(1e-20), np.abs(odd[5])
    return {
        "gauss": gauss,
        "laplace": rng.laplace(size=(6, COLUMNS)).astype(np.float32),
        "outliers": outliers,
        "odd": odd,
    }


def block_errors(name: str, values: Any, weights: Any, search: str) -> np.ndarray[Any, Any]:
    """Weighted squared error of each block, from the bytes."""
    importance = None if weights is None else weights
    parts, error = TYPES[name].encode(values, importance=importance, search=search)
    decoded = TYPES[name].decode(parts)
    assert error.squared == pytest.approx(Error.between(values, decoded).squared, rel=1e-5)
    off = np.square(decoded.astype(np.float64) - values) * (1 if weights is None else weights.astype(np.float64))
    return off.reshape(-1, TYPES[name].ggml_type.block_size).sum(axis=1)


@pytest.mark.parametrize("name", TYPES)
def test_no_block_is_worse(name: str) -> None:
    for what, values in rows().items():
        for weights in (MATRIX,) if TYPES[name].needs_importance else (None, MATRIX):
            ggml, best = (block_errors(name, values, weights, search) for search in ("ggml", "best"))
            assert (best <= ggml).all(), what
            if name in K_TYPES and what in ("gauss", "laplace"):
                assert best.sum() < 0.97 * ggml.sum(), what


def test_types_that_it_does_something_for() -> None:
    assert {name for name, scheme in TYPES.items() if scheme.better_search} == set(TYPES) - {"q8_k"}
    assert not Affine(4, 64, "f16").better_search


@pytest.mark.parametrize("name", ["q4_k", "q6_k", "q4_0", "iq4_xs", "mxfp4", "iq3_s"])
def test_slabs_dtypes_and_values_that_are_not_finite(name: str) -> None:
    values = rows()["gauss"].astype(numpy_dtype("bf16"))
    whole = TYPES[name].encode(values, search="best")[0]["blocks"]
    each = [TYPES[name].encode(values[i : i + 1], search="best")[0]["blocks"] for i in range(len(values))]
    assert (whole == np.concatenate(each)).all()
    broken = values.astype(np.float32)
    broken[1, 300] = np.nan
    blocks, error = TYPES[name].encode(broken, search="best")
    assert not np.isfinite(error.reference)
    assert (blocks["blocks"][[0, 2, 3]] == whole[[0, 2, 3]]).all()


def test_iq3_s_has_rows_where_they_belong() -> None:
    """After a group of zeros ggml writes the rows of the next group one group too early."""
    values = rows()["gauss"].copy()
    values[:, 32:64] = 0
    ggml, best = (block_errors("iq3_s", values, None, search).reshape(6, -1)[:, 0].sum() for search in ("ggml", "best"))
    assert best < 0.1 * ggml


def test_conversions(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "tiny", hidden_size=256)
    plain = run(source, tmp_path / "plain" / "out.gguf", scheme="q4_k_s")
    report = run(source, tmp_path / "one" / "out.gguf", threads=1, scheme="q4_k_s", search="best")
    run(source, tmp_path / "three" / "out.gguf", threads=3, scheme="q4_k_s", search="best", check=True)
    one, three, usual = (tree(tmp_path / name / "out.gguf") for name in ("one", "three", "plain"))
    assert one == three != usual
    assert (plain["search"], report["search"]) == ("ggml", "best")


@pytest.mark.parametrize(("output", "search"), [("out", "best"), ("out.gguf", "bset")])
def test_wrong_usage(tmp_path: Path, output: str, search: str) -> None:
    source = tiny_llama(tmp_path / "tiny")
    result = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / output), "--search", search])
    assert result.exit_code == 2
    assert "--search" in result.stderr
