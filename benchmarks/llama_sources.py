"""llama.cpp's own converter: not in llama-cpp-python's wheel, but in the sources that the wheel is built from."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

#: The pin of the `peers` group in pyproject.toml: converter and library are of one version then.
RELEASE = "0.3.36"
#: What of the archive is needed, below vendor/llama.cpp.
WANTED = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")


def unpacked(python: Path, work: Path, say: Callable[[str], None]) -> Path | None:
    """The folder of llama.cpp's sources, downloaded once by `python`'s pip; None, and said so, where that fails."""
    name = f"llama_cpp_python-{RELEASE}"
    folder, archive = work / name / "vendor" / "llama.cpp", work / f"{name}.tar.gz"
    if not archive.is_file():
        wanted = ["--no-deps", "--no-binary", "llama-cpp-python", "--dest", str(work), f"llama-cpp-python=={RELEASE}"]
        done = subprocess.run(
            [str(python), "-m", "pip", "download", "--quiet", *wanted], capture_output=True, text=True
        )
        if done.returncode != 0 or not archive.is_file():
            say(
                f"SKIPPED: llama.cpp's converter, because its sources were not downloaded: {done.stderr.strip()[-300:]}"
            )
            return None
    if not (folder / WANTED[0]).is_file():
        start = f"{name}/vendor/llama.cpp/"
        with tarfile.open(archive) as packed:
            members = [m for m in packed if m.name.startswith(tuple(start + part for part in WANTED))]
            packed.extractall(work, members, filter="data")
    return folder
