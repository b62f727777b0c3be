"""The lenient way to read MLX's settings, for recipes and for `quantization_config.json`.

mlx-native documents two ways; config.json of a quantized folder is read in the strict one (`mlx_config.parse`).

    no `group_size`, no `bits`                             those of the file, else the mode's (affine: 64 and 4)
    null                                                   the mode's default, as in mlx-lm
    false, `preserved`, 16 bits or more, group_size 0      dense
    true                                                   the file's default
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

#: A tensor with this many bits or more is not quantized.
DENSE_BITS = 16

#: Keys of an entry that describe it and have no effect.
DESCRIBING = ("method", "reason")

#: All keys of an entry.
WORDS = frozenset({*RESERVED, *MARKS, *DESCRIBING, "preserved"})


@dataclass
class Ignored:
    """Settings that are ignored: one warning for each kind, which quotes the first and counts the others."""

    label: str
    kinds: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, clause: str) -> None:
        """Record a setting. kind: what is ignored, in the plural. clause: a description that quotes it."""
        self.kinds.setdefault(kind, []).append(clause)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warning(kind, clauses) for kind, clauses in self.kinds.items())

    def _warning(self, kind: str, clauses: list[str]) -> str:
        ignored = f"{len(clauses)} such {kind} are" if len(clauses) > 1 else "It is"
        return f"{self.label}: {clauses[0]}. {ignored} ignored."


@dataclass(frozen=True)
class Numbers:
    """Bits, group size and mode as a file gives them, not yet checked against each other."""

    bits: int = MODES["affine"][1]
    group_size: int = MODES["affine"][0]
    mode: str = "affine"

    @property
    def is_dense(self) -> bool:
        return self.bits >= DENSE_BITS or self.group_size == 0

    @property
    def problem(self) -> str | None:
        """Why MLX has no such format, as a clause; None if it has, or if the numbers mean dense."""
        if self.is_dense or mlx_scheme(self.bits, self.group_size, self.mode) is not None:
            return None
        numbers = f"bits {shown(self.bits)} with group_size {shown(self.group_size)}"
        return f"{numbers} is not a format of MLX ({mlx_formats(self.mode)})"

    def params(self, *, global_scale: bool = False) -> MlxParams | bool:
        """Return how a module is stored, False for dense. Must not be called if there is a `problem`."""
        return False if self.is_dense else MlxParams(self.bits, self.group_size, self.mode, global_scale)


def defaults(block: Mapping[str, Any], ignored: Ignored) -> Numbers:
    """Return the file's default bits, group size and mode."""
    numbers = _numbers(block, "", Numbers(), ignored)
    if numbers.problem is None:
        return numbers
    ignored.add("values", numbers.problem)
    return Numbers()


def entry(value: object, where: str, own: Numbers, ignored: Ignored) -> MlxParams | bool | None:
    """Return the parameters of one module, False for dense, None if the entry is ignored. own: the file's default."""
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
    numbers = _numbers(value, where, own, ignored)
    if numbers.problem is not None:
        ignored.add("entries", f"{where}: {numbers.problem}")
        return None
    return numbers.params(global_scale=_flag(value, "global_scale", where, ignored))


def _numbers(value: Mapping[str, Any], where: str, own: Numbers, ignored: Ignored) -> Numbers:
    """Return the numbers in an object; missing ones are the file's. Numbers without a mode are affine."""
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
    """Return an object with its nulls replaced by the mode's numbers."""
    own = dict(zip(("group_size", "bits"), MODES[mode], strict=True))
    return {name: own.get(name) if given is None else given for name, given in value.items()}


def _whole(value: Mapping[str, Any], name: str, least: int, own: int, where: str, ignored: Ignored) -> int:
    """Return a whole number of at least `least`, the file's (`own`) without a valid one."""
    number = value.get(name, own)
    if isinstance(number, int) and not isinstance(number, bool) and number >= least:
        return number
    ignored.add("values", f"{_at(where, name)} is {shown(number)}, not a whole number of at least {least}")
    return own


def _flag(value: Mapping[str, Any], name: str, where: str, ignored: Ignored) -> bool:
    flag = value.get(name)
    if isinstance(flag, bool | None):
        return bool(flag)
    ignored.add("values", f"{_at(where, name)} is {shown(flag)}, not true or false")
    return False


def _at(where: str, name: str) -> str:
    return f"{where}: {name}" if where else name
