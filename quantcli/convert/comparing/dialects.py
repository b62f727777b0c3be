"""Differences between the settings of a folder and of a GGUF file.

common settings     through `Hyperparameters`, under their standard names
rows of the family  what the folder would write as a key, and what the file has there
other keys          config.json's and those of the config.json that the file would be given
sampling, ends      generation_config.json's and general.sampling.*, tokens that end an answer
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from quantcli import models
from quantcli.checkpoint import Checkpoint
from quantcli.containers.gguf_values import ArrayValue
from quantcli.containers.json_text import Reader
from quantcli.convert.comparing.folders import NO_FILE, STORAGE, TOKENIZER, UNCOUNTED, others
from quantcli.convert.comparing.spellings import DTYPES, LOCAL, NESTED, PARTIAL, SCALING, THETAS, Spelled
from quantcli.convert.comparing.values import ABSENT, FieldDifference, Found, NotCompared, differing, json_equal, plain
from quantcli.errors import BadInput, NotPossible
from quantcli.models import Architecture, Hyperparameters, Key, spelled
from quantcli.models.generation import SAMPLING
from quantcli.models.hyperparameters import EXPERTS, NORM_EPS, SIZES
from quantcli.models.sixteen_bits import NESTED as TEXT_BLOCKS
from quantcli.sources.folder import CONFIG
from quantcli.targets.model import Model
from quantcli.tokenizers.files import Files
from quantcli.tokenizers.listed import GENERATION
from quantcli.tokenizers.stored import GGML, from_metadata
from quantcli.tokenizers.write import token_ids

#: Settings that follow from others or describe spelling, and those that only one dialect holds: a window is in both if
#: the family has a row for it.
DERIVED = ("states_head_dim", "rope", "settings", "dtype", "sliding_window")

#: Keys of metadata -> the field of `Hyperparameters` that holds the value.
FIELDS = {
    "block_count": "layers", "context_length": "context_length", "embedding_length": "embedding_length",
    "feed_forward_length": "feed_forward_length", "attention.head_count": "heads",
    "attention.head_count_kv": "kv_heads", "attention.layer_norm_rms_epsilon": "norm_eps",
    "attention.layer_norm_epsilon": "norm_eps", "attention.key_length": "head_dim", "vocab_size": "vocab_size",
    "rope.freq_base": "rope.theta", "rope.scaling.type": "rope.type", "rope.scaling.factor": "rope.factor",
    "rope.scaling.original_context_length": "rope.original_context",
    "rope.scaling.yarn_ext_factor": "rope.extrapolation_factor",
    "rope.scaling.yarn_attn_factor": "rope.attention_factor",
    "rope.scaling.yarn_beta_fast": "rope.beta_fast", "rope.scaling.yarn_beta_slow": "rope.beta_slow",
}  # fmt: skip
#: Fields of `Rope` that are keys of a GGUF file even if its factors are tensors.
IN_KEYS = ("theta", "local_theta", "partial")

#: Keys of config.json that are fields of `Hyperparameters`, or that follow from tensors.
COMMON = (
    "vocab_size", "head_dim", "tie_word_embeddings", "qk_nope_head_dim", "model_type", SCALING, NESTED, LOCAL,
)  # fmt: skip
#: Groups of keys of which only the first that a config.json has is read.
GROUPS = (EXPERTS, NORM_EPS, THETAS, PARTIAL)
#: Keys that a rebuilt config.json has whatever the file contains.
MADE = (*DTYPES, "sliding_window", "max_window_layers", "architectures")
#: Keys of `rope_scaling` and `rope_parameters` that are read.
ROPE_KEYS = (
    "rope_type", "type", "factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor",
    "beta_fast", "beta_slow", "attention_factor", "attn_factor", "extrapolation_factor", "mscale_all_dim",
    "long_factor", "short_factor", "rope_theta", "partial_rotary_factor",
)  # fmt: skip
MTP = "num_nextn_predict_layers"
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
SAMPLED = "general.sampling."


class Recorded(Mapping[str, Any]):
    """A map that remembers which keys were read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values_, self.read = values, set[str]()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return self.values_[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


class _Pair:
    """The folder and the file; differences in the order of A and B."""

    def __init__(self, a: Checkpoint, b: Checkpoint) -> None:
        self.is_folder_first = a.names == "hf"
        self.folder, self.file = (Model.of(s) for s in ((a, b) if self.is_folder_first else (b, a)))
        self.sides = ("A", "B") if self.is_folder_first else ("B", "A")
        self.ours, self.theirs = self.folder.hyperparameters, self.file.hyperparameters
        config = self.folder.source.config
        #: config.json with the number of layers for multi-token prediction that are stored.
        self.config = {**config, MTP: self.ours.settings.values.get(MTP)} if MTP in config else config
        # These kinds of scaling are tensors in GGUF (rope_freqs.weight ...), which are compared as such.
        kinds = {self.ours.rope.type, self.theirs.rope.type}
        self.rope_in_tensor = not {"llama3", "longrope"}.isdisjoint(kinds)
        self.found = Found()

    def differ(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
        """Add the differences between two maps."""
        pair = (ours, theirs) if self.is_folder_first else (theirs, ours)
        self.found.fields += differing(*pair)

    def leave(self, of_folder: bool, what: str, names: Sequence[str], reason: str) -> None:
        """Add keys or files that are not compared."""
        if names:
            side = self.sides[0 if of_folder else 1]
            self.found.not_compared.append(NotCompared(side, what, tuple(map(plain, names)), reason))


def compare_dialects(a: Checkpoint, b: Checkpoint) -> Found:
    """Compare the settings of a folder and a GGUF file. Raises `BadInput` and `NotPossible`."""
    pair = _Pair(a, b)
    pair.differ(_common(pair, pair.folder, pair.ours), _common(pair, pair.file, pair.theirs))
    read = _rows(pair)
    read |= _config(pair)
    _leave_config(pair, read)
    _sampling(pair)
    _special(pair)
    _leave_files(pair)
    return pair.found


def _common(pair: _Pair, model: Model, found: Hyperparameters) -> dict[str, Any]:
    """Return the common settings, flat, without those that have no effect."""
    flat = {key: value for key, value in asdict(found).items() if key not in DERIVED}
    rope = asdict(found.rope)
    if found.rope.type in ("default", "linear"):
        del rope["original_context"]
    flat |= {f"rope.{key}": value for key, value in rope.items() if key in IN_KEYS or not pair.rope_in_tensor}
    if model.head is None:
        flat["tie_embeddings"] = "output.weight" not in model.shapes
    return flat


def _rows(pair: _Pair) -> set[str]:
    """Compare the keys of the family's rows; return the keys of config.json that they are made from."""
    architecture = pair.folder.known()
    metadata, prefix = pair.file.source.metadata, f"{architecture.gguf}."
    recorded = Recorded(pair.ours.settings.values)
    ours = replace(pair.ours, settings=Reader(recorded, pair.ours.settings.label))
    rows = (*architecture.foremost, *architecture.keys, *architecture.further)
    # Of rows with one name, which are for different models, the one with a value counts.
    last = {row.name: row for row in rows} | {row.name: row for row in rows if row.value(ours) is not None}
    differing_fields = {f.key for f in pair.found.fields}
    silent = []
    for row in last.values():
        value, stored = row.value(ours), metadata.get(f"{prefix}{row.name}")
        if value is not None and stored is None:
            silent.append(f"{prefix}{row.name}")
        if row.name in FIELDS and (stored is None or FIELDS[row.name] in differing_fields):
            continue
        other = row.value(pair.theirs) if stored is None else _python(stored.value)
        if not (value is None and _is_default(row, other, pair)):
            pair.differ({row.name: value}, {row.name: other})
    pair.leave(False, "metadata", silent, "the file has no such key; its default was compared")
    known = {row.name for row in rows}
    general = [key for key in metadata if not key.startswith((prefix, "tokenizer.", SAMPLED))]
    own = [key for key in metadata if key.startswith(prefix) and key.removeprefix(prefix) not in known]
    pair.leave(
        False, "metadata", [*own, *(k for k in general if k != "general.architecture")], "folders have no such key"
    )
    return recorded.read | {row.back for row in rows if row.back is not None}


def _is_default(row: Key, value: Any, pair: _Pair) -> bool:
    """Return whether a key that the folder would not write has the value that follows from other keys."""
    return row.name in ("attention.key_length", "attention.value_length") and value == pair.ours.head_dim


def _python(value: Any) -> Any:
    return value.decode() if isinstance(value, ArrayValue) else value


def _config(pair: _Pair) -> set[str]:
    """Compare the other keys of a rebuilt config.json; return the names of all compared keys."""
    source = pair.file.source
    # Factors of rope are compared as the tensors that hold them.
    shapes = {name: shape for name, shape in pair.file.shapes.items() if not name.startswith("rope_f")}
    made = models.config_from_gguf(source.metadata, shapes, where=str(source.root))
    theirs = Spelled.of(made, pair.file.known(), str(source.root))
    ours = Spelled.of(pair.config, pair.folder.known(), f"{pair.folder.source.root}/{CONFIG}")
    read_elsewhere, unread = _read_elsewhere(pair)
    for key in made:
        if key in read_elsewhere or key in unread or key in MADE or key in IDS:
            continue
        value, other = ours.value(key, theirs), theirs.value(key, ours)
        is_in_both = value is not ABSENT and other is not ABSENT
        if is_in_both and (value or other or None not in (value, other)):  # null and false mean the same
            pair.differ({key: value}, {key: other})
    return (made.keys() | read_elsewhere | {*IDS}) - {*MADE, *unread}


def _read_elsewhere(pair: _Pair) -> tuple[set[str], set[str]]:
    """Return the keys of config.json that are read elsewhere, and aliases of them that are not."""
    architecture = pair.folder.known()
    rows = {row.back for row in (*architecture.keys, *architecture.further) if row.back is not None}
    groups = [*GROUPS, *{**SIZES, **architecture.names}.values()]
    first = {next((key for key in group if pair.config.get(key) is not None), "") for group in groups}
    unread = {key for group in groups for key in group} - first
    scaled = {"original_max_position_embeddings"} if pair.ours.rope.type not in ("default", "linear") else set()
    return {*rows, *first, *COMMON, *scaled} - unread, unread


def _leave_config(pair: _Pair, read: set[str]) -> None:
    """List the keys of config.json that were not compared, and those that do not describe the model."""
    config = pair.folder.source.config
    for key in (key for key in UNCOUNTED if key in config):
        ours, theirs = (plain(config[key]), None) if pair.is_folder_first else (None, plain(config[key]))
        pair.found.uncounted.append(FieldDifference(key, ours, theirs))
    if config.get("architectures") == [pair.folder.known().classes.get(str(config.get("model_type")))]:
        read = read | {"architectures"}
    if MTP in read and config.get(MTP) != pair.config.get(MTP):
        read = read - {MTP}
    skipped = {*read, *UNCOUNTED, *STORAGE} - _contradicted(config, pair.folder.known()) - _read_elsewhere(pair)[1]
    left = [key for key, value in config.items() if key not in skipped and value is not None]
    left += [key for key in pair.folder.source.config_json if key not in config and key not in TEXT_BLOCKS]
    left += [f"{key}.{name}" for key in (SCALING, NESTED) for name in _unread(config.get(key))]
    pair.leave(True, CONFIG, left, "GGUF has no such key")


def _contradicted(config: Mapping[str, Any], architecture: Architecture) -> set[str]:
    """Return the rope keys that are not read, because `rope_scaling`, else `rope_parameters`, takes precedence."""
    scaling, written = config.get(SCALING), config.get(NESTED)
    idle = {SCALING} if not scaling else {NESTED}
    stated = scaling or written
    bare = {key: value for key, value in config.items() if key not in (SCALING, LOCAL, *THETAS, *PARTIAL)}
    implied = spelled(bare | {NESTED: stated}, architecture) if isinstance(stated, Mapping) else {}
    implied.pop(SCALING, None)
    return idle | {
        key for key, value in implied.items() if config.get(key) is not None and not json_equal(config[key], value)
    }


def _unread(settings: Any) -> Iterator[str]:
    """Yield the keys of rope settings that are not read, for each kind of layer."""
    for name, value in settings.items() if isinstance(settings, Mapping) else ():
        if isinstance(value, Mapping):
            yield from (f"{name}.{key}" for key in _unread(value))
        elif name not in ROPE_KEYS and value is not None:
            yield name


def _sampling(pair: _Pair) -> None:
    """Compare the sampling settings of generation_config.json and of the file."""
    metadata, stated = pair.file.source.metadata, Files(pair.folder.source.root).json(GENERATION)
    for key, name, _ in SAMPLING:
        stored = metadata.get(f"{SAMPLED}{name}")
        value = stated.get(name) if name == "penalty_repeat" and stated.get(name) is not None else stated.get(key)
        pair.differ({key: value}, {key: None if stored is None else stored.value})
    known = {key for key, _, _ in SAMPLING} | {*IDS, *UNCOUNTED, "penalty_repeat"}
    left = [key for key, value in stated.items() if key not in known and value is not None]
    pair.leave(True, GENERATION, left, "GGUF has no such key")


def _special(pair: _Pair) -> None:
    """Compare the special tokens of config.json and generation_config.json with the file's.

    Of the tokens that end an answer the file may have more: llama.cpp knows some by their text.
    """
    ends = _ends(pair.file.source)
    stored = pair.file.source.metadata
    for where, stated in ((CONFIG, pair.config), (GENERATION, Files(pair.folder.source.root).json(GENERATION))):
        prefix = "" if where == CONFIG else f"{where}: "
        for key, role in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
            found, value = stored.get(f"{GGML}{role}_token_id"), stated.get(key)
            if value is not None:
                pair.differ({f"{prefix}{key}": value}, {f"{prefix}{key}": None if found is None else found.value})
        ours = stated.get("eos_token_id")
        listed = ours if isinstance(ours, list) else [] if ours is None else [ours]
        if ends is None and listed:
            pair.leave(True, where, ["eos_token_id"], "the file's vocabulary cannot be read")
        elif ends is not None and not all(type(end) is int and end in ends for end in listed):
            pair.differ({f"{prefix}eos_token_id": ours}, {f"{prefix}eos_token_id": sorted(ends)})


def _ends(source: Checkpoint) -> set[int] | None:
    """Return the tokens at which llama.cpp ends an answer; None for a vocabulary that cannot be read."""
    vocabulary = from_metadata(source.metadata, str(source.root))
    try:
        ends = None if vocabulary is None else token_ids(vocabulary).get("eos_token_id", [])
    except (BadInput, NotPossible):
        return None
    return None if ends is None else set(ends if isinstance(ends, list) else [ends])


def _leave_files(pair: _Pair) -> None:
    """List the folder's files that have no counterpart in a GGUF file."""
    names = [name for name in others(pair.folder.source) if name not in TOKENIZER]
    pair.leave(True, "files", names, NO_FILE)
