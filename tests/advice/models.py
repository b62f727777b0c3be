"""Rows of messages that say what a source lacks or holds, and what a target has no place for."""

from __future__ import annotations

from tests.advice.inputs import DOWN
from tests.advice.row import Row

INTO = "convert {dense} {out}"
ACTORDER = "convert {actorder} {out} --to hf --allow-unknown-architecture"

ROWS = (
    Row("models/agreement.py", "It is stored", f"convert {{dense}} {{out}} --drop '{DOWN}'", INTO, 3),
    Row(
        "models/agreement.py",
        "Leave fewer",
        "convert {fused_qkv} {out} --drop '*attn_qkv*'",
        "convert {fused_qkv} {out}",
        3,
    ),
    Row(
        "models/round_trip.py",
        "which keeps such",
        "convert {own_gelu} {gguf}",
        ("convert {own_gelu} {out} --to hf", "convert {own_gelu} {out2} --to mlx"),
        4,
    ),
    Row(
        "recipes/llama_cpp.py",
        "matches no tensor",
        "convert {dense} {gguf} -s q8_0 --tensor-type nothing=q4_0",
        "convert {dense} {gguf2} -s q8_0 --tensor-type attn_v=q4_0",
        0,
    ),
    Row(
        "recipes/llama_cpp_mixture.py",
        "or give --pure",
        "convert {experts} {gguf} -s q4_k_m",
        "convert {experts} {gguf} -s q4_k_m --pure",
        3,
    ),
    Row(
        "recipes/llama_cpp_tensors.py",
        "give it one with",
        "convert {dense} {gguf} -s q1_0",
        "convert {dense} {gguf} -s q1_0 --tensor-type .=q4_0",
        4,
    ),
    Row(
        "recipes/mixtures.py",
        "need layers called",
        "convert {gpt_neox} {out} -s mixed_3_4",
        "convert {gpt_neox} {out} --scheme affine4-g64",
        4,
    ),
    Row(
        "recipes/prune_keys.py",
        "names layers of",
        "convert {named_layers} {gguf} --prune-layers 1",
        "convert {named_layers} {gguf2}",
        0,
    ),
    Row(
        "recipes/prune_keys.py",
        "as many values",
        "convert {lists} {gguf} --prune-layers 1",
        "convert {lists} {gguf2}",
        0,
    ),
    Row(
        "recipes/prune_keys.py",
        "in that pattern",
        "convert {periods} {gguf} --prune-layers 1",
        "convert {periods} {gguf2}",
        0,
    ),
    Row(
        "targets/disagreements.py",
        "Fix the setting",
        "convert {denied} {gguf}",
        ("convert {denied} {out} --to hf", "convert {denied} {out2} --to mlx"),
        4,
    ),
    Row(
        "targets/folder_dtype.py",
        "--dtype",
        "convert {gemma2} {out} --dtype f16",
        "convert {gemma2} {out2} --dtype f32",
        0,
    ),
    Row(
        "targets/folder_dtype.py",
        "--scheme",
        "convert {gemma2} {out} --scheme f16",
        "convert {gemma2} {out2} --scheme bf16",
        0,
    ),
    Row(
        "targets/folder_dtype.py",
        "converts to these",
        "convert {gemma2_f16} {out} --to hf",
        ("convert {gemma2_f16} {out2} --to hf --dtype bf16", "convert {gemma2_f16} {out3} --to hf --dtype f32"),
        0,
    ),
    Row(
        "targets/gguf_from_gguf.py",
        "which are not cut",
        "convert {per_layer} {gguf} --prune-layers 1",
        "convert {per_layer} {gguf}",
        4,
    ),
    Row(
        "targets/gguf_overrides.py",
        "writes its value as",
        "convert {odd_types} {gguf}",
        "convert {odd_types} {gguf2} --override-kv 'tokenizer.ggml.token_type=int:'",
        0,
    ),
    Row(
        "targets/gguf_overrides.py",
        "a new key is",
        "convert {gguf_in} {gguf} --override-kv a.b=int:-2",
        "convert {gguf_in} {gguf2} --override-kv a.b=int:2",
        0,
    ),
    Row(
        "targets/gguf_overrides.py",
        "sets the model's own",
        "convert {no_pre} {gguf}",
        "convert {no_pre} {gguf2} --override-kv tokenizer.ggml.pre=str:llama-bpe",
        0,
    ),
    Row(
        "targets/hf_quantized.py",
        "one folder has",
        "convert {dense} {out} --to hf -s nf4-g64 --override '*.o_proj=int4-g32'",
        (
            "convert {dense} {out} --to hf -s nf4-g64 --override '*.o_proj=bf16'",
            "convert {dense} {out2} --to hf -s nf4-g64 --override '*.o_proj=nf4-g64'",
        ),
        4,
    ),
    Row(
        "targets/hf_quantized.py",
        "cannot stand beside",
        f"{ACTORDER} -s int4-g32 --allow-requantize --override '*k_proj*=keep'",
        (ACTORDER, ACTORDER.replace("{out}", "{out2}") + " -s int4-g32 --allow-requantize"),
        4,
    ),
    Row(
        "targets/mlx.py",
        "make them one",
        "convert {dense} {out} -s affine4-g64 --scale-dtype f16",
        (
            "convert {dense} {out2} -s affine4-g64 --scale-dtype bf16",
            "convert {dense} {out3} -s affine4-g64 --scale-dtype f16 --dtype f16",
        ),
        0,
    ),
    Row("targets/names.py", "(--to hf)", "convert {stray} {out}", "convert {stray} {out} --to hf", 4),
    Row(
        "targets/names.py",
        "--drop '\0'",
        "convert {stray} {out}",
        "convert {stray} {out} --drop 'model.strange.weight'",
        4,
    ),
    Row(
        "targets/names.py",
        "=--drop GLOB",
        "convert {odd_name} {out}",
        "convert {odd_name} {out} --drop 'model.strange*'",
        4,
    ),
    Row("targets/tied.py", "Do not leave it", "convert {dense} {out} --drop lm_head.weight", INTO, 3),
    Row("targets/tied.py", "which keeps it", "convert {gemma_head} {gguf}", "convert {gemma_head} {out} --to hf", 4),
    Row(
        "tokenizers/__init__.py",
        "sets another name",
        "convert {odd_split} {gguf}",
        "convert {odd_split} {gguf2} --override-kv tokenizer.ggml.pre=str:gpt-2",
        0,
    ),
    Row(
        "tokenizers/rebuild.py",
        "of which no",
        "convert {odd_model} {out}",
        "convert {odd_model} {out} --tokenizer {dense}",
        4,
    ),
    Row(
        "tokenizers/rebuild.py",
        "a pre-tokenizer that",
        "convert {odd_pre} {out}",
        "convert {odd_pre} {out} --tokenizer {dense}",
        4,
    ),
    Row(
        "tokenizers/stored.py",
        "most models have",
        "convert {no_pre} {out}",
        "convert {no_pre} {out2} --tokenizer {dense}",
        0,
    ),
)
