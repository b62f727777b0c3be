"""Changed settings that change a GGUF change it as llama.cpp's converter does: metadata, and the tensors it computes.

Every setting of every model is changed (`tests.mutations`); where our file is another one then, the converter makes one
of the same folder, all of them in one process.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.convert.planning.steps import ConstantStep, Plan
from quantcli.models import FAMILIES, Architecture
from quantcli.models.harmless import NEUTRAL
from tests.mutations import outcomes, settings
from tests.mutations.baselines import CASES, DATA, Baseline, dense, read
from tests.mutations.test_mutations import config_pool
from tests.peers.pinned import llama_cpp_source, peer

transformers = peer("transformers")
peer("torch")

#: Transformers' class of these has renamed keys that the converter reads under their old names.
RAW = ("gpt_neox", "neox_serial", "cohere2")
#: Changes after which the converter's file is another one, and why that is left so.
KINDS_OF_LAYERS = "transformers' class takes rope_parameters by kinds of layers alone here: no writer has it flat"
APART = {
    "gemma3_plain: set rope_parameters": KINDS_OF_LAYERS,
    "olmo3: set rope_parameters": KINDS_OF_LAYERS,
}
#: Further ends of config.json's are keys of ours, which the converter leaves out: nothing would stop at them.
ENDS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")


def written(plan: Plan) -> dict[str, Any]:
    """What a plan's GGUF says of the model, and the tensors that are computed."""
    metadata = outcomes.header_of(plan).metadata
    found = {key: _plain(value.value) for key, value in metadata.items() if _compared(key)}
    for step in plan.steps:
        if isinstance(step, ConstantStep) and step.draft.role is not None:
            found[step.name] = step.draft.values.reshape(-1).tolist()
    return found


def _compared(key: str) -> bool:
    """All but names and the vocabulary; files of ours have no file_type of a converter's."""
    return not key.startswith(
        ("general.", "tokenizer.ggml.t", "tokenizer.ggml.merges", "tokenizer.ggml.scores", "tokenizer.ggml.pre")
    )


def _plain(value: Any) -> Any:
    return value.decode() if hasattr(value, "decode") else value


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float) or isinstance(theirs, float):
        return bool(np.float32(ours) == np.float32(theirs))
    return type(ours) is type(theirs) and bool(ours == theirs)


def changed(model: Baseline) -> Iterator[tuple[str, Mapping[str, Any], dict[str, Any]]]:
    """Every change of a setting that changes the file: its name, the settings, what the file says then."""
    base = outcomes.planned(model.opened, "gguf")
    assert isinstance(base, Plan), base
    before = written(base)
    yield "nothing", model.settings, before
    for change in settings.of_config(model.settings, config_pool()):
        plan = outcomes.planned(lambda: model.opened(change.settings), "gguf")  # noqa: B023
        if isinstance(plan, Plan) and written(plan) != before:
            yield f"{change.done} {change.key}", change.settings, written(plan)


def folder(model: Baseline, config: Mapping[str, Any], path: Path) -> Path:
    """The model's folder with another config.json, the other files by link."""
    path.mkdir(parents=True)
    for file in model.path.iterdir():
        (path / file.name).symlink_to(file)
    (path / "config.json").unlink()
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Case and change -> what our file says, what the converter's says or `error`."""
    root = tmp_path_factory.mktemp("settings")
    source = llama_cpp_source(root / "source")
    ours, jobs = {}, {}
    for case in CASES:
        model = dense(case, root)
        known = read(DATA / "arch" / case / "reference.json")
        vocabulary = DATA / "tokenizers" / "kinds" / read(DATA / "arch" / case / "reference.json")["tokenizer"]
        for file in vocabulary.glob("tokenizer.model"):
            shutil.copy(file, model.path)
        pre = known["metadata"].get("tokenizer.ggml.pre", ["", "default"])[1]
        for number, (what, config, said) in enumerate(changed(model)):
            name = f"{case}: {what}"
            ours[name] = said
            place = folder(model, config, root / "changed" / f"{case}-{number}")
            jobs[name] = {"folder": str(place), "pre": pre, "raw": case in RAW}
    (root / "jobs.json").write_text(json.dumps(jobs))
    worker = Path(__file__).with_name("converter.py")
    done = subprocess.run(
        [sys.executable, str(worker), str(source), str(root / "jobs.json")], capture_output=True, check=True, text=True
    )
    theirs = json.loads(done.stdout)
    return {name: (ours[name], theirs[name]) for name in jobs}


def test_changed_settings_reach_gguf_as_in_the_converter(pairs: dict[str, Any]) -> None:
    apart = []
    for name, (ours, theirs) in pairs.items():
        if name in APART:
            continue
        if "error" in theirs:
            apart.append(f"{name}: {theirs['error'][:100]}")
            continue
        said = {key: value for key, (_, value) in theirs["metadata"].items() if _compared(key)}
        said |= {key: np.asarray(value).reshape(-1).tolist() for key, value in theirs["computed"].items()}
        further = {*ENDS} - {*said} if name.endswith(" eos_token_id") else set()
        for key in sorted({*said, *ours} - further):
            if not (key in said and key in ours and same(ours[key], said[key])):
                apart.append(f"{name}: {key} is {str(ours.get(key))[:60]}, theirs {str(said.get(key))[:60]}")
    print(f"{len(pairs)} files")
    assert not apart, "\n".join(apart)
    assert {f"{case}: nothing" for case in CASES} | {*APART} <= {*pairs}


#: What a table says of these is decided with the weights.
ASIDE = ("num_nextn_predict_layers",)


@pytest.mark.parametrize(
    ("family", "kind"),
    [(family, kind) for family in FAMILIES for kind in family.model_types],
    ids=lambda one: getattr(one, "name", one),
)
def test_what_a_config_leaves_out_is_what_its_class_assumes(family: Architecture, kind: str) -> None:
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers has no {kind}")
    theirs = transformers.CONFIG_MAPPING[kind]().to_dict()
    for setting in (*family.settings, *family.expects):
        held = theirs.get(setting.name)
        ours = family.model_types[kind].get(setting.name, NEUTRAL.get(setting.name))
        if held is None or callable(ours) or setting.name in ASIDE:
            continue
        if ours is None and not callable(setting.value):
            accepted = setting.value if isinstance(setting.value, tuple) else (setting.value,)
            assert (held or None) in [one or None for one in accepted], setting.name
        elif ours is not None or isinstance(held, bool | str):
            assert ours == held, setting.name
