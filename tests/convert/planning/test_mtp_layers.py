"""Layers for multi-token prediction are those with `eh_proj`, whatever the settings count."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.containers import gguf
from quantcli.errors import BadInput, NotPossible
from tests.conversions import config, converted, planned
from tests.conversions import stored as in_folder
from tests.convert.test_golden_arch import DATA, reference, write_model
from tests.gguf_files import Raw, load, of_values, rewritten

#: The case's last layer is one for multi-token prediction.
LAYERS = 3
NEXTN = "nextn_predict_layers"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of the cases; their GGUF files stand next to them."""
    root = tmp_path_factory.mktemp("models")

    def make(case: str) -> Path:
        folder = root / case
        if not folder.exists():
            write_model(folder, case, reference(case)["source"])
            kind = json.loads((DATA / "arch" / case / "reference.json").read_text())["tokenizer"]
            for sidecar in (DATA / "tokenizers" / "kinds" / kind).glob("*.json"):
                shutil.copy(sidecar, folder)
            converted(folder, root / f"{case}.gguf", check=False)
        return folder

    return make


def without_layer(number: int) -> Callable[[dict[str, Raw]], dict[str, Raw]]:
    return lambda tensors: {n: raw for n, raw in tensors.items() if not n.startswith(f"blk.{number}.")}


def as_mtp(tensors: dict[str, Raw]) -> dict[str, Raw]:
    """One more layer, a copy of the last with what makes it one for multi-token prediction."""
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith("blk."))
    copies = {
        n.replace(f"blk.{last}.", f"blk.{last + 1}."): raw for n, raw in tensors.items() if n.startswith(f"blk.{last}.")
    }
    hidden = tensors["output_norm.weight"].shape[0]
    parts = {"eh_proj": (hidden, 2 * hidden), "enorm": (hidden,), "hnorm": (hidden,), "shared_head_norm": (hidden,)}
    nextn = {f"blk.{last + 1}.nextn.{n}.weight": of_values(np.ones(shape)) for n, shape in parts.items()}
    return tensors | copies | nextn


def to_folder(file: Path, tmp_path: Path, **options: Any) -> tuple[dict[str, Any], set[int], dict[str, Any]]:
    """config.json of the folder that a file becomes, the layers in it, and the report."""
    report = converted(file, tmp_path / "hf", to="hf", check=False, **options)
    layers = {int(name.split(".")[2]) for name in in_folder(tmp_path / "hf") if name.startswith("model.layers.")}
    return config(tmp_path / "hf"), layers, report


def test_the_usual_file(made: Callable[[str], Path], tmp_path: Path) -> None:
    settings, layers, report = to_folder(made("glm4_moe").with_suffix(".gguf"), tmp_path)
    assert (settings["num_hidden_layers"], settings["num_nextn_predict_layers"]) == (LAYERS, 1)
    assert layers == {0, 1, 2, 3} and not report["warnings"] and not report["left_out"]


def test_a_file_pruned_by_llama_quantize(made: Callable[[str], Path], tmp_path: Path) -> None:
    """The layer is gone and still counted: llama.cpp then leaves out an ordinary one."""
    plain = made("glm4_moe").with_suffix(".gguf")
    file = rewritten(plain, tmp_path / "in.gguf", without_layer(LAYERS), block_count=("uint32", LAYERS))
    settings, layers, report = to_folder(file, tmp_path)
    assert (settings["num_hidden_layers"], settings["num_nextn_predict_layers"]) == (LAYERS, 0)
    assert layers == {0, 1, 2}
    assert len(report["warnings"]) == 1 and NEXTN in report["warnings"][0]


def test_a_file_without_the_layer_that_counts_it(made: Callable[[str], Path], tmp_path: Path) -> None:
    plain = made("glm4_moe").with_suffix(".gguf")
    settings, layers, report = to_folder(rewritten(plain, tmp_path / "in.gguf", without_layer(LAYERS)), tmp_path)
    assert (settings["num_hidden_layers"], settings["num_nextn_predict_layers"]) == (LAYERS, 0)
    assert layers == {0, 1, 2} and not report["warnings"]


@pytest.mark.parametrize("count", [("uint32", 0), None])
@pytest.mark.parametrize("blocks", [LAYERS, LAYERS + 1])
@pytest.mark.parametrize("target", ["hf", "mlx"])
def test_a_layer_that_is_not_counted_is_left_out(
    made: Callable[[str], Path], tmp_path: Path, count: Any, blocks: int, target: str
) -> None:
    plain = made("glm4_moe").with_suffix(".gguf")
    file = rewritten(plain, tmp_path / "in.gguf", nextn_predict_layers=count, block_count=("uint32", blocks))
    report = converted(file, tmp_path / "out", to=target, check=False)
    gone = {name for name in load(file)[1] if name.startswith(f"blk.{LAYERS}.")}
    assert {tensor["name"] for tensor in report["left_out"]} == gone
    (warning,) = report["warnings"]
    assert NEXTN in warning and str(len(gone)) in warning
    assert (config(tmp_path / "out")["num_hidden_layers"], config(tmp_path / "out")["num_nextn_predict_layers"]) == (
        3,
        0,
    )
    with pytest.raises(NotPossible, match=NEXTN):
        planned(file, tmp_path / "no", to=target, strict=True)


def with_settings(folder: Path, copy: Path, **settings: Any) -> Path:
    shutil.copytree(folder, copy)
    (copy / "config.json").write_text(json.dumps(config(folder) | settings))
    return copy


def test_a_folder_that_counts_none(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = with_settings(made("glm4_moe"), tmp_path / "in", num_nextn_predict_layers=0)
    report = converted(folder, tmp_path / "out.gguf", check=False)
    metadata, tensors = load(tmp_path / "out.gguf")
    assert (metadata["glm4moe.block_count"][1], metadata[f"glm4moe.{NEXTN}"][1]) == (LAYERS, 0)
    assert not any(name.startswith(f"blk.{LAYERS}.") for name in tensors)
    assert len(report["warnings"]) == 1 and NEXTN in report["warnings"][0]


@pytest.mark.parametrize("case", ["glm4_moe", "deepseek_v3", "exaone4", "glm4"])
@pytest.mark.parametrize("target", ["gguf", "mlx"])
def test_an_ordinary_layer_beyond_the_count_is_refused(
    made: Callable[[str], Path], tmp_path: Path, case: str, target: str
) -> None:
    """It was taken for one for multi-token prediction, and dropped or counted as such."""
    count = config(made(case))["num_hidden_layers"]
    folder = with_settings(made(case), tmp_path / "in", num_hidden_layers=count - 1)
    with pytest.raises(BadInput, match=f"layers?[ .]{count - 1}|layer_types"):
        planned(folder, tmp_path / ("out.gguf" if target == "gguf" else "out"), to=target)


def test_an_ordinary_layer_beyond_block_count_is_refused(made: Callable[[str], Path], tmp_path: Path) -> None:
    for case in ("deepseek_v3", "glm4"):
        plain = made(case).with_suffix(".gguf")
        count = gguf.read(plain).metadata[f"{'deepseek2' if case == 'deepseek_v3' else case}.block_count"].value
        file = rewritten(plain, tmp_path / f"{case}.gguf", block_count=("uint32", count - 1))
        with pytest.raises(BadInput, match=f"layer {count - 1}|blk.{count - 1}"):
            planned(file, tmp_path / "out", to="hf")


@pytest.mark.parametrize(
    ("case", "keeps"), [("deepseek_v3", True), ("deepseek_v2", False), ("glm4", False), ("exaone4", False)]
)
def test_files_of_other_families_with_the_layer(
    made: Callable[[str], Path], tmp_path: Path, case: str, keeps: bool
) -> None:
    """Kept where the class in transformers has a place for it, else left out with a reason; the others stay."""
    plain = made(case).with_suffix(".gguf")
    own = {key.partition(".")[2]: value for key, (_, value) in load(plain)[0].items()}
    count = own["block_count"]
    keys: dict[str, Any] = {"block_count": ("uint32", count + 1), NEXTN: ("uint32", 1)}
    if "attention.sliding_window_pattern" in own:
        pattern = own["attention.sliding_window_pattern"].decode()
        keys["attention__sliding_window_pattern"] = ("array[bool]", [*pattern, False])
    file = rewritten(plain, tmp_path / "mtp.gguf", as_mtp, **keys)
    settings, layers, report = to_folder(file, tmp_path)
    assert settings["num_hidden_layers"] == count and not report["warnings"]
    assert layers == set(range(count + 1 if keeps else count))
    assert settings.get("num_nextn_predict_layers", 0) == int(keeps)
    converted(plain, tmp_path / "plain", to="hf", check=False)
    wanted, found = in_folder(tmp_path / "plain"), in_folder(tmp_path / "hf")
    assert {name: found[name] for name in wanted} == wanted
    assert len(config(tmp_path / "hf").get("layer_types") or [0] * count) == count
