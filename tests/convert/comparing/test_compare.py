"""Two checkpoints held against each other: names, rows, values, settings, tokenizers."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantcli.containers.gguf_values import ArrayValue
from quantcli.convert.comparing.compare import Comparison, Verdict, WeightDifference, as_json, chosen, compare, failures
from quantcli.convert.comparing.difference import between, equal_in
from quantcli.convert.comparing.values import same
from quantcli.errors import BadInput, NotPossible, WrongUsage
from quantcli.schemes.base import MEASURED_AT_ONCE
from quantcli.sources.detect import open_source
from tests.builders import llama_gguf, tiny_llama
from tests.conversions import converted

SPM = Path(__file__).resolve().parent.parent.parent / "data" / "tokenizers" / "kinds" / "spm-llama"

Q, K = "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight"
DOWN, NORM = "model.layers.0.mlp.down_proj.weight", "model.norm.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def compared(a: Path, b: Path, pattern: str | None = None, memory: int = 1 << 28, threads: int = 2) -> Comparison:
    first, second = open_source(a), open_source(b)
    return compare(first, second, chosen(first, second, pattern), memory, threads, lambda _count, _name: None)


def of(found: Comparison, name: str) -> WeightDifference:
    return next(w for w in found.weights if w.name == name)


def verdicts(found: Comparison) -> dict[str, str]:
    return {w.name: str(w.verdict) for w in found.weights if w.verdict is not Verdict.EQUAL}


def changed(folder: Path, to: Path, config: dict[str, Any] | None = None, **tensors: np.ndarray | None) -> Path:
    """A copy of a folder with some tensors replaced (None: removed) and keys of its config changed."""
    shutil.copytree(folder, to)
    arrays = load_file(to / "model.safetensors") | tensors
    kept = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}
    save_file(kept, to / "model.safetensors")
    settings = json.loads((to / "config.json").read_text()) | (config or {})
    (to / "config.json").write_text(json.dumps(settings))
    return to


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def weights(llama: Path) -> dict[str, np.ndarray]:
    return load_file(llama / "model.safetensors")


def test_numbers_over_many_blocks_are_numpys() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(size=(2, 3, MEASURED_AT_ONCE + 7))
    b[0, :5] = a[0, :5]
    found = between(a, b)
    assert (found.count, found.unequal, found.nonfinite) == (a.size, a.size - 5, 0)
    assert found.mse == pytest.approx(np.mean((a - b) ** 2), rel=1e-12)
    assert found.relative_rmse == pytest.approx(math.sqrt(np.sum((a - b) ** 2) / np.sum(a**2)), rel=1e-12)
    assert found.largest == np.abs(a - b).max()
    assert found.cosine == pytest.approx(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12)


def test_signed_zeros_and_nans_at_one_place_are_equal() -> None:
    a = np.array([0.0, np.nan, np.inf, -np.inf], np.float32)
    assert between(a, np.array([-0.0, np.nan, np.inf, -np.inf], np.float32)).unequal == 0
    odd = between(a, np.array([-0.0, 1.0, -np.inf, -np.inf], np.float32))
    assert (odd.unequal, odd.nonfinite, odd.squared) == (2, 2, 0.0)


def test_zeros_have_a_cosine_and_an_infinite_relative_error() -> None:
    zeros, ones = np.zeros(4), np.ones(4)
    assert (between(zeros, zeros).relative_rmse, between(zeros, zeros).cosine) == (0.0, 1.0)
    assert (between(zeros, ones).relative_rmse, between(zeros, ones).cosine) == (math.inf, 0.0)
    assert between(ones, zeros).relative_rmse == 1.0


def test_rounding_is_tried_on_both_sides() -> None:
    a = np.array([1.0, 70000.0], np.float32)
    assert equal_in("f16", a, np.array([1.0001, 80000.0], np.float32))
    assert not equal_in("f16", a, np.array([1.001, 80000.0], np.float32))


def test_a_copy_is_equal_in_everything(llama: Path, tmp_path: Path) -> None:
    found = compared(llama, changed(llama, tmp_path / "copy"))
    assert found.count(Verdict.EQUAL) == len(found.weights) == 21
    assert not (found.only_a or found.only_b or found.fields or found.tokenizer or found.notes)
    assert failures(found, 0.0) == []


def test_a_gguf_has_its_rows_put_back(llama: Path, tmp_path: Path) -> None:
    file = llama_gguf(tmp_path / "a.gguf", llama)
    for pair in ((llama, file), (file, llama)):
        found = compared(*pair)
        assert found.count(Verdict.EQUAL) == len(found.weights) == 21
        assert not (found.only_a or found.only_b or found.fields or found.tokenizer or found.notes)


def test_rows_that_were_not_permuted_show(
    llama: Path, weights: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.builders.interleaved", lambda array, heads: array)
    found = compared(llama, llama_gguf(tmp_path / "a.gguf", llama))
    assert set(verdicts(found)) == {n for n in weights if ".q_proj." in n or ".k_proj." in n}
    assert of(found, Q).difference.cosine < 0.5  # type: ignore[union-attr]


def test_small_slabs_and_threads_change_nothing(llama: Path, tmp_path: Path) -> None:
    file = llama_gguf(tmp_path / "a.gguf", llama, kind="q8_0")
    whole, cut = compared(llama, file), compared(llama, file, memory=20_000, threads=3)
    assert [w.name for w in whole.weights] == [w.name for w in cut.weights]
    for one, other in zip(whole.weights, cut.weights, strict=True):
        assert one.difference is not None and other.difference is not None
        assert one.difference.count == other.difference.count
        assert one.difference.relative_rmse == pytest.approx(other.difference.relative_rmse, rel=1e-12)


def test_quantized_weights_give_their_owners_error(llama: Path, weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    parts, errors = {}, {}
    for name, array in weights.items():
        values = mx.array(array.astype(np.float32)).astype(mx.bfloat16)
        if array.ndim < 2:
            parts[name] = values
            continue
        words, scales, biases = mx.quantize(values, 32, 4)
        module = name.removesuffix(".weight")
        parts |= {name: words, f"{module}.scales": scales, f"{module}.biases": biases}
        decoded = np.array(mx.dequantize(words, scales.astype(mx.float32), biases.astype(mx.float32), 32, 4))
        errors[name] = np.linalg.norm(decoded - array.astype(np.float32)) / np.linalg.norm(array.astype(np.float32))
    folder = changed(llama, tmp_path / "mlx", {"quantization": {"group_size": 32, "bits": 4}})
    mx.save_safetensors(str(folder / "model.safetensors"), parts)
    found = compared(llama, folder)
    assert {w.b.scheme.name for w in found.weights} == {"affine4-g32", "bf16"}
    for name, error in errors.items():
        assert of(found, name).difference.relative_rmse == pytest.approx(error, rel=1e-5)  # type: ignore[union-attr]
    worst = max(errors, key=errors.__getitem__)
    assert found.weights[0].name == worst
    assert failures(found, 2 * errors[worst]) == []
    (only,) = failures(found, sorted(errors.values())[-2] * 1.00001)
    assert worst in only


def test_a_difference_of_awqs_dtype_is_named(llama: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    codes = random.integers(0, 16, (64, 128), np.uint8)
    scales = random.uniform(0.001, 0.01, (2, 64)).astype(np.float16)
    shifts = np.array([0, 16, 4, 20, 8, 24, 12, 28])
    words = (codes.T.reshape(128, 8, 8).astype(np.int64) << shifts).sum(axis=2).astype(np.uint32).view(np.int32)
    module = DOWN.removesuffix(".weight")
    awq_block = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": False}
    awq_block |= {"modules_to_not_convert": ["self_attn", "gate_proj", "up_proj", "layers.0", "layers.1"]}
    awq_block["modules_to_not_convert"].remove(f"layers.{DOWN.split('.')[2]}")
    awq = changed(
        llama, tmp_path / "awq", {"quantization_config": awq_block},
        **{DOWN: None, f"{module}.qweight": words, f"{module}.scales": scales},
    )  # fmt: skip
    exact = (codes.astype(np.float32) - 8) * np.repeat(scales.T.astype(np.float32), 64, axis=1)
    found = of(compared(awq, changed(llama, tmp_path / "f32", **{DOWN: exact})), DOWN)
    assert (found.verdict, found.rounded_to, found.result) == (Verdict.ROUNDED, "f16", "equal after rounding to f16")
    assert found.difference is not None and 0 < found.difference.relative_rmse < 1e-3
    tools = changed(llama, tmp_path / "f16", **{DOWN: exact.astype(np.float16)})
    assert of(compared(awq, tools), DOWN).verdict is Verdict.EQUAL
    exact[5, 5] += 0.01
    assert of(compared(awq, changed(llama, tmp_path / "off", **{DOWN: exact})), DOWN).verdict is Verdict.DIFFERS


def test_a_difference_of_the_narrower_dtype_is_named(
    llama: Path, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    near = weights[DOWN].astype(np.float32) * np.float32(1.0001)
    found = of(compared(changed(llama, tmp_path / "f32", **{DOWN: near}), llama), DOWN)
    assert (found.verdict, found.rounded_to) == (Verdict.ROUNDED, "bf16")
    double = weights[DOWN].astype(np.float64)
    double[0, 0] += 1e-12
    found = of(compared(changed(llama, tmp_path / "f64", **{DOWN: double}), llama), DOWN)
    assert found.difference is not None and found.difference.unequal == 1


def test_nan_on_one_side_is_counted_and_never_passes(
    llama: Path, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    broken = weights[DOWN].copy()
    broken[3, 3] = np.nan
    folder = changed(llama, tmp_path / "nan", **{DOWN: broken})
    found = compared(llama, folder)
    assert found.weights[0].name == DOWN
    assert (of(found, DOWN).verdict, found.total.nonfinite) == (Verdict.DIFFERS, 1)
    assert "NaN" in failures(found, 100.0)[0]
    json.dumps(as_json(found), allow_nan=False)
    assert compared(folder, folder).count(Verdict.EQUAL) == 21


def test_missing_weights_and_other_shapes(llama: Path, weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    short = changed(llama, tmp_path / "short", **{NORM: None, DOWN: weights[DOWN][:-1], "extra": np.zeros(3, np.int64)})
    found = compared(llama, short)
    assert [d.name for d in found.only_a] == [NORM]
    assert [d.name for d in found.only_b] == ["extra"]
    assert found.weights[0].verdict is Verdict.SHAPES
    said = failures(found, 1.0)
    assert [text.split(":")[0] for text in said] == [DOWN, NORM, "extra"]
    assert as_json(found)["weights"][0]["relative_rmse"] is None


def test_an_embedding_stands_for_the_head_it_is_tied_to(
    weights: dict[str, np.ndarray], llama: Path, tmp_path: Path
) -> None:
    tied = changed(llama, tmp_path / "tied", {"tie_word_embeddings": True}, **{HEAD: None})
    assert compared(tied, llama_gguf(tmp_path / "tied.gguf", tied)).count(Verdict.EQUAL) == 20
    own = changed(llama, tmp_path / "own", **{HEAD: weights[EMBEDDING]})
    found = compared(tied, llama_gguf(tmp_path / "own.gguf", own))
    assert (of(found, HEAD).verdict, found.only_b) == (Verdict.EQUAL, ())
    assert any("also compared as lm_head.weight" in note for note in found.notes)
    found = compared(tied, llama_gguf(tmp_path / "other.gguf", llama))
    assert verdicts(found) == {HEAD: "differs"}
    stored = changed(llama, tmp_path / "stored", {"tie_word_embeddings": True})
    for pair in ((stored, tied), (tied, stored)):
        found = compared(*pair)
        assert verdicts(found) == {HEAD: "differs"} and not (found.only_a or found.only_b)


def test_a_head_that_is_not_tied_is_missing(llama: Path, tmp_path: Path) -> None:
    headless = llama_gguf(tmp_path / "headless.gguf", llama, leave_out=[HEAD])
    found = compared(llama, headless)
    assert verdicts(found) == {HEAD: "differs"}
    assert [f.key for f in found.fields] == ["tie_embeddings"]
    found = compared(changed(llama, tmp_path / "none", **{HEAD: None}), llama)
    assert [d.name for d in found.only_b] == [HEAD]


def test_computed_tensors_are_held_against_the_config(llama: Path, tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 32
    scaled = changed(llama, tmp_path / "scaled", {"rope_scaling": scaling})
    found = compared(scaled, llama_gguf(tmp_path / "without.gguf", llama))
    assert [t.name for t in found.only_a] == ["rope_freqs.weight"] and not found.fields
    for name, factors, equal in (("ones", np.ones(8, np.float32), False), ("right", None, True)):
        values = found.only_a[0].values if factors is None else factors
        path = llama_gguf(tmp_path / f"{name}.gguf", llama, tensor=("rope_freqs.weight", values))
        assert (of(compared(scaled, path), "rope_freqs.weight").verdict is Verdict.EQUAL) is equal


def test_types_that_are_not_decoded_are_held_by_their_bytes(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    blocks = random.integers(0, 256, (4, 160), np.uint8)
    other = blocks.copy()
    other[2, 7] ^= 1
    paths = []
    for name, data in (("a", blocks), ("b", blocks), ("c", other)):
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "starcoder")
        writer.add_tensor("blk.0.ffn_up.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q8_1)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        paths.append(tmp_path / f"{name}.gguf")
    assert compared(paths[0], paths[1]).weights[0].verdict is Verdict.EQUAL
    found = compared(paths[0], paths[2])
    assert found.weights[0].verdict is Verdict.UNDECODED
    assert "not decoded" in failures(found, 1.0)[0]


def test_a_big_endian_file_is_decoded() -> None:
    folder = Path(__file__).parent.parent.parent / "data/gguf"
    found = compared(folder / "small.gguf", folder / "small-big-endian.gguf", "norm.weight")
    assert {w.verdict for w in found.weights} == {Verdict.EQUAL}


def test_settings_are_compared_whatever_the_dialect(llama: Path, tmp_path: Path) -> None:
    long = changed(llama, tmp_path / "long", {"max_position_embeddings": 128, "rope_theta": 5e5})
    assert [(f.key, f.a, f.b) for f in compared(llama, long).fields] == [
        ("max_position_embeddings", 64, 128), ("rope_theta", 10000.0, 500000.0),
    ]  # fmt: skip
    newer = {"rope_theta": None, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}, "torch_dtype": None}
    spelled = changed(llama, tmp_path / "spelled", newer | {"dtype": "bfloat16"})
    assert not compared(llama, spelled).fields
    first = llama_gguf(tmp_path / "a.gguf", llama)
    second = llama_gguf(tmp_path / "b.gguf", llama, rope_freq_base=1e6, name="Other")
    assert {f.key for f in compared(first, second).fields} == {"llama.rope.freq_base", "general.name"}
    assert [f.key for f in compared(llama, second).fields] == ["rope.theta"]
    assert [(f.key, f.b) for f in compared(long, second).fields] == [("context_length", 64), ("rope.theta", 1e6)]


def test_settings_of_a_family_are_compared(llama: Path, tmp_path: Path) -> None:
    scales = {"model_type": "granite", "embedding_multiplier": 12.0, "logits_scaling": 8.0}
    first = changed(llama, tmp_path / "first", scales)
    second = changed(llama, tmp_path / "second", scales | {"logits_scaling": 16.0})
    assert [(f.key, f.a, f.b) for f in compared(first, second).fields] == [("logits_scaling", 8.0, 16.0)]


def test_tokenizers_are_compared_part_by_part(llama: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((llama / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["\u00e9"] = vocab.pop("!")
    tokenizer["model"]["merges"].append("a c")
    vocab["ac"] = vocab.pop("#")
    folder = changed(llama, tmp_path / "other", {"eos_token_id": 95})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|begin|>", "chat_template": "{{ x }}"}))
    wanted = {"tokens": 2, "merges": 1, "special tokens": 2, "chat templates": 1, "ids of probe texts": 3}
    for other, files in ((llama, {"tokenizer_config.json": 2}), (llama_gguf(tmp_path / "a.gguf", llama), {})):
        found = compared(other, folder)
        assert {t.what: t.count for t in found.tokenizer} == wanted | files
        assert found.tokenizer[0].first[0] == {"at": 0, "a": "!", "b": "\u00e9"}
    (folder / "tokenizer.json").unlink()
    found = compared(llama, folder)
    assert {(left.side, left.what, left.names) for left in found.not_compared} == {
        ("A", "vocabulary", ()), ("A", "files", ("tokenizer.json",)), ("A", "ids of probe texts", ()),
    }  # fmt: skip
    assert {t.what for t in found.tokenizer} == {"chat templates", "tokenizer_config.json"}


def test_the_same_tokenizer_is_not_taken_apart(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = changed(llama, tmp_path / "b")
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 7}))
    monkeypatch.setattr("quantcli.convert.comparing.tokenizers.folders.load", None)
    monkeypatch.setattr("quantcli.convert.comparing.tokenizers.encoder", None)
    (found,) = compared(llama, other).tokenizer
    assert found.what == "tokenizer_config.json" and [d["at"] for d in found.first] == ["model_max_length"]


def test_scores_that_a_folder_does_not_hold_are_no_difference(tmp_path: Path) -> None:
    """tokenizer.json has merges instead, in the same order; what comes of both is compared."""
    source = tiny_llama(tmp_path / "source", vocab_size=432)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(SPM / name, source / name)
    converted(source, tmp_path / "a.gguf")
    converted(tmp_path / "a.gguf", tmp_path / "mlx")
    assert not (tmp_path / "mlx" / "tokenizer.model").exists()
    assert compared(tmp_path / "a.gguf", tmp_path / "mlx").tokenizer == ()
    assert compared(source, tmp_path / "a.gguf").tokenizer == ()
    found = compared(source, tmp_path / "mlx")
    assert {t.what for t in found.tokenizer} == {"tokenizer_config.json"}  # a rebuilt one
    assert ("A", "files", ("tokenizer.model",)) in {(left.side, left.what, left.names) for left in found.not_compared}


def test_tokenizers_are_set_to_work(llama: Path, tmp_path: Path) -> None:
    """A normalizer that no list of the vocabulary shows; and files that only one side's encoder can read."""
    tokenizer = json.loads((llama / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "Hello"}, "content": "ab"}
    folder = changed(llama, tmp_path / "other")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    file, difference = compared(llama, folder).tokenizer
    assert [(file.what, [place["at"] for place in file.first])] == [("tokenizer.json", ["normalizer"])]
    assert difference.what == "ids of probe texts" and difference.count == 2
    assert difference.first[0]["at"] == "Hello, world!" and difference.first[0]["a"] != difference.first[0]["b"]
    del tokenizer["added_tokens"][0]["lstrip"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = compared(llama, folder)
    assert [t.what for t in found.tokenizer] == ["tokenizer.json"]
    (left,) = found.not_compared
    assert (left.side, left.what) == ("both", "ids of probe texts") and "does not load it" in left.reason


def test_a_glob_takes_names_of_either_dialect(llama: Path, tmp_path: Path) -> None:
    file = llama_gguf(tmp_path / "a.gguf", llama)
    for pattern in ("*.mlp.down_proj", "*.down_proj.weight", "blk.*.ffn_down.weight"):
        assert len(compared(llama, file, pattern).weights) == 2
    with pytest.raises(WrongUsage, match="no weight of A or B"):
        compared(llama, file, "*.experts.*")


def test_unknown_architectures_are_compared_by_name(llama: Path, tmp_path: Path) -> None:
    strange = changed(llama, tmp_path / "strange", {"model_type": "strange"})
    found = compared(strange, strange)
    assert len(found.weights) == 21 and not (found.fields or found.not_compared)
    other = changed(strange, tmp_path / "other", {"hidden_act": "gelu"})
    assert [(f.key, f.a, f.b) for f in compared(strange, other).fields] == [("hidden_act", None, "gelu")]
    with pytest.raises(NotPossible, match="'strange' is not supported"):
        compared(strange, llama_gguf(tmp_path / "a.gguf", llama))


def test_heads_that_do_not_divide_the_rows_name_file_and_tensor(llama: Path, tmp_path: Path) -> None:
    file = llama_gguf(tmp_path / "odd.gguf", llama, head_count=6)
    with pytest.raises(BadInput, match=r"odd.gguf: tensor blk.0.attn_q.weight: 64 rows"):
        compared(llama, file)


def test_tokens_of_the_wrong_type_name_their_key(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="tokenizer.ggml.eot_token_id: .*'one'"):
        compared(llama, llama_gguf(tmp_path / "a.gguf", llama, string=("tokenizer.ggml.eot_token_id", "one")))


def test_a_file_that_became_shorter_is_bad_input(llama: Path, tmp_path: Path) -> None:
    folder = changed(llama, tmp_path / "short")
    first, second = open_source(llama), open_source(folder)
    with open(folder / "model.safetensors", "r+b") as handle:
        handle.truncate(20_000)
    with pytest.raises(BadInput, match="is truncated"):
        compare(first, second, chosen(first, second), 1 << 28, 2, lambda _count, _name: None)


def test_real_files_of_llama_cpp(shared: Path) -> None:
    fixtures = shared / "fixtures"
    found = compared(fixtures / "models/micro-llama", fixtures / "gguf/files/micro-q4_0.gguf")
    assert not (found.only_a or found.only_b or found.fields or found.tokenizer or found.notes)
    for weight in found.weights:
        assert weight.difference is not None
        low, high = {"f32": (0, 0), "q4_0": (0.08, 0.09), "q6_k": (0.014, 0.018)}[weight.b.scheme.name]
        assert low <= weight.difference.relative_rmse <= high


def test_arrays_of_the_same_bytes_are_the_same_setting() -> None:
    """NaN is no number that equals itself."""
    array = ArrayValue("float32", 2, np.float32([1, np.nan]).tobytes())
    again = ArrayValue("float32", 2, np.float32([1, np.nan]).tobytes())
    other = ArrayValue("float32", 2, np.float32([2, np.nan]).tobytes())
    assert same(array, again) and not same(array, other)
