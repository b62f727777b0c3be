"""That machine code is kept in a folder of its own for every version of the kernels' sources."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import quantcli

PACKAGE = Path(quantcli.__file__).parent
NESTED = Path("kernels/ggml/k_quants/search.py")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with a copy of the package."""
    shutil.copytree(PACKAGE, tmp_path / "quantcli", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def cache_folder(copied: Path) -> str:
    """The name of the folder in which the copy keeps its machine code, asked of a process of its own."""
    code = "import quantcli.kernels.compile as c; print(c.__file__, c.cache_folder().name, sep='\\n')"
    where = {"PYTHONPATH": str(copied), "NUMBA_CACHE_DIR": str(copied / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | where, cwd=copied, capture_output=True, text=True, check=True
    )
    module, name = run.stdout.splitlines()
    assert Path(module).is_relative_to(copied)
    return name


def test_a_changed_kernel_in_a_sub_folder_has_another_cache_folder(copied: Path) -> None:
    before = cache_folder(copied)
    assert cache_folder(copied) == before
    nested = copied / "quantcli" / NESTED
    nested.write_text(nested.read_text() + "\n# another kernel\n")
    assert cache_folder(copied) != before


def test_a_renamed_kernel_has_another_cache_folder(copied: Path) -> None:
    before = cache_folder(copied)
    nested = copied / "quantcli" / NESTED
    nested.rename(nested.with_name("searching.py"))
    assert cache_folder(copied) != before
