"""GGUF files that llama.cpp does not load but the format allows: looked at, compared and copied as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.containers import gguf
from quantcli.errors import NotPossible
from quantcli.sources.detect import open_source
from tests.conversions import converted, planned
from tests.gguf_files import Raw, Tensors, of_values, save

LLAMA = {"general.architecture": ("string", "llama")}
LONG = "model.diffusion_model." + "x" * 60 + ".weight"


def none(shape: tuple[int, ...]) -> Raw:
    return Raw("f32", shape, np.zeros((0,), np.uint8))


def of(*shapes: tuple[str, tuple[int, ...]]) -> Tensors:
    random = np.random.default_rng(5)
    return {name: of_values(random.standard_normal(shape)) if 0 not in shape else none(shape) for name, shape in shapes}


def contents(path: Path) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """The shape and the bytes of every tensor."""
    data = path.read_bytes()
    infos = gguf.read(path).tensors
    return {name: (info.shape, data[info.offset :][: info.nbytes]) for name, info in infos.items()}


#: Tensors, and what a warning says of the first that llama.cpp does not load.
BEYOND: dict[str, tuple[Tensors, str]] = {
    "five dimensions": (of(("patch.weight", (2, 3, 1, 2, 32)), ("a", (64,))), "has 5 dimensions; llama.cpp's limit"),
    "nine dimensions": (of(("patch.weight", (1, 1, 1, 1, 1, 1, 1, 2, 32))), "has 9 dimensions"),
    "a long name": (of((LONG, (4, 64))), f"has a name of {len(LONG)} bytes; llama.cpp's limit is 63"),
    "no rows": (of(("a", (64,)), ("none.weight", (0, 64)), ("z", (64,))), "has no elements"),
    "no columns": (of(("a", (64,)), ("none.weight", (64, 0)), ("z", (64,))), "has no elements"),
    "no elements, the first and the last": (of(("a", (0,)), ("b", (64,)), ("z", (0,))), "has no elements"),
}  # fmt: skip


@pytest.mark.parametrize("keys", [{}, LLAMA], ids=["no keys", "llama"])
@pytest.mark.parametrize("what", BEYOND)
def test_what_llama_cpp_does_not_load_is_copied_with_a_warning(
    what: str, keys: dict[str, tuple[str, Any]], tmp_path: Path
) -> None:
    tensors, said = BEYOND[what]
    source = save(tmp_path / "in.gguf", keys, tensors)
    report = converted(source, tmp_path / "out.gguf")
    assert report["verified"] and any(said in warning for warning in report["warnings"])
    assert contents(tmp_path / "out.gguf") == {n: (raw.shape, raw.rows.tobytes()) for n, raw in tensors.items()}
    with pytest.raises(NotPossible, match="--strict"):
        planned(source, tmp_path / "strict.gguf", strict=True)


def test_a_file_without_keys_becomes_no_folder(tmp_path: Path) -> None:
    source = save(tmp_path / "in.gguf", {}, of(("a.weight", (4, 64))))
    with pytest.raises(NotPossible, match="folders require it"):
        planned(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["sha256-0123456789abcdef", "model.bin", "model.GGUF", "model.safetensors", "model"])
def test_a_gguf_is_known_by_its_first_bytes(name: str, tmp_path: Path) -> None:
    source = save(tmp_path / name, LLAMA, of(("a.weight", (4, 64))))
    assert open_source(source).kind == "gguf"
    converted(source, tmp_path / "out.gguf", scheme="q8_0")
    assert gguf.read(tmp_path / "out.gguf").tensors["a.weight"].type_name == "q8_0"


def test_the_diffusion_model_of_the_field(shared: Path, tmp_path: Path) -> None:
    file = shared / "field" / "gguf" / "five-dimensions.gguf"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    converted(file, tmp_path / "out.gguf")
    assert {name: info.shape for name, info in gguf.read(tmp_path / "out.gguf").tensors.items()} == {
        name: info.shape for name, info in gguf.read(file).tensors.items()
    }


def test_bytes_after_the_last_tensor_are_a_warning(tmp_path: Path) -> None:
    source = save(tmp_path / "in.gguf", LLAMA, of(("a.weight", (4, 64))))
    assert open_source(source).warnings == ()
    source.write_bytes(source.read_bytes() * 2)
    (warning,) = open_source(source).warnings
    assert "bytes after its last tensor" in warning
