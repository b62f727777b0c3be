"""Conversion of GGUF tensors in another layout (`layouts`) to the tables' layout, without changing a value.

    attn_qkv [q; k; v]                  ->   attn_q, attn_k, attn_v           ranges of its rows
    ffn_gate_up_exps [e: gate; up]      ->   ffn_gate_exps, ffn_up_exps       ranges of the rows of each expert
    ffn_gate.0, ffn_gate.1 ...          ->   ffn_gate_exps                    stacked
    attn_kv_b                           ->   Hugging Face's kv_b_proj         unchanged

Rows keep the type in which they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from quantcli.checkpoint import Weight
from quantcli.errors import BadInput
from quantcli.models.base import Architecture, Found
from quantcli.models.layouts import Pieces, Range, Unsplit
from quantcli.models.stored import Stored
from quantcli.schemes.dense import Dense
from quantcli.virtual import join, reshaped, section


@dataclass(frozen=True)
class Relaid:
    """The weights of a file in the tables' layout.

    weights: under GGUF names. unsplit: under Hugging Face names, in that arrangement; covered: the GGUF names of the
    tensors that these replace. repeated: stored tensors whose values an unsplit one has too. layouts: the patterns of
    the file's tensors whose layout differs from the tables'.
    """

    weights: Mapping[str, Weight]
    unsplit: Mapping[str, Weight]
    covered: frozenset[str]
    repeated: tuple[str, ...]
    layouts: frozenset[str]


def relaid(weights: Mapping[str, Weight], architecture: Architecture, file: Stored) -> Relaid:
    """Return the weights of a GGUF file in the tables' layout. Raises `BadInput` for a tensor that does not fit."""
    candidates = {name: architecture.find_layouts(name) for name in weights if not architecture.find(name, "gguf")}
    other = {name: rows for name, rows in candidates.items() if rows}
    made: list[tuple[str, Weight]] = []
    pieces: dict[str, list[_Piece]] = {}
    unsplit: dict[str, Weight] = {}
    covered: set[str] = set()
    for name, rows in other.items():
        if parts := [one for one, layout in rows if isinstance(layout, Unsplit)]:
            unsplit[parts[0].name("hf")] = weights[name]
            covered |= {one.name("gguf") for one in parts}
        if ranges := [(one, layout) for one, layout in rows if isinstance(layout, Range)]:
            made += _cut(weights[name], ranges, file)
        for piece in (_Piece(one, layout, weights[name]) for one, layout in rows if isinstance(layout, Pieces)):
            pieces.setdefault(piece.found.name("gguf"), []).append(piece)
    made += [(target, _put_together(target, members, file)) for target, members in pieces.items()]
    twice = next(((target, weight.name) for target, weight in made if target in weights), None)
    if twice is not None:
        raise BadInput(f"{file.every.label}: {twice[0]} and {twice[1]} store the same rows. Remove one of them.")
    return Relaid(
        {name: weight for name, weight in weights.items() if name not in {*other, *covered}} | dict(made),
        unsplit,
        frozenset(covered),
        tuple(name for name in weights if name in covered),
        frozenset(pattern for rows in other.values() for _, layout in rows for pattern in layout.patterns),
    )


@dataclass(frozen=True)
class _Piece:
    """A stored tensor that is a piece of a table's tensor."""

    found: Found
    layout: Pieces
    weight: Weight


def _cut(weight: Weight, ranges: Sequence[tuple[Found, Range]], file: Stored) -> list[tuple[str, Weight]]:
    """Split a stored tensor into the table's tensors, whose rows follow one another in each of its matrices."""
    matrix = _as_matrix(weight, file)
    height = matrix.shape[-2]
    heights = [layout.rows(file) if layout.rows else height // len(ranges) for _, layout in ranges]
    if sum(heights) != height:
        roles = ", ".join(f"{found.row.role} {rows}" for (found, _), rows in zip(ranges, heights, strict=True))
        raise BadInput(
            f"{file.every.label}: tensor {weight.name}: expected {sum(heights)} rows ({roles}), found {height}. "
            "The metadata and the tensors do not match. Download the file again."
        )
    cut, start = [], 0
    for (found, _), rows in zip(ranges, heights, strict=True):
        cut.append((found.name("gguf"), _shaped(_rows(matrix, start, start + rows, file), weight)))
        start += rows
    return cut


def _rows(weight: Weight, start: int, stop: int, file: Stored) -> Weight:
    """Return rows start..stop of each of a weight's matrices."""
    *leading, height, width = weight.shape
    begins = range(0, math.prod(leading) * height, height)
    cut = [part for at in begins if (part := section(weight, at + start, at + stop)) is not None]
    if not cut or len(cut) < len(begins):
        raise BadInput(
            f"{file.every.label}: tensor {weight.name} is {weight.scheme.name}, which cannot be split by rows."
        )
    return replace(join(cut), shape=(*leading, stop - start, width))


def _put_together(target: str, members: Sequence[_Piece], file: Stored) -> Weight:
    """Join the pieces of a table's tensor: rows one after another, or experts stacked."""
    first, pattern = members[0], members[0].layout.patterns[0]
    is_stacked = "{e}" in pattern
    stored = [member.weight for member in (_by_expert if is_stacked else _by_place)(target, members, file)]
    same = 0 if is_stacked else 1
    odd = next((weight for weight in stored if weight.shape[same:] != stored[0].shape[same:]), None)
    if odd is not None:
        raise BadInput(
            f"{file.every.label}: {stored[0].name} {list(stored[0].shape)} and {odd.name} {list(odd.shape)} cannot be "
            f"joined into {target}."
        )
    if is_stacked:
        return replace(join(stored), shape=(len(stored), *first.weight.shape))
    return _shaped(join([_as_matrix(weight, file) for weight in stored]), stored[0])


def _by_expert(target: str, members: Sequence[_Piece], file: Stored) -> list[_Piece]:
    """Return the pieces in the order of experts. Raises `BadInput` if their number is not the metadata's."""
    count = file.integer("expert_count")
    numbered = {member.found.expert: member for member in members}
    absent = next((expert for expert in range(count) if expert not in numbered), None)
    if absent is not None or len(numbered) > count:
        what = (
            f"expert {absent} of {target} is missing" if absent is not None else f"{target} has {len(numbered)} experts"
        )
        raise BadInput(f"{file.every.label}: {what}, but expert_count is {count}.")
    return [numbered[expert] for expert in range(count)]


def _by_place(target: str, members: Sequence[_Piece], file: Stored) -> list[_Piece]:
    """Return the pieces in the order of their patterns. Raises `BadInput` if one is missing."""
    roles = [pattern.rpartition(".")[2] for pattern in members[0].layout.patterns]
    placed = {member.weight.name.rsplit(".", 2)[-2]: member for member in members}
    absent = next((role for role in roles if role not in placed), None)
    if absent is not None:
        raise BadInput(
            f"{file.every.label}: {absent} is missing; {target} is built from it and {members[0].weight.name}."
        )
    return [placed[role] for role in roles]


def _is_vector(weight: Weight) -> bool:
    """Return whether the last axis counts a layer's outputs, as in a bias."""
    return len(weight.shape) == 1 or weight.name.endswith(".bias")


def _as_matrix(weight: Weight, file: Stored) -> Weight:
    """Return a vector as a matrix of one column, anything else unchanged. Raises `BadInput` for quantized vectors."""
    is_vector = _is_vector(weight)
    if not weight.shape or (is_vector and not isinstance(weight.scheme, Dense)):
        raise BadInput(
            f"{file.every.label}: tensor {weight.name} is {weight.scheme.name} with shape {list(weight.shape)}, "
            "which cannot be split by rows."
        )
    return reshaped(weight, (*weight.shape, 1)) if is_vector else weight


def _shaped(weight: Weight, like: Weight) -> Weight:
    """Return a matrix of one column as a vector, if `like` is a vector."""
    return reshaped(weight, weight.shape[:-1]) if _is_vector(like) else weight
