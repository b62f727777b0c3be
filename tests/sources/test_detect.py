"""What a SOURCE is taken for."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.errors import BadInput, WrongUsage
from quantcli.sources.detect import open_source
from quantcli.sources.resolve import local_source, survey_source
from tests.builders import folder_of, sharded

GGUF = Path(__file__).resolve().parent.parent / "data" / "gguf" / "small.gguf"
DENSE = {"a.weight": np.ones((2, 64), np.float16)}
MLX = {
    "a.weight": np.zeros((2, 8), np.uint32),
    "a.scales": np.ones((2, 1), np.float16),
    "a.biases": np.ones((2, 1), np.float16),
}
AWQ = {
    "a.qweight": np.zeros((64, 1), np.int32),
    "a.scales": np.ones((1, 8), np.float16),
    "a.qzeros": np.zeros((1, 1), np.int32),
}
SETTINGS = {"quant_method": "awq", "bits": 4, "group_size": 64}
Q4 = {"bits": 4, "group_size": 64}


@pytest.mark.parametrize(
    ("tensors", "config", "kind"),
    [
        (DENSE, {}, "hf"),
        (DENSE, {"quantization": None}, "hf"),
        (DENSE, {"quantization": Q4}, "mlx"),
        (MLX, {"quantization": Q4}, "mlx"),
        (MLX, {"quantization_config": Q4}, "mlx"),
        (AWQ, {"quantization_config": SETTINGS}, "awq"),
    ],
)
def test_kinds_of_folders(tensors: dict[str, np.ndarray], config: dict[str, Any], kind: str, tmp_path: Path) -> None:
    assert open_source(folder_of(tmp_path, tensors, config)).kind == kind


def test_one_tensor_file_of_a_folder(tmp_path: Path) -> None:
    sharded(tmp_path, {"model-1.safetensors": DENSE, "model-2.safetensors": {"b.weight": np.ones(2, np.float32)}})
    assert list(open_source(tmp_path / "model-2.safetensors").weights) == ["b.weight"]
    assert list(open_source(tmp_path).weights) == ["a.weight", "b.weight"]


def test_a_gguf_file() -> None:
    assert open_source(GGUF).kind == "gguf"


def test_links_are_followed(tmp_path: Path) -> None:
    """The Hub's cache is a folder of links to files elsewhere."""
    folder_of(tmp_path / "blobs", DENSE)
    (tmp_path / "snapshot").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / name)
    assert list(open_source(tmp_path / "snapshot").weights) == ["a.weight"]


def nothing(root: Path) -> Path:
    return root / "nothing"


def no_config(root: Path) -> Path:
    (folder_of(root, DENSE) / "config.json").unlink()
    return root


def ggufs_only(root: Path) -> Path:
    shutil.copy(GGUF, root / "model-q4.gguf")
    return root


def config_is_a_folder(root: Path) -> Path:
    (no_config(root) / "config.json").mkdir()
    return root


def other_file(root: Path) -> Path:
    (root / "model.bin").write_bytes(b"\x80\x02.")
    return root / "model.bin"


def pipe(root: Path) -> Path:
    os.mkfifo(root / "a.gguf")
    return root / "a.gguf"


def dangling_link(root: Path) -> Path:
    (no_config(root) / "config.json").symlink_to(root / "gone")
    return root


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (nothing, "nothing: there is no such file or folder"),
        (no_config, "config.json is missing"),
        (ggufs_only, r"config.json is missing.*model-q4.gguf"),
        (config_is_a_folder, "config.json is missing"),
        (dangling_link, "config.json is missing"),
        (other_file, "model.bin: .* GGUF file or a .safetensors file"),
        (pipe, "a.gguf: is not a regular file"),
    ],
)
def test_what_is_no_source(make: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=said):
        open_source(make(tmp_path))


def test_a_local_path_wins_and_has_no_revision(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "org" / "name", DENSE)
    assert local_source(str(root), None) == root
    assert list(survey_source(str(root), None).weights) == ["a.weight"]
    with pytest.raises(WrongUsage, match="--revision .*local path"):
        local_source(str(root), "main")


@pytest.mark.parametrize("text", ["./nothing", "/nothing/at/all", "a/b/c", "x" * 5000, "a/" + "b" * 5000, "a\0b", ""])
def test_neither_a_path_nor_a_hub_id(text: str) -> None:
    with pytest.raises(BadInput, match="no such file or folder, and it is not a Hub id"):
        local_source(text, None)
    with pytest.raises(BadInput, match="no such file or folder, and it is not a Hub id"):
        survey_source(text, None)


def test_a_lone_tensor_file_is_listed_without_a_config(tmp_path: Path) -> None:
    root = folder_of(tmp_path, DENSE)
    (root / "config.json").unlink()
    found = open_source(root / "model.safetensors")
    assert found.kind == "hf" and set(found.weights) == set(DENSE)
