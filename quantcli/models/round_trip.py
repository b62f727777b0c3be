"""Check that a GGUF file has all settings of its config.json, by rebuilding config.json from the file.

    config.json --(tables of the family)--> GGUF keys --(the same tables)--> rebuilt config.json

A key that is rebuilt with its value is in the file, or follows from what llama.cpp has built in. A key that is rebuilt
with another value is an error: llama.cpp would compute something else. A key that is not rebuilt at all is named in a
warning, unless `harmless` lists it. So there is no second list of the keys that are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np

from quantcli.containers.hostile import UNPRINTABLE, shown
from quantcli.errors import NotPossible
from quantcli.models import rebuilt
from quantcli.models.base import Architecture
from quantcli.models.harmless import NEUTRAL, harmless
from quantcli.models.hyperparameters import EXPERTS, NORM_EPS, SIZES, Hyperparameters
from quantcli.models.layer_spellings import respelled
from quantcli.models.rope import PARTIAL
from quantcli.models.rope_settings import sections_of
from quantcli.models.stored import PerLayer, Setting, Shape, nothing, stored

#: Objects in a config.json are not nested deeper than this.
DEEPEST = 8
#: Numbers above this are not compared as float32 numbers.
LARGEST_COMPARED = 3e38
#: The most keys in one message, and the most characters of each.
MOST_NAMED = 12
LONGEST_PATH = 100

#: Names of rope settings -> the field of `Rope` that holds the rebuilt value.
ROPE_FIELDS = {
    "rope_theta": "theta",
    "rotary_emb_base": "theta",
    "rope_type": "type",
    "type": "type",
    "rope_local_base_freq": "local_theta",
}
ROPE_OBJECTS = ("rope_parameters", "rope_scaling")
#: Settings that GGUF stores as factors of frequencies, if it stores any -> the field of `Rope`.
IN_FACTORS = {
    "rope_type": "type",
    "type": "type",
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_context",
    "long_factor": "long_factors",
    "short_factor": "short_factors",
}
#: Kind of scaling that is stored as factors -> those of the settings above that are not.
NOT_IN_FACTORS = {
    "llama3": ("long_factor", "short_factor"),
    "longrope": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "low_freq_factor", "high_freq_factor"),
}
#: Attention factors. llama.cpp has one, which follows from the contexts; others cause a warning.
MSCALES = ("short_mscale", "long_mscale")
#: Kinds of scaling that change nothing up to the context length of the training.
BEYOND_CONTEXT = ("dynamic",)

#: Settings for layers that attend to a window; llama.cpp ignores them in families whose metadata have no window.
WINDOW_KEYS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")

#: What llama.cpp has built in for every family whose table has nothing else.
EVERYWHERE = (
    Setting("is_causal", True),
    Setting("layer_types", lambda file: ["full_attention"] * file.trunk),
    Setting("use_bidirectional_attention", False),
)

#: Setting without a GGUF key -> the setting that llama.cpp derives it from, if a config has that.
FOLLOWS_FROM = {
    "attention_chunk_size": "sliding_window_size",
    "expand": "intermediate_size",
    "is_moe_layer": "first_k_dense_replace",
    "max_seq_len": "max_position_embeddings",
    "mlp_layer_types": "first_k_dense_replace",
    "mscale": "mscale_all_dim",
    "rotary_dim": "partial_rotary_factor",
    "swa_rope_theta": "rope_local_base_freq",
    "topk_method": "n_group",
}

#: Different names of one activation function, or of one kind of scaling.
ALIKE = ({"silu", "swish"}, {"longrope", "su"}, {"default", "mrope"})


class _Missing:
    """The value of a setting that is not rebuilt."""


MISSING = _Missing()


class Loss(Enum):
    """What happens to a setting that a GGUF file does not have; the value is a warning's text for all such keys.

    OTHER: llama.cpp has another value built in. WINDOW: the family's metadata have no window. LONGER: a list
    continues after the last layer. SHADOWED: another key with the same meaning was read.
    """

    OTHER = ""
    WINDOW = "no key for {}; llama.cpp attends to the whole context in this architecture"
    SCALING = "no key for {}; llama.cpp runs the model without that scaling"
    UNREAD = "no key for {}; llama.cpp ignores it"
    LONGER = "no place for the last values of {}, which has more values than the model has layers"
    SHADOWED = "values that differ from {}, because another key of config.json overrides it"


def check(
    config: Mapping[str, Any],
    architecture: Architecture,
    hyperparameters: Hyperparameters,
    metadata: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    overrides: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return warnings that name the settings of config.json without a GGUF key.

    hyperparameters: read from `config`. metadata: the file's keys -> plain values. shapes: its tensors' shapes, rows
    first. overrides: values that replace those of metadata; a setting may equal either value. Raises `NotPossible`
    naming the settings that llama.cpp would replace with other values.
    """
    config = {**config, **respelled(config)}
    kind = str(config.get("model_type"))
    defaults = {k: v for k, v in architecture.model_types[kind].items() if not callable(v)}
    settled = defaults | dict(config)
    back = _Back(architecture, kind, hyperparameters, metadata, shapes)
    overridden = _Back(architecture, kind, hyperparameters, {**metadata, **overrides}, shapes) if overrides else None
    losses: dict[Loss, list[tuple[str, Any]]] = {loss: [] for loss in Loss}
    for path, value in [*leaves(config), *back.assumed(config, defaults)]:
        if (
            harmless(path, settled, architecture.harmless)
            or back.holds(path, value)
            or (overridden and overridden.holds(path, value))
        ):
            continue
        losses[back.loss(path, value)].append((path, value))
    where = hyperparameters.settings.label
    other = losses.pop(Loss.OTHER)
    if other:
        raise NotPossible(
            f"{where}: GGUF has no key for {_listed(other, back)} in architecture {architecture.gguf}, so llama.cpp "
            "would compute something else. Convert to a folder (--to hf or --to mlx), which keeps such settings."
        )
    texts = {loss: _listed(lost) for loss, lost in losses.items()}
    return [f"{where}: GGUF has {loss.value.format(text)}." for loss, text in texts.items() if text]


def _listed(lost: Sequence[tuple[str, Any]], back: _Back | None = None) -> str:
    """Return keys with their values, and with `back` the rebuilt ones: `hidden_act 'gelu' (llama.cpp: 'silu')`."""
    named = []
    for path, value in lost[:MOST_NAMED]:
        cause = back.cause(path) if back else None
        other = f" (llama.cpp: {shown(back.of(path, value))}{f', from {cause}' if cause else ''})" if back else ""
        named.append(f"{UNPRINTABLE.sub('?', path[:LONGEST_PATH])} {shown(value)}{other}")
    return ", ".join(named) + (f" and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else "")


def leaves(config: Mapping[str, Any], before: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield every key that is set, with its value; a key of a nested object as a path (`rope_scaling.factor`)."""
    for key, value in config.items():
        if isinstance(value, Mapping) and depth < DEEPEST:
            yield from leaves(value, f"{before}{key}.", depth + 1)
        elif value is not None:
            yield f"{before}{key}", value


class _Back:
    """The config.json rebuilt from a GGUF file, looked up by the keys of the original in any spelling."""

    def __init__(
        self,
        architecture: Architecture,
        kind: str,
        here: Hyperparameters,
        metadata: Mapping[str, Any],
        shapes: Mapping[str, Shape],
    ) -> None:
        lists = {key: list(value) if isinstance(value, tuple) else value for key, value in metadata.items()}
        # Factors of frequencies are tensors, whose values are computed from the settings that are checked here.
        file = stored(lists, {name: shape for name, shape in shapes.items() if not name.startswith("rope_f")}, nothing)
        spelled = kind if kind in architecture.classes else next(iter(architecture.classes))
        self.here = here
        #: The most values of a list with one for each layer.
        self.most = here.layers + here.settings.integer("num_nextn_predict_layers", 0, least=0)
        self.made = rebuilt.config(file, architecture, spelled, None)
        self.again = architecture.hyperparameters({**self.made, "model_type": kind})
        parameters = self.made.get("rope_parameters") or {}
        self.scaling: Mapping[str, Any] = self.made.get("rope_scaling") or parameters.get("full_attention", parameters)
        self.built_in = {setting.name: setting.of(file) for setting in architecture.expects}
        self.usual = {setting.name: setting.of(file) for setting in EVERYWHERE}
        self.sections = sections_of(file)
        self.has_windows = file.own.has("attention.sliding_window")
        names = {**SIZES, "partial": PARTIAL, **architecture.names}
        self.rope_fields = ROPE_FIELDS | dict.fromkeys((*names.pop("partial"), "partial_rotary_factor"), "partial")
        self.fields = {key: field for field, keys in names.items() for key in keys}
        self.fields |= dict.fromkeys(EXPERTS, "experts") | dict.fromkeys(NORM_EPS, "norm_eps")
        self.fields |= {"head_dim": "head_dim"}
        self.in_factors: set[str] = set()
        if any(row.values(here) is not None for row in architecture.computed) and here.rope.type in NOT_IN_FACTORS:
            self.in_factors = {*IN_FACTORS} - {*NOT_IN_FACTORS[here.rope.type]}

    def assumed(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield rebuilt keys that the original config.json lacks, with the default of the model's class.

        A null that overrides such a default is yielded as well. config: the original. defaults: the class's.
        """
        for key in {**self.made, **self.built_in}:
            default = defaults.get(key, NEUTRAL.get(key))
            if default is None or key in {*self.fields, *self.rope_fields, *ROPE_OBJECTS}:
                continue
            if key not in config:
                yield key, default
            elif config[key] is None and key in defaults:
                yield key, None

    def of(self, path: str, value: Any) -> Any:
        """Return the rebuilt value of a setting, a tuple if several values mean the same, MISSING if there is none."""
        first, *rest = path.split(".")
        if not self.here.heads and first in (*ROPE_OBJECTS, *self.rope_fields):
            return MISSING
        if first in ROPE_OBJECTS and rest:
            return self._rope(rest, value)
        if isinstance(self.made.get(first), PerLayer):
            return self.made[first]
        if rest:
            nested = self.made.get(first)
            return nested.get(rest[0], MISSING) if len(rest) == 1 and isinstance(nested, Mapping) else MISSING
        if first in self.rope_fields or first == "original_max_position_embeddings":
            return self._rope([first], value) if first not in self.made else self._share(first, value)
        if first in self.fields and first not in self.made:
            return getattr(self.again, self.fields[first])
        return next((values[first] for values in (self.built_in, self.made, self.usual) if first in values), MISSING)

    def holds(self, path: str, value: Any) -> bool:
        """Return whether a setting is rebuilt with the same value, or has no effect."""
        wanted = self.of(path, value)
        if wanted is MISSING:
            return value == [] or _same(value, NEUTRAL.get(path, MISSING))
        is_longer = isinstance(wanted, PerLayer) and isinstance(value, list) and len(value) > self.most
        return _same(value, wanted) and not is_longer

    def loss(self, path: str, value: Any) -> Loss:
        """Return what happens to a setting that is not rebuilt with the same value."""
        if path in WINDOW_KEYS and not self.has_windows:
            return Loss.WINDOW
        if path.partition(".")[0] in ROPE_OBJECTS and self.here.rope.type in BEYOND_CONTEXT:
            return Loss.SCALING
        wanted = self.of(path, value)
        if wanted is MISSING:
            return Loss.UNREAD
        if isinstance(wanted, PerLayer) and _same(value, wanted):
            return Loss.LONGER
        if self.is_shadowed(path):
            return Loss.SHADOWED
        return Loss.OTHER

    def cause(self, path: str) -> str | None:
        """Return the key of config.json that a rebuilt value follows from; None if it is the setting's key."""
        *around, name = path.split(".")
        key = FOLLOWS_FROM.get(name)
        return key if around or (key is not None and self.here.settings.has(key)) else None

    def is_shadowed(self, path: str) -> bool:
        """Return whether a key that is rebuilt with another value was overridden by another key of config.json."""
        *around, name = path.split(".")
        if name in self.in_factors or (
            around[:1] == ["rope_parameters"] and self.here.settings.values.get("rope_scaling")
        ):
            return True
        if name in self.rope_fields and "sliding_attention" not in around:
            here, again, field = self.here.rope, self.again.rope, self.rope_fields[name]
            return _same(getattr(here, field), getattr(again, field))
        field = self.fields.get(path, "")
        return bool(field) and _same(getattr(self.here, field), getattr(self.again, field))

    def _rope(self, keys: Sequence[str], value: Any) -> Any:
        """Return the rebuilt value of a rotary setting: rope_scaling's, rope_parameters', or a top-level key's."""
        *kind, name = keys
        if kind == ["sliding_attention"]:
            local = {"rope_theta": self.again.rope.local_theta, "rope_type": "default", "type": "default"}
            made = (self.made.get("rope_parameters") or {}).get("sliding_attention") or {}
            if name not in made and self.rope_fields.get(name) == "partial":
                return self._share(name, value)
            return {**local, **made}.get(name, MISSING)
        if kind not in ([], ["full_attention"]):
            return MISSING
        if name in self.in_factors:
            held = getattr(self.here.rope, IN_FACTORS[name])
            return list(held) if isinstance(held, tuple) else held
        if name in self.built_in:
            return self.built_in[name]
        if name == "mrope_section" and self.sections:
            return self.sections
        if name == "max_position_embeddings":  # Ministral 3 repeats it here
            return self.again.context_length
        if name in MSCALES:
            return value if _same(value, self.scaling.get(name)) else MISSING
        if name in ("attn_factor", *self.scaling):
            return self.scaling.get("attention_factor" if name == "attn_factor" else name, MISSING)
        return self._share(name, value) if name in self.rope_fields else MISSING

    def _share(self, name: str, value: Any) -> Any:
        """Return the rebuilt value of a rotary setting without scaling.

        Two shares of a head are equal if the same number of its elements is rotated.
        """
        field = self.rope_fields.get(name)
        if field is None:
            return self.made[name]
        again = getattr(self.again.rope, field)
        is_share = field == "partial" and type(value) in (int, float) and 0 <= value <= 1
        return value if is_share and int(self.here.head_dim * value) == int(self.again.head_dim * again) else again


def _same(value: Any, wanted: Any) -> bool:
    """Return whether a setting equals a wanted value, or one of a tuple; numbers as float32, lists by element."""
    if isinstance(wanted, PerLayer) and isinstance(value, list):
        return len(value) >= len(wanted) and all(map(_same, value, wanted))
    if isinstance(wanted, tuple):
        return any(_same(value, one) for one in wanted)
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        fits = max(abs(value), abs(wanted)) < LARGEST_COMPARED
        return value == wanted or (fits and bool(np.float32(value) == np.float32(wanted)))
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(_same, value, wanted))
    both = {value, wanted} if isinstance(value, str) and isinstance(wanted, str) else {None}
    return bool(value == wanted) or any(both <= names for names in ALIKE)
