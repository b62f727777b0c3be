"""Sound files that contradict each other: arrays and settings, sizes and tensors, tokenizers; NaN and Inf."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.attacks.cases import (
    CONFIG,
    GONE,
    SETTINGS,
    TOKENIZER,
    Case,
    Q,
    as_json,
    changed,
    config,
    with_tensors,
)
from tests.builders import BF16, LLAMA


def quantized() -> dict[str, Case]:
    """Contradictions in MLX and AWQ folders; each of them has its unit test with the sources."""
    mlx: dict[str, dict[str, bytes | None]] = {
        "no scales": with_tensors("mlx", scales=None),
        "no scales, no biases": with_tensors("mlx", scales=None, biases=None),
        "no biases": with_tensors("mlx", biases=None),
        "weight of floats": with_tensors("mlx", weight=np.ones((64, 64), BF16)),
        "weight of int32": with_tensors("mlx", weight=np.zeros((64, 8), np.int32)),
        "weight of rank 1": with_tensors("mlx", weight=np.zeros(512, np.uint32)),
        "scales of rank 1": with_tensors("mlx", scales=np.ones(64, BF16)),
        "scales of other rows": with_tensors("mlx", scales=np.ones((32, 1), BF16)),
        "scales of other groups": with_tensors("mlx", scales=np.ones((64, 2), BF16), biases=np.ones((64, 2), BF16)),
        "biases of another dtype": with_tensors("mlx", biases=np.ones((64, 1), np.float32)),
        "scales of bytes": with_tensors("mlx", scales=np.ones((64, 1), np.uint8), biases=np.ones((64, 1), np.uint8)),
        "a qweight among them": with_tensors("mlx", x__qweight=np.zeros((8, 8), np.int32)),
    }
    blocks: tuple[Any, ...] = (
        {}, [4, 64], "affine", {"bits": 4}, {"group_size": 64}, {"group_size": 64, "bits": 7},
        {"group_size": -64, "bits": 4}, {"group_size": 64, "bits": "4"}, {"group_size": 64, "bits": 4.0},
        {"group_size": 0, "bits": 4}, {"group_size": 10**30, "bits": 4}, {"group_size": 64, "bits": 4, "mode": "int"},
        {"group_size": 64, "bits": 4, "mode": ["affine"]}, {"group_size": 64, "bits": 4, Q: False},
        {"group_size": 64, "bits": 4, Q: 4}, {"group_size": 64, "bits": 4, Q: {"bits": 4}},
        {"group_size": 64, "bits": 4, Q: None}, {"group_size": 64, "bits": 4, "a\nb": False},
        {"group_size": 64, "bits": 4, Q: {"bits": 4, "group_size": 32, "mode": "mxfp4"}},
    )  # fmt: skip
    awq: dict[str, dict[str, bytes | None]] = {
        "no scales": with_tensors("awq", scales=None),
        "a stale weight": with_tensors("awq", weight=np.ones((64, 64), BF16)),
        "biases": with_tensors("awq", biases=np.ones((64, 1), BF16)),
        "qweight of rank 1": with_tensors("awq", qweight=np.zeros(512, np.int32)),
        "qweight of floats": with_tensors("awq", qweight=np.zeros((64, 8), np.float32)),
        "scales of integers": with_tensors("awq", scales=np.zeros((1, 64), np.int32)),
        "scales of other groups": with_tensors("awq", scales=np.ones((2, 64), np.float16)),
        "zeros of other groups": with_tensors("awq", qzeros=np.zeros((2, 8), np.int32)),
        "zeros of bytes": with_tensors("awq", qzeros=np.zeros((1, 8), np.uint8)),
        "zeros alone": with_tensors("awq", x__qzeros=np.zeros((1, 8), np.int32)),
        "nothing in it": with_tensors("awq", qweight=np.zeros((0, 8), np.int32)),
    }
    made = {f"MLX: {what}": Case(files, base="mlx") for what, files in mlx.items()}
    for block in blocks:
        files = {CONFIG: as_json({**LLAMA, "quantization": block})}
        made[f"MLX: quantization is {str(block).replace(Q, 'q')}"] = Case(files, base="mlx")
    made["MLX: no settings"] = Case({CONFIG: as_json(LLAMA)}, base="mlx")
    made |= {f"AWQ: {what}": Case(files, base="awq") for what, files in awq.items()}
    made["AWQ: g_idx"] = Case(with_tensors("awq", g_idx=np.zeros(64, np.int32)), code=4, base="awq")
    made["AWQ: no settings"] = Case({CONFIG: as_json(LLAMA)}, base="awq")
    for key, value, code in (
        ("bits", 8, 4), ("bits", "4", 3), ("bits", None, 3), ("group_size", 0, 3), ("group_size", -2, 3),
        ("group_size", 48, 3), ("group_size", 10**30, 3), ("group_size", "64", 3), ("zero_point", 1, 3),
        ("version", "marlin", 4), ("version", 2, 3), ("version", "x\ny" * 99, 4),
    ):  # fmt: skip
        block = {**config("awq")["quantization_config"], key: value}
        files = {CONFIG: as_json({**LLAMA, "quantization_config": block})}
        made[f"AWQ: {key} is {value!r}"] = Case(files, code=code, base="awq")
    return made


def nonfinite() -> dict[str, Case]:
    """NaN and Inf in weights, which `inspect` does not read."""
    made = {}
    for dtype in ("float16", "float32", "bfloat16", "float64"):
        for value in ("nan", "inf", "-inf"):
            array = np.ones((64, 64), np.float32)
            array[63, 63] = float(value)
            files = with_tensors("dense", weight=array.astype(BF16 if dtype == "bfloat16" else dtype))
            options = {"nan": ("-s", "affine4-g64"), "inf": ("--dtype", "f32"), "-inf": ()}[value]
            made[f"{value} in {dtype}"] = Case(files, inspect=0, options=options)
    norm = np.ones(64, BF16)
    norm[5] = np.nan
    norms = with_tensors("dense", model__norm__weight=norm)
    for output in ("out", "out.gguf"):
        made[f"nan in a norm, {output}"] = Case(norms, inspect=0, output=output)
    head = np.full((96, 64), np.inf, BF16)
    made["inf in the head, q8_0"] = Case(
        with_tensors("dense", lm_head__weight=head), inspect=0, output="out.gguf", options=("-s", "q8_0")
    )
    for part, value in (("scales", np.nan), ("biases", np.inf)):
        files = with_tensors("mlx", **{part: np.full((64, 1), value, BF16)})
        made[f"MLX: {value} in {part}"] = Case(files, inspect=0, base="mlx")
        made[f"MLX: {value} in {part}, GGUF"] = Case(files, inspect=0, base="mlx", output="out.gguf")
    for mode, (bits, group, byte) in {"mxfp4": (4, 32, 255), "mxfp8": (8, 32, 255), "nvfp4": (4, 16, 127)}.items():
        words, scales = np.zeros((64, 2 * bits), np.uint32), np.full((64, 64 // group), byte, np.uint8)
        block = {"group_size": 64, "bits": 4, Q: {"group_size": group, "bits": bits, "mode": mode}}
        files = with_tensors("mlx", weight=words, scales=scales, biases=None)
        files[CONFIG] = as_json({**LLAMA, "quantization": block})
        for options in ((), ("-s", "f32")):
            made[f"MLX: no number in {mode}'s scales {options}"] = Case(files, inspect=0, base="mlx", options=options)
        if mode == "mxfp8":
            codes = with_tensors("mlx", weight=words + np.uint32(0x7F), scales=scales // 2, biases=None)
            made["MLX: NaN among mxfp8's codes"] = Case({**files, **codes}, inspect=0, base="mlx")
    beyond = with_tensors("awq", scales=np.full((1, 64), 1e6, np.float32))
    for dtype in ("f32", "bf16"):
        made[f"AWQ: scales beyond f16, {dtype}"] = Case(beyond, 4, inspect=0, base="awq", options=("-s", dtype))
    for value in (np.nan, np.inf):
        files = with_tensors("awq", scales=np.full((1, 64), value, np.float16))
        made[f"AWQ: {value} in scales"] = Case(files, inspect=0, base="awq")
        made[f"AWQ: {value} in scales, decoded"] = Case(files, inspect=0, base="awq", options=("-s", "bf16"))
    return made


def gguf_targets() -> dict[str, Case]:
    """What a GGUF needs beside tensors: sizes in config.json that go with them, and a vocabulary."""
    made: dict[str, Case] = {}

    def of(what: str, files: Mapping[str, bytes | None], code: int = 3, inspect: int = 0) -> None:
        made[f"to GGUF: {what}"] = Case(files, code=code, inspect=inspect, output="out.gguf")

    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    sizes += ("head_dim", "vocab_size", "max_position_embeddings")
    for key in sizes:
        for value in (0, -1, "64", 1.5, [64], True, 10**30):
            of(f"{key} is {value!r}", changed(CONFIG, key, to=value))
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps"):
        if key != "rms_norm_eps":
            of(f"{key} is gone", changed(CONFIG, key, to=GONE))
        of(f"{key} is a text", changed(CONFIG, key, to="x"))
    for key, value in (
        ("hidden_size", 128), ("intermediate_size", 64), ("num_hidden_layers", 1), ("num_hidden_layers", 3),
        ("num_attention_heads", 3), ("num_attention_heads", 8), ("num_attention_heads", 2), ("num_key_value_heads", 3),
        ("num_key_value_heads", 4), ("num_key_value_heads", 1), ("head_dim", 32), ("head_dim", 7), ("head_dim", 15),
        ("vocab_size", 97), ("vocab_size", 95), ("vocab_size", 2**31), ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", [1e-5]),
        ("rope_theta", 0), ("rope_theta", -1.0), ("rope_theta", "x"), ("rope_theta", float("inf")),
        ("rope_scaling", [1]), ("rope_scaling", {"rope_type": "linear"}),
        ("rope_scaling", {"rope_type": "llama3", "factor": -1}),
        ("rope_scaling", {"type": 5}), ("rope_parameters", {"rope_theta": "x"}), ("rope_parameters", 4),
        ("tie_word_embeddings", "yes"), ("sliding_window", -1), ("pad_token_id", -5), ("num_hidden_layers", 2**31),
        ("vocab_size", 4_000_000),
    ):  # fmt: skip
        of(f"{key} is {value!r}", changed(CONFIG, key, to=value))
    for value in ("bert", "x\ny", None, 7, ["llama"]):
        of(f"model_type is {value!r}", changed(CONFIG, "model_type", to=value), code=4)
    _tokenizers(of)
    return made


def _tokenizers(of: Callable[..., None]) -> None:
    vocab, added = ("model", "vocab"), ("added_tokens", 0)
    for path, values in {
        ("model",): (GONE, [1], "BPE", 4), ("model", "type"): (7, None), vocab: ([1], 4, None),
        (*vocab, "ab"): (-1, 1.5, "1", 95, 96, 10**12, True, None, 0, [1]), ("model", "merges"): (4, {"a": "b"}, "a b"),
        ("model", "merges", 0): ("ab", 5, ["a"], ["a", "b", "c"], [1, 2], "a  b", "", "x y z"),
        ("model", "byte_fallback"): ("no", 1), ("model", "ignore_merges"): ([],), ("added_tokens",): ({"a": 1}, 5, "x"),
        added: (5, None, [], {}), (*added, "id"): (-1, "93", 94, 2**40, None), (*added, "content"): (5, None, "b"),
        (*added, "special"): ("yes",), ("decoder",): ("ByteLevel", []), ("pre_tokenizer",): ([1], "x"),
        ("post_processor",): ([1], 5), ("normalizer",): ("NFC", [1]),
    }.items():  # fmt: skip
        for value in values:
            said = "gone" if value is GONE else repr(value)
            of(f"{TOKENIZER}: {'.'.join(map(str, path))} is {said}", changed(TOKENIZER, *path, to=value))
    of("no tokenizer", {TOKENIZER: None}, code=4)
    of("tokenizer of WordPiece", changed(TOKENIZER, "model", "type", to="WordPiece"), code=4)
    of("tokenizer of half a surrogate", changed(TOKENIZER, *vocab, "a\ud800", to=92))
    of("tokenizer.json nested deep", {TOKENIZER: b'{"model":' * 5000 + b"1" + b"}" * 5000})
    of("tokenizer.json not UTF-8", {TOKENIZER: b'{"a": "\xff"}'})
    of("tokenizer.model of noise", {TOKENIZER: None, "tokenizer.model": bytes(range(256)) * 4})
    of("tokenizer.model empty", {TOKENIZER: None, "tokenizer.model": b""})
    for key, value in {
        "added_tokens_decoder": [1], "chat_template": 5,
    }.items():  # fmt: skip
        of(f"{SETTINGS}: {key} is {value!r}", changed(SETTINGS, key, to=value))
    for decoder in (
        {"x": {"content": "a"}},
        {"-1": {"content": "a"}},
        {"93": {"content": 5}},
        {"93": 7},
        {"9" * 30: {"content": "a"}},
    ):
        of(f"{SETTINGS}: decoder {str(decoder)[:40]}", changed(SETTINGS, "added_tokens_decoder", to=decoder))
    for template in ([5], [{"name": "a"}], [{"name": 5, "template": "x"}], {"a": 1}):
        of(f"{SETTINGS}: template {template}", changed(SETTINGS, "chat_template", to=template))
    of("a template not UTF-8", {"chat_template.jinja": b"\xff"})
    of("a template of half a surrogate", changed(SETTINGS, "chat_template", to="\ud800"))
    of("generation_config.json is a list", {"generation_config.json": b"[]"})
    of("generation_config.json is broken", {"generation_config.json": b"{"})
    of("a model card not UTF-8", {"README.md": b"---\nlicense: \xff\n---\n"})


CASES: dict[str, Case] = quantized() | nonfinite() | gguf_targets()
