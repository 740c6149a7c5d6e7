"""What anybody could answer without a model, on the test parts of a plan: found on each training part, and put into the
same tables as what networks say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from medgraft import tables
from medgraft.engine import rows
from medgraft.engine.plan import Fold
from medgraft.engine.predict import measure
from medgraft.engine.session import Session
from medgraft.tasks.task import Columns, Grid, Trivial

TRIVIAL = "trivial"  # stands where the tables name a model


def answers(session: Session) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, dict[str, tuple[str, str]]]:
    """Predictions, measures and cells of the trivial answers of every outer fold, and their titles by name.

    A cell is ``trivial.NAME.OUTER``: its answer comes from the patients that learn in that fold alone. The tables have
    the columns of a run's own and stand in none of its files. Empty where windows are judged alone.
    """
    task, made, titles = session.task, [], {}
    found: dict[str, list[pl.DataFrame]] = {"predictions": [], "measures": []}
    for fold in session.plan.folds if task.joins != "window" else ():
        for given in _learnt(session, fold):
            cell = f"{TRIVIAL}.{given.name}.{fold.outer}"
            row = {"hash": cell, "model": TRIVIAL, "start": given.name, "strategy": "", "setting": "{}"}
            place = {"outer": fold.outer, "inner": -1, "seed": 0}
            made.append({**row, **place, "data_hash": session.plan.data_hash, "state": "done"})
            titles[given.name] = given.title
            name, table = _judged(session, given, session.rows(fold.test), cell)
            found[name].append(table)
    predictions, measures = (pl.concat(t) if t else tables.empty(name) for name, t in found.items())
    cells = pl.DataFrame(made, schema_overrides=tables.SCHEMAS["cells"]) if made else tables.empty("cells")
    return predictions, measures, tables.validate(cells, "cells"), titles


def _learnt(session: Session, fold: Fold) -> list[Trivial]:
    """The trivial answers of a fold, from those who learn in it."""
    learns = session.rows(fold.learns)
    grids = [_grid(session, row) for row in learns]
    if session.task.joins == "case":
        return session.task.trivial(_labels(session, learns), grids, session.plan.kind)
    masks = (mask for row in learns if (mask := session.cases.mask(row)) is not None)
    return session.task.trivial(masks, grids, session.plan.kind)


def _judged(session: Session, given: Trivial, test: Sequence[int], cell: str) -> tuple[str, pl.DataFrame]:
    """Rows of ``predictions``, or of ``measures`` where fields are joined, of a trivial answer on some cases."""
    task, facts = session.task, session.cases
    if task.joins == "case":
        ids, patients = [facts.ids[r] for r in test], [facts.patients[r] for r in test]
        scores = np.stack([given.scores(_grid(session, row)) for row in test])
        columns = task.rows(ids, patients, _labels(session, test), scores)
        return "predictions", rows.prediction_table(columns, cell=cell, split="test", inner=-1)
    columns = {k: [] for k in ("case_id", "frame", "name", "value")}
    for row in test:
        mask = facts.mask(row)
        if mask is not None:
            grid = _grid(session, row)
            more: Columns = measure(task, facts, row, mask, given.scores(grid), np.ones(grid, bool))
            for key, values in more.items():
                columns[key].extend(values)
    return "measures", rows.measure_table(columns, cell=cell)


def _labels(session: Session, some: Sequence[int]) -> np.ndarray:
    """Labels (n, T) of cases, NaN where missing."""
    return session.samples(some, session.plan.arms[0].settings[0], masks=False).labels()


def _grid(session: Session, row: int) -> Grid:
    _, depth, height, width = session.cases.shapes[row]
    return depth, height, width
