"""Quantized releases of newer families: values are the quantizers' own, and what is made of them loads and computes.

AutoAWQ and GPTQModel are not asked: their layouts are held to them on other models (test_quantized_sources.py), and
here to the codes that were packed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conversions import config, converted
from tests.peers.pinned import peer
from tests.quantized_releases import FAMILIES, LAYOUTS, release

torch = peer("torch")
mlx_lm = peer("mlx_lm")
peer("llama_cpp")
peer("compressed_tensors")
peer("modelopt")
peer("transformers")

import mlx.core as mx  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from tests.peers.make_layouts import modelopt_values  # noqa: E402
from tests.peers.test_llama_cpp import Runner, apart  # noqa: E402

IDS = list(range(5, 37))
NAMES = [name for name in FAMILIES if name != "kimi_k25"]
#: Of logits, over the largest: codes that are kept; what falls back to 8 bits.
KEPT, FALLEN = 2e-3, 5e-2


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> None:
    mx.set_default_device(mx.cpu)


Tensors = Mapping[str, Any]


def by_transformers(tensors: Tensors, module: str, settings: Mapping[str, Any]) -> Any:
    """FP8; None where a block is cut off at the edge, which transformers refuses."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    weight, scale = tensors[f"{module}.weight"], tensors[f"{module}.weight_scale_inv"]
    block = settings.get("weight_block_size")
    if block and any(length % each for length, each in zip(weight.shape, block, strict=True)):
        return None
    return Fp8Dequantize(None)._dequantize_one(weight, scale, torch.bfloat16)


def by_compressed_tensors(tensors: Tensors, module: str, settings: Mapping[str, Any]) -> Any:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    (group,) = settings["config_groups"].values()
    scheme = QuantizationScheme(targets=group["targets"], weights=QuantizationArgs(**group["weights"]))
    start = f"{module}."
    state = {name.removeprefix(start): one for name, one in tensors.items() if name.startswith(start)}
    return BaseCompressor.get_value_from_registry(settings["format"]).decompress(state, scheme)["weight"]


def by_modelopt(tensors: Tensors, module: str, settings: Mapping[str, Any]) -> Any:
    return modelopt_values(tensors, module)


TOOLS: dict[str, Callable[[Tensors, str, Mapping[str, Any]], Any]] = {
    "fp8": by_transformers, "compressed-tensors": by_compressed_tensors, "modelopt": by_modelopt,
}  # fmt: skip


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if LAYOUTS[name].settings["quant_method"] in TOOLS])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_the_tools(family: str, layout: str, tmp_path: Path) -> None:
    """Those that the tests of every day hold the reader to, tensor by tensor."""
    made = release(tmp_path / "m", FAMILIES[family], LAYOUTS[layout])
    tensors, settings = load_file(made.folder / "model.safetensors"), LAYOUTS[layout].settings
    asked = 0
    for name in made.packed:
        module = FAMILIES[family].name(name).removesuffix(".weight")
        found = TOOLS[settings["quant_method"]](tensors, module, settings)
        if found is not None:
            assert np.array_equal(found.float().numpy(), made.truth[name]), name
            asked += 1
    assert asked > len(made.packed) / 2


def bound(layout: str, scheme: str) -> float:
    return FALLEN if "8" in scheme or layout == "awq" else KEPT


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", NAMES)
def test_llama_cpp_computes_with_codes(family: str, layout: str, tmp_path: Path) -> None:
    """And with what it computes of the dense conversion, its 8-bit activations aside."""
    made = release(tmp_path / "m", FAMILIES[family], LAYOUTS[layout])
    converted(made.folder, tmp_path / "codes.gguf")
    converted(made.folder, tmp_path / "dense.gguf", scheme="f32")
    difference = apart(Runner(tmp_path / "codes.gguf").logits(IDS), Runner(tmp_path / "dense.gguf").logits(IDS))
    print(f"{family} {layout}: largest logit difference {difference:.2g}")
    assert difference < FALLEN


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", NAMES)
def test_mlx_lm_loads_strictly(family: str, layout: str, tmp_path: Path) -> None:
    made = release(tmp_path / "m", FAMILIES[family], LAYOUTS[layout])
    converted(made.folder, tmp_path / "codes", to="mlx", dtype="f32", scale_dtype="f32")
    converted(made.folder, tmp_path / "dense", to="mlx", scheme="f32")
    assert "quantization" in config(tmp_path / "codes")
    codes, dense = (load_model(tmp_path / name, strict=True)[0] for name in ("codes", "dense"))
    ours, theirs = (np.array(model(mx.array([IDS]))[0].astype(mx.float32)) for model in (codes, dense))
    difference = apart(ours, theirs)
    print(f"{family} {layout}: largest logit difference {difference:.2g}")
    assert difference < bound(layout, LAYOUTS[layout].mlx)
