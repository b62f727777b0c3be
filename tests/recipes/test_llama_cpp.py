"""llama-quantize's choices against its own dry runs.

tests/data/recipes/policy.json.gz: of four models, tensors (shape in GGUF order, source type) in the order in which
llama-quantize handles them, with the type of each as run-length text; and the same with options.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import NotPossible, WrongUsage
from quantcli.recipes import llama_cpp, names
from quantcli.recipes.base import Decision, Origin
from quantcli.recipes.llama_cpp import Facts, Options, Tensor

DATA = Path(__file__).resolve().parent.parent / "data" / "recipes" / "policy.json.gz"
POLICY = json.loads(gzip.decompress(DATA.read_bytes()))


def tensors_of(model: dict[str, Any]) -> list[Tensor]:
    return [Tensor(name, tuple(shape[::-1]), kind) for name, shape, kind in model["tensors"]]


def unrolled(text: str) -> list[str]:
    runs = [run.lower().partition("*") for run in text.split()]
    return [kind for kind, _, count in runs for _ in range(int(count or 1))]


def facts_of(model: dict[str, Any]) -> Facts:
    return Facts(model["architecture"], model["metadata"].get("expert_count", 0))


def options_of(texts: list[str]) -> Options:
    """The options of a dry run's command line."""
    values = {"output_type": "--output-tensor-type", "embedding_type": "--token-embedding-type"}
    given = {key: texts[texts.index(option) + 1].lower() for key, option in values.items() if option in texts}
    patterns = [texts[i + 1] for i, text in enumerate(texts) if text == "--tensor-type"]
    return Options(
        "--pure" in texts,
        "--leave-output-tensor" in texts,
        given.get("output_type"),
        given.get("embedding_type"),
        tuple(map(llama_cpp.tensor_type, patterns)),
    )


def compare(model: dict[str, Any], ftype: str, wanted: str, options: Options) -> int:
    """Assert equality, from the order of the input file; the number of tensors."""
    ordered = tensors_of(model)
    shuffled = [ordered[index] for index in model["file_order"]]
    found = llama_cpp.assign(shuffled, ftype.lower(), facts_of(model), options)
    assert list(found) == [tensor.name for tensor in ordered]
    assert [decision.scheme for decision in found.values()] == unrolled(wanted)
    assert all(decision.reason for decision in found.values())
    return len(found)


def compare_case(case: dict[str, Any], model: dict[str, Any]) -> None:
    """A dry run with options; where llama-quantize refused, so do we."""
    options = options_of(case["options"])
    if isinstance(case["types"], str):
        compare(model, case["ftype"], case["types"], options)
        return
    assert "no tensor type fallback" in case["types"]["error"]
    with pytest.raises(NotPossible, match="has no other type"):
        llama_cpp.assign(tensors_of(model), case["ftype"].lower(), facts_of(model), options)


@pytest.mark.parametrize("ftype", llama_cpp.FTYPES)
@pytest.mark.parametrize("model", POLICY["models"])
def test_types(model: str, ftype: str) -> None:
    data = POLICY["models"][model]
    compare(data, ftype, data["types"][ftype.upper()]["no_imatrix"], Options())


@pytest.mark.parametrize("case", POLICY["options"], ids=lambda c: f"{c['model']} {' '.join(c['options'])} {c['ftype']}")
def test_options(case: dict[str, Any]) -> None:
    compare_case(case, POLICY["models"][case["model"]])


def test_every_model_of_the_fixtures(shared: Path) -> None:
    folder = shared / "fixtures/policy"
    models = {p.name: json.loads(gzip.decompress(p.read_bytes())) for p in sorted(folder.glob("*.json.gz"))}
    cases = models.pop("options.json.gz")
    assert len(models) == 19
    lists = [(model, ftype) for model in models.values() for ftype in llama_cpp.FTYPES]
    count = sum(compare(m, f, m["types"][f.upper()]["no_imatrix"], Options()) for m, f in lists)
    assert count > 19 * 8 * 30
    for model, ftype in lists:
        found = llama_cpp.assign(tensors_of(model), ftype, facts_of(model)).values()
        assert sum(d.wanted is not None for d in found) == model["fallbacks_no_imatrix"].get(ftype.upper(), 0)
    compared = 0
    for case in cases:
        if case["ftype"].lower() not in llama_cpp.FTYPES or {"--imatrix", "--prune-layers"} & set(case["options"]):
            continue
        compare_case(case, models[f"{case['model']}.json.gz"])
        compared += 1
    assert compared >= 40


@pytest.mark.parametrize("ftype", llama_cpp.FTYPES)
def test_file_types_and_manifests(shared: Path, ftype: str) -> None:
    for path in sorted((shared / "fixtures/gguf").glob(f"*/{ftype.upper()}.json")):
        manifest = json.loads(path.read_text())
        metadata = {key: value for key, (_, value) in manifest["metadata"].items()}
        tensors = [Tensor(t["name"], tuple(t["shape"][::-1]), "bf16") for t in manifest["tensors"]]
        dense = [Tensor(t.name, t.shape, "f32" if llama_cpp.never(t.name, t.shape) else "bf16") for t in tensors]
        found = llama_cpp.assign(dense, ftype, Facts(metadata["general.architecture"]))
        assert {n: d.scheme for n, d in found.items()} == {t["name"]: t["type"].lower() for t in manifest["tensors"]}
        assert metadata["general.file_type"] == llama_cpp.FTYPES[ftype].number


def plain(*rows: tuple[str, tuple[int, ...]]) -> list[Tensor]:
    return [Tensor(name, shape, "bf16") for name, shape in rows]


UNTIED = plain(("output.weight", (1000, 256)), ("token_embd.weight", (1000, 256)), ("blk.0.attn_v.weight", (64, 256)))


def decide(tensors: list[Tensor], ftype: str, options: Options | None = None, **facts: Any) -> dict[str, Decision]:
    return llama_cpp.assign(tensors, ftype, Facts(**({"architecture": "llama"} | facts)), options)


def test_reasons_and_origins() -> None:
    found = decide(UNTIED, "q4_0")
    assert found["output.weight"] == Decision("q6_k", "preset q4_0: output", Origin.PRESET)
    assert found["token_embd.weight"] == Decision("q4_0", "preset q4_0", Origin.PRESET)
    eight = decide(UNTIED, "q4_0", experts=8)["blk.0.attn_v.weight"]
    assert eight == Decision("q8_0", "preset q4_0: attn_v, eight_experts", Origin.PRESET)
    falcon = decide(UNTIED, "q4_0", architecture="falcon")["output.weight"]
    assert falcon == Decision("q8_0", "preset q4_0: output, falcon", Origin.PRESET)
    assert decide(UNTIED, "q4_0", Options(pure=True))["output.weight"] == Decision("q4_0", "--pure q4_0", Origin.OPTION)
    left = decide(UNTIED, "q4_0", Options(leave_output=True))["output.weight"]
    assert left == Decision("bf16", "--leave-output-tensor", Origin.OPTION)
    named = decide(UNTIED, "q4_0", Options(tensor_types=(llama_cpp.tensor_type("ATTN_V=Q5_K"),)))["blk.0.attn_v.weight"]
    assert named == Decision("q5_k", "--tensor-type ATTN_V=Q5_K", Origin.OPTION)


def test_a_fallback_says_what_was_wanted() -> None:
    found = decide(plain(("token_embd.weight", (1000, 320)), ("blk.0.attn_q.weight", (320, 80))), "q4_0")
    assert found["token_embd.weight"] == Decision(
        "q8_0",
        "preset q4_0: output; rows of 320 do not fill blocks of q6_k: q8_0 instead",
        Origin.PRESET,
        wanted="q6_k",
    )
    assert (found["blk.0.attn_q.weight"].scheme, found["blk.0.attn_q.weight"].wanted) == ("f16", "q4_0")


def test_an_output_whose_rows_the_base_type_does_not_fill_wants_q8_0() -> None:
    found = decide(plain(("output.weight", (1000, 144)), ("token_embd.weight", (1000, 144))), "q4_0")["output.weight"]
    assert (found.scheme, found.wanted) == ("f16", "q8_0")
    assert found.reason.startswith("preset q4_0: output, row_not_in_blocks;")


def test_per_layer_embeddings_follow_token_embd_unless_named() -> None:
    tensors = [*UNTIED, Tensor("per_layer_token_embd.weight", (1000, 256), "bf16")]
    option = Options(embedding_type="q8_0")
    named = Options(embedding_type="q8_0", tensor_types=(llama_cpp.tensor_type("token_embd=q5_0"),))
    for options, own in ((option, "q8_0"), (named, "q5_0")):
        found = decide(tensors, "q4_0", options)
        assert found["token_embd.weight"].scheme == "q8_0"
        assert found["per_layer_token_embd.weight"].scheme == own


@pytest.mark.parametrize(
    ("kind", "row", "becomes"),
    [
        ("q6_k", 512, "q6_k"),
        ("q6_k", 320, "q8_0"),
        ("q6_k", 144, "f16"),
        ("q5_k", 320, "q5_1"),
        ("q4_k", 320, "q5_0"),
        ("q3_k", 320, "q4_0"),
        ("iq4_xs", 320, "iq4_nl"),
        ("q4_0", 144, "f16"),
        ("bf16", 7, "bf16"),
    ],
)
def test_shape_fallback(kind: str, row: int, becomes: str) -> None:
    assert llama_cpp.fitting(kind, row, "blk.0.attn_q.weight") == becomes


@pytest.mark.parametrize(("kind", "row"), [("q1_0", 320), ("nvfp4", 96)])
def test_types_without_a_fallback(kind: str, row: int) -> None:
    with pytest.raises(
        NotPossible, match=f"^blk.0.attn_q.weight: its rows of {row} values do not fill {kind}'s blocks"
    ):
        llama_cpp.fitting(kind, row, "blk.0.attn_q.weight")


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        ("blk.0.attn_norm.weight", (64,), "one dimension"),
        ("blk.0.attn_q.weight", (1, 64), "one dimension"),
        ("blk.0.attn_q.weight", (), "one dimension"),
        ("blk.0.ffn_down_exps.bias", (8, 64), "not a weight"),
        ("blk.0.attn_q_norm.weight", (4, 64), "a norm"),
        ("blk.0.ffn_gate_inp.weight", (8, 64), "a router"),
        ("blk.0.ssm_conv1d.weight", (8, 4), "a small convolution"),
        ("blk.0.time_mix_w1.weight", (8, 64), "small, of RWKV"),
        ("token_types.weight", (2, 64), "a position or token type embedding"),
        ("blk.0.attn_q.weight", (64, 64), None),
        ("blk.0.ffn_down_exps.weight", (8, 64, 64), None),
    ],
)
def test_what_is_never_quantized(name: str, shape: tuple[int, ...], why: str | None) -> None:
    assert llama_cpp.never(name, shape) == why
    for ftype in ("q4_0", "f16"):
        kept = llama_cpp.assign([Tensor(name, shape, "f32")], ftype, Facts("llama"))[name]
        assert (kept.scheme == "f32") is (why is not None)


def test_tied_embeddings_take_the_place_of_the_output() -> None:
    tied = UNTIED[1:]
    assert decide(tied, "q5_1")["token_embd.weight"].scheme == "q6_k"
    assert decide(tied, "q5_1", Options(output_type="q4_1"))["token_embd.weight"].scheme == "q4_1"
    assert decide(tied, "f16", Options(output_type="q4_1"))["token_embd.weight"].scheme == "f16"
    assert decide(tied, "q5_1", Options(output_type="q4_1", pure=True))["token_embd.weight"].scheme == "q5_1"
    both = Options(output_type="q4_1", embedding_type="q8_0")
    assert decide(tied, "q5_1", both)["token_embd.weight"].scheme == "q8_0"


def test_what_is_decided_elsewhere_is_left_out() -> None:
    found = llama_cpp.assign(UNTIED, "q4_0", Facts("llama"), decided={"output.weight"})
    assert list(found) == ["token_embd.weight", "blk.0.attn_v.weight"]
    assert found["token_embd.weight"].scheme == "q4_0", "the model still has an output"


@pytest.mark.parametrize(
    "text", ["", "=q8_0", "attn_v", "attn_v=", "attn_v=q9_9", "(=q8_0", "attn_v=affine4-g64", "x" * 2000 + "=f16"]
)
def test_tensor_type_errors_quote_the_text(text: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        llama_cpp.tensor_type(text)
    assert f"--tensor-type {text[:100]!r}" in str(caught.value)


def test_tensor_type_file_and_unmatched() -> None:
    options = Options(tensor_types=llama_cpp.tensor_type_file("attn_v=q8_0 ffn=q4_1\n\n  output=f16\n"))
    assert [(o.pattern.pattern, o.type) for o in options.tensor_types] == [
        ("attn_v", "q8_0"),
        ("ffn", "q4_1"),
        ("output", "f16"),
    ]
    assert options.unmatched(UNTIED) == ["ffn=q4_1"]


def test_unknown_ftype() -> None:
    with pytest.raises(WrongUsage, match="--scheme q4_k_m: .* q4_0"):
        decide(UNTIED, "q4_k_m")


def test_ggml_type() -> None:
    assert llama_cpp.ggml_type("Q4_K", "--output-tensor-type") == "q4_k"
    with pytest.raises(WrongUsage, match="--output-tensor-type: 'affine4-g64' is no type of GGML"):
        llama_cpp.ggml_type("affine4-g64", "--output-tensor-type")


def test_file_type_of_a_kept_mixture() -> None:
    def of(*types: str) -> int:
        return llama_cpp.file_type([Tensor(f"blk.{i}.attn_q.weight", (64, 64 + i), t) for i, t in enumerate(types)])

    norms = [Tensor(f"blk.{i}.attn_norm.weight", (64,), "f32") for i in range(9)]
    assert of("q4_k", "q4_k", "q6_k") == 15
    assert of("q4_0", "q8_0") == 7, "of two equally common types the larger share"
    assert llama_cpp.file_type([*norms, Tensor("output.weight", (8, 64), "bf16")]) == 32
    assert llama_cpp.file_type(norms) == 0
    assert llama_cpp.file_type([]) == 0


def test_tables_name_ggml_types_only() -> None:
    known = set(names.GGML + names.DENSE)
    assert {ftype.base for ftype in llama_cpp.FTYPES.values()} <= known
    assert {kind for _, kind in llama_cpp.MIXTURE} <= known
    assert set(llama_cpp.FALLBACKS) | set(llama_cpp.FALLBACKS.values()) | set(llama_cpp.FILE_TYPES) <= known
    assert {name: ftype.number for name, ftype in llama_cpp.FTYPES.items()}.items() <= llama_cpp.FILE_TYPES.items()
