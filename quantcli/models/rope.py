"""Rotary position embedding: its settings in both spellings of `config.json`, and Llama 3's factors both ways.

Transformers 5 nests the settings in `rope_parameters`, by kind of layer where kinds differ; before, they were a
top-level `rope_theta` and `rope_scaling` (with `type` or `rope_type`).

Llama 3.1 divides the frequency of each pair of rotary dimensions by a factor that follows from four numbers, and GGUF
holds the factors only (`rope_freqs.weight`):

    wavelength   < original / high      1
                 > original / low       factor
                 between                1 / ((1 - s) / factor + s),  s = (original / wavelength - low) / (high - low)

Source: transformers' modeling_rope_utils; llama.cpp's conversion of LlamaForCausalLM.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, product
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput
from quantcli.models.torch_pow import powers

#: What the models that use these factors are published with: low, high.
PUBLISHED = (1.0, 4.0)
#: Original contexts to try, the published one first, and factors of long wavelengths.
CONTEXTS = (
    8192, *(4096, 2048, 16384, 32768, 65536, 131072, 1024, 512, 262144, 256, 128, 64, 32, 16, 524288, 1048576),
    *range(1000, 10000, 1000), *(10000, 20000, 100000, 128000, 500, 200, 100),
)  # fmt: skip
FACTORS = (8.0, 32.0, 16.0, 4.0, 64.0)
#: More of them, where no factor in a file shows which it is.
MORE_FACTORS = (2.0, 128.0, *(float(factor) for factor in range(3, 100)))
#: The largest relative difference of factors that are still taken for Llama 3.1's.
CLOSE = 1e-4
#: Below this difference the first settings are taken: machines' powers differ in last bits, models' settings in more.
LAST_BITS = 2e-6
#: How near to its ends a blend is taken for one of them.
EDGE = 1e-6
#: Lower bounds to try where factors leave a choice.
LOWS = (1.0, 0.5, 2.0, 1.5, 3.0)
#: Significant digits that people and programs give the two bounds.
DIGITS = (2, 3, 5, 12)


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding. `type`: transformers' `rope_type`; what the config leaves out is None.

    partial: the share of each head that is rotated. local_theta: of the layers with a sliding window, where they have
    their own. long_factors, short_factors: longrope's divisors of each frequency. sections: of M-RoPE, how many pairs
    follow the position in time, by height and by width, which are the same number for text.
    """

    theta: float = 10000.0
    type: str = "default"
    factor: float | None = None
    original_context: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    extrapolation_factor: float | None = None
    partial: float = 1.0
    local_theta: float | None = None
    mscale_all_dim: float | None = None
    long_factors: tuple[float, ...] | None = None
    short_factors: tuple[float, ...] | None = None
    sections: tuple[int, ...] = ()

    @property
    def is_mrope(self) -> bool:
        """Whether llama.cpp takes the model for one with M-RoPE."""
        return len(self.sections) > 1 and self.sections[0] > 0 < self.sections[1]


#: What families call the share of a head that is rotated, where their table does not say otherwise.
PARTIAL = ("partial_rotary_factor", "rope_pct")
#: Further names of kinds. Of text M-RoPE makes what the usual embedding does.
SPELLINGS = {"su": "longrope", "mrope": "default"}
#: What bases and factors have to be.
ABOVE_0 = "expected a number above 0"


def rope_of(read: Reader, context: int, partial: Sequence[str] = PARTIAL) -> Rope:
    """The settings of a config: `rope_scaling` and the top-level keys, else `rope_parameters`, as in transformers 5.

    partial: the names of the share of a head that is rotated.
    """
    written = read.part("rope_parameters")
    local = written.part("sliding_attention")
    settings = read.part("rope_scaling") if read.values.get("rope_scaling") else written
    if settings.has("full_attention"):
        settings = settings.part("full_attention")
    base = read.first("rope_theta", "rotary_emb_base")
    listed = read.numbers(base) if isinstance(read.values.get(base), list) else ()  # one for each layer
    theta = settings.number("rope_theta", listed[0] if listed else read.number(base, 10000.0))
    kind = settings.text("rope_type", settings.text("type", "default"))
    if theta <= 0:
        raise settings.refuse("rope_theta", ABOVE_0) if settings.has("rope_theta") else read.refuse(base, ABOVE_0)
    needed = {"linear": ("factor",), "yarn": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
    for key in needed.get(kind, ()):
        # What llama.cpp has defaults for may be missing.
        if settings.number(key, None if key == "factor" else 1.0) <= 0:
            raise settings.refuse(key, ABOVE_0)
    original = read.integer("original_max_position_embeddings", context, least=0)
    return Rope(
        theta=theta,
        type=SPELLINGS.get(kind, kind),
        factor=settings.optional_number("factor"),
        original_context=settings.integer("original_max_position_embeddings", original, least=0),
        low_freq_factor=settings.optional_number("low_freq_factor"),
        high_freq_factor=settings.optional_number("high_freq_factor"),
        beta_fast=settings.optional_number("beta_fast"),
        beta_slow=settings.optional_number("beta_slow"),
        attention_factor=settings.optional_number(settings.first("attention_factor", "attn_factor")),
        extrapolation_factor=settings.optional_number("extrapolation_factor"),
        partial=settings.number("partial_rotary_factor", read.number(read.first(*partial), 1.0)),
        local_theta=(
            local.optional_number("rope_theta")
            or read.optional_number("rope_local_base_freq")
            or next((value for value in listed if value != theta), None)
        ),
        mscale_all_dim=settings.optional_number("mscale_all_dim"),
        long_factors=settings.numbers("long_factor") or None,
        short_factors=settings.numbers("short_factor") or None,
        sections=settings.integers("mrope_section"),
    )


def longrope_attention(context: int, original: int) -> float:
    """What longrope multiplies attention by where the context is longer than the original one."""
    return math.sqrt(1 + math.log(context / original) / math.log(original))


def llama3_factors(rope: Rope, dimensions: int) -> NDArray[np.float32] | None:
    """Llama 3.1's divisor of each rotary frequency, float32 (dimensions / 2,); None for other rope types.

    Float32 throughout, with the operations of llama.cpp's conversion, so that bytes are equal: see torch_pow.py.
    Constants that a config leaves out are llama.cpp's.
    """
    if rope.type != "llama3":
        return None
    low = 1.0 if rope.low_freq_factor is None else rope.low_freq_factor
    high = 4.0 if rope.high_freq_factor is None else rope.high_freq_factor
    factor = np.float32(rope.factor or 8.0)
    context = float(rope.original_context or 8192)
    one = np.float32(1)
    wavelengths = _wavelengths(rope.theta, dimensions)
    with np.errstate(divide="ignore", invalid="ignore"):
        smooth = ((one / wavelengths) * np.float32(context) - np.float32(low)) / np.float32(high - low)
        blended = one / ((one - smooth) / factor + smooth)
    return np.select(
        [wavelengths < np.float32(context / high), wavelengths > np.float32(context / low)],
        [one, factor],
        default=blended,
    ).astype(np.float32)


@lru_cache(maxsize=64)
def _wavelengths(theta: float, dimensions: int) -> NDArray[np.float32]:
    """Tokens per turn of each pair of rotary dimensions."""
    one = np.float32(1)
    exponents = np.arange(0, dimensions, 2, dtype=np.float32) / np.float32(dimensions)
    with np.errstate(divide="ignore", over="ignore"):
        frequencies = one / powers(theta, exponents)
        wavelengths = (one / frequencies) * np.float32(2 * math.pi)
    wavelengths.setflags(write=False)
    return wavelengths


def llama3_from_factors(factors: Sequence[float], theta: float) -> Rope | None:
    """Four numbers that give these factors: published ones where they do, else short ones, else the closest.

    None where all factors are 1, which is no scaling. Raises `BadInput` for factors that no numbers give.
    """
    wanted = np.asarray(factors, np.float32)
    if wanted.size == 0 or not np.all(np.isfinite(wanted)) or not np.all(wanted > 0):
        raise BadInput("rope_freqs.weight: expected positive factors.")
    if np.all(wanted == 1):
        return None
    best, least = None, math.inf
    with np.errstate(all="ignore"):
        for rope in chain(_likely(wanted, theta), _fitted(wanted, theta, FACTORS, DIGITS)):
            if not (miss := _miss(wanted, rope)):
                return rope
            if miss < least and least > LAST_BITS:
                best, least = rope, miss
        if least < CLOSE and np.count_nonzero(wanted == wanted.max()) == 1:
            exact = (rope for rope in _fitted(wanted, theta, MORE_FACTORS, DIGITS[:2]) if not _miss(wanted, rope))
            best = next(exact, best)
    if best is None or least > CLOSE:
        raise BadInput("rope_freqs.weight: the factors are not those of Llama 3.1's scaling.")
    return best


def _likely(wanted: NDArray[np.float32], theta: float) -> Iterator[Rope]:
    """Settings as models are published with."""
    tops = dict.fromkeys((_decimal(float(wanted.max())), *FACTORS))
    return (Rope(theta, "llama3", top, context, *PUBLISHED) for context in CONTEXTS for top in tops)


def _miss(wanted: NDArray[np.float32], rope: Rope) -> float:
    """Largest relative difference from the factors that these settings give; infinity where they give none."""
    given = llama3_factors(rope, 2 * wanted.size)
    assert given is not None
    miss = float(np.max(np.abs(given.astype(np.float64) / wanted - 1)))
    return miss if math.isfinite(miss) else math.inf


def _fitted(
    wanted: NDArray[np.float32], theta: float, factors: Sequence[float], lengths: Sequence[int]
) -> Iterator[Rope]:
    """Settings fitted to the factors between 1 and the largest, with that or one of `factors` for long wavelengths.

    The blend is a line over 1 / wavelength that meets 0 at low / original and 1 at high / original, so only these two
    quotients count: one original context is as good as another, but for the last bits. lengths: digits of the bounds.
    """
    inverse = 1 / _wavelengths(theta, 2 * wanted.size).astype(np.float64)
    largest = float(wanted.max())
    for top in dict.fromkeys((_decimal(largest), *factors)):
        if top <= 1 or top < largest * (1 - CLOSE):
            continue
        blend = (1 / wanted.astype(np.float64) - 1 / top) / (1 - 1 / top)
        low, high = _bounds(inverse, blend)
        if not 0 < low < high < math.inf:
            continue
        for digits in lengths:
            for context in CONTEXTS:
                ends = _decimal(low * context, digits), _decimal(high * context, digits)
                yield Rope(theta, "llama3", top, context, *ends)
        between = np.flatnonzero((blend > EDGE) & (blend < 1 - EDGE))
        if between.size == 1:  # any line through it will do that is steep enough: those of round numbers
            x, y = float(inverse[between[0]]), float(blend[between[0]])
            for start, context in product(LOWS, CONTEXTS):
                if (stop := _decimal(start + (x * context - start) / y, 3)) > start:
                    yield Rope(theta, "llama3", top, context, start, stop)


def _bounds(inverse: NDArray[np.float64], blend: NDArray[np.float64]) -> tuple[float, float]:
    """Where the line through the blends between 0 and 1 meets these two; (0, 0) where nothing says so.

    With one such frequency or none, the bounds lie between its neighbours on both sides.
    """
    between = np.flatnonzero((blend > EDGE) & (blend < 1 - EDGE))
    above, below = inverse[blend >= 1 - EDGE], inverse[blend <= EDGE]
    if between.size > 1:
        (x, y), (u, v) = ((inverse[i], blend[i]) for i in (between[-1], between[0]))
        slope = (v - y) / (u - x)
    elif not above.size or not below.size:
        return 0.0, 0.0
    elif between.size:
        x, y = inverse[between[0]], blend[between[0]]
        # Steeper than the steepest line that reaches a neighbour.
        slope = 1.5 * max(y / (x - below.max()), (1 - y) / (above.min() - x))
    else:
        x, y = below.max() + (above.min() - below.max()) / 3, 0.0
        slope = 3 / (above.min() - below.max())
    return float(x - y / slope), float(x + (1 - y) / slope)


def _decimal(value: float, digits: int = 6) -> float:
    """A number without the noise of float32.

    >>> _decimal(7.9999998), _decimal(1.50000012, 5)
    (8.0, 1.5)
    """
    return float(f"{value:.{digits}g}")


def mlx_rope_keys(config: Mapping[str, Any], names: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """What an MLX folder's `config.json` needs beside its source's keys for mlx-lm to see what transformers 5 renamed.

    Most of mlx-lm's models read top-level `rope_theta` and `rope_scaling` only, and run with their default theta,
    without a word, where transformers 5 wrote `rope_parameters`. Keys that the config has already are left alone.
    names: a class's own names of settings -> those above, or of another key of the config.
    """
    written = config.get("rope_parameters")
    settings = dict(written) if isinstance(written, Mapping) else {}
    whole, local = (settings.pop(f"{kind}_attention", None) for kind in ("full", "sliding"))
    settings = dict(whole) if isinstance(whole, Mapping) else settings
    if any(isinstance(value, Mapping) for value in settings.values()):
        return {}
    if isinstance(local, Mapping) and "partial_rotary_factor" in local:  # classes that know kinds of layers alone
        return {}
    theta, partial = settings.pop("rope_theta", None), settings.pop("partial_rotary_factor", None)
    wanted = {
        "rope_theta": theta,
        "rope_scaling": _with_type(settings) if settings.get("rope_type", "default") != "default" else None,
        "rope_local_base_freq": local.get("rope_theta") if isinstance(local, Mapping) else None,
        "partial_rotary_factor": partial,
    }
    wanted |= {name: wanted.pop(other, config.get(other)) for name, other in names.items()}
    return {key: value for key, value in wanted.items() if value is not None and config.get(key) is None}


def _with_type(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Scaling under both names that its kind has had: some of mlx-lm's models know the older one only."""
    return {"type": settings["rope_type"], **settings}
