"""The `general.*` keys of a GGUF file: the model's name, origin and recommended sampling.

Source: the rules of llama.cpp's conversion (gguf-py's Metadata). A model's name is taken apart at its dashes:

    Qwen3-4B-Instruct-2507      basename Qwen3   size label 4B   finetune Instruct   version 2507

The model card (README.md) gives licence, base models, tags, languages and data sets; its front matter is read as the
part of YAML that model cards use: `key: value`, `key: [a, b]`, and `key:` with lines of `- value`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from quantcli.containers.json_text import Reader
from quantcli.models.generation import SAMPLING

Typed = dict[str, tuple[str, Any]]

_VERSION = re.compile(r"(v|iter)?[0-9]+([.][0-9]+)*", re.IGNORECASE)
_TYPE = re.compile(r"i?q[0-9](_\w)*|b?fp?(16|32)", re.IGNORECASE)
_SIZE = re.compile(r"((A|[0-9]+x)?[0-9]+([._][0-9]+)?[KMBT][0-9]?|small|mini|medium|large|x?xl)", re.IGNORECASE)
_FINETUNE = re.compile(r"chat|instruct|vision|lora", re.IGNORECASE)
_STAYS_LOWER = re.compile(r"v[0-9]+(\.[0-9]+)*|[0-9].*")
_HUB = re.compile(r"https?://huggingface\.co/([^/]+/[^/]+)")

#: Front matter that is copied as it stands: its key -> GGUF's.
CARD_TEXTS = {"license": "license", "license_name": "license.name", "license_link": "license.link"}
CARD_LISTS = {"tags": ("tags", "pipeline_tag"), "languages": ("languages", "language")}


@dataclass(frozen=True)
class Name:
    """The parts of a model's name."""

    full: str
    organization: str | None = None
    basename: str | None = None
    finetune: str | None = None
    version: str | None = None
    size_label: str | None = None


def general(
    folder: str,
    config: Mapping[str, Any],
    sampling: Mapping[str, Any],
    card: Mapping[str, Any],
    parameters: int,
    label: str | None = None,
) -> Typed:
    """Return the keys after `general.type` up to the tags, in llama.cpp's order.

    folder: the model folder's name. config, sampling: the objects in config.json and generation_config.json. card: the
    model card's front matter. parameters: elements of all tensors of the file. label: how large the model is called
    where its name does not say, else that follows from `parameters`.
    """
    names = [take_apart(folder, parameters)]
    origin = config.get("_name_or_path")
    if isinstance(origin, str) and origin and origin.count("/") <= 1:
        names.insert(0, take_apart(origin, parameters))
    texts: dict[str, str | None] = {"name": title(names[0].full)}
    organization = _first(names, "organization")
    texts |= {key: _first(names, key) for key in ("version", "finetune", "basename")}
    texts["organization"] = title(organization) if organization else None
    texts["size_label"] = _first(names, "size_label") or label or size_label(parameters)
    order = ("name", "version", "organization", "finetune", "basename", "size_label")
    out = _sampling(sampling) | {f"general.{k}": ("string", texts[k]) for k in order if texts[k] is not None}
    for key, target in CARD_TEXTS.items():
        value = card.get(key)
        if value:
            out[f"general.{target}"] = ("string", ",".join(value) if isinstance(value, list) else value)
    out |= _origins("base_model", _listed(card, ("base_model", "base_models")), parameters)
    out |= _origins("dataset", _listed(card, ("datasets", "dataset")), parameters)
    for target, keys in CARD_LISTS.items():
        values = _listed(card, keys)
        if values:
            out[f"general.{target}"] = ("array[string]", values)
    return out


def _first(names: list[Name], field: str) -> str | None:
    return next((value for value in (getattr(name, field) for name in names) if value is not None), None)


def _listed(card: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for key in keys:
        value = card.get(key, [])
        found += value if isinstance(value, list) else [value]
    return found


def _sampling(settings: Mapping[str, Any]) -> Typed:
    out: Typed = {}
    for key, target, kind in SAMPLING:
        value = settings.get(key)
        if target == "penalty_repeat" and settings.get(target) is not None:
            value = settings[target]
        if value is None:
            continue
        if not (isinstance(value, str) if kind == "string" else _is_number(value, whole=kind == "int32")):
            raise Reader({key: value}, "generation_config.json").refuse(key, f"expected a value of type {kind}")
        out[f"general.sampling.{target}"] = (kind, float(value) if kind == "float32" else value)
    return out


def _is_number(value: object, whole: bool) -> bool:
    """Whether a value is a number that 32 bits can hold, roughly for one with a fraction."""
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return abs(value) < 2**31


def _origins(prefix: str, entries: list[str], parameters: int) -> Typed:
    """`general.base_model.*`, `general.dataset.*`: how many, and each one's name, version, organization, address."""
    if not entries:
        return {}
    out: Typed = {f"general.{prefix}.count": ("uint32", len(entries))}
    for number, entry in enumerate(entries):
        linked = entry.startswith(("http://", "https://", "ssh://"))
        hub = _HUB.fullmatch(entry)
        found = take_apart(hub[1] if hub else entry, parameters) if hub or not linked else None
        texts = {"repo_url": entry if linked else None}
        if found is not None:
            texts["name"], texts["version"] = title(found.full), found.version
            if found.organization:
                texts["organization"] = title(found.organization)
                texts["repo_url"] = texts["repo_url"] or f"https://huggingface.co/{found.organization}/{found.full}"
        for key in ("name", "version", "organization", "repo_url"):
            if texts.get(key) is not None:
                out[f"general.{prefix}.{number}.{key}"] = ("string", texts[key])
    return out


def title(name: str) -> str:
    """Return a name with spaces for dashes, and capitalized words except versions and words with capitals.

    >>> title("tiny-llama-v1.1-7b-GGUF")
    'Tiny Llama v1.1 7b GGUF'
    """
    words = name.strip().replace("-", " ").split()
    return " ".join(w.title() if w.islower() and not _STAYS_LOWER.fullmatch(w) else w for w in words)


def size_label(parameters: int) -> str:
    """Return a parameter count with at least two digits.

    >>> [size_label(n) for n in (895_232, 4_196_608, 8_030_261_248, 70_553_706_496)]
    ['895K', '4.2M', '8.0B', '71B']
    """
    power = next((p for p in (12, 9, 6) if parameters > 10**p), 3)
    # Multiplied, not divided, as llama.cpp does: the last digit can depend on it.
    scaled = parameters * {12: 1e-12, 9: 1e-9, 6: 1e-6, 3: 1e-3}[power]
    digits = max(2 - len(str(round(scaled)).lstrip("0")), 0)
    return f"{scaled:.{digits}f}{ {12: 'T', 9: 'B', 6: 'M', 3: 'K'}[power] }"


def label_of(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return a model's size label: its parameters, or for experts their number and the size with a single one.

    shapes: of every tensor of the file by GGUF's names, rows first.

    >>> label_of({"token_embd.weight": (1000, 500), "blk.0.ffn_up_exps.weight": (8, 1000, 100)})
    '8x600K'
    """
    stacked = {name: shape for name, shape in shapes.items() if "_exps." in name and len(shape) > 2}
    experts = sum(shape[0] for shape in stacked.values()) // len(stacked) if stacked else 0
    total = sum(math.prod(shape) for shape in shapes.values())
    if not experts:
        return size_label(total)
    alone = sum(math.prod(shape[1:]) for shape in stacked.values())
    shared = total - sum(math.prod(shape) for shape in stacked.values())
    return f"{experts}x{size_label(shared + alone)}"


def take_apart(model: str, parameters: int) -> Name:
    """Split a model's name, `organization/name` or `name`, into parts; a name with spaces is not split.

    >>> take_apart("meta/Llama-3.2-1B-Instruct", 1_235_814_432).basename
    'Llama-3.2'
    """
    if " " in model:
        return Name(model)
    organization, _, full = model.rpartition("/") if "/" in model else ("", "", model)
    parts = [part for part in full.split("-") if part]
    kinds: list[str | None] = []
    for place, part in enumerate(parts):
        parts[place], kind = _annotate(part, place, parameters)
        kinds.append(kind)
    if any(kind == "size" and any(c.isdecimal() for c in part) for part, kind in zip(parts, kinds, strict=True)):
        words = {i for i, part in enumerate(parts) if kinds[i] == "size" and part.isalpha()}
        kinds = [None if i in words else kind for i, kind in enumerate(kinds)]
    base = _basename(parts, kinds)

    def joined(kind: str, unless: Set[int] = frozenset()) -> str | None:
        chosen = [part for i, part in enumerate(parts) if kinds[i] == kind and i not in unless]
        return "-".join(dict.fromkeys(chosen) if kind == "size" else chosen) or None

    size, finetune, version = joined("size"), joined("finetune"), joined("version", base)
    plain = size is None and finetune is None and version is None
    basename = None if plain else "-".join(parts[i] for i in sorted(base)) or None
    return Name(full, organization if not organization.startswith(".") else None, basename, finetune, version, size)


def _annotate(part: str, place: int, parameters: int) -> tuple[str, str | None]:
    """A part of a name as it is written, and what it is: version, type, size, finetune, or nothing that can be told."""
    if _VERSION.fullmatch(part):
        return part, "version"
    if _TYPE.fullmatch(part):
        return part.upper(), "type"
    if place and _SIZE.fullmatch(part):
        return _sized(part.replace("_", "."), parameters)
    return part, "finetune" if place and _FINETUNE.fullmatch(part) else None


def _sized(part: str, parameters: int) -> tuple[str, str]:
    """A size in its usual spelling; one that is far from the parameter count is a context length, so a finetune."""
    if part[-1].isdecimal():  # 7b1 means 7.1b
        part = f"{part[:-2]}.{part[-1]}{part[-2]}"
    if part[-2:-1].isdecimal():
        part = part[:-1] + part[-1].upper()
    if parameters and re.fullmatch(r"[0-9.]+[KMBT]", part):
        meant = float(part[:-1]) * 1000.0 ** " KMBT".find(part[-1])
        if abs(meant - parameters) > 7 * parameters // 8:
            return part[:-1] + part[-1].lower(), "finetune"
    return part, "size"


def _basename(parts: list[str], kinds: list[str | None]) -> set[int]:
    """Places of the parts that make the basename: words and versions from the start, without trailing versions.

    Words behind it become finetunes (in `kinds`).
    """
    base: set[int] = set()
    at_start = True
    for place, part in enumerate(parts):
        at_start = at_start and (kinds[place] == "version" or (kinds[place] is None and part[0].isalpha()))
        if at_start:
            base.add(place)
        elif kinds[place] is None:
            kinds[place] = "finetune"
    for place in reversed(range(len(parts))):
        if place not in base or kinds[place] is None:
            break
        base.remove(place)
    return base


def front_matter(text: str) -> dict[str, str | list[str]]:
    """Parse the model card's front matter: strings and lists of strings; deeper values are skipped."""
    lines = text.splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}
    found: dict[str, str | list[str]] = {}
    key = ""
    for line in lines[1 : lines.index("---", 1)]:
        item = re.fullmatch(r" *- +(.*)", line)
        pair = re.fullmatch(r"([A-Za-z_]+):(?: +(.*))?", line)
        if pair:
            key, value = pair[1], (pair[2] or "").strip()
            inline = re.fullmatch(r"\[(.*)\]", value)
            found[key] = [_plain(v) for v in inline[1].split(",") if v.strip()] if inline else _plain(value)
        elif item and key and ": " not in item[1]:
            values = found[key]
            found[key] = [*(values if isinstance(values, list) else []), _plain(item[1])]
    return {key: value for key, value in found.items() if value}


def _plain(value: str) -> str:
    """A scalar without its quotes; block markers stand for nothing."""
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return "" if value in ("|", ">", "|-", ">-", "null", "~") else value
