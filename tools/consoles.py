"""The `console` blocks of README.md and docs/: each command is run, and what it prints is written below it.

`python -m tools.consoles` rewrites the blocks in place; tests/test_docs.py compares them. A block holds lines that
begin with `$ `, each followed by what the command writes to stdout. Only two programs may stand there: `quant`, and
`echo $?` below a command whose exit code is not 0. The blocks of a document share an empty folder that has `examples`
in it, and run in order.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

from quantcli.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
EXIT_CODE = "echo $?"


def documents() -> list[Path]:
    """Return README.md and all of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(block: str) -> list[str]:
    """Return the command lines of a block, without `$ `."""
    return re.findall(r"^\$ (.*)$", block, re.MULTILINE)


def rewritten(text: str, folder: Path) -> str:
    """Return a document with what the commands of its blocks print when they run in this folder.

    Raises AssertionError for another program, and for an exit code other than 0 that `echo $?` does not show.
    """
    (folder / "examples").symlink_to(ROOT / "examples")
    with contextlib.chdir(folder):
        return BLOCK.sub(lambda match: "".join(_printed(commands(match[0]))), text)


def _printed(lines: list[str]) -> Iterator[str]:
    """Yield the text of each command of a block with its output."""
    code, previous = 0, ""
    for line in lines:
        if line == EXIT_CODE:
            output, code = f"{code}\n", 0
        else:
            assert code == 0, f"{previous}: exit code {code}, and `$ {EXIT_CODE}` does not follow"
            output, code = _run(line)
        previous = line
        yield f"$ {line}\n{output}"
    assert code == 0, f"{previous}: exit code {code}, and `$ {EXIT_CODE}` does not follow"


def _run(line: str) -> tuple[str, int]:
    """Run a `quant` command in this process; return what it writes to stdout, and its exit code."""
    program, *arguments = shlex.split(line)
    assert program == "quant", f"{line}: a console block runs quant only"
    result = CliRunner().invoke(app, arguments)
    return result.stdout, result.exit_code


def main() -> None:
    """Rewrite the console blocks of every document that has some."""
    for path in documents():
        text = path.read_text()
        if BLOCK.search(text):
            with tempfile.TemporaryDirectory() as folder:
                new = rewritten(text, Path(folder))
            path.write_text(new)
            print(f"{path.relative_to(ROOT)}: {'unchanged' if new == text else 'rewritten'}")


if __name__ == "__main__":
    main()
