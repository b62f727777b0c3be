"""What a command prints: data to stdout, everything else to stderr.

mode       stdout                        stderr
terminal   tables drawn by rich          errors, warnings, notes, a progress bar
pipe       the same tables, plain text   errors, warnings, notes
json       one JSON value                errors, warnings, notes
quiet      requested data only           errors only
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantcli.errors import QuantError
from quantcli.kernels import compiling

#: Is called with progress: the bytes that were written since the last call, and the weight that they belong to.
Tick = Callable[[int, str], None]


#: Tables have all of their columns on terminals of at least this many columns.
WIDE = 110


@dataclass(frozen=True)
class Column:
    """A column of a table. right: aligned at the right. wide_only: not shown on terminals below `WIDE` columns."""

    title: str
    right: bool = False
    wide_only: bool = False


@dataclass(frozen=True)
class Output:
    """How a command prints: as JSON, quietly, verbosely."""

    as_json: bool = False
    quiet: bool = False
    verbose: int = 0

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
        """Print a table of data; nothing in JSON mode."""
        if self.as_json:
            return
        if sys.stdout.isatty():
            _draw(columns, rows, title)
        else:
            _print_plain(columns, rows, title)

    def text(self, line: str = "") -> None:
        """Print a line of data; nothing in JSON mode."""
        if not self.as_json:
            _emit(line)

    def json(self, value: Mapping[str, Any]) -> None:
        """Print the data as JSON, in JSON mode only."""
        if self.as_json:
            plain = sys.stdout.encoding.lower().replace("-", "") == "utf8"
            _emit(json.dumps(value, indent=2, ensure_ascii=not plain))

    def note(self, line: str) -> None:
        """Print a note to stderr, unless quiet."""
        if not self.quiet:
            print(line, file=sys.stderr)

    def warn(self, lines: Sequence[str], most: int = 8) -> None:
        """Print warnings to stderr, unless quiet; beyond `most` only their number, unless verbose."""
        if self.quiet:
            return
        shown = lines if self.verbose else lines[:most]
        for line in shown:
            print(f"warning: {line}", file=sys.stderr)
        if len(lines) > len(shown):
            print(f"warning: {len(lines) - len(shown)} more. -v prints all of them.", file=sys.stderr)

    def error(self, error: QuantError) -> None:
        """Print an error to stderr; with -vv, its traceback too."""
        if self.verbose >= 2:
            traceback.print_exception(error, file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)

    @contextlib.contextmanager
    def log_notes(self) -> Iterator[None]:
        """Print what kernels log in the meantime as notes: that they are being compiled."""
        log, handler = logging.getLogger(compiling.LOG), _Notes(self)
        level = log.level
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.setLevel(level)
            log.removeHandler(handler)

    @contextlib.contextmanager
    def progress(self, total: int) -> Iterator[Tick]:
        """Show a progress bar over `total` bytes on a terminal: share, bytes, rate, time left, current weight."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda _count, _name: None
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (
            BarColumn(bar_width=10), TextColumn("{task.percentage:>3.0f}%"), DownloadColumn(), TransferSpeedColumn(),
            TimeRemainingColumn(compact=True), TextColumn("{task.fields[weight]}", style="dim"),
        )  # fmt: skip
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=total, weight="")
            yield lambda count, name: bar.update(task, advance=count, weight=name[-22:])


class _Notes(logging.Handler):
    """A log handler that prints records as notes."""

    def __init__(self, out: Output) -> None:
        super().__init__()
        self.out = out

    def emit(self, record: logging.LogRecord) -> None:
        self.out.note(record.getMessage())


@contextlib.contextmanager
def _ignoring_closed_pipe() -> Iterator[None]:
    """Continue silently once the reader of stdout has closed it: the checks that follow still count."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _emit(line: str) -> None:
    with _ignoring_closed_pipe():
        print(line)


def flush() -> None:
    """Write out what is still buffered. Raises `OSError` if that fails."""
    with _ignoring_closed_pipe():
        sys.stdout.flush()


def _draw(columns: Sequence[Column], rows: Sequence[Sequence[str]], title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    shown = [i for i, column in enumerate(columns) if console.width >= WIDE or not column.wide_only]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i in shown:
        table.add_column(columns[i].title, justify="right" if columns[i].right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(row[i]) for i in shown))
    with _ignoring_closed_pipe():
        console.print(table)


def _print_plain(columns: Sequence[Column], rows: Sequence[Sequence[str]], title: str | None) -> None:
    if title:
        _emit(title)
    lines = [[column.title for column in columns], *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        cells = (
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        )
        _emit("  ".join(cells).rstrip())


def size(count: int) -> str:
    """Return a number of bytes with a unit.

    >>> size(999), size(1_500_000), size(2_200_000_000)
    ('999 B', '1.50 MB', '2.20 GB')
    """
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.2f} {unit}"
