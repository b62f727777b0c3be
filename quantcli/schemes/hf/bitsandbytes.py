"""bitsandbytes in a Hugging Face folder: the names of the tensors of 4-bit weights, and the settings in config.json.

    X.weight   X.weight.absmax   ...   X.weight.quant_state.bitsandbytes__nf4

All modules have one kind of codes; each weight's state has its settings.
Sources: bitsandbytes 0.50 (functional.py: QuantState.as_dict), transformers 5 (utils/quantization_config.py:
BitsAndBytesConfig).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantcli.schemes.base import DoesNotFit
from quantcli.schemes.facts import Modules

#: What stands behind the module's name, before the kind of codes.
STATE = ".weight.quant_state.bitsandbytes__"
#: Part -> what stands behind the module's name, the state aside.
SUFFIXES = {
    "weight": ".weight", "absmax": ".weight.absmax", "quant_map": ".weight.quant_map",
    "nested_absmax": ".weight.nested_absmax", "nested_quant_map": ".weight.nested_quant_map",
}  # fmt: skip
#: The block sizes that bitsandbytes has for NF4 and FP4.
BLOCKS = tuple(1 << power for power in range(5, 13))
TORCH_FLOATS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
#: The module that transformers leaves alone by itself.
LM_HEAD = "lm_head"


def entry(quant: str, double: bool, compute: str | None) -> dict[str, Any]:
    """Return the settings of a kind of codes. compute: the dtype of values, None for float32."""
    return {
        "bnb_4bit_compute_dtype": TORCH_FLOATS[compute or "f32"],
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": quant,
        "bnb_4bit_use_double_quant": double,
    }


def quantization_config(modules: Modules, dense: Sequence[str]) -> dict[str, Any]:
    """Return `quantization_config` as transformers writes it. Raises `DoesNotFit` for several kinds of codes."""
    schemes = [scheme for scheme, _ in modules.values()]
    entries = [scheme.config_entry for scheme in schemes]
    if len({(one["bnb_4bit_quant_type"], one["bnb_4bit_use_double_quant"]) for one in entries}) > 1:
        names = " and ".join(sorted({scheme.name for scheme in schemes}))
        raise DoesNotFit(f"expected one kind of bitsandbytes codes in a folder, found {names}. Choose one of them")
    return {
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        **entries[0],
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": None if list(dense) == [LM_HEAD] else list(dense),
        "llm_int8_threshold": 6.0,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "quant_method": "bitsandbytes",
    }
