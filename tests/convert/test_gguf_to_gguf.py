"""GGUF from GGUF: what is not known is kept, what is quantized is not rounded again unasked, and the options' forms."""

import struct
from pathlib import Path
from typing import Any

import gguf as library
import numpy as np
import pytest

from quantcli.checkpoint import Checkpoint
from quantcli.containers import gguf, gguf_write
from quantcli.containers.gguf_values import Value
from quantcli.errors import BadInput, NotPossible, Surroundings, WrongUsage
from quantcli.targets.base import Settings
from quantcli.targets.gguf_from_gguf import layers_left
from tests.conversions import converted, planned, schemes

ALL = ("Q8_0", "IQ2_XXS", "Q4_0")


def mystery(
    path: Path, *, dense: bool = True, types: tuple[str, ...] = ("Q8_0",), layers: int = 3, file_type: int = 0
) -> Path:
    """A file of an architecture that nobody knows: keys of many kinds, dense matrices, one of each of `types`."""
    writer = library.GGUFWriter(path, "mystery")
    writer.add_uint64("mystery.doubts", 2**40)
    writer.add_uint32("mystery.block_count", layers)
    writer.add_array("mystery.list", [1.5, 2.5])
    writer.add_string("zzz.note", "h\u00e9")
    writer.add_bool("a.flag", True)
    if file_type:
        writer.add_file_type(file_type)
    random = np.random.default_rng(0)
    if dense:
        writer.add_tensor("token_embd.weight", random.standard_normal((8, 256)).astype(np.float32))
        for layer in range(layers):
            writer.add_tensor(f"blk.{layer}.strange.weight", random.standard_normal((8, 256)).astype(np.float16))
    writer.add_tensor("blk.0.some_norm.weight", np.ones(256, np.float32))
    for name in types:
        kind = library.GGMLQuantizationType[name]
        size, nbytes = library.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 16, (4, 256 // size * nbytes), dtype=np.uint8)
        writer.add_tensor(f"blk.0.{name.lower()}.weight", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def with_type(path: Path, tensor: str, number: int) -> Path:
    """The file with another type number for a tensor."""
    raw = bytearray(path.read_bytes())
    at = raw.index(tensor.encode()) + len(tensor)
    rank = struct.unpack_from("<I", raw, at)[0]
    struct.pack_into("<I", raw, at + 4 + 8 * rank, number)
    path.write_bytes(raw)
    return path


def data(path: Path) -> dict[str, bytes]:
    raw = path.read_bytes()
    return {name: raw[t.offset : t.offset + (t.nbytes or t.span)] for name, t in gguf.read(path).tensors.items()}


def keys(path: Path) -> dict[str, tuple[str, Any]]:
    found = gguf.read(path).metadata
    return {key: (v.type, v.value.payload if hasattr(v.value, "payload") else v.value) for key, v in found.items()}


def test_keep_copies_all_bytes_and_keys(tmp_path: Path) -> None:
    source, output = mystery(tmp_path / "in.gguf", types=ALL), tmp_path / "out.gguf"
    report = converted(source, output)
    assert report["verified"] and report["totals"]["routes"] == {"copy": 8}
    assert data(output) == data(source)
    changed = {"general.quantization_version": ("uint32", 2), "general.file_type": ("uint32", 1)}
    assert keys(output) == keys(source) | changed
    assert list(keys(output)) == [*(key for key in keys(source) if key not in changed), *changed]


@pytest.mark.parametrize("options", [{}, {"shard_size": 5000}, {"prune_layers": "1"}, {"scheme": "keep"}])
def test_the_file_type_of_what_is_copied_is_the_sources(tmp_path: Path, options: dict[str, Any]) -> None:
    """A mixture has no type of its own that would tell Q4_K_S from Q4_K_M."""
    source, output = mystery(tmp_path / "in.gguf", types=ALL, file_type=14), tmp_path / "out.gguf"
    converted(source, output, **options)
    first = output if output.exists() else next(tmp_path.glob("out-00001-of-*.gguf"))
    assert keys(first)["general.file_type"] == ("uint32", 14)


@pytest.mark.parametrize(
    ("options", "number"), [({"overrides": ("token_embd*=q8_0",)}, 1), ({"scheme": "q8_0"}, 7), ({"dtype": "f32"}, 0)]
)
def test_the_file_type_of_what_is_not_copied(tmp_path: Path, options: dict[str, Any], number: int) -> None:
    source, output = mystery(tmp_path / "in.gguf", file_type=14), tmp_path / "out.gguf"
    converted(source, output, **options)
    assert keys(output)["general.file_type"] == ("uint32", number)


def test_a_text_that_is_not_utf8_is_copied(tmp_path: Path) -> None:
    """llama.cpp loads it; only names have to be text that can be shown."""
    source, output = mystery(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    source.write_bytes(source.read_bytes().replace("h\u00e9".encode(), b"h\xe9!"))
    converted(source, output)
    assert keys(output)["zzz.note"] == keys(source)["zzz.note"] == ("string", b"h\xe9!")


def test_an_unknown_type_without_padding_at_the_end_is_verified(tmp_path: Path) -> None:
    source = with_type(mystery(tmp_path / "in.gguf", types=("Q8_0",)), "blk.0.q8_0.weight", 999)
    size = max(tensor.offset for tensor in gguf.read(source).tensors.values()) + 1001
    source.write_bytes(source.read_bytes()[:size])
    assert gguf.read(source).tensors["blk.0.q8_0.weight"].span == 1001
    assert converted(source, tmp_path / "out.gguf")["verified"]
    assert data(tmp_path / "out.gguf")["blk.0.q8_0.weight"][:1001] == data(source)["blk.0.q8_0.weight"]


def test_a_preset_of_an_unknown_architecture(tmp_path: Path) -> None:
    """Dense weights get it, quantized ones keep their codes."""
    source, output = mystery(tmp_path / "in.gguf", types=ALL), tmp_path / "out.gguf"
    report = converted(source, output, scheme="q4_k_m")
    assert report["verified"]
    assert schemes(output) == {
        "token_embd.weight": "q6_k", "blk.0.iq2_xxs.weight": "iq2_xxs", "blk.0.q4_0.weight": "q4_0",
        "blk.0.q8_0.weight": "q8_0", "blk.0.some_norm.weight": "f32", "blk.0.strange.weight": "q4_k",
        "blk.1.strange.weight": "q4_k", "blk.2.strange.weight": "q4_k",
    }  # fmt: skip
    assert all(data(output)[name] == data(source)[name] for name in data(source) if "q" in name)
    reasons = {w["name"]: w["reason"] for w in report["weights"]}
    assert reasons["blk.0.q8_0.weight"] == "keeps its codes: q4_k would round them again"
    assert {key: keys(output)[key] for key in ("mystery.doubts", "mystery.list", "zzz.note", "a.flag")} == {
        key: keys(source)[key] for key in ("mystery.doubts", "mystery.list", "zzz.note", "a.flag")
    }


def test_a_type_that_nobody_knows_is_copied(tmp_path: Path) -> None:
    source = with_type(mystery(tmp_path / "in.gguf"), "blk.0.q8_0.weight", 999)
    for number, options in enumerate([{}, {"scheme": "q8_0"}]):
        output = tmp_path / f"{number}.gguf"
        assert converted(source, output, **options)["verified"]
        assert gguf.read(output).tensors["blk.0.q8_0.weight"].type_id == 999
        assert data(output)["blk.0.q8_0.weight"] == data(source)["blk.0.q8_0.weight"]
    named: dict[str, Any] = {"scheme": "q4_0", "tensor_types": ("q8_0=q8_0",)}
    for options in ({"scheme": "q8_0", "allow_requantize": True}, {"overrides": ("blk.0.q8_0*=f16",)}, named):
        with pytest.raises(NotPossible, match=r"blk\.0\.q8_0\.weight: GGML type type-999 is copied, not decoded"):
            planned(source, tmp_path / "no.gguf", **options)
    planned(source, tmp_path / "no.gguf", overrides=("blk.0.q8_0.weight=keep",), **named)


def test_nothing_to_do_without_allow_requantize(tmp_path: Path) -> None:
    source = mystery(tmp_path / "in.gguf", dense=False)
    with pytest.raises(NotPossible, match=r"all weights are already quantized .*--allow-requantize"):
        planned(source, tmp_path / "out.gguf", scheme="q4_0")
    output = tmp_path / "out.gguf"
    assert converted(source, output, scheme="q4_0", allow_requantize=True)["verified"]
    assert schemes(output)["blk.0.q8_0.weight"] == "q4_0"


@pytest.mark.parametrize("options", [{"overrides": ("*.q8_0.*=q4_0",)}, {"tensor_types": ("q8_0=q4_0",)}])
def test_a_rule_for_a_quantized_weight_needs_allow_requantize(tmp_path: Path, options: dict[str, Any]) -> None:
    source = mystery(tmp_path / "in.gguf")
    with pytest.raises(NotPossible, match=r"blk\.0\.q8_0\.weight is already quantized .*--allow-requantize"):
        planned(source, tmp_path / "out.gguf", scheme="q5_0", **options)
    converted(source, tmp_path / "out.gguf", scheme="q5_0", allow_requantize=True, **options)
    assert schemes(tmp_path / "out.gguf")["blk.0.q8_0.weight"] == "q4_0"


def test_dense_types_decode(tmp_path: Path) -> None:
    source, output = mystery(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    assert converted(source, output, scheme="f32")["verified"]
    assert set(schemes(output).values()) == {"f32"}


def test_layers_are_pruned(tmp_path: Path) -> None:
    source, output = mystery(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    assert converted(source, output, prune_layers="1")["verified"]
    names = ["blk.0.q8_0.weight", "blk.0.some_norm.weight", "blk.0.strange.weight", "blk.1.strange.weight"]
    assert sorted(data(output)) == [*names, "token_embd.weight"]
    assert data(output)["blk.1.strange.weight"] == data(source)["blk.2.strange.weight"]
    assert keys(output)["mystery.block_count"] == ("uint32", 2)
    assert list(keys(output))[-1] == "mystery.block_count"
    for layers in ("3", "0,1,2", "x", "-1"):
        with pytest.raises(WrongUsage, match="--prune-layers"):
            planned(source, tmp_path / "no.gguf", prune_layers=layers)


def test_keys_are_overridden(tmp_path: Path) -> None:
    source, output = mystery(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    given = ("zzz.note=str:a=b:c", "new.int=int:7", "new.float=float:0.1", "a.flag=bool:false", "zzz.note=str:last")
    assert converted(source, output, override_kv=given)["verified"]
    found = keys(output)
    assert found["zzz.note"] == ("string", "last")
    assert found["new.int"] == ("uint32", 7)
    assert found["new.float"] == ("float32", float(np.float32(0.1)))
    assert found["a.flag"] == ("bool", False)
    assert list(found)[-4:] == ["new.int", "new.float", "a.flag", "zzz.note"]


@pytest.mark.parametrize(
    "text",
    ["key", "=int:1", "key=int", "key=long:1", "key=int:", "key=int:1.5", "key=int:99999999999", "key=float:nan",
     "key=float:x", "key=float:1_0", "key=float:3.5e38", "key=int:٣", "key=bool:yes"],
)  # fmt: skip
def test_malformed_overrides_are_quoted(tmp_path: Path, text: str) -> None:
    source = mystery(tmp_path / "in.gguf")
    with pytest.raises(WrongUsage, match=f"--override-kv '{text}'"):
        planned(source, tmp_path / "out.gguf", override_kv=(text,))


def test_a_text_may_come_from_a_file(tmp_path: Path) -> None:
    source, output, template = mystery(tmp_path / "in.gguf"), tmp_path / "out.gguf", tmp_path / "t.jinja"
    template.write_bytes("{{ 'é' }}\r\n".encode())
    converted(source, output, override_kv=(f"tokenizer.chat_template=str:@{template}", "general.author=str:@@someone"))
    assert keys(output)["tokenizer.chat_template"] == ("string", "{{ 'é' }}\r\n")
    assert keys(output)["general.author"] == ("string", "@someone")


def test_a_file_that_holds_no_text_is_named(tmp_path: Path) -> None:
    source, file = mystery(tmp_path / "in.gguf"), tmp_path / "t"
    with pytest.raises(Surroundings, match=f"{file}: "):
        planned(source, tmp_path / "out.gguf", override_kv=(f"a.b=str:@{file}",))
    file.write_bytes(b"a\xff")
    with pytest.raises(BadInput, match=r"is not UTF-8 text \(byte 1\)"):
        planned(source, tmp_path / "out.gguf", override_kv=(f"a.b=str:@{file}",))
    file.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(BadInput, match="1048577 bytes; the limit .* 1048576"):
        planned(source, tmp_path / "out.gguf", override_kv=(f"a.b=str:@{file}",))


@pytest.mark.parametrize("key", ["x" * 65536, "a\nb"])
def test_keys_that_cannot_be_read_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(WrongUsage, match="printable key of at most 65535 bytes"):
        planned(mystery(tmp_path / "in.gguf"), tmp_path / "out.gguf", override_kv=(f"{key}=int:1",))


@pytest.mark.parametrize("given", ["general.alignment=int:7", "general.alignment=int:64", "general.alignment=str:x",
    "split.count=int:5", "split.no=int:1", "split.tensors.count=int:3"])  # fmt: skip
def test_keys_of_the_file_are_not_overridden(tmp_path: Path, given: str) -> None:
    """llama-quantize aborts, or writes a file that cannot be read."""
    source = mystery(tmp_path / "in.gguf")
    with pytest.raises(WrongUsage, match=given.partition("=")[0]):
        planned(source, tmp_path / "out.gguf", override_kv=(given,))


def test_a_file_of_tensor_types(tmp_path: Path) -> None:
    """Its first match wins, in the place where the file is given."""
    source, output, file = mystery(tmp_path / "in.gguf"), tmp_path / "out.gguf", tmp_path / "types.txt"
    file.write_text("blk.0.strange=q5_1\nstrange=q4_1 token_embd=q8_0\n")
    options: dict[str, Any] = {"scheme": "q4_0", "tensor_types": ("blk.2.*=q5_0", file)}
    assert converted(source, output, **options)["verified"]
    found = schemes(output)
    assert [found[f"blk.{layer}.strange.weight"] for layer in range(3)] == ["q5_1", "q4_1", "q5_0"]
    assert found["token_embd.weight"] == "q8_0"
    plan = planned(source, tmp_path / "no.gguf", scheme="q4_0", tensor_types=(file, "blk.2.*=q5_0"))
    assert {step.name: step.scheme.name for step in plan.steps}["blk.2.strange.weight"] == "q4_1"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="types.txt: .*UTF-8"):
        planned(source, tmp_path / "no.gguf", **options)


def test_entries_of_a_matrix_need_one(tmp_path: Path) -> None:
    source = mystery(tmp_path / "in.gguf")
    for options in ({"include_weights": ("a",)}, {"exclude_weights": ("a",)}):
        with pytest.raises(WrongUsage, match="--imatrix"):
            planned(source, tmp_path / "out.gguf", scheme="q4_0", **options)


@pytest.mark.parametrize("options", [{}, {"scheme": "f32"}])
def test_a_tensor_without_dimensions_keeps_none(tmp_path: Path, options: dict[str, Any]) -> None:
    source, output = tmp_path / "in.gguf", tmp_path / "out.gguf"
    head, _, _ = gguf_write.header({"general.architecture": ("string", "mystery")}, [])
    tensor = struct.pack("<Q", 1) + b"w" + struct.pack("<IIQ", 0, 0, 0)
    head = head[:8] + struct.pack("<Q", 1) + head[16:].rstrip(b"\0") + tensor
    source.write_bytes(head + bytes(-len(head) % 32) + struct.pack("<f", 2.5))
    assert gguf.read(source).tensors["w"].shape == ()
    assert converted(source, output, **options)["verified"]
    assert gguf.read(output).tensors["w"].shape == () and data(output)["w"] == data(source)["w"]


def test_options_for_gguf_need_one(tmp_path: Path) -> None:
    source = mystery(tmp_path / "in.gguf")
    for options in ({"override_kv": ("a=int:1",)}, {"prune_layers": "1"}, {"imatrix": source}):
        with pytest.raises(WrongUsage, match="applies only to GGUF output"):
            planned(source, tmp_path / "out", **options)


def test_doubles_are_copied_cast_and_quantized(tmp_path: Path) -> None:
    """Of one dimension and of two; llama-quantize's copy leaves them as they are too, its mixtures refuse them."""
    source = tmp_path / "in.gguf"
    doubles = np.random.default_rng(1).standard_normal((8, 256))
    writer = library.GGUFWriter(source, "mystery")
    writer.add_tensor("f64.weight", doubles)
    writer.add_tensor("f64.bias", doubles[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for options, kind in (
        ({}, "f64"),
        ({"scheme": "copy"}, "f64"),
        ({"dtype": "f32"}, "f32"),
        ({"scheme": "f16"}, "f16"),
    ):
        output = tmp_path / f"{kind}{len(options)}.gguf"
        assert converted(source, output, **options)["verified"]
        assert schemes(output) == {"f64.weight": kind, "f64.bias": "f64"}
        dtype = {"f64": "f8", "f32": "f4", "f16": "f2"}[kind]
        expected = doubles.astype(np.float32).astype(dtype) if kind != "f64" else doubles
        assert data(output)["f64.weight"] == expected.tobytes()
    assert converted(source, tmp_path / "q.gguf", scheme="q8_0")["verified"]
    blocks = library.quants.quantize(doubles.astype(np.float32), library.GGMLQuantizationType.Q8_0)
    assert data(tmp_path / "q.gguf")["f64.weight"] == blocks.tobytes()


def test_an_architecture_that_is_no_text_counts_no_layers() -> None:
    metadata = {"general.architecture": Value("string", b"ll\xff")}
    source = Checkpoint("gguf", "gguf", Path("x.gguf"), (), {}, metadata=metadata)
    with pytest.raises(BadInput, match="the key that counts the layers"):
        layers_left(source, Settings(prune=(0,)))
