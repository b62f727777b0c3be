"""What is made of checkpoints with leftover tensors, and of architectures without a table, loads in its runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conversions import converted
from tests.convert.planning.test_leftover_tensors import BUFFERS, SCALES, dense
from tests.peers.pinned import peer

mlx_lm = peer("mlx_lm")

from mlx_lm.utils import load_model  # noqa: E402


def test_mlx_lm_loads_a_model_without_its_buffers(tmp_path: Path) -> None:
    converted(dense(tmp_path / "m", {**BUFFERS, **SCALES}), tmp_path / "out")
    load_model(tmp_path / "out", strict=True)


def test_mlx_lm_loads_the_field_example(shared: Path, tmp_path: Path) -> None:
    source = shared / "field" / "hf" / "ct-kv-cache-scales"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    for name, options in (("kept", {}), ("four", {"bits": 4, "group_size": 64, "allow_requantize": True})):
        converted(source, tmp_path / name, **options)
        load_model(tmp_path / name, strict=True)


def test_llama_cpp_loads_the_field_example(shared: Path, tmp_path: Path) -> None:
    llama_cpp = peer("llama_cpp")
    source = shared / "field" / "hf" / "ct-kv-cache-scales"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    converted(source, tmp_path / "out.gguf")
    llama_cpp.Llama(str(tmp_path / "out.gguf"), verbose=False, n_ctx=32).close()


#: Families without a table whose dense folders mlx-lm takes as they are.
UNTABLED = (
    "seed_oss", "apertus", "hunyuan_dense", "lfm2", "qwen3_5", "falcon_h1", "granitemoehybrid", "gemma3", "qwen3_vl",
    "minimax_m2", "qwen3_next",
)  # fmt: skip
#: Those of them whose experts mlx-lm stacks only where they are dense.
NUMBERED = ("minimax_m2", "qwen3_next")


@pytest.mark.parametrize("case", UNTABLED)
@pytest.mark.parametrize("options", [{}, {"bits": 4, "group_size": 32}], ids=["copied", "quantized"])
def test_mlx_lm_loads_architectures_without_a_table(
    shared: Path, case: str, options: dict[str, Any], tmp_path: Path
) -> None:
    source = shared / "fixtures" / "arch2" / case
    if not source.is_dir():
        pytest.skip(f"no {source}")
    report = converted(source, tmp_path / "out", allow_unknown_architecture=True, **options)
    if options and case in NUMBERED:
        assert any("experts that are not stacked" in warning for warning in report["warnings"])
        return
    assert not any("experts that are not stacked" in warning for warning in report["warnings"])
    load_model(tmp_path / "out", strict=True)
