"""Fused experts, as transformers 5 holds them, become the tensors that experts one by one become.

Models are those of tests/data/arch with values of their own; quantized ones have codes and scales from a seed.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

from quantcli.cli.app import app
from quantcli.convert.running.run import Resources
from quantcli.errors import BadInput, NotPossible
from quantcli.sources.detect import open_source
from quantcli.virtual import by_row, read_rows
from tests.builders import byte_level_tokenizer, folder_of
from tests.conversions import config, converted, planned, schemes, stored, values
from tests.convert.test_golden_arch import DATA, hashes, reference, write_model

BF16, F8 = np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn)
CASES = ("deepseek_v2", "deepseek_v3", "glm4_moe", "mixtral", "qwen2_moe", "qwen3_moe")
EXPERT = re.compile(r"(?P<place>.+\.experts)\.(?P<number>\d+)\.(?P<name>gate_proj|up_proj|down_proj|w1|w2|w3)\.weight")
KINDS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
Arrays = dict[str, np.ndarray]


def by_number(tensors: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
    """(module of the experts, matrix) -> the names of its tensors, by expert."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for name in tensors:
        if match := EXPERT.fullmatch(name):
            kind = KINDS.get(match["name"], match["name"])
            found.setdefault((match["place"], kind), {})[int(match["number"])] = name
    return {key: [names[number] for number in sorted(names)] for key, names in found.items()}


def fused(tensors: Arrays) -> Arrays:
    """The same model with each layer's experts in two tensors."""
    experts = by_number(tensors)
    made = {name: array for name, array in tensors.items() if not EXPERT.fullmatch(name)}
    for place in {place for place, _ in experts}:
        gate, up, down = (
            np.stack([tensors[name] for name in experts[place, kind]]) for kind in ("gate_proj", "up_proj", "down_proj")
        )
        made[f"{place}.gate_up_proj"] = np.concatenate([gate, up], axis=1)
        made[f"{place}.down_proj"] = down
    return made


def tensors_of(folder: Path) -> Arrays:
    dtypes = {"BF16": BF16, "F32": np.dtype("<f4")}
    return {name: one.array(dtypes[one.dtype]) for name, one in stored(folder).items()}


def of_case(folder: Path, case: str) -> tuple[Arrays, dict[str, Any]]:
    """A case's tensors and config."""
    write_model(folder, case, reference(case)["source"])
    add_tokenizer(folder, case)
    return tensors_of(folder), config(folder)


def add_tokenizer(folder: Path, case: str) -> Path:
    kind = json.loads((DATA / "arch" / case / "reference.json").read_text())["tokenizer"]
    for file in (DATA / "tokenizers" / "kinds" / kind).glob("*.json"):
        shutil.copy(file, folder)
    return folder


def in_mlp(tensors: Arrays) -> Arrays:
    """Mixtral under the names that transformers 5 gives its modules."""
    return {name.replace("block_sparse_moe.", "mlp."): array for name, array in tensors.items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("output", ["a.gguf", "mlx"])
def test_dense_ones_are_the_same_model(case: str, output: str, tmp_path: Path) -> None:
    tensors, settings = of_case(tmp_path / case, case)
    converted(tmp_path / case, tmp_path / output)
    wanted = hashes(tmp_path / output)
    assert any("exps" in name or "switch_mlp" in name for name in wanted)
    for number, rename in enumerate([lambda t: t, in_mlp] if case == "mixtral" else [lambda t: t]):
        other = add_tokenizer(folder_of(tmp_path / f"fused-{number}", rename(fused(tensors)), settings), case)
        assert not any(EXPERT.fullmatch(name) for name in open_source(other).weights)
        report = converted(other, tmp_path / f"{number}-{output}")
        assert hashes(tmp_path / f"{number}-{output}") == wanted
        assert report["warnings"] == []


def test_a_folder_keeps_them_as_they_are_stored(tmp_path: Path) -> None:
    tensors, settings = of_case(tmp_path / "m", "qwen3_moe")
    source = folder_of(tmp_path / "fused", fused(tensors), settings)
    converted(source, tmp_path / "out", to="hf")
    assert {n: s.sha256 for n, s in stored(tmp_path / "out").items()} == {
        n: s.sha256 for n, s in stored(source).items()
    }


def test_both_ways_to_store_them_in_one_folder_are_refused(tmp_path: Path) -> None:
    tensors, settings = of_case(tmp_path / "m", "qwen3_moe")
    both = folder_of(tmp_path / "both", {**tensors, **fused(tensors)}, settings)
    with pytest.raises(BadInput) as error:
        planned(both, tmp_path / "a.gguf")
    separate, stacked = (rf"model\.layers\.0\.mlp\.experts\.{name}" for name in (r"0\.down_proj\.weight", "down_proj"))
    assert re.search(rf"{separate}\b.* {stacked} .*blk\.0\.ffn_down_exps\.weight", str(error.value))


# Quantized: three experts of 80 and 40 rows, 64 columns and more.

EXPERTS, HIDDEN, INNER = 3, 64, 40
ROOT = "model.layers.0.mlp.experts"
MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": HIDDEN,
    "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    "vocab_size": 96, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "torch_dtype": "bfloat16",
    "tie_word_embeddings": False, "num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": INNER,
    "decoder_sparse_step": 1, "norm_topk_prob": True, "mlp_only_layers": [],
}  # fmt: skip
SHAPES = {"gate_up_proj": (EXPERTS, 2 * INNER, HIDDEN), "down_proj": (EXPERTS, HIDDEN, INNER)}


def rest(random: np.random.Generator) -> Arrays:
    """Everything but the experts, dense."""
    layer, norms = "model.layers.0.", ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm")
    shapes = {
        "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
        "self_attn.o_proj": (64, 64), "mlp.gate": (EXPERTS, 64),
    }  # fmt: skip
    made = {f"{layer}{name}.weight": shape for name, shape in shapes.items()}
    made |= {f"{layer}{name}.weight": (32 if "q_norm" in name else 64,) for name in norms}
    made |= {f"{layer}self_attn.k_norm.weight": (32,), "model.norm.weight": (64,)}
    made |= {"model.embed_tokens.weight": (96, 64), "lm_head.weight": (96, 64)}
    return {name: random.normal(0, 0.1, shape).astype(BF16) for name, shape in made.items()}


def moe(root: Path, tensors: Arrays, settings: Mapping[str, Any]) -> Path:
    """A folder with a tokenizer."""
    folder_of(root, tensors, settings)
    (root / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()))
    special = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (root / "tokenizer_config.json").write_text(json.dumps(special))
    return root


def fp8_codes(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    codes = random.integers(0, 256, shape, dtype=np.uint8)
    return np.where(codes & 127 == 127, np.uint8(3), codes).view(F8)


def spread(scales: np.ndarray, shape: tuple[int, ...], block: tuple[int, int]) -> np.ndarray:
    """A scale for each value."""
    wide = np.repeat(np.repeat(scales.astype(np.float32), block[0], axis=1), block[1], axis=2)
    return wide[:, : shape[1], : shape[2]]


#: Name -> `weight_block_size`, the block that scales really have for (rows, columns), their shape, the suffix.
Sharing = tuple[list[int] | None, Callable[[int, int], tuple[int, int]], str]
SHARED: dict[str, Sharing] = {
    "blocks that fill experts": ([8, 32], lambda r, c: (8, 32), "_scale_inv"),
    "blocks cut off in each expert": ([32, 32], lambda r, c: (32, 32), "_scale_inv"),
    "one for each expert": (None, lambda r, c: (r, c), "_scale_inv"),
    "one for each expert, beside a block size": ([16, 16], lambda r, c: (r, c), "_scale_inv"),
    "gate and up apart": (None, lambda r, c: (r // 2, c), "_scale_inv"),
    "one for each row": (None, lambda r, c: (1, c), "_weight_scale"),
    "one for each column": (None, lambda r, c: (r, 1), "_scale"),
}


def fp8_model(
    root: Path, sharing: Sharing, dtype: Any = np.float32, settings: Mapping[str, Any] = {}
) -> tuple[Path, Arrays]:
    """A folder with fused experts in FP8, and the values of its experts."""
    said, block_of, suffix = sharing
    random = np.random.default_rng(19)
    tensors, truth = rest(random), {}
    for name, shape in SHAPES.items():
        block = block_of(*shape[1:])
        grid = (EXPERTS, -(-shape[1] // block[0]), -(-shape[2] // block[1]))
        scales = random.uniform(0.5, 2, grid).astype(dtype) * np.asarray(0.001, dtype)
        codes = fp8_codes(random, shape)
        tensors |= {f"{ROOT}.{name}": codes, f"{ROOT}.{name}{suffix}": scales}
        truth[name] = codes.astype(np.float32) * spread(scales, shape, block)
    quantization = {
        "quant_method": "fp8",
        "weight_block_size": said,
        "modules_to_not_convert": ["lm_head", "mlp.gate", "self_attn"],
    }
    return moe(root, tensors, {**MOE, "quantization_config": {**quantization, **settings}}), truth


def assert_experts(path: Path, truth: Arrays, names: Callable[[str], str]) -> None:
    found = values(path)
    halves = np.split(truth["gate_up_proj"], 2, axis=1)
    for kind, wanted in zip(("gate", "up", "down"), (*halves, truth["down_proj"]), strict=True):
        assert np.array_equal(found[names(kind)], wanted.astype(BF16).astype(np.float32)), kind


OUTPUTS: dict[str, Callable[[str], str]] = {
    "a.gguf": lambda kind: f"blk.0.ffn_{kind}_exps.weight",
    "mlx": lambda kind: f"model.layers.0.mlp.switch_mlp.{kind}_proj.weight",
}


@pytest.mark.parametrize("sharing", SHARED)
@pytest.mark.parametrize("output", OUTPUTS)
def test_fp8_is_code_times_scale(sharing: str, output: str, tmp_path: Path) -> None:
    source, truth = fp8_model(tmp_path / "m", SHARED[sharing])
    assert open_source(source).warnings == ()
    converted(source, tmp_path / output, scheme="bf16")
    assert_experts(tmp_path / output, truth, OUTPUTS[output])


@pytest.mark.parametrize("sharing", SHARED)
def test_fp8_in_a_folder_is_decoded_or_copied_with_its_scales(sharing: str, tmp_path: Path) -> None:
    source, truth = fp8_model(tmp_path / "m", SHARED[sharing])
    converted(source, tmp_path / "dense", to="hf", scheme="bf16")
    found = values(tmp_path / "dense")
    for name, wanted in truth.items():
        assert np.array_equal(found[f"{ROOT}.{name}"], wanted.astype(BF16).astype(np.float32))
    assert "quantization_config" not in config(tmp_path / "dense")
    assert not [name for name in found if "scale" in name]
    converted(source, tmp_path / "same", to="hf")
    assert stored(tmp_path / "same") == stored(source)


@pytest.mark.parametrize("sharing", SHARED)
def test_fp8_in_slabs_is_the_whole(sharing: str, tmp_path: Path) -> None:
    """With an entry for each row, and in the ranges that the stored arrays can be cut into."""
    source, truth = fp8_model(tmp_path / "m", SHARED[sharing])
    for name, wanted in truth.items():
        weight = open_source(source).weights[f"{ROOT}.{name}"]
        for form in (weight, by_row(weight)):
            specs = form.scheme.layout(form.shape)
            rows, step = len(wanted.reshape(-1, wanted.shape[-1])), int(np.lcm.reduce([s.rows for s in specs.values()]))
            parts = [read_rows(form, specs, at, min(at + step, rows)) for at in range(0, rows, step)]
            found = np.concatenate([form.scheme.decode(part) for part in parts]).reshape(wanted.shape)
            assert np.array_equal(found, wanted.astype(BF16).astype(np.float32))
        assert step <= 80


@pytest.mark.parametrize(
    ("shape", "dtype"), [((), "f4"), ((1,), "f4"), ((1, 1, 1), "f4"), ((EXPERTS,), "f4"), ((EXPERTS, 1, 1), BF16)]
)
def test_a_scale_of_all_experts_or_of_each_in_any_shape(shape: tuple[int, ...], dtype: Any, tmp_path: Path) -> None:
    source, _ = fp8_model(tmp_path / "m", SHARED["one for each expert"])
    tensors = {
        name: one.array({"BF16": BF16, "F32": "<f4", "F8_E4M3": F8}[one.dtype]) for name, one in stored(source).items()
    }
    truth = {}
    for number, name in enumerate(SHAPES):
        scales = (np.arange(1, 1 + int(np.prod(shape)), dtype="f4") / 64 / (number + 1)).reshape(shape).astype(dtype)
        tensors[f"{ROOT}.{name}_scale_inv"] = scales
        codes = tensors[f"{ROOT}.{name}"].astype(np.float32)
        truth[name] = codes * np.broadcast_to(scales.astype(np.float32).reshape(-1, 1, 1), (EXPERTS, 1, 1))
    moe(source, tensors, config(source))
    for output, names in OUTPUTS.items():
        converted(source, tmp_path / output, scheme="bf16")
        assert_experts(tmp_path / output, truth, names)


def test_fp8_experts_one_by_one_give_the_same_outputs(tmp_path: Path) -> None:
    """What the reader of matrices makes of the same codes and scales."""
    source, _ = fp8_model(tmp_path / "m", ([8, 32], lambda r, c: (8, 32), "_scale_inv"))
    tensors = {
        name: one.array({"BF16": BF16, "F32": "<f4", "F8_E4M3": F8}[one.dtype]) for name, one in stored(source).items()
    }
    apart = {name: array for name, array in tensors.items() if ROOT not in name}
    for e in range(EXPERTS):
        for suffix in ("", "_scale_inv"):
            gate, up = np.split(tensors[f"{ROOT}.gate_up_proj{suffix}"][e], 2)
            down = tensors[f"{ROOT}.down_proj{suffix}"][e]
            for kind, array in {"gate": gate, "up": up, "down": down}.items():
                apart[f"{ROOT}.{e}.{kind}_proj.weight{suffix}"] = array
    other = moe(tmp_path / "apart", apart, config(source))
    for output, options in {
        "a.gguf": {},
        "b.gguf": {"scheme": "bf16"},
        "c": {},
        "d": {"bits": 4, "group_size": 32},
    }.items():
        converted(source, tmp_path / f"1-{output}", **options)
        converted(other, tmp_path / f"2-{output}", **options)
        assert hashes(tmp_path / f"1-{output}") == hashes(tmp_path / f"2-{output}")


def test_diff_finds_every_expert_in_the_files_made_of_them(tmp_path: Path) -> None:
    source, _ = fp8_model(tmp_path / "m", SHARED["one for each expert"])
    for output in OUTPUTS:
        converted(source, tmp_path / output, scheme="f32")
        found = json.loads(CliRunner().invoke(app, ["diff", str(source), str(tmp_path / output), "--json"]).stdout)
        assert {w["verdict"] for w in found["weights"]} == {"equal"} and not found["only_a"] and not found["only_b"]
        assert len(found["weights"]) == 12 + 3 * EXPERTS


def test_a_model_without_a_table_keeps_their_names(tmp_path: Path) -> None:
    source, truth = fp8_model(tmp_path / "m", SHARED["one for each expert"])
    settings = config(source)
    (source / "config.json").write_text(json.dumps({**settings, "model_type": "unheard_of"}))
    for output, options in (("mlx", {}), ("hf", {"to": "hf", "scheme": "bf16"})):
        converted(source, tmp_path / output, **options)
        found = values(tmp_path / output)
        for name, wanted in truth.items():
            assert np.array_equal(found[f"{ROOT}.{name}"], wanted.astype(BF16).astype(np.float32))
        assert not [name for name in found if "scale" in name]


def test_slabs_stay_small_where_an_expert_has_one_scale(tmp_path: Path) -> None:
    source, _ = fp8_model(tmp_path / "m", SHARED["one for each expert"])
    from quantcli.convert.running.run import slabs_of

    for output in ("a.gguf", "mlx"):
        steps = [
            step
            for step in planned(source, tmp_path / output, scheme="bf16").steps
            if "exps" in step.name or "switch" in step.name
        ]
        assert len(steps) == 3
        for step in steps:
            assert max(slab.stop - slab.start for slab in slabs_of(step, Resources(64 * 40 * 8, 1))) < 40


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({f"{ROOT}.down_proj_scale_inv": None}, BadInput),
        ({f"{ROOT}.down_proj_scale_inv": np.ones((EXPERTS, 7, 1), "f4")}, BadInput),
        ({f"{ROOT}.down_proj_scale_inv": np.ones((EXPERTS + 1, 1, 1), "f4")}, BadInput),
        ({f"{ROOT}.down_proj_scale_inv": np.ones((EXPERTS, 8), "f4")}, BadInput),
        ({f"{ROOT}.down_proj_scale_inv": np.ones((EXPERTS, 1, 1), "i4")}, BadInput),
        ({f"{ROOT}.down_proj_scale_inv": np.ones((0, 1, 1), "f4")}, BadInput),
        ({f"{ROOT}.down_proj": np.zeros((2, EXPERTS, 64, 40), F8)}, NotPossible),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(
    change: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    source, _ = fp8_model(tmp_path / "m", ([8, 32], lambda r, c: (8, 32), "_scale_inv"))
    tensors = {
        name: one.array({"BF16": BF16, "F32": "<f4", "F8_E4M3": F8}[one.dtype]) for name, one in stored(source).items()
    }
    moe(source, {n: a for n, a in {**tensors, **change}.items() if a is not None}, config(source))
    with pytest.raises(error, match="down_proj"):
        open_source(source)


# modelopt's: NVFP4 with scales of two levels, and FP8.

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def modelopt_model(root: Path, second: tuple[int, ...], algorithm: str = "NVFP4") -> tuple[Path, Arrays, Arrays]:
    """A folder with fused experts as modelopt stores them; its tensors, and values of its experts before rounding."""
    random = np.random.default_rng(4)
    tensors, truth = rest(random), {}
    shapes = {"gate_up_proj": (EXPERTS, 128, HIDDEN), "down_proj": (EXPERTS, HIDDEN, 64)}
    for name, shape in shapes.items():
        whole = random.uniform(0.01, 0.02, second).astype(np.float32)
        each = np.broadcast_to(whole.reshape(-1, 1, 1), (EXPERTS, 1, 1))
        inputs = {f"{ROOT}.{name}_input_scale": np.full(second, 0.5, np.float32)}
        if algorithm == "FP8":
            codes = fp8_codes(random, shape)
            tensors |= {f"{ROOT}.{name}": codes, f"{ROOT}.{name}_weight_scale": whole, **inputs}
            truth[name] = codes.astype(np.float32) * each.astype(BF16).astype(np.float32)
            continue
        codes = random.integers(0, 16, shape, dtype=np.uint8)
        scales = random.integers(40, 120, (*shape[:2], shape[2] // 16), dtype=np.uint8).view(F8)
        tensors |= {
            f"{ROOT}.{name}": codes[..., 0::2] | codes[..., 1::2] << np.uint8(4),
            f"{ROOT}.{name}_weight_scale": scales, f"{ROOT}.{name}_weight_scale_2": whole, **inputs,
        }  # fmt: skip
        products = scales.astype(np.float32) * each
        truth[name] = E2M1[codes] * np.repeat(products, 16, axis=2)
    settings = {**MOE, "moe_intermediate_size": 64}
    quantization = {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": ["lm_head", "*.gate", "*self_attn*"]}
    return moe(root, tensors, {**settings, "quantization_config": quantization}), truth, tensors


@pytest.mark.parametrize("second", [(), (1,), (EXPERTS,), (EXPERTS, 1, 1)], ids=str)
@pytest.mark.parametrize("algorithm", ["NVFP4", "FP8"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_modelopt_values(second: tuple[int, ...], algorithm: str, output: str, tmp_path: Path) -> None:
    source, truth, _ = modelopt_model(tmp_path / "m", second, algorithm)
    assert open_source(source).warnings == ()
    converted(source, tmp_path / output, scheme="bf16")
    assert_experts(tmp_path / output, truth, OUTPUTS[output])
    converted(source, tmp_path / "same", to="hf")
    assert stored(tmp_path / "same") == stored(source)


@pytest.mark.parametrize("second", [(), (EXPERTS,), (EXPERTS, 1, 1)], ids=str)
def test_nvfp4_keeps_its_codes_in_gguf(second: tuple[int, ...], tmp_path: Path) -> None:
    """Blocks with the scale of each expert in a tensor beside them, as those of experts one by one."""
    source, _, tensors = modelopt_model(tmp_path / "m", second)
    converted(source, tmp_path / "a.gguf")
    apart = {name: array for name, array in tensors.items() if ROOT not in name}
    for e in range(EXPERTS):
        for end in ("", "_scale"):
            gate, up = np.split(tensors[f"{ROOT}.gate_up_proj{'_weight' * bool(end)}{end}"][e], 2)
            down = tensors[f"{ROOT}.down_proj{'_weight' * bool(end)}{end}"][e]
            for kind, array in {"gate": gate, "up": up, "down": down}.items():
                apart[f"{ROOT}.{e}.{kind}_proj.weight{end}"] = array
        for kind, name in {"gate": "gate_up_proj", "up": "gate_up_proj", "down": "down_proj"}.items():
            for end in ("weight_scale_2", "input_scale"):
                whole = np.broadcast_to(tensors[f"{ROOT}.{name}_{end}"].reshape(-1), EXPERTS)
                apart[f"{ROOT}.{e}.{kind}_proj.{end}"] = np.array(whole[e])
    other = moe(tmp_path / "apart", apart, config(source))
    converted(other, tmp_path / "b.gguf")
    ours, theirs = hashes(tmp_path / "a.gguf"), hashes(tmp_path / "b.gguf")
    assert schemes(tmp_path / "a.gguf")["blk.0.ffn_up_exps.weight"] == "nvfp4"
    inputs = {name for name in theirs if name.endswith("input_scale")}
    assert {n: h for n, h in ours.items() if n not in inputs} == {n: h for n, h in theirs.items() if n not in inputs}


def test_nvfp4_whose_rows_are_inputs_is_not_read(tmp_path: Path) -> None:
    source, _, tensors = modelopt_model(tmp_path / "m", ())
    name = f"{ROOT}.gate_up_proj"
    turned = {name: np.zeros((EXPERTS, 32, 128), np.uint8), f"{name}_weight_scale": np.ones((EXPERTS, 4, 128), F8)}
    moe(source, {**tensors, **turned}, json.loads((source / "config.json").read_text()))
    with pytest.raises(NotPossible, match="gate_up_proj"):
        open_source(source)


def test_the_field_example_is_what_it_means(shared: Path, tmp_path: Path) -> None:
    source = shared / "field" / "hf" / "fp8-fused-experts-block"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    truth = np.load(source / "truth.npz")
    for output, names in OUTPUTS.items():
        converted(source, tmp_path / output, scheme="bf16")
        experts = {name: truth[f"{ROOT}.{name}"] for name in SHAPES}
        assert_experts(tmp_path / output, experts, names)
