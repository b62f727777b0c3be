"""Codes of 8 bits with a companion that no reader knows: shown with a warning, converted to nothing, exit 4."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gguf import GGUFWriter
from typer.testing import CliRunner

from quantcli.cli.app import app
from quantcli.errors import BadInput, NotPossible
from quantcli.sources.companions import Names
from quantcli.sources.detect import open_source
from tests.builders import BF16, LLAMA, byte_level_tokenizer, folder_of, llama_tensors, safetensors_bytes, tiny_llama
from tests.conversions import converted, planned, stored

CODES = {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2), "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
}  # fmt: skip
MODULE = "model.layers.0.mlp.down_proj"
#: Codes and their companions, by the names that tools have given them and some that none has.
PAIRS = [
    (f"{MODULE}.weight", f"{MODULE}.scale"),
    (f"{MODULE}.weight", f"{MODULE}.scale_inv"),
    (f"{MODULE}.weight", f"{MODULE}.scale_weight"),
    (f"{MODULE}.weight", f"{MODULE}.qscale_weight"),
    (f"{MODULE}.weight", f"{MODULE}.weight_scale"),
    (f"{MODULE}.weight", f"{MODULE}.weight_scale_inv"),
    (f"{MODULE}.weight", f"{MODULE}.weight_scales"),
    (f"{MODULE}.weight", f"{MODULE}.SCB"),
    (f"{MODULE}.weight", f"{MODULE}.absmax"),
    (f"{MODULE}.weight", f"{MODULE}.weight.absmax"),
    (f"{MODULE}.weight", f"{MODULE}.weight_quantizer._amax"),
    (f"{MODULE}.weight", f"{MODULE}.weight_zero_point"),
    (f"{MODULE}.weight", f"{MODULE}.WeightScale"),
    (f"{MODULE}.weight", f"{MODULE}_scale"),
    (f"{MODULE}.weight_packed", f"{MODULE}.weight_scale"),
    (f"{MODULE}.weight._data", f"{MODULE}.weight._scale"),
    (f"{MODULE}.W_q", f"{MODULE}.scale"),
    ("model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.gate_up_proj_scale_inv"),
    ("model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.gate_up_proj_dequant_scales"),
    ("model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.gate_up_proj.scale"),
    ("model.layers.0.mlp.experts.gate_up_proj_blocks", "model.layers.0.mlp.experts.gate_up_proj_scales"),
    ("w1", "w1_scale"),
    ("w1_weight", "w1_scale"),
]
Arrays = dict[str, np.ndarray]


def model(root: Path, further: Arrays, **settings: Any) -> Path:
    """A small llama with further tensors in place of one of its own."""
    tensors = {n: a for n, a in llama_tensors(LLAMA).items() if n != f"{MODULE}.weight"}
    folder_of(root, {**tensors, **further}, {**LLAMA, **settings})
    (root / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()))
    return root


def codes(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 100, shape, dtype=np.uint8).view(CODES[dtype])


def assert_refused(source: Path, name: str, companion: str, tmp_path: Path) -> None:
    """Every target says exit 4 and names both; `inspect` shows the folder with a warning that does."""
    found = open_source(source)
    assert [w for w in found.warnings if name in w and companion in w]
    for output, options in (("mlx", {}), ("hf", {"to": "hf"}), ("a.gguf", {}), ("f32", {"to": "hf", "scheme": "f32"})):
        with pytest.raises(NotPossible) as error:
            planned(source, tmp_path / output, **options)
        assert name in str(error.value) and companion in str(error.value)
    shown = CliRunner().invoke(app, ["inspect", str(source), "--json"])
    assert shown.exit_code == 0
    survey = json.loads(shown.stdout)
    entry = next(w for w in survey["weights"] if w["name"] == name)
    assert entry["scheme"].endswith("-unscaled") and companion in entry["reason"]
    assert len([w for w in survey["warnings"] if companion in w]) == 1


@pytest.mark.parametrize(("name", "companion"), PAIRS)
@pytest.mark.parametrize("dtype", CODES)
def test_without_settings(name: str, companion: str, dtype: str, tmp_path: Path) -> None:
    further = {name: codes(dtype, (64, 128)), companion: np.ones(1, np.float32)}
    assert_refused(model(tmp_path / "m", further), name, companion, tmp_path)


@pytest.mark.parametrize("shape", [(2, 64, 16), (2, 4, 4, 16)])
def test_of_more_axes(shape: tuple[int, ...], tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    further = {name: codes("U8", shape), f"{name}_scale": np.ones((2, 1, 1), BF16)}
    assert_refused(model(tmp_path / "m", further), name, f"{name}_scale", tmp_path)


#: Settings of quantizers in which one module has other names than theirs.
QUANTIZERS: dict[str, dict[str, Any]] = {
    "fp8": {"quant_method": "fp8", "weight_block_size": None},
    "modelopt": {"quant_method": "modelopt", "quant_algo": "FP8"},
}


@pytest.mark.parametrize("method", QUANTIZERS)
@pytest.mark.parametrize("end", [".scale", ".scale_weight", "_scale", ".weight_amax"])
def test_beside_weights_that_settings_explain(method: str, end: str, tmp_path: Path) -> None:
    known = "model.layers.1.mlp.down_proj"
    suffix = "weight_scale_inv" if method == "fp8" else "weight_scale"
    further = {
        f"{MODULE}.weight": codes("F8_E4M3", (64, 128)), f"{MODULE}{end}": np.ones((), np.float32),
        f"{known}.weight": codes("F8_E4M3", (64, 128)), f"{known}.{suffix}": np.ones((), np.float32),
    }  # fmt: skip
    quantization = {**QUANTIZERS[method], "modules_to_not_convert": ["self_attn", "gate_proj", "up_proj", "lm_head"]}
    quantization["ignore"] = ["*self_attn*", "*gate_proj", "*up_proj", "lm_head"]
    source = model(tmp_path / "m", further, quantization_config=quantization)
    assert_refused(source, f"{MODULE}.weight", f"{MODULE}{end}", tmp_path)
    assert open_source(source).weights[f"{known}.weight"].scheme.name == "fp8-e4m3-tensor"


def test_in_the_folder_of_every_quantizer(tmp_path: Path) -> None:
    """One case of each tool, with a module beside its weights that nobody explains."""
    data = Path(__file__).resolve().parent.parent / "data" / "quantized"
    cases = sorted(path.name for path in data.iterdir() if (path / "truth.json").exists())
    for case in cases:
        root = tmp_path / case
        shutil.copytree(data / case, root)
        for path in (root, *root.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (root / "model.safetensors.index.json").unlink(missing_ok=True)
        further = {"model.extra.x.weight": codes("I8", (8, 8)), "model.extra.x.scale": np.ones(1, np.float32)}
        (root / "model-extra.safetensors").write_bytes(safetensors_bytes(further))
        found = open_source(root)
        assert found.weights["model.extra.x.weight"].scheme.name == "i8-unscaled", case
        with pytest.raises(NotPossible, match=r"model\.extra\.x\.weight.*model\.extra\.x\.scale"):
            planned(root, tmp_path / "out", to="hf")


def test_scales_of_another_weight_do_not_count(tmp_path: Path) -> None:
    """Experts in one module: scales of a weight that is read are no companion of the other, which lacks its own."""
    place = "model.layers.0.mlp.experts"
    further = {
        f"{place}.gate_up_proj": codes("F8_E4M3", (2, 32, 64)),
        f"{place}.gate_up_proj_scale_inv": np.ones((2, 1, 1), np.float32),
        f"{place}.down_proj": codes("F8_E4M3", (2, 64, 16)),
    }
    source = model(tmp_path / "m", further, quantization_config={"quant_method": "fp8"})
    with pytest.raises(BadInput, match="down_proj"):
        open_source(source)


@pytest.mark.parametrize(
    "further",
    [
        {f"{MODULE}.weight": codes("F8_E4M3", (64, 128))},
        {f"{MODULE}.weight": codes("F8_E5M2", (64, 128)), f"{MODULE}.bias": np.ones(64, BF16)},
        {f"{MODULE}.weight": codes("F8_E4M3", (64, 128)), "model.layers.0.mlp.scale": np.ones(1, BF16)},
        {f"{MODULE}.weight": codes("F8_E4M3", (64, 128)), "model.layers.1.mlp.down_proj.scale": np.ones(1, BF16)},
        {f"{MODULE}.weight": codes("F8_E4M3", (64, 128)), f"{MODULE}2.scale": np.ones(1, BF16)},
    ],
)
def test_bare_floats_have_no_companion(further: Arrays, tmp_path: Path) -> None:
    source = model(tmp_path / "m", further)
    found = open_source(source)
    assert found.weights[f"{MODULE}.weight"].scheme.name.startswith("fp8-e") and found.warnings == ()
    converted(source, tmp_path / "out", to="hf")
    assert stored(tmp_path / "out")[f"{MODULE}.weight"] == stored(source)[f"{MODULE}.weight"]


@pytest.mark.parametrize(
    "further",
    [
        {"model.upscale.mask": codes("U8", (8, 8)), "model.upscale.bias": np.ones(8, BF16)},
        {"model.codes": codes("I8", (8,)), "model.codes_scale": np.ones(1, BF16)},
        {"model.tokens": np.ones((8, 8), np.int64), "model.tokens_scale": np.ones(1, BF16)},
        {"model.norm.scale": np.ones(8, BF16), "model.norm.offset": np.ones((8, 8), BF16)},
        {"model.mask": codes("U8", (8, 8)), "model.layers.0.logit_scale": np.ones(1, BF16)},
    ],
)
def test_other_tensors_are_tensors(further: Arrays, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "m", further, {"model_type": "unheard_of"})
    assert open_source(source).warnings == ()
    converted(source, tmp_path / "out", to="hf")
    assert stored(tmp_path / "out") == stored(source)


def test_one_warning_names_the_first_and_counts(tmp_path: Path) -> None:
    modules = [f"model.layers.{i}.x" for i in range(5)]
    further = {f"{m}.weight": codes("I8", (8, 8)) for m in modules} | {f"{m}.scale": np.ones(1, "f4") for m in modules}
    found = open_source(folder_of(tmp_path / "m", further, {"model_type": "unheard_of"}))
    assert len(found.warnings) == 1 and "5 tensors" in found.warnings[0] and f"{modules[0]}.weight" in found.warnings[0]


def test_a_lone_file_is_shown_with_the_warning(tmp_path: Path) -> None:
    folder_of(tmp_path / "m", {"x.weight": codes("F8_E4M3", (8, 8)), "x.scale": np.ones(1, "f4")}, {})
    (tmp_path / "m" / "config.json").unlink()
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "m" / "model.safetensors"), "--json"])
    assert shown.exit_code == 0 and "x.scale" in json.loads(shown.stdout)["warnings"][0]


def test_in_an_mlx_folder(tmp_path: Path) -> None:
    converted(tiny_llama(tmp_path / "dense"), tmp_path / "m", bits=4, group_size=32)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    dtypes = {"U32": "<u4", "BF16": BF16}
    tensors = {n: np.frombuffer(t.data, dtypes[t.dtype]).reshape(t.shape) for n, t in stored(tmp_path / "m").items()}
    tensors = {n: a for n, a in tensors.items() if not n.startswith(MODULE)}
    further = {f"{MODULE}.weight": codes("F8_E4M3", (64, 128)), f"{MODULE}.weight_scale_inv": np.ones(1, "f4")}
    folder_of(tmp_path / "n", {**tensors, **further}, config)
    (tmp_path / "n" / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()))
    assert_refused(tmp_path / "n", f"{MODULE}.weight", f"{MODULE}.weight_scale_inv", tmp_path)


def test_in_a_gguf_file(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("blk.0.ffn_up.weight", codes("I8", (8, 32)))
    writer.add_tensor("blk.0.ffn_up.scale", np.ones(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "blk.0.ffn_up.scale" in open_source(tmp_path / "a.gguf").warnings[0]
    with pytest.raises(NotPossible, match=r"ffn_up\.weight.*ffn_up\.scale"):
        planned(tmp_path / "a.gguf", tmp_path / "b.gguf")


def test_diff_does_not_call_codes_equal_that_it_cannot_decode(tmp_path: Path) -> None:
    one = model(tmp_path / "one", {f"{MODULE}.weight": codes("I8", (64, 128)), f"{MODULE}.scale": np.ones(1, "f4")})
    values = codes("I8", (64, 128)).astype(np.float32).astype(BF16)
    other = model(tmp_path / "two", {f"{MODULE}.weight": values, f"{MODULE}.scale": np.ones(1, "f4")})
    found = json.loads(CliRunner().invoke(app, ["diff", str(one), str(other), "--json"]).stdout)
    assert {w["name"]: w["verdict"] for w in found["weights"]}[f"{MODULE}.weight"] == "undecoded"


def test_the_weights_own_scales_come_before_those_of_its_inputs() -> None:
    names = Names(["a.input_scale", "a.weight", "a.weight_scale", "a.activation_scale", "b.weight", "b.input_scale"])
    assert names.companion("a.weight") == "a.weight_scale"
    assert names.companion("b.weight") == "b.input_scale"


def test_many_tensors_are_looked_through_quickly() -> None:
    """Names that are prefixes of each other: work that grows with their count and not with its square."""
    names = [f"model.layers.{i}.mlp.down_proj.{leaf}" for i in range(20_000) for leaf in ("weight", "scale", "bias")]
    found = Names(names)
    assert all(found.companion(name) for name in names[::3])


def test_the_field_example(shared: Path, tmp_path: Path) -> None:
    source = shared / "field" / "hf" / "fp8-scale-without-settings"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    module = "model.layers.0.mlp.down_proj"
    assert_refused(source, f"{module}.weight", f"{module}.scale", tmp_path)
