"""Independent work on several threads: results come in the order of completion, the first error stops all.

`in_threads` limits how many items are processed at a time, an `Allowance` how many bytes they take.
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
    """Yield each item with the result of `work`, in the order of completion.

    Items are taken one at a time, so at most `threads` are processed. An error of `work` or of `items`, an interruption
    and closing the generator (use `contextlib.closing`) stop the threads, each after its item; when the generator has
    ended, no thread runs. stop: an event that is set then, which long work may check.
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
    """Bytes that concurrent work shares; no item may take more than all of them."""

    def __init__(self, nbytes: int) -> None:
        self._free = nbytes
        self._changed = threading.Condition()

    def take(self, nbytes: int) -> None:
        """Wait until that many bytes are free, and take them."""
        with self._changed:
            self._changed.wait_for(lambda: nbytes <= self._free)
            self._free -= nbytes

    def give_back(self, nbytes: int) -> None:
        with self._changed:
            self._free += nbytes
            self._changed.notify_all()
