"""llama-quantize's mixtures: the types of tensors that only the ftype decides, as one table of rules.

A rule applies to some ftypes and tensors. The first rule that applies decides; `BASE` means the ftype's base type.
`AFTERWARDS` then changes some types. A decision's reason gives the names of the conditions.

Layers are counted, not read from names: a tensor's `index` is the number of tensors of its kind processed before it (V,
down, gate and up are counted separately; a shared expert counts as one more). Only in models with experts, the rules on
down, gate and up use the block's number instead, except for the ftypes in `LOW`.

Source: llama.cpp's src/llama-quant.cpp; `SEVENTY_B` and `LAYER_COUNTS` from src/models (ggml 0.25.3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quantcli.containers.gguf_values import ArrayValue, Value
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput
from quantcli.recipes.ftypes import FTYPES
from quantcli.recipes.llama_cpp_tensors import V_LIKE, Category, Tensor, block_size, layer


@dataclass(frozen=True)
class Facts:
    """The facts about a model that the rules use: `general.architecture` and its keys.

    block_count: all layers of the source, before pruning, with those for multi-token prediction (`nextn`); for the
    architectures in `LAYER_COUNTS`, as many as llama.cpp counts. heads, kv_heads: of layer 0. experts: 0 without any.
    importance: whether an importance matrix with entries is used.
    """

    architecture: str
    block_count: int
    heads: int
    kv_heads: int
    experts: int = 0
    importance: bool = False
    nextn: int = 0

    @property
    def gqa(self) -> int:
        """The number of query heads that share a key and a value."""
        return self.heads // self.kv_heads if self.kv_heads else 0

    @classmethod
    def of(
        cls, metadata: Mapping[str, Value], importance: bool = False, label: str = "the GGUF",
        overrides: Mapping[str, Value] | None = None,
    ) -> Facts:  # fmt: skip
        """Return the facts in a GGUF file's metadata; missing keys count as 0. Raises `BadInput` for invalid numbers.

        overrides: values that llama.cpp's loader uses instead, each only if it has the expected type.
        """
        given = overrides or {}
        named = _overridden(metadata.get("general.architecture"), given.get("general.architecture"), "string")
        architecture = named.value if named and isinstance(named.value, str) else ""
        if architecture in UNREAD:
            return cls(architecture, 0, 0, 0, importance=importance)

        def number(key: str, default: int = 0) -> int:
            full = f"{architecture}.{key}"
            stored = metadata.get(full)
            whole = key not in BY_LAYER or (stored is not None and not isinstance(stored.value, ArrayValue))
            read = _overridden(stored, given.get(full) if whole else None, "uint32")
            return default if read is None else _first_integer(read.value, f"{label}: key {full}")

        heads, nextn = number("attention.head_count"), number("nextn_predict_layers")
        layers = LAYER_COUNTS.get(architecture, _as_stored)(number("block_count"), nextn, number("num_loops", 1))
        return cls(
            architecture, layers, heads, number("attention.head_count_kv", heads), number("expert_count"), importance,
            nextn,
        )  # fmt: skip


def _as_stored(count: int, nextn: int, loops: int) -> int:
    return count


#: Architecture -> the layers that llama.cpp counts, given a file's block_count, its `nextn` and its num_loops.
LAYER_COUNTS: dict[str, Callable[[int, int, int], int]] = {
    # Goes through the same layers several times.
    "nanbeige": lambda count, nextn, loops: (count - nextn) * loops if loops > 1 else count,
    # One more layer chooses among adapters.
    "graniteswitch": lambda count, nextn, loops: count - nextn + 1,
}


#: Architectures of which llama.cpp reads only tensors, none of the numbers.
UNREAD = ("clip",)

#: Keys that may hold a number for each layer. llama.cpp overrides them only if the file has a single number.
BY_LAYER = ("attention.head_count", "attention.head_count_kv")


def _overridden(stored: Value | None, override: Value | None, kind: str) -> Value | None:
    return override if override is not None and override.type == kind else stored


def _first_integer(value: Any, where: str) -> int:
    """Return a whole number of 0 or more; the first one of an array (one number for each layer)."""
    values = value.decode() if isinstance(value, ArrayValue) else value
    first = next(iter(values), 0) if isinstance(values, list | tuple) else values
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise BadInput(
            f"{where}: expected a whole number of 0 or more, found {shown(first)}. Fix the tool that wrote the file."
        )
    return first


@dataclass(frozen=True)
class Case:
    """A tensor as the conditions see it: `index` of `count` of its kind. tied: whether there is no output.weight."""

    tensor: Tensor
    category: Category
    ftype: str
    facts: Facts
    tied: bool
    index: int = 0
    count: int = 0

    @property
    def base(self) -> str:
        return FTYPES[self.ftype].base

    @property
    def row(self) -> int:
        return self.tensor.shape[-1]


@dataclass
class Counters:
    """The number of tensors of each kind processed so far. values: how many V-like ones the model has."""

    values: int
    seen: Counter[Category] = field(default_factory=Counter)

    def place(self, tensor: Tensor, category: Category, ftype: str, facts: Facts) -> tuple[int, int]:
        """Count a tensor; return its (index, count). Raises `BadInput` if it belongs to no layer of the model."""
        kind = Category.V if category in V_LIKE else category
        index = self.seen[kind]
        self.seen[kind] += 1
        if kind is Category.V:
            return index, self.values
        named = kind in FEED_FORWARD and facts.experts > 1 and ftype not in (*LOW.split(), "mxfp4_moe")
        return _layer_in(tensor, facts) if named else index, facts.block_count


def _layer_in(tensor: Tensor, facts: Facts) -> int:
    number = layer(tensor.name)
    if number is None or number >= facts.block_count:
        raise BadInput(
            f"{tensor.name}: expected a name with a layer below {facts.block_count} (block_count), as mixtures for "
            "models with experts require. Fix the name or the metadata, or use --pure."
        )
    return number


FEED_FORWARD = (Category.DOWN, Category.GATE, Category.UP)

# Conditions.


def output(case: Case) -> bool:
    """Return whether the tensor is the output matrix, or the embeddings if these are used instead."""
    return case.category is Category.OUTPUT or (case.tied and case.category is Category.EMBEDDING)


def token_embd(case: Case) -> bool:
    return case.category is Category.EMBEDDING


def attn_v(case: Case) -> bool:
    """Return whether the tensor is V, also if it is fused with others (attn_qkv, attn_kv_b)."""
    return case.category in V_LIKE


def attn_k(case: Case) -> bool:
    return case.category is Category.K


def attn_q(case: Case) -> bool:
    return case.category is Category.Q


def attn_output(case: Case) -> bool:
    return case.category is Category.ATTENTION_OUTPUT


def ffn_down(case: Case) -> bool:
    return case.category is Category.DOWN


def ffn_gate_or_up(case: Case) -> bool:
    return case.category in (Category.GATE, Category.UP)


def falcon(case: Case) -> bool:
    return case.facts.architecture == "falcon"


def not_falcon(case: Case) -> bool:
    return not falcon(case)


def four_experts_or_more(case: Case) -> bool:
    return case.facts.experts >= 4


def eight_experts(case: Case) -> bool:
    return case.facts.experts == 8


def gqa_4_or_more(case: Case) -> bool:
    return case.facts.gqa >= 4


def importance_matrix(case: Case) -> bool:
    return case.facts.importance


def no_importance_matrix(case: Case) -> bool:
    return not case.facts.importance


def row_not_in_blocks(case: Case) -> bool:
    return case.row % block_size(case.base) != 0


def first_two(case: Case) -> bool:
    return case.index < 2


def first_four(case: Case) -> bool:
    return case.index < 4


def first_sixteenth(case: Case) -> bool:
    return case.index < case.count // 16


def first_eighth(case: Case) -> bool:
    return case.index < case.count // 8


def middle(case: Case) -> bool:
    """Return whether the layer is in neither the first nor the last eighth."""
    return case.count // 8 <= case.index < 7 * case.count // 8


def use_more_bits(case: Case) -> bool:
    """Return whether the layer is in the first or the last eighth, or one of every third between them."""
    return not middle(case) or (case.index - case.count // 8) % 3 == 2


def stacked_experts(case: Case) -> bool:
    """Return whether the tensor has three dimensions. MLA's projections do too, except in bailingmoe3."""
    stacked = len(case.tensor.shape) > 2 and case.tensor.shape[-3] > 1
    return stacked and (case.facts.architecture != "bailingmoe3" or case.category in FEED_FORWARD)


def sensitive_of_glm5_next(case: Case) -> bool:
    parts = ("attn_q_a", "attn_q_b", "nextn.eh_proj")
    return case.facts.architecture == "glm5-next" and any(part in case.tensor.name for part in parts)


#: Architecture -> layers of the model that llama.cpp calls 70B. llama's must have grouped queries; otherwise it is 65B.
SEVENTY_B = {"llama": 80, "llama-embed": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}


def seventy_b(case: Case) -> bool:
    facts = case.facts
    if facts.architecture in ("llama", "llama-embed") and facts.heads == facts.kv_heads:
        return False
    return SEVENTY_B.get(facts.architecture) == facts.block_count - facts.nextn


#: Condition -> how reasons state it; a condition without an entry says nothing to users.
PHRASES = {
    output: "output matrix",
    token_embd: "embeddings",
    attn_v: "attn_v",
    attn_k: "attn_k",
    attn_q: "attn_q",
    attn_output: "attn_output",
    ffn_down: "ffn_down",
    ffn_gate_or_up: "ffn_gate and ffn_up",
    falcon: "Falcon",
    four_experts_or_more: "4 or more experts",
    eight_experts: "8 experts",
    gqa_4_or_more: "4 or more query heads per key head",
    importance_matrix: "with an importance matrix",
    no_importance_matrix: "without an importance matrix",
    row_not_in_blocks: "rows do not fill blocks",
    first_two: "first two layers",
    first_four: "first four layers",
    first_sixteenth: "first sixteenth of the layers",
    first_eighth: "first eighth of the layers",
    middle: "middle layers",
    use_more_bits: "first and last eighth of the layers, and every third between",
    stacked_experts: "stacked experts",
    sensitive_of_glm5_next: "sensitive in GLM-5",
    seventy_b: "70B model",
}


@dataclass(frozen=True)
class TypeRule:
    """The type of tensors for which all conditions hold. ftypes: names separated by spaces."""

    ftypes: str
    conditions: tuple[Callable[[Case], bool], ...]
    type: str

    @property
    def reason(self) -> str:
        return ", ".join(PHRASES[holds] for holds in self.conditions if holds in PHRASES)


BASE = "base"
EVERY = " ".join(FTYPES)
SMALLEST = "iq1_s iq1_m iq2_xxs iq2_xs"
SMALL = "iq2_s iq2_m"
LOW = f"{SMALLEST} {SMALL}"

#: The first rule that applies decides; without one, the base type.
MIXTURE = (
    TypeRule(EVERY, (sensitive_of_glm5_next,), "q8_0"),
    # The output.
    TypeRule("mxfp4_moe", (output,), "q8_0"),
    TypeRule(EVERY, (output, falcon), "q8_0"),
    TypeRule(EVERY, (output, row_not_in_blocks), "q8_0"),
    TypeRule(f"{LOW} iq3_xxs", (output,), "q5_k"),
    TypeRule("q8_0", (output,), "q8_0"),
    TypeRule(EVERY, (output,), "q6_k"),
    # Models in which almost all weights are experts.
    TypeRule("mxfp4_moe", (stacked_experts,), "mxfp4"),
    TypeRule("mxfp4_moe", (), "q8_0"),
    # Embeddings that are not used as the output.
    TypeRule(SMALLEST, (token_embd,), "q2_k"),
    TypeRule(f"{SMALL} iq3_xxs", (token_embd,), "iq3_s"),
    TypeRule("tq1_0 tq2_0 q2_0", (token_embd,), "q4_k"),
    # The ftypes of about two bits or less: no later rule applies to them.
    TypeRule(LOW, (attn_v, gqa_4_or_more), "q4_k"),
    TypeRule(LOW, (attn_v, four_experts_or_more), "q4_k"),
    TypeRule(SMALLEST, (attn_v,), "q2_k"),
    TypeRule(SMALL, (attn_v,), "iq3_s"),
    TypeRule(LOW, (attn_k, eight_experts), "q4_k"),
    TypeRule(SMALLEST, (ffn_down, first_eighth), "q2_k"),
    TypeRule(SMALL, (ffn_down, first_eighth), "iq3_s"),
    TypeRule(LOW, (attn_output, eight_experts), "q5_k"),
    TypeRule("iq1_s iq1_m", (attn_output,), "iq2_xxs"),
    TypeRule(SMALL, (attn_output,), "iq3_s"),
    TypeRule(LOW, (), BASE),
    # attn_v.
    TypeRule(EVERY, (attn_v, eight_experts), "q8_0"),
    TypeRule("q2_k q2_k_s iq3_xxs iq3_xs iq3_s", (attn_v, gqa_4_or_more), "q4_k"),
    TypeRule("iq4_nl iq4_xs", (attn_v, gqa_4_or_more), "q5_k"),
    TypeRule("q2_k", (attn_v,), "q3_k"),
    TypeRule("iq3_xxs", (attn_v, no_importance_matrix), "iq3_s"),
    TypeRule("iq3_m", (attn_v,), "q4_k"),
    TypeRule("q3_k_m", (attn_v, first_two), "q5_k"),
    TypeRule("q3_k_m", (attn_v,), "q4_k"),
    TypeRule("q3_k_l", (attn_v,), "q5_k"),
    TypeRule("q4_k_m q5_k_m", (attn_v, use_more_bits), "q6_k"),
    TypeRule("q4_k_s", (attn_v, first_four), "q5_k"),
    # attn_k and attn_q.
    TypeRule(EVERY, (attn_k, eight_experts), "q8_0"),
    TypeRule("iq3_xs", (attn_k,), "iq3_xxs"),
    TypeRule("iq3_xxs", (attn_k,), "iq2_s"),
    TypeRule("iq3_xs", (attn_q,), "iq3_xxs"),
    TypeRule("iq3_xxs", (attn_q,), "iq2_s"),
    # ffn_down.
    TypeRule("q2_k", (ffn_down,), "q3_k"),
    TypeRule("q2_k_s", (ffn_down, first_eighth), "q4_k"),
    TypeRule("iq3_xxs", (ffn_down, no_importance_matrix, first_eighth), "q4_k"),
    TypeRule("iq3_xxs", (ffn_down, no_importance_matrix), "q3_k"),
    TypeRule("q3_k_m", (ffn_down, first_sixteenth), "q5_k"),
    TypeRule("q3_k_m", (ffn_down, not_falcon), "q4_k"),
    TypeRule("q3_k_m", (ffn_down, falcon, use_more_bits), "q4_k"),
    TypeRule("iq3_m", (ffn_down, first_eighth), "q4_k"),
    TypeRule("iq3_m", (ffn_down, eight_experts, use_more_bits), "q4_k"),
    TypeRule("q3_k_l", (ffn_down, falcon), "q4_k"),
    TypeRule("q3_k_l", (ffn_down,), "q5_k"),
    TypeRule("q4_k_m", (ffn_down, falcon, first_sixteenth), "q6_k"),
    TypeRule("q4_k_m", (ffn_down, falcon, use_more_bits), "q5_k"),
    TypeRule("q4_k_m", (ffn_down, not_falcon, use_more_bits), "q6_k"),
    TypeRule("q5_k_m", (ffn_down, use_more_bits), "q6_k"),
    TypeRule("q4_k_s", (ffn_down, not_falcon, first_eighth), "q5_k"),
    TypeRule("iq4_nl iq4_xs", (ffn_down, no_importance_matrix, first_eighth), "q5_k"),
    TypeRule("q4_0", (ffn_down, importance_matrix, first_eighth), "q4_1"),
    TypeRule("q5_0", (ffn_down, importance_matrix, first_eighth), "q5_1"),
    # attn_output.
    TypeRule("q3_k_l", (attn_output, falcon), "q4_k"),
    TypeRule(EVERY, (attn_output, falcon), BASE),
    TypeRule(
        "q2_k iq3_xs iq3_xxs q3_k_s q3_k_m iq4_nl q4_k_s q4_k_m iq3_s iq3_m iq4_xs",
        (attn_output, eight_experts),
        "q5_k",
    ),
    TypeRule(EVERY, (attn_output, eight_experts), BASE),
    TypeRule("q2_k", (attn_output,), "q3_k"),
    TypeRule("iq3_xxs", (attn_output,), "iq3_s"),
    TypeRule("q3_k_m iq3_m", (attn_output,), "q4_k"),
    TypeRule("q3_k_l", (attn_output,), "q5_k"),
    # ffn_gate and ffn_up.
    TypeRule("iq3_xs", (ffn_gate_or_up, middle), "iq3_xxs"),
)

#: Conditions, and the types that they change, outside `LOW` and `mxfp4_moe`: the 70B's attn_v are small, since eight
#: heads share one.
AFTERWARDS = ((attn_v, seventy_b), {"q3_k": "q5_k", "q4_k": "q5_k"})

_BY_FTYPE = {name: tuple(rule for rule in MIXTURE if name in rule.ftypes.split()) for name in FTYPES}


def choose(case: Case) -> tuple[str, str]:
    """Return the type that the mixture gives a tensor, whatever its rows, and the conditions that hold (or `""`)."""
    rule = next((rule for rule in _BY_FTYPE[case.ftype] if all(holds(case) for holds in rule.conditions)), None)
    kind, reason = (rule.type, rule.reason) if rule else (BASE, "")
    kind = case.base if kind == BASE else kind
    conditions, changed = AFTERWARDS
    if case.ftype in LOW.split() or kind not in changed or not all(holds(case) for holds in conditions):
        return kind, reason
    return changed[kind], ", ".join(part for part in (reason or PHRASES[attn_v], PHRASES[seventy_b]) if part)
