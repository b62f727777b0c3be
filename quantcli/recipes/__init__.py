"""Recipes: which scheme each weight gets, and why. To add a dialect, add a module and a row in `DIALECTS`."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantcli.containers.hostile import opened, shown
from quantcli.containers.json_text import Reader, load_object
from quantcli.errors import BadInput, NotPossible
from quantcli.recipes import hf2q, mlx_config, rules
from quantcli.recipes.base import Recipe
from quantcli.recipes.quantizers import is_ours

#: Far above any real recipe.
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Dialect:
    """A kind of recipe file. description: for errors. recognise: by the top-level object. read: object, label."""

    description: str
    recognise: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], str], Recipe]


def _recognise_quark(data: Mapping[str, Any]) -> bool:
    if isinstance(data.get("quantization"), Mapping):
        return False  # an MLX config.json of a model that was converted from Quark
    block = data.get("quantization_config", data)
    return isinstance(block, Mapping) and (block.get("quant_method") == "quark" or "global_quant_config" in block)


def _refuse_quark(data: Mapping[str, Any], label: str) -> Recipe:
    raise NotPossible(
        f"{label}: Quark configurations are not supported as recipes. Write the same rules in quant's TOML format "
        '(`scheme = "..."` and [[rule]] tables).'
    )


def _recognise_mlx(data: Mapping[str, Any]) -> bool:
    if "quantization" in data:
        return True
    block = data.get("quantization_config")
    foreign = isinstance(block, Mapping) and "quant_method" in block and not is_ours(block)
    return block is not None and not foreign


def _read_mlx(data: Mapping[str, Any], label: str) -> Recipe:
    stated = mlx_config.block_of(data, label)
    if stated is None:
        raise Reader(data, label).refuse("quantization", "expected an object")
    key, block, warnings = stated
    recipe = hf2q.parse(block, label, key).recipe()
    return replace(recipe, warnings=(*warnings, *recipe.warnings))


#: Tried in this order.
DIALECTS = {
    "quark": Dialect("Quark", _recognise_quark, _refuse_quark),
    "mlx": Dialect("an MLX config.json (`quantization` with group_size and bits)", _recognise_mlx, _read_mlx),
    "hf2q": Dialect("an hf2q quantization_config.json (bits, group_size, per_tensor)", hf2q.recognise, hf2q.read),
    "rules": Dialect("quant's rules in TOML or JSON (`scheme`, [[rule]])", rules.recognise, rules.read),
}


def load(path: Path) -> Recipe:
    """Read the recipe in a file; its content shows the dialect. Raises `BadInput`, `NotPossible`, `Surroundings`."""
    if path.is_dir():
        raise BadInput(f"{path}: is a folder. Give a recipe file, such as the config.json in it.")
    with opened(path) as (read, size):
        if size > MAX_BYTES:
            raise BadInput(f"{path}: is {size} bytes; the limit is {MAX_BYTES}.")
        text = read(0, size)
    is_json = text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")  # no TOML begins with a brace
    data = load_object(text, str(path)) if is_json else _toml(text, str(path))
    # An empty TOML file has no rules; `{}` is a file of mlx-native with the default settings.
    dialect = next((one for one in DIALECTS.values() if (data or is_json) and one.recognise(data)), None)
    if dialect is None:
        known = "; ".join(one.description for name, one in DIALECTS.items() if name != "quark")
        raise BadInput(f"{path}: is not a supported recipe. Supported: {known}.")
    return dialect.read(data, str(path))


def _toml(data: bytes, label: str) -> dict[str, Any]:
    """Decode TOML; return its top-level table. Raises `BadInput`."""
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadInput(f"{label}: is not UTF-8 text (byte {error.start}).") from None
    except RecursionError:
        raise BadInput(f"{label}: is TOML that is nested too deeply.") from None
    except ValueError as error:
        raise BadInput(f"{label}: is neither a JSON object nor TOML ({shown(str(error))}).") from None
