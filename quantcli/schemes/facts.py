"""The facts of a format: what its weights may become, how files store them, who reads them.

`Scheme` (base.py) has the arithmetic, and what follows from a grid. Each fact has one default here, which a format that
differs overrides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantcli.schemes.readers import READERS

#: The quantized modules of a folder: name -> scheme and shape of the weight.
Modules = Mapping[str, "tuple[Facts, tuple[int, ...]]"]


class Facts:
    """The facts of a format that targets, `quant schemes` and `inspect` ask for; `Scheme` has them all."""

    family: str = ""

    #: Whether `encode` and `pack` are kernels, which need no temporaries of a weight's size.
    in_kernels = True
    #: Whether `encode` and `decode` have a form in MLX arrays, which a GPU can compute; else both are the CPU's.
    in_arrays = False
    #: Whether the reference of `encode` is `mx.quantize`, which runs on a GPU where MLX has one.
    encodes_as_mlx = False
    #: Whether a test on a GPU has shown that `decode` gives the CPU's bytes there; no scheme has passed one yet.
    gpu_bytes_equal = False
    #: Whether `encode` is given the weight's entry of an importance matrix.
    takes_importance = False
    #: Whether every value is a number without a scale: such a weight is dense in outputs without that dtype.
    is_elementwise = False
    #: Whether each weight has its own settings, so that nothing else says which weights are not quantized.
    has_own_state = False
    #: Whether its tool gives every module a bias, all zeros where the model has none.
    adds_biases = False
    #: The targets that keep a weight in this layout as it is, by what `--to` calls them.
    kept_in: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def is_master(self) -> bool:
        """Whether many models are released in it only, so that rounding it is like quantizing a dense weight."""
        return False

    @property
    def undecoded(self) -> str | None:
        """Why `decode` gives no values, as a clause; weights are then compared byte by byte. None if it does."""
        return None

    @property
    def uncopied(self) -> str | None:
        """Why not even the stored parts can be copied, and what helps, without a final full stop; None if they can."""
        return None

    @property
    def refusal(self) -> str | None:
        """Why no output is made from a weight that is stored so, as a clause; None if one is."""
        return None

    @property
    def rounds_inputs(self) -> bool:
        """Whether runtimes may round a product's inputs to four bits too, by default."""
        return False

    @property
    def needs_importance(self) -> bool:
        """Whether its owner refuses to encode without an importance matrix."""
        return False

    @property
    def better_search(self) -> bool:
        """Whether the search `best` finds other encodings than its owner's."""
        return False

    @property
    def chosen_scale_dtype(self) -> str | None:
        """The dtype of scales if users choose it (`--scale-dtype`); None if the format fixes it."""
        return None

    @property
    def readers(self) -> tuple[str, ...]:
        """The programs that read layouts of its family."""
        return READERS[self.family]

    @property
    def stored_block(self) -> tuple[int, int] | None:
        """Values and bytes of the blocks that rows consist of; None if a weight is stored as arrays."""
        return None

    @property
    def scales_dtype(self) -> str | None:
        """The dtype of the stored scales if layouts of this family have several; None if the format fixes it."""
        return None

    def tensor_name(self, weight: str, part: str) -> str:
        """Return the name of a part's tensor in a folder; parts that are copied may keep their names.

        >>> Facts().tensor_name("model.layers.0.mlp.up_proj.weight", "scales")
        'model.layers.0.mlp.up_proj.scales'
        """
        return f"{weight.removesuffix('.weight')}.{part}"

    @property
    def config_entry(self) -> dict[str, Any]:
        """The entry for modules in this scheme in a folder's config.json; empty if there are no such entries."""
        return {}

    def quantization_config(self, modules: Modules, dense: Sequence[str]) -> dict[str, Any]:
        """Return `quantization_config` of a Hugging Face folder whose modules have layouts of this scheme's family.

        dense: the linears that are not quantized. Empty if readers need no settings. Raises `DoesNotFit` if one folder
        cannot hold them all.
        """
        return {}

    @property
    def can_be_chosen(self) -> bool:
        """Whether users can choose it for weights of a Hugging Face folder, whose settings are then written anew."""
        return False

    @property
    def named_dtype(self) -> str:
        """The float dtype that distinguishes schemes of one name: of their scales, or that the tool computes in."""
        return "f32"

    @property
    def unreadable(self) -> str | None:
        """Why its owner's tool does not read what is written so, as a clause; None if it does."""
        return None

    @property
    def ignores_by_name(self) -> bool:
        """Whether its readers leave modules dense by their full names in transformers' class."""
        return self.family == "ct"

    @property
    def loads_experts(self) -> bool:
        """Whether transformers 5 loads a model's experts from a folder that is written in it.

        Measured on transformers 5.23 with compressed-tensors 0.20 and bitsandbytes 0.50 (tests/peers/test_loading.py).
        """
        return True

    @property
    def shares_global(self) -> bool:
        """Whether matrices that runtimes fuse must share its global scale."""
        return False

    @property
    def unknown_type(self) -> tuple[int, int] | None:
        """The number of a GGML type that has no name here, and the bytes that are stored; None for all others."""
        return None
