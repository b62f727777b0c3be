"""GGUF files that store a model otherwise than llama.cpp's converter does by default are read as the same model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.containers.ggml_types import BY_NAME
from quantcli.convert.comparing.compare import Verdict, chosen, compare
from quantcli.errors import BadInput
from quantcli.models import by_gguf, stored
from quantcli.models.relaid import relaid
from quantcli.sources.detect import open_source
from tests.conversions import config, converted
from tests.conversions import stored as in_folder
from tests.convert.test_golden_arch import DATA, reference, write_model
from tests.gguf_files import Raw, experts_apart, fused, load, of_values, rewritten, save, split_rows, values

#: Every family that llama.cpp reads with `attn_qkv`, its own layout or not; stablelm also has biases.
FUSED_QKV = (
    "cohere", "cohere2", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text", "glm4", "glm4_moe", "gpt_oss",
    "granite", "llama", "mixtral", "nemotron", "olmo2", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3",
    "stablelm", "starcoder2",
)  # fmt: skip
BIASED = {"glm4", "glm4_moe", "gpt_oss", "qwen2", "qwen2_moe", "stablelm", "starcoder2"}
MOE = ("deepseek_v2", "deepseek_v3", "glm4_moe", "mixtral", "qwen2_moe", "qwen3_moe")
QKV = fused("attn_q", "attn_k", "attn_v", into="attn_qkv")
EXPERTS = fused("ffn_gate_exps", "ffn_up_exps", into="ffn_gate_up_exps", axis=1)
GATE_UP = fused("ffn_gate", "ffn_up", into="ffn_gate_up")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """GGUF files of the cases as the converter writes them, each made once: case, type -> file."""
    root = tmp_path_factory.mktemp("plain")

    def make(case: str, scheme: str) -> Path:
        folder, file = root / case, root / f"{case}-{scheme}.gguf"
        if not folder.exists():
            write_model(folder, case, reference(case)["source"])
            kind = json.loads((DATA / "arch" / case / "reference.json").read_text())["tokenizer"]
            for sidecar in (DATA / "tokenizers" / "kinds" / kind).glob("*.json"):
                shutil.copy(sidecar, folder)
        if not file.exists():
            converted(folder, file, check=False, scheme=scheme)
        return file

    return make


def same_model(plain: Path, other: Path, tmp_path: Path) -> None:
    """Both folders that are made of two files are the same, no warning is new, and `diff` finds no difference."""
    assert set(load(plain)[1]) != set(load(other)[1])
    for target in ("hf", "mlx"):
        reports = [
            converted(file, tmp_path / f"{target}{i}", check=target == "mlx", to=target)
            for i, file in enumerate((plain, other))
        ]
        assert reports[1]["warnings"] == reports[0]["warnings"]
        assert in_folder(tmp_path / f"{target}1") == in_folder(tmp_path / f"{target}0")
        assert config(tmp_path / f"{target}1") == config(tmp_path / f"{target}0")
    for first in (plain, tmp_path / "hf0"):
        sources = open_source(first), open_source(other)
        found = compare(*sources, chosen(*sources), 1 << 28, 2, lambda _count, _name: None)
        same = {Verdict.EQUAL} if first == plain else {Verdict.EQUAL, Verdict.ROUNDED}
        assert {weight.verdict for weight in found.weights} <= same
        assert not found.only_a and not found.only_b


@pytest.mark.parametrize(("case", "scheme"), [*((c, "f32") for c in FUSED_QKV), ("llama", "q8_0"), ("qwen2", "q4_0")])
def test_q_k_and_v_in_one_tensor(made: Callable[..., Path], tmp_path: Path, case: str, scheme: str) -> None:
    plain = made(case, scheme)
    other = rewritten(plain, tmp_path / "fused.gguf", QKV)
    tensors = load(other)[1]
    assert "blk.1.attn_qkv.weight" in tensors
    assert ("blk.1.attn_qkv.bias" in tensors) == (case in BIASED)
    same_model(plain, other, tmp_path)


def test_a_fused_weight_may_have_biases_apart(made: Callable[..., Path], tmp_path: Path) -> None:
    def weights_only(tensors: dict[str, Raw]) -> dict[str, Raw]:
        return QKV({n: raw for n, raw in tensors.items() if not n.endswith(".bias")}) | {
            n: raw for n, raw in tensors.items() if n.endswith(".bias")
        }

    plain = made("qwen2", "f32")
    same_model(plain, rewritten(plain, tmp_path / "fused.gguf", weights_only), tmp_path)


@pytest.mark.parametrize(("case", "scheme"), [*((c, "f32") for c in MOE), ("mixtral", "q8_0")])
def test_gate_and_up_of_experts_in_one_tensor(
    made: Callable[..., Path], tmp_path: Path, case: str, scheme: str
) -> None:
    plain = made(case, scheme)
    same_model(plain, rewritten(plain, tmp_path / "fused.gguf", EXPERTS), tmp_path)


def test_gate_and_up_of_gpt_oss_in_one_tensor(made: Callable[..., Path], tmp_path: Path) -> None:
    for case in ("gpt_oss", "gpt_oss_mxfp4"):
        plain = made(case, "keep")
        folder = tmp_path / case
        folder.mkdir()
        same_model(plain, rewritten(plain, folder / "fused.gguf", EXPERTS), folder)


def test_gate_and_up_of_an_mlp_in_one_tensor(made: Callable[..., Path], tmp_path: Path) -> None:
    plain = made("llama", "q8_0")
    same_model(plain, rewritten(plain, tmp_path / "fused.gguf", GATE_UP, QKV), tmp_path)


@pytest.mark.parametrize(("case", "scheme"), [*((c, "f32") for c in MOE), ("mixtral", "q8_0")])
def test_one_tensor_an_expert(made: Callable[..., Path], tmp_path: Path, case: str, scheme: str) -> None:
    plain = made(case, scheme)
    other = rewritten(plain, tmp_path / "apart.gguf", experts_apart)
    assert "blk.2.ffn_down.1.weight" in load(other)[1] or "blk.1.ffn_down.1.weight" in load(other)[1]
    same_model(plain, other, tmp_path)


@pytest.mark.parametrize("scheme", ["f32", "q8_0"])
def test_q_k_and_v_of_phi3_apart(made: Callable[..., Path], tmp_path: Path, scheme: str) -> None:
    plain = made("phi3", scheme)
    own = load(plain)[0]
    head = own["phi3.embedding_length"][1] // own["phi3.attention.head_count"][1]
    heads, groups = own["phi3.attention.head_count"][1], own["phi3.attention.head_count_kv"][1]
    rows = {"attn_q": heads * head, "attn_k": groups * head, "attn_v": groups * head}
    same_model(plain, rewritten(plain, tmp_path / "apart.gguf", split_rows("attn_qkv", rows)), tmp_path)


def before_latent_attention(plain: Path, output: Path) -> Path:
    """A DeepSeek file as the converter wrote it until April 2025: `kv_b_proj` whole, keys of plain attention."""
    keys = {key.partition(".")[2]: value for key, (_, value) in load(plain)[0].items()}

    def unsplit(tensors: dict[str, Raw]) -> dict[str, Raw]:
        made = {}
        for name, raw in tensors.items():
            if name.endswith("attn_k_b.weight"):
                by_head = values(raw).swapaxes(1, 2), values(tensors[name.replace("k_b", "v_b")])
                whole = np.concatenate(by_head, axis=1)
                made[name.replace("k_b", "kv_b")] = of_values(whole.reshape(-1, whole.shape[-1]))
            elif not name.endswith("attn_v_b.weight"):
                made[name] = raw
        return made

    return rewritten(
        plain, output, unsplit,
        attention__key_length=("uint32", keys["attention.key_length_mla"]),
        attention__value_length=("uint32", keys["attention.value_length_mla"]),
        attention__head_count_kv=("uint32", keys["attention.head_count"]),
        attention__key_length_mla=None, attention__value_length_mla=None,
    )  # fmt: skip


@pytest.mark.parametrize("case", ["deepseek_v2", "deepseek_v2_lite", "deepseek_v3"])
def test_deepseek_from_before_latent_attention(made: Callable[..., Path], tmp_path: Path, case: str) -> None:
    plain = made(case, "f32")
    same_model(plain, before_latent_attention(plain, tmp_path / "old.gguf"), tmp_path)


def test_kv_b_keeps_its_codes(made: Callable[..., Path], tmp_path: Path) -> None:
    """Where MLX has the tensor whole, q8_0 becomes affine8 without rounding."""
    old = before_latent_attention(made("deepseek_v2", "f32"), tmp_path / "old.gguf")
    converted(old, tmp_path / "q8.gguf", scheme="q8_0")
    assert load(tmp_path / "q8.gguf")[1]["blk.0.attn_kv_b.weight"].type == "q8_0"
    report = converted(tmp_path / "q8.gguf", tmp_path / "mlx", scale_dtype="f32")
    by_name = {weight["name"]: weight for weight in report["weights"]}
    made_of = by_name["model.layers.0.self_attn.kv_b_proj.weight"]
    assert (made_of["route"], made_of["grade"], made_of["scheme"]) == ("repack", "exact", "affine8-g32")


def test_the_halves_of_kv_b_beside_it_are_left_out(made: Callable[..., Path], tmp_path: Path) -> None:
    """Files for forks of llama.cpp hold both."""
    plain = made("deepseek_v2", "f32")
    old = before_latent_attention(plain, tmp_path / "old.gguf")
    halves = {name: raw for name, raw in load(plain)[1].items() if "_k_b." in name or "_v_b." in name}
    both = rewritten(old, tmp_path / "both.gguf", lambda tensors: tensors | halves)
    report = converted(both, tmp_path / "both", to="hf")
    assert {left["name"] for left in report["left_out"]} == set(halves)
    converted(plain, tmp_path / "plain", to="hf")
    assert in_folder(tmp_path / "both") == in_folder(tmp_path / "plain")


def with_sections(folder: Path) -> None:
    """M-RoPE's sections in a config.json, as the text part of GLM-4.1V has them."""
    settings = json.loads((folder / "config.json").read_text())
    settings["rope_scaling"] = {"rope_type": "default", "type": "default", "mrope_section": [2, 3, 3]}
    (folder / "config.json").write_text(json.dumps(settings))


def test_glm4_with_mrope(made: Callable[..., Path], tmp_path: Path) -> None:
    """Rotary rows go to halves, as llama.cpp's converter has them, and come back from there."""
    plain = made("glm4", "f32")
    shutil.copytree(plain.parent / "glm4", tmp_path / "glm4")
    with_sections(tmp_path / "glm4")
    converted(tmp_path / "glm4", tmp_path / "mrope.gguf", scheme="f32")
    (keys, before), (plain_keys, after) = load(tmp_path / "mrope.gguf"), load(plain)
    assert keys["glm4.rope.dimension_sections"][1].decode() == [2, 3, 3, 0]
    assert set(keys) - set(plain_keys) == {"glm4.rope.dimension_sections"}
    rotated, size = keys["glm4.rope.dimension_count"][1], keys["glm4.attention.key_length"][1]
    order = [*range(0, rotated, 2), *range(1, rotated, 2), *range(rotated, size)]
    for role in ("attn_q.weight", "attn_k.weight", "attn_q.bias", "attn_k.bias"):
        rows, straight = before[f"blk.1.{role}"].rows, after[f"blk.1.{role}"].rows
        by_head = straight.reshape(-1, size, straight.shape[-1])
        assert np.array_equal(rows, by_head[:, order].reshape(rows.shape))
    for target in ("hf", "mlx"):
        converted(tmp_path / "mrope.gguf", tmp_path / target, to=target)
        converted(plain, tmp_path / f"plain-{target}", to=target)
        assert in_folder(tmp_path / target) == in_folder(tmp_path / f"plain-{target}")
        assert config(tmp_path / target)["rope_scaling"]["mrope_section"] == [2, 3, 3]
    fused_too = rewritten(tmp_path / "mrope.gguf", tmp_path / "fused.gguf", QKV)
    same_model(tmp_path / "mrope.gguf", fused_too, tmp_path / "fused")
    sources = open_source(plain), open_source(tmp_path / "mrope.gguf")
    found = compare(*sources, chosen(*sources), 1 << 28, 2, lambda _count, _name: None)
    assert {weight.verdict for weight in found.weights} == {Verdict.EQUAL}


def test_glm4_moe_with_mrope_keeps_its_rows(made: Callable[..., Path], tmp_path: Path) -> None:
    """Its rotary rows are halves in both dialects."""
    plain = made("glm4_moe", "f32")
    shutil.copytree(plain.parent / "glm4_moe", tmp_path / "folder")
    with_sections(tmp_path / "folder")
    converted(tmp_path / "folder", tmp_path / "mrope.gguf", scheme="f32")
    (keys, tensors), (_, before) = load(tmp_path / "mrope.gguf"), load(plain)
    assert keys["glm4moe.rope.dimension_sections"][1].decode() == [2, 3, 3, 0]
    assert all(np.array_equal(raw.rows, before[name].rows) for name, raw in tensors.items())


@pytest.mark.parametrize("sections", [("uint32", 3), ("array[int32]", [1, 1, 0, 0]), ("array[int32]", [8, 0, 0, 0])])
def test_sections_as_llama_cpp_reads_them(made: Callable[..., Path], tmp_path: Path, sections: tuple[str, Any]) -> None:
    """One number stands for four; a model has M-RoPE where the first two are not 0."""
    plain = made("glm4", "f32")
    other = rewritten(plain, tmp_path / "other.gguf", rope__dimension_sections=sections)
    converted(plain, tmp_path / "plain", to="hf")
    converted(other, tmp_path / "other", to="hf")
    same = in_folder(tmp_path / "plain") == in_folder(tmp_path / "other")
    assert same == (sections[1] == [8, 0, 0, 0])


@pytest.mark.parametrize("type_name", sorted(BY_NAME))
def test_every_type_keeps_its_bytes(tmp_path: Path, type_name: str) -> None:
    """Ranges of rows and stacked experts of any GGML type, also of one that is not decoded."""
    ggml, random = BY_NAME[type_name], np.random.default_rng(3)
    width = ggml.block_size * 2

    def raw(*lines: int) -> Raw:
        return Raw(type_name, (*lines, width), random.integers(0, 256, (*lines, 2 * ggml.block_bytes), dtype=np.uint8))

    tensors = {
        "blk.0.attn_qkv.weight": raw(64), "blk.0.ffn_gate_up_exps.weight": raw(2, 12),
        "blk.0.ffn_down.0.weight": raw(5), "blk.0.ffn_down.1.weight": raw(5),
    }  # fmt: skip
    sizes = {"embedding_length": 32, "attention.head_count": 4, "attention.head_count_kv": 2, "expert_count": 2}
    keys = {"general.architecture": ("string", "qwen3moe")} | {f"qwen3moe.{k}": ("uint32", v) for k, v in sizes.items()}
    path = save(tmp_path / "a.gguf", keys, tensors)
    source = open_source(path)
    architecture = by_gguf(source.metadata)
    assert architecture is not None
    found = relaid(source.weights, architecture, stored(source.metadata, {})).weights
    qkv, pairs = tensors["blk.0.attn_qkv.weight"].rows, tensors["blk.0.ffn_gate_up_exps.weight"].rows
    downs = np.stack([tensors[f"blk.0.ffn_down.{expert}.weight"].rows for expert in (0, 1)])
    wanted = {
        "attn_q": qkv[:32], "attn_k": qkv[32:48], "attn_v": qkv[48:], "ffn_gate_exps": pairs[:, :6],
        "ffn_up_exps": pairs[:, 6:], "ffn_down_exps": downs,
    }  # fmt: skip
    assert set(found) == {f"blk.0.{role}.weight" for role in wanted}
    for role, rows in wanted.items():
        weight = found[f"blk.0.{role}.weight"]
        assert weight.scheme == source.weights["blk.0.attn_qkv.weight"].scheme
        assert weight.shape == (*rows.shape[:-1], width)
        ((_, part),) = weight.parts.items()
        assert part.read_bytes(0, part.nbytes).tobytes() == rows.tobytes()


def test_global_scales_go_with_their_rows(made: Callable[..., Path], tmp_path: Path) -> None:
    """A number for a fused tensor counts for each of its parts, one for each expert for its rows."""
    plain, random = made("mixtral", "f32"), np.random.default_rng(4)
    experts = load(plain)[0]["llama.expert_count"][1]
    scales = {
        f"blk.{i}.{role}.scale": of_values(random.integers(2, 9, count))
        for i in range(2)
        for role, count in (("attn_qkv", 1), ("ffn_gate_up_exps", experts))
    }
    fused_file = rewritten(plain, tmp_path / "a.gguf", QKV, EXPERTS, lambda tensors: tensors | scales)
    converted(fused_file, tmp_path / "scaled", to="hf", dtype="f32")
    converted(plain, tmp_path / "plain", to="hf", dtype="f32")
    before, after = in_folder(tmp_path / "plain"), in_folder(tmp_path / "scaled")
    for i in range(2):
        layer = f"model.layers.{i}"
        (factor,) = values(scales[f"blk.{i}.attn_qkv.scale"])
        wanted = {f"{layer}.self_attn.{m}_proj.weight": factor for m in "qkv"}
        for expert, factor in enumerate(values(scales[f"blk.{i}.ffn_gate_up_exps.scale"])):
            wanted |= {f"{layer}.block_sparse_moe.experts.{expert}.{w}.weight": factor for w in ("w1", "w3")}
        for name, factor in wanted.items():
            assert np.array_equal(after[name].array("<f4"), before[name].array("<f4") * factor)


def without(name: str) -> Callable[[dict[str, Raw]], dict[str, Raw]]:
    return lambda tensors: {other: raw for other, raw in tensors.items() if other != name}


def repeated(name: str, raw: Raw) -> Callable[[dict[str, Raw]], dict[str, Raw]]:
    return lambda tensors: {**tensors, name: raw}


@pytest.mark.parametrize(
    ("changes", "keys", "named"),
    [
        ((QKV,), {"attention__head_count_kv": ("uint32", 4)}, "attn_qkv.weight"),
        ((experts_apart, without("blk.1.ffn_up.2.weight")), {}, "blk.1.ffn_up_exps"),
        ((experts_apart,), {"expert_count": ("uint32", 3)}, "expert_count is 3"),
        ((experts_apart,), {"expert_count": ("uint32", 2**32 - 1)}, "expert_count is 4294967295"),
        ((experts_apart, repeated("blk.0.ffn_up.1.weight", of_values(np.ones((8, 64))))), {}, "blk.0.ffn_up.1.weight"),
        ((QKV, repeated("blk.0.attn_qkv.weight", Raw("f32", (), np.zeros(4, np.uint8)))), {}, "blk.0.attn_qkv.weight"),
        ((QKV, repeated("blk.0.attn_qkv.weight", of_values(np.ones(7)))), {}, "blk.0.attn_qkv.weight"),
        ((EXPERTS, repeated("blk.0.ffn_gate_up_exps.weight", of_values(np.ones((4, 5, 64))))), {}, "ffn_gate_up_exps"),
        ((QKV, repeated("blk.0.attn_k.weight", of_values(np.ones((32, 64))))), {}, "blk.0.attn_k.weight"),
    ],
)
def test_layouts_that_contradict_the_metadata_are_refused(
    made: Callable[..., Path], tmp_path: Path, changes: Any, keys: dict[str, Any], named: str
) -> None:
    broken = rewritten(made("mixtral", "f32"), tmp_path / "broken.gguf", *changes, **keys)
    for target in ("hf", "mlx"):
        with pytest.raises(BadInput, match=named):
            converted(broken, tmp_path / target, to=target)
    converted(broken, tmp_path / "copy.gguf")  # a copy takes the file as it is


@pytest.mark.parametrize("change", [QKV, experts_apart, EXPERTS])
def test_a_copy_stays_as_it_is(
    made: Callable[..., Path], tmp_path: Path, change: Callable[[dict[str, Raw]], dict[str, Raw]]
) -> None:
    other = rewritten(made("mixtral", "q8_0"), tmp_path / "other.gguf", change)
    converted(other, tmp_path / "copy.gguf")
    (_, before), (_, after) = load(other), load(tmp_path / "copy.gguf")
    assert {n: (r.type, r.shape, r.rows.tobytes()) for n, r in before.items()} == {
        n: (r.type, r.shape, r.rows.tobytes()) for n, r in after.items()
    }
