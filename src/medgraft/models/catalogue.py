"""What can be chosen: networks, starts, and whether their files are on this machine. For people to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medgraft.errors import UserError, WeightsAbsent
from medgraft.models import registry, weights
from medgraft.models.records import WeightCard
from medgraft.models.weights import convert


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
        rows.append(_row(name))
    if not query:
        rows.append(
            (
                "and any of",
                "",
                "",
                "torchvision:NAME, timm:NAME, monai:NAME, smp:ARCHITECTURE-ENCODER; i3d:NAME, r2plus1d:NAME",
            )
        )
    return _table(rows)


def _row(name: str) -> tuple[str, str, str, str]:
    """A network in the table, or in one line why it cannot be built."""
    try:
        facts = registry.info(name)
    except UserError as error:
        return name, "", "", error.cause
    kind = "image" if facts.dims == 2 else "clip or volume"
    gives = "a map" if facts.dense else f"{facts.features} features"
    starts = [card.name.split(".", 1)[-1] + ("*" if _whole(card) else "") for card in weights.cards(name)]
    return name, kind, gives, ", ".join(["random*", *starts])


def _whole(card: WeightCard) -> bool:
    """Is the file here and the card's? ``medgraft weights verify`` tells of one that is not."""
    try:
        return here(card) is not None
    except UserError:
        return False


def here(card: WeightCard, folders: Sequence[Path] = ()) -> Path | None:
    """The card's file on this machine (the first part of one that is not joined yet), or None.

    Never downloads or writes.
    """
    try:
        return weights.locate(replace(card, shards=()), folders=folders, download=False)
    except WeightsAbsent:
        return next(iter(weights.shards(card)), None)


def own_cards(query: str = "", folders: Sequence[Path] = ()) -> list[WeightCard]:
    """The cards of the zoo's networks and those that lie in ``folders``; ``query`` is a kind (2d, 3d, dense, features),
    part of a card's name or source data, or the name of any network, whose cards then come first.
    """
    kind = query if query in ("2d", "3d", "dense", "features") else None
    lying = [c for c in weights.folder_cards(folders)[0] if kind is None or _is(c.backbone, kind)]
    found = [*(card for name in registry.names(kind) for card in weights.cards(name)), *lying]
    if query and kind is None:
        found = [
            card for card in found if query.lower() in card.name.lower() or query.lower() in card.source_data.lower()
        ]
        named = _cards_of_network(query, bool(found))
        found = [*named, *(card for card in found if card not in named)]
    return found


def _is(name: str, kind: str) -> bool:
    """Is the network of that kind? One that is unknown is of none."""
    try:
        facts = registry.info(name)
    except UserError:
        return False
    return kind in (f"{facts.dims}d", facts.output)


def _cards_of_network(query: str, others: bool) -> list[WeightCard]:
    """The cards of the network of that very name (``NETWORK.TAG`` narrows them); an error where there are neither these
    nor ``others``.
    """
    network, _, tag = query.partition(".")
    try:
        name = registry.find(network) if others else registry.resolve(network)
    except UserError as error:
        if others:
            return []
        near = error.fix if error.fix.startswith("did you mean") else "see `medgraft weights list`"
        raise UserError("no card has this in its name or source data", case=query, fix=near) from error
    found = [] if name is None else [card for card in weights.cards(name) if card.tag.lower().startswith(tag.lower())]
    if not found and not others:
        raise UserError("no weights are known for this network", case=query, fix="its only start is random")
    return found


def weights_text(folders: Sequence[Path] = (), query: str = "") -> str:
    """Cards of the zoo: data, licence, size, and whether the file is here; all that is known where there are three at
    most.
    """
    found = own_cards(query, folders)
    if len(found) <= 3:
        return "\n\n".join(_details(card, folders) for card in found)
    rows = [("card", "trained on", "licence", "MB", "file")]
    for card in found:
        rows.append(
            (card.name, _short(card.source_data, 34), _short(card.licence, 24), _megabytes(card), _place(card, folders))
        )
    return _table(rows) + "\n* by download=true. All about one: medgraft weights list NAME"


def _megabytes(card: WeightCard) -> str:
    return f"{card.size_bytes / 1e6:.0f}" if card.size_bytes else "?"


def _place(card: WeightCard, folders: Sequence[Path]) -> str:
    try:
        path = here(card, folders)
    except UserError as error:
        return error.cause
    if path is None:
        return f"absent: {card.file_name}" + ("*" if card.addresses else "")
    return f"{len(card.shards)} parts, joined when first used" if path in weights.shards(card) else path.name


def _details(card: WeightCard, folders: Sequence[Path]) -> str:
    """Every field of a card that says something, one a line."""
    rows = [("card", card.name), ("file", _place(card, folders)), ("name", card.file_name), ("MB", _megabytes(card))]
    rows += [("sha256", card.sha256 or "none published"), ("licence", card.licence), ("trained on", card.source_data)]
    rows += [
        ("accuracy", card.accuracy or "not stated"),
        ("paper", card.paper),
        ("input", " x ".join(map(str, card.input_size))),
    ]
    values = f"0 to {card.range:g}, minus {_numbers(card.mean)}, over {_numbers(card.std)}, {card.channels} channels"
    rows += [
        (
            "values",
            ("standardised, " if card.standardise else "")
            + values
            + (f" {card.channel_order}" if card.channels == 3 else ""),
        )
    ]
    rows += [("made from", ", ".join(f"{s.name} {s.hash[:12]}".strip() for s in card.sources))]
    rows += [("package", card.package), *(("address", address) for address in card.addresses), ("notes", card.notes)]
    return _table([row for row in rows if row[1]])


def _numbers(values: Sequence[float]) -> str:
    same = values[:1] if len(set(values)) == 1 else values
    return " ".join(f"{v:.6g}" for v in same)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip(" ,;(") + "\u2026"


def verify_text(folders: Sequence[Path] = (), query: str = "") -> tuple[str, bool]:
    """Check the hash of each file that is here; returns the text and whether all are whole. Parts are joined for it."""
    rows, good = [("card", "file", "state")], True
    for card in own_cards(query, folders):
        path = None
        try:
            path = weights.locate(card, folders=folders)  # checks size and hash
            converted = path == convert.twin(path.with_name(card.file_name))  # its hashes stand in its note
            state = "whole, converted" if converted else "whole" if card.sha256 else "no hash on the card"
        except WeightsAbsent:
            continue
        except UserError as error:
            state, good = str(error), False
        rows.append((card.name, path.name if path else card.file_name, state))
    return _table(rows), good


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
