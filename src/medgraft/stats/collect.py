"""From the tables to arrays: every model's answers on the cases that all of its seeds judged.

Only whole cases (window -1) of refitted cells that are done count. What had to be left out is said in a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from medgraft.errors import UserError
from medgraft.notices import Notice, notice
from medgraft.stats.judged import ID, Judged
from medgraft.stats.kinds import Question
from medgraft.stats.metrics import labelled_rows


def collect(
    predictions: pl.DataFrame,
    measures: pl.DataFrame,
    cells: pl.DataFrame,
    asked: Question,
    run: dict[str, Any],
    warnings: list[Notice],
) -> dict[str, Judged]:
    """Every model's answers on the test parts, by id. Appends to ``warnings`` what was left out and why."""
    refits = cells.filter((pl.col("inner") == -1) & (pl.col("state") == "done")).with_columns(ID)
    twice = refits.group_by("id", "outer", "seed").len().filter(pl.col("len") > 1).sort("id")
    warnings += [notice("refitted_again", model=i, fold=int(o), n=int(n), seed=int(s)) for i, o, s, n in twice.rows()]
    rows = asked.kind.rows(predictions.filter(pl.col("split") == "test"), measures, asked).join(
        refits.select("id", "outer", "seed", pl.col("hash").alias("cell")), on="cell"
    )
    result = {}
    for (name,), part in rows.sort("id").group_by(["id"], maintain_order=True):
        judged = _arrays(str(name), part, asked, run, warnings)
        if judged is not None:
            result[judged.id] = judged
    return result


def inner_parts(
    predictions: pl.DataFrame, measures: pl.DataFrame, cells: pl.DataFrame, asked: Question, run: dict[str, Any]
) -> dict[str, list[tuple[str, Judged]]]:
    """Answers of the inner cells of the chosen settings on their select parts: id -> [(cell, answers)].

    Chosen settings are those that the fold's refit has; where none matches, all count.
    """
    named = cells.with_columns(ID)
    chosen = named.filter(pl.col("inner") == -1).select("id", "outer", "setting").unique()
    inner = named.filter((pl.col("inner") >= 0) & (pl.col("state") == "done"))
    matched = inner.join(chosen, on=["id", "outer", "setting"], how="semi")
    inner = pl.concat([matched, inner.join(matched.select("id").unique(), on="id", how="anti")])
    rows = asked.kind.rows(predictions.filter(pl.col("split") == "select"), measures, asked)
    rows = rows.join(inner.select("id", "outer", "seed", pl.col("hash").alias("cell")), on="cell")
    result: dict[str, list[tuple[str, Judged]]] = {}
    for (cell,), part in rows.sort("id", "cell").group_by(["cell"], maintain_order=True):
        judged = _arrays(str(part["id"][0]), part, asked, run, [])
        if judged is not None:
            result.setdefault(judged.id, []).append((str(cell), judged))
    return result


def _arrays(
    name: str, rows: pl.DataFrame, asked: Question, run: dict[str, Any], warnings: list[Notice]
) -> Judged | None:
    """Arrays of one model from its rows; None when no labelled case is left."""
    # A case that stands in the test part of several folds (repeated cross-validation) makes rows like further seeds.
    rows = rows.sort("seed", "outer", "cell", "case_id", "column", "part")
    rows = rows.with_columns(pl.int_range(pl.len()).over("seed", "case_id", "column", "part").alias("again"))
    repeats = rows.select("seed", "again").unique().sort("seed", "again").rows()
    cases = rows["case_id"].unique().sort().to_list()
    size = len(repeats), len(cases), len(asked.columns), asked.kind.values
    row_of, case_of = {r: i for i, r in enumerate(repeats)}, {c: i for i, c in enumerate(cases)}
    s = np.array([row_of[r] for r in rows.select("seed", "again").iter_rows()], dtype=np.int64)
    c = np.array([case_of[x] for x in rows["case_id"].to_list()], dtype=np.int64)
    t, part = rows["column"].to_numpy(), rows["part"].to_numpy()
    y_pred, there = np.zeros(size), np.zeros(size[:3], dtype=bool)
    y_pred[s, c, t, part] = rows["y_pred"].to_numpy()
    there[s, c, t] = True
    votes = np.full(size[:2], np.nan)
    if "share" in rows.columns:
        votes[s, c] = rows["share"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    labels = np.full(size[1:3], np.nan)
    labels[c, t] = rows["y_true"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    outer = np.full(size[:2], -1)
    outer[s, c] = rows["outer"].to_numpy()
    whole = np.asarray(there.any(axis=2) if asked.kind.any_column else there.all(axis=2))
    kept = whole.sum(axis=1) == whole.sum(axis=1).max()
    names = [f"{seed}" if again == 0 else f"{seed} (repeat {again + 1})" for seed, again in repeats]
    for i in np.flatnonzero(~kept):
        warnings.append(
            notice("seed_left_out", model=name, seed=names[i], n=int(whole[i].sum()), all=int(whole.sum(axis=1).max()))
        )
    common = whole[kept].all(axis=0)
    if (lost := int(whole[kept].any(axis=0).sum() - common.sum())) > 0:
        warnings.append(notice("cases_left_out", model=name, n=lost))
    patients = _patients(rows, cases, run)
    y_true, pred, odd = asked.kind.arrays(labels, y_pred)
    if (unclear := int((odd & common).sum())) > 0:
        warnings.append(notice("no_single_class", model=name, n=unclear, classes=list(asked.classes)))
    if y_true is not None:
        common = common & labelled_rows(y_true)
    if not common.any():
        warnings.append(notice("no_labelled_case", model=name))
        return None
    judged = Judged(
        name,
        np.array(cases),
        patients,
        y_true,
        pred[kept],
        outer[kept],
        [n for n, k in zip(names, kept) if k],
        votes[kept],
    ).take(common)
    if judged.votes is None or np.isnan(judged.votes).any():
        judged = replace(judged, votes=None)
    scores = judged.y_pred.reshape(len(judged.seeds), len(judged.cases), -1)
    holes = np.asarray(np.isnan(scores).any(axis=(0, 2)))
    if holes.any():
        bad = rows.filter(pl.col("y_pred").is_nan() & pl.col("case_id").is_in(judged.cases[holes].tolist()))
        warnings.append(
            notice(
                "not_a_number",
                model=name,
                n=int(holes.sum()),
                cells=sorted(bad["cell"].unique().to_list()),
                case=str(judged.cases[holes][0]),
            )
        )
    return judged


def _patients(rows: pl.DataFrame, cases: Sequence[str], run: dict[str, Any]) -> np.ndarray:
    given = dict(
        rows.filter(pl.col("patient_id").is_not_null())
        .select("case_id", "patient_id")
        .unique(subset="case_id")
        .iter_rows()
    )
    known = {**(run.get("patients") or {}), **given}
    absent = [c for c in cases if known.get(c) is None]
    if absent:
        raise UserError(
            "no patient is known for this case", case=str(absent[0]), fix="give run['patients'] = {case_id: patient_id}"
        )
    return np.array([str(known[c]) for c in cases])
