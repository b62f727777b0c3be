"""bitsandbytes in a Hugging Face folder: what the tensors of its 4-bit weights are called.

    X.weight   X.weight.absmax   ...   X.weight.quant_state.bitsandbytes__nf4

Source: bitsandbytes 0.50 (functional.py: QuantState.as_dict).
"""

from __future__ import annotations

#: What stands behind the module's name, before the kind of codes.
STATE = ".weight.quant_state.bitsandbytes__"
#: Part -> what stands behind the module's name, the state aside.
SUFFIXES = {
    "weight": ".weight", "absmax": ".weight.absmax", "quant_map": ".weight.quant_map",
    "nested_absmax": ".weight.nested_absmax", "nested_quant_map": ".weight.nested_quant_map",
}  # fmt: skip
