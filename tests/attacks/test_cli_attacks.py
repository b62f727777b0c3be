"""Malformed inputs through the command line: one sentence, the right exit code, nothing left behind, bounded memory."""

import gc
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quantcli.cli.app import app
from tests.attacks import malformed_files, malformed_models
from tests.attacks.cases import Case, sound
from tests.explained import known, unexplained

CASES = malformed_files.CASES | malformed_models.CASES

#: What all cases together may add to this process, in bytes.
MEMORY = 300 << 20


def written(case: Case, root: Path) -> Path:
    """The case's files on disk; the path to give as SOURCE."""
    folder = root / "m"
    folder.mkdir()
    for name, data in {**sound(case.base), **case.files}.items():
        if data is not None:
            (folder / name).write_bytes(data)
    return folder / case.source if case.source else folder


def invoked(*args: str) -> Any:
    return CliRunner().invoke(app, list(args))


def check(result: Any, code: int) -> None:
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    *before, last = result.stderr.splitlines()
    assert all(line.startswith(("warning: ", "compiling ")) for line in before), result.stderr
    assert last.startswith("error: ") and last.rstrip().endswith((".", ")")), result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""
    assert len(last) < 1500 and last.isprintable()
    assert unexplained(result.stderr) == []


def peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@pytest.fixture(scope="module", autouse=True)
def bounded_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All cases run in one process; its peak is that of sound conversions, give or take."""
    for base in ("dense", "mlx", "awq"):
        root = tmp_path_factory.mktemp(base)
        source = str(written(Case({}, base=base), root))
        for args in (("out",), ("hf", "--to", "hf"), ("out.gguf",)):
            result = invoked("convert", source, str(root / args[0]), *args[1:], "-q")
            assert result.exit_code == 0, result.stderr
    known()
    gc.collect()
    before = peak()
    yield
    assert peak() - before < MEMORY


@pytest.mark.parametrize("what", CASES)
def test_refused(what: str, tmp_path: Path) -> None:
    case = CASES[what]
    source = str(written(case, tmp_path))
    output = tmp_path / case.output
    result = invoked("convert", source, str(output), *case.options)
    check(result, case.code)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    inspected = invoked("inspect", source)
    wanted = case.code if case.inspect is None else case.inspect
    if wanted:
        check(inspected, wanted)
    else:
        assert inspected.exit_code == 0, inspected.stderr


def test_there_are_enough_of_them() -> None:
    assert len(CASES) == len(malformed_files.CASES) + len(malformed_models.CASES) >= 200
