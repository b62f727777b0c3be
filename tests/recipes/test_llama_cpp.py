"""llama-quantize's rules one by one: options, reasons, fallbacks, mixtures (all of them: test_llama_cpp_policy.py)."""

import doctest
from typing import Any

import pytest

from quantcli.containers.ggml_types import BY_NAME
from quantcli.containers.gguf_values import ArrayValue, Value
from quantcli.dtypes import DENSE_DTYPES
from quantcli.errors import BadInput, NotPossible, WrongUsage
from quantcli.recipes import ftypes, llama_cpp, llama_cpp_mixture, llama_cpp_tensors, names, prune
from quantcli.recipes.base import Decision, Origin
from quantcli.recipes.llama_cpp import Facts, Options, Tensor


def plain(*rows: tuple[str, tuple[int, ...]]) -> list[Tensor]:
    return [Tensor(name, shape, "bf16") for name, shape in rows]


LLAMA = Facts("llama", block_count=32, heads=32, kv_heads=32)
UNTIED = plain(("output.weight", (1000, 256)), ("token_embd.weight", (1000, 256)), ("blk.0.attn_v.weight", (64, 256)))


def decide(tensors: list[Tensor], ftype: str, options: Options | None = None, **facts: Any) -> dict[str, Decision]:
    return llama_cpp.assign(tensors, ftype, Facts(**(vars(LLAMA) | facts)), options)


def test_reasons_and_origins() -> None:
    found = decide(UNTIED, "q4_0")
    assert found["output.weight"] == Decision("q6_k", "preset q4_0: output matrix", Origin.PRESET)
    assert found["token_embd.weight"] == Decision("q4_0", "preset q4_0", Origin.PRESET)
    eight = decide(UNTIED, "q4_0", experts=8)["blk.0.attn_v.weight"]
    assert eight == Decision("q8_0", "preset q4_0: attn_v, 8 experts", Origin.PRESET)
    falcon = decide(UNTIED, "q4_0", architecture="falcon")["output.weight"]
    assert falcon == Decision("q8_0", "preset q4_0: output matrix, Falcon", Origin.PRESET)
    assert decide(UNTIED, "q4_0", Options(pure=True))["output.weight"] == Decision("q4_0", "--pure q4_0", Origin.OPTION)
    left = decide(UNTIED, "q4_0", Options(leave_output=True))["output.weight"]
    assert left == Decision("bf16", "--leave-output-tensor", Origin.OPTION)
    named = decide(UNTIED, "q4_0", Options(tensor_types=(llama_cpp.tensor_type("ATTN_V=Q5_K"),)))["blk.0.attn_v.weight"]
    assert named == Decision("q5_k", "--tensor-type ATTN_V=Q5_K", Origin.OPTION)


def test_a_fallback_says_what_was_wanted() -> None:
    found = decide(plain(("token_embd.weight", (1000, 320)), ("blk.0.attn_q.weight", (320, 80))), "q4_0")
    embedding = found["token_embd.weight"]
    assert (embedding.scheme, embedding.origin, embedding.wanted) == ("q8_0", Origin.PRESET, "q6_k")
    assert embedding.reason.startswith("preset q4_0: output matrix; ") and "320" in embedding.reason
    assert (found["blk.0.attn_q.weight"].scheme, found["blk.0.attn_q.weight"].wanted) == ("f16", "q4_0")


def test_an_output_whose_rows_the_base_type_does_not_fill_wants_q8_0() -> None:
    found = decide(plain(("output.weight", (1000, 144)), ("token_embd.weight", (1000, 144))), "q4_0")["output.weight"]
    assert (found.scheme, found.wanted) == ("f16", "q8_0")
    assert found.reason.startswith("preset q4_0: output matrix, rows do not fill blocks;")


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
    with pytest.raises(NotPossible, match=rf"^blk.0.attn_q.weight: rows of {row} .* \({kind}\)"):
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
        ("blk.0.time_mix_w1.weight", (8, 64), "a small weight of RWKV"),
        ("token_types.weight", (2, 64), "a position or token type embedding"),
        ("blk.0.attn_q.weight", (64, 64), None),
        ("blk.0.ffn_down_exps.weight", (8, 64, 64), None),
    ],
)
def test_what_is_never_quantized(name: str, shape: tuple[int, ...], why: str | None) -> None:
    assert llama_cpp.never(name, shape) == why
    for ftype in ("q4_0", "f16"):
        kept = llama_cpp.assign([Tensor(name, shape, "f32")], ftype, LLAMA)[name]
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
    found = llama_cpp.assign(UNTIED, "q4_0", LLAMA, decided={"output.weight"})
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
        (b"attn_v", "q8_0"),
        (b"ffn", "q4_1"),
        (b"output", "f16"),
    ]
    assert options.unmatched(UNTIED) == ["ffn=q4_1"]


def test_unknown_ftype() -> None:
    with pytest.raises(WrongUsage, match="--scheme q8_k: .* q4_0"):
        decide(UNTIED, "q8_k")


def test_ggml_type() -> None:
    assert llama_cpp.ggml_type("Q4_K", "--output-tensor-type") == "q4_k"
    with pytest.raises(WrongUsage, match="--output-tensor-type: .*'affine4-g64' is not supported"):
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
    known = set(names.GGML + DENSE_DTYPES)
    assert {ftype.base for ftype in llama_cpp.FTYPES.values()} <= known
    assert {rule.type for rule in llama_cpp_mixture.MIXTURE} <= known | {llama_cpp_mixture.BASE}
    assert {name for rule in llama_cpp_mixture.MIXTURE for name in rule.ftypes.split()} <= set(llama_cpp.FTYPES)
    assert {kind.fallback for kind in ftypes.TYPES.values()} - {None} <= known == set(ftypes.TYPES) <= set(BY_NAME)
    assert not ftypes.TYPES[ftypes.UNDEMANDING].needs_importance
    own = {name: ftype.number for name, ftype in llama_cpp.FTYPES.items() if ftype.base == name}
    assert own.items() <= {name: kind.file_type for name, kind in ftypes.TYPES.items()}.items()
    assert set(ftypes.ALIASES) & set(llama_cpp.FTYPES) == set() and set(ftypes.ALIASES.values()) < set(llama_cpp.FTYPES)


@pytest.mark.parametrize("module", [ftypes, llama_cpp_tensors, prune], ids=lambda m: m.__name__)
def test_doctests(module: Any) -> None:
    assert doctest.testmod(module).attempted and doctest.testmod(module).failed == 0


def test_names_of_ftypes() -> None:
    assert [llama_cpp.find(text) for text in ("q3_K", "Q5_K", "IQ2_M", "0", "38", " copy ")] == [
        "q3_k_m",
        "q5_k_m",
        "iq2_m",
        "f32",
        "mxfp4_moe",
        "copy",
    ]
    assert [llama_cpp.find(text) for text in ("", "4", "q8_k", "mxfp4", "-1", "1.0")] == [None] * 6


def layers(count: int, *parts: str) -> list[Tensor]:
    return plain(*((f"blk.{i}.{part}.weight", (256, 256)) for i in range(count) for part in parts))


def kinds(tensors: list[Tensor], ftype: str, options: Options | None = None, **facts: Any) -> list[str]:
    return [decision.scheme for decision in decide(tensors, ftype, options, **facts).values()]


def test_reasons_of_the_mixture() -> None:
    found = decide(layers(32, "attn_v", "ffn_down"), "q4_k_m")
    assert (
        found["blk.0.ffn_down.weight"].reason
        == "preset q4_k_m: ffn_down, first and last eighth of the layers, and every third between"
    )
    assert (
        found["blk.0.attn_v.weight"].reason
        == "preset q4_k_m: attn_v, first and last eighth of the layers, and every third between"
    )
    assert found["blk.4.attn_v.weight"] == Decision("q4_k", "preset q4_k_m", Origin.PRESET)


def test_falcon() -> None:
    down = kinds(layers(32, "ffn_down"), "q4_k_m", architecture="falcon")
    assert down[:7] == ["q6_k"] * 2 + ["q5_k"] * 2 + ["q4_k"] * 2 + ["q5_k"]
    assert set(kinds(layers(32, "attn_output"), "q3_k_m", architecture="falcon")) == {"q3_k"}
    assert set(kinds(layers(32, "attn_output"), "q3_k_l", architecture="falcon")) == {"q4_k"}


@pytest.mark.parametrize(
    ("architecture", "count", "facts", "raised"),
    [
        ("llama", 80, {"kv_heads": 8}, True),
        ("llama", 80, {}, False),
        ("llama", 80, {"kv_heads": 8, "experts": 4}, True),
        ("llama", 79, {"kv_heads": 8}, False),
        ("llama", 81, {"kv_heads": 8, "nextn": 1}, True),
        ("qwen2", 80, {"kv_heads": 8}, True),
        ("qwen2", 80, {}, True),
        ("qwen3", 80, {"kv_heads": 8}, False),
        ("deci", 80, {"kv_heads": 8}, True),
        ("jais2", 68, {}, True),
    ],
)
def test_attn_v_of_what_llama_cpp_calls_70b(architecture: str, count: int, facts: dict[str, int], raised: bool) -> None:
    tensors = layers(count, "attn_v")
    given = {"architecture": architecture, "block_count": count} | facts
    assert set(kinds(tensors, "q4_k_m", **given)) == {"q6_k", "q5_k" if raised else "q4_k"}
    assert set(kinds(tensors, "q3_k_s", **given)) == {"q5_k" if raised else "q3_k"}
    assert "q5_k" not in kinds(tensors, "iq2_xs", **given)
    reasons = {decision.reason for decision in decide(tensors, "q3_k_s", **given).values()}
    assert reasons == {"preset q3_k_s: attn_v, 70B model" if raised else "preset q3_k_s"}


def test_an_importance_matrix_changes_a_few_types() -> None:
    for ftype, without, matrix in (("q4_0", "q4_0", "q4_1"), ("q5_0", "q5_0", "q5_1"), ("iq4_xs", "q5_k", "iq4_xs")):
        assert kinds(layers(32, "ffn_down"), ftype)[3] == without
        assert kinds(layers(32, "ffn_down"), ftype, importance=True)[3] == matrix


def test_what_something_else_decides_is_not_counted_as_a_layer() -> None:
    tensors = layers(32, "ffn_down")
    down = kinds(tensors, "q4_k_s")
    assert down == ["q5_k"] * 4 + ["q4_k"] * 28
    decided = llama_cpp.assign(tensors, "q4_k_s", LLAMA, decided={"blk.0.ffn_down.weight", "blk.1.ffn_down.weight"})
    assert [decision.scheme for decision in decided.values()] == ["q5_k"] * 4 + ["q4_k"] * 26
    named = Options(tensor_types=(llama_cpp.tensor_type(r"blk\.[01]\.=q8_0"),))
    assert kinds(tensors, "q4_k_s", named) == ["q8_0"] * 2 + ["q5_k"] * 4 + ["q4_k"] * 26
    with_experts = kinds(tensors, "q4_k_s", named, experts=2)
    assert with_experts == ["q8_0"] * 2 + ["q5_k"] * 2 + ["q4_k"] * 28, "numbers of blocks, not a count"
    assert kinds(tensors, "q4_k_s", named, experts=1) == kinds(tensors, "q4_k_s", named), "one expert is none"


def test_experts_outside_the_layers() -> None:
    for name in ("ffn_down.weight", "blk.32.ffn_up.weight"):
        with pytest.raises(BadInput, match=f"^{name}: expected .* below 32"):
            decide(plain((name, (256, 256))), "q4_k_m", experts=2)
        assert kinds(plain((name, (256, 256))), "q4_k_m", Options(pure=True), experts=2) == ["q4_k"]
        assert len(kinds(plain((name, (256, 256))), "q4_k_m")) == 1


def test_mxfp4_moe() -> None:
    tensors = plain(
        ("blk.0.ffn_up_exps.weight", (4, 64, 64)),
        ("blk.0.attn_k_b.weight", (4, 64, 64)),
        ("blk.0.attn_q.weight", (64, 64)),
    )
    assert kinds(tensors, "mxfp4_moe") == ["mxfp4", "q8_0", "mxfp4"]
    assert kinds(tensors, "mxfp4_moe", architecture="bailingmoe3") == ["q8_0", "q8_0", "mxfp4"]


def test_glm5_next() -> None:
    tensors = plain(("blk.0.attn_q_b.weight", (64, 256)), ("blk.0.attn_k_b.weight", (64, 256)))
    assert kinds(tensors, "q4_k_m") == ["q4_k", "q4_k"]
    assert kinds(tensors, "q4_k_m", architecture="glm5-next") == ["bf16", "q8_0"]


def test_demands_importance_says_which() -> None:
    tensors = [*UNTIED, *layers(2, "attn_q", "attn_norm")]
    assert llama_cpp.demands_importance(decide(tensors, "iq2_xs"), "iq2_xs") == [
        "blk.0.attn_q.weight",
        "blk.1.attn_q.weight",
    ]
    small = decide(tensors, "q2_k_s")
    assert len(llama_cpp.demands_importance(small, "q2_k_s")) == 3
    assert llama_cpp.demands_importance(small, "q2_k") == []
    embeddings = {"token_embd.weight": Decision("iq1_s", "", Origin.OVERRIDE)}
    assert llama_cpp.demands_importance(embeddings) == []
    assert llama_cpp.demands_importance({"a.weight": Decision("iq1_s", "", Origin.OVERRIDE)}) == ["a.weight"]


def test_facts_of_metadata() -> None:
    heads = ArrayValue("uint32", 2, (16).to_bytes(4, "little") + (4).to_bytes(4, "little"))
    metadata = {
        "general.architecture": Value("string", "deci"),
        "deci.block_count": Value("uint32", 2),
        "deci.attention.head_count": Value("array[uint32]", heads),
        "deci.attention.head_count_kv": Value("uint32", 3),
        "llama.expert_count": Value("uint32", 8),
    }
    facts = Facts.of(metadata, importance=True)
    assert facts == Facts("deci", 2, 16, 3, importance=True) and facts.gqa == 5
    del metadata["deci.attention.head_count_kv"]
    assert Facts.of(metadata).gqa == 1, "as many as there are heads"
    assert Facts.of({}) == Facts("", 0, 0, 0) and Facts.of({}).gqa == 0
    for value in ("32", -1, 1.5, True, ArrayValue("string", 1, bytes(8))):
        with pytest.raises(BadInput, match=r"a\.gguf: key deci\.block_count: expected a whole number .* found "):
            Facts.of(metadata | {"deci.block_count": Value("x", value)}, label="a.gguf")


@pytest.mark.parametrize("name", ["abcde", "a.b.c", "h\u00e9as"])
def test_names_of_five_bytes_are_quantized(name: str) -> None:
    """llama-quantize's test for `weight` at the end holds for them."""
    assert llama_cpp.never(name, (4, 256)) is None
    assert llama_cpp.never(f"{name}f", (4, 256)) == llama_cpp.never(name[:-1], (4, 256)) == "not a weight"
    assert llama_cpp.never(name, (256,)) == "one dimension"


TIED = [tensor for tensor in UNTIED if tensor.name != "output.weight"]
NO_OUTPUT = "the model has no output.weight"
OTHERWISE = "every tensor"


@pytest.mark.parametrize(
    ("tensors", "ftype", "options", "said"),
    [
        (UNTIED, "q4_0", {"pure": True, "leave_output": True, "embedding_type": "q8_0"}, []),
        (TIED, "q4_0", {"output_type": "q8_0"}, []),
        (TIED, "q4_0", {"leave_output": True}, [f"--leave-output-tensor has no effect: {NO_OUTPUT}."]),
        (
            TIED,
            "q4_0",
            {"pure": True, "output_type": "q8_0"},
            [f"--output-tensor-type q8_0 has no effect: {NO_OUTPUT}."],
        ),
        (UNTIED, "f16", {"pure": True}, ["--pure has no effect: f16 quantizes nothing."]),
        (
            UNTIED,
            "f16",
            {"tensor_types": llama_cpp.tensor_type_file("attn_v=q8_0 nothing=q8_0"), "output_type": "q8_0"},
            [
                "--tensor-type attn_v=q8_0 has no effect: f16 quantizes nothing.",
                "--tensor-type: nothing=q8_0 matches no tensor.",
            ],
        ),
        (
            UNTIED,
            "q4_0",
            {"tensor_types": llama_cpp.tensor_type_file("attn=q8_0 attn_v=q5_0")},
            [f"--tensor-type attn_v=q5_0 has no effect: {OTHERWISE}."],
        ),
    ],
)
def test_options_that_decide_nothing_are_said(
    tensors: list[Tensor], ftype: str, options: dict[str, Any], said: list[str]
) -> None:
    given = Options(**options)
    found = llama_cpp.idle(given, tensors, decide(tensors, ftype, given), ftype)
    parts = [line.partition(": ") for line in said]
    assert [line.partition(": ")[0] for line in found] == [option for option, _, _ in parts]
    assert all(reason.rstrip(".") in line for line, (_, _, reason) in zip(found, parts, strict=True))
