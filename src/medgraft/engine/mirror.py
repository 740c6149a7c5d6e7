"""Whether mirror images teach or mislead: where a name carries a side, a mirrored case has the wrong label."""

from __future__ import annotations

import re
from collections.abc import Iterable

from medgraft.tasks.task import Task, TaskSpec

SIDES = frozenset(
    (
        *("left", "right", "links", "rechts", "linke", "linker", "linkes", "rechte", "rechter", "rechtes"),
        *("gauche", "droite", "droit", "anterior", "posterior"),
    )
)
LETTERS = frozenset("lr")  # a side only where both stand among the names
SIGNS = ("左", "右")


def sided(names: Iterable[str]) -> list[str]:
    """Names that carry a side, in order: a word of ``SIDES``, a sign, or L and R as the words of a pair."""
    words = {name: set(_words(name)) for name in names}
    pair = set().union(*words.values()) >= LETTERS
    return [
        name
        for name, own in words.items()
        if own & SIDES or any(sign in name for sign in SIGNS) or (pair and own & LETTERS)
    ]


def _words(name: str) -> list[str]:
    """Words of a name in small letters: ``LeftLung_2`` -> left, lung."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W\d_]+", parted.lower())


def why_not(task: Task, spec: TaskSpec) -> str:
    """Why mirror images are left out where the recipe leaves it open; empty where they may be shown."""
    names = [*spec.structures, *(name for t in spec.targets for name in (t.name, *t.classes))]
    if found := sided(names):
        return f"{', '.join(found[:4])} carry a side" if len(found) > 1 else f"{found[0]} carries a side"
    return "masks are learned, and where a structure lies tells which it is" if task.joins == "field" else ""
