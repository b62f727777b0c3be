"""Checking that a published output is what was verified: it is read once more under its final name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quantcli.convert.running.hashing import sha256_of
from quantcli.errors import VerificationFailed


def check_published(verified: Mapping[Path, str], threads: int) -> None:
    """Raise `VerificationFailed` if a file under its final name is not the one that was verified.

    verified: path -> SHA-256.
    """
    published = sha256_of(verified, threads, from_disk=True)
    for path, sha256 in verified.items():
        if published[path] != sha256:
            raise VerificationFailed(
                f"{path}: changed after it was verified. Check the disk and that nothing else "
                "writes there, then use --resume to convert again."
            )
