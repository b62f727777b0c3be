"""GGUF files of tiny vocabularies, letters and tokens of chosen texts, types and roles; files with other keys."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantcli.checkpoint import Vocabulary
from quantcli.containers.gguf import read
from quantcli.containers.gguf_write import header
from tests.tokenizers.kinds import stored

SIZES = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
#: Of each kind of vocabulary, the tokens before the chosen ones, and their types.
START: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "gpt2": ((*LETTERS, "ab", "\u010a"), (1,) * 28),
    "llama": (("<unk>", "<s>", "<end>", "<0x0A>", *LETTERS), (2, 3, 3, 6, *(1,) * 26)),
    "gemma4": (("<pad>", "<bos>", "ab", "\n", *LETTERS), (3, 3, 1, 1, *(1,) * 26)),
}


def vocabulary_keys(
    model: str, texts: Sequence[str], types: Sequence[int], special: Mapping[str, int], **further: tuple[str, Any]
) -> dict[str, tuple[str, Any]]:
    """The keys of a file. special: role -> id. further: keys after `tokenizer.ggml.`, with their types."""
    first, kinds = START[model]
    tokens = tuple(text.encode() for text in (*first, *texts))
    keys: dict[str, tuple[str, Any]] = {
        "general.architecture": ("string", "llama"),
        **{f"llama.{size}": ("uint32", 32) for size in SIZES},
        "llama.attention.layer_norm_rms_epsilon": ("float32", 1e-5),
        "tokenizer.ggml.model": ("string", model),
        "tokenizer.ggml.pre": ("string", {"gpt2": "gpt-2", "llama": "default"}.get(model, model)),
        "tokenizer.ggml.tokens": ("array[string]", tokens),
        "tokenizer.ggml.token_type": ("array[int32]", (*kinds, *types)),
    }
    if model == "llama":
        keys["tokenizer.ggml.scores"] = ("array[float32]", tuple(-float(n) for n in range(len(tokens))))
    else:
        keys["tokenizer.ggml.merges"] = ("array[string]", (b"a b",))
    keys |= {f"tokenizer.ggml.{role}_token_id": ("uint32", number) for role, number in special.items()}
    return keys | {f"tokenizer.ggml.{key}": value for key, value in further.items()}


def gguf_file(path: Path, *args: Any, **further: tuple[str, Any]) -> Path:
    path.write_bytes(header(vocabulary_keys(*args, **further), [])[0])
    return path


def vocabulary(path: Path, *args: Any, **further: tuple[str, Any]) -> Vocabulary:
    return stored(gguf_file(path, *args, **further))


def rekeyed(path: Path, output: Path, changes: Mapping[str, tuple[str, Any] | None]) -> Path:
    """A copy of a GGUF file with other keys; None leaves one out."""
    file = read(path)
    keys = {key: (kind, value) for key, (kind, value) in file.metadata.items()}
    keys = {key: pair for key, pair in (keys | dict(changes)).items() if pair is not None}
    tensors = [(t.name, t.shape, str(t.type_name)) for t in file.tensors.values()]
    start, offsets, size = header(keys, tensors)
    data, whole = path.read_bytes(), bytearray(size)
    whole[: len(start)] = start
    for tensor in file.tensors.values():
        at, count = offsets[tensor.name], tensor.nbytes or 0
        whole[at : at + count] = data[tensor.offset : tensor.offset + count]
    output.write_bytes(whole)
    return output
