"""What `--prune-layers` changes in the metadata beside the number of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.containers import gguf
from quantcli.errors import NotPossible
from quantcli.recipes.prune_keys import LEADING, PER_LAYER, PERIODS, UNPREFIXED
from tests.conversions import converted, planned
from tests.gguf_files import of_values, save

LAYERS = 6
NUMBERS = [10, 11, 12, 13, 14, 15]


def source(
    path: Path, architecture: str, keys: dict[str, Any], *, mtp: tuple[int, ...] = (), extra: str = "",
    layers: int = LAYERS,
) -> Path:  # fmt: skip
    """A file; keys: without their prefix, `.` before one that has none; mtp: layers with `eh_proj`."""
    names = ["token_embd.weight", *(f"blk.{i}.ffn_up.weight" for i in range(layers))]
    names += [f"blk.{i}.nextn.eh_proj.weight" for i in mtp] + ([extra] if extra else [])
    tensors = {name: of_values(np.full((2, 32), i, np.float32)) for i, name in enumerate(names)}
    own = {f"{architecture}.{key}".rpartition("..")[2]: typed for key, typed in keys.items()}
    count = {f"{architecture}.block_count": ("uint32", layers)}
    return save(path, {"general.architecture": ("string", architecture)} | count | own, tensors)


def pruned(path: Path, layers: str) -> tuple[dict[str, Any], list[str]]:
    output = path.with_name(f"without-{layers}.gguf")
    output.unlink(missing_ok=True)
    output.with_name(f"{output.name}.report.json").unlink(missing_ok=True)
    report = converted(path, output, prune_layers=layers)
    found = {key: value.value for key, value in gguf.read(output).metadata.items()}
    return {key: value.decode() if hasattr(value, "decode") else value for key, value in found.items()}, report[
        "warnings"
    ]


@pytest.mark.parametrize("name", PER_LAYER)
def test_arrays_of_layers_are_cut(tmp_path: Path, name: str) -> None:
    is_bare = name in UNPREFIXED
    has_floats = is_bare or name.startswith("swiglu_clamp")
    kind, values = ("array[float32]", [i / 2 for i in NUMBERS]) if has_floats else ("array[int32]", NUMBERS)
    path = source(tmp_path / "in.gguf", "mystery", {f".{name}" if is_bare else name: (kind, values)})
    found, warnings = pruned(path, "1,4")
    assert found[name if is_bare else f"mystery.{name}"] == [values[i] for i in (0, 2, 3, 5)]
    assert found["mystery.block_count"] == 4 and not warnings


@pytest.mark.parametrize("name", PER_LAYER)
def test_one_number_for_all_layers_stays(tmp_path: Path, name: str) -> None:
    found, _ = pruned(source(tmp_path / "in.gguf", "mystery", {name: ("uint32", 6)}), "1,4")
    assert found[f"mystery.{name}"] == 6


def test_arrays_of_flags_are_cut(tmp_path: Path) -> None:
    pattern = [True, True, False, True, True, False]
    keys = {"attention.sliding_window_pattern": ("array[bool]", pattern), "attention.sliding_window": ("uint32", 8)}
    found, warnings = pruned(source(tmp_path / "in.gguf", "exaone4", keys), "2")
    assert found["exaone4.attention.sliding_window_pattern"] == [True, True, True, True, False]
    assert not warnings


def test_other_lists_stay(tmp_path: Path) -> None:
    """A list of as many values as there are layers may be something else: a warning says that it stays."""
    sections = {"rope.dimension_sections": ("array[int32]", NUMBERS), "short": ("array[int32]", [1, 2])}
    found, warnings = pruned(source(tmp_path / "in.gguf", "mystery", sections), "0")
    assert found["mystery.rope.dimension_sections"] == NUMBERS and found["mystery.short"] == [1, 2]
    assert not warnings
    found, warnings = pruned(source(tmp_path / "in.gguf", "mystery", {"odd": ("array[int32]", NUMBERS)}), "0")
    assert found["mystery.odd"] == NUMBERS
    assert len(warnings) == 1 and "mystery.odd" in warnings[0]
    with pytest.raises(NotPossible, match=r"mystery\.odd"):
        planned(tmp_path / "in.gguf", tmp_path / "out.gguf", prune_layers="0", strict=True)


@pytest.mark.parametrize("name", LEADING)
def test_leading_layers_are_counted_again(tmp_path: Path, name: str) -> None:
    found, _ = pruned(source(tmp_path / "in.gguf", "mystery", {name: ("uint32", 3)}), "1,2,5")
    assert found[f"mystery.{name}"] == 1


def test_trailing_layers_are_counted_again(tmp_path: Path) -> None:
    key = "attention.shared_kv_layers"
    found, _ = pruned(source(tmp_path / "in.gguf", "mystery", {key: ("uint32", 3)}), "1,3,5")
    assert found[f"mystery.{key}"] == 1


@pytest.mark.parametrize(("mtp", "layers", "left"), [((5,), "5", 0), ((4, 5), "4", 1), ((5,), "0", 1), ((), "5", 0)])
def test_layers_for_multi_token_prediction_are_those_with_eh_proj(
    tmp_path: Path, mtp: tuple[int, ...], layers: str, left: int
) -> None:
    keys = {"nextn_predict_layers": ("uint32", max(len(mtp), 1))}
    found, _ = pruned(source(tmp_path / "in.gguf", "glm4moe", keys, mtp=mtp), layers)
    assert found["glm4moe.nextn_predict_layers"] == left


@pytest.mark.parametrize("architecture", PERIODS)
def test_a_pattern_that_comes_back_is_a_warning(tmp_path: Path, architecture: str) -> None:
    keys: dict[str, Any] = {"attention.sliding_window": ("uint32", 8)}
    keys |= {period.key: ("uint32", 2) for period in PERIODS[architecture] if not period.step}
    path = source(tmp_path / "in.gguf", architecture, keys, layers=9)
    _, found = pruned(path, "0")
    warnings = [warning for warning in found if "output.weight" not in warning]
    assert len(warnings) == len(PERIODS[architecture])
    assert all(architecture in warning for warning in warnings)


def test_layers_that_keep_their_places_are_none(tmp_path: Path) -> None:
    """Whole groups of a pattern, and layers after which none is left."""
    path = source(tmp_path / "in.gguf", "gemma2", {})
    for layers in ("0,1", "2,3", "5", "1,2"):
        assert not pruned(path, layers)[1]
    assert pruned(path, "1")[1]


def test_the_key_says_the_step(tmp_path: Path) -> None:
    keys = {"attention.sliding_window_pattern": ("uint32", 3), "attention.sliding_window": ("uint32", 8)}
    path = source(tmp_path / "in.gguf", "gemma3", keys)
    assert not pruned(path, "0,1,2")[1]
    assert "gemma3.attention.sliding_window_pattern" in pruned(path, "0")[1][0]


def test_a_tensor_of_all_layers_is_not_cut(tmp_path: Path) -> None:
    path = source(tmp_path / "in.gguf", "gemma3n", {}, extra="per_layer_token_embd.weight")
    with pytest.raises(NotPossible, match=r"per_layer_token_embd\.weight"):
        planned(path, tmp_path / "out.gguf", prune_layers="1")


def test_an_override_is_stronger(tmp_path: Path) -> None:
    path = source(tmp_path / "in.gguf", "mystery", {"leading_dense_block_count": ("uint32", 3)})
    key = "mystery.leading_dense_block_count"
    converted(path, tmp_path / "out.gguf", prune_layers="0", override_kv=(f"{key}=int:5",))
    assert gguf.read(tmp_path / "out.gguf").metadata[key].value == 5


def test_counts_are_hostile(tmp_path: Path) -> None:
    keys = {"attention.shared_kv_layers": ("uint32", 2**32 - 1), "leading_dense_block_count": ("int64", -5)}
    path = source(tmp_path / "in.gguf", "smollm3", keys | {"block_count": ("uint32", 2**32 - 1)})
    found, _ = pruned(path, "0")
    assert found["smollm3.block_count"] == 5
