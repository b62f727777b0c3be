"""Access to the Hub, and what can go wrong with it; against a server on 127.0.0.1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import BadInput, QuantError, Surroundings
from quantcli.sources.hub import HubId, download
from quantcli.sources.remote import RemoteFolder, open_remote
from tests.hub_models import INDEX, MODEL, two_shards, whole
from tests.hub_server import Hub

# --- access and failures ---------------------------------------------------------------------------------------------


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(MODEL.repo, two_shards())
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    open_remote(MODEL)
    download(MODEL)
    at_cdn = [r for r in hub.requests if r.path.startswith("/cdn/")]
    at_hub = [r for r in hub.requests if not r.path.startswith("/cdn/")]
    assert at_cdn and {r.token for r in at_cdn} == {None}
    assert {r.token for r in at_hub} == {"Bearer hf_secret"}


REFUSALS: list[tuple[str, int, dict[str, str], str]] = [
    ("^/api/", 403, {"X-Error-Code": "GatedRepo"}, "is gated. .*/org/model .*HF_TOKEN"),
    ("^/api/", 401, {"X-Error-Code": "RepoNotFound"}, "no such model on .*HF_TOKEN"),
    ("^/api/", 404, {"X-Error-Code": "RevisionNotFound"}, "no revision main"),
    ("^/api/", 403, {"X-Error-Message": "Access to this resource is disabled."}, "is disabled"),
    ("^/api/", 401, {}, r"denies access \(401\).*HF_TOKEN"),
    ("^/api/", 403, {}, r"denies access \(403\).* token"),
    ("^/api/", 404, {}, r"\(404\)"),
    ("^/api/", 429, {}, "too many requests"),
    ("^/api/", 500, {}, "status 500"),
    ("^/api/", 200, {}, "does not answer .*HF_ENDPOINT"),
]


@pytest.mark.parametrize("act", [download, open_remote])
@pytest.mark.parametrize(("pattern", "status", "headers", "message"), REFUSALS)
def test_refusals_say_what_to_do(
    hub: Hub, act: Any, pattern: str, status: int, headers: dict[str, str], message: str
) -> None:
    hub.add(MODEL.repo, two_shards())
    hub.refuse[pattern] = [status, headers, 99]
    with pytest.raises(Surroundings, match=message) as caught:
        act(MODEL)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("org/model")


def test_a_gated_model_shows_its_files_but_not_their_content(hub: Hub) -> None:
    hub.add(MODEL.repo, two_shards())
    hub.refuse["/resolve/"] = [403, {"X-Error-Code": "GatedRepo"}, 99]
    for act in (download, open_remote):
        with pytest.raises(Surroundings, match="is gated"):
            act(MODEL)


def test_what_kept_the_hub_from_answering_is_said_where_the_cache_does_not_help(hub: Hub) -> None:
    hub.add("org/one", {"model.safetensors": whole("a")})
    hub.add("org/two", two_shards())
    hub.refuse["/tree/"] = [403, {}, 99]
    with pytest.raises(Surroundings, match=r"denies access \(403\).* token"):
        download(HubId("org/one"))
    # Here the index is in the cache already, and huggingface_hub makes do with what is there.
    with pytest.raises(Surroundings, match=r"download is incomplete: .* is missing"):
        download(HubId("org/two"))


def test_an_index_that_is_not_in_the_cache(hub: Hub, offline: Any) -> None:
    hub.add(MODEL.repo, two_shards())
    (download(MODEL) / INDEX).unlink()
    offline()
    with pytest.raises(Surroundings, match=r"model\.safetensors\.index\.json is missing"):
        download(MODEL)


def test_a_model_and_a_revision_that_are_not_there(hub: Hub) -> None:
    hub.add(MODEL.repo, two_shards())
    with pytest.raises(Surroundings, match="org/none@main: .*no such model"):
        download(HubId("org/none"))
    with pytest.raises(Surroundings, match="org/model@v9: .*no revision v9"):
        open_remote(HubId("org/model", "v9"))


def test_failures_that_pass_are_tried_again(hub: Hub) -> None:
    hub.add(MODEL.repo, two_shards())
    hub.refuse["^/api/"] = [503, {"Retry-After": "100000"}, 2]
    hub.refuse["^/cdn/.*00001-of"] = [500, {}, 3]
    opened = open_remote(MODEL)
    assert isinstance(opened, RemoteFolder) and len(opened.headers) == 2


def test_failures_that_stay_end_after_four_attempts(hub: Hub) -> None:
    hub.add(MODEL.repo, {"model.safetensors": whole("a")})
    hub.refuse["^/cdn/"] = [500, {}, 99]
    with pytest.raises(Surroundings, match="answers with status 500"):
        open_remote(MODEL)
    assert len([r for r in hub.requests if r.path.startswith("/cdn/")]) == 4


@pytest.mark.parametrize("act", [download, open_remote])
def test_no_server_at_all(hub: Hub, act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Surroundings, match=r"http://127\.0\.0\.1:9 cannot be reached .*HF_HUB_OFFLINE=1"):
        act(MODEL)
    monkeypatch.setattr(constants, "ENDPOINT", "http://[bad")
    with pytest.raises(Surroundings):
        act(MODEL)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", "a//x.safetensors", "a\\x.safetensors", "a\x1b"]
)
def test_a_listing_that_leads_out_of_the_folder(hub: Hub, name: str) -> None:
    hub.add(MODEL.repo, {name: whole("a"), "model.safetensors": whole("b")})
    for act in (download, open_remote):
        with pytest.raises(BadInput, match="a path outside"):
            act(MODEL)
    assert not hub.data_requests()


def test_a_cache_that_cannot_be_written(hub: Hub, tmp_path: Path) -> None:
    hub.add(MODEL.repo, two_shards())
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(Surroundings, match=r"cannot be stored in .*cache .*HF_HUB_CACHE"):
        download(MODEL)


def test_the_environment_variables_decide(hub: Hub, tmp_path: Path) -> None:
    """What the other tests set by hand, in a fresh process by its environment."""
    hub.add(MODEL.repo, two_shards())
    script = (
        "import sys\n"
        "from quantcli.sources.hub import HubId, download\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "print(download(HubId('org/model')))\n"
    )
    home = tmp_path / "home"
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()
    }
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_TOKEN": "hf_x", "DO_NOT_TRACK": "1"}
    command = [sys.executable, "-c", script]

    def ran(**more: str) -> subprocess.CompletedProcess[str]:
        root = Path(__file__).resolve().parents[2]
        return subprocess.run(
            command, env=environment | more, cwd=root, capture_output=True, text=True, timeout=60, check=False
        )

    online = ran()
    assert online.returncode == 0, online.stderr
    assert online.stderr == "" and Path(online.stdout.strip()).is_relative_to(home / "hub")
    assert {r.token for r in hub.requests if r.path.startswith("/api/models")} == {"Bearer hf_x"}
    hub.requests.clear()
    assert ran(HF_HUB_OFFLINE="1").stdout == online.stdout
    assert not hub.requests
    refused = ran(HF_ENDPOINT="http://[")
    assert "(Invalid IPv6 URL). Check HF_ENDPOINT" in refused.stderr
    refused = ran(HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "empty"))
    assert f"{QuantError.__module__}.Surroundings: org/model@main: is not in the cache" in refused.stderr
