"""NVFP4's global scales in every family's GGUF: llama.cpp loads them, and computes with those that stay tensors."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantcli.models.ops import AddOne
from tests.arch_models import architecture_of, config_of
from tests.conversions import converted, schemes
from tests.models.test_prefixes import FIRST
from tests.peers.pinned import peer
from tests.quantized_releases import LAYOUTS, LINEARS, Family, Layout, release

peer("llama_cpp")

from tests.peers.test_llama_cpp import Runner, apart  # noqa: E402

#: Families with matrices under other names than these, or with experts in a layout that modelopt has none for.
SKIPPED = ("mamba", "falcon_mamba", "gpt_oss")
#: The case has sizes with which llama.cpp does not load it, or aborts, dense or not.
UNLOADABLE = ("exaone4", "deepseek_v32")
FURTHER = (
    "w1", "w2", "w3", "in_proj_qkvz", "query_key_value", "qkv_proj", "gate_up_proj", "dense", "fc1", "fc2", "c_fc",
    "c_proj", "dense_h_to_4h", "dense_4h_to_h",
)  # fmt: skip
#: How many experts a token takes, and of how many.
COUNTS = (
    ("num_experts_per_tok", "num_experts"), ("num_experts_per_tok", "num_local_experts"),
    ("num_experts_per_tok", "n_routed_experts"), ("moe_topk", "num_experts"), ("moe_k", "moe_num_experts"),
)  # fmt: skip
#: Of logits, over the largest: codes of 4 bits and activations of 8. A scale that is not applied is 64 times as much.
FAR = 0.03


def family(case: str) -> Family:
    """The case with all experts in use, so that no rounding decides which are."""
    config, rows = config_of(case), architecture_of(case).tensors
    counts = {key: config[count] for key, count in COUNTS if key in config and isinstance(config.get(count), int)}
    is_from_one = any(isinstance(op, AddOne) for row in rows for op in row.ops)
    return Family(case, text=counts, middle=0 if is_from_one else 1)


def is_wanted(module: str) -> bool:
    return ".layers." in module and module.endswith((*LINEARS, *FURTHER))


@pytest.mark.parametrize("name", [name for name in FIRST if name not in (*SKIPPED, *UNLOADABLE)])
def test_llama_cpp_computes_with_them(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS["modelopt-nvfp4"]
    made = release(
        tmp_path / "m", family(FIRST[name]), Layout({**layout.settings, "ignore": []}, layout.pack, "", ""),
        wanted=is_wanted,
    )  # fmt: skip
    converted(made.folder, tmp_path / "codes.gguf", check=False)
    converted(made.folder, tmp_path / "dense.gguf", check=False, scheme="f32")
    kept = sorted(name for name, scheme in schemes(tmp_path / "codes.gguf").items() if scheme == "nvfp4")
    ids = list(range(5, 25))
    difference = apart(Runner(tmp_path / "codes.gguf").logits(ids), Runner(tmp_path / "dense.gguf").logits(ids))
    print(f"{name}: {len(kept)} weights keep NVFP4, largest logit difference {difference:.2g}")
    assert difference < FAR
