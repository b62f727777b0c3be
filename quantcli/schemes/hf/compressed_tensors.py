"""compressed-tensors in a Hugging Face folder: what its tensors are called.

    X.weight         X.weight_packed       codes: a byte each, or packed
    X.weight_scale   X.weight_zero_point   ...

Source: compressed-tensors 0.20.
"""

from __future__ import annotations

#: Part -> what stands behind the module's name, codes aside.
SUFFIXES = {
    "scales": ".weight_scale", "zeros": ".weight_zero_point", "g_idx": ".weight_g_idx", "shape": ".weight_shape",
    "global": ".weight_global_scale", "input_scale": ".input_scale", "input_zero_point": ".input_zero_point",
    "input_global_scale": ".input_global_scale", "output_scale": ".output_scale",
    "output_zero_point": ".output_zero_point",
}  # fmt: skip
#: Codes that are packed, and those that have a byte each.
PACKED, PLAIN = ".weight_packed", ".weight"
