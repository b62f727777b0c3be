"""Settings of a GGUF file in folders made of it: transformers and mlx-lm compute what llama.cpp computes of the file.

Largest differences of float32 logits over the largest logit. Files are changed key by key with `--override-kv`.
"""

import ctypes
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from quantcli.sources.detect import open_source
from tests.conversions import config, converted
from tests.convert.test_golden_arch import DATA
from tests.peers.pinned import peer

torch = peer("torch")
transformers = peer("transformers")
peer("mlx_lm")

from tests.peers.test_architectures import in_mlx_lm, in_transformers, on_the_cpu, prepared  # noqa: E402, F401
from tests.peers.test_llama_cpp import Runner, apart, llama_cpp  # noqa: E402

#: What float32 in another order of sums leaves.
SAME = 1e-4
#: Families of which llama.cpp computes activations from a table in float16, or experts otherwise.
ROUGH = {"gpt_neox": 1e-3, "gpt_oss": 1e-2}
IDS = list(range(3, 40))


def tiny(root: Path, case: str, **settings: object) -> Path:
    """A model of the committed cases as transformers makes it from its config: random weights, its tokenizer."""
    wanted = json.loads((DATA / "arch" / case / "config.json").read_text()) | settings
    folder = root / case
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(wanted))
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(str(folder)))
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.dim() > 1 and "A_log" not in name:
                values.copy_(torch.randn_like(values) * 1.2 / values.shape[-1] ** 0.5)
    model.float().save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps(wanted | {"torch_dtype": "float32"}))
    kind = json.loads((DATA / "arch" / case / "reference.json").read_text())["tokenizer"]
    for file in (DATA / "tokenizers" / "kinds" / kind).glob("*.json"):
        shutil.copy(file, folder)
    return folder


@pytest.mark.parametrize("case", ["mamba", "falcon_mamba"])
def test_mamba_with_and_without_its_norms_both_ways(tmp_path: Path, case: str) -> None:
    source = tiny(tmp_path, case, mixer_rms_eps=1e-5)
    converted(source, tmp_path / "model.gguf")
    converted(tmp_path / "model.gguf", tmp_path / "hf", to="hf")
    converted(tmp_path / "model.gguf", tmp_path / "mlx")
    theirs = Runner(tmp_path / "model.gguf").logits(IDS)
    assert config(tmp_path / "hf")["model_type"] == case
    for made in (in_transformers(source, IDS), in_transformers(tmp_path / "hf", IDS), in_mlx_lm(tmp_path / "mlx", IDS)):
        assert apart(made, theirs) < SAME


def test_mamba_and_falcon_mamba_are_not_each_other(tmp_path: Path) -> None:
    source = tiny(tmp_path, "falcon_mamba")
    converted(source, tmp_path / "model.gguf")
    converted(tmp_path / "model.gguf", tmp_path / "plain.gguf", override_kv=("mamba.ssm.dt_b_c_rms=bool:false",))
    first, second = (Runner(tmp_path / f"{name}.gguf").logits(IDS) for name in ("model", "plain"))
    assert apart(first, second) > 0.1


@pytest.mark.parametrize(
    ("case", "keys"),
    [
        ("llama", ("rope.scale_linear=float:4",)),
        ("llama", ("rope.scaling.factor=float:4",)),
        ("llama", ("rope.scaling.factor=float:0", "rope.scaling.type=str:linear")),
        ("llama", ("rope.scaling.factor=float:4", "rope.scaling.type=str:none")),
        ("llama", ("rope.scaling.factor=float:4", "rope.scaling.type=str:yarn")),
        ("llama_yarn", ("rope.scaling.attn_factor=float:1.5",)),
        ("qwen3", ("rope.scale_linear=float:4", "rope.scaling.factor=float:2")),
        ("gemma3_text", ("attention.sliding_window_pattern=int:2",)),
        ("gpt_oss", ("attention.sliding_window_pattern=int:3",)),
        ("gpt_neox", ("rope.freq_base=float:500",)),
        ("llama", ("attention.causal=bool:false",)),
        ("qwen2", ("attention.causal=bool:false",)),
    ],
)
def test_a_setting_means_in_transformers_what_it_means_in_llama_cpp(
    shared: Path, tmp_path: Path, case: str, keys: tuple[str, ...]
) -> None:
    source = prepared(shared, tmp_path, case).source
    converted(source, tmp_path / "usual.gguf", scheme="f32")
    prefix = open_source(tmp_path / "usual.gguf").metadata["general.architecture"].value
    named = tuple(f"{prefix}.{key}" for key in keys)
    converted(tmp_path / "usual.gguf", tmp_path / "model.gguf", override_kv=named)
    converted(tmp_path / "model.gguf", tmp_path / "hf", to="hf")
    theirs, usual = (Runner(tmp_path / f"{name}.gguf").logits(IDS) for name in ("model", "usual"))
    found = apart(in_transformers(tmp_path / "hf", IDS), theirs)
    print(f"largest logit difference {found:.2g}, from the usual {apart(usual, theirs):.2g}")
    assert found < ROUGH.get(case, SAME)


@pytest.mark.parametrize(
    "case", ["cohere2", "gemma3_text", "granite", "llama_yarn", "mixtral", "olmo3", "phi3", "qwen3"]
)
def test_what_llama_cpps_model_saver_writes_is_the_same_model(shared: Path, tmp_path: Path, case: str) -> None:
    arch = shared / "fixtures" / "arch"
    source = prepared(shared, tmp_path, case).source
    converted(source, tmp_path / "model.gguf", scheme="f32")
    runner = Runner(tmp_path / "model.gguf")
    llama_cpp.llama_cpp._lib.llama_model_save_to_file(
        ctypes.c_void_p(runner.model), str(tmp_path / "saved.gguf").encode()
    )
    report = converted(tmp_path / "saved.gguf", tmp_path / "hf", to="hf")
    assert not [warning for warning in report["warnings"] if "config.json" in warning]
    ids = np.load(arch / case / "logits.npz")["input_ids"].tolist()
    assert apart(in_transformers(tmp_path / "hf", ids), np.load(arch / case / "logits.npz")["logits"]) < SAME
