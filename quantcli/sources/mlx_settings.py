"""How the modules of an MLX folder are quantized: config.json's block, and `quantization_config.json` next to it.

If only one of the two lists a module, that one is used. If they differ, config.json is used, with a warning.
Source: mlx-native (load_quantized_weights reads only the second file), hf2q, which writes both.
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
    """The settings of a module in one file. params: None or False for dense. key: their place. listed: by its name."""

    params: MlxParams | bool | None
    file: str
    key: str
    listed: bool

    @property
    def description(self) -> str:
        """The settings in words."""
        return str(self.params) if isinstance(self.params, MlxParams) else "dense"


@dataclass(frozen=True)
class MlxSettings:
    """The settings in config.json and in `quantization_config.json` (`beside`), None for a file that has none.

    bare: whether config.json is missing. malformed: those of the warnings that concern keys without a module.
    foreign: the owner of `quantization_config.json`, in words, if it belongs to another quantizer.
    """

    config: MlxQuantization | None
    beside: MlxQuantization | None
    warnings: tuple[str, ...] = ()
    bare: bool = False
    malformed: tuple[str, ...] = ()
    foreign: str | None = None

    @property
    def quantizes(self) -> MlxParams | None:
        """How config.json quantizes modules that it does not list; None for not at all."""
        return self.config.default if self.config is not None else None

    def answers(self, module: str) -> list[Answer]:
        """Return the settings of a module, those to be used first.

        The second ones, if any, are config.json's default: only quantization_config.json lists the module.
        """
        listed = [self._listed(module, CONFIG, self.config), self._listed(module, FILE, self.beside)]
        answers = [answer for answer in listed if answer is not None][:1]
        if answers and (answers[0].file == CONFIG or self.config is None):
            return answers
        if self.config is not None:
            return [*answers, Answer(self.config.default, CONFIG, "quantization", False)]
        return [Answer(self.beside.default, FILE, self.beside.default_key, False)] if self.beside is not None else []

    def _listed(self, module: str, file: str, settings: MlxQuantization | None) -> Answer | None:
        params = settings.lookup(module) if settings is not None else None
        key = f"quantization.{module}" if file == CONFIG else module
        return None if params is None else Answer(params, file, key, True)

    def is_listed_as_quantized(self, module: str) -> bool:
        """Return whether a file lists the module with bits."""
        return any(answer.listed and isinstance(answer.params, MlxParams) for answer in self.answers(module))

    def differences(self, modules: Iterable[str]) -> tuple[str, ...]:
        """Return a warning if the two files differ in their defaults or in modules that both list."""
        if self.config is None or self.beside is None:
            return ()
        pairs = (
            (module, self._listed(module, CONFIG, self.config), self._listed(module, FILE, self.beside))
            for module in modules
        )
        differences = [
            (module, ours.description, theirs.description)
            for module, ours, theirs in pairs
            if ours is not None and theirs is not None and ours.description != theirs.description
        ]
        ours, theirs = (Answer(block.default, "", "", False).description for block in (self.config, self.beside))
        if self.beside.stated and ours != theirs:
            differences.insert(0, ("the default", ours, theirs))
        if not differences:
            return ()
        subject, ours, theirs = differences[0]
        count = f" (one of {len(differences)} differences)" if len(differences) > 1 else ""
        return (f"{CONFIG} says that {subject} is {ours}, but {FILE} says {theirs}{count}. {CONFIG} is used.",)


def read_settings(folder: Folder, config: Mapping[str, Any], tensors: Collection[str]) -> MlxSettings:
    """Read the settings of an MLX folder. tensors: the names of those in it. Raises `BadInput`."""
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
            warnings += (f"{error} {CONFIG} is used.",)
    warnings += beside.warnings if beside else ()
    malformed = block.malformed if block else ()
    return MlxSettings(block, beside, warnings, CONFIG not in folder.names(), malformed, foreign)


def block_of(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings in `quantization_config.json`'s object, which may be nested under config.json's keys."""
    wrapped = (data.get(key) for key in hf2q.WRAPPERS)
    return next((block for block in wrapped if isinstance(block, Mapping)), data)


def parse_beside(block: Mapping[str, Any]) -> MlxQuantization | None:
    """Parse these settings; None if they are another quantizer's. Raises `BadInput`."""
    # An object with nothing but flags is not recognised as a recipe; in a file of this name flags are entries.
    has_flags = is_ours(block) and any(isinstance(value, bool) for value in block.values())
    return hf2q.parse(block, FILE) if has_flags or hf2q.recognise(block) else None


def path_of(folder: Folder) -> Path | None:
    """Return the path of the folder's `quantization_config.json`; None if it has none."""
    return folder.path(FILE) if FILE in folder.names() else None
