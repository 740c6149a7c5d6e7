"""What was trained here becomes a start: its tensors as safetensors, and beside them a card with what must be known.

Plain facts come in; nothing here knows a run, a task or a data set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from medgraft.errors import UserError
from medgraft.files import sha256, whole, write_json
from medgraft.models import registry
from medgraft.models.records import Source, WeightCard
from medgraft.models.weights.cards import CARD, cards, faults, read_card

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,60}")


@dataclass(frozen=True)
class Facts:
    """What a published file says of itself; the fields of a ``WeightCard`` that only its maker knows.

    ``name`` is the start under which it is found again. ``input_size`` is (H, W) or (D, H, W). ``trained_on`` and
    ``reached`` are for people: the data, and the metric with its name and level. ``sources`` are what it was made
    from (the card it started from, the data set, the run), each with a hash.
    """

    network: str
    name: str
    input_size: tuple[int, ...]
    channels: int
    trained_on: str
    licence: str
    sources: tuple[Source, ...] = ()
    reached: str = ""
    range: float = 1.0
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    channel_order: str = "RGB"
    standardise: str = ""
    paper: str = ""
    notes: str = ""


def publish(state: Mapping[str, Tensor], facts: Facts, folder: Path) -> WeightCard:
    """Write ``state`` and its card into ``folder`` and return the card; ``find_card`` finds it there by ``facts.name``.

    ``state`` is the state dict of a network as ``registry.build_body`` gives it (``Model.network``). The files are
    ``NETWORK.NAME.safetensors`` and, last, ``NETWORK.NAME.card.json``, each whole or not at all. Raises ``UserError``
    for a name that is taken or no name, for numbers that are not finite, and for facts that no card can hold.
    """
    from safetensors.torch import save_file

    network = registry.resolve(facts.network)
    if not _NAME.fullmatch(facts.name):
        raise UserError("a start is called by letters, digits, '.', '_', '+' and '-'", case=facts.name)
    if facts.name.lower() in {card.tag.lower() for card in cards(network)}:
        raise UserError(f"{network} has a start of that name", case=facts.name, fix="choose another name")
    stem = re.sub(r"[^A-Za-z0-9._+-]", "-", f"{network}.{facts.name}")
    place, weights = Path(folder) / (stem + CARD), Path(folder) / f"{stem}.safetensors"
    if place.exists():
        raise UserError("a weight card of that name is there already", case=str(place), fix="choose another name")
    Path(folder).mkdir(parents=True, exist_ok=True)
    tensors = _plain(state, facts.name)
    with whole(weights) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
        card = WeightCard(
            name=f"{network}.{facts.name}",
            backbone=network,
            file_name=weights.name,
            sha256=sha256(temporary),
            size_bytes=temporary.stat().st_size,
            licence=facts.licence,
            source_data=facts.trained_on,
            accuracy=facts.reached,
            paper=facts.paper,
            input_size=tuple(facts.input_size),
            mean=tuple(facts.mean),
            std=tuple(facts.std),
            range=facts.range,
            channel_order=facts.channel_order,
            channels=facts.channels,
            standardise=facts.standardise,
            name_map="library" if ":" in network else "identity",
            format="safetensors",
            notes=facts.notes,
            sources=tuple(facts.sources),
        )
        row = {key: value for key, value in asdict(card).items() if key != "folder"}
        for fault in faults(row):
            raise UserError(f"these facts make no weight card: {fault}", case=facts.name)
    write_json(place, row)
    return read_card(place)


def _plain(state: Mapping[str, Tensor], case: str) -> dict[str, Tensor]:
    """Tensors that share no memory, on the CPU; refused where one is not finite."""
    if not state:
        raise UserError("there are no tensors to publish", case=case)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"tensor {name} holds numbers that are not finite", case=case, fix="publish another training"
            )
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
