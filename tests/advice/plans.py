"""Rows of messages that say what else would work: of plans, of what a source holds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from quantcli.containers import safetensors
from quantcli.convert.running.held_sources import HeldSources
from tests.advice.inputs import DOWN
from tests.advice.row import Row
from tests.builders import tiny_llama
from tests.tokenizers.ranked import DATA

INTO = "convert {dense} {out}"


def copied(tmp: Path) -> None:
    """A source of the test's own, to be changed while it is read."""
    tiny_llama(tmp / "own")


def changes(patch: pytest.MonkeyPatch, tmp: Path) -> None:
    check = HeldSources.check

    def changed(held: HeldSources) -> None:
        os.utime(tmp / "own" / "model.safetensors", (1, 1))
        check(held)

    patch.setattr(HeldSources, "check", changed)


def with_tekken(tmp: Path) -> None:
    """A folder whose vocabulary is Tekken's, with a chat template of its own."""
    folder = tiny_llama(tmp / "own", vocab_size=630)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    shutil.copy(DATA / "tekken-v7" / "tekken.json", folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")


ROWS = (
    Row(
        "containers/safetensors.py",
        "Use a smaller --shard-size",
        INTO + " -s affine4-g64",
        INTO + " -s affine4-g64 --shard-size 20KB",
        4,
        stays_patched=True,
        patch=lambda patch, tmp: patch.setattr(safetensors, "MAX_HEADER", 3000),
    ),
    Row(
        "convert/planning/settings_file.py",
        "applies all of it, --scheme",
        "convert {beside} {out}",
        (
            "convert {beside} {out2} --recipe {beside}/quantization_config.json",
            "convert {beside} {out3} -s affine4-g32",
        ),
        0,
    ),
    Row(
        "convert/planning/settings_file.py",
        "takes precedence over its default",
        "convert {beside_plain} {out} -s affine4-g32",
        "convert {beside_plain} {out2} --recipe {beside_plain}/quantization_config.json",
        0,
    ),
    Row(
        "convert/planning/coverage.py",
        "--allow-unknown-architecture",
        "convert {unknown} {out} -s affine4-g32",
        ("convert {unknown} {out} -s affine4-g32 --allow-unknown-architecture", "convert {unknown} {out2}"),
        4,
    ),
    Row(
        "models/__init__.py",
        "lists the supported families",
        "convert {unknown} {gguf}",
        ("architectures", "architectures --json"),
        4,
    ),
    Row(
        "tokenizers/tekken.py",
        "sets another",
        "convert {tmp}/own {gguf}",
        "convert {tmp}/own {gguf2} --override-kv tokenizer.chat_template=str:TEXT",
        0,
        before=with_tekken,
    ),
    Row(
        "convert/planning/decide_gguf.py",
        "whose tensors are not",
        "convert {adapter} {gguf} -s q8_0",
        "convert {adapter} {gguf}",
        4,
    ),
    Row(
        "convert/planning/drop.py",
        "part of",
        "convert {tied_head} {out} --drop lm_head.weight",
        "convert {tied_head} {out2}",
        0,
    ),
    Row(
        "convert/planning/dtype_notes.py",
        "keeps every bit",
        "convert {gemma2_q4} {out}",
        "convert {gemma2_q4} {out2} --dtype f32",
        0,
    ),
    Row(
        "convert/planning/dtype_notes.py",
        "but rounds scales",
        "convert {gemma2_q4} {out}",
        "convert {gemma2_q4} {out2} --scale-dtype bf16",
        0,
    ),
    Row(
        "convert/planning/finite.py",
        "Use --allow-nonfinite to",
        "convert {nan} {out}",
        "convert {nan} {out} --allow-nonfinite",
        3,
    ),
    Row(
        "convert/planning/finite.py",
        "keep' to copy",
        "convert {nan} {out} -s affine4-g64",
        f"convert {{nan}} {{out}} -s affine4-g64 --allow-nonfinite --override '{DOWN}=keep'",
        3,
    ),
    Row(
        "convert/planning/model_recipe.py",
        "--scheme applies",
        "convert {deep} {out} --recipe {mlx4}",
        "convert {deep} {out2} --recipe {mlx4} -s affine8-g64",
        0,
    ),
    Row(
        "convert/planning/other_tokenizer.py",
        "the model fails on",
        "convert {gguf_in} {out} --tokenizer {tokenizer_more}",
        "convert {gguf_in} {out2} --tokenizer {dense}",
        0,
    ),
    Row(
        "convert/planning/choose.py",
        "Exclude it",
        "convert {opaque} {gguf} --override '*ffn*=f16'",
        "convert {opaque} {gguf} --override '*ffn*=f16' --override 'blk.0.ffn_down.weight=keep'",
        4,
    ),
    Row(
        "convert/planning/lossless.py",
        "--lossless \0: \0 would",
        "convert {dense32} {out} --dtype f16 --lossless exact",
        ("convert {dense32} {out} --dtype f32 --lossless exact",),
        4,
    ),
    Row(
        "convert/planning/lossless.py",
        "keeps every value exact",
        "convert {dense32} {out} --dtype f16 --lossless exact",
        ("convert {dense32} {out} --dtype f32 --lossless exact",),
        4,
    ),
    Row(
        "convert/planning/lossless.py",
        "--lossless codes allows",
        "convert {nvfp4} {gguf} --lossless exact",
        "convert {nvfp4} {gguf} --lossless codes",
        4,
    ),
    Row(
        "convert/planning/lossless.py",
        "--fallback f32 keeps",
        "convert {mlx6} {gguf} --lossless exact",
        "convert {mlx6} {gguf} --lossless exact --fallback f32",
        4,
    ),
    Row(
        "convert/planning/lossless.py",
        "keeps every scale and bias",
        "convert {awq} {out} --lossless exact",
        "convert {awq} {out} --lossless exact --scale-dtype f32",
        4,
    ),
    Row(
        "convert/planning/plan.py",
        "--strict: \0",
        "convert {odd_split} {gguf} --strict",
        "convert {odd_split} {gguf}",
        4,
    ),
    Row(
        "convert/planning/choose.py",
        "and does not fit",
        "convert {mlx4} {out} --override '*=affine3-g64'",
        "convert {mlx4} {out} --override '*=affine3-g64' --allow-requantize",
        4,
    ),
    Row(
        "convert/planning/choose.py",
        "to round them again",
        "convert {mlx4} {out} -s affine3-g64",
        "convert {mlx4} {out} -s affine3-g64 --allow-requantize",
        4,
    ),
    Row(
        "convert/planning/choose.py",
        "--fallback auto or name",
        "convert {mlx6} {gguf} --fallback none",
        ("convert {mlx6} {gguf} --fallback auto", "convert {mlx6} {gguf2} --fallback q8_0"),
        4,
    ),
    Row(
        "convert/planning/choose.py",
        "cannot be stored in this scheme",
        "convert {mlx6} {gguf} --fallback q4_k",
        "convert {mlx6} {gguf} --fallback q8_0",
        2,
    ),
    Row(
        "convert/planning/reached.py",
        "to round weights again",
        "convert {mlx4} {out} -s affine3-g64 --override lm_head=affine4-g64",
        "convert {mlx4} {out} -s affine3-g64 --override lm_head=affine4-g64 --allow-requantize",
        4,
    ),
    Row(
        "convert/running/held_sources.py",
        "with --force",
        "convert {tmp}/own {out}",
        ("convert {tmp}/own {out} --force",),
        5,
        before=copied,
        patch=changes,
    ),
    Row(
        "convert/inspecting/survey.py",
        "the model has",
        "inspect {dense} --max-bpw 4",
        "inspect {dense} --max-bpw 17",
        1,
    ),
    Row(
        "convert/inspecting/survey.py",
        "the tensors take",
        "inspect {dense} --max-size 4",
        "inspect {dense} --max-size 1GB",
        1,
    ),
    Row(
        "convert/inspecting/survey.py",
        "no weight matches",
        "inspect {dense} --require a=f16",
        "inspect {dense} --require '*=bf16'",
        1,
    ),
    Row(
        "convert/inspecting/survey.py",
        "have another scheme",
        "inspect {dense} --require '*=f16'",
        "inspect {dense} --require '*=bf16'",
        1,
    ),
    Row(
        "convert/planning/weigh.py",
        "pass it with --imatrix",
        "convert {wide} {gguf} -s iq2_xs",
        "convert {wide} {gguf} -s iq2_xs --imatrix {matrix}",
        4,
    ),
    *(
        Row(
            "convert/planning/weigh.py",
            option,
            f"convert {{wide}} {{gguf}} -s q4_k_m {option} iq2_xxs",
            f"convert {{wide}} {{gguf}} -s q4_k_m {option} q4_k",
            4,
        )
        for option in ("--token-embedding-type", "--output-tensor-type")
    ),
    *(
        Row(
            "convert/planning/weigh.py",
            option,
            f"convert {{wide}} {{gguf}} --imatrix {{matrix}} {option} nothing",
            f"convert {{wide}} {{gguf2}} --imatrix {{matrix}} {option} attn",
            0,
        )
        for option in ("--include-weights", "--exclude-weights")
    ),
    Row(
        "convert/planning/weigh.py",
        "Use a matrix that has this entry",
        "convert {wide} {gguf} -s iq2_xs --imatrix {poor_matrix}",
        "convert {wide} {gguf} -s iq2_xs --imatrix {poor_matrix} --override 'blk.0.ffn_down.weight=q4_k'",
        4,
    ),
)
