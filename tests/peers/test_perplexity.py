"""llama.cpp loads and evaluates every preset of a trained model; the perplexities are those of llama-quantize's files.

The recipe is llama-perplexity's with `-c 256`: the text's tokens in windows of 256, the first of each replaced by BOS,
the second half scored. Its own numbers stand in the reference data, to four decimals.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from quantcli.recipes.llama_cpp import FTYPES
from tests.conversions import converted
from tests.peers.pinned import peer
from tests.peers.test_llama_cpp import Runner

library = peer("llama_cpp")

WINDOW = 256
#: Those of which the whole text is read, a minute or so each at worst; of the others, eight windows.
WHOLE = ("f32", "q4_0", "q4_k_m", "q6_k", "iq2_xs", "tq2_0")
#: llama-perplexity's numbers were made with repacked weights (q4_0), whose kernels sum in another order.
TOLERANCE = 2e-4
#: The presets whose runs demand a matrix; the others are made without.
WEIGHTED = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs", "q2_k_s")


def perplexity(path: Path, text: str, windows: int | None = None) -> float:
    """Of the first `windows` windows, or of all."""
    runner = Runner(path, WINDOW, usual=True)
    ids = runner.tokens(text, add_special=True)
    count = min(len(ids) // WINDOW, windows or len(ids))
    total = 0.0
    for start in range(0, count * WINDOW, WINDOW):
        window = [ids[0], *ids[start + 1 : start + WINDOW]]
        logits = runner.logits(window)[WINDOW // 2 : -1].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        wanted = logits[np.arange(len(logits)), window[WINDOW // 2 + 1 :]]
        total += float((np.log(np.exp(logits).sum(axis=1)) - wanted).sum())
    return float(np.exp(total / (count * (WINDOW // 2 - 1))))


@pytest.mark.parametrize("scheme", FTYPES)
def test_every_preset_is_evaluated(shared: Path, tmp_path: Path, scheme: str) -> None:
    fixtures = shared / "fixtures"
    matrix = fixtures / "gguf/tiny-llama/imatrix.gguf" if scheme in WEIGHTED else None
    converted(fixtures / "models/tiny-llama", tmp_path / "out.gguf", check=False, scheme=scheme, imatrix=matrix)
    text = (fixtures / "models/text/heldout.txt").read_text()
    told = json.loads((fixtures / "gguf/tiny-llama/perplexity.json").read_text())["results"]
    results = {label.lower(): float(result["ppl"]) for label, result in told.items()}
    wanted = results[f"{scheme}+im" if matrix else scheme] if scheme in WHOLE else None
    found = perplexity(tmp_path / "out.gguf", text, None if wanted else 8)
    print(f"{scheme}: perplexity {found:.4f}" + (f", llama-perplexity {wanted:.4f}" if wanted else " of 8 windows"))
    if wanted:
        assert found == pytest.approx(wanted, rel=TOLERANCE)
    else:
        assert 1 < found < 5_000
