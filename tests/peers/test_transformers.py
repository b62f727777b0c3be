"""transformers loads our dense Hugging Face folders, and computes with them what it computes with the source."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conversions import config, converted
from tests.peers.pinned import DEMO, MODELS, peer

torch = peer("torch")
transformers = peer("transformers")


def load(folder: Path, dtype: str = "float32") -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=getattr(torch, dtype) if dtype != "auto" else "auto", attn_implementation="eager"
    ).eval()


def logits(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = model(torch.tensor([ids])).logits[0].float().numpy()
    return found


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("given", [{}, {"scheme": "f32"}, {"dtype": "f16"}], ids=["keep", "f32", "f16"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_sources(shared: Path, tmp_path: Path, name: str, given: dict[str, str]) -> None:
    """To the last bit, where nothing is rounded; f16 loses only what is below its smallest normal number."""
    folder = shared / "fixtures" / "models" / name
    converted(folder, tmp_path / "out", to="hf", **given)
    ids = np.load(folder / "probe_logits.npz")["input_ids"].tolist()
    ours, theirs = logits(load(tmp_path / "out"), ids), logits(load(folder), ids)
    if "dtype" in given:
        assert apart(ours, theirs) < 1e-5
    else:
        assert np.array_equal(ours, theirs)


def test_loads_in_the_dtype_that_was_asked_for(tmp_path: Path) -> None:
    converted(DEMO, tmp_path / "out", to="hf", dtype="f16")
    assert load(tmp_path / "out", "auto").dtype == torch.float16


def test_shards_load(tmp_path: Path) -> None:
    converted(DEMO, tmp_path / "out", to="hf", shard_size=1_000_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
    ids = list(range(20))
    assert np.array_equal(logits(load(tmp_path / "out"), ids), logits(load(DEMO), ids))


def test_generates_the_source_text(shared: Path, tmp_path: Path) -> None:
    folder = shared / "fixtures" / "models" / "tiny-mistral-spm"
    converted(folder, tmp_path / "mlx", dtype="f32")
    converted(tmp_path / "mlx", tmp_path / "out", to="hf")
    expected = json.loads((folder / "expected_generation.json").read_text())
    model, ids = load(tmp_path / "out"), list(expected["prompt_ids"])
    for _ in range(40):
        ids.append(int(logits(model, ids)[-1].argmax()))
    assert ids == expected["ids"][: len(ids)]


@pytest.fixture
def awq(shared: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "micro-awq"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copyfile(shared / "fixtures" / "quantized" / "autoawq-gemm-g64" / name, folder / name)
    return folder


def test_awq_as_f16(shared: Path, awq: Path, tmp_path: Path) -> None:
    """transformers holds AutoAWQ's own truth then, every weight; the model still speaks."""
    converted(awq, tmp_path / "out", to="hf", scheme="f16")
    assert config(tmp_path / "out")["torch_dtype"] == "float16"
    model = load(tmp_path / "out", "auto")
    assert model.dtype == torch.float16
    truth = json.loads((shared / "fixtures" / "quantized" / "autoawq-gemm-g64" / "truth.json").read_text())["tensors"]
    held = dict(model.named_parameters())
    for name, entry in truth.items():
        values = held[name].detach().float().numpy() + np.float32(0)
        assert hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() == entry["sha256_f32_no_negative_zero"]
    probe = np.load(shared / "fixtures" / "models" / "micro-llama" / "probe_logits.npz")
    found = logits(model.float(), probe["input_ids"].tolist())
    agreement = float((found.argmax(-1) == probe["logits"].argmax(-1)).mean())
    print(f"best token as the dense model's at {agreement:.0%} of places")
    assert agreement > 0.7


@pytest.mark.parametrize("scheme", ["affine4-g64", "mxfp4", "nvfp4", "mixed_3_6"])
def test_decoded_mlx_folder(tmp_path: Path, scheme: str) -> None:
    """A quantized MLX folder, decoded to float32, gives in transformers the logits that mlx-lm gives for its codes."""
    peer("mlx_lm")
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    converted(DEMO, tmp_path / "mlx", scheme=scheme)
    converted(tmp_path / "mlx", tmp_path / "out", to="hf", scheme="f32", lossless="exact")
    model, _ = load_model(tmp_path / "mlx")
    model.update(tree_map(lambda p: p.astype(mx.float32) if p.dtype == mx.bfloat16 else p, model.parameters()))
    ids = list(range(5, 37))
    theirs = np.array(model(mx.array([ids]))[0].astype(mx.float32))
    difference = apart(logits(load(tmp_path / "out"), ids), theirs)
    print(f"largest logit difference {difference:.2g}")
    assert difference < 2e-5


@pytest.mark.parametrize("name", ["out", "mlx"])
def test_tokenizer_loads_from_our_folder(tmp_path: Path, name: str) -> None:
    converted(DEMO, tmp_path / name, to="hf" if name == "out" else "mlx")
    ours, theirs = (transformers.AutoTokenizer.from_pretrained(str(f)) for f in (tmp_path / name, DEMO))
    text = "My dear Mr. Bennet, naïve 東京 12345"
    assert ours.encode(text) == theirs.encode(text)
    messages = [{"role": "user", "content": "Hello"}]
    assert ours.apply_chat_template(messages, tokenize=False) == theirs.apply_chat_template(messages, tokenize=False)
