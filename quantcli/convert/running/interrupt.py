"""Ctrl-C and SIGTERM: the first one stops a run, those that follow do not disturb its stopping."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def ignore_from_now_on() -> None:
    """For a command that has been interrupted and is about to end: nothing disturbs its last words."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[bool], None]]:
    """Within, the first signal raises `KeyboardInterrupt`, later ones do nothing.

    Calling what is yielded with True makes what follows uninterruptible, for the moment in which an output gets its
    name; with False interruptible again.
    A signal that the process was told to ignore stays ignored. Outside the main thread nothing changes: only the main
    thread hears signals.
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
