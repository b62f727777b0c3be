"""--verify opens an output in safetensors and gguf: whatever these see otherwise than planned is exit 6."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quantcli
from quantcli.containers.gguf_values import ArrayValue
from quantcli.convert.running import gguf_process, reference_readers
from quantcli.errors import Surroundings, VerificationFailed
from tests.builders import safetensors_bytes, tiny_llama
from tests.gguf_files import Raw, save
from tests.runs import beside, finish, quant, run

Change = Callable[[bytearray], None]

UP, GATE = (f"model.layers.0.mlp.{which}_proj.weight" for which in ("up", "gate"))
UP_GGUF, GATE_GGUF = "blk.0.ffn_up.weight", "blk.0.ffn_gate.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny")


def tampered(patch: pytest.MonkeyPatch, file: Path, change: Change) -> None:
    """Let a file that grows change after all other checks, before the reference readers open it."""
    real = reference_readers.check

    def check(*arguments: Any) -> Any:
        raw = bytearray(file.read_bytes())
        before = bytes(raw)
        change(raw)
        assert raw != before and len(raw) == len(before)
        file.write_bytes(raw)
        return real(*arguments)

    patch.setattr(reference_readers, "check", check)


def answering(patch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    """Let gguf's reader give another answer for each file."""
    real = gguf_process.answers

    def answers(asked: Any) -> Iterator[Any]:
        first, *others = real(asked)
        yield first
        yield from map(change, others)

    patch.setattr(gguf_process, "answers", answers)


class TestAgreement:
    @pytest.mark.parametrize(
        "options",
        [
            {"scheme": "affine4-g64"}, {"scheme": "affine3-g32", "shard_size": 20_000}, {"scheme": "mxfp4"}, {},
            {"to": "hf"}, {"to": "hf", "scheme": "f32", "shard_size": 50_000}, {"to": "hf", "scheme": "mxfp4"},
            {"to": "hf", "scheme": "fp8-e4m3-tensor"}, {"to": "hf", "scheme": "fp8-e4m3-block128"},
        ],
        ids=str,
    )  # fmt: skip
    def test_of_folders(self, source: Path, tmp_path: Path, options: Any) -> None:
        report = run(source, tmp_path / "out", check=True, **options)
        shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
        (reader,) = report["reference_readers"]
        assert reader["name"] == "safetensors" and re.fullmatch(r"\d+\.\d+.*", reader["version"])
        assert reader["files"] == shards and reader["notes"] == []
        assert (len(shards) > 1) == ("shard_size" in options)

    @pytest.mark.parametrize("options", [{"scheme": "q4_0"}, {"scheme": "q4_0", "shard_size": 20_000}, {}], ids=str)
    def test_of_gguf_files(self, source: Path, tmp_path: Path, options: Any) -> None:
        report = run(source, tmp_path / "out.gguf", check=True, **options)
        parts = sorted(path.name for path in tmp_path.glob("out*.gguf"))
        (reader,) = report["reference_readers"]
        assert reader["name"] == "gguf" and reader["files"] == parts and reader["notes"] == []
        assert (len(parts) > 1) == ("shard_size" in options)

    def test_of_keys_of_every_type(self, tmp_path: Path) -> None:
        """Large arrays, nested and empty ones, texts that are not UTF-8, NaN."""
        numbers = {"uint8": 255, "int8": -1, "uint16": 65535, "int16": -2, "uint32": 2**32 - 1, "int32": -3}
        numbers |= {"uint64": 2**64 - 1, "int64": -4, "float32": math.nan, "float64": -0.0, "bool": True}
        pairs = struct.pack("<IQ2i", 5, 2, 7, -7) + struct.pack("<IQ", 5, 0) + struct.pack("<IQi", 5, 1, 9)
        texts = struct.pack("<IQQ", 8, 2, 3) + b"a\xff!" + struct.pack("<Q", 0)
        keys: dict[str, tuple[str, Any]] = {
            "general.architecture": ("string", "mystery"),
            "tokenizer.ggml.tokens": ("array[string]", [f"token {i}" for i in range(30_000)]),
            "tokenizer.ggml.scores": ("array[float32]", [float(i) for i in range(30_000)]),
            "a.text": ("string", b"h\xe9"),
            "an.empty.text": ("string", ""),
            "an.empty.array": ("array[uint32]", []),
            "pairs": ("array[array]", ArrayValue("array", 3, pairs)),
            "texts": ("array[array]", ArrayValue("array", 1, texts)),
            **{f"one.{kind}": (kind, value) for kind, value in numbers.items()},
            **{f"some.{kind}": (f"array[{kind}]", [value] * 3) for kind, value in numbers.items()},
        }
        made = save(tmp_path / "in.gguf", keys, {"w": Raw("f32", (2, 32), np.ones((2, 128), np.uint8))})
        (reader,) = run(made, tmp_path / "out.gguf", check=True)["reference_readers"]
        assert reader["files"] == ["out.gguf"] and reader["notes"] == []

    def test_of_tensors_without_bytes(self, tmp_path: Path) -> None:
        """At one offset they have no order."""
        root = tiny_llama(tmp_path / "in")
        empty = {f"{letter}.empty": np.zeros((0, 3), dtype) for letter, dtype in zip("zyx", "fed", strict=True)}
        empty |= {f"{letter}.empty": np.zeros((3, 0), np.float16) for letter in "cba"}
        (root / "model-extra.safetensors").write_bytes(safetensors_bytes(empty))
        assert run(root, tmp_path / "out", to="hf", check=True)["reference_readers"][0]["notes"] == []

    def test_nothing_is_opened_unasked(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reference_readers, "check", None)
        report = run(source, tmp_path / "out.gguf", scheme="q4_0")
        assert report["reference_readers"] == [] and not report["verified"]


class TestUnknownTypes:
    """gguf 0.19 does not know q2_0."""

    @pytest.fixture(autouse=True)
    def needs_an_unknown_type(self) -> None:
        from gguf import GGML_QUANT_SIZES

        if 42 in {int(kind) for kind in GGML_QUANT_SIZES}:
            pytest.skip("the gguf library knows q2_0")

    def test_are_a_note(self, source: Path, tmp_path: Path) -> None:
        process = quant("convert", source, tmp_path / "out.gguf", "-s", "q2_0", "--verify")
        code, out, err = finish(process)
        assert code == 0, err
        (reader,) = json.loads((tmp_path / "out.gguf.report.json").read_text())["reference_readers"]
        (note,) = reader["notes"]
        assert reader["files"] == [] and note in out and "opens in" not in out
        assert "q2_0" in note and "out.gguf" in note and "match the plan" in note

    def test_hide_nothing_else(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The keys of such a file and its tensors of other types are compared."""
        grown = tmp_path / "out.gguf.partial" / "output" / "out.gguf"
        for change, named in (
            (key("llama.block_count", 4, "<I", 3), "llama.block_count"),
            (tensor("output_norm.weight", 4, "<Q", 32), "output_norm.weight"),
        ):
            with monkeypatch.context() as patch:
                tampered(patch, grown, change)
                with pytest.raises(VerificationFailed, match=named):
                    run(source, tmp_path / "out.gguf", scheme="q2_0", check=True, force=True)

    def test_of_which_nothing_could_be_read(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answering(monkeypatch, lambda answer: "ValueError: 42 is not a valid GGMLQuantizationType")
        (reader,) = run(source, tmp_path / "out.gguf", scheme="q2_0", check=True)["reference_readers"]
        assert reader["files"] == [] and "were not compared" in reader["notes"][0]

    def test_in_some_parts(self, source: Path, tmp_path: Path) -> None:
        options = {"scheme": "f16", "overrides": ("*ffn_up*=q2_0",), "shard_size": 20_000}
        (reader,) = run(source, tmp_path / "out.gguf", check=True, **options)["reference_readers"]
        parts = {path.name for path in tmp_path.glob("out-*.gguf")}
        assert len(reader["notes"]) == 1 and "2 files" in reader["notes"][0]
        assert len(reader["files"]) == len(parts) - 2 and set(reader["files"]) < parts


def replaced(old: str, new: str) -> Change:
    """Another text of the same length in the header."""

    def change(raw: bytearray) -> None:
        at = raw.index(old.encode())
        raw[at : at + len(old)] = new.ljust(len(old)).encode()

    return change


def offsets_swapped(raw: bytearray) -> None:
    """The data of two tensors of a safetensors file of equal sizes, taken for each other."""
    spans = [re.search(rf'"{name}":.*?\[(\d+,\d+)\]}}'.encode(), raw) for name in (UP, GATE)]
    one, other = (match for match in spans if match is not None)
    texts = one[1], other[1]
    width = max(map(len, texts))
    assert len(texts[0]) == len(texts[1]) == width
    raw[one.start(1) : one.end(1)], raw[other.start(1) : other.end(1)] = texts[1], texts[0]


SAFETENSORS = {
    "name": (replaced('"model.norm.weight"', '"model.norm.weighs"'), "model.norm.weigh[ts]"),
    "dtype": (replaced('"dtype":"BF16"', '"dtype":"F16"'), "with dtype 'F16', but the plan has 'BF16'"),
    "shape": (replaced('"shape":[128,64]', '"shape":[64,128]'), r"with shape \[64, 128\], .*\[128, 64\]"),
    "order": (offsets_swapped, f"reads tensor '{UP}' as number \\d+ by offset, but the plan has '{GATE}' there"),
    "metadata": (replaced('"format":"mlx"', '"format":"mly"'), "'format' with value 'mly', but the plan has 'mlx'"),
    "key of the metadata": (replaced('"format":"mlx"', '"formed":"mlx"'), "'format', which the plan has"),
    "a hole": (replaced('"data_offsets":[0,', '"data_offsets":[2,'), "cannot open it: .*"),
}


@pytest.mark.parametrize("what", SAFETENSORS)
def test_what_safetensors_sees_otherwise(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    change, said = SAFETENSORS[what]
    file = tmp_path / "out.partial" / "output" / "model.safetensors"
    tampered(monkeypatch, file, change)
    with pytest.raises(VerificationFailed, match=rf"^{re.escape(str(file))}: safetensors [\d.]+ .*{said}"):
        run(source, tmp_path / "out", check=True)
    assert beside(tmp_path / "out") == ["out.partial"]


def put(name: str, at: int, form: str, *values: Any) -> Change:
    """Other values, `at` bytes after a name."""

    def change(raw: bytearray) -> None:
        assert raw.count(name.encode()) == 1
        struct.pack_into(form, raw, raw.index(name.encode()) + len(name) + at, *values)

    return change


#: A key: its type at 0, a value at 4; an array: the type of its elements at 4, the first of them at 16.
key = put
#: A tensor: its sizes from 4 on; of a matrix the type at 20, the offset at 24.
tensor = put


def gguf_offsets_swapped(raw: bytearray) -> None:
    one, other = (raw.index(name.encode()) + len(name) + 24 for name in (UP_GGUF, GATE_GGUF))
    raw[one : one + 8], raw[other : other + 8] = raw[other : other + 8], raw[one : one + 8]


GGUF = {
    "tensor": (replaced("output_norm.weight", "output_norm.weighs"), "output_norm.weigh[ts]"),
    "type": (tensor(UP_GGUF, 20, "<I", 30), f"'{UP_GGUF}' with type 'bf16', but the plan has 'f16'"),
    "shape": (tensor(UP_GGUF, 4, "<2Q", 128, 64), rf"'{UP_GGUF}' with shape \[64, 128\], .*\[128, 64\]"),
    "offset": (gguf_offsets_swapped, rf"'({UP_GGUF}|{GATE_GGUF})' with offset \d+, but the plan has \d+"),
    "key": (replaced("llama.block_count", "llama.black_count"), "'llama.bl[ao]ck_count'"),
    "type of a key": (key("llama.block_count", 0, "<I", 5), "'llama.block_count' with type 'int32', .* 'uint32'"),
    "value": (key("llama.block_count", 4, "<I", 3), "'llama.block_count' as 3, but the plan has 2"),
    "text": (key("tokenizer.ggml.model", 12, "4s", b"gpt3"), "ggml.model' as 'gpt3', but the plan has 'gpt2'"),
    "element": (key("tokenizer.ggml.token_type", 20, "<i", 7), "element 1 of key '.*type' as 7, but the plan has 1"),
    "token": (key("tokenizer.ggml.tokens", 24, "c", b"?"), "element 0 of key 'tokenizer.ggml.tokens' as '.?', .* '!'"),
    "type of elements": (
        key("tokenizer.ggml.token_type", 4, "<I", 4),
        "'tokenizer.ggml.token_type' with type 'array of uint32', but the plan has 'array of int32'",
    ),
    "a type that there is not": (key("llama.block_count", 0, "<I", 99), "cannot open it: ValueError"),
}


@pytest.mark.parametrize("what", GGUF)
def test_what_gguf_sees_otherwise(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    change, said = GGUF[what]
    file = tmp_path / "out.gguf.partial" / "output" / "out.gguf"
    tampered(monkeypatch, file, change)
    with pytest.raises(VerificationFailed, match=rf"^{re.escape(str(file))}: gguf [\d.]+ .*{said}"):
        run(source, tmp_path / "out.gguf", scheme="f16", check=True)
    assert beside(tmp_path / "out.gguf") == ["out.gguf.partial"]


def test_another_size_of_a_tensor(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which follows from type and shape, so only the reader's own table can differ."""

    def change(answer: Any) -> Any:
        tensors, keys = answer
        kind, shape, offset, _ = tensors[UP_GGUF]
        return tensors | {UP_GGUF: (kind, shape, offset, 5)}, keys

    answering(monkeypatch, change)
    with pytest.raises(VerificationFailed, match=rf"'{UP_GGUF}' with size 5, but the plan has 16384"):
        run(source, tmp_path / "out.gguf", scheme="f16", check=True)


def test_another_length_of_an_array(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(answer: Any) -> Any:
        tensors, keys = answer
        types, sizes, data = keys["tokenizer.ggml.tokens"]
        return tensors, keys | {"tokenizer.ggml.tokens": (types, sizes[:-1], data[: -sizes[-1]])}

    answering(monkeypatch, change)
    with pytest.raises(VerificationFailed, match=r"'tokenizer.ggml.tokens' with length 95, but the plan has 96"):
        run(source, tmp_path / "out.gguf", scheme="f16", check=True)


def test_a_late_part_of_a_split_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = len(run(source, tmp_path / "out.gguf", scheme="f16", shard_size=20_000)["files"])
    name = f"out-{count:05d}-of-{count:05d}.gguf"
    tampered(monkeypatch, tmp_path / "out.gguf.partial" / "output" / name, key("split.no", 4, "<H", 0))
    with pytest.raises(VerificationFailed, match=rf"{name}: .*'split.no' as 0, but the plan has {count - 1}"):
        run(source, tmp_path / "out.gguf", scheme="f16", shard_size=20_000, check=True, force=True)


def test_where_a_long_text_differs(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny_llama(tmp_path / "in")
    template = "".join(f"{{# {i} #}}" for i in range(300)) + "{{ messages }}"
    (root / "chat_template.jinja").write_text(template)
    grown = tmp_path / "out.gguf.partial" / "output" / "out.gguf"
    tampered(monkeypatch, grown, replaced("{# 250 #}", "{# 2x0 #}"))
    with pytest.raises(VerificationFailed, match=r"chat_template' from byte \d+ on as .*2x0.*, but the plan has .*250"):
        run(root, tmp_path / "out.gguf", check=True)


def test_exit_code(source: Path, tmp_path: Path) -> None:
    script = (
        "from quantcli.convert.running import reference_readers\n"
        "from quantcli.errors import VerificationFailed\n"
        "def fail(*a): raise VerificationFailed('x: differs.')\n"
        "reference_readers.check = fail\n"
        "from quantcli.cli.app import main; main()\n"
    )
    code, _, err = finish(quant("convert", source, tmp_path / "out", "--verify", script=script))
    assert code == 6 and "x: differs." in err and beside(tmp_path / "out") == ["out.partial"]


class TestTheOtherProcess:
    @pytest.fixture
    def instead(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        """Have a shell script run in its place; `"$0"` is the script's path, `"$PYTHON" "$@"` the process itself."""
        monkeypatch.setenv("PYTHON", gguf_process.sys.executable)

        def install(script: str) -> None:
            path = tmp_path / "interpreter"
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
            monkeypatch.setattr(gguf_process.sys, "executable", str(path))

        return install

    @pytest.mark.parametrize(
        ("script", "said"),
        [
            ("kill -9 $$", r"signal 9.*--resume"),
            ("echo first >&2; echo No module named gguf >&2; exit 3", r"exit status 3 \(No module named gguf\)"),
            ("exit 0", "exit status 0"),
        ],
    )
    def test_that_dies_is_an_error(
        self, source: Path, tmp_path: Path, instead: Callable[[str], None], script: str, said: str
    ) -> None:
        instead(script)
        with pytest.raises(Surroundings, match=said):
            run(source, tmp_path / "a" / "out.gguf", check=True)
        assert beside(tmp_path / "a" / "out.gguf") == ["out.gguf.partial"]

    def test_may_say_what_it_likes(
        self, source: Path, tmp_path: Path, instead: Callable[[str], None], capfd: pytest.CaptureFixture[str]
    ) -> None:
        instead('echo noise; echo noise >&2; exec "$PYTHON" "$@"')
        assert run(source, tmp_path / "out.gguf", check=True)["reference_readers"][0]["files"] == ["out.gguf"]
        assert capfd.readouterr() == ("", "")

    def test_imports_nothing_from_the_working_directory(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "gguf.py").write_text("raise SystemExit('not this one')")
        monkeypatch.chdir(tmp_path)
        assert run(source, tmp_path / "out.gguf", check=True)["reference_readers"][0]["files"] == ["out.gguf"]

    def test_is_of_the_same_package(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever is installed."""
        other = tmp_path / "quantcli" / "convert" / "running" / "gguf_process.py"
        other.parent.mkdir(parents=True)
        other.write_text("raise SystemExit('another package')")
        (tmp_path / "quantcli" / "__init__.py").touch()
        monkeypatch.setattr(quantcli, "__file__", str(tmp_path / "quantcli" / "__init__.py"))
        with pytest.raises(Surroundings, match="another package"):
            run(source, tmp_path / "out.gguf", check=True)

    def test_ends_when_this_one_is_killed(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "request")  # which the other process waits for without end
        script = (
            "import os, signal, sys\n"
            "from quantcli.convert.running.gguf_process import _started\n"
            "with open(os.open(sys.argv[1], os.O_RDWR), 'rb') as request, open(os.devnull, 'wb') as said:\n"
            "    with _started(request, said) as (process, _):\n"
            "        print(process.pid, flush=True)\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        command = [gguf_process.sys.executable, "-c", script, str(tmp_path / "request")]
        pid = int(subprocess.run(command, capture_output=True, check=False, text=True).stdout)
        deadline = time.monotonic() + 60
        while Path(f"/proc/{pid}/stat").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @pytest.fixture
    def hears(self) -> Iterator[None]:
        """As in a shell: commands that an earlier test has interrupted in this process leave signals ignored."""
        before = {n: signal.signal(n, signal.default_int_handler) for n in (signal.SIGINT, signal.SIGTERM)}
        yield
        for number, handler in before.items():
            signal.signal(number, handler)

    @pytest.mark.usefixtures("hears")
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ends_with_this_one(
        self, source: Path, tmp_path: Path, instead: Callable[[str], None], number: signal.Signals
    ) -> None:
        """And leaves no zombie."""
        instead('echo $$ >"$0.new"; mv "$0.new" "$0.pid"; exec sleep 100')
        pid_file = tmp_path / "interpreter.pid"

        def interrupt() -> None:
            while not pid_file.exists():
                time.sleep(0.01)
            os.kill(os.getpid(), number)

        thread = threading.Thread(target=interrupt, daemon=True)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "out.gguf", check=True)
        thread.join()
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid_file.read_text()), 0)
