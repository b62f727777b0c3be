"""The device that computes a step: `--device`.

              encoding on a GPU                           decoding on a GPU
    cpu       never                                       never
    auto      schemes whose reference is `mx.quantize`,   schemes whose bytes a test on a GPU has compared
              which runs there in mlx-lm                  (`Scheme.gpu_bytes_equal`)
    gpu       every scheme in MLX arrays                  every scheme in MLX arrays

So `auto` gives the bytes that a format's reference tool gives: the tools of GGML's and Hugging Face's formats run on
the CPU. Copies, casts and repacks only move bytes and codes, which is always done on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quantcli.arrays import Device, has_gpu
from quantcli.errors import Surroundings
from quantcli.schemes.base import Scheme


@dataclass(frozen=True)
class Devices:
    """Where a step's source is decoded, and where its values are encoded."""

    decoding: Device = Device.CPU
    encoding: Device = Device.CPU

    @property
    def made_on(self) -> Device:
        """The GPU if it computes any part of the step."""
        return Device.MLX if Device.MLX in (self.decoding, self.encoding) else Device.CPU


#: Everything on the CPU.
ON_CPU = Devices()


@dataclass(frozen=True)
class _Choice:
    """Which schemes, of those in MLX arrays, a GPU decodes and encodes."""

    decodes: Callable[[Scheme], bool]
    encodes: Callable[[Scheme], bool]


#: The words of `--device`.
CHOICES = {
    "cpu": _Choice(decodes=lambda scheme: False, encodes=lambda scheme: False),
    "auto": _Choice(decodes=lambda scheme: scheme.gpu_bytes_equal, encodes=lambda scheme: scheme.encodes_as_mlx),
    "gpu": _Choice(decodes=lambda scheme: True, encodes=lambda scheme: True),
}


def available(word: str) -> str:
    """Return what a word of `--device` means on this machine: without a GPU, `auto` is `cpu`. Raises `Surroundings`."""
    if word == "cpu" or has_gpu():
        return word
    if word == "gpu":
        raise Surroundings("--device gpu: MLX finds no GPU on this machine. Use --device cpu.")
    return "cpu"


def chosen(word: str, source: Scheme, target: Scheme) -> Devices:
    """Return the devices of a step that computes values. word: of CHOICES; unless it is `cpu`, there is a GPU."""
    choice = CHOICES[word]
    return Devices(
        decoding=Device.MLX if source.in_arrays and choice.decodes(source) else Device.CPU,
        encoding=Device.MLX if target.in_arrays and choice.encodes(target) else Device.CPU,
    )
