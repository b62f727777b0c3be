"""Which linears the settings of GPTQ's tools and AutoRound call quantized: those of some blocks, or of all.

Sources: optimum (gptq/quantizer.py), AutoGPTQ (inside_layer_modules), AutoRound 0.16 (inference/convert_model.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from quantcli.containers.json_text import Reader
from quantcli.models.base import NUMBER
from quantcli.recipes.mlx_config import HEAD

#: Blocks, as the names of their modules begin, and linears in them, as these names end.
BLOCKS = ("block_name_to_quantize", "to_quant_block_names")
INSIDE = ("modules_in_block_to_quantize", "inside_layer_modules")


def chosen_linears(keys: Reader, packed: Iterable[str]) -> Callable[[str, bool], bool]:
    """What `left_dense` asks: whether the settings call a module quantized. packed: modules that are.

    Where no packed module is in a block of that name, blocks are those of packed modules: names of blocks are those of
    the tool's transformers. Raises `BadInput` for values that are no names.
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
    """Names in a text, separated by commas, or in lists of texts; raises `BadInput` for anything else."""
    if isinstance(value, str):
        yield from filter(None, (name.strip() for name in value.split(",")))
    elif isinstance(value, list):
        for item in value:
            if not isinstance(item, (str, list)):
                raise keys.refuse(key, "expected names of modules")
            yield from (name for one in (item if isinstance(item, list) else [item]) for name in _names(keys, key, one))
    elif value is not None:
        raise keys.refuse(key, "expected names of modules")
