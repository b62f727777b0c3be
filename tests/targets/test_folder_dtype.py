"""The dtype of a folder's dense tensors is one in which the model works, and config.json names it.

A column of the families' tables says in which 16-bit dtypes a family works.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quantcli.arrays import TORCH_DTYPES
from quantcli.errors import NotPossible
from quantcli.sources.detect import open_source
from tests.builders import LLAMA, folder_of, llama_tensors, tiny_awq, tiny_llama
from tests.conversions import config, converted, planned, schemes, stored
from tests.convert.test_golden_arch import DATA, reference, write_model

NO_F16 = ("gemma2", "gemma3_text", "glm4", "gpt_oss", "deepseek_v2")
#: Those that mlx-lm's class does not compute right in float16.
NO_F16_IN_MLX = tuple(kind for kind in NO_F16 if kind != "gemma3_text")
TORCH = {"f16": "float16", "bf16": "bfloat16", "f32": "float32"}
NUMPY = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16), "f32": np.dtype(np.float32)}
Files = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A tiny model of a family in GGUF, of a type, each made once; `hf` is the folder that it is made from."""
    root = tmp_path_factory.mktemp("families")

    def made(kind: str, scheme: str) -> Path:
        folder, path = root / kind, root / f"{kind}-{scheme}.gguf"
        if not folder.exists():
            write_model(folder, kind, reference(kind)["source"])
            tokenizer = json.loads((DATA / "arch" / kind / "reference.json").read_text())["tokenizer"]
            for part in (DATA / "tokenizers" / "kinds" / tokenizer).glob("*.json"):
                shutil.copy(part, folder)
        if scheme == "hf":
            return folder
        if not path.exists():
            converted(folder, path, scheme=scheme, pure=scheme.startswith("q"))
        return path

    return made


def dense(folder: Path) -> set[str]:
    """The dtypes of a folder's dense tensors, those aside that its family has in float32."""
    found = {scheme for name, scheme in schemes(folder).items() if "correction_bias" not in name}
    return found.intersection(TORCH)


def scales(folder: Path) -> set[str]:
    """The dtypes of a folder's scales and biases."""
    return {tensor.dtype for name, tensor in stored(folder).items() if name.endswith((".scales", ".biases"))}


def as_f16(source: Path, folder: Path, **keys: Any) -> Path:
    """A model folder in float16, its config.json with other keys."""
    converted(source, folder, to="hf", dtype="f16")
    (folder / "quant_report.json").unlink()
    (folder / "config.json").write_text(json.dumps(config(folder) | keys))
    return folder


@pytest.mark.parametrize("scheme", ["q4_0", "f16"])
@pytest.mark.parametrize("kind", NO_F16)
def test_folders_from_gguf_are_bf16_where_float16_does_not_work(
    file: Files, tmp_path: Path, kind: str, scheme: str
) -> None:
    report = converted(file(kind, scheme), tmp_path / "out", to="hf", strict=True)
    assert dense(tmp_path / "out") == {"bf16"}
    assert config(tmp_path / "out")["torch_dtype"] == "bfloat16"
    (note,) = report["notes"]
    assert "float16" in note and "0.17%" in note and "--dtype f32" in note
    assert ("8.6%" in note) == ("q4_0" in note) == (scheme == "q4_0")


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma", "glm4_moe", "deepseek_v3"])
def test_folders_from_gguf_stay_f16_where_it_works(file: Files, tmp_path: Path, kind: str) -> None:
    report = converted(file(kind, "q4_0"), tmp_path / "out", to="hf", strict=True)
    assert dense(tmp_path / "out") == {"f16"} and not report["notes"]
    assert config(tmp_path / "out")["torch_dtype"] == "float16"


@pytest.mark.parametrize("kind", NO_F16)
@pytest.mark.parametrize(("scheme", "expected"), [("bf16", "bf16"), ("f32", "f32")])
def test_dtypes_that_work_are_kept_without_a_word(
    file: Files, tmp_path: Path, kind: str, scheme: str, expected: str
) -> None:
    for to in ("hf", "mlx"):
        plan = planned(file(kind, scheme), tmp_path / "out", to=to)
        assert not [text for text in (*plan.notes, *plan.warnings) if "float16" in text]
        assert {s.scheme.name for s in plan.steps if len(s.shape) > 1} == {expected}


def test_f32_keeps_every_bit_as_the_plan_says(file: Files, tmp_path: Path) -> None:
    report = converted(file("gemma3_text", "q4_0"), tmp_path / "out", to="hf", dtype="f32", lossless="exact")
    assert {weight["grade"] for weight in report["weights"]} == {"exact"} and not report["notes"]


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text", "glm4"])
@pytest.mark.parametrize("to", ["hf", "mlx"])
@pytest.mark.parametrize("given", [{"dtype": "f16"}, {"scheme": "f16"}], ids=["dtype", "scheme"])
@pytest.mark.parametrize("origin", ["gguf", "hf", "mlx"])
def test_f16_that_is_asked_for_is_a_warning_from_every_source(
    file: Files, tmp_path: Path, kind: str, to: str, given: dict[str, Any], origin: str
) -> None:
    source = file(kind, "q4_0" if origin == "gguf" else "hf")
    if origin == "mlx":
        converted(source, tmp_path / "mlx", scheme="affine8-g32")
        source = tmp_path / "mlx"
    option = f"--{next(iter(given))} f16"
    plan = planned(source, tmp_path / "out", to=to, **given)
    (warning,) = [warning for warning in plan.warnings if "float16" in warning and option in warning]
    assert kind.removesuffix("_text") in warning and "bf16 or f32" in warning
    assert ("mlx-lm" in warning) == (kind == "gemma3_text" and to == "mlx")
    with pytest.raises(NotPossible, match="float16"):
        planned(source, tmp_path / "out", to=to, strict=True, **given)


@pytest.mark.parametrize("kind", NO_F16)
def test_f16_in_gguf_is_no_warning(file: Files, tmp_path: Path, kind: str) -> None:
    """llama.cpp computes with activations in float32, whatever a file holds."""
    for given in ({"dtype": "f16"}, {"scheme": "f16"}):
        planned(file(kind, "q4_0"), tmp_path / "out.gguf", strict=True, **given)


@pytest.mark.parametrize(
    "config_keys", [{}, {"text_config": {"model_type": "gemma2"}}, {"model_type": "t5"}, {"model_type": "gemma3n"}]
)
def test_models_without_a_table_are_warned_of_too(tmp_path: Path, config_keys: dict[str, Any]) -> None:
    keys = {**LLAMA, "model_type": "unheard_of", "architectures": ["UnheardOf"], **config_keys}
    folder = folder_of(tmp_path / "source", llama_tensors(LLAMA), keys)
    for to in ("hf", "mlx"):
        warnings = planned(folder, tmp_path / "out", to=to, dtype="f16").warnings
        assert any("do not work in float16" in warning for warning in warnings) == bool(config_keys)
        warnings = planned(folder, tmp_path / "out", to=to).warnings
        assert not [warning for warning in warnings if "float16" in warning]


@pytest.mark.parametrize("kind", NO_F16)
def test_stored_f16_is_copied_with_a_warning(file: Files, tmp_path: Path, kind: str) -> None:
    folder = as_f16(file(kind, "hf"), tmp_path / "f16")
    converted(folder, tmp_path / "out", to="hf")
    assert stored(tmp_path / "out") == stored(folder) and config(tmp_path / "out") == config(folder)
    for to, is_warned in (("hf", True), ("mlx", kind in NO_F16_IN_MLX)):
        warnings = planned(folder, tmp_path / "out", to=to).warnings
        assert any("the output is float16" in warning for warning in warnings) == is_warned
    changed = planned(folder, tmp_path / "out", to="hf", dtype="bf16", strict=True)
    assert {step.scheme.name for step in changed.steps} == {"bf16"}


def test_a_copy_of_f16_that_loads_as_bf16_stays_so(file: Files, tmp_path: Path) -> None:
    """config.json says in which dtype transformers and vLLM compute."""
    folder = as_f16(file("gemma3_text", "hf"), tmp_path / "f16", torch_dtype="bfloat16")
    report = converted(folder, tmp_path / "out", to="hf", strict=True)
    assert config(tmp_path / "out")["torch_dtype"] == "bfloat16"
    (note,) = report["notes"]
    assert re.search(r"config\.json .*\bbfloat16\b.*\bf16\b", note)


# MLX folders.


@pytest.mark.parametrize("kind", NO_F16)
@pytest.mark.parametrize("scheme", ["q4_0", "q4_1", "q8_0"])
def test_exact_scales_stay_f16_where_mlx_lm_computes_right_in_it(
    file: Files, tmp_path: Path, kind: str, scheme: str
) -> None:
    report = converted(file(kind, scheme), tmp_path / "out", strict=True)
    made = {"f16"} if kind == "gemma3_text" else {"bf16"}
    assert dense(tmp_path / "out") == made
    assert scales(tmp_path / "out") == ({"F16"} if kind == "gemma3_text" else {"F32"})
    assert config(tmp_path / "out")["torch_dtype"] == TORCH[made.pop()]
    said = [note for note in report["notes"] if "scales" in note]
    assert len(said) == (kind in NO_F16_IN_MLX)
    assert all("mlx-lm" in note and "f32" in note and "instead of" in note for note in said)
    repacked = [weight for weight in report["weights"] if weight["route"] == "repack"]
    assert repacked and all(weight["grade"] == "exact" for weight in repacked)


def test_f32_scales_are_the_f16_ones_exactly(file: Files, tmp_path: Path) -> None:
    source = file("glm4", "q4_0")
    converted(source, tmp_path / "wide")
    converted(source, tmp_path / "narrow", scale_dtype="f16")
    wide, narrow = stored(tmp_path / "wide"), stored(tmp_path / "narrow")
    assert scales(tmp_path / "narrow") == {"F16"}
    for name, tensor in wide.items():
        if name.endswith((".scales", ".biases")):
            assert np.array_equal(tensor.array(np.float32), narrow[name].array(np.float16).astype(np.float32))


def test_scales_that_are_asked_for_are_not_widened(file: Files, tmp_path: Path) -> None:
    for asked in ("f16", "bf16", "f32"):
        plan = planned(file("gemma2", "q4_0"), tmp_path / "out", scale_dtype=asked)
        dtypes = {getattr(step.scheme, "scale_dtype", None) for step in plan.steps} - {None}
        assert dtypes == {asked}
        assert not [note for note in plan.notes if "scales" in note]


def test_scales_of_another_quantizer_are_f32_as_well(tmp_path: Path) -> None:
    """AutoAWQ's are f16: mlx-lm then computes in float32, although dense tensors stay f16."""
    folder = tiny_awq(tmp_path / "awq")
    keys = {"model_type": "unheard_of", "architectures": ["UnheardOf"], "text_config": {"model_type": "gemma2"}}
    (folder / "config.json").write_text(json.dumps(config(folder) | keys))
    plan = planned(folder, tmp_path / "out")
    assert {getattr(step.scheme, "scale_dtype", "f32") for step in plan.steps} == {"f32"}
    assert [note for note in plan.notes if "f32" in note and "gemma2" in note]
    assert not [warning for warning in plan.warnings if "float16" in warning]
    assert any("the output is float16" in warning for warning in planned(folder, tmp_path / "hf", to="hf").warnings)


def test_an_mlx_folder_in_float16_is_copied_with_a_warning(file: Files, tmp_path: Path) -> None:
    for kind in ("gemma2", "gemma3_text"):
        converted(file(kind, "hf"), tmp_path / kind, scheme="affine8-g32", dtype="f16")
        warnings = planned(tmp_path / kind, tmp_path / "out").warnings
        assert any("the output is float16" in warning for warning in warnings) == (kind == "gemma2")


def test_gguf_to_mlx_to_hf_works_too(file: Files, tmp_path: Path) -> None:
    """mlx-lm clips what overflows, transformers does not."""
    converted(file("gemma3_text", "q4_0"), tmp_path / "mlx")
    report = converted(tmp_path / "mlx", tmp_path / "out", to="hf", strict=True)
    assert dense(tmp_path / "out") == {"bf16"}
    assert config(tmp_path / "out")["torch_dtype"] == "bfloat16"
    assert any("0.17%" in note for note in report["notes"])


# What is stored and what config.json says.


def of_mlx_lm(
    folder: Path, tensors: str, stated: str | None, quantized: bool = True, keys: dict[str, Any] | None = None
) -> Path:
    """What `mlx_lm.convert --dtype` makes of a model: config.json says what it said before."""
    source = tiny_llama(folder.with_name(f"{folder.name}-source"))
    converted(source, folder, dtype=tensors, **({"scheme": "affine4-g64"} if quantized else {}))
    (folder / "quant_report.json").unlink()
    made = {key: value for key, value in config(folder).items() if key != "torch_dtype"} | (keys or {})
    made |= {} if stated is None else {"torch_dtype": TORCH[stated]}
    (folder / "config.json").write_text(json.dumps(made))
    return folder


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("stated", [*TORCH, None])
@pytest.mark.parametrize("quantized", [True, False], ids=["quantized", "dense"])
@pytest.mark.parametrize("to", ["hf", "mlx"])
def test_the_dtype_of_an_mlx_folder_is_that_of_its_tensors(
    tmp_path: Path, dtype: str, stated: str | None, quantized: bool, to: str
) -> None:
    folder = of_mlx_lm(tmp_path / "mlx", dtype, stated, quantized)
    converted(folder, tmp_path / "out", to=to, strict=True)
    assert dense(tmp_path / "out") == {dtype}
    says = config(tmp_path / "out").get("torch_dtype")
    assert says == (TORCH[dtype] if stated or (to == "hf" and quantized) else None)
    if to == "mlx":
        assert stored(tmp_path / "out") == stored(folder)


@pytest.mark.parametrize("to", ["hf", "mlx"])
@pytest.mark.parametrize("given", [{"dtype": "f16"}, {"scheme": "bf16"}], ids=["dtype", "scheme"])
def test_what_a_family_has_in_f32_stays_so(file: Files, tmp_path: Path, to: str, given: dict[str, Any]) -> None:
    """The correction of a router's scores, whose small differences decide which experts are taken."""
    converted(file("glm4_moe", "hf"), tmp_path / "out", to=to, **given)
    found = schemes(tmp_path / "out")
    corrections = {scheme for name, scheme in found.items() if name.endswith("e_score_correction_bias")}
    others = {scheme for name, scheme in found.items() if not name.endswith("e_score_correction_bias")}
    assert (corrections, others) == ({"f32"}, set(given.values()))


def test_what_an_mlx_folder_has_in_f32_stays_so(tmp_path: Path) -> None:
    """A router, next to weights whose scales have 16 bits."""
    tensors = llama_tensors(LLAMA)
    tensors["model.layers.0.router.weight"] = np.ones((8, 64), np.float32)
    keys = {**LLAMA, "model_type": "unheard_of", "architectures": ["UnheardOf"]}
    source = folder_of(tmp_path / "source", tensors, keys)
    converted(source, tmp_path / "mlx", overrides=("*_proj=affine4-g64",), allow_unknown_architecture=True)
    converted(tmp_path / "mlx", tmp_path / "out", to="hf")
    found = schemes(tmp_path / "out")
    assert found.pop("model.layers.0.router.weight") == "f32" and set(found.values()) == {"bf16"}
    assert config(tmp_path / "out")["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("to", ["hf", "mlx"])
def test_every_key_for_a_dtype_follows(tmp_path: Path, to: str) -> None:
    """transformers 5 writes `dtype`, and models of several parts have it in the blocks of these."""
    parts = {
        "text_config": {"dtype": "bfloat16", "hidden_size": 64},
        "vision_config": {"torch_dtype": "bfloat16"},
        "audio_config": {"depth": 1},
        "rope_parameters": {"dtype": "bfloat16"},
        "torch_dtype": "bfloat16",
        "dtype": "bfloat16",
    }
    folder = of_mlx_lm(tmp_path / "mlx", "f16", "bf16", keys=parts)
    converted(folder, tmp_path / "out", to=to)
    made = config(tmp_path / "out")
    assert made["text_config"] == {"dtype": "float16", "hidden_size": 64}
    assert (made["vision_config"], made["audio_config"]) == ({"torch_dtype": "float16"}, {"depth": 1})
    assert (made["torch_dtype"], made["dtype"]) == ("float16", "float16")
    assert made["rope_parameters"] == parts["rope_parameters"]
    converted(folder, tmp_path / "asked", to=to, dtype="f32")
    made = config(tmp_path / "asked")
    assert (made["text_config"]["dtype"], made["vision_config"]["torch_dtype"]) == ("float32", "float32")


@pytest.mark.parametrize("stated", ["f16", "f32"])
def test_a_dense_copy_names_the_dtype_of_its_tensors(tmp_path: Path, stated: str) -> None:
    folder = tiny_llama(tmp_path / "source", torch_dtype=TORCH[stated])
    report = converted(folder, tmp_path / "out", to="hf", strict=True)
    assert stored(tmp_path / "out") == stored(folder)
    assert config(tmp_path / "out") == config(folder) | {"torch_dtype": "bfloat16"}
    assert report["notes"] == [
        f"The output's config.json says bfloat16, the dtype of its tensors, instead of {TORCH[stated]}."
    ]


def test_tensors_of_several_dtypes_leave_what_names_one_of_them(tmp_path: Path) -> None:
    tensors = llama_tensors(LLAMA)
    tensors["lm_head.weight"] = tensors["lm_head.weight"].astype(np.float32)
    folder = folder_of(tmp_path / "source", tensors, {**LLAMA, "torch_dtype": "float32"})
    converted(folder, tmp_path / "out", to="hf")
    assert config(tmp_path / "out") == config(folder)


#: A folder of every quantizer, one layer each.
FOLDERS = sorted(path.name for path in (DATA / "quantized").iterdir() if (path / "config.json").is_file())
QUANTIZED = sorted({name.partition("-")[0]: name for name in FOLDERS if not name.startswith("gpt-oss")}.values())
EMBEDDING = "model.embed_tokens.weight"


def with_embedding(case: str, folder: Path, dtype: str, stated: str | None) -> Path:
    """A quantizer's folder with a dense matrix, of a model without a table, so that it may have one layer alone."""
    shutil.copytree(DATA / "quantized" / case, folder)
    raw = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8:start]), raw[start:]
    matrix = np.ones((32, 64)).astype(NUMPY[dtype]).tobytes()
    spelled = {"f16": "F16", "bf16": "BF16", "f32": "F32"}[dtype]
    header[EMBEDDING] = {"dtype": spelled, "shape": [32, 64], "data_offsets": [len(data), len(data) + len(matrix)]}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data + matrix)
    settings = {k: v for k, v in config(folder).items() if k not in ("torch_dtype", "dtype", "architectures")}
    settings |= {"model_type": "unheard_of", "num_hidden_layers": 1} | (
        {} if stated is None else {"torch_dtype": TORCH[stated]}
    )
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("given", [{}, {"dtype": "bf16"}, {"to": "mlx"}], ids=str)
@pytest.mark.parametrize("case", QUANTIZED)
def test_a_folder_made_from_a_quantizers_has_one_dense_dtype(tmp_path: Path, case: str, given: dict[str, Any]) -> None:
    """Whatever config.json says: it names that dtype; of a copy it stays, since values of some layouts depend on it."""
    folder = with_embedding(case, tmp_path / "in", "f16", "bf16")
    options = {"to": "hf", **given}
    plan = planned(folder, tmp_path / "out", **options)
    converted(folder, tmp_path / "out", check=False, **options)
    made = {
        weight.scheme.name
        for weight in open_source(tmp_path / "out").weights.values()
        if len(weight.shape) > 1 and weight.scheme.name in TORCH
    }
    says = TORCH_DTYPES[config(tmp_path / "out")["torch_dtype"]]
    if given:
        assert made == {says}
    else:
        assert (made, says, plan.notes) == ({"f16"}, "bf16", ())
