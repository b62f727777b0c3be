"""Every table is a bijection; row permutations are invertible and give llama.cpp's bytes."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from quantcli.errors import BadInput
from quantcli.models import ARCHITECTURES, Architecture, Hyperparameters, PermuteRows, Rope, by_gguf, find
from quantcli.models.llama import rope_factors

TABLES = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda a: a.name)


def sizes(**changed: object) -> Hyperparameters:
    standard = dict(architecture="llama", layers=2, context_length=512, embedding_length=64, feed_forward_length=128)
    standard |= dict(heads=4, kv_heads=2, head_dim=16, rms_norm_eps=1e-5, vocab_size=100, rope=Rope())
    return Hyperparameters(**(standard | changed))  # type: ignore[arg-type]


def every_name(architecture: Architecture, layers: int) -> list[str]:
    """All Hugging Face names that a table can stand for."""
    return [
        f"{row.hf}.{suffix}".replace("{i}", str(i))
        for row in architecture.tensors
        for suffix in row.suffixes
        for i in range(layers if "{i}" in row.hf else 1)
    ]


@TABLES
def test_each_source_tensor_once_and_each_target_once(architecture: Architecture) -> None:
    names = every_name(architecture, layers=13)
    there = [architecture.to_gguf(name) for name in names]
    assert None not in there
    targets = [found[0] for found in there if found]
    assert len(set(names)) == len(names) == len(set(targets))
    back = [architecture.to_hf(name) for name in targets]
    assert [found[0] for found in back if found] == names
    assert all(found and twin and found[1] is twin[1] for found, twin in zip(there, back, strict=True))
    assert not {row.gguf for row in architecture.computed} & set(targets)


@TABLES
def test_role_and_layer_are_the_same_in_both_dialects(architecture: Architecture) -> None:
    for name in every_name(architecture, layers=2):
        found = architecture.to_gguf(name)
        assert found is not None
        assert architecture.role(name) == architecture.role(found[0]) == found[1].role
        assert architecture.layer(name) == architecture.layer(found[0])


@TABLES
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.{i}.self_attn.q_proj.weight",
        "blk.{i}.attn_q.weight",
        "model.layers.01.self_attn.q_proj.weight",
        "model.layers.-1.self_attn.q_proj.weight",
        "model.layers.١.self_attn.q_proj.weight",
        "model.layers.9999999999.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.q_proj.scales",
        "model.layers..self_attn.q_proj.weight",
        "model.embed_tokens.bias",
        "{i}",
        "",
        "weight",
    ],
)
def test_unknown_names_have_no_place(architecture: Architecture, name: str) -> None:
    assert architecture.to_gguf(name) is None
    assert architecture.to_hf(name) is None
    assert architecture.role(name) is None


def test_lookup() -> None:
    assert find({"model_type": "mistral"}) is ARCHITECTURES["llama"]
    assert find({"model_type": "qwen3"}) is by_gguf("qwen3") is ARCHITECTURES["qwen3"]
    assert find({"model_type": "mixtral"}) is None
    assert find({"model_type": ["llama"]}) is None
    assert find({}) is None
    assert by_gguf("gemma2") is None


def test_roles() -> None:
    llama = ARCHITECTURES["llama"]
    assert llama.role("rope_freqs.weight") == "rope_freqs"
    assert llama.role("lm_head.weight") == llama.role("output.weight") == "output"
    assert llama.drops("model.layers.3.self_attn.rotary_emb.inv_freq")
    assert not llama.drops("model.layers.3.self_attn.q_proj.weight")


@pytest.mark.parametrize("heads", ["heads", "kv_heads"])
def test_permutation_and_inverse_cancel(heads: str) -> None:
    op, h = PermuteRows(heads), sizes()
    rows = np.arange(64)
    assert (rows[op.index(64, h)][op.inverse(64, h)] == rows).all()
    assert op.index(64, h).tolist() != rows.tolist()


def test_permutation_of_one_head() -> None:
    assert PermuteRows("heads").index(8, sizes(heads=1)).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert PermuteRows("heads").index(8, sizes(heads=2)).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_rows_that_are_no_heads_are_refused() -> None:
    with pytest.raises(BadInput, match="60 rows cannot be split into 4 attention heads"):
        PermuteRows("heads").index(60, sizes())


def test_rope_factors_of_llama_3() -> None:
    """What llama.cpp's converter wrote for head_dim 32, theta 500000, factor 8, factors 1 and 4, 8192 tokens."""
    rope = Rope(500000.0, "llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
    factors = rope_factors(sizes(head_dim=32, rope=rope))
    assert factors is not None and factors.dtype == np.float32
    assert factors.tolist() == [1.0] * 8 + [2.6945300102233887] + [8.0] * 7
    assert rope_factors(sizes()) is None


def _tensor(file: Path, name: str) -> np.ndarray:
    """The raw 16-bit words of one tensor of a safetensors file."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + length])[name]
    start, stop = (8 + length + offset for offset in entry["data_offsets"])
    return np.frombuffer(data[start:stop], np.uint16).reshape(entry["shape"])


@pytest.mark.parametrize(
    ("model", "manifest", "names"),
    [
        ("models/tiny-llama", "gguf/tiny-llama/convert-bf16.json", ["q_proj.weight", "k_proj.weight", "v_proj.weight"]),
        ("arch/llama_linear", "arch/llama_linear/reference-bf16.json", ["q_proj.bias", "k_proj.bias", "k_proj.weight"]),
    ],
)
def test_permuted_rows_hash_as_llama_cpp_wrote_them(shared: Path, model: str, manifest: str, names: list[str]) -> None:
    folder = shared / "fixtures" / model
    config = json.loads((folder / "config.json").read_text())
    architecture = find(config)
    assert architecture is not None
    h = architecture.hyperparameters(config)
    wanted = {t["name"]: t["sha256"] for t in json.loads((shared / "fixtures" / manifest).read_text())["tensors"]}
    for name in (f"model.layers.{i}.self_attn.{name}" for i in range(h.layers) for name in names):
        found = architecture.to_gguf(name)
        assert found is not None
        rows = _tensor(folder / "model.safetensors", name)
        for op in found[1].ops:
            rows = rows[op.index(rows.shape[0], h)]
        if rows.ndim == 1:  # one-dimensional tensors are float32 in GGUF
            rows = rows.astype(np.uint32) << np.uint32(16)
        assert hashlib.sha256(rows.tobytes()).hexdigest() == wanted[found[0]], name


@pytest.mark.parametrize(
    "case", ["llama", "qwen2", "qwen3", "mistral", "llama_llama3rope", "llama_linear", "llama_yarn"]
)
def test_tables_name_what_llama_cpp_wrote(shared: Path, case: str) -> None:
    folder = shared / "fixtures" / "arch" / case
    config = json.loads((folder / "config.json").read_text())
    architecture = find(config)
    assert architecture is not None
    header = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(header[:8], "little")
    sources = [name for name in json.loads(header[8 : 8 + length]) if name != "__metadata__"]
    made = {found[0] for found in map(architecture.to_gguf, sources) if found}
    h = architecture.hyperparameters(config)
    made |= {row.gguf for row in architecture.computed if row.values(h) is not None}
    reference = json.loads((folder / "reference-bf16.json").read_text())
    assert made == {tensor["name"] for tensor in reference["tensors"]}
    for row in architecture.computed:
        values = row.values(h)
        hashes = {t["name"]: t["sha256"] for t in reference["tensors"]}
        assert values is None or hashlib.sha256(values.tobytes()).hexdigest() == hashes[row.gguf]
