"""What an importance matrix lacks or does not fit is said before anything is quantized, of a dry run as a warning."""

import re
import struct
from pathlib import Path
from typing import Any

import pytest

from quantcli.containers import gguf_write
from quantcli.convert.planning.plan import make
from quantcli.convert.planning.request import Request
from quantcli.errors import BadInput, NotPossible, QuantError
from quantcli.sources.detect import open_source

NAMES = ("blk.0.attn_k.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight")
WHOLE = ("output.weight", "token_embd.weight")
COLUMNS = 256


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    head, _, size = gguf_write.header(
        {"general.architecture": ("string", "llama"), "llama.block_count": ("uint32", 1)},
        [(name, (2, COLUMNS), "f16") for name in (*NAMES, *WHOLE)],
    )
    path.write_bytes(head + bytes(size - len(head)))
    return path


def matrix(path: Path, entries: dict[str, float], columns: int = COLUMNS) -> Path:
    """A legacy file of constant entries."""
    data = struct.pack("<i", len(entries))
    for name, value in entries.items():
        data += (
            struct.pack("<i", len(name)) + name.encode() + struct.pack(f"<ii{columns}f", 1, columns, *[value] * columns)
        )
    path.write_bytes(data)
    return path


ALL = dict.fromkeys(NAMES, 1.0)
ENTRY = "'blk.0.attn_k.weight=q4_k'"
NEEDED = [
    pytest.param(
        dict.fromkeys(NAMES[1:], 1.0), {"scheme": "iq2_xs"}, f"m.dat has no entry for it.*{ENTRY}", id="lacks one"
    ),
    pytest.param(
        ALL, {"scheme": "iq2_xs", "exclude_weights": ("attn_k",)},
        f"its entry in m.dat.*{ENTRY}", id="excluded",
    ),
    pytest.param(
        ALL, {"scheme": "q4_k_m", "token_embedding_type": "iq2_xxs"},
        "token_embd.weight as iq2_xxs: m.dat has no entry for it.*--token-embedding-type q4_k",
        id="embedding",
    ),
    pytest.param(
        None, {"scheme": "q4_k_m", "token_embedding_type": "iq2_xxs"},
        "importance matrix.*--token-embedding-type q4_k", id="embedding, no matrix",
    ),
    pytest.param(
        ALL, {"scheme": "q4_k_m", "output_tensor_type": "iq2_xxs"},
        "output.weight as iq2_xxs: m.dat has no entry for it.*--output-tensor-type q4_k", id="output",
    ),
]  # fmt: skip


def asked(model: Path, folder: Path, entries: dict[str, float] | None, options: dict[str, Any]) -> Request:
    given = {} if entries is None else {"imatrix": matrix(folder / "m.dat", entries)}
    return Request(output=folder / "out.gguf", **given, **options)


@pytest.mark.parametrize(("entries", "options", "said"), NEEDED)
def test_a_type_that_needs_an_entry(
    model: Path, tmp_path: Path, entries: dict[str, float] | None, options: dict[str, Any], said: str
) -> None:
    request = asked(model, tmp_path, entries, options)
    with pytest.raises(NotPossible, match=said):
        make(open_source(model), request)
    (warning,) = make(open_source(model), request, dry_run=True).warnings
    assert re.search(said, warning)


def test_what_the_sentence_advises_works(model: Path, tmp_path: Path) -> None:
    embedding = {"scheme": "q4_k_m", "token_embedding_type": "q4_k"}
    make(open_source(model), asked(model, tmp_path, ALL, embedding))
    make(
        open_source(model),
        asked(
            model,
            tmp_path,
            dict.fromkeys(NAMES[1:], 1.0),
            {"scheme": "iq2_xs", "overrides": ("blk.0.attn_k.weight=q4_k",)},
        ),
    )


@pytest.mark.parametrize("name", ["lacks", "zeros", "includes nothing", "excludes nothing", "leaves nothing"])
def test_warnings(model: Path, tmp_path: Path, name: str) -> None:
    entries, options, said = {
        "lacks": ({NAMES[2]: 1.0}, {}, ["2 weights (first: blk.0.attn_k.weight) have no entry in m.dat"]),
        "zeros": (ALL | {NAMES[1]: 0.0}, {}, ["blk.0.attn_q.weight has an entry in m.dat that is all zeros"]),
        "includes nothing": (
            ALL, {"include_weights": ("atn_v",)},
            ["--include-weights atn_v: matches no entry of m.dat", "--include-weights excludes every entry of m.dat"],
        ),
        "excludes nothing": (
            ALL, {"exclude_weights": ("foo", "attn")}, ["--exclude-weights foo: matches no entry of m.dat"],
        ),
        "leaves nothing": (ALL, {"exclude_weights": ("blk",)}, ["--exclude-weights excludes every entry of m.dat"]),
    }[name]  # fmt: skip
    request = asked(model, tmp_path, entries, {"scheme": "q4_k_m", **options})
    for dry_run in (False, True):
        found = make(open_source(model), request, dry_run=dry_run).warnings
        assert len(found) == len(said) and all(map(str.startswith, found, said)), found


def test_a_sound_matrix_is_no_matter(model: Path, tmp_path: Path) -> None:
    """Embeddings and the output have no entry as a rule, and weights that keep their type need none."""
    assert make(open_source(model), asked(model, tmp_path, ALL, {"scheme": "q4_k_m"})).warnings == ()
    assert make(open_source(model), asked(model, tmp_path, {NAMES[0]: 0.0}, {"scheme": "keep"})).warnings == ()


@pytest.mark.parametrize(
    ("entries", "columns", "said"),
    [
        ({"blk.7.attn_k.weight": 1.0}, COLUMNS, "m.dat: .* 'blk.7.attn_k.weight', .* 'blk.0.attn"),
        (ALL, 32, "m.dat: entry 'blk.0.attn_k.weight': .* found 32"),
    ],
    ids=["names", "sizes"],
)  # fmt: skip
def test_a_matrix_of_another_model(
    model: Path, tmp_path: Path, entries: dict[str, float], columns: int, said: str
) -> None:
    request = Request(output=tmp_path / "o.gguf", scheme="q4_k_m", imatrix=matrix(tmp_path / "m.dat", entries, columns))
    with pytest.raises(BadInput, match=said):
        make(open_source(model), request)
    assert re.search(said, make(open_source(model), request, dry_run=True).warnings[0])


def test_strict(model: Path, tmp_path: Path) -> None:
    request = asked(model, tmp_path, ALL, {"scheme": "q4_k_m", "include_weights": ("atn_v",), "strict": True})
    with pytest.raises(QuantError, match="--strict: --include-weights atn_v"):
        make(open_source(model), request)
