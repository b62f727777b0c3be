"""Texts that name an option and are no messages: why a weight has its scheme, tables, what never leaves the package."""

from __future__ import annotations

from tests.advice.row import HOLE, Site, is_in

REASON = "a decision's reason, which is printed and advises nothing"
TABLE = "options by which a warning that is a row, or advises nothing, is put together"
INTERNAL = "not reached by any command: refused before, or no layout leads there"

#: The examples of the help, which tests/cli/test_help.py runs.
EXAMPLES = "cli/examples.py"

#: (module, text as rows have it) -> why it is no message.
ENTRIES: dict[tuple[str, str], str] = {
    ("cli/convert.py", "of the scheme (mlx-lm's --q-"): "a help text that names an option of mlx-lm",
    ("convert/planning/decide.py", f"=--scheme {HOLE}"): REASON,
    ("convert/planning/decide.py", "--bits, --group-size, --mode"): REASON,
    ("convert/planning/drop.py", f"=--drop {HOLE}"): REASON,
    ("convert/planning/lossless.py", f"{HOLE} can store this weight exactly. Use --override"): INTERNAL,
    **{
        ("recipes/llama_cpp.py", option): TABLE
        for option in (
            "--pure", "--leave-output-tensor", "--output-tensor-type", "--token-embedding-type", "--tensor-type",
        )
    },
    **{
        ("recipes/llama_cpp.py", f"={option} {HOLE}"): REASON
        for option in ("--pure", "--token-embedding-type", "--output-tensor-type")
    },
    ("recipes/llama_cpp.py", f"=--output-tensor-type {HOLE}, tied"): REASON,
    ("recipes/llama_cpp.py", "is not a mixture"): INTERNAL,
    ("recipes/mixtures.py", f"=--scheme {HOLE}"): REASON,
    ("recipes/overrides.py", "--override"): REASON,
    ("recipes/overrides.py", f"=--override {HOLE}={HOLE}"): REASON,
    ("schemes/ggml/iq.py", "requires an importance matrix"): INTERNAL,
    ("targets/gguf.py", "Convert to a folder (--to hf)"): INTERNAL,
}  # fmt: skip


def is_of(entry: tuple[str, str], site: Site) -> bool:
    return entry[0] == site.module and is_in(entry[1], site.text)


def is_silent(site: Site) -> bool:
    return site.module == EXAMPLES or any(is_of(entry, site) for entry in ENTRIES)
