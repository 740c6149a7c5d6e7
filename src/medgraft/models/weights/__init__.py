"""Pretrained weights: what is known of a file (its card), where it lies, and how it enters a body.

A start is a word (``random``, ``imagenet``, ``kinetics``), a tag, a card's full name, or the path of a card that lies
beside its file. ``find_card`` turns it into a ``WeightCard``, ``locate`` into a verified file on this machine, ``load``
into a body with weights and a report of what was loaded, changed and left out. Nothing is half loaded in silence.

``cards``, ``locate`` and ``load`` are the functions here; each stands in the file of its name.
"""

from medgraft.files import sha256
from medgraft.models.records import LoadReport, Source, WeightCard, source_accuracy
from medgraft.models.weights.cards import built_in, card_from, cards, find_card, folder_cards
from medgraft.models.weights.load import load, load_state, name_map, read_state
from medgraft.models.weights.locate import default_cache, locate, shards, verify

__all__ = [
    "LoadReport",
    "Source",
    "WeightCard",
    "built_in",
    "card_from",
    "cards",
    "default_cache",
    "find_card",
    "folder_cards",
    "load",
    "load_state",
    "locate",
    "name_map",
    "read_state",
    "sha256",
    "shards",
    "source_accuracy",
    "verify",
]
