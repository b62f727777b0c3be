"""What is written is loaded: GGUF files by llama.cpp, Hugging Face folders by transformers, with no key amiss.

Of every family and of every pair of a source and a target; tests/peers/test_limits.py has the models that no file of
llama.cpp's loads.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.arch_models import arch_model, architecture_of, config_of
from tests.conversions import config, converted
from tests.convert.test_golden_arch import CASES
from tests.pairs.conftest import source  # noqa: F401
from tests.pairs.test_pairs import PAIRS, REFUSED, TARGETS
from tests.peers.pinned import peer

peer("llama_cpp")
torch = peer("torch")
transformers = peer("transformers")
peer("compressed_tensors")
peer("bitsandbytes")

from tests.peers.classes import class_of, known  # noqa: E402
from tests.peers.test_llama_cpp import ABORTS, Runner  # noqa: E402

GGML = ("q4_0", "q8_0", "q4_k_m", "iq4_nl")

#: Cases with experts one by one, which transformers 5 holds as stacked parameters.
EXPERTS = tuple(
    case
    for case in CASES
    if any("{e}" in row.hf and not row.read_only for row in architecture_of(case).around().tensors)
)
#: Families of which transformers 5.23 has no causal model, and a pattern of layers that it does not read.
UNREAD = ("bailing_moe_v2", "bailing_moe_v2_mtp", "mimo_v2_flash_odd", "step3p5", "step3p5_mtp")
#: Families whose classes look for the weight of a packed module when they are set up.
PLAIN_WEIGHTS = ("falcon", "falcon_mamba", "mamba")
#: Layout -> families that transformers 5.23 does not load in it: experts are put together from what is packed or FP8
#: only, and bitsandbytes takes no layer of a class of its own (falcon).
UNLOADABLE = {
    "int4-g32": PLAIN_WEIGHTS,
    "mxfp4": PLAIN_WEIGHTS,
    "int8-channel": EXPERTS,
    "fp8-e4m3-channel": (),
    "nf4-g64": (*EXPERTS, "falcon"),
}


#: What mlx-lm computes a model without, so that it does not come back from its folder.
LEFT_OUT = ("moe_statics.e_score_correction_bias",)


def load(folder: Path) -> None:
    """Load a folder in transformers, every tensor of it; it has no layers for multi-token prediction."""
    torch.set_num_threads(1)
    cls = class_of(folder) or transformers.AutoModelForCausalLM
    place = folder if cls is transformers.AutoModelForCausalLM else known(folder, cls)
    _, info = cls.from_pretrained(str(place), dtype="auto", output_loading_info=True)
    layers = config(folder).get("num_hidden_layers")
    unexpected = {key for key in info["unexpected_keys"] if not key.startswith(f"model.layers.{layers}.")}
    assert not unexpected
    missing = {key for key in info["missing_keys"] if not key.endswith(LEFT_OUT)}
    assert not missing
    assert not {
        kind: found for kind, found in info.items() if found and kind not in ("unexpected_keys", "missing_keys")
    }


@pytest.mark.parametrize("case", [case for case in CASES if case not in ABORTS])
def test_gguf_files_of_every_family_load(tmp_path: Path, case: str) -> None:
    """With every type of weights, or with none, which a warning says."""
    model = arch_model(tmp_path, case)
    for scheme in GGML:
        output = tmp_path / f"{scheme}.gguf"
        report = converted(model, output, scheme=scheme, allow_requantize=True, check=False)
        if any("llama.cpp does not load" in line for line in report["warnings"]):
            with pytest.raises(AssertionError):
                Runner(output)
        else:
            Runner(output)


@pytest.mark.parametrize("case", [case for case in CASES if case not in UNREAD])
def test_dense_folders_of_every_family_load(tmp_path: Path, case: str) -> None:
    """As the source is stored, by way of GGUF, and decoded from GGML's and MLX's types."""
    model = arch_model(tmp_path, case)
    converted(model, tmp_path / "a.gguf", check=False)
    converted(model, tmp_path / "q4_0.gguf", scheme="q4_0", allow_requantize=True, check=False)
    converted(model, tmp_path / "mlx", scheme="affine4-g32", allow_requantize=True, check=False)
    for number, given in enumerate((model, tmp_path / "a.gguf", tmp_path / "q4_0.gguf", tmp_path / "mlx")):
        converted(given, tmp_path / f"hf{number}", to="hf", check=False)
        load(tmp_path / f"hf{number}")


@pytest.mark.parametrize("scheme", UNLOADABLE)
@pytest.mark.parametrize(
    "case", [case for case in CASES if case not in UNREAD and "quantization_config" not in config_of(case)]
)
def test_quantized_folders_of_every_family_load(tmp_path: Path, case: str, scheme: str) -> None:
    report = converted(arch_model(tmp_path, case), tmp_path / "hf", to="hf", scheme=scheme, check=False)
    named = any("does not load experts" in line for line in report["warnings"])
    assert named == (case in EXPERTS and case in UNLOADABLE[scheme])
    if case in UNLOADABLE[scheme]:
        with pytest.raises((RuntimeError, AttributeError)):
            load(tmp_path / "hf")
    else:
        load(tmp_path / "hf")


@pytest.mark.parametrize(
    ("scheme", "is_loaded"),
    [
        ("mxfp8", False), ("int8-tensor", False), ("int8-asym-channel", False), ("fp8-e4m3-block128", False),
        ("fp4-g64", False), ("nf4-double-g64", False), ("int8-g32", True), ("fp8-e4m3-tensor", True),
        ("nvfp4", True), ("int3-channel", True), ("fp8-e4m3", True), ("fp8-e5m2", True),
    ],
)  # fmt: skip
def test_experts_load_or_are_named(tmp_path: Path, scheme: str, is_loaded: bool) -> None:
    report = converted(arch_model(tmp_path, "qwen3_moe"), tmp_path / "hf", to="hf", scheme=scheme, check=False)
    assert any("does not load experts" in line for line in report["warnings"]) != is_loaded
    if is_loaded:
        load(tmp_path / "hf")
    else:
        with pytest.raises(RuntimeError):
            load(tmp_path / "hf")


#: Pairs whose output is an AWQ folder, for which transformers asks for another package.
AWQ = [("awq", "hf")]
WRITTEN = [pair for pair, expected in PAIRS.items() if expected != REFUSED and pair not in AWQ and pair[1][:3] != "mlx"]


@pytest.mark.parametrize(("kind", "target"), WRITTEN, ids=[" to ".join(pair) for pair in WRITTEN])
def test_outputs_of_pairs_load(source: Callable[[str], Path], tmp_path: Path, kind: str, target: str) -> None:  # noqa: F811
    options: dict[str, Any]
    name, options = TARGETS[target]
    converted(source(kind), tmp_path / name, check=False, **options)
    Runner(tmp_path / name) if name.endswith(".gguf") else load(tmp_path / name)
