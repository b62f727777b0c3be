"""Folders in the dtypes that mlx-lm's and transformers' own tools make of them, and mlx-lm's arithmetic in ours."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conversions import config, converted
from tests.convert.test_golden_arch import DATA, reference, write_model
from tests.peers.pinned import DEMO, peer

mlx_lm = peer("mlx_lm")
torch = peer("torch")
transformers = peer("transformers")

import mlx.core as mx  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

#: A family, whether mlx-lm computes right in float16.
FAMILIES = {"gemma2": False, "gemma3_text": True, "glm4": False, "gpt_oss": False, "deepseek_v2": False, "llama": True}


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> None:
    mx.set_default_device(mx.cpu)


@pytest.mark.parametrize("quantized", [True, False], ids=["quantized", "dense"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_mlx_lm_converts_to_a_dtype_stays_in_it(tmp_path: Path, dtype: str, quantized: bool) -> None:
    """config.json of such a folder says what the source's said: bfloat16, under the newer name here."""
    mlx_lm.convert(str(DEMO), str(tmp_path / "mlx"), quantize=quantized, q_bits=4, q_group_size=64, dtype=dtype)
    assert config(tmp_path / "mlx")["dtype"] == "bfloat16"
    converted(tmp_path / "mlx", tmp_path / "hf", to="hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "hf"), dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert model.config.dtype == getattr(torch, dtype)
    converted(tmp_path / "mlx", tmp_path / "again")
    ours, theirs = (load_model(tmp_path / name, strict=True)[0](mx.array([[1, 2, 3]])) for name in ("again", "mlx"))
    assert mx.array_equal(ours, theirs) and ours.dtype == getattr(mx, dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_folders_from_gguf_compute_in_a_dtype_that_works(tmp_path: Path, family: str) -> None:
    folder = tmp_path / family
    write_model(folder, family, reference(family)["source"])
    kind = json.loads((DATA / "arch" / family / "reference.json").read_text())["tokenizer"]
    for file in (DATA / "tokenizers" / "kinds" / kind).glob("*.json"):
        shutil.copy(file, folder)
    converted(folder, tmp_path / "q4_0.gguf", scheme="q4_0", pure=True)
    converted(tmp_path / "q4_0.gguf", tmp_path / "mlx")
    logits = load_model(tmp_path / "mlx", strict=True)[0](mx.array([[1, 2, 3, 4, 5]]))
    assert logits.dtype == (mx.float16 if FAMILIES[family] else mx.float32)
    assert np.isfinite(np.array(logits.astype(mx.float32))).all()
    converted(tmp_path / "q4_0.gguf", tmp_path / "hf", to="hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "hf"), dtype="auto")
    assert model.dtype == (torch.float16 if family == "llama" else torch.bfloat16)
