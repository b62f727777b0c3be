"""Writes tests/data/tokenizers/ends.json.gz: small vocabularies, and what llama.cpp makes of their tokens.

It holds those at which llama.cpp ends an answer, and those that it matches whole in a text.

Run in the environment of `make peers`, from the top of the checkout: python -m tests.peers.make_ends
Each text of llama.cpp's tables with each type, each role, then random vocabularies. Of several texts for one role
llama.cpp takes one that its hash table chooses; a vocabulary here has one, except of ends of turns, where all count.
"""

import gzip
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from quantcli.tokenizers.ends import BY_TEXT, ENDS
from tests.peers.test_end_of_generation import theirs
from tests.tokenizers import tiny

TEXTS = tuple(dict.fromkeys((*ENDS, *(text for texts in BY_TEXT.values() for text in texts), "<|plamo:eos|>")))
ROLES = ("eos", "eot", "eom", "fim_pre", "fim_pad", "fim_rep", "fim_sep", "prefix", "bos", "padding", "unknown")
RANDOM = 150


def cases(model: str, rng: random.Random) -> Iterator[tuple[list[str], list[int], dict[str, int]]]:
    """Texts, types and roles of one vocabulary each."""
    for text in TEXTS:
        for kind in range(1, 7):
            yield [text, "other"], [kind, 3], {}
    for role in ROLES:
        for number in (5, 28, 31, 10_000):
            yield ["<|fim_pad|>", "<|eom_id|>"], [3, 3], {role: number}
    for _ in range(RANDOM):
        texts = rng.sample(TEXTS, rng.randint(0, len(TEXTS)))
        if rng.random() < 0.5:
            texts += [text for text in ("<|return|>", "<|call|>", "<|end|>", "</s>") if text not in texts]
        for role in sorted(BY_TEXT.keys() - {"eot"}):
            several = [text for text in texts if text in BY_TEXT[role]]
            texts = [text for text in texts if text not in several[1:]]
        count = len(tiny.START[model][0]) + len(texts)
        special = {role: rng.randrange(count + 3) for role in ROLES if rng.random() < 0.2}
        yield texts, [rng.randrange(1, 7) for _ in texts], special


def main() -> None:
    rng, made = random.Random(19), []
    with tempfile.TemporaryDirectory() as folder:
        for model in tiny.START:
            for case in cases(model, rng):
                path = tiny.gguf_file(Path(folder) / "a.gguf", model, *case)
                made.append([model, *case, *map(sorted, theirs(path))])
    text = json.dumps(made, ensure_ascii=False)
    (Path(__file__).parent.parent / "data" / "tokenizers" / "ends.json.gz").write_bytes(
        gzip.compress(text.encode(), mtime=0)
    )


if __name__ == "__main__":
    main()
