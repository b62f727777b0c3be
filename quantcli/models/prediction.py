"""Names of layers for multi-token prediction that Hugging Face folders store in a module, as names of further layers.

    mtp.layers.0.self_attn.q_proj.weight     model.layers.48.self_attn.q_proj.weight     in a model with 48 layers
    mtp.fc.weight                            model.layers.48.eh_proj.weight

The tables have the names on the right, under which other families store such layers. In a module `model.mtp.` every
layer has all of its tensors. Source: llama.cpp's conversion (conversion/qwen.py: _QwenMtpMixin, conversion/mimo.py).
"""

from __future__ import annotations

import re

#: Tensors that the module `mtp.` has once: the name in the module -> the name in the first of its layers.
ONCE = {
    "fc.": "eh_proj.",
    "pre_fc_norm_embedding.": "enorm.",
    "pre_fc_norm_hidden.": "hnorm.",
    "norm.": "shared_head.norm.",
}
MODULE = re.compile(r"(?:model\.)?mtp\.")
OF_LAYER = re.compile(r"layers\.(0|[1-9][0-9]{0,8})\.")


def as_layer(name: str, layers: int) -> str:
    """Return the name in a layer for a tensor in the module; any other name unchanged.

    layers: the number of the model's layers without these.

    >>> as_layer("mtp.layers.0.mlp.gate.weight", 48), as_layer("mtp.norm.weight", 48)
    ('model.layers.48.mlp.gate.weight', 'model.layers.48.shared_head.norm.weight')
    """
    module = MODULE.match(name)
    if module is None:
        return name
    rest = name[module.end() :]
    if of_layer := OF_LAYER.match(rest):
        return f"model.layers.{layers + int(of_layer[1])}.{rest[of_layer.end() :]}"
    once = next((there for here, there in ONCE.items() if rest.startswith(here)), None)
    return name if once is None else f"model.layers.{layers}.{once}{rest.partition('.')[2]}"


def in_module(name: str, layers: int, module: str = "mtp.") -> str:
    """Return the name in the module for a tensor in a layer; any other name unchanged.

    >>> in_module("model.layers.48.shared_head.norm.weight", 48), in_module("model.layers.47.mlp.gate.weight", 48)
    ('mtp.norm.weight', 'model.layers.47.mlp.gate.weight')
    >>> in_module("model.layers.49.eh_proj.weight", 48, "model.mtp.")
    'model.mtp.layers.1.eh_proj.weight'
    """
    of_layer = OF_LAYER.match(name.removeprefix("model."))
    if of_layer is None or int(of_layer[1]) < layers or not name.startswith("model."):
        return name
    rest = name.removeprefix("model.")[of_layer.end() :]
    single = ONCE if module == "mtp." else {}
    once = next(((here, there) for here, there in single.items() if rest.startswith(there)), None)
    if once is not None:
        return f"{module}{once[0]}{rest.removeprefix(once[1])}"
    return f"{module}layers.{int(of_layer[1]) - layers}.{rest}"
