"""Options of llama-quantize: metadata to set, layers to drop, files of options.

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

#: Bytes of the longest file of options that is read.
MAX_FILE = 1 << 20

#: The largest finite float32.
LARGEST_FLOAT = (2 - 2**-23) * 2.0**127

FORM = (
    "expected KEY=TYPE:VALUE with TYPE int, float, bool or str, such as --override-kv general.name=str:mine or "
    "tokenizer.chat_template=str:@FILE"
)


def _integer(text: str) -> tuple[str, Any]:
    """Return an integer, whose GGUF type is that of the key."""
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
    """Return a text: as given, from a file (`@FILE`), or one that begins with `@` (`@@`)."""
    text.encode()  # arguments that are not UTF-8 raise a ValueError
    if text.startswith("@@") or not text.startswith("@"):
        return "string", text.removeprefix("@") if text.startswith("@@") else text
    with opened(Path(text[1:])) as (read, size):
        if size > MAX_FILE:
            raise BadInput(f"{text[1:]}: is {size} bytes; the limit for the value of a key is {MAX_FILE}.")
        data = read(0, size)
    try:
        return "string", data.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{text[1:]}: is not UTF-8 text (byte {error.start}).") from None


#: Keys that describe the file, not the model.
OF_THE_FILE = ("general.alignment", *SPLIT_KEYS)

#: Types for which an option without a value keeps the stored value; a text may be empty.
KINDS = {"int": INTEGER, "float": "float32", "bool": "bool"}
READ: dict[str, Callable[[str], tuple[str, Any]]] = {"int": _integer, "float": _float, "bool": _bool, "str": _text}


def override_kv(text: str) -> tuple[str, tuple[str, Any]]:
    """Return the key, GGUF type (`int` until the key's type is known) and value of one `--override-kv`.

    The value is None if the stored one is kept. Raises `WrongUsage`, also for the keys that describe the file's layout:
    another value than its writer's would make it unreadable.

    >>> override_kv("general.name=str:mine"), override_kv("x.n=int:-7")
    (('general.name', ('string', 'mine')), ('x.n', ('int', -7)))
    """
    key, equals, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    if not (key and equals and colon) or kind not in READ:
        raise WrongUsage(f"--override-kv {text[:100]!r}: {FORM}.")
    if key in OF_THE_FILE:
        raise WrongUsage(
            f"--override-kv {text[:100]!r}: {key} describes the file's layout and cannot be set. Leave it out; to "
            "split a file, use --shard-size or --keep-split."
        )
    if len(key.encode(errors="replace")) > MAX_NAME or not key.isprintable():
        raise WrongUsage(f"--override-kv {text[:100]!r}: expected a printable key of at most {MAX_NAME} bytes.")
    try:
        return key, (KINDS[kind], None) if not value and kind in KINDS else READ[kind](value)
    except (ValueError, KeyError):
        raise WrongUsage(f"--override-kv {text[:100]!r}: {value[:40]!r} is not a valid {kind} value in GGUF.") from None


def metadata(request: Request, matrix: ImportanceMatrix | None) -> dict[str, tuple[str, Any]]:
    """Return the keys to set, in llama-quantize's order."""
    given: dict[str, tuple[str, Any]] = {}
    for key, typed in map(override_kv, request.override_kv):
        given.pop(key, None)  # if a key is given twice, the last value and its position count
        given[key] = typed
    return given | (dict(imatrix.metadata(matrix)) if matrix else {})


def read_by_loader(request: Request) -> dict[str, Value]:
    """Return the values that llama.cpp's loader sees before types are chosen: a key's first, integers modulo 2**32."""
    read: dict[str, Value] = {}
    for text in request.override_kv:
        key, (kind, value) = override_kv(text)
        if value is None:
            continue
        read.setdefault(key, Value("uint32", value % 2**32) if kind == INTEGER else Value(kind, value))
    return read


def layers(request: Request) -> tuple[int, ...]:
    """Return the layers of `--prune-layers`."""
    return parse_layers(request.prune_layers) if request.prune_layers else ()


def tensor_types(request: Request) -> tuple[TensorType, ...]:
    """Return every `--tensor-type` in the order given, with those of each `--tensor-type-file` in its place."""
    given = ((tensor_type(one),) if isinstance(one, str) else _in_file(one) for one in request.tensor_types)
    return tuple(chain.from_iterable(given))


def _in_file(path: Path) -> tuple[TensorType, ...]:
    with opened(path) as (read, size):
        if size > MAX_FILE:
            raise BadInput(f"{path}: is {size} bytes; the limit for a file of --tensor-type rules is {MAX_FILE}.")
        data = read(0, size)
    try:
        return tensor_type_file(data.decode())
    except UnicodeDecodeError:
        raise BadInput(f"{path}: expected UTF-8 text with REGEX=TYPE rules.") from None
