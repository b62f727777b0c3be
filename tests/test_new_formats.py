"""A new format is new files and a row in each registry: a copy of the package is given three, and converts them.

The files stand in tests/new_formats, as an example of what a newcomer writes; the rows are those of `ROWS`.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import BF16, LLAMA, byte_level_tokenizer, folder_of, llama_tensors, tiny_llama
from tests.conversions import stored
from tests.test_layout import PACKAGE, climbs, loads, prints, strays, upward

ADDED = Path(__file__).parent / "new_formats" / "quantcli"

#: Registry -> the line that a row is put behind, and the row; with an import where the row needs one.
ROWS: dict[str, tuple[tuple[str, str], ...]] = {
    # The GGML type.
    "containers/ggml_types.py": (
        ('    GgmlType(42, "q2_0", 64, 18, "H16B", _f16(0)),', '    GgmlType(43, "q3_0", 32, 14, "H12B", _f16(0)),'),
    ),
    "recipes/ftypes.py": (
        ('    "nvfp4": QuantizeType(file_type=39),', '    "q3_0": QuantizeType({"q3_0": 43}, 43, "q4_0"),'),
    ),
    "schemes/ggml/__init__.py": (
        ("    **ternary.SCHEMES,", "    **q3_0.SCHEMES,"),
        ("from quantcli.schemes.ggml.blocks import Ggml", "from quantcli.schemes.ggml import q3_0"),
    ),
    # The layout of Hugging Face folders.
    "schemes/readers.py": (('    "quanto": ("optimum-quanto",),', '    "halfbyte": ("halfbyte",),'),),
    "schemes/hf/listed.py": (
        (
            "    awq_gemv.listed, gptq.listed, _fp8, _modelopt, quark_int.listed, _int8, hqq.listed, _torchao, "
            "quanto.listed,",
            "    halfbyte.listed,",
        ),
        ("from quantcli.schemes.base import Scheme", "from quantcli.schemes.hf import halfbyte"),
    ),
    "sources/detect.py": (
        (
            '    "quanto": Quantizer("quanto", "open_quanto"),',
            '    "halfbyte": Quantizer("halfbyte", "open_halfbyte", "keep"),',
        ),
    ),
    # The architecture.
    "models/families/__init__.py": (
        ("    FALCON_MAMBA,", "    FLEDGLING,"),
        (
            "from quantcli.models.families.falcon_mamba import FALCON_MAMBA",
            "from quantcli.models.families.fledgling import FLEDGLING",
        ),
    ),
}  # fmt: skip

LINEAR = "model.layers.0.mlp.down_proj"


#: Before every program: the kernels, which no format changes, come from this package, with what is compiled of them.
KERNELS = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("quantcli.kernels", sys.argv.pop(1))
sys.modules["quantcli.kernels"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["quantcli.kernels"])
"""

#: Carries out one command after the other: each a line of JSON, as is its answer: exit code, stdout, stderr.
COMMANDS = """
import json
from typer.testing import CliRunner
from quantcli.cli.app import app
for line in sys.stdin:
    done = CliRunner().invoke(app, json.loads(line))
    print(json.dumps([done.exit_code, done.stdout, done.stderr + str(done.exception or "")]), flush=True)
"""


class Package:
    """A copy of the package, whose `quant` runs in one process for all commands."""

    def __init__(self, root: Path) -> None:
        self.root, self.files = root, root / "quantcli"
        shutil.copytree(PACKAGE, self.files, ignore=shutil.ignore_patterns("__pycache__"))
        self.commands: subprocess.Popen[str] | None = None

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """A process of Python in the copy."""
        words = [sys.executable, "-c", KERNELS + program, str(PACKAGE / "kernels" / "__init__.py"), *arguments]
        places = os.environ | {"PYTHONPATH": str(self.root)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen(words, cwd=self.root, env=places, **pipes)

    def run(self, program: str, *arguments: str) -> str:
        """What a program prints on stdout."""
        with self.start(program, *arguments) as process:
            return process.communicate()[0]

    def quant(self, *arguments: object, code: int = 0) -> str:
        """What a command prints on stdout, or where it fails on stderr."""
        self.commands = self.commands or self.start(COMMANDS)
        assert self.commands.stdin and self.commands.stdout
        print(json.dumps([str(argument) for argument in arguments]), file=self.commands.stdin, flush=True)
        found, out, err = json.loads(self.commands.stdout.readline())
        assert found == code, err
        return str(err if code else out)

    def close(self) -> None:
        if self.commands:
            self.commands.communicate()

    def json(self, *arguments: object) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.quant(*arguments, "--json"))
        return found

    def schemes(self, checkpoint: Path) -> set[str]:
        """Those of a checkpoint's matrices, as `inspect` names them."""
        weights = self.json("inspect", checkpoint)["weights"]
        return {weight["scheme"] for weight in weights if len(weight["shape"]) > 1}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Package]:
    """The package as it is."""
    made = Package(tmp_path_factory.mktemp("plain"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Package]:
    """The package with all three."""
    made = Package(tmp_path_factory.mktemp("package"))
    shutil.copytree(ADDED, made.files, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name, rows in ROWS.items():
        text = (made.files / name).read_text()
        for line, row in rows:
            assert text.count(f"\n{line}\n") == 1, f"{name}: no line, or several, are {line}"
            text = text.replace(f"\n{line}\n", f"\n{line}\n{row}\n")
        (made.files / name).write_text(text)
    yield made
    made.close()


def test_nothing_else_is_changed(package: Package) -> None:
    before = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    after = {path.relative_to(package.files).as_posix() for path in package.files.rglob("*.py")}
    added = {path.relative_to(ADDED).as_posix() for path in ADDED.rglob("*.py")}
    assert after - before == added and not added & before
    _, changed, odd = filecmp.cmpfiles(PACKAGE, package.files, sorted(before), shallow=False)
    assert sorted(changed) == sorted(ROWS) and not odd
    assert not [name for name in {*added, *changed} if name.startswith(("convert/", "targets/", "cli/", "kernels/"))]


@pytest.mark.parametrize("path", sorted(ADDED.rglob("*.py")), ids=lambda path: path.stem)
def test_the_example_keeps_the_house_rules(path: Path) -> None:
    text, file = path.read_text(), path.relative_to(ADDED).as_posix()
    assert upward(text, file.split("/")[0]) == strays(text, file) == climbs(text, file) == []
    assert prints(text) == loads(text) == []


def test_the_drawings_are_right(package: Package) -> None:
    script = "import doctest, importlib; print(doctest.testmod(importlib.import_module(sys.argv[1])))"
    for module in ("schemes.ggml.q3_0", "schemes.hf.halfbyte"):
        assert package.run(script, f"quantcli.{module}") == "TestResults(failed=0, attempted=2)\n"


def test_schemes_tell_of_them(package: Package) -> None:
    listed = {(entry["name"], entry["family"]): entry for entry in package.json("schemes")["schemes"]}
    ours, theirs = listed["q3_0", "ggml"], listed["int4-g128", "halfbyte"]
    assert (ours["bits_per_weight"], ours["block_size"], ours["block_bytes"]) == (3.5, 32, 14)
    assert (ours["scale_dtypes"], ours["targets"], ours["needs_importance_matrix"]) == (["f16"], ["gguf"], False)
    assert (theirs["bits_per_weight"], theirs["group_size"], theirs["zero_point"]) == (4.125, 128, None)
    assert (theirs["targets"], theirs["readers"]) == (["hf"], ["halfbyte"])
    assert "14 bytes" in package.quant("schemes", "Q3_0")


def test_a_ggml_type(package: Package, tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model")
    report = package.json("convert", model, tmp_path / "a.gguf", "-s", "q3_0", "--pure", "--verify")
    assert [weight["grade"] for weight in report["weights"]].count("lossy") == 16
    assert package.schemes(tmp_path / "a.gguf") == {"q3_0"}
    for name, scheme, options in (
        ("mlx", "affine3-g32", ("--to", "mlx")),
        ("hf", "f32", ("--to", "hf", "-s", "f32")),
    ):
        package.quant("convert", tmp_path / "a.gguf", tmp_path / name, *options, "--lossless", "exact")
        assert package.schemes(tmp_path / name) == {scheme}
        package.quant("diff", tmp_path / "a.gguf", tmp_path / name, "--max-rmse", 0)
    package.quant("convert", tmp_path / "mlx", tmp_path / "b.gguf", "-s", "q3_0", "--pure", "--lossless", "exact")
    package.quant("diff", tmp_path / "a.gguf", tmp_path / "b.gguf", "--max-rmse", 0)
    assert package.schemes(tmp_path / "b.gguf") == {"q3_0"}


def halfbyte(root: Path, group: int = 32) -> tuple[Path, np.ndarray]:
    """A llama whose linears are halfbyte's, and the values of one of them."""
    tensors, random = llama_tensors(LLAMA, np.dtype(np.float16)), np.random.default_rng(7)
    values = {}
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        rows, columns = tensors.pop(name).shape
        codes = random.integers(0, 16, (rows, columns), np.uint8)
        steps = random.uniform(0.001, 0.01, (rows, columns // group)).astype(np.float16)
        module = name.removesuffix(".weight")
        tensors |= {f"{module}.codes": codes[:, ::2] | codes[:, 1::2] << 4, f"{module}.steps": steps}
        values[module] = (codes.astype(np.float32) - 8) * np.repeat(steps.astype(np.float32), group, axis=1)
    tiny_llama(root)
    settings = {"quant_method": "halfbyte", "group_size": group, "keep": ["lm_head"]}
    config = LLAMA | {"torch_dtype": "float16", "quantization_config": settings}
    return folder_of(root, tensors, config), values[LINEAR]


def test_a_hugging_face_layout(package: Package, tmp_path: Path) -> None:
    model, values = halfbyte(tmp_path / "model")
    assert package.schemes(model) == {"int4-g32", "f16"}
    for name, scheme, options in (
        ("mlx", "affine4-g32", ("--to", "mlx")),
        ("a.gguf", "q4_0", ()),
        ("copy", "int4-g32", ("--to", "hf")),
        ("dense", "f32", ("--to", "hf", "-s", "f32")),
    ):
        package.quant("convert", model, tmp_path / name, *options, "--lossless", "exact")
        assert package.schemes(tmp_path / name) - {"f16"} == {scheme}
        package.quant("diff", model, tmp_path / name, "--max-rmse", 0)
    assert stored(tmp_path / "dense")[f"{LINEAR}.weight"].data == values.tobytes()


def test_modules_of_a_layout_that_become_dense_are_listed(package: Package, tmp_path: Path) -> None:
    model, values = halfbyte(tmp_path / "model")
    package.quant("convert", model, tmp_path / "part", "--to", "hf", "--override", f"{LINEAR}.weight=f32")
    config = json.loads((tmp_path / "part" / "config.json").read_text())
    assert config["quantization_config"]["keep"] == ["lm_head", LINEAR]
    assert stored(tmp_path / "part")[f"{LINEAR}.weight"].data == values.tobytes()


def fledgling(root: Path) -> Path:
    """A model of the made-up architecture; adding 1 to what its norms store is exact."""
    config = LLAMA | {
        "architectures": ["FledglingForCausalLM"], "model_type": "fledgling", "gate_scale": 0.5, "hidden_act": "silu",
    }  # fmt: skip
    tensors, random = llama_tensors(config), np.random.default_rng(8)
    for name in [name for name in tensors if "norm" in name]:
        tensors[name] = (random.integers(-64, 64, tensors[name].shape) / 128).astype(BF16)
    for i in range(config["num_hidden_layers"]):
        tensors[f"model.layers.{i}.self_attn.gate_proj.weight"] = random.normal(0, 0.05, (64, 64)).astype(BF16)
    folder_of(root, tensors, config)
    (root / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()))
    (root / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|begin|>", "eos_token": "<|end|>"}))
    return root


def test_an_architecture(package: Package, tmp_path: Path) -> None:
    model = fledgling(tmp_path / "model")
    package.quant("convert", model, tmp_path / "a.gguf", "--verify")
    names = {weight["name"] for weight in package.json("inspect", tmp_path / "a.gguf")["weights"]}
    assert {"blk.1.attn_gate.weight", "blk.1.ffn_norm.weight"} <= names
    package.quant("convert", tmp_path / "a.gguf", tmp_path / "back", "--to", "hf")
    assert stored(tmp_path / "back") == stored(model)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (config["model_type"], config["gate_scale"]) == ("fledgling", 0.5)
    package.quant("convert", tmp_path / "a.gguf", tmp_path / "mlx", "--to", "mlx", "--lossless", "exact")
    assert stored(tmp_path / "mlx").keys() == stored(model).keys()
    for other in ("a.gguf", "mlx"):
        package.quant("diff", model, tmp_path / other, "--max-rmse", 0)


def test_without_the_rows_they_are_refused(plain: Package, tmp_path: Path) -> None:
    model, _ = halfbyte(tmp_path / "model")
    assert "halfbyte" in plain.quant("inspect", model, code=4)
    said = plain.quant("convert", fledgling(tmp_path / "fledgling"), tmp_path / "a.gguf", code=4)
    assert "'fledgling'" in said and "quantcli/models/families/fledgling.py" in said
    assert "q3_0" in plain.quant("convert", tiny_llama(tmp_path / "llama"), tmp_path / "a.gguf", "-s", "q3_0", code=2)
