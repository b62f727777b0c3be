"""What an MLX folder says of its modules: config.json's block, then `quantization_config.json` next to it.

A module that only one of the two names is taken from that one. Where they differ config.json counts, with a warning.
Source: mlx-native (load_quantized_weights reads the second file alone), hf2q, which writes both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantcli.errors import BadInput
from quantcli.recipes import hf2q, mlx_config
from quantcli.recipes.mlx_config import MlxParams, MlxQuantization
from quantcli.recipes.quantizers import is_ours, whose
from quantcli.sources.folder import CONFIG, Folder, read_json

FILE = hf2q.FILE


@dataclass(frozen=True)
class Answer:
    """What one file says of a module; params: None or False for dense. key: where it stands. listed: by its name."""

    params: MlxParams | bool | None
    file: str
    key: str
    listed: bool

    @property
    def said(self) -> str:
        """The settings as a clause."""
        return str(self.params) if isinstance(self.params, MlxParams) else "dense"


@dataclass(frozen=True)
class MlxSettings:
    """The settings of both files, None for a file that has none. bare: there is no config.json at all.

    malformed: those of the warnings that name keys without a module. foreign: whose `quantization_config.json` is,
    as a clause, where it is another quantizer's.
    """

    config: MlxQuantization | None
    beside: MlxQuantization | None
    warnings: tuple[str, ...] = ()
    bare: bool = False
    malformed: tuple[str, ...] = ()
    foreign: str | None = None

    @property
    def quantizes(self) -> MlxParams | None:
        """How config.json says modules are quantized that it does not list, None for not at all."""
        return self.config.default if self.config is not None else None

    def answers(self, module: str) -> list[Answer]:
        """What is said of a module, the answer that counts first.

        There is a second one, config.json's default, where only quantization_config.json names the module.
        """
        listed = [self._listed(module, CONFIG, self.config), self._listed(module, FILE, self.beside)]
        answers = [answer for answer in listed if answer is not None][:1]
        if answers and (answers[0].file == CONFIG or self.config is None):
            return answers
        if self.config is not None:
            return [*answers, Answer(self.config.default, CONFIG, "quantization", False)]
        return [Answer(self.beside.default, FILE, self.beside.said, False)] if self.beside is not None else []

    def _listed(self, module: str, file: str, found: MlxQuantization | None) -> Answer | None:
        params = found.lookup(module) if found is not None else None
        key = f"quantization.{module}" if file == CONFIG else module
        return None if params is None else Answer(params, file, key, True)

    def is_listed_as_quantized(self, module: str) -> bool:
        """Whether a file names the module and gives it bits."""
        return any(answer.listed and isinstance(answer.params, MlxParams) for answer in self.answers(module))

    def differences(self, modules: Iterable[str]) -> tuple[str, ...]:
        """A warning where the two files say different things of the defaults or of modules that both name."""
        if self.config is None or self.beside is None:
            return ()
        found = [
            f"{module} is {ours.said} in {CONFIG} and {theirs.said} in {FILE}"
            for module in modules
            if (ours := self._listed(module, CONFIG, self.config))
            and (theirs := self._listed(module, FILE, self.beside))
            and ours.said != theirs.said
        ]
        defaults = [Answer(block.default, "", "", False).said for block in (self.config, self.beside)]
        if self.beside.stated and defaults[0] != defaults[1]:
            found.insert(0, f"the default is {defaults[0]} in {CONFIG} and {defaults[1]} in {FILE}")
        more = f", and {len(found) - 1} more settings differ" if len(found) > 1 else ""
        return (f"{found[0]}{more}: {CONFIG} counts.",) if found else ()


def read_settings(folder: Folder, config: Mapping[str, Any], tensors: Collection[str]) -> MlxSettings:
    """The settings of an MLX folder; tensors: the names in it. Raises `BadInput`."""
    block = mlx_config.parse(config, f"{folder.label}/{CONFIG}", tensors)
    beside, foreign, warnings = None, None, block.warnings if block else ()
    if FILE in folder.names():
        try:
            data = block_of(read_json(folder, FILE))
            beside = parse_beside(data)
            foreign = whose(data) if beside is None else None
        except BadInput as error:
            if block is None:
                raise
            warnings += (f"{error} {CONFIG} counts.",)
    warnings += beside.warnings if beside else ()
    malformed = block.malformed if block else ()
    return MlxSettings(block, beside, warnings, CONFIG not in folder.names(), malformed, foreign)


def block_of(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings in `quantization_config.json`'s object, which may stand as a whole under config.json's keys."""
    wrapped = (data.get(key) for key in hf2q.WRAPPERS)
    return next((found for found in wrapped if isinstance(found, Mapping)), data)


def parse_beside(block: Mapping[str, Any]) -> MlxQuantization | None:
    """These settings, read; None where they are another quantizer's. Raises `BadInput`."""
    # Flags alone make no recipe of an object, but they make entries of a file that has this name.
    has_flags = is_ours(block) and any(isinstance(value, bool) for value in block.values())
    return hf2q.parse(block, FILE) if has_flags or hf2q.recognise(block) else None


def path_of(folder: Folder) -> Path | None:
    """Where the folder's `quantization_config.json` lies; None where it has none."""
    return folder.path(FILE) if FILE in folder.names() else None
