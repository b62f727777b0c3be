"""Which linear layers are quantized according to GPTQ's tools and AutoRound: those of some blocks, or all.

Sources: optimum (gptq/quantizer.py), AutoGPTQ (inside_layer_modules), AutoRound 0.16 (inference/convert_model.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from quantcli.containers.json_text import Reader
from quantcli.models.base import NUMBER
from quantcli.recipes.mlx_config import HEAD

#: Keys that list blocks (starts of modules' names), and linear layers in them (ends of modules' names).
BLOCKS = ("block_name_to_quantize", "to_quant_block_names")
INSIDE = ("modules_in_block_to_quantize", "inside_layer_modules")


def chosen_linears(keys: Reader, packed: Iterable[str]) -> Callable[[str, bool], bool]:
    """Return the function that `dense_warnings` calls: whether a module is quantized according to the settings.

    packed: the modules that are stored quantized. If none of them is in a listed block, their own blocks are used: the
    tool's version of transformers may name blocks differently. Raises `BadInput` for values that are not names.
    """
    blocks = [name for key in BLOCKS for name in _names(keys, key, keys.values.get(key))]
    inside = [name for key in INSIDE for name in _names(keys, key, keys.values.get(key))]
    has_head = keys.flag("quant_lm_head", False)
    if blocks and not any(_is_below(module, blocks) for module in packed):
        blocks = sorted({NUMBER.split(f"{module}.", maxsplit=1)[0].rstrip(".") for module in packed})

    def is_chosen(module: str, linear: bool) -> bool:
        if module.endswith(HEAD):
            return has_head
        is_inside = not inside or any(module.endswith(f".{name}") for name in inside)
        return linear and is_inside and (not blocks or _is_below(module, blocks))

    return is_chosen


def _is_below(module: str, blocks: Iterable[str]) -> bool:
    return any(module.startswith(f"{block}.") or f".{block}." in module for block in blocks)


def _names(keys: Reader, key: str, value: object) -> Iterator[str]:
    """Yield the names in a string, separated by commas, or in nested lists of strings. Raises `BadInput`."""
    if isinstance(value, str):
        yield from filter(None, (name.strip() for name in value.split(",")))
    elif isinstance(value, list):
        for item in value:
            if not isinstance(item, (str, list)):
                raise keys.refuse(key, "expected a string or list of module names")
            yield from (name for one in (item if isinstance(item, list) else [item]) for name in _names(keys, key, one))
    elif value is not None:
        raise keys.refuse(key, "expected a string or list of module names")
