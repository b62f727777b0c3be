"""Who hears that kernels are being compiled: kernels print nothing, they log, and a command decides what is shown.

One INFO record of the logger LOG for each scheme whose kernels take longer than SECONDS to compile, all together,
while they do. Loading machine code that was kept is no compiling. This module does not import numba; compile.py has
numba tell a `Watch`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from time import monotonic
from typing import Any

LOG = "quantcli.kernels"
#: Compilations that take less time are not reported.
SECONDS = 1.0

_SCHEME: ContextVar[str | None] = ContextVar("scheme", default=None)


@contextlib.contextmanager
def on_behalf_of(scheme: str) -> Iterator[None]:
    """What is compiled inside, in this thread, is for that scheme."""
    before = _SCHEME.set(scheme)
    try:
        yield
    finally:
        _SCHEME.reset(before)


class Watch:
    """Adds up what compiling costs each scheme; numba compiles in one thread at a time, callees inside callers.

    kept: what becomes of the machine code, for the record.
    """

    def __init__(self, kept: str) -> None:
        self.kept = kept
        self.depth = 0
        self.started = 0.0
        self.spent: dict[str, float] = {}
        self.timer = threading.Timer(SECONDS, lambda: None)

    def on_start(self, event: Any) -> None:
        """A kernel is about to be compiled (numba's `Listener`)."""
        self.depth += 1
        if self.depth > 1:
            return
        scheme = _scheme_of(event)
        self.started = monotonic()
        left = SECONDS - self.spent.setdefault(scheme, 0.0)
        if left > 0:  # else it was said before
            self.timer = threading.Timer(left, self._say, (scheme,))
            self.timer.daemon = True
            self.timer.start()

    def on_end(self, event: Any) -> None:
        """It was compiled, or failed to be (numba's `Listener`)."""
        self.depth -= 1
        if self.depth == 0:
            self.timer.cancel()
            self.spent[_scheme_of(event)] += monotonic() - self.started

    def _say(self, scheme: str) -> None:
        logging.getLogger(LOG).info("compiling CPU kernels for %s (%s)", scheme, self.kept)


def _scheme_of(event: Any) -> str:
    """The scheme at work, or where none is known the kernel's file."""
    return _SCHEME.get() or str(event.data["dispatcher"].py_func.__module__).rpartition(".")[2]
