"""The folder of reference data (`QUANTCLI_FIXTURES`, else `../shared` beside the checkout); hypothesis profiles."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# A job in the background may have been started deaf to Ctrl-C; tests of interruptions need it heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent

# Files of a package that has more registry rows than this one; test_new_formats.py runs their doctests there.
collect_ignore = ["new_formats"]

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
