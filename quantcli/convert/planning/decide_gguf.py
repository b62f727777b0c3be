"""Deciding the type of each tensor of a GGUF file: llama-quantize's mixture for `-s`, below explicit rules.

A name that is both a mixture and a type (`q4_0`) means the mixture; in rules, overrides and with `--pure` the
plain type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quantcli.checkpoint import Checkpoint
from quantcli.containers.gguf_values import Value
from quantcli.convert.planning.chosen import KEEP, Chosen
from quantcli.convert.planning.gguf_options import read_by_loader, tensor_types
from quantcli.convert.planning.request import GGUF_OPTIONS, Request
from quantcli.errors import NotPossible, WrongUsage
from quantcli.recipes import names
from quantcli.recipes.base import Decision, Layer, Origin, resolve
from quantcli.recipes.llama_cpp import (
    FTYPES,
    Facts,
    Options,
    Tensor,
    assign,
    demands_importance,
    fitting,
    ggml_type,
    idle,
    never,
)  # fmt: skip
from quantcli.targets import gguf_metadata
from quantcli.targets.base import Draft
from quantcli.targets.model import Model

#: `general.type` or `general.architecture` of files that are not models: llama-quantize refuses them.
ADAPTERS = {"adapter": "an adapter", "controlvector": "a control vector"}


def decisions(
    source: Checkpoint, drafts: Sequence[Draft], request: Request, given: Layer, recipes: Sequence[Layer],
    common: Decision | None, warnings: list[str], importance: bool,
) -> Chosen:  # fmt: skip
    """Return a decision for every draft. given: overrides; recipes: entries of files; common: the model's scheme.

    Adds to `warnings`. Raises `WrongUsage` and `NotPossible`.
    """
    tensors = [_tensor(draft) for draft in drafts]
    overridden = {d.name: _fitted(decision, d) for d in drafts if (decision := given(d.subject))}
    entries = {d.name: _fitted(decision, d) for d in drafts if (decision := resolve(d.subject, recipes))}
    options = _options(request)
    name = common.scheme if common else "keep"
    _refuse_adapter(source, name)
    if name not in FTYPES and options != Options():
        option = next(option for field, option in GGUF_OPTIONS.items() if getattr(request, field))
        raise WrongUsage(
            f"{option} changes a preset of llama-quantize, so it requires --scheme with one of {', '.join(FTYPES)}."
        )
    if name in FTYPES:
        below = assign(
            tensors, name, _facts(source, request, importance), options, overridden, in_order=request.keep_split
        )  # fmt: skip
        warnings += idle(options, tensors, below, name)
    elif common is None or name in names.WORDS:
        below = {d.name: common or KEEP for d in drafts}
    elif name not in names.GGML:
        presets = ", ".join(FTYPES)
        raise WrongUsage(f"{common.reason}: {name} is not a type or preset of GGUF files. Presets: {presets}.")
    else:
        below = {tensor.name: _plain(tensor, common) for tensor in tensors}
    by_option = {key: decision for key, decision in below.items() if decision.origin is Origin.OPTION}
    number = FTYPES[name].number if name in FTYPES else None
    decided = below | entries | by_option | overridden
    demanding = frozenset(demands_importance(decided, name))
    return Chosen(decided, None, None, number, tuple(warnings), demanding)


def _refuse_adapter(source: Checkpoint, scheme: str) -> None:
    """Raise `NotPossible` for a scheme for a file without weights to quantize."""
    stated = (source.metadata.get(key) for key in ("general.type", "general.architecture"))
    kind = next((ADAPTERS[value.value] for value in stated if value and value.value in ADAPTERS), None)
    if kind is not None and scheme not in names.WORDS:
        raise NotPossible(
            f"--scheme {scheme}: {source.root} is {kind}, whose tensors are not quantized. Leave out --scheme to copy "
            "it."
        )


def _fitted(decision: Decision, draft: Draft) -> Decision:
    """Return an explicit rule's type, or llama-quantize's replacement if its blocks do not divide the rows."""
    if decision.scheme in names.WORDS or decision.scheme not in names.GGML or draft.stays:
        return decision
    fits = fitting(decision.scheme, draft.shape[-1], draft.name)
    if fits == decision.scheme:
        return decision
    reason = f"{decision.reason}; its blocks do not divide rows of {draft.shape[-1]}"
    return replace(decision, scheme=fits, reason=reason, wanted=decision.scheme)


def _tensor(draft: Draft) -> Tensor:
    """Return a draft as the rules see it; without them its type is a word: keep its codes, or stay dense."""
    return Tensor(draft.name, draft.shape, "keep" if draft.is_quantized else "dense")


def _options(request: Request) -> Options:
    output, embedding = request.output_tensor_type, request.token_embedding_type
    return Options(
        pure=request.pure,
        leave_output=request.leave_output_tensor,
        output_type=ggml_type(output, "--output-tensor-type") if output else None,
        embedding_type=ggml_type(embedding, "--token-embedding-type") if embedding else None,
        tensor_types=tensor_types(request),
    )


def _facts(source: Checkpoint, request: Request, importance: bool) -> Facts:
    metadata = source.metadata
    if source.names != "gguf":
        written = gguf_metadata.keys(Model.of(source).hyperparameters, None, {}, 0, True)
        metadata = {key: Value(*typed) for key, typed in written.items()}
    return Facts.of(metadata, importance, str(source.root), read_by_loader(request))


def _plain(tensor: Tensor, common: Decision) -> Decision:
    """Return the decision for a type that is not a preset: for all tensors that llama-quantize quantizes."""
    why = never(tensor.name, tensor.shape)
    if why is not None:
        return Decision(tensor.type, f"never quantized: {why}", Origin.PRESET)
    fits = fitting(common.scheme, tensor.shape[-1], tensor.name)
    if fits == common.scheme:
        return common
    return Decision(
        fits, f"blocks of {common.scheme} do not divide rows of {tensor.shape[-1]}", Origin.GLOBAL, common.scheme
    )
