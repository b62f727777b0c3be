"""The folder of reference data (`QUANTCLI_FIXTURES`, else `../shared` beside the checkout); hypothesis profiles.

What makes every test slow and is the subject of few is switched off for the others: bytecode that is not kept, waiting
for the disk, a process for each GGUF file that is verified.
"""

import os
import signal
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from quantcli.convert.running import gguf_process

# A job in the background may have been started deaf to Ctrl-C; tests of interruptions need it heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Processes that tests start would compile every module anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).resolve().parent.parent

# Files of a package that has more registry rows than this one; test_new_formats.py runs their doctests there.
collect_ignore = ["new_formats"]

#: What is tested here is the process of gguf's reader, too.
ABOUT_PROCESSES = ("test_reference_readers.py", "test_interrupt.py", "test_faults.py", "test_advice.py")

# Every run tries the same examples and no example is timed; `make fuzz` tries others, and more of them.
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.register_profile("fuzz", max_examples=2000, deadline=None)
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data; the test is skipped, aloud, where there is none."""
    folder = Path(os.environ.get("QUANTCLI_FIXTURES", ROOT.parent / "shared"))
    if not (folder / "fixtures").is_dir():
        pytest.skip(f"no reference data: {folder} has no fixtures/ (set QUANTCLI_FIXTURES)")
    return folder


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """The test's own random numbers: its name is the seed, so that they do not depend on the tests before it."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture(scope="module", autouse=True)
def gguf_reader(request: pytest.FixtureRequest) -> Iterator[None]:
    """gguf's reader sees outputs in this process: a process of its own for each takes 0.2 seconds."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.name not in ABOUT_PROCESSES:
            patch.setattr(gguf_process, "answers", gguf_process.read)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting() -> Iterator[None]:
    """Nothing waits until it is on the disk; of what is flushed the descriptor is still looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield
