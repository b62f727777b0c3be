"""Tensors that models compute, and scales of what is quantized while they run, are told from weights."""

from __future__ import annotations

import pytest

from quantcli.models import FAMILIES
from quantcli.models.leftovers import ACTIVATIONS, CACHE, FREQUENCIES, MASK, POSITIONS, is_for_prediction, leftover

LAYER = "model.layers.3"

#: Name, shape, dtype, reason: in any checkpoint.
COMPUTED = [
    (f"{LAYER}.self_attn.rotary_emb.inv_freq", (64,), "f32", FREQUENCIES),
    (f"{LAYER}.self_attn.rotary_emb.inv_freq", (64,), "bf16", FREQUENCIES),
    ("model.rotary_emb.original_inv_freq", (64,), "f32", FREQUENCIES),
    ("model.rotary_emb.full_attention_inv_freq", (64,), "f32", FREQUENCIES),
    (f"{LAYER}.attention.rotary_embed.inv_freq", (16,), "f16", FREQUENCIES),
    (f"{LAYER}.attention.rope.inv_freq", (16,), "f16", FREQUENCIES),
    ("transformer.rotary_pos_emb.inv_freq", (32,), "f16", FREQUENCIES),
    ("rotary.inverse_frequencies", (32,), "f64", FREQUENCIES),
    ("inv_freq", (32,), "f32", FREQUENCIES),
    ("rope.freqs", (64,), "bf16", FREQUENCIES),
    (f"{LAYER}.self_attn.rotary_emb.cos_cached", (1, 1, 2048, 128), "f16", FREQUENCIES),
    (f"{LAYER}.self_attn.rotary_emb.sin_cached", (2048, 128), "f32", FREQUENCIES),
    (f"{LAYER}.self_attn.rotary_emb.cos_sin_cache", (2048, 128), "f32", FREQUENCIES),
    ("freqs_cis", (2048, 64), "c64", FREQUENCIES),
    ("bert.embeddings.position_ids", (1, 512), "i64", POSITIONS),
    ("vision_model.embeddings.position_ids", (577,), "i64", POSITIONS),
    ("text_model.embeddings.position_ids", (1, 77), "f32", POSITIONS),
    ("gpt_neox.layers.3.attention.masked_bias", (), "f32", MASK),
    ("transformer.h.3.attn.masked_bias", (1,), "f16", MASK),
    ("gpt_neox.layers.3.attention.bias", (1, 1, 2048, 2048), "bool", MASK),
    ("transformer.h.3.attn.bias", (1, 1, 1024, 1024), "f32", MASK),
    ("transformer.h.3.attn.attention.bias", (1, 1, 2048, 2048), "u8", MASK),
    (f"{LAYER}.self_attn.k_scale", (1,), "bf16", CACHE),
    (f"{LAYER}.self_attn.v_scale", (), "f32", CACHE),
    (f"{LAYER}.self_attn.kv_scale", (1,), "f32", CACHE),
    (f"{LAYER}.self_attn.k_proj.k_scale", (), "f32", CACHE),
    (f"{LAYER}.self_attn.v_proj.v_scale", (1,), "f32", CACHE),
    (f"{LAYER}.self_attn.qkv_proj.v_scale", (1,), "f32", CACHE),
    (f"{LAYER}.self_attn.attn.q_scale", (1,), "f32", CACHE),
    (f"{LAYER}.self_attn.prob_output_scale", (1,), "f32", CACHE),
    (f"{LAYER}.self_attn.kv_cache.k_scale", (1,), "f32", CACHE),
    (f"{LAYER}.mixer.k_proj.k_scale", (1,), "f32", CACHE),
    (f"{LAYER}.self_attn.k_zero_point", (1,), "i8", CACHE),
]

#: The same, in the checkpoints of quantizers only.
OF_QUANTIZERS = [
    (f"{LAYER}.self_attn.k_scale", (8, 1, 1), "bf16", CACHE),
    (f"{LAYER}.self_attn.k_scale", (1024,), "f32", CACHE),
    (f"{LAYER}.self_attn.k_global_scale", (8,), "f32", CACHE),
    (f"{LAYER}.self_attn.k_proj.output_scale", (1,), "f32", CACHE),
    (f"{LAYER}.self_attn.v_proj.output_zero_point", (1,), "i8", CACHE),
    (f"{LAYER}.self_attn.k_proj.k_bias", (1024,), "bf16", CACHE),
    (f"{LAYER}.self_attn.k_bmm_quantizer._amax", (), "f32", CACHE),
    ("lm_head.input_scale", (1,), "f32", ACTIVATIONS),
    (f"{LAYER}.mlp.up_proj.input_quantizer._amax", (), "f32", ACTIVATIONS),
]

#: What is a weight for all that is known: another shape, dtype or module.
WEIGHTS = [
    (f"{LAYER}.self_attn.rotary_emb.inv_freq", (64, 64), "f32"),
    (f"{LAYER}.self_attn.rotary_emb.inv_freq", (64,), "i32"),
    ("model.freqs", (64,), "f32"),
    (f"{LAYER}.mixer.freqs", (64,), "f32"),
    (f"{LAYER}.self_attn.cos", (64, 64), "f32"),
    (f"{LAYER}.self_attn.k_scale", (8, 128), "f32"),
    (f"{LAYER}.mlp.k_scale", (1,), "f32"),
    (f"{LAYER}.self_attn.scale", (1,), "f32"),
    (f"{LAYER}.self_attn.logit_scale", (1,), "f32"),
    (f"{LAYER}.self_attn.k_proj.scale", (1,), "f32"),
    (f"{LAYER}.self_attn.k_norm.weight", (1,), "f32"),
    (f"{LAYER}.attn.bias", (64,), "f32"),
    (f"{LAYER}.attn.bias", (64, 64), "f32"),
    (f"{LAYER}.attn.bias", (1, 8, 64, 64), "f32"),
    (f"{LAYER}.attn.bias", (1, 1, 64, 32), "bool"),
    (f"{LAYER}.attn.relative_bias", (1, 1, 64, 64), "f32"),
    ("embeddings.position_ids", (2, 512), "i64"),
    ("embeddings.position_ids.weight", (1, 512), "i64"),
    ("embeddings.position_embeddings.weight", (512, 64), "f32"),
    ("model.upscale.mask", (8, 8), "u8"),
    ("model.masked_bias", (64,), "f32"),
    (f"{'a.' * 400}inv_freq", (64,), "f32"),
]


@pytest.mark.parametrize(("name", "shape", "dtype", "reason"), COMPUTED)
@pytest.mark.parametrize("is_quantized", [True, False])
def test_buffers_and_single_scales(
    name: str, shape: tuple[int, ...], dtype: str, reason: str, is_quantized: bool
) -> None:
    found = leftover(name, shape, dtype, is_quantized=is_quantized)
    assert found is not None and found.reason == reason


@pytest.mark.parametrize(("name", "shape", "dtype", "reason"), OF_QUANTIZERS)
def test_what_only_quantizers_write(name: str, shape: tuple[int, ...], dtype: str, reason: str) -> None:
    found = leftover(name, shape, dtype, is_quantized=True)
    assert found is not None and found.reason == reason
    assert leftover(name, shape, dtype, is_quantized=False) is None


@pytest.mark.parametrize(("name", "shape", "dtype"), WEIGHTS)
def test_weights(name: str, shape: tuple[int, ...], dtype: str) -> None:
    assert leftover(name, shape, dtype, is_quantized=True) is None


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_tensor_of_a_family_is_called_so(family: object) -> None:
    """Whatever its shape: the tables win, and have to win nothing."""
    for row in family.tensors:  # type: ignore[attr-defined]
        for pattern in (row.hf, row.mlx or row.hf):
            for suffix in row.suffixes:
                name = f"{pattern}.{suffix}".removesuffix(".").replace("{i}", "3").replace("{e}", "5")
                for shape in ((), (1,), (64,), (64, 64), (4, 64, 64), (1, 1, 64, 64)):
                    for dtype in ("bf16", "f32", "u8", "i64", "bool"):
                        assert leftover(name, shape, dtype, is_quantized=True) is None, (name, shape, dtype)


PREDICTION = [
    "mtp.fc.weight",
    "mtp.layers.0.mlp.up_proj.weight",
    "model.mtp.layers.0.eh_proj.weight",
    "model.mtp_layers.0.input_proj.weight",
    "model.mtp_block.0.mlp.up_proj.weight",
    "model.mtp_emb_norm.0.weight",
    "language_model.mtp.norm.weight",
    "model.layers.3.mtp_block.mlp.up_proj.weight",
    "model.nextn.eh_proj.weight",
]


@pytest.mark.parametrize("name", PREDICTION)
def test_modules_for_multi_token_prediction(name: str) -> None:
    assert is_for_prediction(name)


@pytest.mark.parametrize("name", ["model.mtpx.weight", "model.smtp.weight", "mtp", "model.layers.3.mlp.up_proj.weight"])
def test_other_modules(name: str) -> None:
    assert not is_for_prediction(name)
