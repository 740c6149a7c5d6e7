"""How long a plan takes here, measured before its first fit; and seconds turned into steps, once.

Measured seconds decide no number. The one exception is asked for: ``budget=10min`` sets the optimiser steps of the arms
that train, from the pace that was measured when the plan was made. The steps stand in ``plan.json`` and in every cell's
name, so a run that goes on measures nothing anew.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medgraft import runs
from medgraft.config import Recipe
from medgraft.data.dataset import CaseDataset
from medgraft.datasets import Dataset
from medgraft.engine import features, loop, optim, predict
from medgraft.engine import plan as planning
from medgraft.engine.build import build, fit_normalise
from medgraft.engine.plan import Arm, Plan
from medgraft.engine.session import Session
from medgraft.errors import UserError, WeightsAbsent
from medgraft.progress import duration

STEPS = 3  # measured; the first warms up and does not count
CASES = 4  # predicted to learn what a case costs


@dataclass(frozen=True)
class Pace:
    """What one arm costs here, in seconds: ``once`` before anything, ``step`` each optimiser step, ``case`` each
    predicted case. ``steps`` and ``cases`` are those of all its cells that are not done.
    """

    arm: str
    once: float
    step: float
    case: float
    steps: int
    cases: int
    cells: int

    @property
    def fixed(self) -> float:
        """Seconds that no number of steps changes."""
        return self.once + self.case * self.cases

    @property
    def seconds(self) -> float:
        return self.fixed + self.step * self.steps


def measure(session: Session, run: runs.Run | None = None) -> list[Pace]:
    """The pace of every arm that can be built, by a few steps and cases of its first setting on the data themselves.

    Nothing is kept of them, and no later number depends on them. Cells that ``run`` holds are not counted.
    """
    found = []
    for arm in session.plan.arms:
        try:
            found.append(_pace(session, arm, run))
        except WeightsAbsent:
            continue  # the run itself says so
    return found


def _pace(session: Session, arm: Arm, run: runs.Run | None) -> Pace:
    plan, setting = session.plan, arm.settings[0]
    task = plan.make_task(setting)
    steps, cases, cells = _left(session, arm, run)
    if not cells:
        return Pace(arm.id, 0.0, 0.0, 0.0, 0, 0, 0)
    model, _ = build(plan, arm, setting, task, seed=plan.seeds[0])
    if setting.normalise.kind == "data":
        fit_normalise(model, session.samples(session.rows()[:CASES], setting))
    session.fabric.to_device(model)
    if arm.on_features(setting, task):
        return Pace(arm.id, _features(session, arm, model), 0.0, 0.0, steps, cases, cells)
    rows = session.rows()
    learns = session.samples(rows, setting, augmented=True)
    task.fit(learns.labels())
    ticks = [time.perf_counter()]
    horizon = optim.steps_for(setting.train, len(rows))
    with tempfile.TemporaryDirectory() as folder:
        loop.train(
            session.fabric,
            model,
            task,
            learns,
            setting.train,
            seed=plan.seeds[0],
            horizon=horizon,
            stop=min(STEPS, horizon),
            how=arm.strategy,
            folder=Path(folder),
            checkpoint_seconds=float("inf"),
            loading=loop.Loading(0, 2),
            progress=lambda *_: ticks.append(time.perf_counter()),
        )
    spent = [after - before for before, after in itertools.pairwise(ticks)]
    few = session.samples(rows[:CASES], setting)
    began = time.perf_counter()
    predict.predict_cases(session.fabric, model, task, few, session.cases, batch_size=setting.train.batch_size)
    case = (time.perf_counter() - began) / min(CASES, len(rows))
    return Pace(arm.id, 0.0, min(spent[1:] or spent), case, steps, cases, cells)


def _features(session: Session, arm: Arm, model: Any) -> float:
    """Seconds to compute the features of all cases, from one block of them; 0 where they are kept already."""
    setting = arm.settings[0]
    key = features.cache_key(session, arm, setting, model, None)
    if (session.root / "features" / f"{key}.npz").is_file():
        return 0.0
    samples: CaseDataset = session.samples(session.rows(), setting)
    windows = samples.eval_windows()
    layout = predict.blocks(windows, features.block_of(windows[0].size[0]))
    some = layout[: 2 if len(layout) > 1 else 1]
    spent = []
    for block in some:
        began = time.perf_counter()
        features.compute(session.fabric, model, samples, layout=[block])
        spent.append(time.perf_counter() - began)
    return spent[-1] * len(windows) / len(some[-1].windows)


def _left(session: Session, arm: Arm, run: runs.Run | None) -> tuple[int, int, int]:
    """(Optimiser steps, predicted cases, cells) of an arm that are still to come."""
    plan = session.plan

    def done(cell: runs.Cell) -> bool:
        return run is not None and run.done(cell)

    still = arm.on_features(arm.settings[0], session.task)
    steps = cases = cells = 0
    for fold in plan.folds:
        for setting, searched in plan.searches(arm, fold.outer):
            for cell in searched:
                if not done(cell):
                    learns, judged = (len(session.rows(who)) for who in plan.part(cell.outer, cell.inner))
                    looks = 1 if still else setting.train.evaluations
                    steps += 0 if still else optim.steps_for(setting.train, learns)
                    cases += judged * looks
                    cells += 1
        learns, judged = (len(session.rows(who)) for who in plan.part(fold.outer, -1))
        seeds = [seed for seed in plan.seeds if not any(done(c) for c in _refits(plan, arm, fold.outer, seed))]
        cells += len(seeds)
        cases += judged * len(seeds)
        steps += 0 if still else len(seeds) * optim.steps_for(arm.settings[0].train, learns)
    return steps, cases, cells


def _refits(plan: Plan, arm: Arm, outer: int, seed: int) -> list[runs.Cell]:
    """The refits that a search without early stopping can lead to."""
    return [plan.cell(arm, setting, outer=outer, inner=-1, seed=seed, steps=1000) for setting in arm.settings]


def told(paces: Sequence[Pace]) -> list[str]:
    """The estimate in lines: the whole, then each arm."""
    left = [pace for pace in paces if pace.cells]
    if not left:
        return []
    total = sum(pace.seconds for pace in left)
    several = [f"  {pace.arm}: about {duration(pace.seconds)}, {pace.cells} trainings" for pace in left]
    return [f"the whole takes about {duration(total)} here, told from a few steps of each", *several]


def settle(recipe: Recipe, dataset: Dataset, plan: Plan, root: Path, say: Callable[[str], None]) -> Plan:
    """The plan of a recipe with a budget: steps instead of epochs, taken from the last plan of the run folder where
    that was made for the same question and budget, else from the pace that is measured now.
    """
    asked = {"seconds": recipe.seconds, "for": runs.digest({**plan.to_json(), "means": None, "notes": None})}
    before = planning.last(root)
    if before is not None and {k: before.budget.get(k) for k in asked} == asked:
        steps = before.budget["steps"]
        say(f"budget {recipe.budget}: steps as this run began: {_steps(steps)}")
    else:
        paces = measure(Session.open(plan, dataset, root))
        steps = within(recipe, plan, {p.arm: p for p in paces}, float(recipe.seconds or 0))
        say(f"budget {recipe.budget}: from the pace measured here {_steps(steps) or 'no arm trains by steps'}")
    models = [
        arm.model_copy(update={"train": {**arm.train, "iterations": steps[arm.id]}}) if arm.id in steps else arm
        for arm in recipe.models
    ]
    settled = planning.resolve(recipe.model_copy(update={"models": models, "budget": None}), dataset)
    return replace(settled, budget={**asked, "steps": steps})


def _steps(steps: Mapping[str, int]) -> str:
    return ", ".join(f"{arm} {n} steps a training" for arm, n in steps.items())


def within(recipe: Recipe, plan: Plan, paces: Mapping[str, Pace], seconds: float) -> dict[str, int]:
    """Optimiser steps of every arm that trains, so that the whole takes about ``seconds``: each arm gets the same
    share of what the others' features and the predictions leave.

    Raises ``UserError`` where not one step fits.
    """
    trains = [p for p in paces.values() if p.step]
    if not trains:
        return {}
    left = seconds - sum(p.fixed for p in paces.values())
    found = {p.arm: int(left / len(trains) / p.cells / p.step) for p in trains}
    least = sum(p.fixed for p in paces.values()) + sum(p.step * p.cells for p in trains) * 1.05
    if min(found.values()) < 1:
        arms = "1 arm" if len(plan.arms) == 1 else f"{len(plan.arms)} arms"
        raise UserError(
            f"too small for one step: about {duration(least)} are needed for {arms} in "
            f"{sum(p.cells for p in paces.values())} trainings",
            case=f"budget={recipe.budget}",
            fix="give more, name fewer models, or use split.kind=holdout",
        )
    return found
