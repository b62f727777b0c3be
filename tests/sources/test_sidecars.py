"""The files next to a model's weights: which of them an output folder gets, from a local folder and from the Hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import BadInput, NotPossible, Surroundings
from quantcli.sources.hub import HubId, download
from tests.builders import tiny_awq, tiny_llama
from tests.conversions import converted, planned
from tests.hub_server import Hub, blob
from tests.runs import run, tree

#: Files that an output folder gets.
KEPT = (
    ".gitattributes", "1_Pooling/config.json", "LICENSE", "LICENSE.txt", "NOTICE", "README.md", "SYSTEM_PROMPT.txt",
    "USE_POLICY.md", "added_tokens.json", "additional_chat_templates/tool_use.jinja", "bpe.codes",
    "chat_template.jinja.bak", "chat_template.json", "config_sentence_transformers.json", "configuration.json",
    "configuration_foo.py", "custom_generate/generate.py", "custom_model.py", "dicts.json", "encoding/encoding_v32.py",
    "feature_extractor_config.json", "generation_config.json", "gguf_vocab.json.gz", "image_processor_config.json",
    "merges.txt", "modeling_foo.py", "modules.json", "normalizer.json", "params.json", "preprocessor_config.json",
    "processor_config.json", "qwen.tiktoken", "sentence_bert_config.json", "sentencepiece.bpe.model",
    "special_tokens.json", "special_tokens_map.json", "spiece.model", "tekken.json", "tiktoken.model",
    "tokenization_foo.py", "tokenizer.model.v3", "tool_declaration_ts.py", "video_preprocessor_config.json",
    "vocab.json", "vocab.txt",
)  # fmt: skip
#: Those that count only where weights stay as they are stored.
LAYOUT = ("hf_quant_config.json", "kv_cache_scales.json", "recipe.yaml")
#: Those that no output gets.
PASSED = (
    "1_Pooling/quant_report.json", "2_Dense/pytorch_model.bin", "Model.GGUF", "a/b/c/d.txt", "assets/logo.png",
    "consolidated.00.pth", "figures/a.jpg", "inference/model.py",
    "model.gguf", "onnx/model.onnx", "original/params.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "quant_report.json",
)  # fmt: skip


def content(name: str) -> bytes:
    """What stands in a file: an object where that is read, else its name with odd line ends."""
    if name == "modules.json":
        return b"[]"
    return b"{}" if name.endswith(".json") else f"{name}\r\n\xff".encode("latin-1")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model with some 60 kinds of files next to it."""
    folder = tiny_llama(tmp_path / "repository")
    for name in (*KEPT, *LAYOUT, *PASSED):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content(name))
    return folder


@pytest.mark.parametrize("options", [{"to": "hf"}, {}, {"scheme": "affine4-g32"}, {"to": "hf", "scheme": "int4-g32"}])
def test_files_arrive_byte_for_byte(options: dict[str, Any], repository: Path, tmp_path: Path) -> None:
    report = converted(repository, tmp_path / "out", **options)
    for name in KEPT:
        assert (tmp_path / "out" / name).read_bytes() == content(name)
    assert {file["name"] for file in report["files_left_out"]} == {*LAYOUT, *PASSED}
    assert not any((tmp_path / "out" / name).exists() for name in {*LAYOUT, *PASSED} - {"quant_report.json"})
    assert json.loads((tmp_path / "out" / "quant_report.json").read_text())["report_version"] == 1
    (warning,) = report["warnings"]
    assert "2_Dense/pytorch_model.bin is not copied" in warning


def test_the_output_can_be_replaced_unless_somebody_put_a_file_into_it(repository: Path, tmp_path: Path) -> None:
    converted(repository, tmp_path / "out")
    run(repository, tmp_path / "out", force=True)
    (tmp_path / "out" / "thesis.odt").write_text("mine")
    with pytest.raises(Surroundings, match=r"contains thesis\.odt\."):
        run(repository, tmp_path / "out", force=True)


@pytest.mark.parametrize("options", [{"to": "hf"}, {"to": "hf", "scheme": "int4-g32"}, {}])
def test_the_hub_gives_the_same_folder(options: dict[str, Any], repository: Path, tmp_path: Path, hub: Hub) -> None:
    files = {path.relative_to(repository).as_posix(): path for path in repository.rglob("*") if path.is_file()}
    hub.add("org/model", {name: blob(path.read_bytes()) for name, path in files.items()})
    here = converted(repository, tmp_path / "here", **options)
    there = converted(download(HubId("org/model")), tmp_path / "there", **options)
    assert tree(tmp_path / "here") == tree(tmp_path / "there")
    assert here["files_left_out"] == there["files_left_out"]
    assert [w.partition(": ")[2] for w in here["warnings"]] == [w.partition(": ")[2] for w in there["warnings"]]
    assert len(there["warnings"]) == 1
    assert {*KEPT} <= tree(tmp_path / "there").keys()


def test_a_gguf_has_the_same_bytes_with_a_cold_and_a_warm_cache(repository: Path, tmp_path: Path, hub: Hub) -> None:
    (repository / "README.md").write_text("---\nlicense: mit\nbase_model: org/base\n---\n# model\n")
    files = {path.relative_to(repository).as_posix(): path for path in repository.rglob("*") if path.is_file()}
    hub.add("org/model", {name: blob(path.read_bytes()) for name, path in files.items()})
    report = converted(download(HubId("org/model")), tmp_path / "cold.gguf")
    converted(download(HubId("org/model")), tmp_path / "warm.gguf")
    assert (tmp_path / "cold.gguf").read_bytes() == (tmp_path / "warm.gguf").read_bytes()
    assert b"mit" in (tmp_path / "cold.gguf").read_bytes()
    assert "README.md" in {source["name"] for source in report["sources"]}


def test_the_settings_of_an_adapter_stay_with_it(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter_config.json" in {file.name for file in planned(folder, tmp_path / "out").files}
    (folder / "adapter_model.safetensors").write_bytes(b"")
    plan = planned(folder, tmp_path / "out")
    assert "adapter_config.json" not in {file.name for file in plan.files}
    assert any("adapter_config.json is not copied: belongs to an adapter" in warning for warning in plan.warnings)


def test_a_snapshot_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "models--a--b"
    (cached / "blobs").mkdir(parents=True)
    (cached / "blobs" / "ab").write_bytes(b"text")
    snapshot = tiny_llama(cached / "snapshots" / "0")
    (snapshot / "NOTES").symlink_to(Path("../../blobs/ab"))
    (tmp_path / "link").symlink_to(snapshot)
    for place, source in ((snapshot, Path()), (snapshot.parent, Path("0")), (tmp_path, Path("link"))):
        monkeypatch.chdir(place)
        plan = planned(source, tmp_path / "out")
        assert plan.warnings == () and "NOTES" in {file.name for file in plan.files}


def test_settings_stay_where_the_layout_does(tmp_path: Path) -> None:
    folder = tiny_awq(tmp_path / "m")
    for name in LAYOUT[1:]:
        (folder / name).write_bytes(content(name))
    report = converted(folder, tmp_path / "kept", to="hf")
    assert {*LAYOUT[1:]} <= tree(tmp_path / "kept").keys() and report["files_left_out"] == []
    for options in ({"to": "hf", "scheme": "bf16"}, {}):
        report = converted(folder, tmp_path / f"out-{len(options)}", **options)
        assert {file["name"] for file in report["files_left_out"]} == {*LAYOUT[1:]}


def test_a_large_file_is_left_out_with_a_warning(repository: Path, tmp_path: Path) -> None:
    with open(repository / "video.mp4", "wb") as handle:
        handle.truncate((64 << 20) + 1)
    plan = planned(repository, tmp_path / "out")
    assert any("video.mp4 is not copied: is 67108865 bytes" in warning for warning in plan.warnings)


def test_a_folder_without_a_tokenizer_is_a_warning(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    assert planned(folder, tmp_path / "out").warnings == ()
    (folder / "tokenizer.json").unlink(missing_ok=True)
    (warning,) = planned(folder, tmp_path / "out").warnings
    assert "no tokenizer files" in warning
    with pytest.raises(NotPossible, match="--strict"):
        planned(folder, tmp_path / "out", strict=True)


# --- files that are not what their name says -------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"to": "hf"}, {}])
def test_links_within_the_folder_are_followed(options: dict[str, Any], repository: Path, tmp_path: Path) -> None:
    (repository / "COPYING").symlink_to("LICENSE")
    converted(repository, tmp_path / "out", **options)
    assert (tmp_path / "out" / "COPYING").read_bytes() == content("LICENSE")
    assert not (tmp_path / "out" / "COPYING").is_symlink()


def test_links_into_the_hubs_cache_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "cache" / "models--a--b"
    (cached / "blobs").mkdir(parents=True)
    (cached / "blobs" / "ab").write_bytes(b"text")
    snapshot = tiny_llama(cached / "snapshots" / "0")
    (snapshot / "NOTES").symlink_to(Path("../../blobs/ab"))
    assert "NOTES" in {file.name for file in planned(snapshot, tmp_path / "out").files}
    elsewhere = tiny_llama(tmp_path / "elsewhere")
    (elsewhere / "NOTES").symlink_to(cached / "blobs" / "ab")
    (tmp_path / "cache" / "text").write_text("text")
    (elsewhere / "TEXT").symlink_to(tmp_path / "cache" / "text")
    (warning,) = planned(elsewhere, tmp_path / "out").warnings
    assert "TEXT is not copied" in warning
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    assert planned(elsewhere, tmp_path / "out").warnings == ()


@pytest.mark.parametrize("what", ["a file", "a folder"])
def test_a_link_to_somewhere_else_is_left_out_with_a_warning(what: str, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "config.json").write_text("{}")
    if what == "a file":
        name = "key.txt"
        (repository / name).symlink_to(tmp_path / "secret" / "config.json")
    else:
        name = "encoding/config.json"
        (repository / "encoding" / "encoding_v32.py").unlink()
        (repository / "encoding").rmdir()
        (repository / "encoding").symlink_to(tmp_path / "secret", target_is_directory=True)
    report = converted(repository, tmp_path / "out", to="hf")
    assert not (tmp_path / "out" / name).exists()
    assert any(f"{name} is not copied: it is a link that leads out of the folder" in w for w in report["warnings"])


@pytest.mark.parametrize("output", ["out", "out.gguf"])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "LICENSE"])
@pytest.mark.parametrize("what", ["dangling", "pipe", "pointer"])
def test_a_file_that_is_none_is_named(what: str, name: str, output: str, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    (folder / name).unlink(missing_ok=True)
    if what == "dangling":
        (folder / name).symlink_to("nowhere")
    elif what == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n")
    if output == "out.gguf" and name == "LICENSE":
        planned(folder, tmp_path / output)  # a GGUF holds no such file
        return
    with pytest.raises(BadInput, match=f"{folder}/{name}"):
        planned(folder, tmp_path / output)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
@pytest.mark.parametrize("name", ["tokenizer_config.json", "LICENSE"])
def test_a_file_without_permission_is_named(name: str, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    (folder / name).write_text("{}")
    (folder / name).chmod(0)
    with pytest.raises(Surroundings, match=f"{folder}/{name}"):
        planned(folder, tmp_path / "out")
