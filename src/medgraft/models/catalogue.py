"""What can be chosen: networks, starts, and whether their files are on this machine. For people to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medgraft.errors import UserError, WeightsAbsent
from medgraft.models import convert, registry, weights
from medgraft.models.weights import WeightCard


def text(query: str = "") -> str:
    """A table of networks. ``query`` is a kind (2d, 3d, dense, features), a library, or part of a name."""
    if query in ("2d", "3d", "dense", "features", *registry.LIBRARIES):
        found = registry.names(query)
    elif query:
        everything = [*registry.names(), *(n for library in registry.LIBRARIES for n in registry.names(library))]
        found = [n for n in everything if query.lower() in n.lower()]
        if not found:
            raise UserError("no network has this in its name", case=query, fix="see `medgraft models` for the zoo")
    else:
        found = registry.names()
    rows = [("network", "input", "gives", "starts (* = file is here)")]
    if query in registry.LIBRARIES or len(found) > 60:
        return "\n".join(found)
    for name in found:
        facts = registry.info(name)
        kind = "image" if facts.dims == 2 else "clip or volume"
        gives = "a map" if facts.dense else f"{facts.features} features"
        starts = ["random*", *(card.name.split(".", 1)[-1] + ("*" if here(card) else "") for card in weights.cards(name))]
        rows.append((name, kind, gives, ", ".join(starts)))
    if not query:
        rows.append(("and any of", "", "", "torchvision:NAME, timm:NAME, monai:NAME, smp:ARCHITECTURE-ENCODER"))
    return _table(rows)


def here(card: WeightCard, folders: Sequence[Path] = ()) -> Path | None:
    """The card's file on this machine, or None. Never downloads."""
    try:
        return weights.locate(card, folders=folders, download=False)
    except WeightsAbsent:
        return None


def own_cards() -> list[WeightCard]:
    """The cards of the zoo's networks."""
    return [card for name in registry.names() for card in weights.cards(name)]


def weights_text(folders: Sequence[Path] = ()) -> str:
    """All cards of the zoo: data, licence, size, and where the file lies."""
    rows = [("card", "trained on", "licence", "MB", "file")]
    for card in own_cards():
        path = here(card, folders)
        size = f"{card.size_bytes / 1e6:.0f}" if card.size_bytes else "?"
        place = path.name if path else f"absent: {card.file_name}" + (" (download=true fetches it)" if card.addresses else "")
        rows.append((card.name, card.source_data, card.licence, size, place))
    return _table(rows)


def verify_text(folders: Sequence[Path] = ()) -> tuple[str, bool]:
    """Check the hash of each file that is here; returns the text and whether all are whole."""
    rows, good = [("card", "file", "state")], True
    for card in own_cards():
        path = None
        try:
            path = here(card, folders)
            if path is None:
                continue
            state = (
                "whole, converted"  # its hashes stand in its note, and were checked when it was found
                if path == convert.twin(path.with_name(card.file_name))
                else "whole"
                if card.sha256 and weights.sha256(path).startswith(card.sha256)
                else "no hash on the card"
                if not card.sha256
                else "hash differs"
            )
        except UserError as error:
            state = str(error)
        good = good and state in ("whole", "whole, converted", "no hash on the card")
        rows.append((card.name, path.name if path else card.file_name, state))
    return _table(rows), good


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
