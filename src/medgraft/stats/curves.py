"""The curves of the summary: ROC, calibration and training."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from medgraft.stats.calibration import reliability
from medgraft.stats.intervals import CURVE_RESAMPLES
from medgraft.stats.judged import ID, Entry, Judged
from medgraft.stats.kinds import Question
from medgraft.stats.roc import roc


def _few(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "resamples": min(options["resamples"], CURVE_RESAMPLES),
        "confidence": options["confidence"],
        "seed": options["seed"],
    }


def roc_curves(asked: Question, judged: dict[str, Judged], options: dict[str, Any]) -> dict[str, Any]:
    """The ROC curve of each model with its band, where it is defined."""
    if "roc" not in asked.kind.curves:
        return {}
    curves = {}
    for name, a in judged.items():
        assert a.y_true is not None
        curve = roc(a.y_true, a.y_pred, a.patients, task=asked.task, strata=a.outer, **_few(options))
        if not np.isnan(curve.tpr).any():
            curves[name] = {
                "fpr": curve.fpr.tolist(),
                "tpr": curve.tpr.tolist(),
                "low": curve.low.tolist(),
                "high": curve.high.tolist(),
            }
    return curves


def calibration(asked: Question, judged: dict[str, Judged], options: dict[str, Any]) -> dict[str, Any]:
    """The reliability bins of each model."""
    if "calibration" not in asked.kind.curves:
        return {}
    result = {}
    for name, a in judged.items():
        assert a.y_true is not None
        bins = reliability(a.y_true, a.y_pred, a.patients, task=asked.task, **_few(options))
        if bins:
            result[name] = [
                {"predicted": b.predicted, "observed": b.observed, "low": b.low, "high": b.high, "n": b.n} for b in bins
            ]
    return result


def training(cells: pl.DataFrame, run: dict[str, Any]) -> dict[str, list[Entry]]:
    """Training curves by model, from the rows of the cells' logs."""
    logs: dict[str, list[dict[str, float]]] = run.get("curves") or {}
    result: dict[str, list[Entry]] = {}
    named = cells.with_columns(ID).sort("id", "outer", "inner", "seed", "hash")
    for name, cell, outer, inner, seed in named.select("id", "hash", "outer", "inner", "seed").rows():
        if rows := logs.get(cell):
            columns = {key: [row.get(key) for row in rows] for key in ("step", "train_loss", "select_score")}
            result.setdefault(name, []).append({"cell": cell, "outer": outer, "inner": inner, "seed": seed, **columns})
    return result
