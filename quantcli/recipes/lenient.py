"""The lenient reading of MLX's settings, for recipes and for `quantization_config.json`.

mlx-native documents two readings; the strict one (`mlx_config.parse`) is kept for config.json of a quantized folder.

    no `group_size`, no `bits`                             those of the file, else 64 and 4 (of a mode, its own)
    a null                                                 the mode's default, as in mlx-lm
    false, `preserved`, 16 bits and more, group_size 0     dense
    true                                                   as the file's default
    any other value                                        ignored, with a warning

Sources: mlx-native's src/weight.rs (from_model_config_json), what hf2q's backends write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.recipes.mlx_config import MARKS, RESERVED, MlxParams
from quantcli.recipes.names import MODES, mlx_formats, mlx_scheme

#: From so many bits on a tensor is not quantized at all.
DENSE_BITS = 16

#: Words of an entry that describe it and change nothing.
DESCRIBING = ("method", "reason")

#: What an entry may say.
WORDS = frozenset({*RESERVED, *MARKS, *DESCRIBING, "preserved"})


@dataclass
class Ignored:
    """What a reading passes over: one warning for each kind, which quotes the first and counts the rest."""

    label: str
    kinds: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, said: str) -> None:
        """kind: what is ignored, in the plural; said: a clause that quotes it."""
        self.kinds.setdefault(kind, []).append(said)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warning(kind, said) for kind, said in self.kinds.items())

    def _warning(self, kind: str, said: list[str]) -> str:
        more = f", and {len(said) - 1} more {kind}" if len(said) > 1 else ""
        return f"{self.label}: {said[0]}: ignored{more}."


@dataclass(frozen=True)
class Numbers:
    """Bits, group size and mode as a file gives them, before anything is known to fit."""

    bits: int = MODES["affine"][1]
    group_size: int = MODES["affine"][0]
    mode: str = "affine"

    @property
    def is_dense(self) -> bool:
        return self.bits >= DENSE_BITS or self.group_size == 0

    @property
    def problem(self) -> str | None:
        """Why MLX has no such format, as a clause; None where it has, or where nothing is quantized."""
        if self.is_dense or mlx_scheme(self.bits, self.group_size, self.mode) is not None:
            return None
        numbers = f"bits {shown(self.bits)} and group_size {shown(self.group_size)}"
        return f"{numbers} are not a format of MLX ({mlx_formats(self.mode)})"

    def params(self, *, global_scale: bool = False) -> MlxParams | bool:
        """How a module is stored, False for dense; only where there is no `problem`."""
        return False if self.is_dense else MlxParams(self.bits, self.group_size, self.mode, global_scale)


def defaults(block: Mapping[str, Any], ignored: Ignored) -> Numbers:
    """The file's own bits, group size and mode."""
    found = _numbers(block, "", Numbers(), ignored)
    if found.problem is None:
        return found
    ignored.add("values", found.problem)
    return Numbers()


def entry(value: object, where: str, own: Numbers, ignored: Ignored) -> MlxParams | bool | None:
    """The parameters of one module, False where it is dense, None where the entry is ignored. own: the file's."""
    if isinstance(value, bool):
        return value and own.params()
    if not isinstance(value, Mapping):
        ignored.add("values", f"{where} is {shown(value)}, not false, true or an object")
        return None
    for word in value:
        if word not in WORDS:
            ignored.add("words", f"{where} has {shown(word)}, which is not a setting of a module")
    if _flag(value, "preserved", where, ignored):
        return False
    found = _numbers(value, where, own, ignored)
    if found.problem is not None:
        ignored.add("entries", f"{where}: {found.problem}")
        return None
    return found.params(global_scale=_flag(value, "global_scale", where, ignored))


def _numbers(value: Mapping[str, Any], where: str, own: Numbers, ignored: Ignored) -> Numbers:
    """The numbers of an object; what it leaves out is the file's. A mode is affine unless it, or nothing, is given."""
    given = value.get("mode")
    if "mode" in value and given is None:
        given = "affine"
    elif "mode" in value and not (isinstance(given, str) and given in MODES):
        ignored.add("values", f"{_at(where, 'mode')} is {shown(given)}, not one of {', '.join(MODES)}")
        given = None
    if given is not None and given != own.mode:
        group_size, bits = MODES[given]
        own = Numbers(bits, group_size, given)
    mode = given or ("affine" if {"bits", "group_size"} & value.keys() else own.mode)
    value = _filled(value, mode)
    bits = _whole(value, "bits", 1, own.bits, where, ignored)
    return Numbers(bits, _whole(value, "group_size", 0, own.group_size, where, ignored), mode)


def _filled(value: Mapping[str, Any], mode: str) -> Mapping[str, Any]:
    """An object whose nulls are the mode's numbers."""
    own = dict(zip(("group_size", "bits"), MODES[mode], strict=True))
    return {name: own.get(name) if found is None else found for name, found in value.items()}


def _whole(value: Mapping[str, Any], name: str, least: int, own: int, where: str, ignored: Ignored) -> int:
    """A whole number of at least `least`, the file's own where there is none."""
    number = value.get(name, own)
    if isinstance(number, int) and not isinstance(number, bool) and number >= least:
        return number
    ignored.add("values", f"{_at(where, name)} is {shown(number)}, not a whole number of at least {least}")
    return own


def _flag(value: Mapping[str, Any], name: str, where: str, ignored: Ignored) -> bool:
    found = value.get(name)
    if isinstance(found, bool | None):
        return bool(found)
    ignored.add("values", f"{_at(where, name)} is {shown(found)}, not true or false")
    return False


def _at(where: str, name: str) -> str:
    return f"{where}: {name}" if where else name
