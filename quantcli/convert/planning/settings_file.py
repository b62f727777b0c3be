"""The `quantization_config.json` next to a dense model: what it decides in a conversion, and its warnings.

Its entries rank below --override and --recipe and above --scheme. Its default bits and group_size rank below --scheme,
so they only complete its entries. The file is applied only if a quantizing scheme is requested: its MLX settings to MLX
folders, its entries that leave a weight dense to every output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from quantcli.checkpoint import Checkpoint
from quantcli.containers.hostile import shown
from quantcli.convert.planning.request import Request
from quantcli.convert.planning.steps import Step
from quantcli.dtypes import DENSE_DTYPES
from quantcli.errors import BadInput
from quantcli.recipes.base import Decision, Origin, Recipe, Subject
from quantcli.recipes.names import WORDS
from quantcli.recipes.unmatched import unmatched
from quantcli.schemes.dense import Dense
from quantcli.sources.folder import LocalFolder, read_json
from quantcli.sources.mlx_settings import FILE, block_of, parse_beside
from quantcli.targets.base import Target

NEXT_TO = f"{FILE} next to the model"


@dataclass(frozen=True)
class SettingsFile:
    """The file as it applies to one conversion. recipe: its entries, None if they are not applied.

    follows_mlx_lm: all entries are applied, otherwise only those that leave a weight dense. is_folder: whether the
    output is a folder, which gets a copy of the file if it is dense. idle: why the file is not applied, as a clause.
    """

    recipe: Recipe | None = None
    idle: str | None = None
    follows_mlx_lm: bool = True
    is_folder: bool = True

    def entry(self, subject: Subject) -> Decision | None:
        """Return its decision about a weight, if any."""
        decision = self.recipe.entry(subject) if self.recipe is not None else None
        return decision if decision is not None and (self.follows_mlx_lm or decision.scheme == "dense") else None

    def warnings(self, subjects: Sequence[Subject]) -> list[str]:
        """Return warnings of the entries that cannot be applied to these weights."""
        if self.recipe is None:
            return []
        warnings = [*self.recipe.warnings, *unmatched(self.recipe, subjects)]
        foreign = [s.name for s in subjects if self.recipe.entry(s) is not None and self.entry(s) is None]
        if foreign:
            warnings.append(
                f"{FILE}: its MLX settings for {_counted(len(foreign), foreign[0])} are ignored: they apply only to "
                "MLX folders."
            )
        return warnings

    def unreached(self, steps: Sequence[Step], decided: Mapping[str, Decision]) -> list[str]:
        """Return a warning of weights that cannot have the scheme it names, if no fallback reports them already."""
        missed = [s for s in self._steps(steps, decided) if _misses(s, decided[s.name]) and s.wanted is None]
        if not missed:
            return []
        weights = _counted(len(missed), f"{missed[0].name}: {missed[0].reason}")
        return [f"{FILE}: its settings are not applied to {weights}."]

    def summary(self, steps: Sequence[Step], decided: Mapping[str, Decision]) -> tuple[str, ...]:
        """Return its lines in the summary of a plan."""
        if self.idle is not None:
            is_copied = self.is_folder and all(isinstance(s.scheme, Dense) for s in steps)
            return (f"{NEXT_TO} is {'copied and ' if is_copied else ''}not applied: {self.idle}",)
        if self.recipe is None:
            return ()
        reached = [s for s in self._steps(steps, decided) if not _misses(s, decided[s.name])]
        if not reached:
            has_entries = bool(self.recipe.entries or self.recipe.rules)
            why = (
                "no entry matches" if has_entries else "--scheme takes precedence over its default bits and group_size"
            )
            return (f"{NEXT_TO} decides no weight of this output: {why}",)
        schemes = Counter(decided[s.name].scheme for s in reached)
        listed = ", ".join(f"{count} {scheme}" for scheme, count in sorted(schemes.items()))
        return (f"{NEXT_TO} decides {len(reached)} of {len(steps)} weights: {listed}",)

    @staticmethod
    def _steps(steps: Sequence[Step], decided: Mapping[str, Decision]) -> list[Step]:
        return [s for s in steps if s.name in decided and decided[s.name].origin is Origin.SOURCE]


def _counted(count: int, first: str) -> str:
    return first if count == 1 else f"{count} weights (first: {first})"


def _misses(step: Step, decision: Decision) -> bool:
    return decision.scheme not in ("dense", step.scheme.name)


def read(source: Checkpoint, request: Request, common: Decision | None, target: Target) -> SettingsFile:
    """Read the file next to a dense model. common: the scheme for the whole model.

    Raises `BadInput` for a damaged file that would be applied.
    """
    if source.kind != "hf" or source.beside is None or not source.beside.is_file():
        return SettingsFile()
    if request.recipe is not None and request.recipe.exists() and request.recipe.samefile(source.beside):
        return SettingsFile()  # it is read as the recipe
    quantizes = common is not None and common.scheme not in (*WORDS, *DENSE_DTYPES)
    try:
        block = block_of(read_json(LocalFolder(source.root), FILE))
        settings = parse_beside(block)
    except BadInput as error:
        if quantizes:
            raise
        return SettingsFile(idle=str(error), is_folder=target.is_folder)
    if settings is None:
        return SettingsFile(idle=_whose(block), is_folder=target.is_folder)
    if quantizes:
        return SettingsFile(replace(settings.recipe(), origin=Origin.SOURCE), follows_mlx_lm=target.follows_mlx_lm)
    idle = f"--recipe {source.beside} applies all of it, --scheme NAME only its entries for single weights"
    if not target.follows_mlx_lm:
        idle = "its settings are for MLX and apply only to MLX folders"
    return SettingsFile(idle=idle, is_folder=target.is_folder)


def _whose(block: Mapping[str, object]) -> str:
    method = block.get("quant_method")
    if method is not None:
        return f"its quant_method {shown(method)} belongs to another quantizer"
    return "it has no settings of MLX, mlx-native or hf2q"
