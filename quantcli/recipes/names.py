"""The names of schemes, and mlx-lm's spelling of some of them, `--bits N --group-size N --mode M`.

Sources: mlx.nn.quantize for the modes and their defaults; ggml for its type names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from quantcli.dtypes import DENSE_DTYPES
from quantcli.errors import WrongUsage
from quantcli.recipes.ftypes import TYPES

#: GGML's types of weights in lower case, without the dense ones.
GGML = tuple(name for name in TYPES if name not in DENSE_DTYPES)

#: Words that may replace a scheme: keep a weight as it is; keep it dense in the output's dtype.
WORDS = ("keep", "dense")


@dataclass(frozen=True)
class Form:
    """A family of names. start: how a misspelled one begins, as a regex. description: the family, for errors."""

    start: str
    pattern: str
    description: str


_GRANULARITY = "(g[1-9][0-9]*|channel|tensor)"

#: All schemes; the first form that matches a name is used.
FORMS = (
    Form("affine", "affine[1-68]-g(32|64|128)", "affine has 1, 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128"),
    Form("mxfp|nvfp", "mxfp4|mxfp8|nvfp4|mxfp6-e2m3|mxfp6-e3m2", "OCP's are mxfp4 mxfp8 nvfp4 mxfp6-e2m3 mxfp6-e3m2"),
    Form("int", f"(int[2-8]|int8-asym)-{_GRANULARITY}", "int2 to int8 and int8-asym end in -g{N}, -channel or -tensor"),
    Form("uint", f"uint[2-8]-{_GRANULARITY}", "uint2 to uint8 end in -g{N}, -channel or -tensor"),
    Form("fp8", "fp8-e4m3(-tensor|-channel|-block128)?|fp8-e5m2", "fp8-e4m3 may end in -tensor, -channel or -block128"),
    Form("nf4|fp4", "(nf4|fp4)(-double)?(-g[0-9]*[02468])?", "nf4 and fp4 end in -g{N} or -double-g{N}, N even"),
    Form("i?q|tq", "|".join(GGML), f"GGML's are {' '.join(GGML)}; a mixture applies only to a complete GGUF file"),
    Form("b?f|dense|keep", "|".join(DENSE_DTYPES + WORDS), "dense ones are " + " ".join(DENSE_DTYPES + WORDS)),
)

#: mode -> its default (group_size, bits), which are the only ones of modes other than affine. Source: mlx.nn.quantize.
MODES = {"affine": (64, 4), "mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}


def canonical(text: str) -> str | None:
    """Return the canonical name of a scheme: lower case, with the default group size; None if it is not a scheme.

    >>> canonical("Q4_K"), canonical("nf4"), canonical("affine7-g64")
    ('q4_k', 'nf4-g64', None)
    """
    name = text.strip().lower()
    if len(name) > 40 or not any(re.fullmatch(form.pattern, name) for form in FORMS):
        return None
    if re.fullmatch("(nf4|fp4)(-double)?", name):
        return f"{name}-g64"
    return None if re.search("-g0+$", name) else name


def problem(text: str) -> str:
    """Return why `text` is not a scheme, as a clause, with the names of the likeliest family.

    >>> problem("affine7-g64")
    "'affine7-g64' is not a scheme (affine has 1, 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128)"
    """
    name = text.strip().lower()
    examples = "examples: affine4-g64, mxfp4, q8_0, bf16, keep"
    description = next((form.description for form in FORMS if re.match(form.start, name)), examples)
    return f"{text[:100]!r} is not a scheme ({description})"


def mlx_scheme(bits: int, group_size: int, mode: str = "affine") -> str | None:
    """Return the scheme with MLX's bits, group_size and mode; None if MLX has no such format.

    >>> mlx_scheme(4, 64), mlx_scheme(8, 32, "mxfp8"), mlx_scheme(8, 32, "mxfp4")
    ('affine4-g64', 'mxfp8', None)
    """
    if mode == "affine":
        return canonical(f"affine{bits}-g{group_size}")
    return mode if MODES.get(mode) == (group_size, bits) else None


def mlx_formats(mode: str) -> str:
    """Return the bits and group sizes of a mode, as a clause."""
    group_size, bits = MODES[mode]
    return FORMS[0].description if mode == "affine" else f"{mode} has {bits} bits in groups of {group_size}"


def from_mlx_options(bits: int | None, group_size: int | None, mode: str | None) -> str | None:
    """Return the scheme of `--bits`, `--group-size` and `--mode`, with mlx-lm's defaults; None if none is given.

    mode: of `MODES`. Raises `WrongUsage` for values that the mode does not have.
    """
    if bits is None and group_size is None and mode is None:
        return None
    mode = mode or "affine"
    default_group, default_bits = MODES[mode]
    bits = default_bits if bits is None else bits
    group_size = default_group if group_size is None else group_size
    name = mlx_scheme(bits, group_size, mode)
    if name is None:
        options = f"--mode {mode} with --bits {bits} and --group-size {group_size}"
        raise WrongUsage(f"{options} is not a format of MLX ({mlx_formats(mode)}).")
    return name
