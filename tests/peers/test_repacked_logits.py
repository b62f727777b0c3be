"""What mlx-lm computes with the codes of a GGUF file, against the dense float32 conversion of the same file.

Figures are the largest difference of logits on 32 tokens over the largest logit, of the shared tiny-llama.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conversions import converted
from tests.peers.pinned import peer

peer("mlx_lm")

import mlx.core as mx  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

#: Every GGML type whose codes MLX holds; Q8_K is `codes-exact` in either dtype of scales, Q4_K and Q5_K in f16.
TYPES = (
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q8_k", "q1_0", "q2_0", "tq1_0", "tq2_0", "mxfp4", "nvfp4",
)  # fmt: skip
#: Types that name no mixture of llama-quantize.
PLAIN = ("q8_k", "mxfp4", "nvfp4")
Files = Callable[[str], Path]


def logits(folder: Path, ids: list[int]) -> np.ndarray:
    mx.set_default_device(mx.cpu)
    model, _ = load_model(folder)
    return np.array(model(mx.array([ids]))[0].astype(mx.float32))


@pytest.fixture(scope="module")
def ids(shared: Path) -> list[int]:
    found: list[int] = np.load(shared / "fixtures" / "models" / "tiny-llama" / "probe_logits.npz")["input_ids"].tolist()
    return found


@pytest.fixture(scope="module")
def pure(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A GGUF file all of one type."""
    root = tmp_path_factory.mktemp("pure")

    def make(kind: str) -> Path:
        path = root / f"{kind}.gguf"
        if not path.exists():
            converted(shared / "fixtures" / "models" / "tiny-llama", path, scheme=kind, pure=kind not in PLAIN)
        return path

    return make


@pytest.fixture(scope="module")
def dense(pure: Files, ids: list[int]) -> Callable[[str], np.ndarray]:
    """Logits of the float32 values of such a file."""
    known: dict[str, np.ndarray] = {}

    def compute(kind: str) -> np.ndarray:
        if kind not in known:
            folder = pure(kind).with_suffix(".dense")
            converted(pure(kind), folder, scheme="f32")
            known[kind] = logits(folder, ids)
        return known[kind]

    return compute


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    found = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    print(f"largest logit difference {found:.2g}")
    return found


@pytest.mark.parametrize("scales", ["f16", "f32"])
@pytest.mark.parametrize("kind", TYPES)
def test_in_float32(
    pure: Files, dense: Callable[[str], np.ndarray], ids: list[int], tmp_path: Path, kind: str, scales: str
) -> None:
    """Within 0.1%; with f32 scales and exact values only the order of sums differs."""
    report = converted(pure(kind), tmp_path / "mlx", dtype="f32", scale_dtype=scales)
    grades = {weight["grade"] for weight in report["weights"]}
    assert grades <= {"exact", "codes-exact"}
    found = apart(logits(tmp_path / "mlx", ids), dense(kind))
    assert found < (1e-3 if scales == "f16" or "codes-exact" in grades else 1e-5)


@pytest.mark.parametrize(("given", "largest"), [({}, 0.012), ({"dtype": "bf16", "scale_dtype": "bf16"}, 0.12)])
@pytest.mark.parametrize("kind", ["q4_0", "q4_k", "q8_0"])
def test_what_narrow_arithmetic_costs(
    pure: Files,
    dense: Callable[[str], np.ndarray],
    ids: list[int],
    tmp_path: Path,
    kind: str,
    given: dict[str, str],
    largest: float,
) -> None:
    """By default all is f16, and logits differ by 0.7%; all in bf16, by 6%. The codes are the same."""
    converted(pure(kind), tmp_path / "mlx", **given)
    found = apart(logits(tmp_path / "mlx", ids), dense(kind))
    assert largest / 4 < found < largest
