"""A published output is what was verified, byte for byte: read once more under its final name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quantcli.convert.running.hashing import sha256_of
from quantcli.errors import VerificationFailed


def check_published(verified: Mapping[Path, str], threads: int) -> None:
    """Raise `VerificationFailed` where a file under its final name is not the one that was verified.

    verified: path -> SHA-256.
    """
    found = sha256_of(verified, threads, from_disk=True)
    for path, sha256 in verified.items():
        if found[path] != sha256:
            raise VerificationFailed(
                f"{path}: has changed between its verification and its publication. Check the disk, and that nothing "
                "else writes there; --resume then converts again."
            )
