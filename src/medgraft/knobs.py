"""Typed options as people meet them: the keys of an options class, and what is wrong with a value in one sentence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from medgraft.errors import did_you_mean


@dataclass(frozen=True)
class Knob:
    """One key of an options class. ``key`` has dots, and ``[]`` after the name of a list of sections."""

    key: str
    kind: str
    choices: tuple[str, ...]
    default: Any
    required: bool
    text: str

    @property
    def told(self) -> str:
        """Description, choices and default, for a line of help."""
        among = f"one of {', '.join(self.choices)}" if self.choices else ""
        if self.choices and self.kind:
            among = f"{self.kind}, or {', '.join(self.choices)}"
        kind = "" if self.text or among else self.kind
        unset = self.default in (None, [], {}, "")
        told = "required" if self.required else "" if unset else f"default {_written(self.default)}"
        return "; ".join(part for part in (self.text, among, kind, told) if part)


def knobs(model: type[BaseModel], prefix: str = "") -> list[Knob]:
    """Every key of an options class in its order, those of its sections with dots."""
    found: list[Knob] = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        section = _section(field.annotation)
        if section is not None:
            found += knobs(section, f"{key}{'' if field.annotation is section else '[]'}.")
            continue
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        kind, choices = _kind(field.annotation), tuple(_choices(field.annotation))
        found.append(Knob(key, kind, choices, default, field.is_required(), field.description or ""))
    return found


def names(model: type[BaseModel]) -> list[str]:
    """The first words of its keys, as they are written: ``as``, where Python needs another name for the field."""
    return [field.alias or name for name, field in model.model_fields.items()]


def truths(model: type[BaseModel], values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Sentences on true and false where a number is asked for; pydantic would take them for 1 and 0."""
    found = []
    for name, field in model.model_fields.items():
        key, section = field.alias or name, _section(field.annotation)
        value, kinds = values.get(key), _members(field.annotation)
        if isinstance(value, bool) and bool not in kinds and {int, float} & set(kinds):
            found.append(f"{prefix}{key}: {_written(value)} is not a number")
        elif isinstance(value, Mapping) and section is not None:
            found += truths(section, value, f"{prefix}{key}.")
    return found


def faults(model: type[BaseModel], error: ValidationError, elsewhere: Callable[[str], str]) -> list[str]:
    """What is wrong with the values that a class was made from, a sentence each.

    ``elsewhere`` is asked about an unknown key: whose it is, or nothing.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for fault in error.errors():
        path = ".".join(str(step) for step in fault["loc"] if isinstance(step, int) or not _MEMBER.fullmatch(str(step)))
        if fault["type"] == "extra_forbidden":
            found[f"unknown key {path!r}; {_meant(model, fault['loc'], elsewhere)}"] = []
        elif fault["type"] == "missing":
            found[f"{path} is required"] = []
        else:
            found.setdefault(path, []).append(_wrong(fault))
    return [
        # what a value is not, once for each thing that it could have been
        " ".join(filter(None, (f"{path}:" if path and said else path, *_once(said))))
        for path, said in found.items()
    ]


def _once(said: Sequence[tuple[str, str]]) -> list[str]:
    return [said[0][0], " and ".join(dict.fromkeys(wrong for _, wrong in said))] if said else []


#: What pydantic names within the path of a fault and nobody wrote: the members of a union.
_MEMBER = re.compile(
    r"(int|float|str|bool|path|none|literal|list|dict|tuple|is-instance|constrained-\w+|function-\w+)(\[.*)?", re.S
)

#: What pydantic calls a fault -> how it is said after the value.
_FAULTS = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "is not a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "is not a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "is neither true nor false"),
    **dict.fromkeys(("list_type", "tuple_type"), "is not a list (write [a, b])"),
    **dict.fromkeys(("dict_type", "model_type"), "is not a section (write {key: value})"),
    **dict.fromkeys(("string_type", "path_type"), "is not text (write a number that is a name as '\"7\"')"),
}


def _wrong(fault: Any) -> tuple[str, str]:
    """(The value, what is wrong with it); no value where the sentence stands alone."""
    kind, shown = fault["type"], _written(fault["input"])
    if kind == "literal_error":
        return shown, f"is none of {fault['ctx']['expected'].replace(chr(39), '').replace(' or ', ', ')}"
    if kind in _FAULTS:
        return shown, _FAULTS[kind]
    message = str(fault["msg"]).removeprefix("Value error, ")
    return (shown, message.removeprefix("Input ")) if message.startswith("Input should ") else ("", message)


def _written(value: Any) -> str:
    """A value as it is written on a command line, cut where it is long."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_written, value))}]"
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else text[:79] + "\u2026"


def _meant(model: type[BaseModel], path: Sequence[Any], elsewhere: Callable[[str], str]) -> str:
    """What an unknown key may have meant: the dotted name of a nested one, a near one, one of another verb."""
    word, known = str(path[-1]), _names_at(model, path[:-1])
    if len(path) > 1:
        return did_you_mean(word, known)
    nested = [knob.key for knob in knobs(model) if "." in knob.key and knob.key.rpartition(".")[2] == word]
    near = [*nested[:3], *difflib.get_close_matches(word, known, n=1, cutoff=0.75 if nested else 0.5)]
    meant = f"did you mean {' or '.join(map(repr, near))}?" if near else ""
    return "; ".join(filter(None, (elsewhere(word), meant))) or did_you_mean(word, known)


def _names_at(model: type[BaseModel], path: Iterable[Any]) -> list[str]:
    for step in path:
        field = None if isinstance(step, int) else model.model_fields.get(str(step))
        model = model if field is None else _section(field.annotation) or model
    return names(model)


def _section(kind: Any) -> type[BaseModel] | None:
    """The options class that a field holds, alone or in a list."""
    return next((k for k in (kind, *get_args(kind)) if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _members(kind: Any) -> list[Any]:
    """The types of a union, or the one type."""
    return list(get_args(kind)) if get_origin(kind) in (Union, UnionType) else [kind]


_KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path", Any: "value"}


def _kind(kind: Any) -> str:
    """A type in words, without None and without choices."""
    origin, members = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(_kind, members))))
    if origin in (list, tuple):
        return f"list of {_kind(members[0])}" if members and _kind(members[0]) else "list"
    if origin is dict:
        return "mapping"
    return "" if origin is Literal or kind is type(None) else _KINDS.get(kind, getattr(kind, "__name__", str(kind)))


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    return [choice for member in get_args(kind) for choice in _choices(member)]
