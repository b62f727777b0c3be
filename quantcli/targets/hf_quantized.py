"""Quantized weights in a Hugging Face folder: which may be, their settings, and who cannot read them.

One folder has the layout of one quantizer, which the schemes describe themselves (schemes/hf).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from quantcli.dtypes import DENSE_DTYPES
from quantcli.errors import NotPossible
from quantcli.models.towers import is_tower
from quantcli.schemes.base import DoesNotFit
from quantcli.schemes.dense import Dense
from quantcli.schemes.hf import named
from quantcli.schemes.hf.bitsandbytes import LM_HEAD
from quantcli.targets.base import Placed

#: The last name of a layer's matrix that is no linear, or one that its tools leave alone.
_OTHERS = re.compile("norm|embed|^(wte|wpe|gate|router|conv1d|shared_expert_gate)$")
EXPERT = re.compile(r".*\.experts\.\d+\..*")
#: Routers that are linears in transformers' class, too, and what it calls them.
_RENAMED = ((".block_sparse_moe.gate", ".mlp.router"),)
_LAYER = re.compile(r"\.\d+\.")


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor is the matrix of a module other than an embedding."""
    return len(shape) == 2 and name.endswith(".weight") and "embed" not in name


def stays_dense(name: str, shape: tuple[int, ...]) -> str | None:
    """Return why a weight is not quantized, as a clause; None for linear modules of layers, which may be."""
    if len(shape) != 2:
        return f"kept dense: a {len(shape)}-D tensor is not quantized"
    if not name.endswith(".weight"):
        return "kept dense: not the .weight of a module"
    module = name.removesuffix(".weight")
    start, _, last = module.rpartition(".")
    if not _LAYER.search(module) or _OTHERS.search(last) or start.endswith(".router"):
        return "kept dense: this layout quantizes only linear modules of layers"
    return None


def settings(placed: Sequence[Placed], root: str) -> dict[str, Any]:
    """Return `quantization_config` for the weights of an output; empty if none is quantized.

    Raises `NotPossible` where they are of several quantizers, or in a layout that is copied and not described anew.
    """
    quantized = [w for w in placed if not isinstance(w.scheme, Dense)]
    if not quantized:
        return {}
    families = {w.scheme.family: w for w in reversed(quantized)}
    if len(families) > 1:
        (one, first), (other, second) = list(families.items())[:2]
        raise NotPossible(
            f"{root}: {first.name} is {first.scheme.name} ({one}), but {second.name} is {second.scheme.name} "
            f"({other}); a folder can have the layout of only one quantizer. Choose schemes of one quantizer, or keep "
            "the others dense (--override NAME=bf16)."
        )
    for weight in quantized:
        _check_own(weight, root)
    dense = sorted(w.name.removesuffix(".weight") for w in placed if _is_dense_linear(w))
    if not any(w.name == f"{LM_HEAD}.weight" for w in quantized):
        dense = [*dense, LM_HEAD]  # also of a model that has none of its own: its readers make one
    try:
        return described(quantized, _as_classes_name_them(dense) if quantized[0].scheme.ignores_by_name else dense)
    except DoesNotFit as reason:
        raise NotPossible(f"{root}: {reason}.") from None


def described(quantized: Sequence[Placed], dense: Sequence[str]) -> dict[str, Any]:
    """Return `quantization_config` for quantized weights in layouts of one family. Raises `DoesNotFit`."""
    modules = {w.name.removesuffix(".weight"): (w.scheme, w.shape) for w in quantized}
    return quantized[0].scheme.quantization_config(modules, dense)


def _as_classes_name_them(modules: Sequence[str]) -> list[str]:
    """Dense modules for readers that compare names with those in the class of transformers, not with the stored ones.

    Towers have other prefixes there, and some other names behind them: each is a regular expression.
    """
    towers = {module: part for module in modules if (part := _tower(module)) is not None}
    expressions = [f"re:(.*[.])?{re.escape(part)}[.].*" for part in dict.fromkeys(towers.values())]
    others = [
        name
        for module in modules
        if module not in towers
        for name in (module, *(module.replace(*pair) for pair in _RENAMED if module.endswith(pair[0])))
    ]
    return [*others, *expressions]


def _tower(module: str) -> str | None:
    """The part of a module's path that is a tower, None in the text model."""
    parts = module.split(".")
    return next((part for i, part in enumerate(parts) if is_tower(".".join(parts[: i + 1]) + ".")), None)


def unreadable(placed: Sequence[Placed]) -> list[str]:
    """Return a warning per reason why the tool of a layout cannot read what is written."""
    found: dict[str, list[Placed]] = {}
    for weight in placed:
        if (reason := weight.scheme.unreadable) is not None:
            found.setdefault(reason, []).append(weight)
    return [
        f"{_names(weights)}: {reason} ({len(weights)} weight{'s' * (len(weights) != 1)})."
        for reason, weights in found.items()
    ]


def unloadable(placed: Sequence[Placed]) -> list[str]:
    """Return a warning for experts in a layout that transformers 5, which stacks experts, does not load."""
    found = [w for w in placed if not w.scheme.loads_experts and EXPERT.fullmatch(w.name)]
    if not found:
        return []
    return [
        f"{_names(found)}: transformers 5 does not load experts in this layout ({len(found)} weights; first: "
        f"{found[0].name}). Choose int4-g128 or fp8-e4m3-channel for experts: it loads these."
    ]


def _names(weights: Sequence[Placed]) -> str:
    return ", ".join(sorted({w.scheme.name for w in weights}))


def _is_dense_linear(weight: Placed) -> bool:
    return (
        isinstance(weight.scheme, Dense) and is_matrix(weight.name, weight.shape) and weight.name != f"{LM_HEAD}.weight"
    )


def _check_own(weight: Placed, root: str) -> None:
    """A weight that is copied beside others that are not has to be as it would be written."""
    scheme = weight.scheme
    dtype = scheme.named_dtype if scheme.named_dtype in DENSE_DTYPES else "bf16"
    own = named(scheme.name, dtype, weight.shape)
    if own is None or own.bare() != scheme.bare():
        raise NotPossible(
            f"{root}: {weight.name} would keep its layout of {scheme.name} ({scheme.family}), which cannot be mixed "
            "with converted weights. Keep all weights, or choose a scheme for all with --allow-requantize."
        )


def changed(placed: Sequence[Placed]) -> bool:
    """Return whether a quantized weight is converted, so that the source's settings do not describe the output."""
    return any(not w.stored and w.scheme.can_be_chosen for w in placed)
