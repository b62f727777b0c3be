"""config.json of MLX folders: rope settings where mlx-lm looks for them, the quantization block, what is left out."""

from pathlib import Path
from typing import Any

import pytest

from tests.builders import LLAMA, folder_of, llama_tensors, tiny_awq, tiny_llama
from tests.conversions import config, converted, schemes, stored

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


def with_config(root: Path, keys: dict[str, Any]) -> Path:
    """A tiny llama without its `rope_theta`, with `keys`; None removes one."""
    config = {key: value for key, value in {**LLAMA, "rope_theta": None, **keys}.items() if value is not None}
    return folder_of(root, llama_tensors(LLAMA), config)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {"rope_theta": 5e5}),
        ({"rope_parameters": {"rope_theta": 5e5}}, {"rope_theta": 5e5}),
        (
            {"rope_parameters": {**YARN, "rope_theta": 1e6}},
            {"rope_theta": 1e6, "rope_scaling": YARN | {"type": "yarn"}},
        ),
        (
            {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
            {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"type": "llama3"}},
        ),
        ({"rope_theta": 7e4, "rope_scaling": YARN}, {"rope_theta": 7e4, "rope_scaling": YARN}),
        ({"rope_theta": 7e4}, {"rope_theta": 7e4}),
        ({"rope_theta": 7e4, "rope_parameters": {"rope_theta": 7e4, "rope_type": "default"}}, {"rope_theta": 7e4}),
        ({}, {}),
    ],
)
@pytest.mark.parametrize("scheme", [None, "affine4-g64"])
def test_rope_settings_stand_at_the_top(
    tmp_path: Path, given: dict[str, Any], expected: dict[str, Any], scheme: str | None
) -> None:
    converted(with_config(tmp_path / "source", given), tmp_path / "out", scheme=scheme)
    written = config(tmp_path / "out")
    assert {key: written.get(key) for key in ("rope_theta", "rope_scaling")} == {
        "rope_theta": expected.get("rope_theta"), "rope_scaling": expected.get("rope_scaling"),
    }  # fmt: skip
    assert written.get("rope_parameters") == given.get("rope_parameters")


def test_all_other_keys_stay(tmp_path: Path) -> None:
    source = with_config(
        tmp_path / "source", {"rope_theta": 1e4, "strange": [1, None, {"a": "ü"}], "_name_or_path": "x"}
    )
    converted(source, tmp_path / "out", scheme="affine4-g64")
    written, before = config(tmp_path / "out"), config(source)
    assert {k: v for k, v in written.items() if not k.startswith("quantization")} == {
        k: v for k, v in before.items() if k != "_name_or_path"
    }
    assert list(written) == sorted(written)


def test_uniform_block_has_no_entries(tmp_path: Path) -> None:
    converted(tiny_llama(tmp_path / "source"), tmp_path / "out", scheme="mxfp8")
    block = {"group_size": 32, "bits": 8, "mode": "mxfp8"}
    assert config(tmp_path / "out")["quantization"] == config(tmp_path / "out")["quantization_config"] == block


def test_dense_folder_has_no_block(tmp_path: Path) -> None:
    converted(tiny_llama(tmp_path / "source"), tmp_path / "four", scheme="affine4-g64")
    converted(tmp_path / "four", tmp_path / "out", scheme="bf16")
    assert not {"quantization", "quantization_config"} & set(config(tmp_path / "out"))
    assert set(schemes(tmp_path / "out").values()) == {"bf16"}


def test_settings_of_the_source_are_replaced(tmp_path: Path) -> None:
    """AutoAWQ's `quantization_config` becomes the mirror of MLX's block; dense embeddings need no entry to load."""
    converted(tiny_awq(tmp_path / "source"), tmp_path / "out")
    block = {"group_size": 64, "bits": 4, "mode": "affine"}
    written = config(tmp_path / "out")
    assert written["quantization"] == written["quantization_config"] == block
    assert "model.embed_tokens.scales" not in stored(tmp_path / "out")
    assert schemes(tmp_path / "out")["lm_head.weight"] == "f16"


def test_one_entry_for_each_module_that_differs(tmp_path: Path) -> None:
    overrides = ("*.layers.1.*=affine8-g32", "model.embed_tokens=mxfp4", "lm_head=nvfp4", "*.layers.1.mlp.up_proj=keep")
    converted(tiny_llama(tmp_path / "source"), tmp_path / "out", scheme="affine4-g64", overrides=overrides)
    block = dict(config(tmp_path / "out")["quantization"])
    assert [block.pop(key) for key in ("group_size", "bits", "mode")] == [64, 4, "affine"]
    assert block.pop("model.embed_tokens") == {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    assert block.pop("lm_head") == {"group_size": 16, "bits": 4, "mode": "nvfp4"}
    eights = [f"self_attn.{p}_proj" for p in "qkvo"] + ["mlp.gate_proj", "mlp.down_proj"]
    eight = {"group_size": 32, "bits": 8, "mode": "affine"}
    assert {k: v for k, v in block.items() if v is not False} == {f"model.layers.1.{m}": eight for m in eights}
    assert schemes(tmp_path / "out")["model.layers.1.mlp.up_proj.weight"] == "bf16"


def test_recipe_without_a_default_makes_the_commonest_the_top(tmp_path: Path) -> None:
    converted(
        tiny_llama(tmp_path / "source"), tmp_path / "out", overrides=("*.mlp.*=affine6-g64", "*.q_proj=affine4-g32")
    )
    block = config(tmp_path / "out")["quantization"]
    assert {key: block[key] for key in ("group_size", "bits", "mode")} == {
        "group_size": 64,
        "bits": 6,
        "mode": "affine",
    }
    found = schemes(tmp_path / "out")
    assert found["model.layers.0.self_attn.q_proj.weight"] == "affine4-g32"
    assert found["model.layers.0.self_attn.k_proj.weight"] == "bf16"


def test_sidecars_are_copied_byte_for_byte(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "source")
    kept = {
        "chat_template.jinja": b"{{ x }}\r\n",
        "generation_config.json": b'{"a":  1}',
        "tokenizer.model": b"\x00\xff",
        "notes.txt": b"mine",
        "README.md": b"# mine",
    }
    for name, data in kept.items():
        (source / name).write_bytes(data)
    converted(source, tmp_path / "out", scheme="affine4-g64")
    for name, data in {**kept, "tokenizer.json": (source / "tokenizer.json").read_bytes()}.items():
        assert (tmp_path / "out" / name).read_bytes() == data
