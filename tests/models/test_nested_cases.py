"""Text models in models with towers, under every prefix under which llama.cpp's converter takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantcli.models import FAMILIES, text_settings
from quantcli.sources.detect import open_source
from tests.arch_models import arch_model, architecture_of, config_of
from tests.conversions import converted
from tests.convert.test_golden_arch import CASES, hashes, layer_of, reference, write_tensors
from tests.prefixes import PREFIXES, prefix_of, renamed

NESTED = {case: reference(case)["prefixes"] for case in CASES if "prefixes" in reference(case)}
#: Families that the converter does not take without any prefix: it knows no such names of their norms, delta nets or
#: stacked experts.
PREFIXED = {"glm4", "qwen3_5", "qwen3_5_moe", "qwen3_vl_moe"}

#: Families whose norms have 1 more in MLX folders, in bf16.
ROUNDED = {"qwen3_5", "qwen3_5_moe"}

#: The case as it stands is one of tests/convert/test_golden_arch.py.
OTHERS = [(case, one) for case, found in NESTED.items() for one in found if one != prefix_of(reference(case)["source"])]


def placed(root: Path, case: str, prefix: str) -> Path:
    """The folder of a case whose text model has another prefix."""
    folder, golden = arch_model(root, case), reference(case)
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    names = renamed(golden["source"], prefix)
    tensors = {names[name]: entry for name, entry in golden["source"].items()}
    write_tensors(folder, tensors, golden.get("files", 1), {new: old for old, new in names.items()})
    return folder


def test_every_prefix_occurs_for_every_family_with_towers() -> None:
    with_towers = {table.name for table in FAMILIES if table.multimodal}
    found: dict[str, set[str]] = {name: set() for name in with_towers}
    for case, prefixes in NESTED.items():
        found[architecture_of(case).name] |= {*prefixes}
    every = {name: {*PREFIXES} - ({""} if name in PREFIXED else set()) for name in with_towers}
    assert found == every


@pytest.mark.parametrize(("case", "prefix"), OTHERS)
def test_gguf_is_the_converters_under_every_prefix(case: str, prefix: str, tmp_path: Path) -> None:
    golden = reference(case)
    source = placed(tmp_path, case, prefix)
    converted(source, tmp_path / "a.gguf", check=False, dtype="bf16")
    assert hashes(tmp_path / "a.gguf") == {
        name: (kind.lower(), tuple(shape), sha) for name, (kind, shape, sha) in golden["gguf"].items()
    }
    assert open_source(source).towers == {*golden["dropped"]}


@pytest.mark.parametrize("case", NESTED)
def test_towers_are_what_the_converter_leaves_out(case: str, tmp_path: Path) -> None:
    assert open_source(arch_model(tmp_path, case)).towers == {*reference(case)["dropped"]}


@pytest.mark.parametrize("case", NESTED)
def test_a_release_comes_back_from_an_mlx_folder(case: str, tmp_path: Path) -> None:
    """Under the names and in the arrangement of its class, which knows no others: experts stacked or one by one."""
    source = arch_model(tmp_path, case)
    converted(source, tmp_path / "mlx", to="mlx", check=False)
    converted(tmp_path / "mlx", tmp_path / "back", to="hf", check=False)
    layers = text_settings(config_of(case))["num_hidden_layers"]
    made, wanted = hashes(tmp_path / "back"), hashes(source)
    wanted = {name: entry for name, entry in wanted.items() if layer_of(name) < layers and "mtp." not in name}
    assert {name: entry[:2] for name, entry in made.items()} == {name: entry[:2] for name, entry in wanted.items()}
    changed = {name for name in wanted if made[name] != wanted[name]}
    assert all(name.endswith("norm.weight") for name in changed)
    assert not changed or architecture_of(case).name in ROUNDED
