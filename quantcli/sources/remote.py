"""A model on the Hub, inspected without a download: its list of files, its small files, its tensor files' headers.

Source: RFC 9110 section 14 (range requests); session, URLs and tokens are huggingface_hub's. Only headers are fetched:
one or two requests for a safetensors shard, a few growing ones for a GGUF file. `RemoteFolder` implements
`sources.folder.Folder`, so that the openers of folders accept it; data can only be read with `RemoteFile.read`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from quantcli.arrays import Array, numpy_dtype
from quantcli.checkpoint import Part
from quantcli.containers import gguf, safetensors
from quantcli.errors import BadInput, NotPossible, Surroundings
from quantcli.sources.folder import check_describing
from quantcli.sources.hub import CONFIGS, LIBRARY, HubId, cached, list_files, tensors_of
from quantcli.sources.hub_errors import patiently, reaching, settings
from quantcli.sources.tensor_files import INDEX

#: Shards whose headers are fetched at the same time.
THREADS = 8
#: The most bytes of a small file.
MAX_SMALL = 64 << 20
#: The most seconds that a request may take, plus one for each requested MiB.
REQUEST_SECONDS = 60

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class RemoteFile:
    """One file at one commit. size: its bytes. sha256: from the Hub, if it stores the file as a large one."""

    hub_id: HubId
    commit: str
    name: str
    size: int
    sha256: str | None

    @property
    def label(self) -> str:
        return f"{self.hub_id.repo}@{self.hub_id.revision}/{self.name}"

    def read(self, offset: int, length: int) -> bytes:
        """Fetch `length` bytes from `offset`, fewer only at the file's end. Raises `Surroundings`."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        with reaching(self.hub_id.repo, self.hub_id.revision):
            return patiently(lambda: self._request(offset, length))

    def _request(self, offset: int, length: int) -> bytes:
        from huggingface_hub import constants, get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, httpx  # type: ignore[attr-defined]

        headers = build_hf_headers(library_name=LIBRARY) | {
            "Range": f"bytes={offset}-{offset + length - 1}",
            "Accept-Encoding": "identity",
        }
        url = hf_hub_url(self.hub_id.repo, self.name, revision=self.commit)
        deadline = time.monotonic() + REQUEST_SECONDS + (length >> 20)
        body = bytearray()
        with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            hf_raise_for_status(response)
            self._check_range(response.status_code, response.headers.get("Content-Range", ""), offset, length)
            # Undecoded, so that a server that compresses anyway, or sends too much, is detected below.
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > length:
                    break
                if time.monotonic() > deadline:
                    seconds = REQUEST_SECONDS + (length >> 20)
                    raise httpx.ReadTimeout(f"{len(body)} of {length} bytes in {seconds} seconds")
        if len(body) != length:
            more = "more than " if len(body) > length else ""
            raise Surroundings(
                f"{self.label}: expected {length} bytes, but the server sent {more}{min(len(body), length)}. Try "
                "again, "
                "or download the model."
            )
        return bytes(body)

    def _check_range(self, status: int, content_range: str, offset: int, length: int) -> None:
        """Raise `Surroundings` unless the server sends the requested range (or the file, if all of it is requested)."""
        if status == 200 and length == self.size:
            return
        match = _CONTENT_RANGE.fullmatch(content_range)
        if status != 206 or match is None:
            raise Surroundings(
                f"{self.label}: the server does not support range requests; it would send all {self.size} bytes. "
                "Download the model and inspect its folder."
            )
        first, last, size = match.groups()
        if (int(first), int(last)) != (offset, offset + length - 1) or size not in ("*", str(self.size)):
            raise Surroundings(
                f"{self.label}: expected bytes {offset}-{offset + length - 1}/{self.size}, but the server sent "
                f"{content_range}. Try again."
            )


@dataclass(frozen=True)
class RemoteFolder:
    """A repository at one commit, with the files that opening it needs.

    tensor_files: the names of the safetensors shards, or of the GGUF file or its parts, in order.
    small: the contents of config.json and similar files. headers, gguf_headers: of every tensor file, checked.
    """

    hub_id: HubId
    files: Mapping[str, RemoteFile]
    tensor_files: tuple[str, ...]
    small: Mapping[str, bytes] = field(repr=False)
    headers: Mapping[str, safetensors.Header] = field(repr=False)
    gguf_headers: Mapping[str, gguf.GgufFile] = field(repr=False)

    @property
    def label(self) -> str:
        return f"{self.hub_id.repo}@{self.hub_id.revision}"

    def names(self) -> list[str]:
        """Return the files, as paths relative to the folder, with forward slashes."""
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        """Read a small file."""
        return self.small[name] if name in self.small else _read_small(self.file(name))

    def header(self, name: str) -> safetensors.Header:
        """Read the header of a safetensors file."""
        return self.headers[name] if name in self.headers else _read_header(self.file(name))

    def path(self, name: str) -> Path:
        """Return a path for lists and messages; there is no such file on this machine."""
        return Path(self.label) / name

    def size(self, name: str) -> int:
        """Return the bytes of a file."""
        return self.file(name).size

    def array(self, part: Part) -> Array:
        """Read a small array that describes how others are stored, as a matrix."""
        check_describing(part)
        name = part.file.relative_to(Path(self.label)).as_posix()
        stored = np.frombuffer(self.file(name).read(part.offset, part.nbytes), np.uint8).view(numpy_dtype(part.dtype))
        return stored.reshape(-1, part.shape[-1] if part.shape else 1)

    def file(self, name: str) -> RemoteFile:
        """Return a file. Raises `NotPossible` if the repository does not have it."""
        if name not in self.files:
            raise NotPossible(f"{self.label}: there is no file {name}. Check the name.")
        return self.files[name]


def open_remote(hub_id: HubId) -> RemoteFolder | Path:
    """Fetch the headers of a model on the Hub; offline, return its snapshot in the cache (a folder or a GGUF file).

    Raises `Surroundings`, `NotPossible`, `BadInput`.
    """
    if settings().HF_HUB_OFFLINE:
        return cached(hub_id)
    listing = list_files(hub_id)
    files = {n: RemoteFile(hub_id, listing.commit, n, info.size, info.sha256) for n, info in listing.files.items()}
    with ThreadPoolExecutor(THREADS) as pool:
        names = [name for name in (*CONFIGS, INDEX) if name in files]
        small = dict(zip(names, pool.map(lambda name: _read_small(files[name]), names), strict=True))
        tensors = tuple(tensors_of(hub_id, files, lambda: small[INDEX]))
        if tensors[0].endswith(".gguf"):
            ggufs = dict(zip(tensors, pool.map(lambda name: _read_gguf(files[name]), tensors), strict=True))
            return RemoteFolder(hub_id, files, tensors, small, {}, ggufs)
        headers = dict(zip(tensors, pool.map(lambda name: _read_header(files[name]), tensors), strict=True))
        return RemoteFolder(hub_id, files, tensors, small, headers, {})


def _read_small(file: RemoteFile) -> bytes:
    if file.size > MAX_SMALL:
        raise BadInput(f"{file.label}: is {file.size} bytes; the limit is {MAX_SMALL}.")
    return file.read(0, file.size)


def _read_header(file: RemoteFile) -> safetensors.Header:
    return safetensors.parse_header(file.read, file.size, file.label)


def _read_gguf(file: RemoteFile) -> gguf.GgufFile:
    return gguf.parse(file.read, file.size, Path(file.label))
