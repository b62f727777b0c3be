"""Folders that mlx-lm writes are read as mlx-lm reads them, and every folder that quant writes loads in it strictly."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.recipes.names import mlx_scheme
from quantcli.sources.detect import open_source
from tests.builders import tiny_awq, tiny_llama
from tests.conversions import config, converted, planned, schemes, stored, values
from tests.peers.pinned import DEMO, peer
from tests.peers.test_architectures import IN_MLX_LM, prepared
from tests.sources.test_mlx_words import LEFTOVERS, WORDS, changed

mlx_lm = peer("mlx_lm")

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402
from mlx_lm import fuse  # noqa: E402
from mlx_lm.quant.awq import update_config  # noqa: E402
from mlx_lm.tuner.utils import linear_to_lora_layers  # noqa: E402
from mlx_lm.utils import load_model, save  # noqa: E402

AFFINE = [{"q_bits": bits, "q_group_size": group} for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
RECIPES = [
    {"quant_predicate": recipe, "q_group_size": group}
    for recipe in ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")
    for group in (None, 32, 64, 128)
]
MODES = [{"q_mode": mode} for mode in ("affine", "mxfp4", "mxfp8", "nvfp4")]
DTYPES = (None, "float16", "bfloat16", "float32")

#: Families without the `down_proj` that mlx-lm's recipes go by.
WITHOUT_RECIPES = ("gpt_neox", "mamba", "starcoder2")
#: Fixtures that mlx-lm itself cannot load: a layer for multi-token prediction that is not number 61; dense experts.
NOT_IN_MLX_LM = ("deepseek_v3", "gpt_oss")


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> None:
    mx.set_default_device(mx.cpu)


def scheme_of(module: Any) -> str | None:
    """The scheme of a module as mlx-lm has loaded it, None where it is dense."""
    if not hasattr(module, "bits"):
        return None
    found = mlx_scheme(module.bits, module.group_size, module.mode)
    assert found is not None
    return found


def modules(folder: Path) -> dict[str, Any]:
    """The modules of a folder that mlx-lm loads strictly, by path; all of their arrays are those of the folder."""
    model, _ = load_model(folder, strict=True)
    arrays = dict(tree_flatten(model.parameters()))
    files = stored(folder)
    assert arrays.keys() == files.keys()
    assert all(tuple(arrays[name].shape) == files[name].shape for name in files)
    return dict(model.named_modules())


def values_of(module: Any) -> np.ndarray:
    """The float32 values of a module's weight, by MLX itself."""
    if scheme_of(module) is None:
        return np.array(module.weight.astype(mx.float32))
    scales, biases = module.scales, module.get("biases")
    if biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return np.array(
        mx.dequantize(
            module.weight, scales, biases, module.group_size, module.bits, mode=module.mode, dtype=mx.float32
        )
    )  # fmt: skip


def holds(folder: Path) -> None:
    """Every weight of the folder has the scheme and the values that mlx-lm gives it; nothing is warned of."""
    theirs = modules(folder)
    found = open_source(folder)
    assert (found.kind, found.warnings) == ("mlx" if "quantization" in config(folder) else "hf", ())
    ours = values(folder)
    count = 0
    for name, weight in found.weights.items():
        module = theirs.get(name.removesuffix(".weight"))
        if not name.endswith(".weight") or module is None:
            continue
        expected = scheme_of(module)
        assert expected is None or weight.scheme.name == expected, name
        assert np.array_equal(ours[name], values_of(module)), name
        count += expected is not None
    assert count == sum(scheme_of(module) is not None for module in theirs.values())


def mlx_lms(source: Path, folder: Path, **options: Any) -> Path:
    """A folder that mlx_lm.convert writes."""
    mlx_lm.convert(str(source), str(folder), **options)
    return folder


def said(options: Any) -> str:
    return ",".join(f"{value}" for value in options.values()) if isinstance(options, dict) else str(options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [*AFFINE, *RECIPES, *MODES], ids=said)
def test_what_mlx_lm_quantizes_has_its_values(tmp_path: Path, options: dict[str, Any], dtype: str | None) -> None:
    folder = mlx_lms(DEMO, tmp_path / "theirs", quantize=True, dtype=dtype, **options)
    holds(folder)
    planned(folder, tmp_path / "out", strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_mlx_lm_leaves_dense_has_its_values(tmp_path: Path, dtype: str | None) -> None:
    holds(mlx_lms(DEMO, tmp_path / "theirs", dtype=dtype))
    mlx_lms(DEMO, tmp_path / "quantized", quantize=True, dtype=dtype, quant_predicate="mixed_3_6")
    holds(mlx_lms(tmp_path / "quantized", tmp_path / "dense", dequantize=True))


def test_a_folder_that_is_quantized_in_two_passes_has_mlx_lms_values(tmp_path: Path) -> None:
    """The second gives each module an entry of its own."""
    only = {"quant_predicate": lambda path, module: "mlp" in path}
    first = mlx_lms(DEMO, tmp_path / "first", quantize=True, q_bits=8, q_group_size=32, **only)
    holds(mlx_lms(first, tmp_path / "second", quantize=True, q_mode="mxfp4"))


OPTIONS: list[dict[str, Any]] = [
    {"quantize": True},
    {"quantize": True, "quant_predicate": "mixed_3_6"},
    {"dtype": "float16"},
]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(name, options, id=f"{name},{said(options)}")
        for name in IN_MLX_LM
        for options in OPTIONS
        if name not in NOT_IN_MLX_LM and not ("quant_predicate" in options and name in WITHOUT_RECIPES)
    ],
)
def test_mlx_lms_folder_of_every_family_has_its_values(
    shared: Path, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    source = prepared(shared, tmp_path, name).source
    given = options | ({"q_group_size": 32} if options.get("quantize") else {})
    folder = mlx_lms(source, tmp_path / "theirs", **given)
    holds(folder)
    if options.get("quantize"):
        converted(folder, tmp_path / "out")
        assert stored(tmp_path / "out") == stored(folder)
        gated(tmp_path / "out")


def fused(folder: Path, adapters: Path, output: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> Path:
    """A folder that mlx_lm.fuse makes of another and adapters of random values."""
    model, _ = load_model(folder)
    settings = {"rank": 4, "scale": 2.0, "dropout": 0.0}
    model.freeze()
    linear_to_lora_layers(model, 2, settings)
    mx.random.seed(0)
    arrays = {name: mx.random.normal(array.shape) * 0.02 for name, array in tree_flatten(model.trainable_parameters())}
    adapters.mkdir()
    mx.save_safetensors(str(adapters / "adapters.safetensors"), arrays)
    stated = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": settings}
    (adapters / "adapter_config.json").write_text(json.dumps(stated))
    arguments = ["--model", str(folder), "--adapter-path", str(adapters), "--save-path", str(output), *flags]
    monkeypatch.setattr(sys, "argv", ["fuse", *arguments])
    fuse.main()
    return output


@pytest.mark.parametrize("flags", [(), ("--dequantize",)], ids=said)
@pytest.mark.parametrize("options", [{"quant_predicate": "mixed_3_6"}, {"q_mode": "mxfp8"}, {"q_bits": 5}], ids=said)
def test_what_mlx_lm_fuses_has_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], flags: tuple[str, ...]
) -> None:
    folder = mlx_lms(DEMO, tmp_path / "theirs", quantize=True, **options)
    output = fused(folder, tmp_path / "adapters", tmp_path / "fused", monkeypatch, *flags)
    assert stored(output) != stored(folder)
    holds(output)


def test_what_mlx_lm_awq_says_of_every_module_is_read(tmp_path: Path) -> None:
    """It lists all modules, those without weights too (`self_attn.rope`): as dense."""
    folder = mlx_lms(DEMO, tmp_path / "theirs", quantize=True, q_group_size=32)
    model, tokenizer, stated = mlx_lm.load(str(folder), return_config=True)
    save(tmp_path / "awq", folder, model, tokenizer, update_config(model, stated))
    assert config(tmp_path / "awq")["quantization"]["model.layers.0.self_attn.rope"] is False
    holds(tmp_path / "awq")


@pytest.mark.parametrize("recipe", ["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"])
@pytest.mark.parametrize("through", ["convert", "fuse"])
def test_mlx_lms_config_as_a_recipe_gives_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, through: str
) -> None:
    theirs = mlx_lms(DEMO, tmp_path / "theirs", quantize=True, quant_predicate=recipe)
    given = theirs if through == "convert" else fused(theirs, tmp_path / "a", tmp_path / "fused", monkeypatch)
    report = converted(DEMO, tmp_path / "ours", recipe=given / "config.json")
    assert not report["warnings"] and stored(tmp_path / "ours") == stored(theirs)


def gated(folder: Path) -> None:
    """A folder of quant's: mlx-lm loads it strictly, each module in the scheme that quant reads."""
    theirs, ours = modules(folder), schemes(folder)
    for path, module in theirs.items():
        if (expected := scheme_of(module)) is not None:
            assert ours[f"{path}.weight"] == expected
    quantized = {name for name, scheme in ours.items() if scheme.startswith(("affine", "mx", "nv"))}
    assert len(quantized) == sum(scheme_of(module) is not None for module in theirs.values())


@pytest.mark.parametrize("word", range(len(WORDS)), ids=[repr(word) for word in WORDS])
def test_mlx_lm_loads_what_is_a_warning_here(tmp_path: Path, word: int) -> None:
    folder = mlx_lms(DEMO, tmp_path / "theirs", quantize=True)
    key, value = WORDS[word]
    block = config(folder)["quantization"] | {key: value}
    changed(folder, tmp_path / "words", quantization=block)
    modules(tmp_path / "words")
    assert len(open_source(tmp_path / "words").malformed) == 1


@pytest.mark.parametrize("case", LEFTOVERS)
def test_mlx_lm_loads_folders_with_settings_left_over(tmp_path: Path, case: str) -> None:
    folder = mlx_lms(DEMO, tmp_path / "theirs", quantize=True)
    changed(folder, tmp_path / "stale", **{"quantization_config": None} | LEFTOVERS[case])
    modules(tmp_path / "stale")
    converted(tmp_path / "stale", tmp_path / "out")
    assert stored(tmp_path / "out") == stored(folder)
    gated(tmp_path / "out")


SCHEMES = ("affine2-g32", "affine4-g32", "affine8-g64", "mxfp4", "mxfp8", "nvfp4", "mixed_3_6", "f16")


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        (name, scheme)
        for name in IN_MLX_LM
        for scheme in SCHEMES
        if scheme != "mixed_3_6" or name not in WITHOUT_RECIPES
    ],
)
def test_every_family_loads_in_every_kind_of_scheme(shared: Path, tmp_path: Path, name: str, scheme: str) -> None:
    source = prepared(shared, tmp_path, name).source
    converted(source, tmp_path / "mlx", scheme=scheme, allow_requantize=True)
    gated(tmp_path / "mlx")


#: The sources of the pair tests, by name.
SOURCES: dict[str, Callable[[Path], Path]] = {
    "hf-bf16": lambda root: tiny_llama(root / "hf-bf16"),
    "hf-f16": lambda root: tiny_llama(root / "hf-f16", dtype=np.dtype("float16"), torch_dtype="float16"),
    "hf-f32": lambda root: tiny_llama(root / "hf-f32", dtype=np.dtype("float32"), torch_dtype="float32"),
    "awq": lambda root: tiny_awq(root / "awq"),
    "awq-symmetric": lambda root: tiny_awq(root / "awq-symmetric", zero_point=False),
}
#: Overrides of a folder in which modules differ.
MIXED = ("*.down_proj=affine8-g32", "lm_head=bf16", "model.layers.1.self_attn.*=mxfp4")


def outputs(root: Path, source: Path) -> Iterator[Path]:
    """Every MLX folder that comes of a source: its own codes or values, schemes, and what goes through GGUF."""
    asked = {
        "keep": {}, "affine4-g32": {"scheme": "affine4-g32"}, "mxfp8": {"scheme": "mxfp8"},
        "mixed": {"scheme": "affine4-g64", "overrides": MIXED}, "f16": {"scheme": "f16"},
    }  # fmt: skip
    for number, options in enumerate(asked.values()):
        converted(source, root / str(number), allow_requantize=True, **options)
        yield root / str(number)
        converted(root / str(number), root / f"{number}.gguf")
        converted(root / f"{number}.gguf", root / f"{number}-back")
        yield root / f"{number}-back"


@pytest.mark.parametrize("kind", SOURCES)
def test_every_mlx_folder_of_the_pairs_loads(tmp_path: Path, kind: str) -> None:
    for folder in outputs(tmp_path / "out", SOURCES[kind](tmp_path)):
        gated(folder)
