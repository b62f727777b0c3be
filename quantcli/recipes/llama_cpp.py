"""The GGML type that llama-quantize gives each tensor for `-s q4_k_m` and similar file types.

    copy             every tensor keeps its type
    never            a 1-D tensor, a norm, a router ...: the tensor keeps its type
    option           --token-embedding-type, --output-tensor-type: that type, whatever the shape
    option           the first --tensor-type whose regex is found in the name, then --pure (quantized ftypes only)
    mixture          `llama_cpp_mixture`: the first rule that applies, else the ftype's base type
    shape fallback   if rows do not fill blocks (not after the first two options)

Tensors that are decided before the mixture do not advance its counters of layers.

Source: llama.cpp's src/llama-quant.cpp and tools/quantize (ggml 0.25.3). File types are in `ftypes`, categories of
tensors in `llama_cpp_tensors`; this module re-exports what other packages use.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from quantcli.dtypes import DENSE_DTYPES
from quantcli.errors import WrongUsage
from quantcli.recipes import names
from quantcli.recipes.base import MAX_PATTERN, Decision, Origin
from quantcli.recipes.ecmascript import compiled
from quantcli.recipes.ftypes import ALIASES, COPY, FTYPES, demanding, find
from quantcli.recipes.llama_cpp_mixture import Case, Counters, Facts, choose, output
from quantcli.recipes.llama_cpp_tensors import (
    V_LIKE,
    WHOLE_NAMES,
    Category,
    Tensor,
    category,
    file_type,
    fitting,
    never,
    processing_order,
)

__all__ = [
    "ALIASES",
    "COPY",
    "FTYPES",
    "Facts",
    "Options",
    "Tensor",
    "TensorType",
    "assign",
    "demands_importance",
    "file_type",
    "find",
    "fitting",
    "ggml_type",
    "idle",
    "never",
    "processing_order",
    "tensor_type",
    "tensor_type_file",
]


@dataclass(frozen=True)
class TensorType:
    """One `--tensor-type REGEX=TYPE`. pattern: translated by `ecmascript`. text: the option's value."""

    pattern: re.Pattern[bytes]
    type: str
    text: str

    def names(self, tensor: str) -> bool:
        """Return whether the pattern is found in a tensor's name."""
        return self.pattern.search(tensor.encode()) is not None


@dataclass(frozen=True)
class Options:
    """llama-quantize's options that choose types."""

    pure: bool = False
    leave_output: bool = False
    output_type: str | None = None
    embedding_type: str | None = None
    tensor_types: tuple[TensorType, ...] = ()

    @property
    def given(self) -> list[str]:
        """The options that were given, as the reasons of their decisions begin."""
        whole = {"--pure": self.pure, "--leave-output-tensor": self.leave_output}
        types = {"--output-tensor-type": self.output_type, "--token-embedding-type": self.embedding_type}
        return [
            *(option for option, is_given in whole.items() if is_given),
            *(f"{option} {kind}" for option, kind in types.items() if kind),
            *(f"--tensor-type {option.text}" for option in self.tensor_types),
        ]

    def named(self, name: str) -> TensorType | None:
        """Return the first `--tensor-type` that matches a tensor's name; None without one."""
        return next((option for option in self.tensor_types if option.names(name)), None)

    def unmatched(self, tensors: Iterable[Tensor]) -> list[str]:
        """Return the `--tensor-type` options that match no name."""
        everything = [tensor.name for tensor in tensors]
        return [option.text for option in self.tensor_types if not any(map(option.names, everything))]


def ggml_type(text: str, option: str) -> str:
    """Return the GGML type that an option names, in any case. Raises `WrongUsage`."""
    name = text.strip().lower()
    if name not in names.GGML + DENSE_DTYPES:
        known = ", ".join(DENSE_DTYPES + names.GGML)
        raise WrongUsage(f"{option}: GGML type {text[:100]!r} is not supported. Supported: {known}.")
    return name


def tensor_type(text: str) -> TensorType:
    """Parse one `--tensor-type REGEX=TYPE`. Raises `WrongUsage`."""
    option = f"--tensor-type {text[:100]!r}"
    pattern, equals, kind = text.partition("=")
    if not (pattern and equals and kind) or len(pattern) > MAX_PATTERN:
        raise WrongUsage(f"{option}: is not REGEX=TYPE. Use, for example, --tensor-type attn_v=q8_0.")
    try:
        return TensorType(compiled(pattern), ggml_type(kind, option), text)
    except (re.error, RecursionError, OverflowError) as error:
        raise WrongUsage(f"{option}: is not a valid regular expression ({error}).") from None


def tensor_type_file(text: str) -> tuple[TensorType, ...]:
    """Parse the contents of a `--tensor-type-file`: values of --tensor-type, separated by whitespace."""
    return tuple(map(tensor_type, text.split()))


@dataclass(frozen=True)
class Model:
    """What all tensors have in common. tied: whether there is no output.weight."""

    ftype: str
    facts: Facts
    options: Options
    tied: bool

    def case(self, tensor: Tensor) -> Case:
        return Case(tensor, category(tensor.name), self.ftype, self.facts, self.tied)


def assign(
    tensors: Sequence[Tensor], ftype: str, facts: Facts, options: Options | None = None, decided: Container[str] = (),
    *, in_order: bool = False,
) -> dict[str, Decision]:  # fmt: skip
    """Return the type of every tensor, in processing order; origin OPTION if an option chose it, else PRESET.

    tensors: all of the model's, after pruning, with their new names. decided: names that a layer of higher precedence
    has decided; they are omitted and, like tensors that llama-quantize's options decide, not counted as layers.
    in_order: whether `tensors` are in processing order already, as with `--keep-split`.
    As in llama-quantize, `--output-tensor-type` and `--token-embedding-type` apply whatever the row length.
    Raises `NotPossible` if no type fits the rows, `WrongUsage` for an unknown ftype, `BadInput` if a tensor of a model
    with experts has no layer.
    """
    handled = tensors if in_order else processing_order(tensors)
    ordered = [tensor for tensor in handled if tensor.name not in decided]
    if ftype == COPY:
        return {tensor.name: Decision(tensor.type, "preset copy", Origin.PRESET) for tensor in ordered}
    if ftype not in FTYPES:
        raise WrongUsage(f"--scheme {ftype}: is not a mixture. Supported: {', '.join((*FTYPES, COPY))}.")
    kinds = [category(tensor.name) for tensor in tensors]
    model = Model(ftype, facts, options or Options(), tied=Category.OUTPUT not in kinds)
    counters = Counters(sum(kind in V_LIKE for kind in kinds))
    return {tensor.name: _decide(model.case(tensor), model.options, counters) for tensor in ordered}


def _decide(case: Case, options: Options, counters: Counters) -> Decision:
    tensor, name = case.tensor, case.tensor.name
    reason = never(name, tensor.shape, case.facts.architecture)
    if reason is not None:
        return Decision(tensor.type, f"never quantized: {reason}", Origin.PRESET)
    if options.leave_output and case.category is Category.OUTPUT:
        return Decision(tensor.type, "--leave-output-tensor", Origin.OPTION)
    final = _final_option(case, options)
    if final is not None:
        return final
    if case.base in DENSE_DTYPES:
        return Decision(case.base, f"preset {case.ftype}", Origin.PRESET)
    chosen = _option(case, options) or _mixture(case, counters)
    fits = fitting(chosen.scheme, case.row, name)
    if fits == chosen.scheme:
        return chosen
    reason = f"{chosen.reason}; {fits} because rows of {case.row} values do not fill blocks of {chosen.scheme}"
    return Decision(fits, reason, chosen.origin, wanted=chosen.scheme)


def _final_option(case: Case, options: Options) -> Decision | None:
    """Return the decision of the two options that override everything, even the shape fallback; else None."""
    named = case.tensor.name == "per_layer_token_embd.weight" and options.named(case.tensor.name)
    if options.embedding_type and case.category is Category.EMBEDDING and not named:
        return Decision(options.embedding_type, f"--token-embedding-type {options.embedding_type}", Origin.OPTION)
    if options.output_type and case.category is Category.OUTPUT:
        return Decision(options.output_type, f"--output-tensor-type {options.output_type}", Origin.OPTION)
    return None


def _option(case: Case, options: Options) -> Decision | None:
    """Return the decision of the options that replace the mixture of a quantized ftype; None without one."""
    named = options.named(case.tensor.name)
    if named:
        return Decision(named.type, f"--tensor-type {named.text}", Origin.OPTION)
    if options.pure:
        return Decision(case.base, f"--pure {case.base}", Origin.OPTION)
    if options.output_type and output(case):
        return Decision(options.output_type, f"--output-tensor-type {options.output_type}, tied", Origin.OPTION)
    return None


def _mixture(case: Case, counters: Counters) -> Decision:
    index, count = counters.place(case.tensor, case.category, case.ftype, case.facts)
    kind, conditions = choose(replace(case, index=index, count=count))
    reason = f"preset {case.ftype}: {conditions}" if conditions else f"preset {case.ftype}"
    return Decision(kind, reason, Origin.PRESET)


def idle(options: Options, tensors: Sequence[Tensor], decisions: Mapping[str, Decision], ftype: str) -> list[str]:
    """Return a warning for every option that decides none of `decisions`, the result of `assign` for `tensors`."""
    deciding = [decision.reason for decision in decisions.values() if decision.origin is Origin.OPTION]
    unmatched = {f"--tensor-type {text}": text for text in options.unmatched(tensors)}
    has_output = any(category(tensor.name) is Category.OUTPUT for tensor in tensors)
    return [
        f"--tensor-type: {unmatched[option]} matches no tensor."
        if option in unmatched
        else f"{option} has no effect: {_why_idle(option, ftype, has_output)}."
        for option in options.given
        if not any(reason.startswith(option) for reason in deciding)
    ]


def _why_idle(option: str, ftype: str, has_output: bool) -> str:
    if not has_output and option.startswith(("--leave-output-tensor", "--output-tensor-type")):
        return "the model has no output.weight (token_embd.weight is used instead)"
    if FTYPES[ftype].base in DENSE_DTYPES and option.startswith(("--pure", "--tensor-type")):
        return f"{ftype} quantizes nothing"
    return "other options or rules decide every tensor that it applies to"


def demands_importance(decisions: Mapping[str, Decision], ftype: str = "") -> list[str]:
    """Return the names of the tensors for which llama-quantize requires an entry in an importance matrix.

    Never the token embeddings and the output, which usually have no entry.
    """
    types = demanding(ftype)
    return [name for name, decision in decisions.items() if decision.scheme in types and name not in WHOLE_NAMES]
