"""Real models through every kind of target and back: llama.cpp, transformers and mlx-lm say the same of each.

They are in float32 what is computed here; the folder's own dtype and MLX's scales are looked at one by one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conversions import config, converted, values
from tests.convert.test_golden_arch import hashes
from tests.peers.pinned import peer
from tests.real.conftest import Made

llama_cpp = peer("llama_cpp")
torch = peer("torch")
transformers = peer("transformers")
mlx_lm = peer("mlx_lm")
tokenizers = pytest.importorskip("tokenizers")

import mlx.core as mx  # noqa: E402

from tests.peers.test_architectures import wide  # noqa: E402
from tests.peers.test_llama_cpp import Runner  # noqa: E402

#: After each, one token is clearly the likeliest: another order of sums, or float16, decides a tie otherwise.
PROMPTS = (
    "The capital of France is",
    "Once upon a time, there was a little girl who",
    "import numpy as np\n\ndef mean(x):\n    return",
    "Water boils at 100 degrees Celsius because",
)
COUNT = 24
#: How many characters of a text the folder's own dtype has to agree in, and for how many prompts.
ALIKE, AT_LEAST = 12, 3
PROBES: list[str] = json.loads((Path(__file__).parent / "probes.json").read_text())
#: SentencePiece writes blanks as this character, so it cannot tell one that stands in a text.
BLANK = "\u2581"
#: User-defined tokens that llama.cpp takes for special ones, since their text ends an answer in other models.
TAKEN_FOR_SPECIAL = ("</s>",)


@dataclass(frozen=True)
class Answer:
    """The ids of a prompt, and the tokens that llama.cpp says in float32."""

    ids: list[int]
    tokens: list[int]


@pytest.fixture(scope="module")
def answers(made: Made) -> list[Answer]:
    runner = Runner(made.gguf_f32, threads=1)
    prompts = [runner.tokens(prompt, add_special=True) for prompt in PROMPTS]
    return [Answer(ids, runner.greedy(ids, COUNT)) for ids in prompts]


def greedy(folder: Path, answers: list[Answer]) -> tuple[list[list[int]], str]:
    """The tokens that transformers says after each prompt, in the folder's dtype, and that dtype."""
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype="auto").eval()
    found = []
    for answer in answers:
        tokens: list[int] = []
        given, past = answer.ids, None
        while len(tokens) < COUNT:
            with torch.no_grad():
                step = model(torch.tensor([given]), past_key_values=past, use_cache=True)
            past = step.past_key_values
            given = [int(step.logits[0, -1].argmax())]
            tokens += given
        found.append(tokens)
    return found, str(model.dtype).removeprefix("torch.")


def test_transformers_in_float32_says_what_llama_cpp_says(made: Made, answers: list[Answer], tokenizer: Any) -> None:
    found, dtype = greedy(made.hf_f32, answers)
    for prompt, answer, tokens in zip(PROMPTS, answers, found, strict=True):
        print(repr(tokenizer.decode(tokens)))
        assert tokenizer.encode(prompt) == answer.ids
        assert tokens == answer.tokens, prompt
    assert dtype == "float32"


def test_the_folders_own_dtype_says_the_same_first_words(made: Made, answers: list[Answer], tokenizer: Any) -> None:
    found, dtype = greedy(made.hf, answers)
    assert dtype == config(made.hf)["torch_dtype"]
    texts = [(tokenizer.decode(tokens), tokenizer.decode(a.tokens)) for tokens, a in zip(found, answers, strict=True)]
    print(dtype, texts)
    assert all(len(set(tokens)) > 4 for tokens in found)
    assert sum(ours[:ALIKE] == theirs[:ALIKE] for ours, theirs in texts) >= AT_LEAST


def test_mlx_lm_says_the_same_next_token(made: Made, answers: list[Answer]) -> None:
    """As the folder is, and with its scales in float32 for all: MLX's CPU needs seconds for a token in float16."""
    model, tokenizer = mlx_lm.load(str(made.mlx))
    assert next_token(model, answers[0].ids) == answers[0].tokens[0]
    wide(model)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert tokenizer.encode(prompt) == answer.ids
        assert next_token(model, answer.ids) == answer.tokens[0], prompt


def next_token(model: Any, ids: list[int]) -> int:
    return int(mx.argmax(model(mx.array([ids]))[0, -1].astype(mx.float32)))


def ids_of(runner: Runner, text: str, add_special: bool, parse_special: bool) -> list[int]:
    """llama.cpp's ids of a text."""
    raw = text.encode()
    space = (llama_cpp.llama_token * (len(raw) + 16))()
    given = (runner.vocabulary, raw, len(raw), space, len(space), add_special, parse_special)
    count = llama_cpp.llama_tokenize(*given)
    assert count >= 0
    return list(space[:count])


def test_the_tokenizer_has_the_ids_of_llama_cpp(made: Made) -> None:
    """Of every probe, with the tokens around a text and without, its special tokens parsed and as plain text."""
    assert len(PROBES) == len(set(PROBES)) == 200 and not any(BLANK in text for text in PROBES)
    runner = Runner(made.gguf, threads=1)
    ours = tokenizers.Tokenizer.from_file(str(made.hf / "tokenizer.json"))
    for parse in (True, False):
        ours.encode_special_tokens = not parse
        for text in PROBES:
            if not parse and any(token in text for token in TAKEN_FOR_SPECIAL):
                continue
            for around in (False, True):
                found = ours.encode(text, add_special_tokens=around).ids
                assert found == ids_of(runner, text, around, parse), (text, around, parse)


def test_over_mlx_and_back_to_gguf(made: Made, tmp_path: Path) -> None:
    """Every tensor of SmolLM2 has its bytes; of Gemma those that MLX has a place for have their values."""
    converted(made.mlx, tmp_path / "back.gguf", check=False)
    if made.release.equal == made.release.tensors:
        assert hashes(tmp_path / "back.gguf") == hashes(made.gguf)
    before, after = values(made.gguf), values(tmp_path / "back.gguf")
    assert before.keys() == after.keys() and len(before) == made.release.tensors
    assert sum(np.array_equal(before[name], after[name]) for name in before) == made.release.equal
    (tmp_path / "back.gguf").unlink()


def test_float32_folder_back_to_gguf(made: Made, tmp_path: Path) -> None:
    """Every tensor has the bytes of the float32 file that was made without a folder between."""
    converted(made.hf_f32, tmp_path / "back.gguf", check=False)
    assert hashes(tmp_path / "back.gguf") == hashes(made.gguf_f32)
    (tmp_path / "back.gguf").unlink()
