"""The `quantization` block of an MLX folder's config.json (mirrored in `quantization_config`).

    "quantization": {"group_size": 64, "bits": 4, "mode": "affine",
                     "model.embed_tokens": {"group_size": 64, "bits": 6},     its own; mode is affine unless said
                     "model.layers.0.mlp.gate": false,                        stays dense
                     "lm_head": true}                                         as the default

It says how the modules of a folder are stored; `lenient` reads the same words as a recipe. A null, which mlx-lm writes
where a recipe was asked for without a group size, is the mode's default. Sources: mlx-lm (utils.load_model), mlx
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

#: What the block says of all modules.
SETTINGS = ("group_size", "bits", "mode")

#: Words of the block that never name a layer.
RESERVED = frozenset({"group_size", "bits", "mode", "quant_method", "linear_class", "quantization_mode"})

#: What a module's own object may say beside bits, group_size and mode: mlx-lm's mark on NVFP4 expert layers, and MLX's
#: on layers that quantize their input.
MARKS = ("global_scale", "quantize_input")

#: The output matrix, which a tied model does not store although a converter may list it.
HEAD = "lm_head"

#: So many keys are named in one message.
MOST_NAMED = 8

_PREFIX = "language_model."
#: How Hugging Face and MLX each begin the names of a text model within a larger one; both are of one length.
_NESTED = {"language_model.model.": "model.language_model.", "model.language_model.": "language_model.model."}
_SUFFIXES = (".weight", ".scales", ".biases")


@dataclass(frozen=True)
class MlxParams:
    """How one module is stored; `group_size` is above 0."""

    bits: int
    group_size: int
    mode: str = "affine"
    global_scale: bool = False

    def __str__(self) -> str:
        return f"{self.mode} with {self.bits} bits in groups of {self.group_size}"

    @property
    def scheme(self) -> str:
        """The scheme's name, of parameters that MLX has."""
        name = mlx_scheme(self.bits, self.group_size, self.mode)
        assert name is not None, self
        return name


@dataclass(frozen=True)
class MlxQuantization:
    """A file's settings, checked. default: None where it is dense. modules: path or glob -> params, False: dense.

    components: the same for ends of paths (`v_proj`). said: what the file calls its default. stated: it gives one.
    malformed: those of the warnings that name keys without a module.
    """

    label: str
    default: MlxParams | None
    modules: Mapping[str, MlxParams | bool]
    warnings: tuple[str, ...] = ()
    components: Mapping[str, MlxParams | bool] = field(default_factory=dict)
    said: str = "quantization"
    stated: bool = True
    malformed: tuple[str, ...] = ()

    @cached_property
    def _recipe(self) -> Recipe:
        default = Decision(_scheme(self.default or False), f"{self.label}: {self.said}", Origin.GLOBAL)
        return recipe_of(self.label, default, self.modules, self.components, self.warnings)

    def lookup(self, module: str) -> MlxParams | bool | None:
        """Parameters of a module that the block lists, False where it says dense, None if it does not list it."""
        rule = self._recipe.rule(Subject(f"{module}.weight"))
        if rule is None:
            return None
        return (self.components if rule.way is Way.END else self.modules)[rule.pattern]

    def recipe(self) -> Recipe:
        """The same choices for another model."""
        return self._recipe


def parse(config: Mapping[str, Any], label: str, tensors: Collection[str] | None = None) -> MlxQuantization | None:
    """The block of a config.json's object, None where it has none; `label` names the file. Raises `BadInput`.

    tensors: the names in the checkpoint. A key that names no module of it is a warning, whatever its value; without
    them every key is taken for a module's. A lone `quantization_config` with another quantizer's `quant_method` is
    that quantizer's.
    """
    found = block_of(config, label)
    return _block(*found, label, tensors) if found else None


def block_of(config: Mapping[str, Any], label: str) -> tuple[str, Mapping[str, Any], tuple[str, ...]] | None:
    """The key of a config.json's block, the block as it stands, and warnings; None where it has none."""
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
    """Warnings of other settings in config.json that `quantization` takes the place of."""
    stale, differing = [], []
    for key, other in leftovers(config):
        if not isinstance(other, Mapping) or not is_ours(other):
            stale.append(f"{key} ({whose(other)})")
        elif not _repeats(other, block, key):
            differing.append(key)
    found = []
    if differing:
        found.append(f"{label}: quantization and {' and '.join(differing)} differ: quantization is taken.")
    if stale:
        verb = "does" if len(stale) == 1 else "do"
        found.append(f"{label}: {' and '.join(stale)} {verb} not count: quantization says how the weights are stored.")
    return tuple(found)


def _repeats(other: Mapping[str, Any], block: Mapping[str, Any], key: str) -> bool:
    """Whether settings say what the block says: the top-level mirror all of it, others the same of all modules."""
    if key == "quantization_config" and not is_auto_round_mlx(other):
        return other == block
    common = [name for name in SETTINGS if name in other]
    return not other or (bool(common) and all(other[name] == block.get(name) for name in common))


def _block(
    key: str, block: Mapping[str, Any], warnings: tuple[str, ...], label: str, tensors: Collection[str] | None
) -> MlxQuantization:
    default = parameters({name: block[name] for name in SETTINGS if name in block}, f"{label}: {key}")
    # `quant_method` is how others know whose a lone `quantization_config` is.
    read = SETTINGS if key == "quantization" else (*SETTINGS, "quant_method")
    entries = {path: value for path, value in block.items() if path not in RESERVED}
    for path in entries:
        check_key(path, label)
    strange = set() if tensors is None else _without_module(entries, tensors)
    modules: dict[str, MlxParams | bool] = {}
    for path, value in entries.items():
        own = _module(value, f"{label}: {key}[{shown(path)}]", is_module=path not in strange)
        if own is not None:
            modules[path] = (default or False) if own is True else own
    malformed: tuple[str, ...] = ()
    if tensors is not None:
        odd = [path for path in block if path in strange or (path in RESERVED and path not in read)]
        odd = [path for path in odd if path not in modules or not _is_idle(path, modules[path], tensors)]
        malformed = (_ignored(odd, block, f"{label}: {key}"),) if odd else ()
    return MlxQuantization(label, default, modules, (*warnings, *malformed), malformed=malformed)


def _without_module(entries: Iterable[str], tensors: Collection[str]) -> set[str]:
    """The keys that no module of a checkpoint, and no tensor, is looked up under."""
    dense = Decision("dense", "", Origin.GLOBAL)
    keys = recipe_of("", dense, dict.fromkeys(entries, False), {}, ())
    modules = {f"{module}.weight" for name in tensors if (module := name.rpartition(".")[0])}
    return set(keys.unmatched([Subject(name) for name in {*tensors, *modules}]))


def _is_idle(path: str, own: MlxParams | bool, tensors: Collection[str]) -> bool:
    """Whether settings without a module lack nothing: of a tied head, or paths of modules, none stored, as dense."""
    is_path = "." in path or any(name.startswith(f"{path}.") for name in tensors)
    return path == HEAD or (own is False and is_path)


def _ignored(odd: list[str], block: Mapping[str, Any], where: str) -> str:
    """The warning of keys that name no module."""
    if len(odd) == 1:
        return f"{where} has {shown(odd[0])}: {shown(block[odd[0]])}, which names no module of the model: ignored."
    named = ", ".join(map(shown, odd[:MOST_NAMED])) + (", ..." if len(odd) > MOST_NAMED else "")
    return f"{where} has {len(odd)} keys that name no module of the model: {named}: ignored."


def check_key(path: str, label: str) -> None:
    """Refuse a module's key that can be neither a name nor a glob. Raises `BadInput`."""
    check_name(path, f"{label}: a module's key")
    if len(path) > MAX_PATTERN:
        raise BadInput(f"{label}: {shown(path)} has {len(path)} characters: at most {MAX_PATTERN} make a name.")


def _module(value: object, where: str, *, is_module: bool) -> MlxParams | bool | None:
    """What a key's value says of its module. None: it is no module's, and its value no settings of one."""
    if isinstance(value, bool):
        return value
    try:
        if not isinstance(value, Mapping):
            raise BadInput(f"{where} is {shown(value)}: expected false, true or an object with group_size and bits.")
        return own_parameters(value, where)
    except BadInput:
        if is_module:
            raise
        return None


def own_parameters(value: Mapping[str, Any], where: str) -> MlxParams | bool:
    """A module's own object: its parameters, False where its group_size is 0. Raises `BadInput`."""
    strange = next((name for name in value if name not in RESERVED and name not in MARKS), None)
    if strange is not None:
        raise BadInput(f"{where} has {shown(strange)}: {shown(value[strange])}, which is no setting of a module.")
    return parameters(value, where) or False


def parameters(value: Mapping[str, Any], where: str) -> MlxParams | None:
    """`group_size`, `bits`, `mode` (affine by default) of an object, None where group_size is 0. Raises `BadInput`.

    A null is the mode's default, as in mlx.nn.quantize.
    """
    read = Reader(value, where)
    mode = read.text("mode", "affine")
    if mode not in MODES:
        raise read.refuse("mode", f"expected one of {', '.join(MODES)}")
    group_size, bits = (_number(read, name, own) for name, own in zip(("group_size", "bits"), MODES[mode], strict=True))
    marks = {mark: read.flag(mark, False) for mark in MARKS}
    if group_size == 0:
        return None
    found = MlxParams(bits, group_size, mode, marks["global_scale"])
    if mlx_scheme(bits, group_size, mode) is None:
        numbers = f"bits is {shown(bits)} and group_size {shown(group_size)}"
        raise BadInput(f"{where}: {numbers}: no format of MLX ({mlx_formats(mode)}).")
    return found


def spelled_out(block: object) -> object:
    """A block whose nulls are the numbers and modes that they stand for; anything else as it is.

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
    """A number of an object; own: the mode's, which null stands for."""
    number = read.whole(name, own if name in read.values else None)
    if number < 0:
        said = "0 stands for dense" if name == "group_size" else "the bits of a value"
        raise read.refuse(name, f"expected a whole number from 0 ({said})")
    return number


def recipe_of(
    label: str, default: Decision, modules: Mapping[str, MlxParams | bool],
    components: Mapping[str, MlxParams | bool], warnings: tuple[str, ...],
) -> Recipe:  # fmt: skip
    """Modules as a recipe: exact names in the order of `tensor_keys`, then globs in file order, then ends of paths.

    Of two ends that both match, the longer one decides.
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
    """`tensor_keys` of a weight's name, then of its names in other folders."""
    names = (subject.name, *subject.others)
    return tuple(dict.fromkeys(key for name in names for key in tensor_keys(name)))


def tensor_keys(name: str) -> tuple[str, ...]:
    """The spellings under which a tensor is looked up, best first: as it is, without a leading `language_model.`, with
    one added, with the prefix that Hugging Face or MLX has for it; each with and without `.weight`, `.scales` or
    `.biases`.

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
