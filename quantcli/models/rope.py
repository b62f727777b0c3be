"""Rotary position embedding: its settings in both spellings of `config.json`, and conversion of Llama 3's factors.

Transformers 5 nests the settings in `rope_parameters`, by kind of layer if kinds differ; before, they were a
top-level `rope_theta` and `rope_scaling` (with `type` or `rope_type`).

Llama 3.1 divides the frequency of each pair of rotary dimensions by a factor that follows from four numbers; GGUF
stores only the factors (`rope_freqs.weight`):

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

#: The bounds in published models that use these factors: low, high.
PUBLISHED = (1.0, 4.0)
#: Original contexts to try, the published one first, and factors for long wavelengths.
CONTEXTS = (
    8192, *(4096, 2048, 16384, 32768, 65536, 131072, 1024, 512, 262144, 256, 128, 64, 32, 16, 524288, 1048576),
    *range(1000, 10000, 1000), *(10000, 20000, 100000, 128000, 500, 200, 100),
)  # fmt: skip
FACTORS = (8.0, 32.0, 16.0, 4.0, 64.0)
#: More factors to try, if a file's factors do not show the largest.
MORE_FACTORS = (2.0, 128.0, *(float(factor) for factor in range(3, 100)))
#: The largest relative difference with which factors are accepted as Llama 3.1's.
CLOSE = 1e-4
#: Below this difference the first settings are used: powers differ between machines in last bits, settings in more.
LAST_BITS = 2e-6
#: A blend this close to 0 or 1 counts as 0 or 1.
EDGE = 1e-6
#: Lower bounds to try if factors leave a choice.
LOWS = (1.0, 0.5, 2.0, 1.5, 3.0)
#: Significant digits to try for the two bounds, as people and programs write them.
DIGITS = (2, 3, 5, 12)


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding. Settings that config.json lacks are None.

    theta: the base. type: transformers' `rope_type`. partial: the share of each head that is rotated. local_theta: the
    base in layers with a sliding window, if it differs. long_factors, short_factors: longrope's divisors of each
    frequency. sections: M-RoPE's numbers of pairs that follow the position in time, height and width; in text these
    three positions are equal.
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
        """Whether llama.cpp treats the model as one with M-RoPE."""
        return len(self.sections) > 1 and self.sections[0] > 0 < self.sections[1]


#: Keys of the share of a head that is rotated, unless a family's table names others.
PARTIAL = ("partial_rotary_factor", "rope_pct")
#: Aliases of kinds. For text, M-RoPE computes the same as the default embedding.
SPELLINGS = {"su": "longrope", "mrope": "default"}
#: The requirement for bases and factors.
ABOVE_0 = "expected a number above 0"


def rope_of(read: Reader, context: int, partial: Sequence[str] = PARTIAL) -> Rope:
    """Read the settings of a config: `rope_scaling` and top-level keys, else `rope_parameters`, as transformers 5 does.

    context: the model's context length, the default of the original one. partial: keys of the share of a head that is
    rotated. Raises `BadInput` naming the key.
    """
    written = read.part("rope_parameters")
    local = written.part("sliding_attention")
    settings = read.part("rope_scaling") if read.values.get("rope_scaling") else written
    if settings.has("full_attention"):
        settings = settings.part("full_attention")
    base = read.first("rope_theta", "rotary_emb_base")
    listed = read.numbers(base) if isinstance(read.values.get(base), list) else ()  # one per layer
    theta = settings.number("rope_theta", listed[0] if listed else read.number(base, 10000.0))
    kind = settings.text("rope_type", settings.text("type", "default"))
    if theta <= 0:
        raise settings.refuse("rope_theta", ABOVE_0) if settings.has("rope_theta") else read.refuse(base, ABOVE_0)
    needed = {"linear": ("factor",), "yarn": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
    for key in needed.get(kind, ()):
        # llama.cpp has defaults for all of them but the factor.
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
    """Return longrope's attention factor for a context longer than the original one."""
    return math.sqrt(1 + math.log(context / original) / math.log(original))


def llama3_factors(rope: Rope, dimensions: int) -> NDArray[np.float32] | None:
    """Return Llama 3.1's divisor of each rotary frequency, float32 [dimensions / 2]; None for other rope types.

    Computed in float32 with the operations of llama.cpp's converter, so that bytes are equal: see torch_pow.py.
    Missing settings have llama.cpp's defaults.
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
    """Return the wavelength, in tokens, of each pair of rotary dimensions."""
    one = np.float32(1)
    exponents = np.arange(0, dimensions, 2, dtype=np.float32) / np.float32(dimensions)
    with np.errstate(divide="ignore", over="ignore"):
        frequencies = one / powers(theta, exponents)
        wavelengths = (one / frequencies) * np.float32(2 * math.pi)
    wavelengths.setflags(write=False)
    return wavelengths


def llama3_from_factors(factors: Sequence[float], theta: float) -> Rope | None:
    """Return settings that give these factors: published ones if possible, else short decimals, else the closest.

    None if all factors are 1, which means no scaling. Raises `BadInput` for factors that no settings give.
    """
    wanted = np.asarray(factors, np.float32)
    wrong = wanted[~(np.isfinite(wanted) & (wanted > 0))]
    if wanted.size == 0 or wrong.size:
        found = f"{wrong[0]:g}" if wrong.size else "no factors"
        raise BadInput(f"rope_freqs.weight: expected finite factors above 0, found {found}.")
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
    """Return the settings of published models, with each plausible context and factor."""
    tops = dict.fromkeys((_decimal(float(wanted.max())), *FACTORS))
    return (Rope(theta, "llama3", top, context, *PUBLISHED) for context in CONTEXTS for top in tops)


def _miss(wanted: NDArray[np.float32], rope: Rope) -> float:
    """Return the largest relative difference from these settings' factors; infinity if it is not finite."""
    given = llama3_factors(rope, 2 * wanted.size)
    assert given is not None
    miss = float(np.max(np.abs(given.astype(np.float64) / wanted - 1)))
    return miss if math.isfinite(miss) else math.inf


def _fitted(
    wanted: NDArray[np.float32], theta: float, factors: Sequence[float], lengths: Sequence[int]
) -> Iterator[Rope]:
    """Yield settings fitted to the factors, with the largest one or one of `factors` for long wavelengths.

    The blend is linear in 1 / wavelength, 0 at low / original and 1 at high / original, so the factors determine only
    these two quotients: any original context gives the same factors, except for last bits. lengths: significant digits
    of the bounds.
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
        if between.size == 1:  # any steep enough line passes through it: try those with round numbers
            x, y = float(inverse[between[0]]), float(blend[between[0]])
            for start, context in product(LOWS, CONTEXTS):
                if (stop := _decimal(start + (x * context - start) / y, 3)) > start:
                    yield Rope(theta, "llama3", top, context, start, stop)


def _bounds(inverse: NDArray[np.float64], blend: NDArray[np.float64]) -> tuple[float, float]:
    """Return the inverse wavelengths at which the line through the blends is 0 and 1; (0, 0) if it is not determined.

    With one blend between 0 and 1, or none, the bounds are somewhere between the neighbours on both sides.
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
        # Steeper than the steepest line to a neighbour.
        slope = 1.5 * max(y / (x - below.max()), (1 - y) / (above.min() - x))
    else:
        x, y = below.max() + (above.min() - below.max()) / 3, 0.0
        slope = 3 / (above.min() - below.max())
    return float(x - y / slope), float(x + (1 - y) / slope)


def _decimal(value: float, digits: int = 6) -> float:
    """Round a number to significant digits, which removes float32's rounding error.

    >>> _decimal(7.9999998), _decimal(1.50000012, 5)
    (8.0, 1.5)
    """
    return float(f"{value:.{digits}g}")


def mlx_rope_keys(config: Mapping[str, Any], names: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """Return the keys that an MLX folder's `config.json` needs in addition because transformers 5 renamed settings.

    Most of mlx-lm's models read only top-level `rope_theta` and `rope_scaling`, and use their default theta without a
    warning if transformers 5 wrote `rope_parameters`. Keys that the config has are left alone. names: mlx-lm's name of
    a setting -> the name above, or another key of the config.
    """
    written = config.get("rope_parameters")
    settings = dict(written) if isinstance(written, Mapping) else {}
    full, local = (settings.pop(f"{kind}_attention", None) for kind in ("full", "sliding"))
    settings = dict(full) if isinstance(full, Mapping) else settings
    if any(isinstance(value, Mapping) for value in settings.values()):
        return {}
    if isinstance(local, Mapping) and "partial_rotary_factor" in local:  # such classes read settings by kind of layer
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
    """Return scaling with its kind under both names: some of mlx-lm's models read only the older one."""
    return {"type": settings["rope_type"], **settings}
