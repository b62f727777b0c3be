"""gpt-oss's own MXFP4: the experts' matrices, 32 codes of four bits and a power of two for each group.

    blocks   u8 (experts, rows, columns / 32, 16)   byte j of a block: value 2j in the low half, 2j + 1 in the high
    scales   u8 (experts, rows, columns / 32)       E8M0;   value = 2 ** (scale - 127) * E2M1[code]

Rows are outputs and columns inputs, as everywhere else in a checkpoint; transformers' dense tensors of the same name
are the transposes, (experts, columns, rows). Values are exact in bfloat16, in which the tool computes.

Sources: transformers (integrations/mxfp4.py), OCP Microscaling Formats 1.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, Device
from quantcli.schemes.base import Codes, Error, Grade, Grid, Importance, Parts, PartSpec, Scheme
from quantcli.schemes.facts import Modules
from quantcli.schemes.mlx.mx_floats import MODES, MxFloat
from quantcli.schemes.ocp import MX_GROUP

BYTES = MX_GROUP // 2
#: The modules that are dense, as config.json lists them.
DENSE = ("model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head")

#: The same codes and scales in MLX's layout; eight codes make a word there, two a byte here: the bytes are the same.
_MLX = MxFloat("mxfp4")


@dataclass(frozen=True)
class GptOss(Scheme):
    """`mxfp4` in gpt-oss's layout; its values and bytes are those of MLX's, divided otherwise.

    >>> parts = {"blocks": np.arange(16, dtype=np.uint8).reshape(1, 16), "scales": np.array([[128]], np.uint8)}
    >>> GptOss().decode(parts)[0, :8].tolist()
    [0.0, 0.0, 1.0, 0.0, 2.0, 0.0, 3.0, 0.0]
    """

    family = "gpt-oss"
    kept_in = ("hf",)
    in_arrays = True

    @property
    def name(self) -> str:
        return "mxfp4"

    @property
    def codes_part(self) -> str:
        return "blocks"

    @property
    def values_dtype(self) -> str:
        return MODES["mxfp4"].values_dtype

    @property
    def rounding(self) -> float:
        return MODES["mxfp4"].rounding

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        if len(shape) != 3:
            return f"gpt-oss's layout holds stacked experts, not {len(shape)}-D tensors"
        return f"last axis {shape[-1]} is not a multiple of {MX_GROUP}" if shape[-1] % MX_GROUP else None

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        *leading, columns = shape
        groups = columns // MX_GROUP
        return {
            "blocks": PartSpec("u8", (*leading, groups, BYTES), indices=groups),
            "scales": PartSpec("u8", (*leading, groups)),
        }

    def quantization_config(self, modules: Modules, dense: Sequence[str]) -> dict[str, Any]:
        return {"quant_method": "mxfp4", "modules_to_not_convert": list(DENSE)}

    def tensor_name(self, weight: str, part: str) -> str:
        return f"{weight}_{part}"

    def decode(self, parts: Parts, device: Device = Device.CPU) -> NDArray[np.float32]:
        return _MLX.decode(_as_mlx(parts), device)

    def nonfinite(self, part: str, array: Array) -> bool:
        return part == "scales" and _MLX.nonfinite("scales", array)

    def grid(self) -> Grid:
        return _MLX.grid()

    def codes(self, parts: Parts) -> Codes:
        return _MLX.codes(_as_mlx(parts))

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        return self.unfit(shape) or _MLX.fits(grid, shape)

    def pack(self, codes: Codes) -> Parts:
        return _from_mlx(_MLX.pack(codes))

    def encode(
        self,
        values: Array,
        device: Device = Device.CPU,
        importance: Importance | None = None,
        search: str = "ggml",
    ) -> tuple[Parts, Error]:
        parts, error = _MLX.encode(values, device, importance)
        return _from_mlx(parts), error


def _as_mlx(parts: Parts) -> Parts:
    scales = parts["scales"]
    return {"weight": np.ascontiguousarray(parts["blocks"]).reshape(len(scales), -1).view("<u4"), "scales": scales}


def _from_mlx(parts: Parts) -> Parts:
    return {
        "blocks": np.ascontiguousarray(parts["weight"]).view(np.uint8).reshape(-1, BYTES),
        "scales": parts["scales"],
    }
