"""Options that take one of a few words, and the completion of scheme and family names by the shell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import typer

from quantcli.dtypes import DENSE_DTYPES
from quantcli.errors import WrongUsage


@dataclass(frozen=True)
class Choice:
    """The type of an option that takes one of `words`. noun: what they are, for errors."""

    noun: str
    words: tuple[str, ...]

    def option(self, *names: str, help: str, heading: str) -> Any:
        """Return the `typer.Option` of such an option: checked, completed by the shell, its words in the help."""
        return typer.Option(
            *names, metavar="|".join(self.words), help=help, rich_help_panel=heading,
            callback=self.check, autocompletion=self.complete,
        )  # fmt: skip

    def check(self, option: typer.CallbackParam, value: str | None) -> str | None:
        """Return the value. Raises `WrongUsage` for another word; empty values are refused later, for all options."""
        if value is None or not value.strip() or value in self.words:
            return value
        name = max(option.opts, key=len)
        raise WrongUsage(f"{name}: {value!r} is not {self.noun}. Choose from {', '.join(self.words)}.")

    def complete(self, incomplete: str) -> list[str]:
        """Return the words that begin with what has been typed."""
        return [word for word in self.words if word.startswith(incomplete)]


#: Their words are those of the package, which a test compares: importing them here would slow down every start.
TARGET = Choice("an output format", ("mlx", "gguf", "hf"))
DTYPE = Choice("a dtype of dense weights", DENSE_DTYPES)
SCALE_DTYPE = Choice("a dtype of scales", DENSE_DTYPES)
MODE = Choice("a mode of mlx-lm", ("affine", "mxfp4", "mxfp8", "nvfp4"))
SEARCH = Choice("a search method", ("ggml", "best"))
LOSSLESS = Choice("a grade", ("exact", "codes"))
DEVICE = Choice("a device", ("auto", "gpu", "cpu"))


def scheme_names(incomplete: str) -> list[str]:
    """Return the schemes, presets and mixtures whose names begin with what has been typed."""
    from quantcli.recipes.ftypes import ALIASES, COPY, FTYPES
    from quantcli.recipes.mixtures import MIXTURES
    from quantcli.recipes.names import WORDS

    names = {*listed_schemes(""), *FTYPES, *ALIASES, COPY, *MIXTURES, *WORDS}
    return sorted(name for name in names if name.startswith(incomplete.lower()))


def fallback_names(incomplete: str) -> list[str]:
    """Return the values of `--fallback` that begin with what has been typed."""
    return [name for name in ("auto", "none", *scheme_names("")) if name.startswith(incomplete.lower())]


def listed_schemes(incomplete: str) -> list[str]:
    """Return the names of `quant schemes` that begin with what has been typed."""
    from quantcli.convert.planning.reached import SHAPE
    from quantcli.schemes.listed import listed

    return sorted({scheme.name for scheme in listed(SHAPE) if scheme.name.startswith(incomplete.lower())})


def listed_families(incomplete: str) -> list[str]:
    """Return the model types and GGUF architectures that begin with what has been typed."""
    from quantcli.convert.inspecting.architectures import families

    names = {name for family in families() for name in (family.gguf, *family.model_types)}
    return sorted(name for name in names if name.startswith(incomplete.lower()))
