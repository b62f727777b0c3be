"""Which tokens end an answer, GGUF to folder and back: llama.cpp's set, whatever says so."""

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantcli import tokenizers
from quantcli.checkpoint import Vocabulary
from quantcli.containers.gguf import read
from quantcli.containers.gguf_write import header
from quantcli.errors import BadInput, NotPossible
from quantcli.targets.gguf_metadata import tokenizer
from quantcli.tokenizers import conventions, ends
from quantcli.tokenizers.conventions import PLAIN, Conventions
from quantcli.tokenizers.listed import SLOTS
from quantcli.tokenizers.rebuild import tokenizer_json
from quantcli.tokenizers.write import files, token_ids
from tests.builders import llama_gguf, tiny_llama
from tests.conversions import converted, planned
from tests.mutations.baselines import as_gguf, dense
from tests.tokenizers import tiny
from tests.tokenizers.kinds import KINDS, conventions_of, gguf_file, loaded, stored

DATA = Path(__file__).resolve().parent.parent / "data" / "tokenizers"
#: model, texts, types, roles; the ids at which llama.cpp ends an answer, and those that it matches whole in a text.
CASES: list[tuple[str, list[str], list[int], dict[str, int], list[int], list[int]]] = json.loads(
    gzip.decompress((DATA / "ends.json.gz").read_bytes())
)
EOS, EOT, EOM = (f"tokenizer.ggml.{role}_token_id" for role in SLOTS)


def ours(vocabulary: Vocabulary) -> tuple[set[int], set[int]]:
    """The ids that end an answer in the folder made of a vocabulary, and those of its added tokens."""
    found = token_ids(vocabulary).get("eos_token_id", [])
    added = tokenizer_json(vocabulary)[0]["added_tokens"]
    return set(found) if isinstance(found, list) else {found}, {token["id"] for token in added}


def json_of(path: Path) -> Any:
    return json.loads(path.read_text())


def folder(root: Path, **changes: Any) -> Path:
    """A tiny folder; of its 96 tokens 93 is `<|begin|>`, 94 `<|end|>`, 95 `<|pad|>`, the others are ordinary.

    changes: `config`, `generation` and `tokenizer_config`, keys that differ in these files.
    """
    tiny_llama(root, **changes.pop("config", {}))
    for name, keys in changes.items():
        path = root / f"{name}.json"
        path.write_text(json.dumps((json_of(path) if path.is_file() else {}) | keys))
    return root


def load(root: Path, rules: Conventions = PLAIN) -> Vocabulary:
    return tokenizers.load(root, json_of(root / "config.json"), rules)


@pytest.mark.parametrize("model", tiny.START)
def test_the_end_of_generation_set_is_llama_cpps(tmp_path: Path, model: str) -> None:
    """Each text of its tables with each type, each role, random vocabularies; and what is matched whole in a text."""
    cases = [case for case in CASES if case[0] == model]
    assert len(cases) > 450
    for _, texts, types, special, ending, matched in cases:
        made = tiny.vocabulary(tmp_path / "a.gguf", model, texts, types, special)
        assert ours(made) == (set(ending), set(matched)), (texts, types, special)


def test_the_named_end_comes_first() -> None:
    made = token_ids(loaded("bpe-llama3"))
    assert made == {"bos_token_id": 368, "eos_token_id": [374, 369, 373]}


def test_ends_by_text_of_a_whole_file() -> None:
    """`<|end_of_text|>` is named, turns end with `<|eot_id|>`, messages with `<|eom_id|>`."""
    made = token_ids(stored(DATA / "end-of-turn-by-text.gguf"))
    assert made == {"bos_token_id": 509, "eos_token_id": [510, 507, 508], "pad_token_id": 511}


def test_a_sentencepiece_file_without_ids_has_llama_cpps(tmp_path: Path) -> None:
    vocabulary = stored(DATA / "spm-without-ids.gguf")
    assert token_ids(vocabulary) == {"bos_token_id": 1, "eos_token_id": 2} and vocabulary.warnings == ()
    made = files(vocabulary).files
    assert json.loads(made["tokenizer_config.json"]).items() >= {"bos_token": "<s>", "eos_token": "</s>"}.items()
    first = json.loads(made["tokenizer.json"])["post_processor"]["single"][0]
    assert first == {"SpecialToken": {"id": "<s>", "type_id": 0}}


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("llama", {"bos": 1, "eos": 2, "unknown": 0}),
        ("gpt2", {"eos": 11}),
        ("gemma4", {}),
        ("bert", {"padding": 0}),
        ("t5", {"eos": 1, "unknown": 2, "padding": 0}),
        ("plamo2", {"bos": 1, "eos": 2, "unknown": 0, "padding": 3}),
        ("rwkv", {}),
        ("nobody knows", {}),
    ],
)
def test_ids_that_llama_cpp_assumes(tmp_path: Path, model: str, wanted: dict[str, int]) -> None:
    """Of each kind of vocabulary, where it has so many tokens; one that a file names is not assumed."""
    keys = tiny.vocabulary_keys("llama", [], [], {}) | {"tokenizer.ggml.model": ("string", model)}
    (tmp_path / "a.gguf").write_bytes(header(keys, [])[0])
    vocabulary = stored(tmp_path / "a.gguf")
    assert dict(vocabulary.special) == wanted and vocabulary.assumed == wanted.keys()
    (tmp_path / "a.gguf").write_bytes(header(keys | {EOS: ("uint32", 4)}, [])[0])
    assert stored(tmp_path / "a.gguf").special["eos"] == 4 and "eos" not in stored(tmp_path / "a.gguf").assumed


@pytest.mark.parametrize("target", ["hf", "mlx"])
@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("end-of-turn-by-text", {"bos_token_id": 509, "eos_token_id": [510, 507, 508], "pad_token_id": 511}),
        ("spm-without-ids", {"bos_token_id": 1, "eos_token_id": 2}),
    ],
)
def test_both_files_of_a_folder_list_them(
    tmp_path: Path, shared: Path, name: str, ids: dict[str, Any], target: str
) -> None:
    converted(shared / "field" / "gguf" / f"{name}.gguf", tmp_path / "made", to=target, check=False)
    assert json_of(tmp_path / "made" / "generation_config.json") == ids
    config = json_of(tmp_path / "made" / "config.json")
    assert {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")} == {
        "pad_token_id": None
    } | ids


def test_an_ordinary_token_that_llama_cpp_assumes_is_listed_and_named_in_a_warning(tmp_path: Path) -> None:
    """Byte-level BPE without a key ends at token 11; as a special token it would never be part of a word."""
    vocabulary = tiny.vocabulary(tmp_path / "a.gguf", "gpt2", ["<|im_end|>"], [3], {})
    assert token_ids(vocabulary)["eos_token_id"] == [11, 28]
    assert (
        len(vocabulary.warnings) == 1 and "eos_token_id" in vocabulary.warnings[0] and "'l'" in vocabulary.warnings[0]
    )
    made = files(vocabulary).files
    assert "eos_token" not in json.loads(made["tokenizer_config.json"])
    assert [token["id"] for token in json.loads(made["tokenizer.json"])["added_tokens"]] == [28]


@pytest.mark.parametrize(("added", "first"), [(None, None), (False, None), (True, "l")])
def test_the_assumed_first_token_counts_where_one_is_put_first(
    tmp_path: Path, added: bool | None, first: str | None
) -> None:
    further = {} if added is None else {"add_bos_token": ("bool", added)}
    vocabulary = tiny.vocabulary(tmp_path / "a.gguf", "gpt2", ["</s>"], [3], {"eos": 28}, **further)
    processor = tokenizer_json(vocabulary)[0]["post_processor"]
    assert vocabulary.special.get("bos") == (None if first is None else 11)
    assert len(vocabulary.warnings) == (first is not None)
    if first is not None:
        assert processor["processors"][1]["single"][0]["SpecialToken"]["id"] == first


def test_an_id_that_no_token_has_is_ignored_with_a_warning(tmp_path: Path) -> None:
    vocabulary = tiny.vocabulary(tmp_path / "a.gguf", "llama", ["x"], [1], {"eos": 999, "eot": 30})
    assert token_ids(vocabulary)["eos_token_id"] == [2, 30]
    assert len(vocabulary.warnings) == 1 and re.search(rf"{EOS} 999\b.* 31 tokens", vocabulary.warnings[0])
    with pytest.raises(BadInput, match=rf"{EOT}: .* -1\b"):
        tiny.vocabulary(tmp_path / "a.gguf", "llama", ["x"], [1], {}, eot_token_id=("int32", -1))


def test_of_several_texts_for_a_role_all_count_with_a_warning(tmp_path: Path) -> None:
    """llama.cpp takes the one that its hash table gives first."""
    vocabulary = tiny.vocabulary(tmp_path / "a.gguf", "llama", ["[PAD]", "<PAD>", "</s>"], [3, 3, 3], {"eos": 32})
    assert token_ids(vocabulary)["eos_token_id"] == [32, 30, 31]
    assert len(vocabulary.warnings) == 1 and "<PAD>, [PAD]" in vocabulary.warnings[0]
    named = tiny.vocabulary(tmp_path / "a.gguf", "llama", ["[PAD]", "<PAD>"], [3, 3], {"eos": 2, "fim_pad": 31})
    assert token_ids(named)["eos_token_id"] == [2, 31] and named.warnings == ()


def test_a_file_without_a_vocabulary_keeps_its_ids(tmp_path: Path) -> None:
    source = llama_gguf(tmp_path / "a.gguf", tiny_llama(tmp_path / "source"))
    keys = ("tokens", "token_type", "merges", "model", "pre")
    bare = tiny.rekeyed(source, tmp_path / "b.gguf", {f"tokenizer.ggml.{key}": None for key in keys})
    converted(bare, tmp_path / "made", to="hf")
    ids = {"bos_token_id": 93, "eos_token_id": 94, "pad_token_id": 95}
    assert json_of(tmp_path / "made" / "generation_config.json") == ids
    assert json_of(tmp_path / "made" / "config.json").items() >= ids.items()


@pytest.mark.parametrize("file", ["config", "generation_config"])
@pytest.mark.parametrize(
    ("listed", "special", "lost"),
    [
        (94, {"eos": 94}, None),
        ([94], {"eos": 94}, None),
        ([94, 7], {"eos": 94, "eot": 7}, None),
        ([7, 94], {"eos": 94, "eot": 7}, None),
        ([94, 7, 7, 8], {"eos": 94, "eot": 7, "eom": 8}, None),
        ([94, 7, 8, 9, 10], {"eos": 94, "eot": 7, "eom": 8}, 9),
        ([], {"eos": 94}, None),
        (None, {"eos": 94}, None),
    ],
)
def test_listed_ends_become_keys(
    tmp_path: Path, file: str, listed: Any, special: dict[str, int], lost: int | None
) -> None:
    root = folder(tmp_path / "a", **{file: {"eos_token_id": listed}})
    vocabulary = load(root)
    assert {role: n for role, n in vocabulary.special.items() if role in ("eos", "eot", "eom")} == special
    if lost is None:
        assert vocabulary.warnings == ()
    else:
        (warning,) = vocabulary.warnings
        assert f"{file}.json: eos_token_id {lost}" in warning and "2 such ids" in warning
    made = tokenizer(vocabulary, False)
    assert {key: made[key][1] for key in (EOS, EOT, EOM) if key in made} == {
        f"tokenizer.ggml.{role}_token_id": number for role, number in special.items()
    }


def test_lists_of_both_files_count(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", config={"eos_token_id": [94, 8]}, generation_config={"eos_token_id": [94, 7]})
    assert load(root).special.items() >= {"eos": 94, "eot": 7, "eom": 8}.items()


def test_an_end_that_llama_cpp_knows_by_its_text_needs_no_key(tmp_path: Path) -> None:
    """As its converter has it: byte-equal files of well-known releases."""
    root = folder(tmp_path / "a", generation_config={"eos_token_id": [93, 94]}, tokenizer_config={"eos_token": None})
    changed = json_of(root / "config.json") | {"eos_token_id": None}
    (root / "config.json").write_text(json.dumps(changed))
    vocabulary = load(root)  # 94 is `<|end|>`
    assert {role: n for role, n in vocabulary.special.items() if role in ("eos", "eot", "eom")} == {"eos": 93}


def test_a_list_alone_names_the_end(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", config={"eos_token_id": [7, 8]}, tokenizer_config={"eos_token": None})
    assert load(root).special.items() >= {"eos": 7, "eot": 8}.items()


def test_an_end_that_is_no_end_beside_others_has_no_place(tmp_path: Path) -> None:
    """`<|end|>` where `<|return|>` and `<|call|>` end answers: no key makes llama.cpp stop there."""
    vocabulary = loaded("bpe-gpt4o")
    number = vocabulary.tokens.index(b"<|end|>")
    texts = ends.texts_of(vocabulary)
    assert number not in ends.find(texts, {**vocabulary.special, "eot": number}).ids
    root = tmp_path / "a"
    root.mkdir()
    for name, data in files(vocabulary).files.items():
        (root / name).write_bytes(data)
    (root / "generation_config.json").write_text(json.dumps({"eos_token_id": [number]}))
    (warning,) = tokenizers.load(root, {"vocab_size": len(vocabulary.tokens)}).warnings
    assert f"eos_token_id {number}" in warning and "<|end|>" in warning


def test_roles_that_an_architecture_fixes_are_taken(tmp_path: Path) -> None:
    """Of Gemma the converter writes 107 as end of turn, whatever the files say."""
    fixed = Conventions(ids={"eot": 5})
    root = folder(tmp_path / "a", generation_config={"eos_token_id": [94, 5, 7]})
    vocabulary = load(root, fixed)
    assert vocabulary.special["eom"] == 7 and "eot" not in vocabulary.special
    assert tokenizer(vocabulary, False, fixed)[EOT] == ("uint32", 5)
    assert conventions.GEMMA.ids["eot"] == 107


@pytest.mark.parametrize("value", ["7", True, 1.5, -1, [94, "x"], [[94]], {"a": 1}, [94, None], list(range(2000))])
def test_ends_that_are_no_ids_are_refused(tmp_path: Path, value: Any) -> None:
    root = folder(tmp_path / "a", generation_config={"eos_token_id": value})
    with pytest.raises(BadInput, match=r"generation_config\.json: eos_token_id"):
        load(root)


def test_a_listed_id_beyond_the_vocabulary_is_a_warning(tmp_path: Path) -> None:
    (warning,) = load(folder(tmp_path / "a", generation_config={"eos_token_id": [94, 96, 1000]})).warnings
    assert "eos_token_id 96 " in warning and "96 tokens" in warning and "2 such ids" in warning


def test_a_folder_that_names_no_end_gets_llama_cpps_with_a_warning(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", config={"eos_token_id": None}, tokenizer_config={"eos_token": None})
    (warning,) = load(root).warnings
    assert "eos" in warning and "token 11" in warning


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_and_its_gguf_end_at_the_same_tokens(tmp_path: Path, kind: str) -> None:
    """GGUF -> folder -> GGUF, with two more ends that no text gives away; the folder lists them as such."""
    vocabulary = stored(gguf_file(tmp_path / "a.gguf", kind))
    free = [
        n for n, (t, k) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)) if k == 1 and len(t) > 1
    ]
    spare = [role for role in ("eot", "eom") if role not in vocabulary.special]
    extended = replace(vocabulary, special={**vocabulary.special, **dict(zip(spare, free, strict=False))})
    wanted = token_ids(extended)
    for name, data in files(extended, conventions_of(kind)).files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "generation_config.json").write_text(json.dumps(wanted))
    again = tokenizers.load(tmp_path, {"vocab_size": len(vocabulary.tokens)}, conventions_of(kind))
    assert token_ids(again) == wanted
    assert {role: again.special.get(role) for role in SLOTS} == {role: extended.special.get(role) for role in SLOTS}
    assert again.warnings == ()


def test_suppressed_tokens_go_both_ways(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", generation_config={"suppress_tokens": [5, 7, 5, 1000]})
    converted(root, tmp_path / "a.gguf", to="gguf")
    stored_ids = read(tmp_path / "a.gguf").metadata["tokenizer.ggml.suppress_tokens"]
    assert stored_ids.type == "array[int32]" and stored_ids.value.decode() == [5, 7]
    converted(tmp_path / "a.gguf", tmp_path / "back", to="hf")
    assert json_of(tmp_path / "back" / "generation_config.json")["suppress_tokens"] == [5, 7]


def test_strict_refuses_an_end_without_a_place(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", generation_config={"eos_token_id": [94, 7, 8, 9]})
    with pytest.raises(NotPossible, match=re.escape("eos_token_id 9")):
        planned(root, tmp_path / "a.gguf", to="gguf", strict=True)


@pytest.mark.parametrize(
    ("case", "bos", "named", "eos"),
    [
        ("glm4_moe", None, 362, ["<|endoftext|>", "<|user|>", "<|observation|>"]),
        ("gpt_oss", 368, 368, ["<|return|>", "<|endoftext|>", "<|call|>"]),
        ("gemma2", 2, 2, ["<eos>", "<end_of_turn>"]),
        ("llama", 1, 1, ["</s>"]),
    ],
)
def test_folders_of_families_list_all_ends(
    tmp_path: Path, case: str, bos: int | None, named: int, eos: list[str]
) -> None:
    """The class of GLM has no first token; the one that GGUF names is the converter's."""
    made = as_gguf(dense(case, tmp_path), tmp_path)
    converted(made.path, tmp_path / "made", to="hf", check=False)
    tokens = made.settings["tokenizer.ggml.tokens"].value.decode()
    config, generation = (json_of(tmp_path / "made" / f"{name}.json") for name in ("config", "generation_config"))
    listed = generation["eos_token_id"] if len(eos) > 1 else [generation["eos_token_id"]]
    assert [tokens[number].decode() for number in listed] == eos
    assert config["eos_token_id"] == generation["eos_token_id"]
    assert (config["bos_token_id"], generation["bos_token_id"]) == (bos, named)
