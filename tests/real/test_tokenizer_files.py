"""Tokenizers of real models in folders: batches, chats, and the way back to GGUF."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from quantcli.containers import gguf
from quantcli.containers.gguf_values import ArrayValue
from tests.conversions import converted
from tests.peers.pinned import peer
from tests.real.conftest import Made

llama_cpp = peer("llama_cpp")
torch = peer("torch")
transformers = peer("transformers")

#: Two prompts of different length.
BATCH = ("The capital of France is", "Once upon a time, there was a little girl who lived in a house by the")
COUNT = 12
#: A chat of three turns after the system's, with what a template has to leave alone.
CHAT = (
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "  Name a colour.\n\nOne word!  "},
    {"role": "assistant", "content": "Blue \u2014 \U0001f535"},
    {"role": "user", "content": "{{ another }} <b>one</b>?"},
)


def said(model: Any, given: Any) -> list[list[int]]:
    """The tokens that a model says after each row, greedily."""
    with torch.no_grad():
        found = model.generate(**given, do_sample=False, max_new_tokens=COUNT, min_new_tokens=COUNT)
    return [row[given["input_ids"].shape[1] :].tolist() for row in found]


def test_a_padded_batch_gives_each_prompts_own_text(made: Made, tokenizer: Any) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(str(made.hf_f32), dtype=torch.float32).eval()
    alone = [said(model, tokenizer(prompt, return_tensors="pt"))[0] for prompt in BATCH]
    batch = tokenizer(list(BATCH), return_tensors="pt", padding=True)
    assert batch["attention_mask"].min() == 0
    print([tokenizer.decode(tokens) for tokens in alone])
    if tokenizer.padding_side == "left":
        assert said(model, batch) == alone
    else:
        # The family's published tokenizer pads on the right; generation asks for the left.
        batch = tokenizer(list(BATCH), return_tensors="pt", padding=True, padding_side="left")
        assert said(model, batch) == alone


def rendered(template: str) -> str:
    """The chat as llama.cpp renders it by a template that it knows."""
    messages = (llama_cpp.llama_chat_message * len(CHAT))(
        *(llama_cpp.llama_chat_message(turn["role"].encode(), turn["content"].encode()) for turn in CHAT)
    )
    space = ctypes.create_string_buffer(1 << 14)
    length = llama_cpp.llama_chat_apply_template(template.encode(), messages, len(CHAT), True, space, len(space))
    assert 0 < length < len(space)
    return space.raw[:length].decode()


def test_a_chat_is_rendered_as_by_llama_cpp(made: Made, tokenizer: Any) -> None:
    stored = gguf.read(made.gguf_f32).metadata.get("tokenizer.chat_template")
    if stored is None:
        assert tokenizer.chat_template is None
        pytest.skip("the model has no chat template")
    ours = tokenizer.apply_chat_template(list(CHAT), tokenize=False, add_generation_prompt=True)
    assert ours == rendered(stored.value)
    formatter = peer("llama_cpp").llama_chat_format.Jinja2ChatFormatter(
        stored.value, eos_token=tokenizer.eos_token, bos_token=tokenizer.bos_token, add_generation_prompt=True
    )
    assert ours == formatter(messages=list(CHAT)).prompt


def plain(value: Any) -> Any:
    return value.decode() if isinstance(value, ArrayValue) else value


@pytest.mark.parametrize("folder", ["hf_f32", "mlx"])
def test_the_tokenizer_comes_back_or_is_named(made: Made, folder: str, tmp_path: Path) -> None:
    report = converted(getattr(made, folder), tmp_path / "back.gguf", check=False)
    before, after = (gguf.read(path).metadata for path in (made.gguf, tmp_path / "back.gguf"))
    names = [key for key in {**before, **after} if key.startswith("tokenizer.")]
    odd = [
        key
        for key in names
        if key not in before or key not in after or plain(before[key].value) != plain(after[key].value)
    ]
    silent = {key for key in odd if not any(key in warning for warning in report["warnings"])}
    # A tokenizer.json has the order of merges, not the scores that they come from.
    assert {key for key in silent if key in before} <= {"tokenizer.ggml.scores"}
    # What a file may leave to llama.cpp, the converter writes.
    assert all(key.startswith("tokenizer.ggml.add_") for key in silent if key not in before), silent
    (tmp_path / "back.gguf").unlink()
