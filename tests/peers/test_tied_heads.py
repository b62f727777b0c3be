"""A model that says that it is tied and stores another head: llama.cpp and mlx-lm compute with that head, as
transformers does.
"""

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.conversions import converted
from tests.peers.pinned import DEMO
from tests.peers.test_architectures import difference, in_mlx_lm, in_transformers
from tests.peers.test_llama_cpp import Runner

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
