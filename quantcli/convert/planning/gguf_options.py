"""The options of llama-quantize that are read here: metadata to set, layers to leave out, files of options.

Source: llama.cpp (tools/quantize/quantize.cpp).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from quantcli.containers import imatrix
from quantcli.containers.gguf_values import MAX_NAME, Value
from quantcli.containers.hostile import opened
from quantcli.containers.imatrix import ImportanceMatrix
from quantcli.convert.planning.request import Request
from quantcli.errors import BadInput, WrongUsage
from quantcli.recipes.llama_cpp import TensorType, tensor_type, tensor_type_file
from quantcli.recipes.prune import parse as parse_layers
from quantcli.targets.gguf_from_gguf import SPLIT_KEYS
from quantcli.targets.gguf_overrides import INTEGER

#: The longest file of an option that is read.
MAX_FILE = 1 << 20

#: The largest finite float32.
LARGEST_FLOAT = (2 - 2**-23) * 2.0**127

FORM = (
    "needs KEY=TYPE:VALUE with TYPE int, float, bool or str, such as --override-kv general.name=str:mine or "
    "tokenizer.chat_template=str:@FILE"
)


def _integer(text: str) -> tuple[str, Any]:
    """An integer, whose type is the key's."""
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        raise ValueError
    return INTEGER, int(text)


def _float(text: str) -> tuple[str, Any]:
    value = float(text) if re.fullmatch(r"[-+0-9.eE]{1,64}", text) else math.inf
    if not abs(value) <= LARGEST_FLOAT:
        raise ValueError
    return "float32", value


def _bool(text: str) -> tuple[str, Any]:
    return "bool", {"true": True, "false": False}[text]


def _text(text: str) -> tuple[str, Any]:
    """A text: as it is, that of a file (`@FILE`), or one that begins with `@` (`@@`)."""
    text.encode()  # what the shell gave in no UTF-8 is refused as a ValueError
    if text.startswith("@@") or not text.startswith("@"):
        return "string", text.removeprefix("@") if text.startswith("@@") else text
    with opened(Path(text[1:])) as (read, size):
        if size > MAX_FILE:
            raise BadInput(f"{text[1:]}: {size} bytes are too many for the value of a key (at most {MAX_FILE}).")
        data = read(0, size)
    try:
        return "string", data.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{text[1:]}: is not UTF-8 text (byte {error.start}).") from None


#: Keys that describe the file itself, not the model.
OF_THE_FILE = ("general.alignment", *SPLIT_KEYS)

#: The types whose stored value an option without one keeps; a text may be empty.
KINDS = {"int": INTEGER, "float": "float32", "bool": "bool"}
READ: dict[str, Callable[[str], tuple[str, Any]]] = {"int": _integer, "float": _float, "bool": _bool, "str": _text}


def override_kv(text: str) -> tuple[str, tuple[str, Any]]:
    """One `--override-kv`: the key, its GGUF type (`int` until its key's is known) and value. Raises `WrongUsage`.

    The value is None where the stored one is meant.

    Also for the keys that say how the file is laid out, which another value than its writer's makes unreadable.

    >>> override_kv("general.name=str:mine"), override_kv("x.n=int:-7")
    (('general.name', ('string', 'mine')), ('x.n', ('int', -7)))
    """
    key, equals, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    if not (key and equals and colon) or kind not in READ:
        raise WrongUsage(f"--override-kv {text[:100]!r} {FORM}.")
    if key in OF_THE_FILE:
        raise WrongUsage(
            f"--override-kv {text[:100]!r}: {key} says how the file is laid out, which is not for an option to say: "
            "leave it out; --shard-size and --keep-split cut a file."
        )
    if len(key.encode(errors="replace")) > MAX_NAME or not key.isprintable():
        raise WrongUsage(f"--override-kv {text[:100]!r}: a key is printable and at most {MAX_NAME} bytes long.")
    try:
        return key, (KINDS[kind], None) if not value and kind in KINDS else READ[kind](value)
    except (ValueError, KeyError):
        raise WrongUsage(f"--override-kv {text[:100]!r}: {value[:40]!r} is no {kind} that GGUF holds.") from None


def metadata(request: Request, matrix: ImportanceMatrix | None) -> dict[str, tuple[str, Any]]:
    """The keys to set, in llama-quantize's order."""
    given: dict[str, tuple[str, Any]] = {}
    for key, typed in map(override_kv, request.override_kv):
        given.pop(key, None)  # of a key given twice the last counts, and its place
        given[key] = typed
    return given | (dict(imatrix.metadata(matrix)) if matrix else {})


def read_by_loader(request: Request) -> dict[str, Value]:
    """`--override-kv` as llama.cpp's loader has it before types are chosen: a key's first, integers modulo 2**32."""
    read: dict[str, Value] = {}
    for text in request.override_kv:
        key, (kind, value) = override_kv(text)
        if value is None:
            continue
        read.setdefault(key, Value("uint32", value % 2**32) if kind == INTEGER else Value(kind, value))
    return read


def layers(request: Request) -> tuple[int, ...]:
    """The layers of `--prune-layers`."""
    return parse_layers(request.prune_layers) if request.prune_layers else ()


def tensor_types(request: Request) -> tuple[TensorType, ...]:
    """Every `--tensor-type`, those in the place of a `--tensor-type-file` included."""
    given = ((tensor_type(said),) if isinstance(said, str) else _in_file(said) for said in request.tensor_types)
    return tuple(chain.from_iterable(given))


def _in_file(path: Path) -> tuple[TensorType, ...]:
    with opened(path) as (read, size):
        if size > MAX_FILE:
            raise BadInput(f"{path}: {size} bytes are too many for a file of --tensor-type options.")
        data = read(0, size)
    try:
        return tensor_type_file(data.decode())
    except UnicodeDecodeError:
        raise BadInput(f"{path}: is no UTF-8 text of REGEX=TYPE.") from None
