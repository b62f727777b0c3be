"""`inspect` reads headers alone: of a file of 100 GB, a hole but for its header, nothing past the first megabyte."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quantcli.cli.app import app
from quantcli.containers import gguf_write
from quantcli.containers.gguf_values import FIRST_READ

LAYERS, ROWS, COLUMNS = 60, 50_000, 16_384


def huge(path: Path) -> Path:
    """bf16, 60 layers of 1.6 GB and a few more tensors: 100 GB, and a vocabulary."""
    tensors = [("token_embd.weight", (ROWS, COLUMNS), "bf16"), ("output.weight", (ROWS, COLUMNS), "bf16")]
    tensors += [(f"blk.{layer}.ffn_down.weight", (ROWS, COLUMNS), "bf16") for layer in range(LAYERS)]
    keys = {
        "general.architecture": ("string", "llama"), "llama.block_count": ("uint32", LAYERS),
        "tokenizer.ggml.tokens": ("array[string]", [f"token {number}" for number in range(ROWS)]),
    }  # fmt: skip
    start, _, size = gguf_write.header(keys, tensors)
    path.write_bytes(start)
    os.truncate(path, size)
    assert size > 100e9 and len(start) > FIRST_READ // 2
    return path


@pytest.mark.parametrize("options", [[], ["--all"], ["--json"], ["--metadata"], ["--rules"]])
def test_nothing_past_the_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    path = huge(tmp_path / "huge.gguf")
    reads: list[tuple[int, int]] = []
    read = os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        reads.append((offset, length))
        return read(descriptor, length, offset)

    def refused(*_: object) -> int:
        raise AssertionError("tensor data is read")

    monkeypatch.setattr(os, "pread", counted)
    monkeypatch.setattr(os, "preadv", refused)
    result = CliRunner().invoke(app, ["inspect", str(path), *options])
    assert result.exit_code == 0, result.stderr
    assert reads and max(offset + length for offset, length in reads) <= 2 * FIRST_READ
    assert sum(length for _, length in reads) <= 4 * FIRST_READ
    if options == ["--json"]:
        totals = json.loads(result.stdout)["totals"]
        assert (totals["weights"], totals["bytes"]) == (LAYERS + 2, (LAYERS + 2) * ROWS * COLUMNS * 2)
