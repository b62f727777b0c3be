"""Folders and files of the new families compute in mlx-lm and llama.cpp what their sources compute in transformers.

An error is the largest difference of float32 logits over the largest logit. Each has a limit, or is no larger than that
of the tool's own conversion: `mlx_lm.convert` here, for llama.cpp what the reference data note of its converter's file.
Both are printed in a table at the end. Cases: those of fixtures/arch2 of the reference data with the logits there, and
those of tests/data/arch with noise of ordinary size, whose logits transformers computes here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from tests.arch_models import architecture_of
from tests.builders import BF16, safetensors_bytes
from tests.conversions import converted
from tests.convert.test_arch_shared import CASES as SHARED
from tests.convert.test_arch_shared import FIXTURES, folder_of
from tests.convert.test_golden_arch import CASES as COMMITTED
from tests.convert.test_golden_arch import DATA, reference
from tests.peers.pinned import ROOT, peer
from tests.peers.published_sizes import PUBLISHED

peer("llama_cpp")
torch = peer("torch")
peer("transformers")
mlx_lm = peer("mlx_lm")

import mlx.core as mx  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

from tests.peers.classes import class_of, known  # noqa: E402
from tests.peers.test_llama_cpp import ABORTS  # noqa: E402
from tests.peers.test_mlx_lm import apart, logits, wide  # noqa: E402

#: What an error may be whatever the tool's own is.
LIMIT = 1e-4
IDS = [int(i) for i in np.random.default_rng(23).integers(3, 300, 24)]
#: Ends of names of tensors that scale what goes through them.
SCALES = ("norm.weight", "norm1.weight", "norm2.weight", "layernorm.weight", "ln_pre.weight")
ARCH2 = tuple(case for case, why in SHARED.items() if why is None and case.startswith("arch2/"))
OURS = tuple(f"data/{case}" for case in COMMITTED if architecture_of(case).name in PUBLISHED)
CASES = (*ARCH2, *OURS)
#: Cases that llama.cpp and mlx-lm compute otherwise than transformers, whoever has converted them: the limit, and why.
GELU = "takes GELU from a table in float16"
FACTOR = "does not read the attention_factor of YaRN"
OTHERWISE = {
    ("data/gemma3_plain", "llama.cpp"): (3e-3, GELU),
    ("data/gemma3_text", "llama.cpp"): (3e-3, GELU),
    ("data/phi", "llama.cpp"): (1e-3, GELU),
    ("data/kimi_k2", "llama.cpp"): (1.5, "has the usual beta_fast of YaRN, 32, whatever the file says"),
    ("data/mellum", "llama.cpp"): (0.8, f"{FACTOR}; layers with a window have the others' rotary base"),
    ("data/mellum", "mlx-lm"): (0.8, FACTOR),
}
#: Models with towers that mlx-lm has no class of, and who has one.
ELSEWHERE = {"arch2/glm4v": "mlx-vlm", "arch2/smolvlm": "mlx-vlm", "arch2/voxtral": "nobody"}
#: Case -> tool -> error of ours, and of the tool's own conversion or why there is none.
Errors = dict[str, dict[str, tuple[float, str]]]


@pytest.fixture(scope="module")
def errors(request: pytest.FixtureRequest) -> Iterator[Errors]:
    """What the tests of the file find; printed at the end."""
    found: Errors = {}
    yield found
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{'case':28}{'tool':11}{'ours':>10}  its own conversion")
        for case, tools in sorted(found.items()):
            for tool, pair in sorted(tools.items()):
                print(f"{case:28}{tool:11}{pair[0]:10.1e}  {pair[1]}")


@pytest.fixture(scope="module", autouse=True)
def plain_mlx() -> Iterator[None]:
    """On the CPU, and without the system's compiler, which takes longer than these models do."""
    mx.set_default_device(mx.cpu)
    mx.disable_compile()
    yield
    mx.enable_compile()


def noise(name: str, dtype: str, shape: list[int]) -> np.ndarray:
    """Values of a tensor, which follow from its name."""
    values = np.random.default_rng(crc32(name.encode())).normal(size=shape)
    if name.endswith(SCALES):
        values = 1 + values / 10
    elif len(shape) > 1:
        values = values / np.sqrt(shape[-1])
    else:
        values = values / 10
    return values.astype("f4").astype(BF16 if dtype == "BF16" else "f4")


def noisy(root: Path, case: str) -> Path:
    """The folder of a committed case, with its tokenizer."""
    folder = root / case
    folder.mkdir()
    arrays = {name: noise(name, *entry) for name, entry in reference(case)["source"].items()}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(arrays, {"format": "pt"}))
    kind = json.loads((DATA / "arch" / case / "reference.json").read_text())["tokenizer"]
    for file in (DATA / "arch" / case / "config.json", *(DATA / "tokenizers" / "kinds" / kind).glob("*.json")):
        shutil.copy(file, folder)
    return folder


def by_transformers(folder: Path) -> np.ndarray:
    """The logits of a folder, every tensor of which the class in its config.json needs and has."""
    torch.set_num_threads(1)
    cls = class_of(folder)
    if cls is None:
        pytest.skip("transformers has no class of it")
    model, info = cls.from_pretrained(str(known(folder, cls)), dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    with torch.no_grad():
        found: np.ndarray = model.eval()(torch.tensor([IDS])).logits[0].float().numpy()
    return found


def source(case: str, root: Path) -> tuple[Path, list[int], np.ndarray]:
    """The folder of a case, and the ids and logits that it is held to."""
    if case in OURS:
        folder = noisy(root, case.removeprefix("data/"))
        return folder, IDS, by_transformers(folder)
    probe = np.load(FIXTURES / case / "logits.npz")
    return folder_of(FIXTURES / case, root), probe["input_ids"].tolist(), probe["logits"]


def error(folder: Path, ids: list[int], wanted: np.ndarray) -> float:
    """The error of an MLX folder, which is loaded strictly and computes in float32."""
    return apart(logits(wide(load_model(folder, strict=True)[0]), ids), wanted)


def own_error(folder: Path, output: Path, ids: list[int], wanted: np.ndarray) -> float | str:
    """The error of mlx-lm's own conversion, or why there is none."""
    try:
        mlx_lm.convert(str(folder), str(output))
    except (Exception, SystemExit) as refused:  # whatever a tool does with a model that it does not know
        return f"{type(refused).__name__}: {refused}".partition("\n")[0][:70]
    return error(output, ids, wanted)


def stated(case: str) -> float | str:
    """The error that the reference data note of llama.cpp with its converter's own file in float32."""
    if case not in ARCH2:
        return "not run"
    found = json.loads((FIXTURES / case / "case.json").read_text())["llama_cpp_logits_max_rel_error"]["f32"]
    return float(found)


def by_llama_cpp(file: Path, ids: list[int]) -> np.ndarray:
    """The logits of a GGUF file, from a process of its own: llama.cpp ends the one where an assertion of its fails."""
    output = file.with_suffix(".npy")
    code = "import sys, json, numpy; from pathlib import Path; from tests.peers.test_llama_cpp import Runner"
    code += "; numpy.save(sys.argv[2], Runner(Path(sys.argv[1])).logits(json.loads(sys.argv[3])))"
    command = [sys.executable, "-c", code, str(file), str(output), json.dumps(ids)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    failed = [line for line in done.stderr.splitlines() if "ASSERT" in line or "Error" in line]
    assert done.returncode == 0, failed[:3] or done.stderr[-500:]
    found: np.ndarray = np.load(output)
    return found


def hold(errors: Errors, case: str, tool: str, ours: float, own: float | str) -> None:
    """Note both errors, and fail where ours is above its limit and above the tool's own."""
    limit, why = OTHERWISE.get((case, tool), (LIMIT, ""))
    errors.setdefault(case, {})[tool] = (
        ours,
        f"{own:.1e}" if isinstance(own, float) else "; ".join(one for one in (own, why) if one),
    )
    assert ours <= (max(limit, 1.01 * own) if isinstance(own, float) else limit)
    assert not why or ours > LIMIT, f"{tool} computes {case} now: it needs no line in OTHERWISE"


@pytest.mark.parametrize("case", CASES)
def test_mlx_lm_computes_what_transformers_does(errors: Errors, tmp_path: Path, case: str) -> None:
    """Or it does not load the model, which a warning says."""
    folder, ids, wanted = source(case, tmp_path)
    report = converted(folder, tmp_path / "ours", to="mlx")
    if case in ELSEWHERE or any("mlx-lm does not load this model" in line for line in report["warnings"]):
        with pytest.raises((Exception, SystemExit)):
            load_model(tmp_path / "ours", strict=True)
        return
    ours, own = error(tmp_path / "ours", ids, wanted), own_error(folder, tmp_path / "theirs", ids, wanted)
    hold(errors, case, "mlx-lm", ours, own)


@pytest.mark.parametrize("case", [case for case in CASES if case.removeprefix("data/") not in ABORTS])
def test_llama_cpp_computes_what_transformers_does(errors: Errors, tmp_path: Path, case: str) -> None:
    folder, ids, wanted = source(case, tmp_path)
    converted(folder, tmp_path / "ours.gguf", scheme="f32")
    hold(errors, case, "llama.cpp", apart(by_llama_cpp(tmp_path / "ours.gguf", ids), wanted), stated(case))


#: Other spellings of a committed case's config.json: as transformers 5 saves it, and without what its class assumes.
SPELLINGS = [
    (case, spelling)
    for case in (case.removeprefix("data/") for case in OURS)
    for spelling in ("config-v5.json", "config-minimal.json")
    if (DATA / "arch" / case / spelling).is_file()
]


@pytest.mark.parametrize(("case", "spelling"), SPELLINGS)
def test_mlx_lm_computes_the_same_whatever_config_json_leaves_to_a_class(
    tmp_path: Path, case: str, spelling: str
) -> None:
    folder, found = noisy(tmp_path, case), []
    for name in (None, spelling):
        if name is not None:
            shutil.copy(DATA / "arch" / case / name, folder / "config.json")
        report = converted(folder, tmp_path / str(name), to="mlx")
        if any("mlx-lm does not load this model" in line for line in report["warnings"]):
            return
        found.append(logits(wide(load_model(tmp_path / str(name), strict=True)[0]), IDS))
    assert np.array_equal(*found)


def test_reference_data_are_there() -> None:
    if not ARCH2:
        pytest.skip("no reference data: fixtures/arch2 is not there (set QUANTCLI_FIXTURES)")
