"""Rows of messages that say how an option is used: its form, its values, what it goes with."""

from __future__ import annotations

from pathlib import Path

from quantcli.targets import gguf_split
from tests.advice.row import Row

INTO = "convert {dense} {out}"
INTO_GGUF = "convert {dense} {gguf}"
WIDE = "convert {wide} {gguf}"
FROM_GGUF = "convert {gguf_in} {gguf}"

#: Options of `convert` that only a GGUF output has: what the command gets.
GGUF_ONLY = {
    "--pure": "--pure -s q8_0",
    "--leave-output-tensor": "--leave-output-tensor -s q8_0",
    "--output-tensor-type": "--output-tensor-type q8_0 -s q8_0",
    "--token-embedding-type": "--token-embedding-type q8_0 -s q8_0",
    "--tensor-type": "--tensor-type attn_v=f16 -s q8_0",
    "--imatrix": "--imatrix {matrix} -s q8_0",
    "--include-weights": "--include-weights attn -s q8_0 --imatrix {matrix}",
    "--exclude-weights": "--exclude-weights attn -s q8_0 --imatrix {matrix}",
    "--override-kv": "--override-kv a.b=int:1",
}
#: Options of `inspect` that an importance matrix has no answer to.
NOT_OF_MATRIX = {
    "--rules": "",
    "--recipe": "{dense}/config.json",
    "--override": "a=f16",
    "--max-bpw": "5",
    "--max-size": "5",
    "--require": "a=f16",
    "--metadata": "",
    "--as-recipe": "",
}


def _large_file(tmp: Path) -> None:
    (tmp / "types.txt").write_bytes(b"a=q8_0 " * (1 << 18))


ROWS = (
    Row("cli/convert.py", "--resume and --force cannot", INTO + " --resume --force", (INTO + " --force",)),
    Row("cli/convert.py", "--shard-size", INTO + " --shard-size 1XB", INTO + " --shard-size 1MB"),
    Row(
        "cli/diff.py",
        "expected a number of at least 0",
        "diff {dense} {dense} --max-rmse=-1",
        "diff {dense} {dense} --max-rmse 0.05",
    ),
    Row("cli/diff.py", "--max-rmse", "diff {dense} {q8} --max-rmse 0", "diff {dense} {q8} --max-rmse 1", 1),
    Row("cli/diff.py", "--strict", "diff {dense} {q8} --strict", "diff {dense} {q8}", 1),
    Row(
        "cli/inspection.py", "expected a number above 0", "inspect {dense} --max-bpw 0", "inspect {dense} --max-bpw 17"
    ),
    Row(
        "cli/inspection.py",
        "--metadata prints no",
        "inspect {dense} --metadata --filter a",
        "inspect {dense} --metadata",
    ),
    Row(
        "cli/inspection.py", "--as-recipe prints", "inspect {dense} --as-recipe --rules", "inspect {dense} --as-recipe"
    ),
    Row("cli/inspection.py", "--max-size", "inspect {dense} --max-size 1XB", "inspect {dense} --max-size 1MB"),
    *(
        Row("cli/inspection.py", name, f"inspect {{matrix}} {name} {word}", "inspect {matrix}")
        for name, word in NOT_OF_MATRIX.items()
    ),
    Row("cli/inspection.py", "no weight matches", "inspect {dense} --filter a", "inspect {dense} --filter '*'"),
    Row(
        "cli/inspection.py", "expected GLOB=SCHEME", "inspect {dense} --require a", "inspect {dense} --require '*=bf16'"
    ),
    Row(
        "cli/inspection.py", "=--require \0: \0.", "inspect {dense} --require a=b", "inspect {dense} --require '*=bf16'"
    ),
    Row("cli/options.py", "=--max-memory", INTO + " --max-memory all", INTO + " --max-memory 100MB"),
    Row("cli/options.py", "--threads: expected", INTO + " --threads 0", INTO + " --threads 1"),
    Row("cli/options.py", "--max-memory: expected", INTO + " --max-memory 1KB", INTO + " --max-memory 100MB"),
    Row(
        "containers/imatrix.py",
        "cannot be used together",
        WIDE + " --imatrix {matrix} --include-weights a --exclude-weights b",
        (WIDE + " --imatrix {matrix} --include-weights attn", WIDE + "2 --imatrix {matrix} --exclude-weights b"),
    ),
    Row(
        "convert/comparing/compare.py",
        "no weight of A or B",
        "diff {dense} {q8} --filter a",
        "diff {dense} {q8} --filter '*'",
    ),
    Row(
        "convert/planning/decide.py",
        "a mixture of mlx-lm applies",
        INTO + " -s mixed_3_4 --to hf",
        INTO + " -s mixed_3_4",
    ),
    Row("convert/planning/decide.py", "mlx-lm's mixtures are", INTO + " -s best", INTO + " -s mixed_3_4"),
    Row("convert/planning/decide.py", "Leave out --bits", INTO + " -s mixed_3_4 --bits 4", INTO + " -s mixed_3_4"),
    Row("convert/planning/decide_gguf.py", "requires --scheme", INTO_GGUF + " --pure", INTO_GGUF + " --pure -s q8_0"),
    *(
        Row(
            "convert/planning/decide_gguf.py",
            name,
            f"{INTO_GGUF} -s q8_0 {name} best",
            f"{INTO_GGUF} -s q8_0 {name} f16",
        )
        for name in ("--output-tensor-type", "--token-embedding-type")
    ),
    Row("convert/planning/drop.py", "expected a glob", f"{INTO} --drop {'x' * 9999}", INTO + " --drop '*.inv_freq'"),
    Row(
        "convert/planning/gguf_options.py",
        "expected KEY=TYPE:VALUE",
        INTO_GGUF + " --override-kv a",
        (
            INTO_GGUF + " --override-kv general.name=str:mine",
            INTO_GGUF + "2 --override-kv tokenizer.chat_template=str:@{dense}/config.json",
        ),
    ),
    Row(
        "convert/planning/gguf_options.py",
        "=--override-kv \0: \0.",
        INTO_GGUF + " --override-kv a",
        INTO_GGUF + " --override-kv a=int:1",
    ),
    Row(
        "convert/planning/gguf_options.py",
        "describes the file's layout",
        FROM_GGUF + " --override-kv split.count=int:2",
        (FROM_GGUF, FROM_GGUF + "2 --shard-size 60KB", "convert {split} {gguf3} --keep-split"),
    ),
    Row(
        "convert/planning/gguf_options.py",
        "expected a printable key",
        FROM_GGUF + " --override-kv 'a=int:2'",
        FROM_GGUF,
    ),
    Row(
        "convert/planning/gguf_options.py",
        "value in GGUF",
        FROM_GGUF + " --override-kv a=int:b",
        FROM_GGUF + " --override-kv a=int:2",
    ),
    Row(
        "convert/planning/gguf_options.py",
        "the limit for a file",
        FROM_GGUF + " -s q8_0 --tensor-type-file {tmp}/types.txt",
        FROM_GGUF + " -s q8_0 --tensor-type attn_v=q8_0",
        3,
        before=_large_file,
    ),
    Row(
        "convert/planning/other_tokenizer.py",
        "the tokenizer is copied",
        FROM_GGUF + " --tokenizer {dense}",
        ("convert {gguf_in} {out} --to hf --tokenizer {dense}", "convert {out} {gguf2}"),
    ),
    Row(
        "convert/planning/other_tokenizer.py",
        "is not a folder",
        INTO + " --tokenizer {gguf_in}",
        INTO + " --tokenizer {wide}",
    ),
    Row(
        "convert/planning/other_tokenizer.py",
        "has no tokenizer files",
        INTO + " --tokenizer {tmp}",
        INTO + " --tokenizer {wide}",
        3,
    ),
    Row(
        "convert/planning/other_tokenizer.py",
        "Use the model's own",
        INTO + " --tokenizer {tokenizer_97}",
        INTO + " --tokenizer {wide}",
        3,
    ),
    Row(
        "convert/planning/plan.py",
        "expected auto, none",
        INTO + " --fallback best",
        (INTO + " --fallback auto", INTO + "2 --fallback none"),
    ),
    Row(
        "convert/planning/plan.py",
        "Choose a scheme with -s",
        INTO + " --to hf --fallback int4-g32",
        INTO + " --to hf -s int4-g32",
    ),
    *(
        Row("convert/planning/request.py", n, f"{INTO} {o.split(' -s')[0]}", f"{WIDE} {o}")
        for n, o in GGUF_ONLY.items()
    ),
    Row(
        "convert/planning/request.py",
        "--prune-layers",
        "convert {gguf_in} {out} --prune-layers 1",
        FROM_GGUF + " --prune-layers 1",
    ),
    Row(
        "convert/planning/request.py",
        "--keep-split",
        "convert {split} {out} --keep-split",
        "convert {split} {gguf} --keep-split",
    ),
    Row(
        "convert/planning/request.py",
        "--search \0 applies only",
        INTO + " --search best",
        INTO_GGUF + " -s q4_0 --search best",
    ),
    Row(
        "convert/planning/request.py",
        "--keep-split and --shard-size",
        "convert {split} {gguf} --keep-split --shard-size 1MB",
        ("convert {split} {gguf} --keep-split", "convert {split} {gguf2} --shard-size 1MB"),
    ),
    Row(
        "convert/planning/request.py",
        "--scale-dtype applies",
        INTO_GGUF + " --scale-dtype f32",
        INTO + " --scale-dtype f32",
    ),
    Row(
        "convert/planning/request.py",
        "--bits, --group-size and --mode",
        INTO_GGUF + " --bits 4",
        (INTO + " --bits 4 --group-size 32 --mode affine", INTO_GGUF + " --scheme q4_0"),
    ),
    Row("convert/planning/request.py", "--to \0: OUTPUT is", INTO + " --to gguf", INTO_GGUF + " --to gguf"),
    Row(
        "convert/planning/weigh.py",
        "require --imatrix",
        WIDE + " --include-weights a",
        WIDE + " --include-weights a --imatrix {matrix}",
    ),
    Row(
        "recipes/llama_cpp.py",
        "is not REGEX=TYPE",
        INTO_GGUF + " -s q8_0 --tensor-type a",
        INTO_GGUF + " -s q8_0 --tensor-type attn_v=q8_0",
    ),
    Row(
        "recipes/llama_cpp.py",
        "=--tensor-type \0",
        INTO_GGUF + " -s q8_0 --tensor-type a=b",
        INTO_GGUF + " -s q8_0 --tensor-type attn_v=q8_0",
    ),
    Row(
        "recipes/mixtures.py",
        "Supported: --group-size 32",
        INTO + " -s mixed_3_4 --group-size 7",
        INTO + " -s mixed_3_4 --group-size 32",
    ),
    Row("recipes/names.py", "--mode \0 with", INTO + " --mode affine --bits 7", INTO + " --mode affine --bits 4"),
    *(
        Row("recipes/overrides.py", part, f"{INTO} --override {given}", INTO + " --override '*.down_proj=affine8-g64'")
        for part, given in {
            "Use --override GLOB=SCHEME": "a",
            "is not GLOB=SCHEME": "a",
            "the glob has": f"{'a' * 9999}=f16",
            "=--override \0: \0. \0.": "a=b",
        }.items()
    ),
    Row("recipes/prune.py", "expected layer numbers", FROM_GGUF + " --prune-layers a", FROM_GGUF + " --prune-layers 1"),
    Row("recipes/prune.py", "no such layer", FROM_GGUF + " --prune-layers 9", FROM_GGUF + " --prune-layers 1"),
    Row("recipes/prune.py", "every layer", FROM_GGUF + " --prune-layers 0,1", FROM_GGUF + " --prune-layers 1"),
    Row("sources/resolve.py", "is a local path", "inspect {dense} --revision main", "inspect {dense}"),
    Row(
        "targets/gguf.py",
        "--prune-layers: applies only to GGUF",
        INTO_GGUF + " --prune-layers 1",
        (INTO_GGUF + "2", "convert {gguf2} {gguf} --prune-layers 1"),
        4,
    ),
    Row(
        "targets/gguf.py",
        "--keep-split: applies only",
        INTO_GGUF + " --keep-split",
        INTO_GGUF + " --shard-size 60KB",
        4,
    ),
    Row(
        "targets/gguf_overrides.py",
        "\0 is \0. \0",
        FROM_GGUF + " --override-kv llama.block_count=str:2",
        FROM_GGUF + " --override-kv llama.block_count=int:2",
    ),
    Row(
        "targets/gguf_overrides.py",
        "the range of",
        FROM_GGUF + " --override-kv llama.block_count=int:-2",
        FROM_GGUF + " --override-kv llama.block_count=int:2",
    ),
    Row(
        "targets/gguf_overrides.py",
        "=--override-kv \0",
        FROM_GGUF + " --override-kv a=int:",
        FROM_GGUF + " --override-kv a=int:2",
    ),
    Row(
        "targets/gguf_split.py",
        "Choose a larger size",
        INTO_GGUF + " --shard-size 1KB",
        INTO_GGUF + " --shard-size 60KB",
        4,
        patch=lambda patch, tmp: patch.setattr(gguf_split, "MAX_PARTS", 3),
    ),
)

#: Those of the Hub, in which org/model is: its revisions are main and v1.
HUB_ROWS = (
    Row(
        "sources/hub.py",
        "is not the name of a branch",
        "inspect org/model --revision ../x",
        "inspect org/model --revision v1",
    ),
    Row(
        "sources/hub.py",
        "Use one of them",
        "inspect org/model@v1 --revision main",
        ("inspect org/model@v1", "inspect org/model --revision main"),
    ),
    Row(
        "sources/hub_errors.py",
        "Check --revision",
        "inspect org/model --revision v2",
        "inspect org/model --revision v1",
        5,
    ),
)
