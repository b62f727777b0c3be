"""`--scheme` is refused where no weight of the output would have it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.containers import gguf_write
from quantcli.errors import NotPossible
from tests.builders import folder_of, tiny_llama
from tests.conversions import converted, planned


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "in")


#: Schemes that no weight of a tiny llama (rows of 64 and 128) can have, by output.
IN_VAIN = [
    ("out", {"scheme": "affine4-g64", "overrides": ("*=bf16",)}),
    ("out", {"bits": 4, "group_size": 64, "overrides": ("*=affine8-g64",)}),
    ("out", {"scheme": "mixed_3_6", "overrides": ("*=bf16",)}),
    ("out", {"to": "hf", "scheme": "int4-g96"}),
    ("out", {"to": "hf", "scheme": "uint8-g96"}),
    ("out.gguf", {"scheme": "q8_0", "overrides": ("*=f16",)}),
    ("out.gguf", {"scheme": "mxfp4", "overrides": ("*=f16",)}),
    ("out.gguf", {"scheme": "q4_k_m", "overrides": ("*=q8_0",)}),
]


@pytest.mark.parametrize(("output", "options"), IN_VAIN, ids=str)
def test_a_scheme_that_no_weight_of_the_output_has_is_refused(
    output: str, options: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotPossible, match="no weight of the output") as caught:
        planned(model, tmp_path / output, **options)
    assert options.get("scheme", "--bits") in str(caught.value) and ".weight" in str(caught.value)


@pytest.mark.parametrize("scheme", ["mixed_3_6", "mxfp4", "affine4-g64"])
def test_a_folder_that_has_it_already_is_copied(scheme: str, model: Path, tmp_path: Path) -> None:
    converted(model, tmp_path / "in", scheme=scheme)
    assert {str(step.route) for step in planned(tmp_path / "in", tmp_path / "out", scheme=scheme).steps} == {"copy"}


@pytest.mark.parametrize("scheme", ["q4_0", "q4_k_m", "mxfp4"])
@pytest.mark.parametrize("overrides", [(), ("blk.0.ffn_up.weight=q8_0",)])
def test_a_mixture_that_keeps_all_as_it_was_is_refused(
    scheme: str, overrides: tuple[str, ...], model: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in.gguf"
    converted(model, source, scheme="q8_0")
    with pytest.raises(NotPossible, match="--allow-requantize"):
        planned(source, tmp_path / "out.gguf", scheme=scheme, overrides=overrides)
    assert planned(source, tmp_path / "out.gguf", scheme=scheme, overrides=overrides, allow_requantize=True).steps
    assert planned(source, tmp_path / "out.gguf", scheme="q8_0").steps


@pytest.mark.parametrize("scheme", ["q8_0", "q4_k_m", "mxfp4"])
def test_an_adapter_gets_no_scheme_that_changes_nothing(scheme: str, tmp_path: Path) -> None:
    made = {f"blk.0.attn_q.weight.lora_{half}": np.ones((8, 256), np.float32) for half in "ab"}
    keys = {"general.architecture": ("string", "llama"), "general.type": ("string", "adapter")}
    head, _, size = gguf_write.header(keys, [(name, array.shape, "f32") for name, array in made.items()])
    data = bytearray(size)
    data[: len(head)] = head
    (tmp_path / "in.gguf").write_bytes(data)
    with pytest.raises(NotPossible, match=f"--scheme {scheme}: .*is an adapter"):
        planned(tmp_path / "in.gguf", tmp_path / "out.gguf", scheme=scheme)
    assert planned(tmp_path / "in.gguf", tmp_path / "out.gguf").steps


def test_a_scheme_that_only_rows_of_another_length_could_have_is_refused(tmp_path: Path) -> None:
    tensors = {f"m.{i}.weight": np.ones((8, 96), np.float32) for i in range(3)}
    source = folder_of(tmp_path / "in", tensors, {"model_type": "mystery"})
    with pytest.raises(NotPossible, match=r"--scheme affine4-g64: .*m\.\d\.weight: .*96"):
        planned(source, tmp_path / "out", scheme="affine4-g64")
    plan = planned(source, tmp_path / "out", scheme="affine4-g32", allow_unknown_architecture=True)
    assert {step.scheme.name for step in plan.steps} == {"affine4-g32"}


@pytest.mark.parametrize(
    ("output", "options"),
    [
        ("out", {"scheme": "f16"}), ("out", {"scheme": "keep"}), ("out", {"scheme": "mixed_3_6"}),
        ("out", {"scheme": "mxfp4", "overrides": ("*.q_proj=bf16",)}), ("out", {"to": "hf", "scheme": "uint8-channel"}),
        ("out", {"to": "hf", "scheme": "fp4-double"}), ("out", {"to": "hf", "scheme": "fp8-e4m3"}),
        ("out.gguf", {"scheme": "q4_k_m"}), ("out.gguf", {"scheme": "copy"}), ("out.gguf", {"scheme": "bf16"}),
        ("out.gguf", {"scheme": "mxfp4"}), ("out.gguf", {"scheme": "q4_k_m", "pure": True}),
    ],
    ids=str,
)  # fmt: skip
def test_a_scheme_that_some_weight_has_is_not(
    output: str, options: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    assert planned(model, tmp_path / output, **options).steps
