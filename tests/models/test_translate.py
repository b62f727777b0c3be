"""Between any two dialects each source tensor is used, each target tensor made once; the way back gives the same."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from quantcli.checkpoint import Part, Weight
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput
from quantcli.models import ARCHITECTURES, FAMILIES, Architecture, Hyperparameters, Rope
from quantcli.models.base import DIALECTS
from quantcli.models.ops import GroupQkv, Take
from quantcli.models.translate import Translation
from quantcli.schemes import ggml_scheme
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense
from quantcli.schemes.mlx.affine import Affine
from quantcli.virtual import values_of

EXPERTS, LAYERS = 3, 2
#: Of gated delta nets: two key heads, four value heads, four rows each; and of fused experts.
DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 4, "linear_value_head_dim": 4,
    "moe_intermediate_size": 16,
}  # fmt: skip
SIZES = Hyperparameters(
    "", LAYERS, 64, 32, 32, 4, 2, 8, 1e-6, 32, Rope(), experts=EXPERTS, nope_head_dim=4, settings=Reader(DELTA)
)
#: Tensor of a gated delta net -> its shape.
DELTA_SHAPES = {
    "in_proj_qkv.weight": (32, 32), "in_proj_qkvz.weight": (48, 32), "in_proj_z.weight": (16, 32),
    "in_proj_a.weight": (4, 32), "in_proj_b.weight": (4, 32), "in_proj_ba.weight": (8, 32), "A_log": (4,),
    "dt_bias": (4,), "out_proj.weight": (32, 16),
}  # fmt: skip


def names(architecture: Architecture, dialect: str) -> list[str]:
    """Every name of a model that has all tensors of its table, and of alternatives the one with a companion."""
    hidden = {row.gguf for row in architecture.tensors if row.companion}
    written = [row for row in architecture.tensors if not row.read_only]
    rows = [row for row in written if row.companion or row.gguf not in hidden]
    patterns = dict.fromkeys((row.pattern(dialect), s) for row in rows for s in row.suffixes)
    return [
        f"{pattern}.{suffix}".removesuffix(".").replace("{i}", str(i)).replace("{e}", str(e))
        for pattern, suffix in patterns
        for i in range(LAYERS if "{i}" in pattern else 1)
        for e in range(EXPERTS if "{e}" in pattern else 1)
    ]


def shape_of(name: str) -> tuple[int, ...]:
    """A shape in Hugging Face's dialect that every operation can take."""
    _, delta_net, tensor = name.partition(".linear_attn.")
    if delta_net and tensor in DELTA_SHAPES:
        return DELTA_SHAPES[tensor]
    if name.endswith("conv1d.weight"):
        return 32, 1, 4
    if name.endswith("_proj_bias"):
        return EXPERTS, 64
    if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        return EXPERTS, 32, 64
    if name.endswith("moe_statics.e_score_correction_bias"):
        return 1, 32
    is_vector = "norm" in name or name.endswith(("bias", ".sinks", ".D"))
    return (32,) if is_vector else (64, 32)


def model(architecture: Architecture, file: Path) -> dict[str, Weight]:
    """Every tensor of a model, its values different from each other's."""
    weights, data = {}, b""
    random = np.random.default_rng(0)
    for name in names(architecture, "hf"):
        shape = shape_of(name)
        values = (random.integers(0, 256, math.prod(shape)) / 64).astype("<f4")
        weights[name] = Weight(name, shape, Dense("f32"), {"weight": Part(name, "f32", shape, file, len(data))})
        data += values.tobytes()
    file.write_bytes(data)
    return weights


def translated(weights: dict[str, Weight], architecture: Architecture, source: str, target: str) -> dict[str, Weight]:
    made, rest = Translation(architecture, SIZES, source, target, "model").of(weights)
    assert not rest
    result = {}
    for tensor in made:
        values = contents(tensor.source.weight, tensor.source.rows).reshape(tensor.source.shape)
        file = next(iter(weights.values())).parts["weight"].file.with_name(f"{target}-{tensor.name}")
        file.write_bytes(values.astype("<f4").tobytes())
        part = Part(tensor.name, "f32", values.shape, file, 0)
        assert tensor.name not in result
        result[tensor.name] = Weight(tensor.name, values.shape, Dense("f32"), {"weight": part})
    return result


def contents(weight: Weight, rows: np.ndarray | None = None) -> np.ndarray:
    count = math.prod(weight.shape[:-1])
    return values_of(weight, rows, 0, count if rows is None else len(rows))


@pytest.mark.parametrize("architecture", FAMILIES, ids=lambda a: a.name)
def test_there_and_back(architecture: Architecture, tmp_path: Path) -> None:
    models = {"hf": model(architecture, tmp_path / "model")}
    for dialect in ("gguf", "mlx"):
        models[dialect] = translated(models["hf"], architecture, "hf", dialect)
    for source, target in permutations(DIALECTS, 2):
        made = translated(models[source], architecture, source, target)
        assert sorted(made) == sorted(names(architecture, target))
        for name, weight in made.items():
            wanted = models[target][name]
            assert weight.shape == wanted.shape, name
            np.testing.assert_allclose(contents(weight), contents(wanted), rtol=3e-7, atol=3e-7, err_msg=name)


def one(architecture: str, weights: dict[str, Weight], source: str, target: str) -> list[tuple[str, Weight, object]]:
    made, _ = Translation(ARCHITECTURES[architecture], SIZES, source, target, "model").of(weights)
    return [(tensor.name, tensor.source.weight, tensor.source.rows) for tensor in made]


def stored(name: str, shape: tuple[int, ...], scheme: Scheme, folder: Path, seed: int = 0) -> Weight:
    parts, data = {}, b""
    random = np.random.default_rng(seed)
    for part, spec in scheme.layout(shape).items():
        parts[part] = Part(name, spec.dtype, spec.shape, folder / f"{name}-{seed}", len(data))
        data += random.integers(0, 60, parts[part].nbytes, np.uint8).tobytes()
    (folder / f"{name}-{seed}").write_bytes(data)
    return Weight(name, shape, scheme, parts)


@pytest.mark.parametrize("scheme", [Affine(4, 32, "f16"), ggml_scheme("q8_0"), ggml_scheme("q4_k")])
def test_packed_experts_are_stacked_and_taken_apart_as_they_are(scheme: Scheme, tmp_path: Path) -> None:
    columns = 256
    experts = {
        f"model.layers.0.mlp.experts.{e}.up_proj.weight": stored("w", (8, columns), scheme, tmp_path, e)
        for e in range(EXPERTS)
    }
    ((name, stacked, rows),) = one("qwen3_moe", experts, "hf", "gguf")
    assert name == "blk.0.ffn_up_exps.weight" and rows is None and stacked.scheme == scheme
    for part, array in stacked.parts.items():
        joined = b"".join(w.parts[part].read().tobytes() for w in experts.values())
        assert array.read().tobytes() == joined == array.read_bytes(0, array.nbytes).tobytes()
        assert array.read_bytes(3, 50).tobytes() == joined[3:50]
    whole = {name: Weight(name, (EXPERTS, 8, columns), scheme, stacked.parts)}
    apart = one("qwen3_moe", whole, "gguf", "hf")
    assert [name for name, _, _ in apart] == list(experts)
    for (_, made, rows), expert in zip(apart, experts.values(), strict=True):
        assert rows is None and made.scheme == scheme
        assert all(made.parts[p].read().tobytes() == expert.parts[p].read().tobytes() for p in made.parts)


def test_experts_of_different_schemes_are_decoded(tmp_path: Path) -> None:
    schemes = [Affine(4, 32, "f16"), Affine(8, 32, "f16"), Dense("f16")]
    experts = {
        f"model.layers.0.mlp.experts.{e}.up_proj.weight": stored("w", (8, 64), scheme, tmp_path, e)
        for e, scheme in enumerate(schemes)
    }
    ((_, stacked, _),) = one("qwen3_moe", experts, "hf", "mlx")
    assert stacked.scheme == Dense("f32")
    wanted = np.concatenate([contents(weight).astype(np.float32) for weight in experts.values()])
    assert contents(stacked).tobytes() == wanted.tobytes()


def test_a_last_axis_operation_decodes(tmp_path: Path) -> None:
    weight = stored("kv", (64, 64), Affine(4, 32, "f16"), tmp_path)
    made = one("deepseek_v2", {"model.layers.0.self_attn.kv_b_proj.weight": weight}, "hf", "gguf")
    (keys, values) = made
    assert keys[0].endswith("attn_k_b.weight") and keys[1].scheme == Dense("f32")
    assert values[0].endswith("attn_v_b.weight") and values[1].scheme == weight.scheme
    heads = contents(weight).reshape(4, 16, 64)
    assert contents(keys[1]).tobytes() == np.ascontiguousarray(heads[:, :4].swapaxes(1, 2)).tobytes()
    assert contents(values[1], values[2]).tobytes() == np.ascontiguousarray(heads[:, 4:]).tobytes()  # type: ignore[arg-type]


def test_a_range_of_computed_rows_is_that_of_the_whole(tmp_path: Path) -> None:
    weight = stored("kv", (64, 32), Dense("bf16"), tmp_path)
    (keys, _) = one("deepseek_v2", {"model.layers.0.self_attn.kv_b_proj.weight": weight}, "hf", "gguf")
    part = keys[1].parts["weight"]
    whole = part.read()
    assert whole.shape == (4 * 32, 4) and part.block == 32
    assert part.read(5, 77).tobytes() == whole[5:77].tobytes()
    assert part.section(40, 90).read(3, 50).tobytes() == whole[43:90].tobytes()
    assert part.read_bytes(7, 301).tobytes() == whole.tobytes()[7:301]


@pytest.mark.parametrize(
    ("lost", "said"),
    [(1, r"experts\.1\.up_proj\.weight.*missing"), (2, r"experts\.2\.up_proj\.weight.*missing")],
)
def test_a_missing_expert_is_named(lost: int, said: str, tmp_path: Path) -> None:
    experts = {
        f"model.layers.0.mlp.experts.{e}.up_proj.weight": stored("w", (8, 32), Dense("f16"), tmp_path, e)
        for e in range(EXPERTS)
        if e != lost
    }
    with pytest.raises(BadInput, match=said):
        one("qwen3_moe", experts, "hf", "gguf")


def test_experts_of_different_shapes_are_refused(tmp_path: Path) -> None:
    experts = {
        f"model.layers.0.mlp.experts.{e}.up_proj.weight": stored(f"w{e}", (8 + e, 32), Dense("f16"), tmp_path, e)
        for e in range(EXPERTS)
    }
    with pytest.raises(BadInput, match=r"w1 .*\[9, 32\].*\[8, 32\]"):
        one("qwen3_moe", experts, "hf", "gguf")


def test_half_of_a_split_tensor_is_refused(tmp_path: Path) -> None:
    half = {"blk.0.attn_k_b.weight": stored("k", (4, 32, 4), Dense("f16"), tmp_path)}
    with pytest.raises(BadInput, match=r"tensor k: .*attn_v_b is missing.*kv_b_proj"):
        one("deepseek_v2", half, "gguf", "hf")


def test_of_two_names_for_one_tensor_the_one_is_meant_that_the_others_say(tmp_path: Path) -> None:
    norm, second = (
        stored(n, (32,), Dense("f32"), tmp_path) for n in ("blk.0.attn_norm.weight", "blk.0.attn_norm_2.weight")
    )
    made = one("falcon", {norm.name: norm}, "gguf", "hf")
    assert [name for name, _, _ in made] == ["transformer.h.0.input_layernorm.weight"]
    made = one("falcon", {norm.name: norm, second.name: second}, "gguf", "hf")
    assert [name for name, _, _ in made] == ["transformer.h.0.ln_mlp.weight", "transformer.h.0.ln_attn.weight"]
    names = [f"transformer.h.0.{n}.weight" for n in ("ln_mlp", "input_layernorm")]
    both = {name: stored(name, (32,), Dense("f32"), tmp_path) for name in names}
    with pytest.raises(BadInput, match=rf"{names[0]}.* {names[1]}.* blk\.0\.attn_norm\.weight"):
        one("falcon", both, "hf", "gguf")


def test_rows_that_do_not_fit_the_settings_are_refused() -> None:
    with pytest.raises(BadInput, match="62 rows cannot be split into 4 query heads"):
        GroupQkv().index(62, SIZES)
    with pytest.raises(BadInput, match="3 rows cannot be split at 4"):
        Take(start="nope_head_dim").index(3, SIZES)
    with pytest.raises(BadInput, match="5 rows cannot be split"):
        Take(step=2).index(5, SIZES)


def test_groups_of_heads() -> None:
    """Two groups of two query heads with a key and a value head each, one row a head."""
    assert GroupQkv().index(8, SIZES).tolist() == [0, 1, 4, 5, 2, 6, 3, 7]
