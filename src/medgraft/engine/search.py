"""Choosing a setting on inner parts only. Nothing here can reach a test part."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medgraft import runs
from medgraft.config import ArmConfig, TrainConfig
from medgraft.engine import fit
from medgraft.engine.context import Context


@dataclass(frozen=True)
class Choice:
    """The chosen setting of one outer fold: its inner score, and the share of the steps at which it was best."""

    setting: TrainConfig
    score: float
    stop_share: float
    tried: int


def inner_cells(context: Context, arm: ArmConfig, outer: int) -> list[tuple[TrainConfig, list[runs.Cell]]]:
    """The cells of a search: every setting on every inner part, with the first seed."""
    parts = sorted(i for o, i in context.inner if o == outer)
    seed = context.recipe.seeds[0]
    settings = context.recipe.arm_settings(arm)
    return [(s, [context.cell(arm, s, outer=outer, inner=i, seed=seed) for i in parts]) for s in settings]


def search(
    context: Context,
    run: runs.Run,
    arm: ArmConfig,
    outer: int,
    *,
    progress: fit.Progress | None,
    seen: Callable[[runs.Cell], None],
) -> Choice:
    """Train every setting on the inner training parts, score it on the inner select parts, take the best mean.

    Ties go to the setting named first. Without inner parts there is nothing to choose and the only
    setting is returned with an undefined score.
    """
    table = inner_cells(context, arm, outer)
    higher = context.make_task().higher_is_better
    best: Choice | None = None
    for setting, cells in table:
        scores, shares = [], []
        for cell in cells:
            part = context.inner[(outer, cell.inner)]
            result = fit.run_cell(
                context,
                run,
                arm,
                cell,
                setting,
                train=context.rows_of(part["train"]),
                judge=context.rows_of(part["select"]),
                progress=progress,
            )
            seen(cell)
            scores.append(result.score)
            shares.append(result.best_step / result.horizon if setting.patience else 1.0)
        score = float(np.mean(scores)) if scores else math.nan
        choice = Choice(setting, score, float(np.mean(shares)) if shares else 1.0, len(table))
        if best is None or (
            score == score and (best.score != best.score or (score > best.score if higher else score < best.score))
        ):
            best = choice
    assert best is not None
    return best
