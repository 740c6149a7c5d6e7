"""Which frames of an array take part. Arrays are never thinned on disk; kept indices are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from medgraft.data.random import generator
from medgraft.errors import UserError


@dataclass(frozen=True)
class Rules:
    """How frames are thinned: at most ``max_per_second`` in every second (None: all stay), for the given roles only.

    Test and select parts stay whole unless asked for, so that no result depends on thinning them.
    """

    max_per_second: int | None = None
    roles: tuple[str, ...] = ("train",)

    def __post_init__(self) -> None:
        if self.max_per_second is not None and self.max_per_second < 1:
            raise UserError(f"max_per_second must be at least 1, not {self.max_per_second}")


ALL = Rules()


def select(frames: pl.DataFrame, role: str, seed: int, rules: Rules = ALL) -> dict[str, np.ndarray]:
    """Kept frame indices of every array in a frames table, in order.

    What is kept of an array depends on its id, its times, ``role``, ``seed`` and ``rules`` alone, not
    on which other arrays stand in the table. Raises ``UserError`` naming an array without frame times
    when a rule needs them.
    """
    kept: dict[str, np.ndarray] = {}
    ordered = frames.select("array_id", "frame", "time_s").sort("array_id", "frame")
    for (array_id,), part in ordered.group_by("array_id", maintain_order=True):
        index = part["frame"].to_numpy()
        if rules.max_per_second is not None and role in rules.roles:
            if part["time_s"].null_count():
                raise UserError("frames have no times", case=str(array_id)[:12], fix="leave out max_per_second")
            rng = generator(seed, f"select {role} {array_id}")
            index = index[_cap(np.floor(part["time_s"].to_numpy()).astype(np.int64), rules.max_per_second, rng)]
        kept[str(array_id)] = index
    return kept


def _cap(second: np.ndarray, most: int, rng: np.random.Generator) -> Sequence[int]:
    """Places that stay when each value of ``second`` may come up ``most`` times; which ones is random, their order is
    kept.
    """
    lottery = rng.random(len(second))
    order = np.lexsort((lottery, second))
    start = np.concatenate([[0], np.flatnonzero(np.diff(second[order])) + 1])
    rank = np.arange(len(second)) - np.repeat(start, np.diff([*start, len(second)]))
    return np.sort(order[rank < most])  # type: ignore[return-value]
