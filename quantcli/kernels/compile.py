"""How a Python function becomes a kernel: one place for numba's settings.

A kernel releases the interpreter lock, divides as IEEE does (no exception on a zero) and allows no fast-math: LLVM then
neither reorders sums nor contracts a product and a sum into one rounding, so the bits do not depend on the machine.

Machine code is kept between runs, in `NUMBA_CACHE_DIR` or the user's cache folder. numba looks for changes only in the
file of the function itself, so the folder's name carries a digest of all kernels, sub-folders included: none of them
can be stale. Where no folder can be written, kernels are compiled anew in each run.

numba's version has an upper bound in pyproject.toml, because this file uses three things that numba does not promise:
the option `_nrt=False`, the events in `numba.core.event`, and `numba.config.CACHE_DIR`, set from Python. The intrinsics
in llvm/ also use its code generation context. tests/kernels/test_numba.py holds all of it: raise both together.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import event
from numba.extending import intrinsic

from quantcli.kernels.compiling import Watch

#: numba's settings, whose names are made at run time.
CONFIG: Any = numba.config

#: Several threads may come to their first kernels at once, and the setting is the whole process's.
_DECORATING = threading.Lock()


def digest(sources: Path) -> str:
    """Of the names and contents of all Python files in and below the folder `sources`: 16 hexadecimal digits."""
    found = hashlib.sha256()
    for name, path in sorted((path.relative_to(sources).as_posix(), path) for path in sources.rglob("*.py")):
        found.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


@cache
def cache_folder() -> Path | None:
    """Where machine code of these very sources is kept, created; None where nothing can be written."""
    home = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(home) / "quantcli" / f"kernels-{digest(Path(__file__).parent)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


class _Listener(Watch, event.Listener):
    """A `Watch` as numba wants its listeners."""


_KEPT = "once; cached" if cache_folder() is not None else "in each run: no cache folder is writable"
register: Any = event.register  # it has no types
register("numba:compile", _Listener(_KEPT))


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled for the types that it is first called with."""
    return _kept(function, counted=True)


def inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that makes no arrays: the references to its arguments are not counted.

    Counting is an atomic addition for every array that is handed on or cut: 20 cycles, which matters where blocks are.
    """
    return _kept(function, counted=False)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a piece of the kernels that call it, there before LLVM decides what it unrolls and vectorises."""
    piece: Callable[..., Any] = numba.njit(function, inline="always", error_model="numpy", fastmath=False)
    return piece


def _bits_of(typing_context: Any, value: Any) -> Any:
    return numba.types.int32(numba.types.float32), _bitcast


def _float_of(typing_context: Any, value: Any) -> Any:
    return numba.types.float32(numba.types.int32), _bitcast


def _bitcast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))


#: The bits of a float32 as an int32, in a kernel; and back.
bits_of: Callable[..., Any] = intrinsic(_bits_of)
float_of: Callable[..., Any] = intrinsic(_float_of)


def _kept(function: Callable[..., Any], counted: bool) -> Callable[..., Any]:
    folder = cache_folder()
    if folder is None:
        return _compiled(function, keep=False, counted=counted)
    with _DECORATING:
        before = CONFIG.CACHE_DIR
        CONFIG.CACHE_DIR = str(folder)  # read while the function is decorated, for it alone
        try:
            return _compiled(function, keep=True, counted=counted)
        finally:
            CONFIG.CACHE_DIR = before


def _compiled(function: Callable[..., Any], keep: bool, counted: bool) -> Callable[..., Any]:
    njit: Any = numba.njit  # its types lack `_nrt`
    compiled: Callable[..., Any] = njit(
        function, cache=keep, nogil=True, error_model="numpy", fastmath=False, _nrt=counted
    )
    return compiled
