"""Whose settings a file's object holds: MLX's and hf2q's own, or another quantizer's that use the same words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: Tables of tensors in hf2q's files, by the key that they stand under.
TABLES = ("per_tensor", "per_layer_bits", "quantization_info", "component_overrides")

#: What hf2q and mlx-native call their methods.
METHODS = re.compile(
    r"(hf2q|mlx|mixed|dwq|dynamic|imatrix|k_quant|apex|passthrough)([-_].*)?|auto|none|b?f16|f32|q[2-8](_.*)?"
)

#: Methods of other quantizers, whatever else their files hold.
OTHERS = frozenset(
    {
        "aqlm", "auto-round", "awq", "bitnet", "bitsandbytes", "compressed-tensors", "eetq", "exl2", "exl3",
        "fbgemm_fp8", "fp8", "gptq", "higgs", "hqq", "modelopt", "mxfp4", "quanto", "quark", "spqr", "torchao", "vptq",
    }
)  # fmt: skip

#: Keys of other quantizers' files that do not name a method.
OTHERS_KEYS = frozenset(
    {"checkpoint_format", "config_groups", "desc_act", "global_quant_config", "q_group_size", "sym"}
)


def is_ours(data: Mapping[str, Any]) -> bool:
    """Whether nothing in the object says that another quantizer wrote it."""
    method = data.get("quant_method")
    has_tables = any(key in data for key in TABLES)
    if method is None:
        return has_tables or not OTHERS_KEYS & data.keys()
    name = method.lower() if isinstance(method, str) else ""
    return METHODS.fullmatch(name) is not None or (has_tables and name not in OTHERS)
