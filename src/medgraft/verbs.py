"""The verbs and their options: words of a command line, or keyword arguments, become the verb's options class.

Every verb has one class of knobs beside its act. Nothing heavy is imported here, and a class only when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgraft.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel

#: Verb -> module:class. A word after the verb's own (``official=DIR``, ``chest_xray``) says which kind is meant.
OPTIONS: dict[str, str] = {
    "demo": "medgraft.options:DemoOptions",
    "scan": "medgraft.intake.options:ScanOptions",
    "audit": "medgraft.audit:AuditOptions",
    "quick": "medgraft.intake.options:QuickOptions",
    "run": "medgraft.config:Recipe",
    "status": "medgraft.options:NoOptions",
    "report": "medgraft.report.options:ReportOptions",
    "predict": "medgraft.options:PredictOptions",
    "models": "medgraft.options:NoOptions",
    "weights list": "medgraft.models.options:WeightsOptions",
    "weights verify": "medgraft.models.options:WeightsOptions",
    "weights pack": "medgraft.models.options:PackOptions",
    "weights unpack": "medgraft.models.options:UnpackOptions",
    "weights convert": "medgraft.models.options:ConvertOptions",
    "simulate": "medgraft.simulate.options:SimulateOptions",
    "bench": "medgraft.engine.options:BenchOptions",
    "bench official=DIR": "medgraft.engine.options:OfficialOptions",
    "checks": "medgraft.options:NoOptions",
}


def options_class(verb: str) -> type[BaseModel]:
    """The options class of a verb."""
    module, name = OPTIONS[verb].split(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def options(verb: str, values: Mapping[str, Any]) -> Any:
    """The options of a verb from plain values; dotted keys reach into sections. Raises ``UserError`` in one line.

    ``run`` has ``recipe``.
    """
    from medgraft import config, knobs

    model, where = options_class(verb), verb.partition(" official")[0]
    if not model.model_fields and values:
        raise UserError(f"takes no keys, so not {next(iter(values))}", case=verb, fix=f"see `medgraft {verb} --help`")
    known = knobs.names(model)
    if python := [key for key in values if key in model.model_fields and key not in known]:
        cause = f"unknown key {python[0]!r}; {did_you_mean(python[0], known)}"  # Python's name of a field, as_ for as
        raise UserError(cause, case=verb, fix=f"see `medgraft {verb} --help`")
    return config.build(model, config.expanded(values), where=where, elsewhere=owner(verb))


def recipe(path: Any, values: Mapping[str, Any]) -> Any:
    """The options of ``run``: a recipe file, or None, and values over it."""
    from medgraft import config

    return config.load_recipe(path, values, elsewhere=owner("run"))


def owner(verb: str) -> Any:
    """A function that says to which other verbs a key belongs; nothing for a key that none has."""

    def belongs(key: str) -> str:
        from medgraft import knobs

        found: dict[str, str] = {}
        for other in OPTIONS:
            name = other.partition(" official")[0]
            for knob in knobs.knobs(options_class(other)) if name != verb.partition(" official")[0] else ():
                if knob.key == key or knob.key.rpartition(".")[2] == key:
                    found.setdefault(name, name if knob.key == key else f"{name} ({knob.key})")
        some = list(found.values())[:3]
        return f"{key} belongs to {' and '.join(filter(None, [', '.join(some[:-1]), some[-1]]))}" if some else ""

    return belongs


def values(verb: str, words: Iterable[str]) -> dict[str, Any]:
    """``key=value`` words as nested values. Raises ``UserError`` for a word without ``=``, and for a key that is said
    twice with two values.
    """
    from medgraft import config

    words = list(words)
    said: dict[str, Any] = {}
    for word in words:
        if "=" not in word:
            raise stray(verb, word)
        for key, value in _leaves(config.parse_overrides([word])):
            if said.setdefault(key, value) != value:
                raise UserError("is given twice", case=f"{verb}: {key}", fix="keep one of them")
    return config.parse_overrides(words)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def stray(verb: str, word: str) -> UserError:
    """What is said of a word without ``=`` where none belongs."""
    return UserError(
        "no place for this word", case=f"{verb}: {word}", fix=_fix(verb, written(verb, word) or "options are key=value")
    )


def refuse_strange(verb: str, words: list[str]) -> None:
    """Raise ``UserError`` for an option word (``--labels x``), and for any key of a verb that has none.

    What follows ``--`` is left alone.
    """
    words = words[: words.index("--")] if "--" in words else words
    for number, word in enumerate(words):
        if word.startswith("-") and len(word) > 1 and word not in ("-h", "--help"):
            name, sign, value = word.lstrip("-").partition("=")
            following = words[number + 1] if number + 1 < len(words) else ""
            if not sign and "=" not in following and not following.startswith("-"):
                value = following
            fix = written(verb, name, value) or "write options as key=value"
            raise UserError("options are written without dashes", case=f"{verb}: {word}", fix=_fix(verb, fix))
    pairs = [word for word in words if "=" in word and not Path(word).exists()]
    if pairs and not options_class(verb).model_fields:
        options(verb, values(verb, pairs))


def _fix(verb: str, said: str) -> str:
    return f"{said}; see `medgraft {verb} --help`"


def written(verb: str, word: str, value: str = "") -> str:
    """How a word was to be written that is, or is nearly, a key of the verb; empty where it is not."""
    import difflib

    from medgraft import knobs

    classes = [options_class(v) for v in OPTIONS if v == verb or v.startswith(f"{verb} ")]
    known = {knob.key: knob for model in classes for knob in knobs.knobs(model) if "[]" not in knob.key}
    plain = word.replace("-", "_")
    near = [key for key in known if key == plain or key.rpartition(".")[2] == plain]
    near = near or difflib.get_close_matches(plain, list(known), n=1, cutoff=0.7)
    if not near:
        return ""
    knob = known[near[0]]
    if knob.kind == "true or false":
        value = value if value in ("true", "false") else "true"
    return f"write {knob.key}={value or 'VALUE'}"
