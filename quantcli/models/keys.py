"""Rows for keys of GGUF metadata: name, type, the source of the value, the equivalent key of `config.json`.

A family lists its rows in the order in which llama.cpp's converter writes them, those before `general.file_type`
(`Architecture.keys`, mostly COMMON) and those after it (`further`). Source: llama.cpp (conversion/base.py and the file
of each family; gguf-py's constants).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.containers.json_text import LONGEST, Reader
from quantcli.errors import BadInput, NotPossible
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.stored import Stored

Read = Callable[[Hyperparameters], Any]


@dataclass(frozen=True)
class Key:
    """One key of GGUF metadata.

    name: after the architecture's prefix. type: as in `containers.gguf`. read: the key of config.json to read the value
    from, or a function; None is not written. config: the key of config.json that gets the stored value when config.json
    is rebuilt; by default `read`, if that is a key. required: every file has it. otherwise: the key of metadata whose
    value applies if a file lacks this one. absent: the value in config.json if a file lacks this key, if llama.cpp's
    default is not the class's.
    """

    name: str
    type: str
    read: str | Read
    config: str | None = None
    required: bool = False
    otherwise: str | None = None
    absent: Any | Callable[[Stored], Any] = None

    @property
    def back(self) -> str | None:
        """The key of config.json that gets the stored value when config.json is rebuilt; None if there is none."""
        return self.read if isinstance(self.read, str) else self.config

    def value(self, hyperparameters: Hyperparameters) -> Any:
        """Return the value to write for a model, None for none. Raises `BadInput` for a setting of another type."""
        if not isinstance(self.read, str):
            return self.read(hyperparameters)
        settings = hyperparameters.settings
        if not settings.has(self.read):
            return None
        if self.type == "uint32":
            return settings.integer(self.read, least=0)
        if self.type == "float32":
            return settings.number(self.read)
        return settings.flag(self.read, False)


def _scaled(value: Read) -> Read:
    return lambda h: value(h) if h.rope.type in ("linear", "yarn") and h.rope.factor is not None else None


def _yarn(value: Read) -> Read:
    return lambda h: value(h) if h.rope.type == "yarn" else None


#: Functions that make weights from a router's logits -> llama.cpp's numbers for them.
GATING = {"softmax": 1, "sigmoid": 2}


def gating(h: Hyperparameters, key: str = "scoring_func") -> int:
    """Return llama.cpp's number for the function that the config names under a key. Raises `NotPossible`."""
    name = h.settings.text(key, "softmax")
    if name not in GATING:
        raise NotPossible(
            f"{h.settings.label}: {key}: expected {' or '.join(GATING)} (GGUF supports no other), found {shown(name)}."
        )
    return GATING[name]


BLOCKS = Key("block_count", "uint32", lambda h: h.layers, "num_hidden_layers", required=True)
CONTEXT = Key("context_length", "uint32", lambda h: h.context_length, "max_position_embeddings", required=True)
EMBEDDING = Key("embedding_length", "uint32", lambda h: h.embedding_length, "hidden_size", required=True)
FEED_FORWARD = Key("feed_forward_length", "uint32", lambda h: h.feed_forward_length, "intermediate_size")
HEADS = Key("attention.head_count", "uint32", lambda h: h.heads, "num_attention_heads", required=True)
KV_HEADS = Key("attention.head_count_kv", "uint32", lambda h: h.kv_heads, "num_key_value_heads", otherwise=HEADS.name)
#: Written only if a token also attends to later ones.
CAUSAL = Key("attention.causal", "bool", lambda h: None if h.settings.flag("is_causal", True) else False)
SIZES = (BLOCKS, CONTEXT, EMBEDDING, FEED_FORWARD, HEADS, KV_HEADS, CAUSAL)

FREQ_BASE = Key("rope.freq_base", "float32", lambda h: h.rope.theta)
ROPE = (
    Key("rope.scaling.type", "string", _scaled(lambda h: h.rope.type)),
    Key("rope.scaling.factor", "float32", _scaled(lambda h: h.rope.factor)),
    Key("rope.scaling.original_context_length", "uint32", _yarn(lambda h: h.rope.original_context)),
    Key("rope.scaling.yarn_ext_factor", "float32", _yarn(lambda h: h.rope.extrapolation_factor)),
    Key("rope.scaling.yarn_attn_factor", "float32", _yarn(lambda h: h.rope.attention_factor)),
    Key("rope.scaling.yarn_beta_fast", "float32", _yarn(lambda h: h.rope.beta_fast)),
    Key("rope.scaling.yarn_beta_slow", "float32", _yarn(lambda h: h.rope.beta_slow)),
    FREQ_BASE,
)
#: M-RoPE's sections, always four in GGUF.
SECTIONS = Key(
    "rope.dimension_sections", "array[int32]", lambda h: (*h.rope.sections, 0, 0, 0, 0)[:4] if h.rope.sections else None
)
LOCAL_FREQ_BASE = Key("rope.freq_base_swa", "float32", lambda h: h.rope.local_theta, "rope_local_base_freq")
RMS_EPS = Key("attention.layer_norm_rms_epsilon", "float32", lambda h: h.norm_eps, "rms_norm_eps", required=True)


def layer_norm_eps(config: str) -> Key:
    """Return the row for the epsilon of a LayerNorm. config: the family's key of config.json."""
    return Key("attention.layer_norm_epsilon", "float32", lambda h: h.norm_eps, config, required=True)


def expert_keys(count: str, used: str = "num_experts_per_tok") -> tuple[Key, ...]:
    """Return the rows for the number of experts and of experts per token. count, used: the family's keys."""
    return Key("expert_count", "uint32", lambda h: h.experts or None, count), Key("expert_used_count", "uint32", used)


#: Groups of experts, of which a router selects some.
GROUPS = (
    Key("expert_group_count", "uint32", "n_group", absent=1),
    Key("expert_group_used_count", "uint32", "topk_group", absent=1),
)
SHARED_EXPERTS = Key("expert_shared_count", "uint32", "n_shared_experts")
DENSE_LAYERS = Key("leading_dense_block_count", "uint32", "first_k_dense_replace", absent=0)
EXPERT_SCALE = Key("expert_weights_scale", "float32", "routed_scaling_factor", absent=1.0)
EXPERT_NORM = Key("expert_weights_norm", "bool", "norm_topk_prob", absent=False)
EXPERT_LENGTH = Key("expert_feed_forward_length", "uint32", "moe_intermediate_size")

#: Written if config.json or its class has `head_dim`.
HEAD_SIZES = (
    Key("attention.key_length", "uint32", lambda h: h.head_dim if h.states_head_dim else None, "head_dim"),
    Key("attention.value_length", "uint32", lambda h: h.head_dim if h.states_head_dim else None),
)
COMMON = (*SIZES, *ROPE, RMS_EPS, *HEAD_SIZES)

#: The layers that have a recurrent state instead of attention.
RECURRENT = "attention.recurrent_layers"

VOCAB_SIZE = Key("vocab_size", "uint32", lambda h: h.vocab_size)
ROPE_DIMENSIONS = Key("rope.dimension_count", "uint32", lambda h: h.rotary_dimensions)
SLIDING_WINDOW = Key("attention.sliding_window", "uint32", "sliding_window")


def every_fourth_full(config: Reader) -> list[str]:
    """Return `layer_types` for models in which three layers with a sliding window precede one without."""
    layers = config.integer("num_hidden_layers", most=LONGEST)
    return ["sliding_attention" if (layer + 1) % 4 else "full_attention" for layer in range(layers)]


def pattern_of_windows(h: Hyperparameters) -> tuple[bool, ...] | None:
    """Return which layers attend to a window, from `layer_types`; None if config.json lacks it. Raises `BadInput`."""
    kinds = h.settings.texts("layer_types")
    if kinds and len(kinds) != h.layers:
        raise BadInput(
            f"{h.settings.label}: layer_types names {len(kinds)} layers, but num_hidden_layers is {h.layers}. Fix one "
            "of them."
        )
    return tuple(kind == "sliding_attention" for kind in kinds) or None


WINDOW_PATTERN = Key("attention.sliding_window_pattern", "array[bool]", pattern_of_windows)
