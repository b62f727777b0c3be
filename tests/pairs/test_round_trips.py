"""Quantized weights that leave their family and come back, by the command: the same codes, the same values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from quantcli.cli.app import app
from quantcli.sources.detect import open_source
from tests.conversions import schemes, stored, values

DEMO = Path(__file__).resolve().parent.parent.parent / "examples" / "demo-qwen3"
#: A chain of files, each with the options that make it of the one before; the schemes of the matrices on the way.
Chain = tuple[tuple[str, tuple[str, ...], str], ...]


def quant(*arguments: object) -> None:
    done = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    assert done.exit_code == 0, done.output


def carried_out(chain: Chain, folder: Path) -> list[Path]:
    """The chain's files, the first of them made of a dense model."""
    made = [DEMO]
    for name, options, scheme in chain:
        quant(made[-1], folder / name, *options)
        made.append(folder / name)
        assert {found for found in schemes(folder / name).values() if found not in ("f32", "f16", "bf16")} == {scheme}
    return made[1:]


def codes(path: Path) -> Mapping[str, NDArray[Any]]:
    """The codes of every quantized weight."""
    found = {}
    for name, weight in open_source(path).weights.items():
        if weight.scheme.grid() is not None:
            read = weight.scheme.codes({part: p.read() for part, p in weight.parts.items()})
            found[name] = np.asarray(read.codes)
    return found


def blocks(path: Path) -> dict[str, bytes]:
    """The bytes of every quantized weight of a GGUF file."""
    weights = open_source(path).weights
    return {name: w.parts["blocks"].read().tobytes() for name, w in weights.items() if "blocks" in w.parts}


def same_values(first: Path, last: Path) -> None:
    ours, theirs = values(first), values(last)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


CHAINS: dict[str, Chain] = {
    **{
        f"{name}{dtype}": (
            ("a.gguf", ("-s", name, "--pure"), name),
            ("mlx", ("--lossless", "exact", "--verify", *options), f"{affine}-g32"),
            ("b.gguf", ("--lossless", "exact", "--verify"), name),
        )
        for name, affine, dtype, options in (
            ("q4_0", "affine4", "", ()),
            ("q5_0", "affine5", "", ()),
            ("q8_0", "affine8", "", ()),
            ("q4_1", "affine4", "", ()),
            ("q4_0", "affine4", " f32", ("--scale-dtype", "f32")),
        )
    },
    "mxfp4": (
        ("a.gguf", ("-s", "mxfp4"), "mxfp4"),
        ("mlx", ("--lossless", "exact", "--verify"), "mxfp4"),
        ("b.gguf", ("--lossless", "exact", "--verify"), "mxfp4"),
    ),
    "affine4-g32": (
        ("a", ("-s", "affine4-g32", "--scale-dtype", "f16"), "affine4-g32"),
        ("between.gguf", ("--lossless", "exact", "--verify"), "q4_1"),
        ("b", ("--lossless", "exact", "--verify", "--dtype", "bf16"), "affine4-g32"),
    ),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_there_and_back(kind: str, tmp_path: Path) -> None:
    first, between, last = carried_out(CHAINS[kind], tmp_path)
    same_values(first, last)
    ours, theirs = codes(first), codes(last)
    assert len(ours) == len(theirs) == 29
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    if kind == "affine4-g32":
        assert stored(first) == stored(last)
    elif first.suffix == ".gguf":
        assert blocks(first) == blocks(last)
    assert len(codes(between)) == 29
