"""NVFP4's global scales: folders to GGUF as llama.cpp's converter writes them, to the bit, and back.

nvfp4_global.json: tensor -> type, shape and SHA-256, and `general.tensor_extra.*`, of what llama.cpp's converter (of
llama-cpp-python 0.3.36) made of the folders that `folder` builds.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter, dequantize
from gguf.constants import GGMLQuantizationType

from quantcli.convert.comparing.compare import chosen, compare
from quantcli.errors import BadInput, NotPossible
from quantcli.sources.detect import open_source
from tests import packers
from tests.builders import BF16, LLAMA, byte_level_tokenizer, folder_of, safetensors_bytes
from tests.conversions import converted, planned, values

GOLDEN = Path(__file__).parents[1] / "data" / "gguf_manifests" / "nvfp4_global.json"

TABLE = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
EXPERTS = 3
DENSE = {**LLAMA, "head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1}
MOE = {
    **DENSE, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": EXPERTS,
    "num_experts_per_tok": 2, "moe_intermediate_size": 64, "decoder_sparse_step": 1, "norm_topk_prob": True,
    "mlp_only_layers": [],
}  # fmt: skip
MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head", "*.gate"]}
COMPRESSED = {
    "quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "ignore": ["lm_head"],
    "config_groups": {"group_0": {
        "targets": ["Linear"], "format": "nvfp4-pack-quantized", "input_activations": None,
        "weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True,
                    "dynamic": False},
    }},
}  # fmt: skip
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "modelopt": (DENSE, MODELOPT),
    "modelopt-w4a16": (DENSE, {**MODELOPT, "quant_algo": "W4A16_NVFP4"}),
    "modelopt-experts": (MOE, MODELOPT),
    "compressed-tensors": (DENSE, COMPRESSED),
}


def numbers(shape: tuple[int, ...], seed: int, below: int) -> np.ndarray:
    """The same whole numbers everywhere."""
    at = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(1000 * seed)
    return ((at * np.uint64(2654435761) >> np.uint64(7)) % np.uint64(below)).astype(np.uint8).reshape(shape)


def linears(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Module -> shape."""
    layer, hidden = "model.layers.0.", config["hidden_size"]
    found = {"q_proj": (64, hidden), "k_proj": (32, hidden), "v_proj": (32, hidden), "o_proj": (hidden, 64)}
    modules = {f"{layer}self_attn.{name}": shape for name, shape in found.items()}
    places = [f"{layer}mlp."]
    if config["model_type"] == "qwen3_moe":
        places = [f"{layer}mlp.experts.{e}." for e in range(EXPERTS)]
    inner = config.get("moe_intermediate_size", config["intermediate_size"])
    for place in places:
        modules |= {f"{place}gate_proj": (inner, hidden), f"{place}up_proj": (inner, hidden)}
        modules[f"{place}down_proj"] = (hidden, inner)
    return modules


def folder(root: Path, case: str) -> tuple[Path, dict[str, np.ndarray]]:
    """The case's folder, and the float32 values that each of its modules means."""
    config, quantization = CASES[case]
    tool = str(quantization["quant_method"])
    shapes = {"model.embed_tokens.weight": (96, 64), "lm_head.weight": (96, 64), "model.norm.weight": (64,)}
    shapes |= {f"model.layers.0.{name}.weight": (64,) for name in ("input_layernorm", "post_attention_layernorm")}
    if config is MOE:
        shapes |= {f"model.layers.0.self_attn.{name}_norm.weight": (32,) for name in ("q", "k")}
        shapes["model.layers.0.mlp.gate.weight"] = (EXPERTS, 64)
    tensors: dict[str, np.ndarray] = {
        name: (numbers(shape, seed, 64) / np.float32(64)).astype(BF16)
        for seed, (name, shape) in enumerate(shapes.items())
    }
    meant = {}
    for seed, (module, (rows, columns)) in enumerate(linears(config).items(), 100):
        codes = numbers((rows, columns), seed, 16)
        scales = (numbers((rows, columns // 16), seed + 1, 100) + np.uint8(20)).view(packers.F8)
        inputs, whole = np.float32(1e-4 * seed), np.float32(3e-6 * seed if tool == "modelopt" else 3e5 / seed)
        tensors |= packers.beside(module, packers.nvfp4(codes, scales, whole, inputs, tool))
        own = scales.astype(np.float32)
        products = own * whole if tool == "modelopt" else own / whole
        meant[f"{module}.weight"] = TABLE[codes] * np.repeat(products, 16, axis=1)
    folder_of(root, tensors, {**config, "quantization_config": quantization})
    (root / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()))
    settings = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (root / "tokenizer_config.json").write_text(json.dumps(settings))
    return root, meant


def described(path: Path) -> dict[str, Any]:
    """What the golden file has of a GGUF file."""
    reader = GGUFReader(path)
    tensors = {
        t.name: [t.tensor_type.name.lower(), [int(n) for n in t.shape], hashlib.sha256(t.data.tobytes()).hexdigest()]
        for t in reader.tensors
    }
    extra = {k: f.contents() for k, f in reader.fields.items() if k.startswith("general.tensor_extra.")}
    return {"tensors": dict(sorted(tensors.items())), "extra": extra}


@pytest.mark.parametrize("case", CASES)
def test_what_llama_cpps_converter_writes(tmp_path: Path, case: str) -> None:
    source, _ = folder(tmp_path / "in", case)
    report = converted(source, tmp_path / "out.gguf")
    assert described(tmp_path / "out.gguf") == json.loads(GOLDEN.read_text())[case]
    packed = {w["grade"] for w in report["weights"] if w["scheme"] == "nvfp4"}
    assert packed == {"exact"} if case != "compressed-tensors" else "codes-exact" in packed


@pytest.mark.parametrize("case", CASES)
def test_back_in_a_folder_values_are_the_tools(tmp_path: Path, case: str) -> None:
    source, meant = folder(tmp_path / "in", case)
    converted(source, tmp_path / "out.gguf")
    converted(tmp_path / "out.gguf", tmp_path / "back", to="hf", dtype="f32")
    back = values(tmp_path / "back")
    for name, expected in meant.items():
        if case == "compressed-tensors":
            np.testing.assert_allclose(back[name], expected, rtol=2e-7, err_msg=name)
        else:
            assert np.array_equal(back[name], expected), name


def test_experts_that_are_computed_have_their_own_global_scales(tmp_path: Path) -> None:
    source, meant = folder(tmp_path / "in", "modelopt-experts")
    converted(source, tmp_path / "out.gguf", overrides=("*_exps*=f32",), dtype="f32")
    reader = {t.name: t for t in GGUFReader(tmp_path / "out.gguf").tensors}
    assert "blk.0.ffn_up_exps.scale" not in reader and "blk.0.attn_v.scale" in reader
    for e in range(EXPERTS):
        expected = meant[f"model.layers.0.mlp.experts.{e}.up_proj.weight"].astype(BF16).astype(np.float32)
        assert np.array_equal(reader["blk.0.ffn_up_exps.weight"].data[e].astype(np.float32), expected)


def test_rows_are_turned_with_their_scales(tmp_path: Path) -> None:
    """llama's q rows change places; blocks times the scale beside them are the values."""
    source, meant = folder(tmp_path / "in", "modelopt")
    converted(source, tmp_path / "out.gguf")
    reader = {t.name: t for t in GGUFReader(tmp_path / "out.gguf").tensors}
    blocks = dequantize(reader["blk.0.attn_q.weight"].data, GGMLQuantizationType.NVFP4)
    found = blocks * reader["blk.0.attn_q.scale"].data
    expected = meant["model.layers.0.self_attn.q_proj.weight"].reshape(2, 2, 16, 64).swapaxes(1, 2).reshape(64, 64)
    np.testing.assert_allclose(found, expected, rtol=2e-7)


def test_rounding_again_takes_the_values_whole(tmp_path: Path) -> None:
    source, meant = folder(tmp_path / "in", "modelopt")
    converted(source, tmp_path / "out.gguf", overrides=("*down_proj=q8_0",), allow_requantize=True)
    weights = values(tmp_path / "out.gguf")
    assert "blk.0.ffn_down.scale" not in weights and "blk.0.ffn_up.scale" in weights
    expected = meant["model.layers.0.mlp.down_proj.weight"]
    assert np.abs(weights["blk.0.ffn_down.weight"] - expected).max() < 0.01 * np.abs(expected).max()


def test_lossless_knows_that_a_reciprocal_is_rounded(tmp_path: Path) -> None:
    source, _ = folder(tmp_path / "in", "compressed-tensors")
    with pytest.raises(NotPossible, match="--lossless codes allows it"):
        planned(source, tmp_path / "out.gguf", lossless="exact")
    steps = planned(source, tmp_path / "out.gguf", lossless="codes").steps
    assert any(step.name == "blk.0.attn_q.scale" for step in steps)


def test_a_global_scale_of_one_is_not_written(tmp_path: Path) -> None:
    source, _ = folder(tmp_path / "in", "modelopt")
    data = (source / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:start])["model.layers.0.mlp.up_proj.weight_scale_2"]["data_offsets"]
    one = np.float32(1).tobytes()
    (source / "model.safetensors").write_bytes(data[: start + entry[0]] + one + data[start + entry[1] :])
    converted(source, tmp_path / "out.gguf")
    names = [weight for weight in open_source(tmp_path / "out.gguf").weights if "ffn_up" in weight]
    assert names == ["blk.0.ffn_up.input_scale", "blk.0.ffn_up.weight"]


def rewritten(source: Path, output: Path, **changes: np.ndarray | None) -> Path:
    """A GGUF file with other tensors of some names; None: left out."""
    reader = GGUFReader(source)
    writer = GGUFWriter(output, "llama")
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")):
            kinds = field.types
            writer.add_key_value(key, field.contents(), kinds[0], kinds[1] if len(kinds) > 1 else None)
    for tensor in reader.tensors:
        data = changes.get(tensor.name, tensor.data)
        if data is not None:
            is_same = data is tensor.data
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type if is_same else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return output


def test_scales_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    source, _ = folder(tmp_path / "in", "modelopt")
    converted(source, tmp_path / "out.gguf")
    two = rewritten(tmp_path / "out.gguf", tmp_path / "two.gguf", **{"blk.0.attn_q.scale": np.ones(2, np.float32)})
    with pytest.raises(BadInput, match=r"attn_q\.scale': .*f32 \[1\].*attn_q\.weight.*f32 \[2\]"):
        planned(two, tmp_path / "hf", to="hf")


def changed(folder: Path, tensor: str, value: float) -> Path:
    """The folder with another number in a tensor of one."""
    data = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    begin, end = (start + at for at in json.loads(data[8:start])[tensor]["data_offsets"])
    (folder / "model.safetensors").write_bytes(data[:begin] + np.float32(value).tobytes() + data[end:])
    return folder


@pytest.mark.parametrize(
    ("case", "tensor", "value"),
    [
        ("modelopt", "up_proj.weight_scale_2", np.inf),
        ("modelopt", "up_proj.input_scale", np.nan),
        ("compressed-tensors", "up_proj.weight_global_scale", 0),
        ("compressed-tensors", "up_proj.input_global_scale", 1e-45),
    ],
)
def test_scales_that_are_no_numbers_are_refused(tmp_path: Path, case: str, tensor: str, value: float) -> None:
    source, _ = folder(tmp_path / "in", case)
    name = f"model.layers.0.mlp.{tensor}"
    with pytest.raises(BadInput, match=rf"tensor {name}: .*\b{re.escape(f'{np.float32(value):g}')}\b"):
        planned(changed(source, name, value), tmp_path / "out.gguf")


def test_beside_another_type_it_multiplies_values(tmp_path: Path) -> None:
    """As llama-quantize leaves it where NVFP4 is rounded again."""
    source, meant = folder(tmp_path / "in", "modelopt")
    converted(source, tmp_path / "out.gguf")
    dense = np.full((64, 64), 2, np.float32)
    other = rewritten(tmp_path / "out.gguf", tmp_path / "other.gguf", **{"blk.0.attn_v.weight": dense[:32]})
    converted(other, tmp_path / "hf", to="hf", dtype="f32")
    factor = {t.name: t for t in GGUFReader(other).tensors}["blk.0.attn_v.scale"].data[0]
    found = values(tmp_path / "hf")["model.layers.0.self_attn.v_proj.weight"]
    assert np.array_equal(found, np.full((32, 64), 2 * factor, np.float32))
    converted(tmp_path / "out.gguf", tmp_path / "q8.gguf", scheme="q8_0", allow_requantize=True)
    converted(tmp_path / "q8.gguf", tmp_path / "q8", to="hf", dtype="f32")
    found = values(tmp_path / "q8")["model.layers.0.mlp.up_proj.weight"]
    expected = meant["model.layers.0.mlp.up_proj.weight"]
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


def test_a_copy_keeps_tensors_apart_and_diff_takes_them_together(tmp_path: Path) -> None:
    source, _ = folder(tmp_path / "in", "modelopt")
    converted(source, tmp_path / "out.gguf")
    report = converted(tmp_path / "out.gguf", tmp_path / "copy.gguf")
    assert {w["route"] for w in report["weights"]} == {"copy"}
    converted(source, tmp_path / "dense.gguf", overrides=("*proj*=f32",))
    first, second = open_source(tmp_path / "out.gguf"), open_source(tmp_path / "dense.gguf")
    found = compare(first, second, chosen(first, second), 1 << 28, 1, lambda _count, _name: None)
    assert not found.only_b and all(tensor.name.endswith(".input_scale") for tensor in found.only_a)
    differences = [weight.difference for weight in found.weights if weight.difference]
    assert differences and max(difference.relative_rmse for difference in differences) < 0.01


@pytest.mark.parametrize(("kind", "scheme"), [("llama", "nvfp4"), ("qwen2", "q8_0")])
def test_codes_stay_where_llama_cpp_computes_with_their_scale(kind: str, scheme: str, tmp_path: Path) -> None:
    """Qwen2's graph takes no scale of its MLP."""
    source = tmp_path / "m"
    folder(source, "modelopt")
    arrays = {f"model.layers.0.self_attn.{name}_proj.bias": np.zeros(64 if name == "q" else 32, BF16) for name in "qkv"}
    config = json.loads((source / "config.json").read_text())
    classes = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
    (source / "config.json").write_text(json.dumps({**config, "model_type": kind, "architectures": [classes[kind]]}))
    if kind == "qwen2":
        (source / "model-biases.safetensors").write_bytes(safetensors_bytes(arrays))
    converted(source, tmp_path / "a.gguf")
    found = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "a.gguf").tensors}
    for role in ("ffn_gate", "ffn_up", "ffn_down"):
        assert found[f"blk.0.{role}.weight"].tensor_type.name.lower() == scheme
        assert (f"blk.0.{role}.scale" in found) == (scheme == "nvfp4")
    assert found["blk.0.attn_q.weight"].tensor_type.name == "NVFP4" and "blk.0.attn_q.scale" in found
