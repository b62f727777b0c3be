"""What stands at a path, and that an error of the system is never taken for nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantcli.containers.entries import is_there, leads_somewhere, real_path

ASK: tuple[Callable[[Path], object], ...] = (is_there, leads_somewhere, real_path)


def test_links_and_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "circle").symlink_to("circle")
    found = {name: (is_there(tmp_path / name), leads_somewhere(tmp_path / name)) for name in os.listdir(tmp_path)}
    assert found == {
        "file": (True, True), "link": (True, True), "dangling": (True, False), "circle": (True, False),
    }  # fmt: skip
    real = tmp_path.resolve()
    assert real_path(tmp_path / "link") == real / "file" and real_path(tmp_path / "dangling") == real / "nothing"


@pytest.mark.parametrize("name", ["nothing", "file/in a file", "x" * 300, "a\0b"])
def test_names_that_nothing_has(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    assert not is_there(f"{tmp_path}/{name}") and not leads_somewhere(f"{tmp_path}/{name}")


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_an_error_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Path], object], number: int
) -> None:
    def fail(path: Any, *arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "stat", fail)
    monkeypatch.setattr(os, "lstat", fail)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        ask(tmp_path / "lost.gguf")
    assert caught.value.errno == number and str(tmp_path / "lost.gguf").startswith(caught.value.filename)
