"""`config.json` rebuilt from GGUF metadata, in the spelling of published checkpoints, which everybody loads.

What a file says under other names comes from each family's rows (`Key.config`, `Setting`); what it does not say is
left to the default of the model's class, or follows as llama.cpp has it built in. Numbers are float32 there: they come
back as the shortest decimal that rounds to them. Source: llama.cpp (src/llama-model.cpp and src/models), transformers'
configuration classes, mlx-lm's ModelArgs.
"""

from __future__ import annotations

from typing import Any

from quantcli.arrays import TORCH_DTYPES
from quantcli.models.base import Architecture
from quantcli.models.keys import Key
from quantcli.models.rope_settings import rope_scaling, theta_of
from quantcli.models.stored import OMITTED, Stored

#: Our dtype names as config.json spells them.
SPELLED = {ours: theirs for theirs, ours in reversed(TORCH_DTYPES.items()) if not theirs.startswith("torch.")}


def config(file: Stored, architecture: Architecture, model_type: str, dtype: str | None) -> dict[str, Any]:
    """The rebuilt object, keys sorted. dtype: our name of the weights' one. Raises `BadInput`."""
    made: dict[str, Any] = {
        "model_type": model_type,
        "architectures": [architecture.classes[model_type]],
        "vocab_size": file.vocab_size(),
        "tie_word_embeddings": not file.holds("output.weight") if file.tensors else OMITTED,
        "torch_dtype": OMITTED if dtype is None else SPELLED[dtype],
    }
    made |= {f"{role}_token_id": file.token(_ROLES.get(role, role)) for role in ("bos", "eos", "pad")}
    made |= {"rope_theta": theta_of(file), "rope_scaling": rope_scaling(file)}
    if isinstance(architecture.model_types[model_type].get("head_dim"), int):
        made["head_dim"] = file.head_dim
    for key in (*architecture.keys, *architecture.further):
        if key.back is not None and (key.required or file.own.has(key.name)):
            made[key.back] = _value(key, file)
        elif key.back is not None and key.otherwise is not None:
            made[key.back] = file.own.integer(key.otherwise)
    made["num_hidden_layers"] = file.trunk
    made |= {setting.name: setting.of(file) for setting in architecture.settings}
    return {key: made[key] for key in sorted(made) if made[key] is not OMITTED}


_ROLES = {"pad": "padding"}


def _value(key: Key, file: Stored) -> Any:
    if key.type == "float32":
        return file.number(key.name)
    if key.type == "bool":
        return file.own.flag(key.name, False)
    return file.own.integer(key.name, least=0)
