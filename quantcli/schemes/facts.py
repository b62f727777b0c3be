"""What a scheme says of its place in files: the names of its tensors, its settings, who reads them.

The arithmetic is that of `Scheme` (base.py). Each fact has one default here; a format that differs says so itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantcli.schemes.base import Scheme

#: The quantized modules of a folder: name -> scheme and shape of the weight.
Modules = Mapping[str, "tuple[Scheme, tuple[int, ...]]"]


class Facts:
    """The facts of a format that targets, `quant schemes` and `inspect` ask for; `Scheme` has them all."""

    family: str = ""

    def tensor_name(self, weight: str, part: str) -> str:
        """What the tensor of a part is called in a folder, unless it is copied under its own name.

        >>> Facts().tensor_name("model.layers.0.mlp.up_proj.weight", "scales")
        'model.layers.0.mlp.up_proj.scales'
        """
        return f"{weight.removesuffix('.weight')}.{part}"

    @property
    def config_entry(self) -> dict[str, Any]:
        """What a folder's config.json says of the modules in this scheme; empty where it says nothing of each."""
        return {}

    def quantization_config(self, modules: Modules, dense: Sequence[str]) -> dict[str, Any]:
        """`quantization_config` of a Hugging Face folder whose quantized modules have layouts of this scheme's family.

        dense: the linears that are not quantized. Empty where readers need no settings. Raises `DoesNotFit` where one
        folder cannot hold them all.
        """
        return {}

    @property
    def can_be_chosen(self) -> bool:
        """Whether users can choose it for weights of a Hugging Face folder, whose settings are then made anew."""
        return False

    @property
    def named_dtype(self) -> str:
        """The float dtype that tells it from others of its name: of its scales, or in which its tool computes."""
        return "f32"

    @property
    def unreadable(self) -> str | None:
        """Why its owner's tool does not read what is written so, as a clause; None where it does."""
        return None

    @property
    def loads_experts(self) -> bool:
        """Whether transformers 5 loads a model's experts from a folder that is written in it.

        Measured on transformers 5.23 with compressed-tensors 0.20 and bitsandbytes 0.50 (tests/peers/test_loading.py).
        """
        return True

    @property
    def shares_global(self) -> bool:
        """Whether it has a global scale that matrices which are fused when a model is loaded have to share."""
        return False
