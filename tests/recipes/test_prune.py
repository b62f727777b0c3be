"""Layers left out and the others numbered anew, as llama-quantize does it (its dry runs: test_llama_cpp_policy.py)."""

import json
from pathlib import Path

import pytest

from quantcli.errors import WrongUsage
from quantcli.recipes import prune


def names(*layers: int) -> list[str]:
    return ["output.weight", *(f"blk.{layer}.attn_q.weight" for layer in layers)]


@pytest.mark.parametrize(
    ("there", "without", "numbers", "layers"),
    [
        ((0, 1, 2, 3), (1, 2), {0: 0, 3: 1}, 2),
        ((0, 1, 2), (0,), {1: 0, 2: 1}, 2),
        ((0, 1, 2), (2,), {0: 0, 1: 1}, 2),
        ((0, 1, 2, 3, 4), (1, 3), {0: 0, 2: 1, 4: 2}, 3),
        ((9, 10, 11), (10,), {9: 9, 11: 10}, 11),
    ],
)
def test_numbers(there: tuple[int, ...], without: tuple[int, ...], numbers: dict[int, int], layers: int) -> None:
    found = prune.prune(names(*there), without)
    wanted = {f"blk.{old}.attn_q.weight": f"blk.{new}.attn_q.weight" for old, new in numbers.items()}
    assert found == prune.Pruned({"output.weight": "output.weight"} | wanted, layers, numbers)


def test_as_llama_quantize_did_it(shared: Path) -> None:
    for model in ("micro-llama", "tiny-llama"):
        folder = shared / "fixtures/gguf" / model
        whole = json.loads((folder / "Q4_K_M.json").read_text())["tensors"]
        pruned = json.loads((folder / "Q4_K_M.prune-1.json").read_text())
        found = prune.prune([tensor["name"] for tensor in whole], (1,))
        assert list(found.names.values()) == [tensor["name"] for tensor in pruned["tensors"]]
        assert found.layers == pruned["metadata"]["llama.block_count"][1]


def test_parse() -> None:
    assert prune.parse("3, 1,3") == (1, 3)


@pytest.mark.parametrize("text", ["", "1,", "a", "-1", "1.5", "1 2", "9" * 30, "²"])
def test_malformed_lists(text: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        prune.parse(text)
    assert f"--prune-layers {text!r}" in str(caught.value)


def test_layers_that_are_not_there_and_all_of_them() -> None:
    with pytest.raises(WrongUsage, match=r"--prune-layers 7: .* 2[.]"):
        prune.prune(names(0, 1), (1, 7))
    with pytest.raises(WrongUsage, match="every layer"):
        prune.prune(names(0, 1), (0, 1))
