"""The `quantization_config.json` next to a dense model: what it decides in a conversion, and what is said of it.

Its entries rank below --override and --recipe and above --scheme; its own bits and group_size rank below --scheme, so
that they only complete its entries. It counts where a quantizing scheme is asked for; entries in MLX's terms count for
MLX folders, those that leave a weight dense for every output.
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
class Beside:
    """The file as it counts for one conversion. recipe: its entries, None where they do not count.

    follows_mlx_lm: all entries count, else only those that leave a weight dense. is_folder: the output is one, which
    has the file if it is dense. idle: why it does not count, as a clause.
    """

    recipe: Recipe | None = None
    idle: str | None = None
    follows_mlx_lm: bool = True
    is_folder: bool = True

    def entry(self, subject: Subject) -> Decision | None:
        """What it decides of a weight: a layer."""
        found = self.recipe.entry(subject) if self.recipe is not None else None
        return found if found is not None and (self.follows_mlx_lm or found.scheme == "dense") else None

    def warnings(self, subjects: Sequence[Subject]) -> list[str]:
        """What of it cannot count for these weights."""
        if self.recipe is None:
            return []
        found = [*self.recipe.warnings, *unmatched(self.recipe, subjects)]
        foreign = [s.name for s in subjects if self.recipe.entry(s) is not None and self.entry(s) is None]
        if foreign:
            found.append(
                f"{FILE}: its settings of {len(foreign)} weights, {foreign[0]} the first, are MLX's and count for MLX "
                "folders only."
            )
        return found

    def unreached(self, steps: Sequence[Step], decided: Mapping[str, Decision]) -> list[str]:
        """A warning of weights that cannot have what it says, where no fallback tells so already."""
        missed = [s for s in self._steps(steps, decided) if _misses(s, decided[s.name]) and s.wanted is None]
        if not missed:
            return []
        first = f"{missed[0].name} ({missed[0].reason})"
        count = f"{len(missed)} weights, {first} the first" if len(missed) > 1 else first
        return [f"{FILE}: its settings do not reach {count}."]

    def said(self, steps: Sequence[Step], decided: Mapping[str, Decision]) -> tuple[str, ...]:
        """The lines of a summary."""
        if self.idle is not None:
            is_copied = self.is_folder and all(isinstance(s.scheme, Dense) for s in steps)
            return (f"{NEXT_TO} is {'copied and ' if is_copied else ''}not applied: {self.idle}",)
        if self.recipe is None:
            return ()
        reached = [s for s in self._steps(steps, decided) if not _misses(s, decided[s.name])]
        if not reached:
            has_entries = bool(self.recipe.entries or self.recipe.rules)
            why = " of this output" if has_entries else ": its own bits and group_size rank below --scheme"
            return (f"{NEXT_TO} decides no weight{why}",)
        schemes = Counter(decided[s.name].scheme for s in reached)
        listed = ", ".join(f"{count} {scheme}" for scheme, count in sorted(schemes.items()))
        return (f"{NEXT_TO} decides {len(reached)} of {len(steps)} weights: {listed}",)

    @staticmethod
    def _steps(steps: Sequence[Step], decided: Mapping[str, Decision]) -> list[Step]:
        return [s for s in steps if s.name in decided and decided[s.name].origin is Origin.SOURCE]


def _misses(step: Step, decision: Decision) -> bool:
    return decision.scheme not in ("dense", step.scheme.name)


def read(source: Checkpoint, request: Request, common: Decision | None, target: Target) -> Beside:
    """The file of a dense folder. common: the scheme for the whole model. Raises `BadInput` where it counts."""
    if source.kind != "hf" or source.beside is None or not source.beside.is_file():
        return Beside()
    if request.recipe is not None and request.recipe.exists() and request.recipe.samefile(source.beside):
        return Beside()  # it is read as the recipe
    quantizes = common is not None and common.scheme not in (*WORDS, *DENSE_DTYPES)
    try:
        block = block_of(read_json(LocalFolder(source.root), FILE))
        settings = parse_beside(block)
    except BadInput as error:
        if quantizes:
            raise
        return Beside(idle=str(error), is_folder=target.is_folder)
    if settings is None:
        return Beside(idle=_whose(block), is_folder=target.is_folder)
    if quantizes:
        return Beside(replace(settings.recipe(), origin=Origin.SOURCE), follows_mlx_lm=target.follows_mlx_lm)
    idle = f"--recipe {source.beside} applies it, --scheme NAME its entries"
    if not target.follows_mlx_lm:
        idle = "its settings are MLX's and count for an MLX folder as OUTPUT"
    return Beside(idle=idle, is_folder=target.is_folder)


def _whose(block: Mapping[str, object]) -> str:
    method = block.get("quant_method")
    if method is not None:
        return f"its quant_method {shown(method)} is another quantizer's"
    return "it does not hold settings of MLX, mlx-native or hf2q"
