"""Rows of tensors that most families share: a decoder composed of its norms, attention and MLP.

Names are those of transformers' models and of llama.cpp's tensor table (gguf-py's tensor_mapping).
"""

from __future__ import annotations

from collections.abc import Mapping

from quantcli.models.base import Tensor
from quantcli.models.layouts import ROWS_OF_QKV, Layout, Pieces, Range
from quantcli.models.ops import Op, PermuteRows, Share, Take, Transpose
from quantcli.models.sizes import (
    ALWAYS,
    EXPERT_INNER,
    HEAD_DIM,
    HIDDEN,
    INNER,
    KEYS,
    N_EXPERTS,
    NEVER,
    QKV,
    QUERIES,
    VOCAB,
    Axes,
    Need,
    Size,
)

LAYER, BLOCK = "model.layers.{i}", "blk.{i}"

#: Modules of a layer, Hugging Face's name -> GGUF's. Norms: before attention and MLP, after them, both.
PRE_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
POST_NORMS = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
BOTH_NORMS = {"input_layernorm": "attn_norm", "pre_feedforward_layernorm": "ffn_norm"} | POST_NORMS
ATTENTION = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
QK_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
GATED = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
PLAIN = {"mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
#: Gate and up in one matrix, gate's rows first, in both dialects.
FUSED = {"mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}

#: Tensors that GGUF files may also store joined: gate and up; q, k and v.
GATE_AND_UP: Mapping[str, tuple[Layout, ...]] = dict.fromkeys(("ffn_gate", "ffn_up"), (Range(f"{BLOCK}.ffn_gate_up"),))
JOINED: Mapping[str, tuple[Layout, ...]] = {
    gguf: (Range(f"{BLOCK}.attn_qkv", count),) for gguf, count in ROWS_OF_QKV.items()
}

#: Module -> the axes of its weight in most families; other modules of a layer are norms.
SHAPES: Mapping[str, Axes] = {
    "self_attn.q_proj": (QUERIES, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.qkv_proj": (QKV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, QUERIES),
    "self_attn.q_norm": (HEAD_DIM,),
    "self_attn.k_norm": (HEAD_DIM,),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.gate_up_proj": (2 * INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
    "mlp.gate": (N_EXPERTS, HIDDEN),
}
NORM: Axes = (HIDDEN,)
#: Norms over all heads of q and of k together.
WHOLE_QK_NORMS: Mapping[str, Axes] = {"self_attn.q_norm": (QUERIES,), "self_attn.k_norm": (KEYS,)}


def shared_experts(prefix: str, width: Size) -> dict[str, Axes]:
    """Return the axes of shared experts, which process every token, stored as one MLP."""
    rows, columns = (width, HIDDEN), (HIDDEN, width)
    return {f"{prefix}.gate_proj": rows, f"{prefix}.up_proj": rows, f"{prefix}.down_proj": columns}


#: Module -> operations that order the rows of q and k for GGUF: none, or rotary rows to interleaved pairs.
Rotary = Mapping[str, tuple[Op, ...]]
STRAIGHT: Rotary = {}
PERMUTED: Rotary = {
    "self_attn.q_proj": (PermuteRows("heads"),),
    "self_attn.k_proj": (PermuteRows("kv_heads"),),
}


def rows(
    modules: Mapping[str, str],
    *,
    optional: bool = False,
    needed: Need | None = None,
    bias: Need = NEVER,
    shapes: Mapping[str, Axes] = SHAPES,
) -> tuple[Tensor, ...]:
    """Return the rows for modules in every layer, copied unchanged; GGUF files may also store gate and up joined.

    needed: which layers have optional ones.
    """
    joined = GATE_AND_UP if set(GATE_AND_UP) <= set(modules.values()) else {}
    return tuple(
        Tensor(
            f"{LAYER}.{hf}",
            f"{BLOCK}.{gguf}",
            optional=optional or needed is not None,
            shape=shapes.get(hf, NORM),
            needed=needed,
            bias=bias,
            also=joined.get(gguf, ()),
        )
        for hf, gguf in modules.items()
    )


def norm_rows(
    modules: Mapping[str, str],
    ops: tuple[Op, ...] = (),
    *,
    bias: bool = False,
    shapes: Mapping[str, Axes] = SHAPES,
) -> tuple[Tensor, ...]:
    """Return the rows for norms in every layer; `ops` act on their weights, not on their biases."""
    return tuple(
        t
        for hf, gguf in modules.items()
        for t in norm(f"{LAYER}.{hf}", f"{BLOCK}.{gguf}", ops, bias=bias, shape=shapes.get(hf, NORM))
    )


def norm(hf: str, gguf: str, ops: tuple[Op, ...] = (), *, bias: bool = False, shape: Axes = NORM) -> tuple[Tensor, ...]:
    """Return the rows for one norm: its weight and, with `bias`, its bias."""
    weight = Tensor(hf, gguf, ops, suffixes=("weight",), shape=shape)
    return (weight, Tensor(hf, gguf, suffixes=("bias",), shape=shape, bias=ALWAYS)) if bias else (weight,)


def ends(norm_ops: tuple[Op, ...] = (), *, bias: bool = False) -> tuple[Tensor, ...]:
    """Return the rows for the tensors outside the layers: embedding, last norm, output matrix."""
    return (
        Tensor("model.embed_tokens", "token_embd", suffixes=("weight",), shape=(VOCAB, HIDDEN)),
        *norm("model.norm", "output_norm", norm_ops, bias=bias),
        Tensor("lm_head", "output", optional=True, shape=(VOCAB, HIDDEN)),
    )


def attention(rotary: Rotary = STRAIGHT, *, bias: Need = NEVER, output_bias: Need | None = None) -> tuple[Tensor, ...]:
    """Return the rows for the q, k, v and output projections; GGUF files may also store the first three joined.

    rotary: GGUF's order of rows. bias: when they have a bias; output_bias: when the output projection has one, if that
    differs.
    """
    return tuple(
        Tensor(
            f"{LAYER}.{hf}",
            f"{BLOCK}.{gguf}",
            rotary.get(hf, ()),
            also=JOINED.get(gguf, ()),
            shape=SHAPES[hf],
            bias=output_bias if output_bias is not None and gguf == "attn_output" else bias,
        )
        for hf, gguf in ATTENTION.items()
    )


def also_experts(kind: str) -> tuple[Layout, ...]:
    """Return the other layouts of stacked experts in GGUF files: one tensor per expert; gate and up joined."""
    separate = Pieces((f"{BLOCK}.ffn_{kind}.{{e}}",))
    return (separate,) if kind == "down" else (separate, Range(f"{BLOCK}.ffn_gate_up_exps"))


def experts(
    names: Mapping[str, str],
    *,
    hf: str = "mlp.experts",
    mlx: str = "mlp.switch_mlp",
    width: Size = EXPERT_INNER,
    needed: Need = ALWAYS,
) -> tuple[Tensor, ...]:
    """Return the rows for routed experts: separate in Hugging Face's dialect, stacked in MLX's and new GGUF files.

    names: an expert's module in Hugging Face's dialect -> `gate`, `up` or `down`. needed: which layers have them.
    """
    separate = tuple(
        Tensor(
            f"{LAYER}.{hf}.{{e}}.{name}", f"{BLOCK}.ffn_{kind}_exps", mlx=f"{LAYER}.{mlx}.{kind}_proj",
            suffixes=("weight",), optional=True, also=also_experts(kind),
            shape=(N_EXPERTS, *((HIDDEN, width) if kind == "down" else (width, HIDDEN))), needed=needed,
        )
        for name, kind in names.items()
    )  # fmt: skip
    return (*separate, *fused_experts(hf, width=width))


def fused_experts(hf: str, *, width: Size = EXPERT_INNER, is_transposed: bool = False) -> tuple[Tensor, ...]:
    """Return the rows for routed experts as transformers 5 saves them: stacked, with gate and up in one parameter.

    is_transposed: each expert's matrix is (in, out).
    """
    before: tuple[Op, ...] = (Transpose(),) if is_transposed else ()

    def axes(kind: str) -> Axes:
        rows = (HIDDEN, width) if kind == "down" else (2 * width, HIDDEN)
        return (N_EXPERTS, *(rows[::-1] if is_transposed else rows))

    return tuple(
        Tensor(
            f"{LAYER}.{hf}.{name}", f"{BLOCK}.ffn_{kind}_exps", (*before, *ops), ("weight",), optional=True,
            read_only=True, shape=axes(kind),
        )
        for name, kind, ops in FUSED_EXPERTS
    )  # fmt: skip


def stacked_experts(
    hf: str, *, mlx: str = "mlp.switch_mlp", is_transposed: bool = False, needed: Need | None = None
) -> tuple[Tensor, ...]:
    """Return the rows for stacked experts in a family whose releases have them so, which are written as well as read.

    needed: which layers have them, if not all do.
    """
    before: tuple[Op, ...] = (Transpose(),) if is_transposed else ()

    def row(name: str, kind: str, taken: tuple[Op, ...]) -> Tensor:
        matrix = (HIDDEN, EXPERT_INNER) if kind == "down" else (2 * EXPERT_INNER, HIDDEN)
        ops = (*before, *taken)
        return Tensor(
            f"{LAYER}.{hf}.{name}", f"{BLOCK}.ffn_{kind}_exps.weight", ops, ("",), f"{LAYER}.{mlx}.{kind}_proj.weight",
            ops, optional=needed is not None, needed=needed,
            shape=(N_EXPERTS, *(matrix[::-1] if is_transposed else matrix)),
        )  # fmt: skip

    return (
        row("gate_up_proj", "gate", (Take(stop=EXPERT_INNER),)),
        row("gate_up_proj", "up", (Take(start=EXPERT_INNER),)),
        row("down_proj", "down", ()),
    )


def experts_apart(hf: str, *, width: Size = EXPERT_INNER) -> tuple[Tensor, ...]:
    """Return read-only rows for separate experts, which quantized releases have in families with stacked experts."""
    return tuple(
        Tensor(
            f"{LAYER}.{hf}.{{e}}.{name}.weight", f"{BLOCK}.ffn_{kind}_exps.weight", suffixes=("",), optional=True,
            read_only=True, shape=(N_EXPERTS, *((HIDDEN, width) if kind == "down" else (width, HIDDEN))),
        )
        for name, kind in EXPERTS.items()
    )  # fmt: skip


FUSED_EXPERTS: tuple[tuple[str, str, tuple[Op, ...]], ...] = (
    ("gate_up_proj", "gate", (Share(0, 2),)),
    ("gate_up_proj", "up", (Share(1, 2),)),
    ("down_proj", "down", ()),
)


#: The modules of an expert in most families.
EXPERTS = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}


def decoder(
    *,
    rotary: Rotary = STRAIGHT,
    qk_norm: bool = False,
    norms: Mapping[str, str] = PRE_NORMS,
    mlp: Mapping[str, str] = GATED,
    norm_ops: tuple[Op, ...] = (),
    norm_bias: bool = False,
    bias: Need = NEVER,
    output_bias: Need | None = None,
    mlp_bias: Need = NEVER,
    shapes: Mapping[str, Axes] | None = None,
) -> tuple[Tensor, ...]:
    """Return the rows for a decoder with one MLP per layer.

    norm_ops: operations on every norm's weight. bias, output_bias, mlp_bias: when projections have a bias. shapes: axes
    of modules that differ from most families.
    """
    axes = {**SHAPES, **(shapes or {})}
    return (
        *ends(norm_ops, bias=norm_bias),
        *norm_rows(norms, norm_ops, bias=norm_bias),
        *attention(rotary, bias=bias, output_bias=output_bias),
        *(norm_rows(QK_NORMS, norm_ops, shapes=axes) if qk_norm else ()),
        *rows(mlp, bias=mlp_bias, shapes=axes),
    )
