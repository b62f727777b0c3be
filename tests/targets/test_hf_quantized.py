"""`--to hf -s SCHEME`: folders that compressed-tensors and bitsandbytes read; what stays dense; what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quantcli.convert.running.conversion import convert
from quantcli.convert.running.run import Resources
from quantcli.errors import BadInput, NotPossible, WrongUsage
from tests.arch_models import arch_model
from tests.builders import BF16, LLAMA, folder_of, llama_tensors, tiny_awq, tiny_llama
from tests.conversions import config, converted, planned, schemes, stored

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SCHEMES = (
    "int2-g32", "uint3-g64", "int4-g32", "uint4-g64", "int5-channel", "uint7-g32", "int8-g64", "int8-asym-g32",
    "int8-asym-channel", "int8-channel", "int8-tensor", "int8-asym-tensor", "fp8-e4m3-tensor", "fp8-e4m3-channel",
    "fp8-e4m3-block128", "mxfp4", "mxfp8", "nvfp4", "nf4-g64", "fp4-g32", "nf4-double-g64", "fp4-double-g32",
    "fp8-e4m3", "fp8-e5m2",
)  # fmt: skip


@pytest.mark.parametrize("name", SCHEMES)
def test_linears_get_it_and_nothing_else(tmp_path: Path, name: str) -> None:
    """The folder is read back as planned (`--verify`), and each linear of each layer has the scheme."""
    report = converted(tiny_llama(tmp_path / "in"), tmp_path / "out", to="hf", scheme=name)
    assert report["verified"]
    found = schemes(tmp_path / "out")
    for tensor, scheme in found.items():
        assert scheme == (name if tensor.removesuffix(".weight").endswith(LINEARS) else "bf16"), tensor


@pytest.mark.parametrize("name", ["int8-tensor", "nvfp4", "nf4-double-g64", "int3-g32", "fp8-e4m3-block128"])
def test_memory_and_threads_do_not_show(tmp_path: Path, name: str) -> None:
    folder = tiny_llama(tmp_path / "in", hidden_size=256, intermediate_size=512, head_dim=64)
    outputs = []
    for number, (memory, threads) in enumerate(((1 << 30, 1), (1 << 16, 3))):
        plan = planned(folder, tmp_path / f"out{number}", to="hf", scheme=name)
        convert(plan, Resources(memory, threads), lambda done, name: None, check=True)
        outputs.append({k: v.data for k, v in stored(tmp_path / f"out{number}").items()})
    assert outputs[0] == outputs[1]


def settings(tmp_path: Path, **options: Any) -> dict[str, Any]:
    converted(tiny_llama(tmp_path / "in"), tmp_path / "out", to="hf", **options)
    found: dict[str, Any] = config(tmp_path / "out").get("quantization_config", {})
    return found


@pytest.mark.parametrize(
    ("name", "layout", "strategy", "inputs"),
    [
        ("int4-g32", "pack-quantized", "group", None), ("uint4-channel", "pack-quantized", "channel", None),
        ("int8-channel", "int-quantized", "channel", "token"), ("int8-asym-tensor", "int-quantized", "tensor", None),
        ("fp8-e4m3-tensor", "float-quantized", "tensor", "token"),
        ("fp8-e4m3-block128", "float-quantized", "block", None),
        ("mxfp4", "mxfp4-pack-quantized", "group", None), ("mxfp8", "mxfp8-quantized", "group", None),
        ("nvfp4", "nvfp4-pack-quantized", "tensor_group", None),
    ],
)  # fmt: skip
def test_settings_of_compressed_tensors(
    tmp_path: Path, name: str, layout: str, strategy: str, inputs: str | None
) -> None:
    """As llm-compressor writes them; blocks of 128 do not divide rows of 64, so activations have no scales there."""
    found = settings(tmp_path, scheme=name)
    (group,) = found["config_groups"].values()
    assert (found["format"], group["format"], group["targets"]) == (layout, layout, ["Linear"])
    assert group["weights"]["strategy"] == strategy and group["weights"]["observer"] == "memoryless_minmax"
    assert (group["input_activations"] or {}).get("strategy") == inputs
    assert (found["ignore"], found["quant_method"], found["quantization_status"]) == (
        ["lm_head"], "compressed-tensors", "compressed",
    )  # fmt: skip


def test_a_mixture_names_the_modules_that_differ(tmp_path: Path) -> None:
    found = settings(
        tmp_path, scheme="int4-g32", overrides=("*.down_proj=fp8-e4m3-channel", "model.layers.0.*.o_proj=bf16")
    )
    assert found["format"] == "mixed-precision"
    assert found["config_groups"]["group_0"]["targets"] == ["Linear"]
    assert found["config_groups"]["group_1"]["targets"] == [f"model.layers.{i}.mlp.down_proj" for i in (0, 1)]
    assert found["config_groups"]["group_1"]["format"] == "float-quantized"
    assert found["ignore"] == ["model.layers.0.self_attn.o_proj", "lm_head"]


def test_settings_of_bitsandbytes(tmp_path: Path) -> None:
    found = settings(tmp_path, scheme="nf4-double", overrides=("*.0.*.o_proj=bf16",))
    assert found["quant_method"] == "bitsandbytes" and found["load_in_4bit"] is True
    assert found["bnb_4bit_quant_type"] == "nf4" and found["bnb_4bit_use_double_quant"] is True
    assert found["bnb_4bit_compute_dtype"] == "bfloat16"
    assert found["llm_int8_skip_modules"] == ["model.layers.0.self_attn.o_proj", "lm_head"]
    tensors = stored(tmp_path / "out")
    name = "model.layers.0.mlp.down_proj.weight"
    state = json.loads(tensors[f"{name}.quant_state.bitsandbytes__nf4"].data)
    assert (state["shape"], state["dtype"], state["blocksize"], state["nested_blocksize"]) == (
        [64, 128],
        "bfloat16",
        64,
        256,
    )
    assert {"absmax", "nested_absmax", "nested_quant_map", "quant_map"} == {
        key.removeprefix(f"{name}.") for key in tensors if key.startswith(f"{name}.") and "state" not in key
    }


def test_awq_becomes_compressed_tensors_without_rounding(tmp_path: Path) -> None:
    report = converted(tiny_awq(tmp_path / "in"), tmp_path / "out", to="hf", scheme="uint4-g64")
    routes = {w["name"]: (w["route"], w["grade"]) for w in report["weights"] if w["family"] == "ct"}
    assert routes and set(routes.values()) == {("repack", "exact")}
    assert config(tmp_path / "out")["quantization_config"]["quant_method"] == "compressed-tensors"


def test_mlx_becomes_compressed_tensors_without_rounding(tmp_path: Path) -> None:
    converted(tiny_llama(tmp_path / "in"), tmp_path / "mlx", scheme="mxfp4", overrides=("*embed*=bf16", "lm_head=bf16"))
    report = converted(tmp_path / "mlx", tmp_path / "out", to="hf", scheme="mxfp4")
    assert {(w["route"], w["grade"]) for w in report["weights"] if w["family"] == "ct"} == {("repack", "exact")}


def test_its_own_output_is_copied(tmp_path: Path) -> None:
    """Also with the scheme that it has, and from bitsandbytes' offsets, which only the file knows."""
    for name in ("int4-g32", "nf4-double-g64", "fp8-e4m3-tensor", "nvfp4", "mxfp8"):
        converted(
            tiny_llama(tmp_path / f"in-{name}", np.dtype(np.float16), torch_dtype="float16"),
            tmp_path / name,
            to="hf",
            scheme=name,
        )
        for again in ({}, {"scheme": name}):
            report = converted(tmp_path / name, tmp_path / f"{name}-{len(again)}", to="hf", **again)
            assert {w["route"] for w in report["weights"]} == {"copy"}
            assert stored(tmp_path / f"{name}-{len(again)}") == stored(tmp_path / name)


def test_bare_floats_saturate_and_are_counted(tmp_path: Path) -> None:
    tensors = llama_tensors(LLAMA)
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][0, :3] = 480, -1e5, 448
    report = converted(folder_of(tmp_path / "in", tensors, LLAMA), tmp_path / "out", to="hf", scheme="fp8-e4m3")
    found = stored(tmp_path / "out")[name]
    assert found.dtype == "F8_E4M3"
    assert found.array(ml_dtypes.float8_e4m3fn)[0, :3].astype(np.float32).tolist() == [448, -448, 448]
    assert [w["saturated"] for w in report["weights"] if "saturated" in w] == [2]
    assert any(re.search(f"2 values .*fp8-e4m3 in {name}", text) for text in report["warnings"])
    assert "quantization_config" not in config(tmp_path / "out")
    back = converted(tmp_path / "out", tmp_path / "back", to="hf", scheme="f16")
    assert {w["grade"] for w in back["weights"] if w["from"]["scheme"] == "fp8-e4m3"} == {"exact"}


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (
            {"scheme": "nf4-g192"},
            NotPossible,
            "8192 values",
        ),
        ({"scheme": "nf4-g63"}, WrongUsage, "N even"),
        ({"scheme": "nf4-g0"}, WrongUsage, "N even"),
        ({"scheme": "int4-tensor"}, WrongUsage, "int4-tensor is not a scheme for a Hugging Face folder"),
        ({"scheme": "q4_k"}, WrongUsage, "a GGUF file supports it"),
        ({"scheme": "int4-g32", "to": "mlx"}, WrongUsage, "a Hugging Face folder supports it"),
        ({"scheme": "nf4-g64", "overrides": ("*.o_proj=fp4-g64",)}, NotPossible, "fp4-g64 and nf4-g64"),
        (
            {"scheme": "nf4-g64", "overrides": ("*.o_proj=int4-g32",)},
            NotPossible,
            "down_proj.weight is nf4-g64 (bnb), but model.layers.0.self_attn.o_proj.weight is int4-g32 (ct)",
        ),
        ({"scheme": "int4-g32", "scale_dtype": "f32"}, WrongUsage, "--scale-dtype applies only to MLX"),
    ],
)
def test_what_cannot_be(tmp_path: Path, options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        planned(tiny_llama(tmp_path / "in"), tmp_path / "out", **{"to": "hf", **options})


def test_rows_that_no_group_divides_stay_dense_with_a_warning(tmp_path: Path) -> None:
    plan = planned(tiny_llama(tmp_path / "in"), tmp_path / "out", to="hf", scheme="int4-g128")
    found = {step.name: step.scheme.name for step in plan.steps}
    assert found["model.layers.0.mlp.down_proj.weight"] == "int4-g128"
    assert found["model.layers.0.self_attn.q_proj.weight"] == "bf16"
    assert any("fall back from int4-g128 to bf16" in warning for warning in plan.warnings)


def test_an_override_of_the_head_is_told_not_to_reach_it(tmp_path: Path) -> None:
    plan = planned(tiny_llama(tmp_path / "in"), tmp_path / "out", to="hf", overrides=("lm_head=int8-channel",))
    assert any(re.search(r"lm_head=int8-channel .*\blm_head\.weight", warning) for warning in plan.warnings)


@pytest.mark.parametrize("name", ["int8-tensor", "nvfp4", "mxfp4", "nf4-double-g64"])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_nan_is_bad_input(tmp_path: Path, name: str, odd: float) -> None:
    tensors = llama_tensors(LLAMA)
    weight = "model.layers.1.mlp.up_proj.weight"
    tensors[weight] = tensors[weight].copy()
    tensors[weight][77, 5] = odd
    with pytest.raises(BadInput, match="up_proj.weight: holds (NaN|Inf)"):
        converted(folder_of(tmp_path / "in", tensors, LLAMA), tmp_path / "out", to="hf", scheme=name)


def test_one_global_scale_whatever_the_dtypes(tmp_path: Path) -> None:
    """It is computed in a weight's dtype: in the same one for all that share it."""
    kinds = {"q": np.dtype(np.float32), "k": BF16, "v": np.dtype(np.float16)}
    tensors = llama_tensors(LLAMA, np.dtype(np.float32))
    for kind, dtype in kinds.items():
        name = f"model.layers.0.self_attn.{kind}_proj.weight"
        tensors[name] = (tensors[name] * (1.01 if kind == "k" else 1)).astype(dtype)
    converted(folder_of(tmp_path / "in", tensors, LLAMA), tmp_path / "out", to="hf", scheme="nvfp4")
    found = stored(tmp_path / "out")
    scales = {found[f"model.layers.0.self_attn.{kind}_proj.weight_global_scale"].data for kind in kinds}
    assert len(scales) == 1


def test_what_readers_fuse_has_one_global_scale(tmp_path: Path) -> None:
    """vLLM keeps one of q, k and v, and one of gate and up: the one that suits the largest value."""
    random = np.random.default_rng(0)
    tensors = {
        name: (array * np.exp(random.normal())).astype(BF16) if array.ndim == 2 else array
        for name, array in llama_tensors(LLAMA, np.dtype(np.float32)).items()
    }
    converted(folder_of(tmp_path / "in", tensors, LLAMA), tmp_path / "out", to="hf", scheme="nvfp4", dtype="f32")
    found = stored(tmp_path / "out")
    for layer in range(LLAMA["num_hidden_layers"]):
        for place, names in (("self_attn", "qkv"), ("self_attn", "o"), ("mlp", ("gate", "up")), ("mlp", ("down",))):
            modules = [f"model.layers.{layer}.{place}.{name}_proj" for name in names]
            scales = {float(found[f"{module}.weight_global_scale"].array(np.float32)[0]) for module in modules}
            largest = max(np.abs(tensors[f"{module}.weight"].astype(np.float32)).max() for module in modules)
            assert len(scales) == 1 and scales.pop() == pytest.approx(448 * 6 / largest, rel=1e-2), modules


@pytest.mark.parametrize(
    ("scheme", "expected"), [("nf4-g64", 1), ("int8-channel", 1), ("int4-g32", 0), ("fp8-e4m3-channel", 0)]
)
def test_experts_in_a_layout_that_transformers_does_not_load_are_named(
    tmp_path: Path, scheme: str, expected: int
) -> None:
    plan = planned(arch_model(tmp_path, "mixtral"), tmp_path / "out", to="hf", scheme=scheme)
    found = [line for line in plan.warnings if "does not load experts" in line]
    assert len(found) == expected
    assert all("24 weights" in line and "experts.0." in line for line in found)


@pytest.mark.parametrize(
    ("case", "part"),
    [
        ("qwen2_vl", "visual"),
        ("gemma3", "vision_tower"),
        ("mistral3", "multi_modal_projector"),
        ("voxtral", "audio_tower"),
    ],
)
def test_towers_are_ignored_under_whatever_prefix_their_class_has(tmp_path: Path, case: str, part: str) -> None:
    """compressed-tensors compares with names in transformers' class, which are not those that are stored."""
    converted(arch_model(tmp_path, case), tmp_path / "out", to="hf", scheme="int8-channel")
    ignored = config(tmp_path / "out")["quantization_config"]["ignore"]
    expressions = [entry.removeprefix("re:") for entry in ignored if entry.startswith("re:")]
    for name in (f"{part}.blocks.0.mlp.fc1", f"model.{part}.blocks.0.mlp.fc1"):
        assert any(re.match(one, name) for one in expressions)
    assert not any(re.match(one, "model.language_model.layers.0.mlp.up_proj") for one in expressions)
    assert not any(part in entry for entry in ignored if not entry.startswith("re:"))


@pytest.mark.parametrize(
    ("case", "router"),
    [
        ("granitemoe", "block_sparse_moe.router.layer"),
        ("phimoe", "block_sparse_moe.gate"),
        ("mixtral", "block_sparse_moe.gate"),
    ],
)
def test_routers_stay_dense_under_both_of_their_names(tmp_path: Path, case: str, router: str) -> None:
    converted(arch_model(tmp_path, case), tmp_path / "out", to="hf", scheme="int8-channel")
    assert schemes(tmp_path / "out")[f"model.layers.0.{router}.weight"] in ("bf16", "f32")
    ignored = config(tmp_path / "out")["quantization_config"]["ignore"]
    assert f"model.layers.0.{router}" in ignored
    assert ("model.layers.0.mlp.router" in ignored) == router.endswith("gate")
