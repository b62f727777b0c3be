"""What a scheme says of its place in files: the names of its tensors, its settings, who reads them.

The arithmetic is that of `Scheme` (base.py). Each fact has one default here; a format that differs says so itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantcli.schemes.readers import READERS

if TYPE_CHECKING:
    from quantcli.schemes.base import Grid, Scheme

#: The quantized modules of a folder: name -> scheme and shape of the weight.
Modules = Mapping[str, "tuple[Scheme, tuple[int, ...]]"]


@dataclass(frozen=True)
class GlobalScale:
    """A second scale of a weight, which all of its scales are multiplied with.

    part: the part that holds it. without: the scheme of the weight that lacks it. divides: it divides scales. unit: the
    stored number that leaves scales as they are. each_row: there is an entry for each row.
    """

    part: str
    without: Scheme
    divides: bool = False
    unit: float = 1.0
    each_row: bool = False


class Facts:
    """The facts of a format that targets, `quant schemes` and `inspect` ask for; `Scheme` has them all."""

    family: str = ""

    #: The targets that keep a weight in this layout as it is, by what `--to` calls them.
    kept_in: tuple[str, ...] = ()

    def grid(self) -> Grid | None:
        """The grid that this scheme's codes are on; None where it has none (dense)."""
        return None

    @property
    def readers(self) -> tuple[str, ...]:
        """The programs that read layouts of its family."""
        return READERS[self.family]

    @property
    def code_bits(self) -> int | None:
        """Bits of a code; None where values have no codes of their own."""
        grid = self.grid()
        return None if grid is None else grid.bits

    @property
    def group_size(self) -> int | None:
        """Values of a row that share a scale, all of a row where it has one; None where codes follow no groups."""
        grid = self.grid()
        return None if grid is None else grid.group

    @property
    def shared(self) -> int | None:
        """Values that share a scale, whatever the weight's shape; None where all of a row do, or none."""
        return self.group_size

    @property
    def stored_block(self) -> tuple[int, int] | None:
        """Values and bytes of the blocks that rows are stored in; None where they are stored in arrays."""
        return None

    @property
    def scales_dtype(self) -> str | None:
        """The dtype of the stored scales where layouts of this family have several; None where the format fixes it."""
        return None

    @property
    def possible_scales(self) -> tuple[str, ...]:
        """The dtypes that scales can have; two that are stored together are one, joined by `*`.

        The first is the one that sizes are counted with.
        """
        grid = self.grid()
        return () if grid is None else (grid.scale_dtype,)

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
    def global_scale(self) -> GlobalScale | None:
        """The scale for all of a weight, or of each expert, which GGUF keeps in a tensor of its own; None without."""
        return None

    @property
    def shares_global(self) -> bool:
        """Whether it has a global scale that matrices which are fused when a model is loaded have to share."""
        return False

    #: Whether its tool gives every module a bias, all zeros where the model has none.
    adds_biases = False

    @property
    def unknown_type(self) -> tuple[int, int] | None:
        """The number of a GGML type that has no name here, and the bytes that are stored; None for all others."""
        return None
