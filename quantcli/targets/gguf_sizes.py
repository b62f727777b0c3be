"""Whether a folder's tensors have the sizes that its config.json says.

llama.cpp computes shapes from the metadata and refuses a file whose tensors have others; so the contradiction is told
where it arises. Roles that are not in the table are not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quantcli.checkpoint import Weight
from quantcli.errors import BadInput
from quantcli.models import Architecture, Hyperparameters

#: The keys of config.json that size one axis, as an error names them, and their product.
Size = tuple[str, Callable[[Hyperparameters], int]]

HIDDEN: Size = ("hidden_size", lambda h: h.embedding_length)
INNER: Size = ("intermediate_size", lambda h: h.feed_forward_length)
TOKENS: Size = ("vocab_size", lambda h: h.vocab_size)
HEAD: Size = ("head_dim", lambda h: h.head_dim)
HEADS: Size = ("num_attention_heads * head_dim", lambda h: h.heads * h.head_dim)
KV_HEADS: Size = ("num_key_value_heads * head_dim", lambda h: h.kv_heads * h.head_dim)

#: Role -> its axes; of a bias the first alone.
SHAPES: dict[str, tuple[Size, ...]] = {
    "token_embd": (TOKENS, HIDDEN),
    "output": (TOKENS, HIDDEN),
    "output_norm": (HIDDEN,),
    "attn_norm": (HIDDEN,),
    "attn_q": (HEADS, HIDDEN),
    "attn_k": (KV_HEADS, HIDDEN),
    "attn_v": (KV_HEADS, HIDDEN),
    "attn_output": (HIDDEN, HEADS),
    "attn_q_norm": (HEAD,),
    "attn_k_norm": (HEAD,),
    "ffn_norm": (HIDDEN,),
    "ffn_gate": (INNER, HIDDEN),
    "ffn_up": (INNER, HIDDEN),
    "ffn_down": (HIDDEN, INNER),
}


def check(weights: Sequence[Weight], architecture: Architecture, hyperparameters: Hyperparameters, label: str) -> None:
    """Raise `BadInput`, naming tensor and key, for a layer too many or missing and for a shape that is another."""
    if hyperparameters.head_dim % 2:
        raise BadInput(f"{label}: head_dim is {hyperparameters.head_dim}, rotary embeddings need an even one.")
    _check_layers(weights, architecture, hyperparameters.layers, label)
    for weight in weights:
        axes = SHAPES.get(architecture.role(weight.name) or "", ())
        axes = axes[:1] if weight.name.endswith(".bias") else axes
        wanted = tuple(size(hyperparameters) for _, size in axes)
        if axes and weight.shape != wanted:
            said = " and ".join(f"{key} is {size}" for (key, _), size in zip(axes, wanted, strict=True))
            raise BadInput(f"{label}: tensor {weight.name} has shape {weight.shape}, but {said}.")


def _check_layers(weights: Sequence[Weight], architecture: Architecture, layers: int, label: str) -> None:
    """As many layers as the config says: llama.cpp would not load others."""
    found = {layer for w in weights if (layer := architecture.layer(w.name)) is not None}
    beyond = min((layer for layer in found if layer >= layers), default=None)
    # Stops at the first gap, however many layers are claimed.
    missing = next((layer for layer in range(layers) if layer not in found), None)
    if beyond is not None:
        raise BadInput(f"{label}: num_hidden_layers is {layers}, but there are tensors of layer {beyond}.")
    if missing is not None:
        raise BadInput(f"{label}: num_hidden_layers is {layers}, but there are no tensors of layer {missing}.")
