"""The CI script of examples/, run as a job would run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
QUANT = Path(sys.executable).with_name("quant")


@pytest.mark.skipif(not QUANT.is_file(), reason=f"no {QUANT}: the package is not installed in this environment")
def test_the_ci_script_passes_and_fails_on_a_threshold(tmp_path: Path) -> None:
    output = tmp_path / "mixed"
    command = [str(ROOT / "examples" / "ci.sh"), str(ROOT / "examples" / "demo-qwen3"), str(output)]
    env = os.environ | {"QUANT": str(QUANT)}
    passed = subprocess.run(command, env=env, capture_output=True, text=True)
    assert passed.returncode == 0, passed.stderr
    assert json.loads(output.with_name("mixed.convert.json").read_text())["verified"] is True
    inspected = json.loads(output.with_name("mixed.inspect.json").read_text())
    failed = subprocess.run(command, env=env | {"MAX_BPW": "4.5"}, capture_output=True, text=True)
    assert failed.returncode == 1
    assert str(inspected["totals"]["bits_per_weight"]) in failed.stderr
