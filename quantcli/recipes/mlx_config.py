"""The `quantization` block of an MLX folder's config.json (mirrored in `quantization_config`).

    "quantization": {"group_size": 64, "bits": 4, "mode": "affine",
                     "model.embed_tokens": {"group_size": 64, "bits": 6},     this module; the default mode is affine
                     "model.layers.0.mlp.gate": false,                        dense
                     "lm_head": true}                                         the default

It describes how the modules of a folder are stored; `lenient` reads the same block as a recipe. null, which mlx-lm
writes for a mixture without a group size, means the mode's default. Sources: mlx-lm (utils.load_model), mlx
(nn.quantize); mlx-native for the order in which a name is looked up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from quantcli.containers.hostile import check_name, shown
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput
from quantcli.recipes.base import MAX_PATTERN, WILDCARDS, Decision, Origin, Recipe, Rule, Subject, Way
from quantcli.recipes.names import MODES, mlx_formats, mlx_scheme
from quantcli.recipes.quantizers import is_auto_round_mlx, is_ours, leftovers, whose

#: The block's settings for all modules.
SETTINGS = ("group_size", "bits", "mode")

#: Keys of the block that never name a module.
RESERVED = frozenset({"group_size", "bits", "mode", "quant_method", "linear_class", "quantization_mode"})

#: Further keys of a module's object: mlx-lm's flag for NVFP4 experts, MLX's flag for layers that quantize their input.
MARKS = ("global_scale", "quantize_input")

#: The output matrix, which a tied model does not store although a converter may list it.
HEAD = "lm_head"

#: The most keys that one message names.
MOST_NAMED = 8

_PREFIX = "language_model."
#: Prefixes of a text model's names within a larger model, of Hugging Face and of MLX; both have the same length.
_NESTED = {"language_model.model.": "model.language_model.", "model.language_model.": "language_model.model."}
_SUFFIXES = (".weight", ".scales", ".biases")


@dataclass(frozen=True)
class MlxParams:
    """How one module is stored. group_size: above 0."""

    bits: int
    group_size: int
    mode: str = "affine"
    global_scale: bool = False

    def __str__(self) -> str:
        return f"{self.mode} with {self.bits} bits in groups of {self.group_size}"

    @property
    def scheme(self) -> str:
        """The scheme's name; the parameters must be a format of MLX."""
        name = mlx_scheme(self.bits, self.group_size, self.mode)
        assert name is not None, self
        return name


@dataclass(frozen=True)
class MlxQuantization:
    """A file's settings, checked. default: None for dense. modules: path or glob -> params, False for dense.

    components: the same for ends of paths (`v_proj`). default_key: the key of the default, for reasons. stated: whether
    the file gives a default. malformed: those of the warnings that concern keys without a module.
    """

    label: str
    default: MlxParams | None
    modules: Mapping[str, MlxParams | bool]
    warnings: tuple[str, ...] = ()
    components: Mapping[str, MlxParams | bool] = field(default_factory=dict)
    default_key: str = "quantization"
    stated: bool = True
    malformed: tuple[str, ...] = ()

    @cached_property
    def _recipe(self) -> Recipe:
        default = Decision(_scheme(self.default or False), f"{self.label}: {self.default_key}", Origin.GLOBAL)
        return recipe_of(self.label, default, self.modules, self.components, self.warnings)

    def lookup(self, module: str) -> MlxParams | bool | None:
        """Return the parameters of a module, False for dense, None if the block does not list it."""
        rule = self._recipe.rule(Subject(f"{module}.weight"))
        if rule is None:
            return None
        return (self.components if rule.way is Way.END else self.modules)[rule.pattern]

    def recipe(self) -> Recipe:
        """Return the settings as a recipe for another model."""
        return self._recipe


def parse(config: Mapping[str, Any], label: str, tensors: Collection[str] | None = None) -> MlxQuantization | None:
    """Parse the block in config.json's object; None if it has none. label: the file's name. Raises `BadInput`.

    tensors: the names in the checkpoint. A warning names keys that match no module, whatever their values; without
    tensors, every key counts as a module's. A lone `quantization_config` with another `quant_method` is ignored.
    """
    stated = block_of(config, label)
    return _block(*stated, label, tensors) if stated else None


def block_of(config: Mapping[str, Any], label: str) -> tuple[str, Mapping[str, Any], tuple[str, ...]] | None:
    """Return the key of config.json's block, the block unchanged, and warnings; None if it has none."""
    key = "quantization" if config.get("quantization") is not None else "quantization_config"
    block, mirror = config.get(key), config.get("quantization_config")
    for name, value in ((key, block), ("quantization_config", mirror)):
        if value is not None and not isinstance(value, Mapping):
            raise Reader(config, label).refuse(name, "expected an object with group_size and bits")
    if block is None or (key == "quantization_config" and "quant_method" in block and not is_ours(block)):
        return None
    if key == "quantization_config" and is_auto_round_mlx(block):
        block = {name: block[name] for name in SETTINGS if name in block}
    return key, block, _superseded(config, block, label) if key == "quantization" else ()


def _superseded(config: Mapping[str, Any], block: Mapping[str, Any], label: str) -> tuple[str, ...]:
    """Return warnings about other settings in config.json, which `quantization` supersedes."""
    stale, differing = [], []
    for key, other in leftovers(config):
        if not isinstance(other, Mapping) or not is_ours(other):
            stale.append(f"{key} ({whose(other)})")
        elif not _repeats(other, block, key):
            differing.append(key)
    warnings = []
    if differing:
        warnings.append(f"{label}: quantization and {' and '.join(differing)} differ. quantization is used.")
    if stale:
        verb = "is" if len(stale) == 1 else "are"
        warnings.append(
            f"{label}: {' and '.join(stale)} {verb} ignored: quantization describes how the weights are stored."
        )
    return tuple(warnings)


def _repeats(other: Mapping[str, Any], block: Mapping[str, Any], key: str) -> bool:
    """Return whether settings repeat the block: the top-level mirror completely, others its settings of all modules."""
    if key == "quantization_config" and not is_auto_round_mlx(other):
        return other == block
    common = [name for name in SETTINGS if name in other]
    return not other or (bool(common) and all(other[name] == block.get(name) for name in common))


def _block(
    key: str, block: Mapping[str, Any], warnings: tuple[str, ...], label: str, tensors: Collection[str] | None
) -> MlxQuantization:
    default = parameters({name: block[name] for name in SETTINGS if name in block}, f"{label}: {key}")
    # `quant_method` shows other tools which quantizer a lone `quantization_config` belongs to.
    read = SETTINGS if key == "quantization" else (*SETTINGS, "quant_method")
    entries = {path: value for path, value in block.items() if path not in RESERVED}
    for path in entries:
        check_key(path, label)
    unmatched = set() if tensors is None else _without_module(entries, tensors)
    modules: dict[str, MlxParams | bool] = {}
    for path, value in entries.items():
        own = _module(value, f"{label}: {key}[{shown(path)}]", is_module=path not in unmatched)
        if own is not None:
            modules[path] = (default or False) if own is True else own
    malformed: tuple[str, ...] = ()
    if tensors is not None:
        odd = [path for path in block if path in unmatched or (path in RESERVED and path not in read)]
        odd = [path for path in odd if path not in modules or not _is_idle(path, modules[path], tensors)]
        malformed = (_ignored(odd, block, f"{label}: {key}"),) if odd else ()
    return MlxQuantization(label, default, modules, (*warnings, *malformed), malformed=malformed)


def _without_module(entries: Iterable[str], tensors: Collection[str]) -> set[str]:
    """Return the keys that match no module and no tensor of a checkpoint."""
    dense = Decision("dense", "", Origin.GLOBAL)
    keys = recipe_of("", dense, dict.fromkeys(entries, False), {}, ())
    modules = {f"{module}.weight" for name in tensors if (module := name.rpartition(".")[0])}
    return set(keys.unmatched([Subject(name) for name in {*tensors, *modules}]))


def _is_idle(path: str, own: MlxParams | bool, tensors: Collection[str]) -> bool:
    """Return whether settings without a module are expected: those of a tied head, and `false` for a path."""
    is_path = "." in path or any(name.startswith(f"{path}.") for name in tensors)
    return path == HEAD or (own is False and is_path)


def _ignored(odd: list[str], block: Mapping[str, Any], where: str) -> str:
    """Return the warning about keys that match no module."""
    if len(odd) == 1:
        return f"{where}: key {shown(odd[0])} ({shown(block[odd[0]])}) matches no module of the model and is ignored."
    named = ", ".join(map(shown, odd[:MOST_NAMED])) + (", ..." if len(odd) > MOST_NAMED else "")
    return f"{where}: {len(odd)} keys match no module of the model and are ignored: {named}."


def check_key(path: str, label: str) -> None:
    """Raise `BadInput` for a module's key that can be neither a name nor a glob."""
    check_name(path, f"{label}: a module's key")
    if len(path) > MAX_PATTERN:
        raise BadInput(f"{label}: key {shown(path)} has {len(path)} characters; the limit is {MAX_PATTERN}.")


def _module(value: object, where: str, *, is_module: bool) -> MlxParams | bool | None:
    """Return the settings in a key's value; None if it names no module and its value is not a module's settings."""
    if isinstance(value, bool):
        return value
    try:
        if not isinstance(value, Mapping):
            raise BadInput(
                f"{where}: expected false, true or an object with group_size and bits, found {shown(value)}."
            )
        return own_parameters(value, where)
    except BadInput:
        if is_module:
            raise
        return None


def own_parameters(value: Mapping[str, Any], where: str) -> MlxParams | bool:
    """Return the parameters in a module's object; False if its group_size is 0. Raises `BadInput`."""
    unknown = next((name for name in value if name not in RESERVED and name not in MARKS), None)
    if unknown is not None:
        raise BadInput(f"{where}: key {shown(unknown)} ({shown(value[unknown])}) is not a setting of a module.")
    return parameters(value, where) or False


def parameters(value: Mapping[str, Any], where: str) -> MlxParams | None:
    """Return the parameters in an object; None if its group_size is 0. Raises `BadInput`.

    The default mode is affine; null means the mode's default, as in mlx.nn.quantize.
    """
    read = Reader(value, where)
    mode = read.text("mode", "affine")
    if mode not in MODES:
        raise read.refuse("mode", f"expected one of {', '.join(MODES)}")
    group_size, bits = (_number(read, name, own) for name, own in zip(("group_size", "bits"), MODES[mode], strict=True))
    marks = {mark: read.flag(mark, False) for mark in MARKS}
    if group_size == 0:
        return None
    if mlx_scheme(bits, group_size, mode) is None:
        numbers = f"bits {shown(bits)} with group_size {shown(group_size)}"
        raise BadInput(f"{where}: {numbers} is not a format of MLX ({mlx_formats(mode)}).")
    return MlxParams(bits, group_size, mode, marks["global_scale"])


def spelled_out(block: object) -> object:
    """Return a block with its nulls replaced by the numbers and modes that they mean; any other value unchanged.

    >>> spelled_out({"group_size": None, "bits": 3, "lm_head": {"bits": None, "group_size": None, "mode": "mxfp8"}})
    {'group_size': 64, 'bits': 3, 'lm_head': {'bits': 8, 'group_size': 32, 'mode': 'mxfp8'}}
    """
    if not isinstance(block, Mapping):
        return block
    mode = "affine" if block.get("mode") is None else block["mode"]
    group_size, bits = MODES.get(mode, (None, None)) if isinstance(mode, str) else (None, None)
    own = {"group_size": group_size, "bits": bits, "mode": mode}
    return {key: own.get(key) if value is None else spelled_out(value) for key, value in block.items()}


def _number(read: Reader, name: str, own: int) -> int:
    """Return a number in an object. own: the mode's number, which null means."""
    number = read.whole(name, own if name in read.values else None)
    if number < 0:
        meaning = " (0 means dense)" if name == "group_size" else ""
        raise read.refuse(name, f"expected a whole number of 0 or more{meaning}")
    return number


def recipe_of(
    label: str, default: Decision, modules: Mapping[str, MlxParams | bool],
    components: Mapping[str, MlxParams | bool], warnings: tuple[str, ...],
) -> Recipe:  # fmt: skip
    """Return settings as a recipe: exact names in the order of `tensor_keys`, then globs in file order, then ends.

    If two ends of paths match, the longer one decides.
    """

    def rule(path: str, own: MlxParams | bool, way: Way) -> Rule:
        return Rule(path, _scheme(own), f"{label}: {path} = {_scheme(own)}", way)

    exact = {path: rule(path, own, Way.EXACT) for path, own in modules.items()}
    globs = [rule(path, own, Way.GLOB) for path, own in modules.items() if WILDCARDS & set(path)]
    ends = [rule(path, components[path], Way.END) for path in sorted(components, key=len, reverse=True)]
    return Recipe(label, (*globs, *ends), default, exact, keys_of, warnings=warnings)


def _scheme(own: MlxParams | bool) -> str:
    return own.scheme if isinstance(own, MlxParams) else "dense"


def keys_of(subject: Subject) -> tuple[str, ...]:
    """Return the `tensor_keys` of a weight's name, then of its names in other folders."""
    names = (subject.name, *subject.others)
    return tuple(dict.fromkeys(key for name in names for key in tensor_keys(name)))


def tensor_keys(name: str) -> tuple[str, ...]:
    """Return the names under which a tensor is looked up, best first.

    They are its name unchanged, without `language_model.` at the start, with it, and with the other prefix of Hugging
    Face and MLX; each with and without `.weight`, `.scales` or `.biases`.

    >>> tensor_keys("lm_head.weight")
    ('lm_head.weight', 'lm_head', 'language_model.lm_head.weight', 'language_model.lm_head')
    """
    bare = next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)
    both = (name, bare)
    without = tuple(spelled.removeprefix(_PREFIX) for spelled in both)
    added = tuple(_PREFIX + spelled for spelled in both)
    other = next((_NESTED[start] for start in _NESTED if name.startswith(start)), "")
    swapped = tuple(other + spelled[len(other) :] for spelled in both) if other else ()
    return tuple(dict.fromkeys(both + without + added + swapped))
