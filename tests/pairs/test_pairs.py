"""One tiny model through every pair of a source kind and a target: routes, grades, and what is read back.

The model has 16 matrices (7 a layer, embedding, lm_head) and 5 norms; its rows of 64 and 128 fill every group but not
the blocks of q6_k. Each row of the tables below is the step of all matrices, those named apart.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.convert.planning.steps import Plan
from quantcli.errors import NotPossible
from tests.builders import LLAMA, awq_grid, llama_tensors, tiny_awq
from tests.conversions import config, converted, planned, schemes, stored, values

Sources = Callable[[str], Path]

#: What each target is asked for: the output's name, and options.
TARGETS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlx": ("out", {}),
    "mlx affine4-g32": ("out", {"scheme": "affine4-g32"}),
    "gguf": ("out.gguf", {}),
    "gguf q4_0": ("out.gguf", {"scheme": "q4_0"}),
    "gguf q8_0": ("out.gguf", {"scheme": "q8_0"}),
    "gguf bf16": ("out.gguf", {"scheme": "bf16"}),
    "hf": ("out", {"to": "hf"}),
    "hf f16": ("out", {"to": "hf", "scheme": "f16"}),
}

#: (source, target) -> what becomes of its matrices: scheme, route, grade; more than one where they differ.
#: Grades are the worst that the two formats allow. REFUSED: nothing is left to do, exit 4.
REFUSED = "refused"
PAIRS: dict[tuple[str, str], set[str] | str] = {
    ("hf-bf16", "mlx"): {"bf16 copy exact"},
    ("hf-bf16", "mlx affine4-g32"): {"affine4-g32 quantize lossy"},
    ("hf-bf16", "gguf"): {"bf16 copy exact"},
    ("hf-bf16", "gguf q4_0"): {"q4_0 quantize lossy", "q8_0 quantize lossy"},
    ("hf-bf16", "gguf q8_0"): {"q8_0 quantize lossy"},
    ("hf-bf16", "gguf bf16"): {"bf16 copy exact"},
    ("hf-bf16", "hf"): {"bf16 copy exact"},
    ("hf-bf16", "hf f16"): {"f16 cast lossy"},
    ("hf-f16", "mlx"): {"f16 copy exact"},
    ("hf-f16", "mlx affine4-g32"): {"affine4-g32 quantize lossy"},
    ("hf-f16", "gguf"): {"f16 copy exact"},
    ("hf-f16", "gguf q4_0"): {"q4_0 quantize lossy", "q8_0 quantize lossy"},
    ("hf-f16", "gguf q8_0"): {"q8_0 quantize lossy"},
    ("hf-f16", "gguf bf16"): {"bf16 cast lossy"},
    ("hf-f16", "hf"): {"f16 copy exact"},
    ("hf-f16", "hf f16"): {"f16 copy exact"},
    ("hf-f32", "mlx"): {"f32 copy exact"},
    ("hf-f32", "mlx affine4-g32"): {"affine4-g32 quantize lossy"},
    ("hf-f32", "gguf"): {"f32 copy exact"},
    ("hf-f32", "gguf q4_0"): {"q4_0 quantize lossy", "q8_0 quantize lossy"},
    ("hf-f32", "gguf q8_0"): {"q8_0 quantize lossy"},
    ("hf-f32", "gguf bf16"): {"bf16 cast lossy"},
    ("hf-f32", "hf"): {"f32 copy exact"},
    ("hf-f32", "hf f16"): {"f16 cast lossy"},
    ("affine4-g64", "mlx"): {"affine4-g64 copy exact"},
    ("affine4-g64", "mlx affine4-g32"): {"affine4-g32 repack exact"},
    ("affine4-g64", "gguf"): {"q4_1 repack codes-exact"},
    ("affine4-g64", "gguf q4_0"): REFUSED,
    ("affine4-g64", "gguf q8_0"): REFUSED,
    ("affine4-g64", "gguf bf16"): {"bf16 dequantize lossy"},
    ("affine4-g64", "hf"): {"bf16 dequantize lossy"},
    ("affine4-g64", "hf f16"): {"f16 dequantize lossy"},
    ("affine8-g32", "mlx"): {"affine8-g32 copy exact"},
    ("affine8-g32", "mlx affine4-g32"): REFUSED,
    ("affine8-g32", "gguf"): {"q8_0 requantize lossy"},
    ("affine8-g32", "gguf q4_0"): REFUSED,
    ("affine8-g32", "gguf bf16"): {"bf16 dequantize lossy"},
    ("affine8-g32", "hf"): {"bf16 dequantize lossy"},
    ("affine8-g32", "hf f16"): {"f16 dequantize lossy"},
    ("mxfp4", "mlx"): {"mxfp4 copy exact"},
    ("mxfp4", "mlx affine4-g32"): REFUSED,
    ("mxfp4", "gguf"): {"mxfp4 repack exact"},
    ("mxfp4", "gguf q4_0"): REFUSED,
    ("mxfp4", "gguf bf16"): {"bf16 dequantize exact"},
    ("mxfp4", "hf"): {"bf16 dequantize exact"},
    ("mxfp4", "hf f16"): {"f16 dequantize lossy"},
    ("nvfp4", "mlx"): {"nvfp4 copy exact"},
    ("nvfp4", "mlx affine4-g32"): REFUSED,
    ("nvfp4", "gguf"): {"nvfp4 repack exact"},
    ("nvfp4", "gguf q4_0"): REFUSED,
    ("nvfp4", "gguf bf16"): {"bf16 dequantize exact"},
    ("nvfp4", "hf"): {"bf16 dequantize exact"},
    ("nvfp4", "hf f16"): {"f16 dequantize exact"},
    ("mixed", "mlx"): {"affine4-g64 copy exact", "affine8-g32 copy exact", "mxfp4 copy exact", "bf16 copy exact"},
    ("mixed", "mlx affine4-g32"): {
        "affine4-g32 repack exact", "affine8-g32 copy exact", "mxfp4 copy exact", "affine4-g32 quantize lossy",
    },
    ("mixed", "gguf"): {
        "q4_1 repack codes-exact", "q8_0 requantize lossy", "mxfp4 repack exact", "bf16 copy exact",
    },
    ("mixed", "gguf q4_0"): {
        "q4_1 repack codes-exact", "q8_0 requantize lossy", "mxfp4 repack exact", "q8_0 quantize lossy",
    },
    ("mixed", "gguf q8_0"): {
        "q4_1 repack codes-exact", "q8_0 requantize lossy", "mxfp4 repack exact", "q8_0 quantize lossy",
    },
    ("mixed", "gguf bf16"): {"bf16 dequantize lossy", "bf16 dequantize exact", "bf16 copy exact"},
    ("mixed", "hf"): {"bf16 dequantize lossy", "bf16 dequantize exact", "bf16 copy exact"},
    ("mixed", "hf f16"): {"f16 dequantize lossy", "f16 cast lossy"},
    ("awq", "mlx"): {"affine4-g64 repack codes-exact", "f16 copy exact"},
    ("awq", "mlx affine4-g32"): {"affine4-g32 repack codes-exact", "affine4-g32 quantize lossy"},
    ("awq", "gguf"): {"q4_1 repack codes-exact", "f16 copy exact"},
    ("awq", "gguf q4_0"): {"q4_1 repack codes-exact", "q4_0 quantize lossy", "q8_0 quantize lossy"},
    ("awq", "gguf q8_0"): {"q8_0 repack exact", "q8_0 quantize lossy"},
    ("awq", "gguf bf16"): {"bf16 dequantize lossy", "bf16 cast lossy"},
    ("awq", "hf"): {"uint4-g64 copy exact", "f16 copy exact"},
    ("awq", "hf f16"): {"f16 dequantize exact", "f16 copy exact"},
    ("awq-symmetric", "mlx"): {"affine4-g64 repack exact", "f16 copy exact"},
    ("awq-symmetric", "gguf"): {"q4_0 repack exact", "f16 copy exact"},
    ("awq-symmetric", "hf f16"): {"f16 dequantize exact", "f16 copy exact"},
}  # fmt: skip


def matrices(plan: Plan) -> set[str]:
    """The steps of a plan's matrices."""
    return {f"{s.scheme.name} {s.route} {s.grade}" for s in plan.steps if len(s.shape) == 2}


@pytest.mark.parametrize(("kind", "target"), PAIRS, ids=[" to ".join(pair) for pair in PAIRS])
def test_pair(source: Sources, tmp_path: Path, kind: str, target: str) -> None:
    name, options = TARGETS[target]
    expected = PAIRS[kind, target]
    if expected == REFUSED:
        with pytest.raises(NotPossible, match="--allow-requantize"):
            converted(source(kind), tmp_path / name, **options)
        assert not list(tmp_path.iterdir())
        return
    assert matrices(planned(source(kind), tmp_path / name, **options)) == expected
    report = converted(source(kind), tmp_path / name, **options)
    assert report["verified"] and len(report["weights"]) == 21
    assert schemes(tmp_path / name) == {w["name"]: w["scheme"] for w in report["weights"]}
    fallen = [w for w in report["weights"] if "fallback_from" in w]
    assert report["totals"]["fallbacks"] == len(fallen)


@pytest.mark.parametrize("kind", ["affine4-g64", "affine8-g32", "mxfp4", "nvfp4", "mixed"])
def test_mlx_to_mlx_keeps_every_byte(source: Sources, tmp_path: Path, kind: str) -> None:
    converted(source(kind), tmp_path / "out")
    for path in source(kind).iterdir():
        if path.name != "quant_report.json":
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("kind", ["hf-bf16", "hf-f16", "hf-f32", "awq"])
def test_hf_to_hf_keeps_every_tensor(source: Sources, tmp_path: Path, kind: str) -> None:
    converted(source(kind), tmp_path / "out", to="hf")
    assert stored(tmp_path / "out") == stored(source(kind))
    assert config(tmp_path / "out") == config(source(kind))


@pytest.mark.parametrize("kind", ["affine4-g32", "affine4-g64", "affine3-g64", "affine2-g32", "mxfp4"])
def test_values_survive_in_gguf(source: Sources, tmp_path: Path, kind: str) -> None:
    """The repacked values are the source's own, row order of q and k aside: each row is there once."""
    report = converted(source(kind), tmp_path / "out.gguf", lossless=None if kind == "mxfp4" else "exact")
    before, after = values(source(kind)), values(tmp_path / "out.gguf")
    names = {w["name"]: w["from"]["name"] for w in report["weights"]}
    assert len(after) == len(before) == 21
    for name, origin in names.items():
        wanted = before[origin]
        if "attn_q" in name or "attn_k" in name:
            heads = LLAMA["num_attention_heads"] if "attn_q" in name else LLAMA["num_key_value_heads"]
            wanted = wanted.reshape(heads, 2, -1, wanted.shape[-1]).swapaxes(1, 2).reshape(wanted.shape)
        if kind == "mxfp4" and wanted.ndim == 2:
            assert np.abs(after[name] - wanted).max() <= np.abs(wanted).max() / 127
        else:
            assert np.array_equal(after[name], wanted), name


def test_wider_grid_holds_the_same_values(source: Sources, tmp_path: Path) -> None:
    converted(source("affine3-g64"), tmp_path / "wide", scheme="affine8-g32", lossless="exact")
    assert set(schemes(tmp_path / "wide").values()) == {"affine8-g32", "bf16"}
    before, after = values(source("affine3-g64")), values(tmp_path / "wide")
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("zero_point", [True, False], ids=["asymmetric", "symmetric"])
def test_awq_values(tmp_path: Path, zero_point: bool) -> None:
    """AutoAWQ's value is f16((code - zero) * scale), computed here from the packer's own numbers."""
    folder = tiny_awq(tmp_path / "awq", group=32, zero_point=zero_point)
    converted(folder, tmp_path / "dense", to="hf", scheme="f16")
    converted(folder, tmp_path / "mlx", scale_dtype="f32")
    dense, mlx = values(tmp_path / "dense"), values(tmp_path / "mlx")
    for name, weight in llama_tensors(LLAMA, np.dtype(np.float16)).items():
        if not name.endswith("_proj.weight"):
            continue
        codes, zeros, scales = awq_grid(weight.astype(np.float32), 32, zero_point)
        steps = codes.astype(np.float32) - np.repeat(zeros.astype(np.float32), 32, axis=1)
        truth = steps * np.repeat(scales.astype(np.float32), 32, axis=1)
        assert np.array_equal(mlx[name], truth)
        assert np.array_equal(dense[name], truth.astype(np.float16).astype(np.float32))
