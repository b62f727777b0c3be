"""Failures of requests to the Hub: which are tried again, and what the others mean to the user.

Source: huggingface_hub's exceptions. Each becomes `Surroundings`, with a problem and a hint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from quantcli.containers.hostile import shown
from quantcli.errors import Surroundings

#: Seconds before the second, third ... attempt, and the status codes after which there is another attempt.
WAITS = (0.5, 1.0, 2.0)
TRANSIENT = (408, 429, 500, 502, 503, 504)

#: Problem and hint for status codes without an exception class in huggingface_hub.
STATUS = {
    401: "{hub} denies access (401). Set HF_TOKEN to a valid token, or run `hf auth login`",
    403: "{hub} denies access (403). Use a token that may read this model",
    404: "{hub} does not have it (404). Check the name and HF_ENDPOINT",
    429: "{hub} received too many requests (429). Wait a while, or set HF_TOKEN",
}

T = TypeVar("T")


def settings() -> Any:
    """Import huggingface_hub's constants, which its environment variables set. Raises `Surroundings`."""
    try:
        from huggingface_hub import constants
    except ValueError as error:
        raise Surroundings(
            f"huggingface_hub: an environment variable is invalid ({error}). Check HF_ENDPOINT, HF_HUB_ETAG_TIMEOUT "
            "and "
            "HF_HUB_DOWNLOAD_TIMEOUT."
        ) from error
    return constants


def patiently(attempt: Callable[[], T]) -> T:
    """Call `attempt`, again if its failure may be temporary: no connection, a timeout, an overloaded server."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    for wait in WAITS:
        try:
            return attempt()
        except HfHubHTTPError as error:
            if error.response.status_code not in TRANSIENT:
                raise
        except httpx.TransportError:
            pass  # the last attempt raises if it fails too
        time.sleep(wait)
    return attempt()


@contextmanager
def reaching(repo: str, revision: str) -> Iterator[None]:
    """Turn huggingface_hub's exceptions into `Surroundings`, with a problem and a hint."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError) as error:
        # RuntimeErrors are hf_xet's. LocalEntryNotFoundError is raised from the failure of the request to the Hub.
        reason = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
        raise Surroundings(f"{repo}@{revision}: {_explained(reason, repo, revision)}.") from error


def _explained(error: BaseException, repo: str, revision: str) -> str:
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    hub = constants.ENDPOINT
    sentences: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
        (
            errors.GatedRepoError,
            f"is gated. Request access at {hub}/{repo} and set HF_TOKEN, or run `hf auth login`",
        ),
        (errors.DisabledRepoError, f"is disabled on {hub}. Choose another model"),
        (
            errors.RepositoryNotFoundError,
            f"there is no such folder, and no such model on {hub}. Check the name; if the model is private, set "
            "HF_TOKEN",
        ),
        (
            errors.RevisionNotFoundError,
            f"there is no revision {revision}. Check --revision against the model's branches and tags",
        ),
        (
            errors.RemoteEntryNotFoundError,
            "a listed file is missing: the repository changed. Run the command again",
        ),
        (errors.FileMetadataError, f"{hub} does not answer like a Hub. Check HF_ENDPOINT and any proxy"),
        (
            errors.IncompleteSnapshotError,
            "is incomplete in the cache. Unset HF_HUB_OFFLINE to download it",
        ),
        (
            (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled),
            "is not in the cache. Unset HF_HUB_OFFLINE to download it",
        ),
    )
    for kinds, sentence in sentences:
        if isinstance(error, kinds):
            return sentence
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return STATUS.get(status, f"{hub} answers with status {status}. Try again later").format(hub=hub)
    if isinstance(error, httpx.HTTPError):
        return (
            f"{hub} cannot be reached ({shown(str(error) or type(error).__name__)}). Check the network and "
            "HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use the files in the cache"
        )
    if isinstance(error, OSError):
        return (
            f"cannot be stored in {constants.HF_HUB_CACHE} ({error.strerror or error}). Check the disk and HF_HUB_CACHE"
        )
    return f"cannot be read ({shown(str(error))}). Check HF_ENDPOINT and run the command again"
