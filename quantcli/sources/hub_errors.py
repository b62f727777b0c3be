"""What can go wrong between here and the Hub: which failures are tried again, and what the others mean to the user.

Source: huggingface_hub's exceptions; each becomes `Surroundings`, one sentence with the next step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from quantcli.containers.hostile import shown
from quantcli.errors import Surroundings

#: Waits before the second, third ... attempt, in seconds, and the status codes after which there is one.
WAITS = (0.5, 1.0, 2.0)
TRANSIENT = (408, 429, 500, 502, 503, 504)

#: What to do about a status code that huggingface_hub has no error of its own for.
STATUS = {
    401: "{hub} denies access (401): set HF_TOKEN to a valid token, or run `hf auth login`",
    403: "{hub} denies access (403): use a token that may read this model",
    404: "{hub} does not know it (404): check the name and HF_ENDPOINT",
    429: "{hub} answers that there were too many requests (429): wait a while, or set HF_TOKEN",
}

T = TypeVar("T")


def settings() -> Any:
    """huggingface_hub's module of constants, as its environment variables set them; raises `Surroundings`."""
    try:
        from huggingface_hub import constants
    except ValueError as error:
        raise Surroundings(
            f"huggingface_hub refuses an environment variable ({error}): check HF_ENDPOINT, HF_HUB_ETAG_TIMEOUT and "
            "HF_HUB_DOWNLOAD_TIMEOUT."
        ) from error
    return constants


def patiently(attempt: Callable[[], T]) -> T:
    """What `attempt` returns, tried again where the failure may pass: no connection, a timeout, a server overloaded."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    for wait in WAITS:
        try:
            return attempt()
        except HfHubHTTPError as error:
            if error.response.status_code not in TRANSIENT:
                raise
        except httpx.TransportError:
            pass  # said by the last attempt, should it fail too
        time.sleep(wait)
    return attempt()


@contextmanager
def reaching(repo: str, revision: str) -> Iterator[None]:
    """Turns what huggingface_hub raises into `Surroundings`: what is wrong and the next step."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError) as error:
        # RuntimeErrors are hf_xet's. What the cache could not replace is raised from what kept the Hub from answering.
        reason = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
        raise Surroundings(f"{repo}@{revision}: {_explained(reason, repo, revision)}.") from error


def _explained(error: BaseException, repo: str, revision: str) -> str:
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    hub = constants.ENDPOINT
    sentences: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
        (
            errors.GatedRepoError,
            f"is gated: ask for access at {hub}/{repo} and set HF_TOKEN, or run `hf auth login`",
        ),
        (errors.DisabledRepoError, f"has been disabled on {hub}: choose another model"),
        (
            errors.RepositoryNotFoundError,
            f"is no folder here and no model that {hub} shows: check the name; if it is private, set HF_TOKEN",
        ),
        (
            errors.RevisionNotFoundError,
            f"has no revision {revision}: check --revision against its branches and tags",
        ),
        (
            errors.RemoteEntryNotFoundError,
            "a listed file is not there: it has changed meanwhile, run the command again",
        ),
        (errors.FileMetadataError, f"{hub} does not answer as a Hub does: check HF_ENDPOINT and any proxy"),
        (
            errors.IncompleteSnapshotError,
            "the cache holds it only in part: download it again, with HF_HUB_OFFLINE unset",
        ),
        (
            (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled),
            "is not in the cache, and HF_HUB_OFFLINE forbids a download: unset it, or download the model first",
        ),
    )
    for kinds, sentence in sentences:
        if isinstance(error, kinds):
            return sentence
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return STATUS.get(status, f"{hub} answers with status {status}: try again later").format(hub=hub)
    if isinstance(error, httpx.HTTPError):
        return (
            f"{hub} cannot be reached ({shown(str(error) or type(error).__name__)}): check the network and "
            "HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use what is in the cache"
        )
    if isinstance(error, OSError):
        return (
            f"cannot be stored in {constants.HF_HUB_CACHE} ({error.strerror or error}): check the disk and HF_HUB_CACHE"
        )
    return f"reading it failed ({shown(str(error))}): check HF_ENDPOINT and run the command again"
