"""--verify finds damage that came after the writing, down to one bit, and a scheme that does not keep its promise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.convert.running import conversion, verify
from quantcli.convert.running import run as runner
from quantcli.errors import VerificationFailed
from quantcli.schemes.base import Error
from tests.builders import tiny_awq, tiny_llama
from tests.conversions import planned
from tests.runs import beside, finish, quant, run

SCALES = "model.layers.0.mlp.down_proj.weight"
CASES = [
    ("out", {"scheme": "affine4-g64"}, SCALES, ("weight", "scales", "biases")),
    ("out", {"scheme": "mxfp4"}, SCALES, ("weight", "scales")),
    ("out", {"scheme": "affine8-g32", "shard_size": 20_000}, "lm_head.weight", ("weight", "scales")),
    ("out", {}, SCALES, ("weight",)),
    ("out", {"scheme": "f16", "to": "hf"}, "model.norm.weight", ("weight",)),
    ("out.gguf", {"scheme": "q4_0"}, "blk.0.attn_q.weight", ("blocks",)),
    ("out.gguf", {"scheme": "f16"}, "blk.1.attn_norm.weight", ("weight",)),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny")


def damaged(monkeypatch: pytest.MonkeyPatch, file: Path, offset: int, bit: int = 0) -> None:
    """Let one bit of a file that grows flip between writing and verifying."""
    real = verify.check

    def check(*arguments: Any) -> None:
        with open(file, "r+b") as handle:
            handle.seek(offset)
            byte = handle.read(1)[0]
            handle.seek(offset)
            handle.write(bytes([byte ^ (1 << bit)]))
        real(*arguments)

    monkeypatch.setattr(conversion.verify, "check", check)


@pytest.mark.parametrize(("name", "options", "weight", "parts"), CASES)
def test_one_bit(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: Any, weight: str, parts: Any
) -> None:
    plan = planned(source, tmp_path / name, **options)
    grown = tmp_path / f"{name}.partial" / "output"
    for part in parts:
        for bit, nudge in ((0, 0), (7, 1), (3, 16)):
            for file in plan.files:
                if (weight, part) not in file.slots:
                    continue
                path = grown / file.name
                with monkeypatch.context() as patch:
                    damaged(patch, path, file.slots[weight, part] + nudge, bit)
                    with pytest.raises(VerificationFailed, match=r"is not what was written"):
                        run(source, tmp_path / name, check=True, force=True, **options)
                assert beside(tmp_path / name) == [f"{name}.partial"]
    run(source, tmp_path / name, check=True, resume=False, force=True, **options)


def test_awq_repack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_awq(tmp_path / "awq")
    plan = planned(source, tmp_path / "out")
    file = next(file for file in plan.files if file.name == "model.safetensors")
    for _, offset in list(file.slots.items())[:6]:
        with monkeypatch.context() as patch:
            damaged(patch, tmp_path / "out.partial" / "output" / file.name, offset)
            with pytest.raises(VerificationFailed):
                run(source, tmp_path / "out", check=True, force=True)
    run(source, tmp_path / "out", check=True, force=True)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "model.safetensors.index.json"])
def test_headers_and_small_files(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for offset in (0, 40):
        with monkeypatch.context() as patch:
            damaged(patch, tmp_path / "out.partial" / "output" / name, offset)
            with pytest.raises(VerificationFailed, match="[Cc]onvert again"):
                run(source, tmp_path / "out", scheme="affine4-g64", check=True, force=True)


def test_gguf_metadata(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged(monkeypatch, tmp_path / "out.gguf.partial" / "output" / "out.gguf", 300)
    with pytest.raises(VerificationFailed, match="its header or metadata is not what was written"):
        run(source, tmp_path / "out.gguf", check=True)


def test_size(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = verify.check

    def check(plan: Any, output: Path, *rest: Any) -> None:
        os.truncate(output / "model.safetensors", 70_000)
        real(plan, output, *rest)

    monkeypatch.setattr(conversion.verify, "check", check)
    with pytest.raises(VerificationFailed, match="found 70000"):
        run(source, tmp_path / "out", check=True)


def test_a_worse_error_than_measured(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are those of the encoder, but their values are further off than it said."""
    real = runner.make

    def modest(*arguments: Any) -> Any:
        made, error = real(*arguments)
        return made, Error(error.squared * 0.9, error.reference, error.largest)

    monkeypatch.setattr(runner, "make", modest)
    with pytest.raises(VerificationFailed, match=r"relative RMSE .* quantize .*found 0\.0\d+"):
        run(source, tmp_path / "out", scheme="affine4-g64", check=True)


def test_an_exact_route_that_is_not(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A widening that loses a bit, both times it is done."""
    real = runner.make

    def blunt(*arguments: Any) -> Any:
        made, error = real(*arguments)
        weight = np.array(made["weight"])
        weight.reshape(-1)[0] += 1e-3
        return {"weight": weight}, error

    monkeypatch.setattr(runner, "make", blunt)
    monkeypatch.setattr(verify, "make", blunt)
    with pytest.raises(VerificationFailed, match=r"at most 0 after cast \(exact\)"):
        run(source, tmp_path / "out", scheme="f32", check=True)


def test_exit_code(source: Path, tmp_path: Path) -> None:
    """6, and what was written is kept."""
    script = (
        "from quantcli.convert.running import conversion, verify\n"
        "from quantcli.errors import VerificationFailed\n"
        "def fail(*a): raise VerificationFailed('x: differs; convert again.')\n"
        "verify.check = fail\n"
        "from quantcli.cli.app import main; main()\n"
    )
    process = quant("convert", source, tmp_path / "out", "--verify", script=script)
    assert finish(process)[0] == 6 and beside(tmp_path / "out") == ["out.partial"]
