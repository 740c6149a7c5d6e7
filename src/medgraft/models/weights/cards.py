"""Weight cards by name: those of the zoo (``models/cards/*.json``) and those that the libraries' records give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from medgraft.errors import UserError
from medgraft.models import libraries, registry
from medgraft.models.records import WeightCard


@lru_cache(maxsize=1)
def built_in() -> tuple[WeightCard, ...]:
    files = sorted((Path(__file__).parents[1] / "cards").glob("*.json"))  # one a family, as the zoo's files
    return tuple(card_from(row) for file in files for row in json.loads(file.read_text(encoding="utf-8")))


def card_from(row: Mapping[str, Any]) -> WeightCard:
    """A card from plain data (JSON); unknown keys fail by name."""
    known = {f.name for f in fields(WeightCard)}
    unknown = sorted(set(row) - known)
    if unknown:
        raise UserError(
            f"unknown fields {', '.join(unknown)} on a weight card",
            case=str(row.get("name", "")),
            fix="see docs/models.md",
        )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return WeightCard(**values)


def cards(backbone: str) -> list[WeightCard]:
    """All cards of a network, the default first. An inflated network has those of its image network."""
    name = registry.resolve(backbone)
    image = registry.inflation(name)[1]
    if image != name:
        return [replace(card, backbone=name, name=f"{name}.{card.tag}") for card in cards(image)]
    found = [card for card in built_in() if card.backbone == name]
    source = name if ":" in name else registry.info(name).weights_of
    if source:
        derived = libraries.library_cards(source)
        found += [replace(card, backbone=name, name=f"{name}.{card.tag}") for card in derived]
    return found


def find_card(backbone: str, start: str) -> WeightCard | None:
    """The card that a start means for a network; ``random`` means none.

    ``imagenet`` and ``kinetics`` choose by source data (the first that fits), anything else is a tag or
    a full card name, capitals ignored. Raises ``UserError`` with the starts that exist.
    """
    if start == "random":
        return None
    have = cards(backbone)
    name = registry.resolve(backbone)
    wanted = start.lower()
    for card in have:
        if wanted in (card.name.lower(), card.tag.lower(), f"{backbone}.{card.tag}".lower()):
            return card
    for card in have:
        if wanted in ("imagenet", "kinetics") and wanted in card.source_data.lower().replace("-", ""):
            return card
    tags = ", ".join(["random", *(c.tag for c in have)])
    raise UserError(f"no weights '{start}' are known for this network", case=name, fix=f"its starts are {tags}")
