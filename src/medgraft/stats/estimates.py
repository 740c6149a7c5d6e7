"""Every metric of a model with its interval, by printed name."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from medgraft.stats.calibration import slope_and_intercept
from medgraft.stats.collect import inner_parts
from medgraft.stats.intervals import CURVE_RESAMPLES, Interval, bootstrap
from medgraft.stats.judged import Entry, Judged
from medgraft.stats.kinds import Question
from medgraft.stats.metrics import METRICS, point


def _named(level: str, metric: str, suffix: str) -> str:
    """``case.auc``, ``case.auc.<target>``, ``pooled.dice.<structure>``."""
    return (
        f"pooled.{metric.removeprefix('pooled_')}{suffix}"
        if metric.startswith("pooled_")
        else f"{level}.{metric}{suffix}"
    )


def model_metrics(
    asked: Question, answers: Judged, level: str, threshold: np.ndarray, options: dict[str, Any]
) -> tuple[dict[str, Entry], dict[str, Interval]]:
    """All metrics of a model by printed name, and the intervals of the whole by plain name."""
    entries: dict[str, Entry] = {}
    whole: dict[str, Interval] = {}
    for suffix, task, names, y, p in asked.kind.parts(asked, answers):
        decisions = [n for n in names if METRICS[n].needs_threshold] if answers.votes is not None else []
        ranked = {"task": task, "strata": answers.outer, **options}
        found = bootstrap(
            y, p, answers.patients, [n for n in names if n not in decisions], threshold=threshold, **ranked
        )
        said, least = answers.decided(threshold)
        if decisions:
            found |= bootstrap(y, said, answers.patients, decisions, threshold=least, **ranked)
        for name in names:
            scores, at = (said, least) if name in decisions else (p, threshold)
            entries[_named(level, name, suffix)] = _entry(found[name], _fold_mean(name, y, scores, answers.outer, at))
        if not suffix:
            whole = found
    if "slope" in asked.kind.beside and answers.y_true is not None:
        few = options | {"resamples": min(options["resamples"], CURVE_RESAMPLES)}
        for name, interval in slope_and_intercept(answers.y_true, answers.y_pred, answers.patients, **few).items():
            entries[f"{level}.calibration_{name}"] = _entry(interval, float("nan"))
    first = f"{level}.{asked.primary}"
    return {first: entries[first], **entries}, whole


def _fold_mean(name: str, y: Any, p: np.ndarray, outer: np.ndarray, threshold: np.ndarray) -> float:
    """Mean over folds and seeds of the metric within each fold; folds in which it is not defined are left out."""
    values = []
    for scores, folds in zip(p, outer):
        for fold in np.unique(folds):
            rows = folds == fold
            values.append(point(name, None if y is None else y[rows], scores[rows], threshold[rows]))
    known = [v for v in values if not np.isnan(v)]
    return float(np.mean(known)) if known else float("nan")


def _entry(interval: Interval, fold_mean: float) -> Entry:
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "unit": interval.unit,
        "n_units": interval.n_units,
        "seed_sd": interval.seed_sd,
        "fold_mean": fold_mean,
        "undefined": interval.undefined,
        "method": interval.method,
    }


def inner_scores(
    asked: Question, predictions: pl.DataFrame, measures: pl.DataFrame, cells: pl.DataFrame, run: dict[str, Any]
) -> dict[str, float | None]:
    """Mean over the inner cells of the chosen settings of the primary metric on their select parts."""
    scores: dict[str, float | None] = {}
    for name, parts in inner_parts(predictions, measures, cells, asked, run).items():
        values: list[float] = [
            point(asked.primary, answers.y_true, scored) for _, answers in parts for scored in answers.y_pred
        ]
        known = [v for v in values if not np.isnan(v)]
        scores[name] = float(np.mean(known)) if known else None
    return scores
