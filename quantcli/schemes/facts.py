"""What a scheme says of itself: what may become of its weights, how they stand in files, who reads them.

The arithmetic is that of `Scheme` (base.py), and so is what follows from a grid. Each fact has one default here; a
format that differs says so itself.
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
    #: Whether every value is a number by itself, with no scale: such a weight is dense in outputs without that dtype.
    is_elementwise = False
    #: Whether each weight says by itself how it is stored, so that nothing else says which weights are not.
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
        """Whether it is what many models are released in only: to round it is what quantizing a dense weight is."""
        return False

    @property
    def undecoded(self) -> str | None:
        """Why `decode` gives no values, as a clause: weights are then compared byte by byte. None where it does."""
        return None

    @property
    def uncopied(self) -> str | None:
        """Why not even the stored parts can be copied, and what helps, as a clause; None where they can be."""
        return None

    @property
    def refusal(self) -> str | None:
        """Why no output is made of a weight that is stored so, as a clause; None where one is."""
        return None

    @property
    def rounds_inputs(self) -> bool:
        """Whether kernels for it may round a product's inputs to four bits too, unless the file says otherwise."""
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
        """The dtype of scales where users choose it (`--scale-dtype`); None where the format fixes it."""
        return None

    @property
    def readers(self) -> tuple[str, ...]:
        """The programs that read layouts of its family."""
        return READERS[self.family]

    @property
    def stored_block(self) -> tuple[int, int] | None:
        """Values and bytes of the blocks that rows are stored in; None where they are stored in arrays."""
        return None

    @property
    def scales_dtype(self) -> str | None:
        """The dtype of the stored scales where layouts of this family have several; None where the format fixes it."""
        return None

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
    def ignores_by_name(self) -> bool:
        """Whether its readers leave alone what `quantization_config` names, whole and as transformers' class has it."""
        return self.family == "ct"

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

    @property
    def unknown_type(self) -> tuple[int, int] | None:
        """The number of a GGML type that has no name here, and the bytes that are stored; None for all others."""
        return None
