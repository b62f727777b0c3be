"""mlx-vlm loads our MLX folders of models with towers, strictly and with every tensor of the tower in its place.

An environment of its own: `make peers-vlm`. Cases are those of fixtures/arch2 of the reference data.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.sources.detect import open_source
from tests.builders import BF16, safetensors_bytes
from tests.conversions import converted, stored
from tests.convert.test_multimodal_shared import folder_of

PINNED = "0.7.10"
try:
    FOUND = version("mlx-vlm")
except PackageNotFoundError:
    pytest.skip("mlx-vlm is not installed: run `make peers-vlm`", allow_module_level=True)
assert FOUND == PINNED, f"mlx-vlm is {FOUND}, these tests are about {PINNED}: run `make peers-vlm`"

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten, tree_map  # noqa: E402
from mlx_vlm.utils import load_model  # noqa: E402

CASES = (
    "gemma3", "glm4v", "mistral3", "qwen2_5_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe", "smolvlm",
)  # fmt: skip
#: Cases whose quantized folders mlx-vlm does not load, nor those that mlx-lm itself writes, and why.
UNLOADABLE = {"gemma3": "makes the head of a tied model of the packed embedding without its scales"}
#: What an error of logits may be whatever mlx-vlm's own is.
LIMIT = 1e-4
#: Patches to a side, and tokens of an image, that mlx-vlm's Gemma 3 has; the case's tower has fewer.
SIDE, POSITIONS = 16, "position_embedding.weight"


@pytest.fixture(scope="module", autouse=True)
def plain_mlx() -> Iterator[None]:
    """On the CPU, and without the system's compiler."""
    mx.set_default_device(mx.cpu)
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.fixture(params=CASES)
def source(request: pytest.FixtureRequest, shared: Path, tmp_path: Path) -> Path:
    """The folder of a case."""
    case = shared / "fixtures" / "arch2" / str(request.param)
    if not case.is_dir():
        pytest.skip(f"no reference data: {case.name} is not there")
    folder = folder_of(case, tmp_path)
    shutil.copy(case / "preprocessor_config.json", folder)
    if case.name == "gemma3":
        enlarge(folder)
    return folder


def enlarge(folder: Path) -> None:
    """Give the tower of a Gemma 3 case images of a size that mlx-vlm's class works with."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    vision = config["vision_config"]
    vision["image_size"] = SIDE * vision["patch_size"]
    (folder / "config.json").write_text(json.dumps(config | {"mm_tokens_per_image": SIDE**2}))
    arrays = {name: one.array(BF16 if one.dtype == "BF16" else "f4") for name, one in stored(folder).items()}
    name = next(name for name in arrays if name.endswith(POSITIONS))
    arrays[name] = np.full((SIDE**2, arrays[name].shape[1]), 0.5, BF16)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(arrays, {"format": "pt"}))


@pytest.mark.parametrize("is_quantized", [False, True], ids=["dense", "4-bit"])
def test_folders_load_with_their_towers(source: Path, shared: Path, tmp_path: Path, is_quantized: bool) -> None:
    towers, before = open_source(source).towers, stored(source)
    converted(source, tmp_path / "mlx", to="mlx", **({"scheme": "affine4-g32"} if is_quantized else {}))
    if is_quantized and source.name in UNLOADABLE:
        with pytest.raises(ValueError, match="lm_head"):
            load_model(tmp_path / "mlx")
        return
    model = load_model(tmp_path / "mlx")  # strict, and a tower without weights is dropped with a warning
    loaded = tree_flatten(model.parameters())
    held = [np.array(one.astype(mx.float32)) for name, one in loaded if not name.startswith("language_model.")]
    wanted = [before[name].array(BF16 if before[name].dtype == "BF16" else "f4").astype("f4") for name in towers]
    # Convolutions are turned: their values are compared in order of size.
    assert sorted(sorted(one.ravel()) for one in held) == sorted(sorted(one.ravel()) for one in wanted)
    if not is_quantized:
        hold(model, shared / "fixtures" / "arch2" / source.name)


def hold(model: Any, case: Path) -> None:
    """Compare the text model's float32 logits with transformers', or with the error of mlx-vlm's own conversion."""
    model.update(tree_map(lambda p: p.astype(mx.float32) if p.dtype == mx.bfloat16 else p, model.parameters()))
    probe, own = np.load(case / "logits.npz"), json.loads((case / "case.json").read_text())["mlx_vlm"]
    ours = np.array(model.language_model(mx.array(probe["input_ids"])[None]).logits[0])
    found = float(np.abs(ours - probe["logits"]).max() / np.abs(probe["logits"]).max())
    theirs = own.get("max_rel_error")  # a number, or what kept it from computing
    print(f"{case.name}: {found:.1e}, its own conversion: {theirs or 'none'}")
    assert found <= max(LIMIT, 1.01 * theirs if isinstance(theirs, float) else 0.0)
