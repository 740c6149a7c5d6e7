"""Every network by name, without importing one.

Names are resolved so: a zoo name (``efficientnet_lite0``), or ``torchvision:NAME``, ``timm:NAME``,
``monai:NAME``, ``smp:ARCHITECTURE-ENCODER``; a bare name tries the zoo, torchvision, timm, in this order.
``i3d:NAME`` and ``r2plus1d:NAME`` are an image network with a reach over time (``models/inflate.py``).

A zoo backbone is a function decorated with ``@backbone(...)`` in ``models/zoo/*.py``; the function's
name is the model's name and the decorator's arguments are literals, so that the registry reads them
from the source with ``ast`` and imports the one file it needs only when a body is built. What sisters share may
stand above them in one literal dict, ``@backbone(**FAMILY, features=512)``.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgraft.errors import UserError
from medgraft.models import libraries
from medgraft.models.records import INFLATIONS, LIBRARIES, BackboneInfo

if TYPE_CHECKING:
    from torch import nn

_ZOO = Path(__file__).parent / "zoo"


@lru_cache(maxsize=1)
def _zoo() -> dict[str, tuple[str, BackboneInfo]]:
    """Zoo name -> (module, facts), read from the source."""
    found: dict[str, tuple[str, BackboneInfo]] = {}
    for path in sorted(_ZOO.glob("*.py")):
        shared: dict[str, ast.Dict] = {}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                shared[ast.unparse(node.targets[0])] = node.value
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "backbone":
                    facts = _facts([(k.arg, k.value) for k in mark.keywords], shared)
                    if node.name in found:
                        raise RuntimeError(f"backbone {node.name} stands in {found[node.name][0]} and in {path.stem}")
                    found[node.name] = (f"medgraft.models.zoo.{path.stem}", BackboneInfo(name=node.name, **facts))
    return found


def _facts(pairs: Iterable[tuple[str | None, ast.expr]], shared: Mapping[str, ast.Dict]) -> dict[str, Any]:
    """The literals of a decorator's arguments; one without a name is ``**FAMILY``, a dict of the same file."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name is not None:
            given = {name: ast.literal_eval(value)}
        else:
            family = shared[ast.unparse(value)]
            keys = [None if key is None else str(ast.literal_eval(key)) for key in family.keys]
            given = _facts(zip(keys, family.values), shared)
        if twice := found.keys() & given.keys():
            raise RuntimeError(f"a backbone is given its {', '.join(sorted(twice))} twice")
        found |= given
    return found


def names(kind: str | None = None) -> list[str]:
    """Names of the zoo; ``kind`` narrows it to ``features``, ``dense``, ``2d`` or ``3d``.

    ``kind`` may also be a library (``torchvision``, ``timm``, ``monai``, ``smp``): then its names, with
    prefix; this imports the library.
    """
    if kind in LIBRARIES:
        return libraries.library_names(kind)
    tests: dict[str | None, Callable[[BackboneInfo], bool]] = {
        None: lambda i: True,
        "features": lambda i: not i.dense,
        "dense": lambda i: i.dense,
        "2d": lambda i: i.dims == 2,
        "3d": lambda i: i.dims == 3,
    }
    if kind not in tests:
        raise UserError(
            f"unknown kind of network '{kind}'",
            fix=f"choose one of {', '.join([k for k in tests if k] + list(LIBRARIES))}",
        )
    return sorted(name for name, (_, facts) in _zoo().items() if tests[kind](facts))


def find(name: str) -> str | None:
    """The full name of a network, a zoo name or ``library:name``, or None where there is no such network.

    Raises ``UserError`` for an unknown library.
    """
    if name in _zoo():
        return name
    library, colon, bare = name.partition(":")
    if not colon:
        return next((f"{lib}:{name}" for lib in ("torchvision", "timm") if libraries.has(lib, name)), None)
    if library in INFLATIONS:
        image = find(bare)
        return image and f"{library}:{image}"
    if library not in LIBRARIES:
        raise UserError(
            f"unknown library '{library}'", case=name, fix=f"choose one of {', '.join((*LIBRARIES, *INFLATIONS))}"
        )
    if library == "torchvision" and bare in _zoo() and _zoo()[bare][1].weights_of == name:
        return bare  # the zoo's builder of that very network
    return name if libraries.has(library, bare) else None


def resolve(name: str) -> str:
    """``find``, where an unknown network fails with the nearest matches."""
    if (found := find(name)) is not None:
        return found
    library, colon, _ = (plain := inflation(name)[1]).partition(":")
    if colon and library in LIBRARIES:
        raise _unknown(plain, libraries.library_names(library) + names())
    raise _unknown(plain, names() + [n for each in LIBRARIES for n in libraries.library_names(each)])


def _unknown(name: str, known: list[str]) -> UserError:
    """The error for an unknown name, with the nearest names that exist."""
    bare = {n.split(":")[-1].lower(): n for n in reversed(known)}
    near = difflib.get_close_matches(name.split(":")[-1].lower(), bare, n=4, cutoff=0.5)
    fix = f"did you mean {', '.join(bare[n] for n in near)}?" if near else "see `medgraft models` for the names"
    return UserError("unknown network", case=name, fix=fix)


def inflation(name: str) -> tuple[str, str]:
    """``i3d:NAME`` -> (``i3d``, ``NAME``); (``""``, name) for a network that is not inflated."""
    kind, colon, image = name.partition(":")
    return (kind, image) if colon and kind in INFLATIONS else ("", name)


def info(name: str) -> BackboneInfo:
    """What the named network takes and gives.

    Zoo names cost no import; library names build the network without memory.
    """
    name = resolve(name)
    kind, image = inflation(name)
    if kind:
        facts = info(image)
        if facts.dims != 2:
            raise UserError(
                "only an image network can be inflated", case=name, fix=f"choose among {', '.join(names('2d'))}"
            )
        return replace(facts, name=name)
    if name in _zoo():
        return _zoo()[name][1]
    return libraries.library_info(name)


def build_body(
    name: str,
    *,
    channels: int = 3,
    structures: int | None = None,
    size: tuple[int, ...] | None = None,
    classes: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a body with random weights; its facts are at ``.info``.

    ``channels`` is C of its input, ``structures`` is K of a dense output (then required), ``size`` its
    input size for networks that fix one (transformers). ``classes`` keeps the classifier of an image
    network: the body then gives that many logits. ``options`` go to the builder (U-Net ``width``); for an
    inflated network ``frames`` is the odd reach of its kernels in time (3).
    Draws from torch's global generator; ``model.make_model`` seeds it.
    """
    from medgraft.models import inflate, surgery  # they need torch, which names and facts do not

    name = resolve(name)
    facts = info(name)
    if facts.dense and structures is None:
        raise UserError(
            "a dense network needs the number of structures", case=name, fix="use it with a segmentation task"
        )
    if not facts.dense and structures is not None:
        raise UserError(
            "this network gives features, not a map", case=name, fix=f"choose a dense one: {', '.join(names('dense'))}"
        )
    if classes is not None and (facts.dense or facts.dims != 2 or name.startswith(("monai:", "smp:"))):
        raise UserError("only image networks keep their classifier", case=name)
    if channels < 1:
        raise UserError(f"a network needs at least one channel, not {channels}", case=name)
    if size is not None and len(size) != facts.dims:
        raise UserError(f"size {size} has {len(size)} sides, the network has {facts.dims} dimensions", case=name)
    only = (
        name in _zoo() and facts.fixed_size and facts.min_size == facts.default_size
    )  # others are built for the size that they will meet
    if size is not None and only and tuple(size) != facts.default_size:
        raise UserError(
            f"the network takes {facts.default_size} only, not {tuple(size)}",
            case=name,
            fix="set `size` to match or choose another",
        )
    kind, image = inflation(name)
    if kind:
        given = dict(options or {})
        frames = int(given.pop("frames", 3))
        made = build_body(image, channels=channels, structures=structures, size=size, classes=classes, options=given)
        body: Any = inflate.convert(made, kind, frames)
        body.info = replace(body.info, name=name)
        return body
    arguments: dict[str, Any] = {"channels": channels, "size": size, **(options or {})}
    if facts.dense:
        arguments["structures"] = structures
    if name in _zoo():
        build = getattr(importlib.import_module(_zoo()[name][0]), name)
    else:
        build = libraries.builder(name)
        if classes is not None:
            arguments["classes"] = classes
    try:
        body = build(**arguments)
    except TypeError as error:
        if options and any(f"'{key}'" in str(error) for key in options):
            raise UserError(f"the network takes no such option ({error})", case=name) from error
        raise
    if classes is not None:
        if name in _zoo():
            try:
                surgery.put_classifier_back(body, facts.features, classes)
            except ValueError as error:
                raise UserError(
                    "this network has no classifier of its own", case=name, fix="take one trained on classes"
                ) from error
        facts = replace(facts, features=classes)
    surgery.pool_by_mean(body)
    surgery.set_norm_momentum(body)
    body.info = replace(facts, default_size=tuple(size)) if size is not None else facts
    return body
