"""What stands beside a model's numbers: kinds of negatives, the clean view, the majority class, where it looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from medgraft.stats.collect import collect
from medgraft.stats.intervals import bootstrap
from medgraft.stats.judged import ID, Entry, Judged
from medgraft.stats.kinds import Question
from medgraft.stats.levels import threshold_of
from medgraft.stats.metrics import METRICS, for_task
from medgraft.stats.pairs import Calls


def entry(interval: Any) -> Entry:
    """An interval as the summary writes it."""
    return {k: getattr(interval, k) for k in ("value", "low", "high", "n", "n_units", "unit", "undefined")}


def against_kinds(
    answers: Judged, kinds: Mapping[str, str], threshold: np.ndarray, options: dict[str, Any]
) -> dict[str, dict[str, Entry]]:
    """Positives against each kind of negative alone: {kind: {auc, auprc, specificity: entry}}.

    ``kinds`` maps negative cases to their kind; negatives without a kind stand under no kind. AUPRC depends on how many
    negatives there are, so it does not compare between kinds.
    """
    assert answers.y_true is not None
    found: dict[str, dict[str, Entry]] = {}
    of_case = np.array([kinds.get(c, "") for c in answers.cases.tolist()], dtype=object)
    positive = answers.y_true == 1
    for kind in sorted({k for k, p in zip(of_case, positive) if k and not p}):
        rows = positive | (of_case == kind)
        part = answers.take(rows)
        intervals: dict[str, Any] = {}
        for name in ("auc", "auprc", "specificity"):
            taken = part.taken(METRICS[name].needs_threshold, threshold[rows])
            intervals |= bootstrap(**taken, metrics=[name], **options)
        found[str(kind)] = {
            name: {**entry(i), "negatives": int((rows & ~positive).sum())} for name, i in intervals.items()
        }
    return found


def clean_view(
    asked: Question,
    answers: Judged,
    clean: Judged,
    threshold: np.ndarray,
    options: dict[str, Any],
) -> Entry:
    """The result without test-time augmentation, and how much the augmentation changed the primary metric (paired).

    ``{metrics: {name: entry}, difference, low, high, p}``; the threshold is that of the augmented scores.
    """
    clean = clean.take(np.isin(clean.cases, answers.cases))
    metrics: dict[str, Entry] = {}
    for name in for_task(asked.task):
        taken = clean.taken(METRICS[name].needs_threshold, threshold)
        metrics[name] = entry(bootstrap(**taken, metrics=[name], task=asked.task, **options)[name])
    both = Calls(asked, {"all": answers, "clean": clean}, {"all": threshold, "clean": threshold}, options)
    found = both.test("all", "clean", asked.primary)
    assert found is not None
    change = found[0]
    return {"metrics": metrics, "difference": change.difference, "low": change.low, "high": change.high, "p": change.p}


def pointing_game(
    measures: pl.DataFrame, cells: pl.DataFrame, patients: Mapping[str, str], options: dict[str, Any]
) -> dict[str, Entry]:
    """Share of positive cases whose Grad-CAM peaks in a box, by model id, with the share that a blind place would hit.

    A mean over seeds, of the cases that all seeds looked at; the interval resamples patients. ``{hit: entry, chance}``.
    """
    refits = cells.filter((pl.col("inner") == -1) & (pl.col("state") == "done")).with_columns(ID)
    rows = measures.filter(pl.col("name").is_in(["cam.hit", "cam.chance"])).join(
        refits.select("id", "seed", pl.col("hash").alias("cell")), on="cell"
    )
    found: dict[str, Entry] = {}
    for (name,), part in rows.sort("id", "seed", "case_id").group_by(["id"], maintain_order=True):
        wide = (
            part.filter(pl.col("name") == "cam.hit")
            .pivot("seed", index="case_id", values="value", aggregate_function="mean")
            .drop_nulls()
        )
        if not len(wide):
            continue
        cases = wide["case_id"].to_list()
        hits = wide.drop("case_id").to_numpy().T
        owner = np.array([patients.get(c, c) for c in cases])
        interval = bootstrap(np.ones(len(cases)), hits, owner, ["sensitivity"], threshold=0.5, **options)["sensitivity"]
        chance = part.filter((pl.col("name") == "cam.chance") & pl.col("case_id").is_in(cases))["value"].to_numpy()
        found[str(name)] = {"hit": entry(interval), "chance": float(chance.mean())}
    return found


def add(
    asked: Question,
    predictions: pl.DataFrame,
    measures: pl.DataFrame,
    cells: pl.DataFrame,
    run: dict[str, Any],
    models: list[Entry],
    by_case: dict[str, Judged],
    options: dict[str, Any],
) -> None:
    """Add to each model what stands beside its numbers, at the level of cases: ``against``, ``clean``, ``looks_at``."""
    kinds = (run.get("negatives") or {}).get("kinds") or {}
    views = int(predictions["view"].max() or 0) if len(predictions) else 0  # type: ignore[arg-type]
    clean = collect(predictions.filter(pl.col("view") == 0), measures, cells, asked, run, []) if views else {}
    pointed = (
        pointing_game(measures, cells, run.get("patients") or {}, options) if "looks_at" in asked.kind.beside else {}
    )
    augmented = set(predictions.filter(pl.col("view") > 0)["cell"].unique()) if views else set()
    of_id = dict(cells.filter(pl.col("inner") == -1).with_columns(ID).select("hash", "id").iter_rows())
    with_views = {of_id[c] for c in augmented if c in of_id}
    for model in models:
        name = model["id"]
        answers = by_case.get(name)
        if answers is None:
            continue
        threshold = threshold_of(run, name, answers)
        if kinds and "negatives" in asked.kind.beside:
            model["against"] = against_kinds(answers, kinds, threshold, options)
        if name in with_views and name in clean:
            model["clean"] = clean_view(asked, answers, clean[name], threshold, options)
        if name in pointed:
            model["looks_at"] = pointed[name]
