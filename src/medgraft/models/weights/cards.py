"""Weight cards by name: those of the zoo (``models/cards/*.json``), those that the libraries' records give, and those
that lie in folders beside their files.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from medgraft.errors import UserError
from medgraft.models import libraries, registry
from medgraft.models.records import Source, WeightCard

CARD = ".card.json"  # what a card file in a folder is called: NAME.card.json beside NAME.safetensors
WORDS = ("random", "imagenet", "kinetics")  # starts that choose a card; no card is called so in a folder
_CARD_BYTES = 1 << 20


@lru_cache(maxsize=1)
def built_in() -> tuple[WeightCard, ...]:
    files = sorted((Path(__file__).parents[1] / "cards").glob("*.json"))  # one a family, as the zoo's files
    return tuple(card_from(row) for file in files for row in json.loads(file.read_text(encoding="utf-8")))


def card_from(row: Mapping[str, Any]) -> WeightCard:
    """A card from plain data (JSON); unknown keys fail by name."""
    known = {f.name for f in fields(WeightCard)} - {"folder"}
    unknown = sorted(set(row) - known)
    if unknown:
        raise UserError(
            f"unknown fields {', '.join(unknown)} on a weight card",
            case=str(row.get("name", "")),
            fix="see docs/models.md",
        )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    if "sources" in values:
        values["sources"] = tuple(Source(**source) for source in values["sources"])
    return WeightCard(**values)


def cards(backbone: str) -> list[WeightCard]:
    """All cards of a network that need no folder, the default first. An inflated network has those of its image
    network.
    """
    name = registry.resolve(backbone)
    image = registry.inflation(name)[1]
    if image != name:
        return [_for(name, card) for card in cards(image)]
    found = [card for card in built_in() if card.backbone == name]
    source = name if ":" in name else registry.info(name).weights_of
    if source:
        found += [_for(name, card) for card in libraries.library_cards(source)]
    return found


def _for(name: str, card: WeightCard) -> WeightCard:
    """The same file as a start of another network that it fits."""
    return replace(card, backbone=name, name=f"{name}.{card.tag}")


def find_card(backbone: str, start: str, folders: Sequence[Path] = ()) -> WeightCard | None:
    """The card that a start means for a network; ``random`` means none.

    ``imagenet`` and ``kinetics`` choose by source data (the first of ``cards`` that fits), anything else is a tag or
    a full card name, capitals ignored, of ``cards`` or of a card file in one of ``folders``, or the path of a card
    file or of a safetensors file beside one. Raises ``UserError`` with the starts that exist, for a card of another
    network, for two different cards of one name, and for a card file that cannot be read.
    """
    if start == "random":
        return None
    name = registry.resolve(backbone)
    if start.lower().endswith((CARD, ".safetensors")):
        return _fitting(name, card_at(_path(start, folders)))
    have = cards(backbone)
    lying, broken = folder_cards(folders)
    wanted = start.lower()
    found = [card for card in have if wanted in _called(card, backbone)][:1]
    found += [card for card in lying if wanted in _called(card, backbone)]
    mine = [_for(name, card) if card.backbone != name else card for card in found if _fits(name, card)]
    if any(card != mine[0] for card in mine):
        raise UserError(
            f"two weight cards are called '{start}': {' and '.join(map(_place, mine))}",
            case=name,
            fix="give the path of one as start, or rename it",
        )
    if mine:
        return mine[0]
    for card in have:
        if wanted in WORDS and wanted in card.source_data.lower().replace("-", ""):
            return card
    if found:
        return _fitting(name, found[0])
    for path, fault in broken:
        if wanted in path.name.lower():
            raise fault
    tags = [card.tag for card in (*have, *lying) if _fits(name, card)]
    words = [word for word in WORDS if any(word in c.source_data.lower().replace("-", "") for c in have)]
    near = difflib.get_close_matches(wanted, known := {t.lower(): t for t in ("random", *words, *tags)}, n=1)
    hint = f"did you mean '{known[near[0]]}'? " if near else ""
    raise UserError(
        f"no weights '{start}' are known for this network",
        case=name,
        fix=f"{hint}its starts are {', '.join(dict.fromkeys(['random', *tags]))}",
    )


def _called(card: WeightCard, backbone: str) -> tuple[str, ...]:
    return card.name.lower(), card.tag.lower(), f"{backbone}.{card.tag}".lower()


def _fits(name: str, card: WeightCard) -> bool:
    return card.backbone in (name, registry.inflation(name)[1])


def _fitting(name: str, card: WeightCard) -> WeightCard:
    if not _fits(name, card):
        raise UserError(
            f"the weight card {card.name} ({_place(card)}) is for {card.backbone}, not for this network",
            case=name,
            fix="choose another start, or that network",
        )
    return card if card.backbone == name else _for(name, card)


def _place(card: WeightCard) -> str:
    return str(Path(card.folder) / card.file_name) if card.folder else f"{card.name}, which medgraft knows"


# ---------------------------------------------------------------------------------------- cards in folders


def folder_cards(folders: Sequence[Path]) -> tuple[list[WeightCard], list[tuple[Path, UserError]]]:
    """The cards that lie in these folders, and the card files that cannot be read with what is wrong with them."""
    good: list[WeightCard] = []
    broken: list[tuple[Path, UserError]] = []
    for folder in dict.fromkeys(Path(f).resolve() for f in folders):
        for path in sorted(folder.glob(f"*{CARD}")):
            try:
                good.append(read_card(path))
            except UserError as error:
                broken.append((path, error))
    return good, broken


def _path(start: str, folders: Sequence[Path]) -> Path:
    """A start that is a path: as it stands, or within one of the folders."""
    for path in (Path(start).expanduser(), *(Path(folder) / start for folder in folders)):
        if path.is_file():
            return path
    raise UserError("no such weight card or weights file", case=start, fix="give its path, or weights=[its folder]")


def card_at(path: Path) -> WeightCard:
    """The card in a card file, or the one beside a safetensors file."""
    if path.name.lower().endswith(CARD):
        return read_card(path)
    beside, broken = folder_cards([path.parent])
    found = [card for card in beside if card.file_name == path.name]
    if len(found) > 1:
        names = " and ".join(card.name for card in found)
        raise UserError(f"two weight cards name this file: {names}", case=str(path), fix="give the path of one card")
    if not found:
        own = [fault for place, fault in broken if place.name == path.stem + CARD]
        raise (
            own[0]
            if own
            else UserError(
                "no weight card lies beside this file",
                case=str(path),
                fix=f"write {path.stem}{CARD}, see docs/models.md",
            )
        )
    return found[0]


def read_card(path: Path) -> WeightCard:
    """The card in a file: a JSON object with the fields of ``WeightCard``. It names a safetensors file beside it.

    Raises ``UserError`` for anything else; files come from strangers.
    """
    try:
        if path.stat().st_size > _CARD_BYTES:
            raise ValueError("it is longer than any card")
        row = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(row, dict):
            raise ValueError("it holds no fields")
        for problem in faults(row):
            raise ValueError(problem)
        return replace(card_from(row), folder=str(path.parent.resolve()))
    except (OSError, ValueError, RecursionError, UserError) as error:
        told = error.cause if isinstance(error, UserError) else str(error) if type(error) is ValueError else ""
        why = told or f"it is no readable JSON ({type(error).__name__})"
        raise UserError(f"not a weight card: {why}", case=str(path), fix="see docs/models.md") from error


def faults(row: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the fields of a card that lies in a folder, one a line."""
    hints = get_type_hints(WeightCard)
    for key in ("name", "backbone", "file_name", "sha256"):
        if key not in row:
            yield f"it has no {key}"
            return
    for key, value in row.items():
        if key in hints and not _is(value, hints[key]):
            yield f"its {key} is no {' of '.join(filter(None, _told(hints[key])))}"
            return
    backbone, file = row["backbone"], row["file_name"]
    if not row["name"].startswith(f"{backbone}.") or not row["name"].removeprefix(f"{backbone}."):
        yield f"its name does not begin with its network, {backbone}."
    if row["name"].removeprefix(f"{backbone}.").lower() in WORDS:
        yield f"{', '.join(WORDS)} are no names for cards of your own"
    if not re.fullmatch(r"[^/\\:\0]+\.safetensors", file):
        yield "its file_name is no safetensors file beside it"
    if row.get("package") or row.get("shards"):
        yield "it names a package, its file lies beside it"
    if not re.fullmatch("[0-9a-f]{64}", row["sha256"]):
        yield "its sha256 has not 64 digits"
    sizes = row.get("channels", 3), len(row.get("mean", (0, 0, 0))), len(row.get("std", (0, 0, 0)))
    if sizes[0] < 1 or any(n not in (1, sizes[0]) for n in sizes[1:]):
        yield f"it has {sizes[0]} channels, {sizes[1]} means and {sizes[2]} deviations"
    if min(row.get("std", (1.0,))) <= 0 or row.get("range", 1.0) <= 0:
        yield "std and range are above 0"
    if row.get("channel_order", "RGB") not in ("RGB", "BGR"):
        yield "its channel_order is RGB or BGR"
    if row.get("standardise", "") not in ("", "all", "positive"):
        yield "its standardise is all, positive or empty"


def _is(value: Any, hint: Any) -> bool:
    """Is plain data (JSON) of a field's type?"""
    if get_origin(hint) is tuple:
        return isinstance(value, (list, tuple)) and all(_is(part, get_args(hint)[0]) for part in value)
    if get_origin(hint) is UnionType:
        return any(_is(value, each) for each in get_args(hint))
    if hint is Source:
        return (
            isinstance(value, Mapping) and value.keys() == {"name", "hash"} and all(_is(v, str) for v in value.values())
        )
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def _told(hint: Any) -> tuple[str, str]:
    """A field's type in words."""
    words = {str: "text", int: "whole number", float: "number", Source: "name and hash", NoneType: "null"}
    if get_origin(hint) is tuple:
        return "list", _told(get_args(hint)[0])[0]
    if get_origin(hint) is UnionType:
        return " or ".join(_told(each)[0] for each in get_args(hint)), ""
    return words[hint], ""
