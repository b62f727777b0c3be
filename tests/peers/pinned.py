"""Other people's software, each at the version whose behaviour the tests state; `make peers` installs them."""

import re
import tarfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "examples" / "demo-qwen3"
MODELS = ("micro-llama", "tiny-llama", "demo-qwen3", "tiny-mistral-spm")

#: module -> its distribution, and the version.
PINNED = {
    "bitsandbytes": ("bitsandbytes", "0.50.2"),
    "compressed_tensors": ("compressed-tensors", "0.20.0"),
    "gguf": ("gguf", "0.19.0"),
    "llama_cpp": ("llama-cpp-python", "0.3.36"),
    "mistral_common": ("mistral-common", "1.9.1"),
    "mlx_lm": ("mlx-lm", "0.32.2"),
    "modelopt": ("nvidia-modelopt", "0.47.0"),
    "optimum.quanto": ("optimum-quanto", "0.2.7"),
    "safetensors": ("safetensors", "0.8.0"),
    "tiktoken": ("tiktoken", "0.14.0"),
    "torch": ("torch", "2.13.0"),
    "torchao": ("torchao", "0.18.0"),
    "transformers": ("transformers", "5.23.0"),
}


def llama_cpp_source(root: Path) -> Path:
    """llama.cpp's converter with its gguf-py, unpacked in a folder; the tests of the file are skipped without it."""
    packed = ROOT / "build" / "peers" / f"llama_cpp_python-{PINNED['llama_cpp'][1]}.tar.gz"
    if not packed.is_file():
        pytest.skip(f"{packed.name} is not in build/peers: run `make peers`")
    with tarfile.open(packed) as archive:
        inner = re.compile(r"[^/]+/vendor/llama\.cpp/(conversion|gguf-py)/")
        archive.extractall(root, [one for one in archive if inner.match(one.name)], filter="data")
    (folder,) = root.glob("*/vendor/llama.cpp")
    return folder


def peer(module: str) -> ModuleType:
    """The module; the tests of the file are skipped, aloud, where it is not installed, and fail at another version."""
    distribution, wanted = PINNED[module]
    try:
        found = version(distribution)
    except PackageNotFoundError:
        pytest.skip(f"{distribution} is not installed: run `make peers`", allow_module_level=True)
    assert found.split("+")[0] == wanted, f"{distribution} is {found}, these tests are about {wanted}: run `make peers`"
    return pytest.importorskip(module)
