"""Choosing a setting on inner parts only. Nothing here can reach a test part."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medgraft import runs
from medgraft.engine import fit
from medgraft.engine.loop import best_is
from medgraft.engine.plan import Arm, Plan, Setting
from medgraft.engine.session import Session, Training
from medgraft.tasks.task import Weighs


@dataclass(frozen=True)
class Choice:
    """The chosen setting of one outer fold: its inner score, and the share of the steps at which it was best.

    ``largest`` are the structures of which the largest component alone is called, where that was weighed.
    """

    setting: Setting
    score: float
    stop_share: float
    tried: int
    largest: tuple[str, ...] = ()


def search(
    session: Session,
    run: runs.Run,
    arm: Arm,
    outer: int,
    *,
    progress: fit.Progress | None,
    seen: Callable[[runs.Cell], None],
) -> Choice:
    """Train every setting on the inner training parts, score it on the inner select parts, take the best mean."""
    for setting, cells in session.plan.searches(arm, outer):
        for cell in cells:
            fit.run_cell(session, run, Training(cell, arm, setting), progress)
            seen(cell)
    return choose(session.plan, run, arm, outer)


def choose(plan: Plan, run: runs.Run, arm: Arm, outer: int) -> Choice:
    """The choice that finished inner cells lead to.

    Ties go to the setting named first. Without inner parts there is nothing to choose and the only
    setting is returned with an undefined score. Clean-up is weighed last, on what the chosen setting said of the parts
    that select.
    """
    table = plan.searches(arm, outer)
    higher = plan.make_task().metric.direction != "lower"
    best: Choice | None = None
    tried: list[runs.Cell] = []
    for setting, cells in table:
        outcomes = [fit.outcome(run, cell) for cell in cells]
        score = float(np.mean([o.score for o in outcomes])) if outcomes else math.nan
        shares = [o.best_step / o.horizon if setting.train.patience else 1.0 for o in outcomes]
        choice = Choice(setting, score, float(np.mean(shares)) if shares else 1.0, len(table))
        if best is None or (score == score and best_is(score, best.score, higher)):
            best, tried = choice, cells
    assert best is not None
    if tried and isinstance(task := plan.make_task(best.setting, inner=0), Weighs) and task.weighs:
        said = run.gather("measures", [cell.hash for cell in tried])
        return replace(best, largest=task.cleaned(said.to_dict(as_series=False)))
    return best


def refits(plan: Plan, arm: Arm, outer: int, choice: Choice) -> list[runs.Cell]:
    """The cells that train a choice on the whole training part, one a seed."""
    steps = round(choice.stop_share * 1000)
    place: dict[str, Any] = {"outer": outer, "inner": -1, "steps": steps, "largest": choice.largest}
    return [plan.cell(arm, choice.setting, seed=seed, **place) for seed in plan.seeds]
