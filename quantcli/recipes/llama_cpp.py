"""What llama-quantize makes of a model: which GGML type each tensor gets for `-s q4_0` and its like.

    not allowed      one-dimensional, a norm, a router ...: the type that it has
    option           --token-embedding-type, --output-tensor-type: that type, whatever its shape
    option           the first --tensor-type whose regex is found in the name, then --pure (quantized ftypes only)
    mixture          `MIXTURE`, the first row whose conditions all hold; else the ftype's base type
    shape fallback   where blocks do not fill the rows (not after the two options above)

Source: llama.cpp's src/llama-quant.cpp and tools/quantize (ggml 0.25.3). Here are the ftypes that `FTYPES` lists,
without an importance matrix; a further ftype is a row of `FTYPES` and its rows of `MIXTURE`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from quantcli.containers.ggml_types import BY_NAME
from quantcli.errors import NotPossible, WrongUsage
from quantcli.recipes import names
from quantcli.recipes.base import MAX_PATTERN, Decision, Origin


@dataclass(frozen=True)
class Ftype:
    """A file type: its number in `general.file_type`, and the type of most of its tensors."""

    number: int
    base: str


FTYPES = {
    "f32": Ftype(0, "f32"),
    "f16": Ftype(1, "f16"),
    "q4_0": Ftype(2, "q4_0"),
    "q4_1": Ftype(3, "q4_1"),
    "q8_0": Ftype(7, "q8_0"),
    "q5_0": Ftype(8, "q5_0"),
    "q5_1": Ftype(9, "q5_1"),
    "q6_k": Ftype(18, "q6_k"),
    "bf16": Ftype(32, "bf16"),
}

#: The file type that llama.cpp's loader takes a file for whose commonest type this is.
FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 12, "q4_k": 15,
    "q5_k": 17, "q6_k": 18, "iq2_xxs": 19, "iq2_xs": 20, "iq3_xxs": 23, "iq1_s": 24, "iq4_nl": 25, "iq3_s": 26,
    "iq2_s": 28, "iq4_xs": 30, "iq1_m": 31, "bf16": 32, "tq1_0": 36, "tq2_0": 37, "mxfp4": 38, "nvfp4": 39, "q1_0": 40,
    "q2_0": 41,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A GGUF tensor before quantization: its name, its shape (rows first), the type that it has (`bf16`, `f32`)."""

    name: str
    shape: tuple[int, ...]
    type: str


@dataclass(frozen=True)
class Facts:
    """What the rules ask of a model: `general.architecture`, and `expert_count` (0: none)."""

    architecture: str
    experts: int = 0


@dataclass(frozen=True)
class TensorType:
    """One `--tensor-type REGEX=TYPE`: the regex in lower case, as llama-quantize makes it; `text` is what was given."""

    pattern: re.Pattern[str]
    type: str
    text: str


@dataclass(frozen=True)
class Options:
    """llama-quantize's options that choose types."""

    pure: bool = False
    leave_output: bool = False
    output_type: str | None = None
    embedding_type: str | None = None
    tensor_types: tuple[TensorType, ...] = ()

    def named(self, name: str) -> TensorType | None:
        """The first `--tensor-type` found in a tensor's name."""
        return next((option for option in self.tensor_types if option.pattern.search(name)), None)

    def unmatched(self, tensors: Iterable[Tensor]) -> list[str]:
        """The `--tensor-type` options that are found in no name."""
        everything = [tensor.name for tensor in tensors]
        return [option.text for option in self.tensor_types if not any(map(option.pattern.search, everything))]


def ggml_type(text: str, option: str) -> str:
    """The GGML type that an option names, in any case. Raises `WrongUsage`."""
    name = text.strip().lower()
    if name not in names.GGML + names.DENSE:
        raise WrongUsage(f"{option}: {text[:100]!r} is no type of GGML ({' '.join(names.DENSE + names.GGML)}).")
    return name


def tensor_type(text: str) -> TensorType:
    """One `--tensor-type REGEX=TYPE`. Raises `WrongUsage`, quoting the text."""
    said = f"--tensor-type {text[:100]!r}"
    pattern, equals, kind = text.partition("=")
    if not (pattern and equals and kind) or len(pattern) > MAX_PATTERN:
        raise WrongUsage(f"{said} needs REGEX=TYPE, such as --tensor-type attn_v=q8_0.")
    try:
        return TensorType(re.compile(pattern.lower()), ggml_type(kind, said), text)
    except (re.error, RecursionError, OverflowError) as error:
        raise WrongUsage(f"{said}: a bad regular expression ({error}).") from None


def tensor_type_file(text: str) -> tuple[TensorType, ...]:
    """The contents of a `--tensor-type-file`: options as above, separated by spaces or newlines."""
    return tuple(map(tensor_type, text.split()))


_SMALL_OF_RWKV = (
    "first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2", "decay_w1", "decay_w2", "lerp_fused",
)  # fmt: skip

#: Parts of a name that mark a tensor as never quantized, and why.
NEVER = {
    "_norm.weight": "a norm",
    "ffn_gate_inp.weight": "a router",
    "ffn_gate_tid2eid.weight": "a routing table",
    "altup": "very small",
    "laurel": "very small",
    "per_layer_model_proj": "small",
    "ssm_conv1d": "a small convolution",
    "shortconv.conv.weight": "a small convolution",
    "indexer.k_proj.weight": "a small indexer",
    "indexer.q_proj.weight": "a small indexer",
    "attn_rel_b.weight": "a position bias",
    ".position_embd": "a position embedding",
    "sam.pos_embd": "a position embedding",
    ".rel_pos": "a position embedding",
    ".patch_embd": "part of a vision model",
    ".patch_merger": "part of a vision model",
    "sam.neck.": "part of a vision model",
    "sam.net_": "part of a vision model",
    "a.rvq.codebook": "an audio codebook",
    "mm.a.code_embd": "an audio codebook",
    **dict.fromkeys((f"time_mix_{part}.weight" for part in _SMALL_OF_RWKV), "small, of RWKV"),
}

#: Whole names of the same kind: BERT's embeddings of positions and token types.
NEVER_NAMES = ("position_embd.weight", "token_types.weight")


def never(name: str, shape: tuple[int, ...]) -> str | None:
    """Why llama-quantize leaves a tensor as it is, whatever the ftype; None where it may be quantized."""
    if len(_without_leading_ones(shape)) < 2:
        return "one dimension"
    if not name.endswith("weight"):
        return "not a weight"
    if name in NEVER_NAMES:
        return "a position or token type embedding"
    return next((why for part, why in NEVER.items() if part in name), None)


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """GGUF does not count these as dimensions."""
    start = next((axis for axis, size in enumerate(shape) if size != 1), len(shape))
    return shape[start:]


class Category(Enum):
    """What a tensor is to the mixtures."""

    OUTPUT = "output"
    EMBEDDING = "token_embd"
    QKV = "attn_qkv"
    KV_B = "attn_kv_b"
    V = "attn_v"
    K = "attn_k"
    Q = "attn_q"
    ATTENTION_OUTPUT = "attn_output"
    UP = "ffn_up"
    GATE = "ffn_gate"
    DOWN = "ffn_down"
    OTHER = "other"


WHOLE_NAMES = {
    "output.weight": Category.OUTPUT,
    "token_embd.weight": Category.EMBEDDING,
    "per_layer_token_embd.weight": Category.EMBEDDING,
}

#: The first part found in a name; experts count with the layer that they belong to.
NAME_PARTS = {
    "attn_qkv.weight": Category.QKV,
    "attn_kv_b.weight": Category.KV_B,
    "attn_v.weight": Category.V,
    "attn_k.weight": Category.K,
    "attn_q.weight": Category.Q,
    "attn_output.weight": Category.ATTENTION_OUTPUT,
    "ffn_up": Category.UP,
    "ffn_gate": Category.GATE,
    "ffn_down": Category.DOWN,
}


def category(name: str) -> Category:
    """
    >>> category("blk.0.ffn_down_exps.weight").value, category("blk.0.attn_q_a.weight").value
    ('ffn_down', 'other')
    """
    found = (kind for part, kind in NAME_PARTS.items() if part in name)
    return WHOLE_NAMES.get(name) or next(found, Category.OTHER)


@dataclass(frozen=True)
class Case:
    """One tensor as the mixture's conditions see it. tied: the model has no output.weight."""

    tensor: Tensor
    category: Category
    ftype: str
    facts: Facts
    tied: bool

    @property
    def base(self) -> str:
        return FTYPES[self.ftype].base

    @property
    def row(self) -> int:
        return self.tensor.shape[-1]


# Conditions. Their names are said in the reasons.


def output(case: Case) -> bool:
    """The output matrix, or the embeddings that stand in for it."""
    return case.category is Category.OUTPUT or (case.tied and case.category is Category.EMBEDDING)


def attn_v(case: Case) -> bool:
    return case.category in (Category.V, Category.QKV, Category.KV_B)


def attn_k(case: Case) -> bool:
    return case.category is Category.K


def falcon(case: Case) -> bool:
    return case.facts.architecture == "falcon"


def eight_experts(case: Case) -> bool:
    return case.facts.experts == 8


def row_not_in_blocks(case: Case) -> bool:
    return case.row % block_size(case.base) != 0


def base_q8_0(case: Case) -> bool:
    return case.base == "q8_0"


#: Conditions that must all hold -> type. The first row that holds decides.
MIXTURE: tuple[tuple[tuple[Callable[[Case], bool], ...], str], ...] = (
    ((output, falcon), "q8_0"),
    ((output, row_not_in_blocks), "q8_0"),
    ((output, base_q8_0), "q8_0"),
    ((output,), "q6_k"),
    ((attn_v, eight_experts), "q8_0"),
    ((attn_k, eight_experts), "q8_0"),
)

#: What takes the place of a type whose blocks do not fill the rows. Types of 32-blocks become f16.
FALLBACKS = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"),
    **dict.fromkeys(("q2_0", "q2_k", "q3_k", "tq1_0", "tq2_0"), "q4_0"),
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}


def block_size(kind: str) -> int:
    """Values in one block of a GGML type."""
    return BY_NAME[kind].block_size


def fitting(kind: str, row: int, name: str) -> str:
    """`kind`, or what llama-quantize puts in its place for rows of that length. Raises `NotPossible`, naming `name`."""
    if row % block_size(kind) == 0:
        return kind
    if kind not in FALLBACKS and block_size(kind) > 32:
        raise NotPossible(
            f"{name}: its rows of {row} values do not fill {kind}'s blocks of {block_size(kind)}, and llama-quantize "
            f"has no other type for that: give it one with --tensor-type."
        )
    replacement = FALLBACKS.get(kind, "f16")
    return replacement if row % block_size(replacement) == 0 else "f16"


def processing_order(tensors: Iterable[Tensor]) -> list[Tensor]:
    """As llama-quantize handles and writes them: outside blocks first, then by block number, then by name, bytewise."""

    def key(tensor: Tensor) -> tuple[int, bytes]:
        block = re.match(r"blk\.(\d{1,9})\.", tensor.name)
        return int(block[1]) if block else -1, tensor.name.encode()

    return sorted(tensors, key=key)


def assign(
    tensors: Sequence[Tensor], ftype: str, facts: Facts, options: Options | None = None, decided: Container[str] = ()
) -> dict[str, Decision]:
    """The type of every tensor, in processing order; origin OPTION where an option chose it, else PRESET.

    tensors: all of the model. decided: names that something stronger has decided; they are left out of the answer.
    A type that `--output-tensor-type` or `--token-embedding-type` names is given whatever the row length, as
    llama-quantize does. Raises `NotPossible` where no type fits the rows, `WrongUsage` for an unknown ftype.
    """
    if ftype not in FTYPES:
        raise WrongUsage(f"--scheme {ftype}: is no mixture that we know; {' '.join(FTYPES)} are.")
    options = options or Options()
    tied = not any(tensor.name == "output.weight" for tensor in tensors)
    return {
        tensor.name: _decide(Case(tensor, category(tensor.name), ftype, facts, tied), options)
        for tensor in processing_order(tensors)
        if tensor.name not in decided
    }


def _decide(case: Case, options: Options) -> Decision:
    tensor, name = case.tensor, case.tensor.name
    why = never(name, tensor.shape)
    if why is not None:
        return Decision(tensor.type, f"never quantized: {why}", Origin.PRESET)
    if options.leave_output and case.category is Category.OUTPUT:
        return Decision(tensor.type, "--leave-output-tensor", Origin.OPTION)
    final = _final_option(case, options)
    if final is not None:
        return final
    if case.base in names.DENSE:
        return Decision(case.base, f"preset {case.ftype}", Origin.PRESET)
    chosen = _chosen(case, options)
    fits = fitting(chosen.scheme, case.row, name)
    if fits == chosen.scheme:
        return chosen
    reason = f"{chosen.reason}; rows of {case.row} do not fill blocks of {chosen.scheme}: {fits} instead"
    return Decision(fits, reason, chosen.origin, wanted=chosen.scheme)


def _final_option(case: Case, options: Options) -> Decision | None:
    """The two options that nothing follows, not even the shape fallback."""
    named = case.tensor.name == "per_layer_token_embd.weight" and options.named(case.tensor.name)
    if options.embedding_type and case.category is Category.EMBEDDING and not named:
        return Decision(options.embedding_type, f"--token-embedding-type {options.embedding_type}", Origin.OPTION)
    if options.output_type and case.category is Category.OUTPUT:
        return Decision(options.output_type, f"--output-tensor-type {options.output_type}", Origin.OPTION)
    return None


def _chosen(case: Case, options: Options) -> Decision:
    """The type before its shape is looked at, for a quantized ftype."""
    named = options.named(case.tensor.name)
    if named:
        return Decision(named.type, f"--tensor-type {named.text}", Origin.OPTION)
    if options.pure:
        return Decision(case.base, f"--pure {case.base}", Origin.OPTION)
    if options.output_type and output(case):
        return Decision(options.output_type, f"--output-tensor-type {options.output_type}, tied", Origin.OPTION)
    for conditions, kind in MIXTURE:
        if all(holds(case) for holds in conditions):
            said = ", ".join(holds.__name__ for holds in conditions)
            return Decision(kind, f"preset {case.ftype}: {said}", Origin.PRESET)
    return Decision(case.base, f"preset {case.ftype}", Origin.PRESET)


def file_type(tensors: Sequence[Tensor]) -> int:
    """`general.file_type` of a kept mixture: that of the commonest type among the tensors that can be quantized.

    Of two that are equally common, the one that holds more values.
    """
    weights = [tensor for tensor in tensors if never(tensor.name, tensor.shape) is None] or list(tensors)
    known = [tensor for tensor in weights if tensor.type in FILE_TYPES]
    count, values = Counter[str](), Counter[str]()
    for tensor in known:
        count[tensor.type] += 1
        values[tensor.type] += math.prod(tensor.shape)
    return FILE_TYPES[max(count, key=lambda kind: (count[kind], values[kind], kind))] if count else 0
