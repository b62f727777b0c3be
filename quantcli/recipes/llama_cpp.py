"""What llama-quantize makes of a model: which GGML type each tensor gets for `-s q4_k_m` and its like.

    copy             every tensor keeps its type
    not allowed      one-dimensional, a norm, a router ...: the type that it has
    option           --token-embedding-type, --output-tensor-type: that type, whatever its shape
    option           the first --tensor-type whose regex is found in the name, then --pure (quantized ftypes only)
    mixture          `llama_cpp_mixture`: the first rule that holds, else the ftype's base type
    shape fallback   where blocks do not fill the rows (not after the two options above)

What is decided before the mixture does not advance the mixture's counters of layers.

Source: llama.cpp's src/llama-quant.cpp and tools/quantize (ggml 0.25.3). The ftypes stand in `ftypes`, what a tensor is
in `llama_cpp_tensors`; what other folders need of them is named here.
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
    """One `--tensor-type REGEX=TYPE`: the regex as `ecmascript` has it; `text` is what was given."""

    pattern: re.Pattern[bytes]
    type: str
    text: str

    def names(self, tensor: str) -> bool:
        """Whether it is found in a tensor's name."""
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
        """Each as reasons of decisions begin with it."""
        whole = {"--pure": self.pure, "--leave-output-tensor": self.leave_output}
        types = {"--output-tensor-type": self.output_type, "--token-embedding-type": self.embedding_type}
        return [
            *(option for option, is_given in whole.items() if is_given),
            *(f"{option} {kind}" for option, kind in types.items() if kind),
            *(f"--tensor-type {option.text}" for option in self.tensor_types),
        ]

    def named(self, name: str) -> TensorType | None:
        """The first `--tensor-type` found in a tensor's name."""
        return next((option for option in self.tensor_types if option.names(name)), None)

    def unmatched(self, tensors: Iterable[Tensor]) -> list[str]:
        """The `--tensor-type` options that are found in no name."""
        everything = [tensor.name for tensor in tensors]
        return [option.text for option in self.tensor_types if not any(map(option.names, everything))]


def ggml_type(text: str, option: str) -> str:
    """The GGML type that an option names, in any case. Raises `WrongUsage`."""
    name = text.strip().lower()
    if name not in names.GGML + DENSE_DTYPES:
        raise WrongUsage(f"{option}: {text[:100]!r} is no type of GGML ({' '.join(DENSE_DTYPES + names.GGML)}).")
    return name


def tensor_type(text: str) -> TensorType:
    """One `--tensor-type REGEX=TYPE`. Raises `WrongUsage`, quoting the text."""
    said = f"--tensor-type {text[:100]!r}"
    pattern, equals, kind = text.partition("=")
    if not (pattern and equals and kind) or len(pattern) > MAX_PATTERN:
        raise WrongUsage(f"{said} needs REGEX=TYPE, such as --tensor-type attn_v=q8_0.")
    try:
        return TensorType(compiled(pattern), ggml_type(kind, said), text)
    except (re.error, RecursionError, OverflowError) as error:
        raise WrongUsage(f"{said}: a bad regular expression ({error}).") from None


def tensor_type_file(text: str) -> tuple[TensorType, ...]:
    """The contents of a `--tensor-type-file`: options as above, separated by spaces or newlines."""
    return tuple(map(tensor_type, text.split()))


@dataclass(frozen=True)
class Model:
    """What stays the same from tensor to tensor. tied: there is no output.weight."""

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
    """The type of every tensor, in processing order; origin OPTION where an option chose it, else PRESET.

    tensors: all of the model, after pruning, with their new names. decided: names that something stronger has decided;
    they are left out of the answer and, as what llama-quantize's own options decide, not counted as layers. in_order:
    `tensors` come in the order in which they are handled, as with `--keep-split`.
    A type that `--output-tensor-type` or `--token-embedding-type` names is given whatever the row length, as
    llama-quantize does. Raises `NotPossible` where no type fits the rows, `WrongUsage` for an unknown ftype, `BadInput`
    where a tensor of a model with experts has no layer.
    """
    handled = tensors if in_order else processing_order(tensors)
    ordered = [tensor for tensor in handled if tensor.name not in decided]
    if ftype == COPY:
        return {tensor.name: Decision(tensor.type, "preset copy", Origin.PRESET) for tensor in ordered}
    if ftype not in FTYPES:
        raise WrongUsage(f"--scheme {ftype}: is no mixture that we know; {' '.join((*FTYPES, COPY))} are.")
    kinds = [category(tensor.name) for tensor in tensors]
    model = Model(ftype, facts, options or Options(), tied=Category.OUTPUT not in kinds)
    counters = Counters(sum(kind in V_LIKE for kind in kinds))
    return {tensor.name: _decide(model.case(tensor), model.options, counters) for tensor in ordered}


def _decide(case: Case, options: Options, counters: Counters) -> Decision:
    tensor, name = case.tensor, case.tensor.name
    why = never(name, tensor.shape, case.facts.architecture)
    if why is not None:
        return Decision(tensor.type, f"never quantized: {why}", Origin.PRESET)
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


def _option(case: Case, options: Options) -> Decision | None:
    """The options that take the mixture's place, for a quantized ftype."""
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
    kind, said = choose(replace(case, index=index, count=count))
    return Decision(kind, f"preset {case.ftype}: {said}" if said else f"preset {case.ftype}", Origin.PRESET)


def idle(options: Options, tensors: Sequence[Tensor], decisions: Mapping[str, Decision], ftype: str) -> list[str]:
    """A sentence for every option that decides none of `decisions`, which `assign` made of `tensors`."""
    deciding = [decision.reason for decision in decisions.values() if decision.origin is Origin.OPTION]
    unmatched = {f"--tensor-type {text}": text for text in options.unmatched(tensors)}
    has_output = any(category(tensor.name) is Category.OUTPUT for tensor in tensors)
    return [
        f"--tensor-type: {unmatched[option]} matches no tensor."
        if option in unmatched
        else f"{option} changes nothing: {_why_idle(option, ftype, has_output)}."
        for option in options.given
        if not any(reason.startswith(option) for reason in deciding)
    ]


def _why_idle(option: str, ftype: str, has_output: bool) -> str:
    if not has_output and option.startswith(("--leave-output-tensor", "--output-tensor-type")):
        return "the model has no output.weight, its token_embd.weight stands in for it"
    if FTYPES[ftype].base in DENSE_DTYPES and option.startswith(("--pure", "--tensor-type")):
        return f"{ftype} quantizes nothing"
    return "every tensor that it could decide is decided otherwise or stays as it is"


def demands_importance(decisions: Mapping[str, Decision], ftype: str = "") -> list[str]:
    """The names, of the tensors to be quantized, for which llama-quantize demands an entry in an importance matrix.

    Token embeddings and the output are never among them: they have no entry as a rule.
    """
    types = demanding(ftype)
    return [name for name, decision in decisions.items() if decision.scheme in types and name not in WHOLE_NAMES]
