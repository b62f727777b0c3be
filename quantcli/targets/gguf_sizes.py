"""Whether a folder's tensors have the sizes that its config.json says.

llama.cpp computes shapes from the metadata and refuses a file whose tensors have others; so the contradiction is told
where it arises. Roles that are not in the table are not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quantcli.errors import BadInput
from quantcli.models import Architecture, Hyperparameters
from quantcli.targets.names import Named

#: The keys of config.json that size one axis, as an error names them, and their product.
Size = tuple[str, Callable[[Hyperparameters], int]]

HIDDEN: Size = ("hidden_size", lambda h: h.embedding_length)
INNER: Size = ("intermediate_size", lambda h: h.feed_forward_length)
BOTH: Size = ("2 * intermediate_size", lambda h: 2 * h.feed_forward_length)
TOKENS: Size = ("vocab_size", lambda h: h.vocab_size)
HEAD: Size = ("head_dim", lambda h: h.head_dim)
COUNT: Size = ("num_attention_heads", lambda h: h.heads)
KV_COUNT: Size = ("num_key_value_heads", lambda h: h.kv_heads)
HEADS: Size = ("num_attention_heads * head_dim", lambda h: h.heads * h.head_dim)
KV_HEADS: Size = ("num_key_value_heads * head_dim", lambda h: h.kv_heads * h.head_dim)

#: Role -> the axes that it may have; of a bias the first alone. Some families have gate and up in one matrix; norms of
#: q and k are for one head, for all heads alike, or for all heads in one vector.
SHAPES: dict[str, tuple[tuple[Size, ...], ...]] = {
    "token_embd": ((TOKENS, HIDDEN),),
    "output": ((TOKENS, HIDDEN),),
    "output_norm": ((HIDDEN,),),
    "attn_norm": ((HIDDEN,),),
    "ffn_norm": ((HIDDEN,),),
    "ffn_gate": ((INNER, HIDDEN),),
    "ffn_up": ((INNER, HIDDEN), (BOTH, HIDDEN)),
    "ffn_down": ((HIDDEN, INNER),),
}

#: The same, where heads are of one size (latent attention has other ones).
ATTENTION: dict[str, tuple[tuple[Size, ...], ...]] = {
    "attn_q": ((HEADS, HIDDEN),),
    "attn_k": ((KV_HEADS, HIDDEN),),
    "attn_v": ((KV_HEADS, HIDDEN),),
    "attn_output": ((HIDDEN, HEADS),),
    "attn_q_norm": ((HEAD,), (HEADS,), (COUNT, HEAD)),
    "attn_k_norm": ((HEAD,), (KV_HEADS,), (KV_COUNT, HEAD)),
}


def check(weights: Sequence[Named], architecture: Architecture, hyperparameters: Hyperparameters, label: str) -> None:
    """Raise `BadInput`, naming tensor and key, for a layer too many or missing and for a shape that is another."""
    if hyperparameters.head_dim % 2:
        raise BadInput(f"{label}: head_dim is {hyperparameters.head_dim}, rotary embeddings need an even one.")
    _check_layers(weights, architecture, hyperparameters.layers, label)
    shapes = {} if hyperparameters.nope_head_dim else ATTENTION
    for weight in weights:
        if weight.found is not None:
            _check_shape(weight, (SHAPES | shapes).get(weight.found.row.role, ()), hyperparameters, label)


def _check_shape(
    weight: Named, allowed: Sequence[tuple[Size, ...]], hyperparameters: Hyperparameters, label: str
) -> None:
    """One of the shapes that its role may have; a bias has the first axis alone."""
    shape, name = weight.source.shape, weight.source.weight.name
    choices = [axes[:1] if weight.name.endswith(".bias") else axes for axes in allowed]
    if not choices or shape in [tuple(size(hyperparameters) for _, size in axes) for axes in choices]:
        return
    said = " and ".join(f"{key} is {size(hyperparameters)}" for key, size in choices[0])
    raise BadInput(f"{label}: tensor {name} has shape {shape}, but {said}.")


def _check_layers(weights: Sequence[Named], architecture: Architecture, layers: int, label: str) -> None:
    """As many layers as the config says: llama.cpp would not load others."""
    found = {w.found.layer for w in weights if w.found is not None and w.found.layer is not None}
    beyond = min((layer for layer in found if layer >= layers), default=None)
    # Stops at the first gap, however many layers are claimed.
    missing = next((layer for layer in range(layers) if layer not in found), None)
    if beyond is not None and architecture.mtp is None:
        raise BadInput(f"{label}: num_hidden_layers is {layers}, but there are tensors of layer {beyond}.")
    if missing is not None:
        raise BadInput(f"{label}: num_hidden_layers is {layers}, but there are no tensors of layer {missing}.")
