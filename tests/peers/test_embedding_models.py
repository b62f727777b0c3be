"""Embedding models: llama.cpp's converter gives the same file, and others' software loads what is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.sources.detect import open_source
from tests.conversions import converted, stored, values
from tests.peers.pinned import llama_cpp_source, peer
from tests.sources.test_prefix import CLASSES, embedding

transformers = peer("transformers")
torch = peer("torch")

#: What a converter run by hand calls the model, and files of ours do not.
NAMES = ("general.name", "general.basename", "general.size_label", "general.version", "general.finetune")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Model type -> its folder, and the file that llama.cpp's converter makes of it."""
    root = tmp_path_factory.mktemp("embedding")
    source = llama_cpp_source(root / "source")
    folders = {kind: embedding(root / kind, kind) for kind in CLASSES}
    jobs = {
        kind: {"folder": str(path), "pre": "qwen2", "raw": False, "write": str(root / f"{kind}.gguf")}
        for kind, path in folders.items()
    }
    (root / "jobs.json").write_text(json.dumps(jobs))
    worker = Path(__file__).with_name("converter.py")
    done = subprocess.run(
        [sys.executable, str(worker), str(source), str(root / "jobs.json")], capture_output=True, check=True, text=True
    )
    said = json.loads(done.stdout)
    assert not [one for one in said.values() if "error" in one], said
    return {kind: (folders[kind], root / f"{kind}.gguf") for kind in folders}


@pytest.mark.parametrize("kind", CLASSES)
def test_the_converter_gives_the_same_file(kind: str, theirs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    source, file = theirs[kind]
    pooling = f"{kind}.pooling_type"
    converted(source, tmp_path / "a.gguf")
    ours, wanted = values(tmp_path / "a.gguf"), values(file)
    assert ours.keys() == wanted.keys() and all(np.array_equal(ours[name], wanted[name]) for name in wanted)
    said, meant = ({k: v.value for k, v in open_source(path).metadata.items()} for path in (tmp_path / "a.gguf", file))
    odd = {key for key in {*said, *meant} if said.get(key) != meant.get(key)}
    assert not {key for key in odd if key not in NAMES and not key.startswith("tokenizer.")} - {pooling}, odd
    assert said[pooling] == meant.get(pooling, 3)  # which the converter leaves out of llama's, and llama.cpp reads


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("suffix", ["Model", "ForCausalLM"])
def test_transformers_embeds_the_same(kind: str, suffix: str, tmp_path: Path) -> None:
    source = embedding(tmp_path / "m", kind, suffix=suffix)
    converted(source, tmp_path / "hf", to="hf", dtype="f32")
    ids = torch.arange(2, 18)[None]

    def states(path: Path) -> Any:
        model, info = transformers.AutoModel.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        with torch.no_grad():
            return model.eval()(ids).last_hidden_state.numpy()

    assert np.array_equal(states(tmp_path / "hf"), states(source))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scheme", ["bf16", "affine4-g32"])
def test_mlx_lm_loads_the_folder(scheme: str, tied: bool, tmp_path: Path) -> None:
    peer("mlx_lm")
    from mlx_lm.utils import load_model

    converted(embedding(tmp_path / "m", tied=tied), tmp_path / "mlx", scheme=scheme)
    model, _ = load_model(tmp_path / "mlx", strict=True)
    assert model.args.tie_word_embeddings is True
    assert any(name.endswith("embed_tokens.weight") for name in stored(tmp_path / "mlx"))


def test_llama_cpp_loads_the_file(tmp_path: Path) -> None:
    llama_cpp = peer("llama_cpp")
    converted(embedding(tmp_path / "m"), tmp_path / "a.gguf", scheme="f32")
    model = llama_cpp.Llama(str(tmp_path / "a.gguf"), embedding=True, verbose=False, n_ctx=64)
    found = np.asarray(model.embed("hello world"), np.float32)
    assert found.shape == (256,) and np.isfinite(found).all()
