"""Words that the readers' messages share, so that the same problem is described in the same way everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quantcli.checkpoint import Part
from quantcli.errors import BadInput

#: Supported shapes of quantized weights, in messages.
MATRICES = "a matrix, or stacked matrices (3 dimensions)"


def where(part: Part) -> str:
    """Return the file and the name of a stored tensor, as errors begin."""
    return f"{part.file}: tensor {part.name}"


def either(values: Iterable[object]) -> str:
    """Return alternatives as text.

    >>> either(["f16", "bf16", "f32"]), either([4])
    ('f16, bf16 or f32', '4')
    """
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last


def counted(noun: str, names: Sequence[str], one: str = "is", more: str = "are") -> str:
    """Return names as the subject of a sentence, with its verb (`one` in the singular, `more` in the plural).

    >>> counted("module", ["a"]), counted("matrix", ["a", "b"], "has", "have")
    ('a is', '2 matrices (the first: a) have')
    """
    if len(names) == 1:
        return f"{names[0]} {one}"
    plural = f"{noun[:-1]}ces" if noun.endswith("x") else f"{noun}s"
    return f"{len(names)} {plural} (the first: {names[0]}) {more}"


def mismatch(part: Part, expected: str, reason: str = "") -> BadInput:
    """Return the error for an array that has the wrong dtype or shape. reason: where the expectation comes from."""
    because = f" ({reason})" if reason else ""
    return BadInput(f"{where(part)}: expected {expected}, found {part.dtype} {list(part.shape)}{because}.")


def missing(part: Part, name: str, required_by: str) -> BadInput:
    """Return the error for an array that is not stored next to `part`.

    name: a tensor, or the rest of its name after the module's, with a dot. required_by: a setting or a scheme.
    """
    full = f"{part.name.rpartition('.')[0]}{name}" if name.startswith(".") else name
    return BadInput(f"{where(part)}: {full} is missing; {required_by} requires it.")


def no_codes(label: str, method: str, names: str) -> BadInput:
    """Return the error for settings at `label` that name a quantizer, none of whose tensors (`names`) is stored."""
    return BadInput(f"{label}: quant_method is {method}, but no tensor is named {names}.")


def listed_as_dense(part: Part, module: str, place: str) -> BadInput:
    """Return the error for a quantized module that the settings at `place` leave dense."""
    return BadInput(f"{where(part)}: is quantized, but {place} says that {module} is dense.")


def stored_otherwise(label: str, noun: str, names: Sequence[str], form: str) -> str:
    """Return the warning of weights that are stored in another form (`dense`) than the settings at `label` say."""
    return f"{label}: {counted(noun, names)} stored {form}, contrary to this setting. Weights are read as stored."
