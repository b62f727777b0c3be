"""Every case of the quantizers to MLX and GGUF: the tool's own values come out, mlx-lm and llama.cpp compute with them.

Values are held to truth.json (the SHA-256 of what each tool decodes) after rounding to the dtype that the tool computes
in, those of a GGUF as gguf-py decodes them. What has no exact place is bounded, `APART` says why.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conversions import converted
from tests.peers.pinned import ROOT, peer

mlx_lm = peer("mlx_lm")
gguf = peer("gguf")

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

DATA = ROOT / "tests" / "data" / "quantized"
CASES = sorted(path.name for path in DATA.iterdir() if (path / "truth.json").exists())
ROUNDED = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}

#: Largest relative RMSE of a weight against the tool's values: of a grid kept, of one that fell back to 8 bits.
KEPT, FALLEN = 6e-3, 1e-2
TABLES = "codes on a table that neither target has: falls back to 8 bits"
FLOATS8 = "E4M3 with scales of rows, blocks or tensors: falls back to 8 bits"
ORDERED = "columns in no order of groups: falls back to 8 bits"
#: case -> the bound in MLX, and why it is not the tool's values to the bit
APART = {
    "bnb-fp4": (FALLEN, TABLES),
    "bnb-nf4": (FALLEN, TABLES),
    "bnb-nf4-double": (FALLEN, TABLES),
    "bnb-int8": (1e-6, "the tool multiplies twice, by SCB and by 1/127, each time rounded"),
    "hqq-b4-g64": (KEPT, "the tool rounds code - zero to bf16 before the product"),
    "ct-fp8-block": (FALLEN, FLOATS8),
    "ct-fp8-channel": (FALLEN, FLOATS8),
    "ct-fp8-tensor": (FALLEN, FLOATS8),
    "ct-mixed": (FALLEN, FLOATS8),
    "fp8-deepseek-block": (FALLEN, FLOATS8),
    "modelopt-fp8": (FALLEN, FLOATS8),
    "quark-fp8-tensor": (FALLEN, FLOATS8),
    "quark-mixed": (FALLEN, FLOATS8),
    "ct-nvfp4": (FALLEN, "two levels of scales: mlx-lm's linears have one"),
    "modelopt-nvfp4": (FALLEN, "two levels of scales: mlx-lm's linears have one"),
    "ct-w4a16-actorder": (FALLEN, ORDERED),
    "gptq-b4-actorder": (FALLEN, ORDERED),
    "quark-mxfp6-e2m3": (FALLEN, TABLES),
    "quark-mxfp6-e3m2": (FALLEN, TABLES),
}
#: Further ones in GGUF, whose scales and biases are f16 and whose types are fewer.
APART_IN_GGUF = {
    "bnb-int8": (KEPT, "scales are rounded to f16"),
    "ct-mxfp8": (FALLEN, "GGUF has no type of 8-bit floats"),
    "fp8-ue8m0": (FALLEN, "GGUF has no type of 8-bit floats"),
}
#: In GGUF their global scales stand beside the weights.
GLOBAL_SCALES = ("ct-nvfp4", "modelopt-nvfp4")
#: Their biases, -zero * scale, are rounded to f16.
ROUNDED_BIASES = (
    "autoawq-gemm-g64", "autoawq-gemv-g64", "autoawq-gemvfast-g64", "ct-w4a16-asym-g64", "gptq-b3-planar",
    "gptq-b4-asym-zero0", "gptq-b4-g32-asym", "gptq-v2-format", "quark-uint4-g64-asym",
)  # fmt: skip
#: Of logits, over the largest.
LOGITS = 0.01


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> None:
    mx.set_default_device(mx.cpu)


@pytest.fixture
def folder(shared: Path, tmp_path: Path, case: str) -> Path:
    """The case with a tokenizer."""
    out = tmp_path / case
    shutil.copytree(
        shared / "fixtures" / "quantized" / case, out, ignore=shutil.ignore_patterns("truth.*", "case.json")
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(shared / "fixtures" / "models" / "micro-llama" / name, out / name)
    return out


class Truth:
    """What the tool has: hashes of all quantized weights, the values of some."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self.entries: dict[str, dict[str, Any]] = json.loads((folder / "truth.json").read_text())["tensors"]
        with safe_open(folder / "truth.safetensors", "mlx") as file:
            self.values = {name: np.array(file.get_tensor(name).astype(mx.float32)) for name in file.keys()}  # noqa: SIM118

    def same(self, name: str, values: np.ndarray) -> bool:
        """Whether values, rounded as the tool does, are its own; -0 counts as 0."""
        entry = self.entries[name]
        rounded = np.array(mx.array(values).astype(ROUNDED[entry["tool_dtype"]]).astype(mx.float32)) + np.float32(0)
        return hashlib.sha256(rounded.astype("<f4").tobytes()).hexdigest() == entry["sha256_f32_no_negative_zero"]

    def apart(self, name: str, values: np.ndarray) -> float | None:
        """Relative RMSE; None of a weight whose values are not at hand."""
        if name not in self.values:
            return None
        wanted = self.values[name].astype(np.float64)
        return float(np.sqrt(np.square(values - wanted).sum() / np.square(wanted).sum()))

    def hold(self, found: dict[str, np.ndarray], bound: tuple[float, str] | None) -> None:
        """`found` are the values of all quantized weights; within the bound, or the same without one."""
        assert set(found) == set(self.entries)
        for name, values in found.items():
            if bound is None:
                assert self.same(name, values), name
            elif (apart := self.apart(name, values)) is not None:
                assert apart < bound[0], f"{name}: {apart:.2g}, {bound[1]}"


@pytest.fixture
def truth(shared: Path, case: str) -> Truth:
    return Truth(shared / "fixtures" / "quantized" / case)


def values_of_mlx(model: Any, names: list[str]) -> dict[str, np.ndarray]:
    """mlx-lm's own modules, dequantized by MLX with what they hold."""
    modules = dict(model.named_modules())
    found = {}
    for name in names:
        module = modules[name.removesuffix(".weight")]
        if not hasattr(module, "bits"):
            found[name] = np.array(module.weight.astype(mx.float32))
            continue
        wide = module.scales if module.mode != "affine" else module.scales.astype(mx.float32)
        values = mx.dequantize(
            module.weight, wide, module.get("biases"), group_size=module.group_size, bits=module.bits, mode=module.mode
        )
        found[name] = np.array(values.astype(mx.float32))
    return found


def logits(model: Any, ids: list[int]) -> np.ndarray:
    return np.array(model(mx.array([ids]))[0].astype(mx.float32))


def far(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert np.isfinite(ours).all()
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("case", [case for case in CASES if case != "gpt-oss-mxfp4"])
def test_to_mlx(case: str, folder: Path, truth: Truth, tmp_path: Path) -> None:
    converted(folder, tmp_path / "codes", dtype="f32", scale_dtype="f32")
    converted(folder, tmp_path / "dense", scheme="f32")
    model, tokenizer = mlx_lm.load(str(tmp_path / "codes"))
    truth.hold(values_of_mlx(model, list(truth.entries)), APART.get(case))
    ids = tokenizer.encode("It was a fine morning, and Mr. Weston")
    dense, _ = load_model(tmp_path / "dense")
    assert not any("scales" in name for name, _ in tree_flatten(dense.parameters()))
    difference = far(logits(model, ids), logits(dense, ids))
    print(f"{case}: largest logit difference {difference:.2g}")
    assert difference <= LOGITS
    assert len(mlx_lm.generate(model, tokenizer, "It was", max_tokens=8)) > 0


@pytest.mark.parametrize("case", [case for case in CASES if case != "gpt-oss-mxfp4"])
def test_to_mlx_by_default(case: str, folder: Path, truth: Truth, tmp_path: Path) -> None:
    """With scales in the source's own dtype, or the model's: near, and mlx-lm runs it."""
    converted(folder, tmp_path / "codes")
    model, tokenizer = mlx_lm.load(str(tmp_path / "codes"))
    bound = APART.get(case, (KEPT, "scales and biases are rounded"))
    truth.hold(values_of_mlx(model, list(truth.entries)), (max(bound[0], KEPT), bound[1]))
    assert np.isfinite(logits(model, tokenizer.encode("It was a fine morning"))).all()


def values_of_gguf(path: Path, names: list[str], heads: dict[str, int]) -> dict[str, np.ndarray]:
    """As gguf-py reads them, rows of queries and keys back in their order; heads: of each of the two."""
    layers = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    found = {}
    for name in names:
        _, _, layer, *module, _ = name.split(".")
        kind = ".".join(module)
        place = f"blk.{layer}.{layers[kind]}"
        tensor, scale = stored[f"{place}.weight"], stored.get(f"{place}.scale")
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if scale is not None:
            values *= scale.data
        if kind in heads:
            values = values.reshape(heads[kind], -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        found[name] = np.ascontiguousarray(values)
    return found


@pytest.mark.parametrize("case", [case for case in CASES if case != "gpt-oss-mxfp4"])
def test_to_gguf(case: str, folder: Path, truth: Truth, tmp_path: Path) -> None:
    converted(folder, tmp_path / "out.gguf")
    said = json.loads((folder / "config.json").read_text())
    is_llama = said["model_type"] == "llama"
    heads = {"self_attn.q_proj": said["num_attention_heads"], "self_attn.k_proj": said["num_key_value_heads"]}
    found = values_of_gguf(tmp_path / "out.gguf", list(truth.entries), heads if is_llama else {})
    bound = None if case in GLOBAL_SCALES else APART_IN_GGUF.get(case) or APART.get(case)
    if case in ROUNDED_BIASES:
        bound = (KEPT, "biases are rounded to f16")
    truth.hold(found, bound)


def test_gpt_oss_to_mlx(shared: Path, tmp_path: Path) -> None:
    """Experts stay MXFP4, one matrix each of gate and up; mlx-lm computes what it does of the dense conversion."""
    folder = shared / "fixtures" / "quantized" / "gpt-oss-mxfp4"
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "q").mkdir(exist_ok=True)
        shutil.copyfile(folder / name, tmp_path / "q" / name)
    report = converted(tmp_path / "q", tmp_path / "codes", dtype="f32")
    assert {w["scheme"] for w in report["weights"] if w["route"] == "repack"} == {"mxfp4"}
    converted(tmp_path / "q", tmp_path / "dense", scheme="f32")
    (codes, _), (dense, _) = load_model(tmp_path / "codes"), load_model(tmp_path / "dense")
    ids = list(range(1, 33))
    assert far(logits(codes, ids), logits(dense, ids)) <= LOGITS
    truth = Truth(folder)
    for layer in range(2):
        name = f"model.layers.{layer}.mlp.experts"
        made = values_of_mlx(codes, [f"{name}.{kind}_proj.weight" for kind in ("gate", "up", "down")])
        gate, up, down = (made[f"{name}.{kind}_proj.weight"] for kind in ("gate", "up", "down"))
        both = np.stack([gate, up], axis=2).reshape(len(gate), -1, gate.shape[2])
        for kind, values in (("gate_up_proj", both), ("down_proj", down)):
            assert truth.same(f"{name}.{kind}", np.ascontiguousarray(values.swapaxes(1, 2)))


#: One of every type that codes are kept in, and a fallback.
LOADED = (
    "autoawq-gemm-g64", "gptq-b4-g64-sym", "gptq-b5-planar", "gptq-b3-planar", "ct-w8a16", "ct-mixed", "bnb-nf4",
    "quark-int8-channel", "hqq-b4-g64", "fp8-deepseek-block",
)  # fmt: skip


@pytest.mark.parametrize("case", LOADED)
def test_llama_cpp_loads(case: str, folder: Path, tmp_path: Path) -> None:
    """And computes what it computes of the dense conversion, its 8-bit activations aside."""
    from tests.peers.test_llama_cpp import Runner

    converted(folder, tmp_path / "codes.gguf")
    converted(folder, tmp_path / "dense.gguf", scheme="f32")
    codes, dense = Runner(tmp_path / "codes.gguf"), Runner(tmp_path / "dense.gguf")
    ids = dense.tokens("It was a fine morning, and Mr. Weston", add_special=True)
    difference = far(codes.logits(ids), dense.logits(ids))
    print(f"{case}: largest logit difference {difference:.2g}")
    assert difference < 0.05
