"""How cases are called: in the tables, and as exported frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import PurePosixPath

from medgraft.intake.plan import Item
from medgraft.intake.private.keys import Names
from medgraft.intake.read import stem_of


def unique_names(items: list[Item]) -> dict[str, str]:
    """Item key -> case id: the stem where it is unique, else the path with its folders joined by ``_``."""
    stems: dict[str, int] = defaultdict(int)
    for item in items:
        stems[item.stem] += 1
    names: dict[str, str] = {}
    taken: set[str] = set()
    for item in items:
        base = item.stem if stems[item.stem] == 1 else stem_of(item.key).replace("/", "_")
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        names[item.key] = name
    return names


def coded_names(items: list[Item], outside: Names, dataset: str) -> dict[str, str]:
    """Item key -> case id: a keyed code of the data set's name and the item's path.

    Cases that share a stem or a folder look unrelated.
    """
    return {item.key: outside.of("case", f"{dataset}/{item.key}") for item in items}


def video_names(keys: dict[str, str], coded: Callable[[str], str]) -> dict[str, tuple[str, int]]:
    """Case id -> (tumour, number of the video), from the paths of the studies within the source (case id -> path)."""
    cases: dict[str, list[str]] = defaultdict(list)
    for case, key in sorted(keys.items(), key=lambda pair: pair[1]):
        path = PurePosixPath(key)
        stem = stem_of(path.name)
        first, mark, last = stem.rpartition("_")
        cases[path.parent.name or (first if mark and last.isdigit() else stem)].append(case)
    return {
        case: (coded(name), number) for name, members in cases.items() for number, case in enumerate(members, start=1)
    }
