"""What runtimes have built in, whatever a folder's config.json says: with other settings they compute other values.

llama.cpp reads YaRN's settings but for the factor and the original context only in some architectures; in the others it
has its defaults, and everywhere a factor of attention that follows from the factor. Of mlx-lm's classes each knows some
kinds of scaling, none reads a factor of attention, and few the name of the activation.

A GGUF file is not asked: its model is what llama.cpp makes of it.

Source: llama.cpp (src/llama-context.cpp, the loaders in src/models); mlx-lm (mlx_lm/models, rope_utils.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from quantcli.models.base import EVERY_KIND, Architecture
from quantcli.models.harmless_gguf import is_close
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.limits import MISCOMPUTED, Limit
from quantcli.models.rope import Rope, longrope_attention

#: YaRN's settings of which llama.cpp has a value of its own.
BUILT_IN = {"beta_fast": 32.0, "beta_slow": 1.0, "extrapolation_factor": 1.0}


#: Keys of config.json that name the activation.
ACTIVATIONS = ("hidden_act", "hidden_activation")
#: Names of one function.
ALIKE = {"swish": "silu"}


def of_folder(architecture: Architecture) -> tuple[Limit, ...]:
    """Return what the runtimes need of the settings of a family's folders."""
    return (*_of_rope(architecture), *_of_activation(architecture))


def _of_activation(architecture: Architecture) -> Iterator[Limit]:
    """Return limits for the activation that mlx-lm's class computes; GGUF files are asked by `round_trip`."""
    known = {one.name: one.value for one in (*architecture.settings, *architecture.expects)}
    for key in ACTIVATIONS:
        value = known.get(key)
        names = tuple(map(str, value)) if isinstance(value, tuple) else (value,) if isinstance(value, str) else ()
        if names and not architecture.mlx_reads_activation:
            needs = f"{key} to be {' or '.join(names)} in this architecture"
            yield Limit("mlx", _is_one_of(key, names), needs, fault=MISCOMPUTED)


def _is_one_of(key: str, names: tuple[str, ...]) -> Callable[[Hyperparameters], bool]:
    def holds(h: Hyperparameters) -> bool:
        name = h.settings.text(key, names[0])
        return ALIKE.get(name, name) in names

    return holds


def _of_rope(architecture: Architecture) -> tuple[Limit, ...]:
    """Return what the runtimes need of rotary scaling."""
    kinds = ("default", *architecture.mlx_scaling)
    built_in = (
        Limit(
            "gguf", _is_yarn_with(key, value), f"{key} of YaRN to be {value:g} in this architecture", fault=MISCOMPUTED
        )
        for key, value in BUILT_IN.items()
        if key not in architecture.gguf_yarn
    )
    attention = "attention_factor to be the one that follows from the other settings of rotary scaling"
    return (
        *built_in,
        Limit("gguf", lambda h: h.rope.type != "yarn" or _has_usual_attention(h), attention, fault=MISCOMPUTED),
        Limit("mlx", _has_usual_attention, attention, fault=MISCOMPUTED),
        Limit(
            "mlx",
            lambda h: h.rope.type in kinds or h.rope.type not in EVERY_KIND,
            f"rotary scaling of type {' or '.join(kinds)} in this architecture",
            fault=MISCOMPUTED,
        ),
    )


def _is_yarn_with(key: str, value: float) -> Callable[[Hyperparameters], bool]:
    """Return whether a setting of YaRN, where a model has it, has a value."""
    return lambda h: h.rope.type != "yarn" or getattr(h.rope, key) in (None, value)


def _has_usual_attention(h: Hyperparameters) -> bool:
    """Return whether the factor of attention is the one that runtimes compute."""
    stated = h.rope.attention_factor
    return (
        stated is None or h.rope.type not in ("yarn", "longrope") or is_close(stated, _usual(h.rope, h.context_length))
    )


def _usual(rope: Rope, context: int) -> float:
    """Return the factor of attention that follows from the other settings; `mscale` is `mscale_all_dim` in releases."""
    if rope.type == "yarn":
        return 1.0 if rope.mscale_all_dim else 0.1 * math.log(max(rope.factor or 1.0, 1.0)) + 1
    original = rope.original_context or context
    return 1.0 if original < 2 or original >= context else longrope_attention(context, original)
