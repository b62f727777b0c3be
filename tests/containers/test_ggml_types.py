"""The table of GGML types: against ggml's own, as it tells it, and against gguf-py."""

import doctest
import json
import struct
from pathlib import Path

import pytest

from quantcli.containers import ggml_types
from quantcli.containers.ggml_types import BY_ID, BY_NAME, row_bytes
from quantcli.errors import BadInput


def test_table_is_ggmls(shared: Path) -> None:
    told = json.loads((shared / "goldens" / "ggml_types.json").read_text())
    ours = [(t.id, t.name, t.block_size, t.block_bytes) for t in BY_ID.values()]
    assert ours == [(t["id"], t["name"].lower(), t["block_size"], t["bytes_per_block"]) for t in told]


def test_table_agrees_with_gguf() -> None:
    constants = pytest.importorskip("gguf.constants")
    for type, (size, width) in constants.GGML_QUANT_SIZES.items():
        if type.name == "Q8_1":  # 40 there, as before ggml made its two numbers f16
            continue
        ours = BY_ID[int(type)]
        assert (ours.name, ours.block_size, ours.block_bytes) == (type.name.lower(), size, width)


def test_ids_and_names_are_unique() -> None:
    assert len(BY_ID) == len(BY_NAME) == 35
    assert BY_NAME["q2_0"].id == 42
    assert BY_NAME["q4_0"].bits_per_weight == 4.5


def test_row_bytes() -> None:
    assert row_bytes(BY_NAME["f32"], 5) == 20
    assert row_bytes(BY_NAME["q6_k"], 512) == 420
    assert row_bytes(BY_NAME["q6_k"], 0) == 0
    for columns in (100, -256):
        with pytest.raises(BadInput, match=rf"{columns} .* 256 \(q6_k\)"):
            row_bytes(BY_NAME["q6_k"], columns)


def test_fields_and_scales_fill_and_stay_within_a_block() -> None:
    for kind in BY_NAME.values():
        assert kind.fields is None or struct.calcsize("<" + kind.fields) == kind.block_bytes, kind.name
        assert (kind.scales is None) == (kind.block_size == 1), kind.name
        if kind.scales is not None:
            width = kind.scales.count * int(kind.scales.dtype[-1])
            assert 0 <= kind.scales.at <= kind.block_bytes - width, kind.name


def test_doctests() -> None:
    assert doctest.testmod(ggml_types).attempted and doctest.testmod(ggml_types).failed == 0
