"""Tied models: llama.cpp and mlx-lm load them in every family, and compute with another head where one is stored."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from mlx_lm.utils import load_model
from safetensors.numpy import load_file, save_file

from tests.arch_models import architecture_of, heads, tied_model
from tests.conversions import converted
from tests.convert.test_golden_arch import CASES
from tests.gguf_files import load, save
from tests.peers.pinned import DEMO
from tests.peers.test_architectures import difference, in_mlx_lm, in_transformers
from tests.peers.test_llama_cpp import ABORTS, Runner

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def test_another_head_counts_everywhere(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(DEMO, source)
    arrays = load_file(source / "model.safetensors")
    arrays[HEAD] = np.ascontiguousarray(arrays[EMBEDDING][::-1])
    save_file(arrays, source / "model.safetensors")
    for name, target in (("hf", "hf"), ("mlx", "mlx"), ("a.gguf", "gguf")):
        converted(source, tmp_path / name, to=target, dtype="f32")
    ids = list(range(3, 40))
    wanted, tied = in_transformers(tmp_path / "hf", ids), in_transformers(DEMO, ids)
    assert difference(wanted, tied) > 0.1
    assert difference(wanted, tied[:, ::-1]) < 1e-5
    assert difference(in_mlx_lm(tmp_path / "mlx", ids), wanted) < 1e-4
    assert difference(Runner(tmp_path / "a.gguf").logits(ids), wanted) < 1e-4


@pytest.mark.parametrize("case", [case for case in CASES if heads(case) and case not in ABORTS])
def test_tied_models_load_in_llama_cpp(tmp_path: Path, case: str) -> None:
    """The head is stored exactly where it does not load the model without; or a warning says that it loads none."""
    needs_head = "gguf" in architecture_of(case).stores_head
    report = converted(tied_model(tmp_path, case), tmp_path / "a.gguf")
    if any("llama.cpp does not load" in line for line in report["warnings"]):
        with pytest.raises(AssertionError, match="does not load"):
            Runner(tmp_path / "a.gguf")
        return
    Runner(tmp_path / "a.gguf")
    keys, tensors = load(tmp_path / "a.gguf")
    assert ("output.weight" in tensors) == needs_head
    if needs_head:
        del tensors["output.weight"]
        with pytest.raises(AssertionError, match="does not load"):
            Runner(save(tmp_path / "b.gguf", keys, tensors))


@pytest.mark.parametrize("case", [case for case in CASES if heads(case)])
def test_tied_models_load_in_mlx_lm(tmp_path: Path, case: str) -> None:
    """The head is stored exactly where it does not load the model without; or a warning says that it loads none."""
    needs_head = "mlx" in architecture_of(case).stores_head
    report = converted(tied_model(tmp_path, case), tmp_path / "mlx")
    if any("mlx-lm does not load" in line for line in report["warnings"]):
        with pytest.raises((Exception, SystemExit)):
            load_model(tmp_path / "mlx", strict=True)
        return
    load_model(tmp_path / "mlx", strict=True)
    file = tmp_path / "mlx" / "model.safetensors"
    arrays = load_file(file)
    stored = [name for name in arrays if name in ("lm_head.weight", "model.embed_out.weight")]
    assert len(stored) == needs_head
    if needs_head:
        del arrays[stored[0]]
        save_file(arrays, file, {"format": "mlx"})
        with pytest.raises(ValueError, match="Missing"):
            load_model(tmp_path / "mlx", strict=True)
