"""Ctrl-C and SIGTERM: the first signal stops a run, later ones do not disturb the clean-up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def ignore_from_now_on() -> None:
    """Ignore further signals: for an interrupted command that is about to end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[bool], None]]:
    """Make the first signal raise `KeyboardInterrupt` and later ones do nothing.

    Yields a function: calling it with True ignores signals, for the moment in which an output gets its name; with False
    handles them again. A signal that the process ignores stays ignored. Outside the main thread, which receives all
    signals, nothing changes.
    """
    deaf = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal deaf
        if not deaf:
            deaf = True
            raise KeyboardInterrupt

    def ignore(is_deaf: bool) -> None:
        nonlocal deaf
        deaf = is_deaf

    if threading.current_thread() is not threading.main_thread():
        yield ignore
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in heard:
            signal.signal(number, hear)
        yield ignore
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
