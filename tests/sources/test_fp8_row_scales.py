"""FP8 folders whose config.json says more than the layout, or something else: what is read, warned of and written."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quantcli.convert.comparing.settings import compare_settings
from quantcli.errors import BadInput
from quantcli.sources.detect import open_source
from quantcli.targets.folder_dtype import dtype_keys
from tests.builders import folder_of
from tests.conversions import converted, stored

F8 = np.dtype(ml_dtypes.float8_e4m3fn)
E8M0 = np.dtype(ml_dtypes.float8_e8m0fnu)
BF16 = np.dtype(ml_dtypes.bfloat16)
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}
EXPERT = "layers.0.ffn.experts.{}.w1"


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def deepseek_v4(root: Path, said: Any, *, packed: bool = True) -> Path:
    """Two experts of FP4 (or FP8), attention and shared experts of FP8. said: config.json's `expert_dtype`."""
    random = np.random.default_rng(4)
    tensors: dict[str, np.ndarray] = {"norm.weight": np.ones(128, BF16)}
    for module in ("layers.0.attn.wq_a", "layers.0.ffn.shared_experts.w1"):
        tensors[f"{module}.weight"] = random.normal(0, 40, (128, 128)).astype(F8)
        tensors[f"{module}.scale"] = np.full((1, 1), 120, np.uint8).view(E8M0)
    for module in map(EXPERT.format, range(2)):
        codes = random.integers(0, 256, (128, 64), dtype=np.uint8).view(np.int8)
        tensors[f"{module}.weight"] = codes if packed else random.normal(0, 40, (128, 128)).astype(F8)
        tensors[f"{module}.scale"] = np.full((128, 4) if packed else (1, 1), 120, np.uint8).view(E8M0)
    config = {"model_type": "part", "dtype": "bfloat16", "expert_dtype": said, "quantization_config": FP8}
    return folder_of(root, tensors, config)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("said", ["fp4", "fp8", None, "int4", 4])
def test_what_is_said_of_experts_is_held_against_them(said: Any, packed: bool, tmp_path: Path) -> None:
    stored_as = "fp4" if packed else "fp8"
    warnings = open_source(deepseek_v4(tmp_path / "m", said, packed=packed)).warnings
    if said in (None, stored_as):
        assert warnings == ()
        return
    (warning,) = warnings
    first = f"2 matrices (the first: {EXPERT.format(0)}.weight) are stored as {stored_as},"
    assert f"config.json: expert_dtype {said!r}: {first}" in warning


@pytest.mark.parametrize(("to", "scheme"), [("hf", "bf16"), ("mlx", None), ("mlx", "bf16"), ("hf", None)])
def test_expert_dtype_goes_with_the_layout(to: str, scheme: str | None, tmp_path: Path) -> None:
    folder = deepseek_v4(tmp_path / "m", "fp4")
    converted(folder, tmp_path / "out", to=to, scheme=scheme)
    is_kept = (to, scheme) == ("hf", None)
    assert (config_of(tmp_path / "out").get("expert_dtype") == "fp4") == is_kept
    assert ("expert_dtype" in config_of(tmp_path / "out")) == is_kept
    assert not is_kept or stored(tmp_path / "out") == stored(folder)


@pytest.mark.parametrize(
    ("glob", "is_kept"), [("*.experts.0.*", False), ("*.wq_a.*", True), ("*shared_experts*", True)]
)
def test_expert_dtype_goes_with_decoded_experts(glob: str, is_kept: bool, tmp_path: Path) -> None:
    converted(deepseek_v4(tmp_path / "m", "fp4"), tmp_path / "out", to="hf", overrides=(f"{glob}=bf16",))
    assert ("expert_dtype" in config_of(tmp_path / "out")) == is_kept


PLACES = [
    ("text_config",), ("vision_config",), ("thinker_config",), ("thinker_config", "text_config"),
    ("thinker_config", "audio_config"), ("talker_config", "text_config"), ("llm_config", "text_config"),
    ("a_config", "b_config", "c_config"),
]  # fmt: skip


def nested(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Objects within objects, the value at the end."""
    first, *rest = place
    return {first: nested(tuple(rest), value) if rest else value}


def at(config: Any, place: tuple[str, ...]) -> Any:
    for key in place:
        config = config[key]
    return config


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_dtype_of_parts_at_any_depth(place: tuple[str, ...], key: str, tmp_path: Path) -> None:
    tensors = {"model.layers.0.mlp.up_proj.weight": np.ones((8, 32), BF16)}
    config = {"model_type": "part", key: "bfloat16"} | nested(place, {key: "bfloat16", "hidden_size": 32})
    folder = folder_of(tmp_path / "m", tensors, config)
    for to in ("hf", "mlx"):
        converted(folder, tmp_path / to, to=to, dtype="f32")
        found = config_of(tmp_path / to)
        assert found[key] == "float32"
        assert at(found, place) == {key: "float32", "hidden_size": 32}


@pytest.mark.parametrize("place", [place for place in PLACES if place[-1] == "text_config"], ids=".".join)
def test_storage_settings_keep_their_dtypes(place: tuple[str, ...]) -> None:
    part = {"torch_dtype": "float16", "quantization_config": {"torch_dtype": "float16"}}
    config = {"torch_dtype": "float16"} | nested(place, part)
    found = at(dtype_keys(config, "bf16"), place)
    assert found == {"torch_dtype": "bfloat16", "quantization_config": {"torch_dtype": "float16"}}


def test_a_language_model_within_a_part_says_its_dtype(tmp_path: Path) -> None:
    """The top says nothing, or what is right: what a part of a part says is held against the tensors, too."""
    place = ("thinker_config", "text_config")
    tensors = {"model.layers.0.mlp.up_proj.weight": np.ones((8, 32), np.float16)}
    for top in ({}, {"dtype": "float16"}):
        config = {"model_type": "part", **top} | nested(place, {"dtype": "bfloat16"})
        folder = folder_of(tmp_path / f"m{len(top)}", tensors, config)
        converted(folder, tmp_path / f"o{len(top)}", to="mlx")
        assert at(config_of(tmp_path / f"o{len(top)}"), place) == {"dtype": "float16"}


@pytest.mark.parametrize("suffix", ["weight_scale_inv", "weight_scale"])
def test_scales_beside_a_dense_matrix_say_what_to_do(suffix: str, tmp_path: Path) -> None:
    """Removing them, as the sentence says, works; an option would come too late."""
    up, down = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"
    one = np.ones((1, 1), np.float32)
    tensors = {
        f"{up}.weight": np.ones((128, 128), BF16), f"{up}.{suffix}": one,
        f"{down}.weight": np.ones((128, 128), F8), f"{down}.weight_scale_inv": one,
    }  # fmt: skip
    config = {"model_type": "part", "quantization_config": FP8}
    with pytest.raises(BadInput) as raised:
        open_source(folder_of(tmp_path / "m", tensors, config))
    message = str(raised.value)
    assert f"tensor {up}.{suffix}: " in message and f" {up}.weight is dense (bf16). " in message
    assert message.endswith("remove them from the file.")
    del tensors[f"{up}.{suffix}"]
    assert open_source(folder_of(tmp_path / "n", tensors, config)).weights[f"{up}.weight"].scheme.name == "bf16"
    del tensors[f"{up}.weight"]
    with pytest.raises(BadInput, match=r"belongs to\.$"):
        open_source(folder_of(tmp_path / "o", tensors | {f"{up}.{suffix}": one}, config))


def test_diff_counts_no_word_of_storage(tmp_path: Path) -> None:
    folder = deepseek_v4(tmp_path / "m", "fp4")
    converted(folder, tmp_path / "out", to="hf", scheme="bf16")
    found = compare_settings(open_source(folder), open_source(tmp_path / "out"))
    assert not found.fields
    assert {"expert_dtype", "quantization_config"} <= {one.key for one in found.uncounted}
