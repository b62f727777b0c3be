"""Every call of the disk that Python code makes goes through one function: tests count calls, refuse, record them or
end the process at one of them.

    intercepted(patch, handler)     from now on each call is handler(call); `call.carry_out()` does it

`open` is that of `_pyio`, Python's reference implementation, which reads, writes and closes through `os`: so the calls
of file objects are seen too. What C code does by itself is not: imports, other packages' readers, `/proc`.
"""

from __future__ import annotations

import _pyio
import builtins
import fcntl
import io
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quantcli.convert.running import renames

#: Kind of call -> functions of `os`, but the last two.
KINDS = {
    "open": ("open",),
    "read": ("read", "pread", "preadv"),
    "list": ("listdir", "scandir"),
    "stat": ("stat", "lstat", "fstat", "readlink", "statvfs"),
    "write": ("write", "pwrite", "ftruncate"),
    "fsync": ("fsync",),
    "mkdir": ("mkdir",),
    "unlink": ("unlink",),
    "rmdir": ("rmdir",),
    "close": ("close",),
    "rename": ("rename", "replace", "link", "flagged_rename"),
    "flock": ("flock",),
}
#: Kinds that change what is on the disk. Of `open`, those with O_CREAT do too.
CHANGES = ("write", "fsync", "mkdir", "unlink", "rmdir", "rename")
#: Where the functions are that are not in `os`.
OWNERS: Mapping[str, Any] = {"flagged_rename": renames, "flock": fcntl}


@dataclass(frozen=True)
class Call:
    """One call. path: what it is about, absolute; of a descriptor, the path that it was opened by, empty where that was
    not seen. other: the second path of a rename or a link. real: the function itself, `arguments` and `options` its.
    """

    kind: str
    name: str
    path: str
    other: str
    real: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    def carry_out(self) -> Any:
        return self.real(*self.arguments, **self.options)

    @property
    def flags(self) -> int:
        """Of `open`: O_CREAT and so on; of `flagged_rename`: RENAME_EXCHANGE or RENAME_NOREPLACE."""
        place = {"open": 1, "flagged_rename": 2}.get(self.name)
        given = self.options.get("flags", 0) if place is None or len(self.arguments) <= place else self.arguments[place]
        return int(given)

    @property
    def is_change(self) -> bool:
        return self.kind in CHANGES or (self.kind == "open" and bool(self.flags & os.O_CREAT))


Handler = Callable[[Call], Any]


class _Seam:
    """Makes calls of the functions that stand in for those of KINDS, and knows what descriptors were opened by."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self._paths: dict[int, str] = {}
        self._thread = threading.local()

    def standing_in(self, kind: str, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*arguments: Any, **options: Any) -> Any:
            if getattr(self._thread, "is_handling", False):  # what a handler does is its affair
                return real(*arguments, **options)
            path, other = self._named(kind, arguments, options)
            if kind == "close":
                self._paths.pop(arguments[0], None)
            self._thread.is_handling = True
            try:
                result = self.handler(Call(kind, name, path, other, real, arguments, options))
            finally:
                self._thread.is_handling = False
            if kind == "open":
                self._paths[result] = path
            return result

        return stand_in

    def _named(self, kind: str, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[str, str]:
        """The paths that a call is about."""
        first = arguments[0] if arguments else options.get("path", ".")
        if kind != "rename":
            return self._path(first, options.get("dir_fd")), ""
        return (
            self._path(first, options.get("src_dir_fd")),
            self._path(arguments[1], options.get("dst_dir_fd")),
        )

    def _path(self, target: Any, folder: int | None) -> str:
        if isinstance(target, int):
            return self._paths.get(target, "")
        name = os.fsdecode(target)
        return os.path.abspath(name if folder is None else os.path.join(self._paths.get(folder, ""), name))


def intercepted(patch: pytest.MonkeyPatch, handler: Handler) -> None:
    """Have every call of the disk go through `handler`, which gives what the call gives."""
    seam = _Seam(handler)
    for kind, names in KINDS.items():
        for name in names:
            owner = OWNERS.get(name, os)
            patch.setattr(owner, name, seam.standing_in(kind, name, getattr(owner, name)))
    for owner in (builtins, io):
        patch.setattr(owner, "open", _pyio.open)


def is_below(call: Call, folder: Path) -> bool:
    """Whether a call is about something in a folder, or about that folder."""
    return any(path == str(folder) or path.startswith(f"{folder}{os.sep}") for path in (call.path, call.other))
