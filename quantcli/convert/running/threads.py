"""Independent pieces of work on several threads: results come as they are done, the first error ends all.

`in_threads` bounds how many are in work, an `Allowance` how many bytes they take.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_threads(
    items: Iterable[T], work: Callable[[T], R], threads: int, stop: threading.Event | None = None
) -> Generator[tuple[T, R], None, None]:
    """Each item with what `work` gives for it, in the order in which they are done.

    Items are taken one at a time, so no more than `threads` are in work. An error of `work` or of `items`, an
    interruption and closing the generator (use `contextlib.closing`) all stop the threads, each behind its item; when
    the generator has ended, none of them runs. stop: is set then, for long work that wants to look at it.
    """
    results: queue.Queue[tuple[T, R] | BaseException | None] = queue.Queue()
    stop = stop or threading.Event()
    lock, source = threading.Lock(), iter(items)

    def worker() -> None:
        try:
            while not stop.is_set():
                with lock:
                    item = next(source)
                results.put((item, work(item)))
        except StopIteration:
            results.put(None)
        except BaseException as error:  # raised again by the thread that waits for results
            results.put(error)

    workers = [threading.Thread(target=worker, daemon=True) for _ in range(max(1, threads))]
    try:
        for thread in workers:
            thread.start()
        running = len(workers)
        while running:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                running -= 1
            else:
                yield result
    finally:
        stop.set()
        for thread in workers:
            if thread.ident is not None:
                thread.join()


class Allowance:
    """Bytes that pieces of work in flight share, each of them at most all."""

    def __init__(self, nbytes: int) -> None:
        self._free = nbytes
        self._changed = threading.Condition()

    def take(self, nbytes: int) -> None:
        """Wait until so many are free."""
        with self._changed:
            self._changed.wait_for(lambda: nbytes <= self._free)
            self._free -= nbytes

    def give_back(self, nbytes: int) -> None:
        with self._changed:
            self._free += nbytes
            self._changed.notify_all()
