"""Any value under any key of config.json or GGUF metadata: it is taken, or refused with a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import QuantError
from quantcli.models import config_from_gguf, find, sampling_from_gguf, spelled
from quantcli.targets.gguf_metadata import keys

DATA = Path(__file__).resolve().parent.parent / "data" / "arch"
CASES = ("deepseek_v3", "exaone4", "falcon", "gemma3_text", "glm4_moe", "gpt_oss", "granite", "mamba", "olmo3", "phi3")
VALUES: list[Any] = [
    None, 0, -1, 1, 3, 2**32 - 1, 2**32, 2**70, 0.0, 1.5, 1e300, float("nan"), float("inf"), "x", "yarn", "longrope",
    "llama3", "LLLG", True, False, [], [True], ["a"], [1e300], [1.0] * 8, {}, {"rope_type": "yarn"},
    {"full_attention": 3}, {"full_attention": {"rope_theta": -1}},
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_any_value_in_metadata(case: str) -> None:
    stored = json.loads((DATA / case / "reference.json").read_text())
    metadata = {key: value for key, (_, value) in stored["metadata"].items()}
    shapes = {name: tuple(shape) for name, (_, shape) in stored["tensors"].items()}
    for key in metadata:
        for value in VALUES:
            changed = metadata | {key: value}
            try:
                made = config_from_gguf(changed, shapes, stored["values"].__getitem__, "bf16")
                architecture = find(made)
                assert architecture is not None
                architecture.hyperparameters(made)
                json.dumps([made, sampling_from_gguf(changed)], allow_nan=False)
            except QuantError as error:
                assert len(str(error)) < 900


@pytest.mark.parametrize("spelling", ["config.json", "config-v5.json"])
@pytest.mark.parametrize("case", CASES)
def test_any_value_in_a_config(case: str, spelling: str) -> None:
    config = json.loads((DATA / case / spelling).read_text())
    for key in {*config, "rope_parameters", "rope_scaling", "layer_types", "scoring_func"} - {"model_type"}:
        for value in VALUES:
            changed = config | {key: value}
            architecture = find(changed)
            if architecture is None:
                assert key == "architectures"  # a class that the table does not name
                continue
            try:
                keys(architecture.hyperparameters(changed), None, {}, 1, False)
                spelled(changed, architecture)
            except QuantError as error:
                assert len(str(error)) < 500
