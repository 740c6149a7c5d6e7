"""ROC curves with a patient-level band."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgraft.stats.intervals import MINIMUM_PATIENTS, patient_counts
from medgraft.stats.kinds import BINARY, KINDS
from medgraft.stats.metrics import Weights, labelled_rows, targets_of

GRID = np.linspace(0, 1, 101)  # false positive rates at which curves are told


@dataclass(frozen=True)
class Roc:
    """True positive rate with its pointwise band at each false positive rate of the grid, all (G,)."""

    fpr: np.ndarray
    tpr: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _rates(y: np.ndarray, p: np.ndarray, weights: Weights, grid: np.ndarray) -> np.ndarray:
    """True positive rate on the grid in each resample (G, B); scores tied between the classes give a slope."""
    positive = y == 1
    group = np.unique(-p, return_inverse=True)[1]
    groups = int(group.max()) + 1
    ones = np.cumsum(weights.take(positive).grouped(group[positive], groups), axis=0)
    zeros = np.cumsum(weights.take(~positive).grouped(group[~positive], groups), axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        tpr, fpr = ones / ones[-1], zeros / zeros[-1]
    lost = np.isnan(tpr[-1]) | np.isnan(fpr[-1])
    start = np.zeros((1, tpr.shape[1]))
    tpr, fpr = (
        np.nan_to_num(np.concatenate([start, tpr])).T,
        np.nan_to_num(np.concatenate([start, fpr])).T,
    )  # (B, groups + 1)
    # One sorted list for all resamples: resample b lives between 2b and 2b + 1.
    shift = 2.0 * np.arange(len(fpr))[:, None]
    fpr_on = np.searchsorted((fpr + shift).ravel(), (grid + 1e-9 + shift).ravel(), side="right").reshape(len(fpr), -1)
    left = np.maximum(fpr_on - 1 - np.arange(len(fpr))[:, None] * fpr.shape[1], 0)  # last point at or before the grid's
    right = np.minimum(left + 1, fpr.shape[1] - 1)
    x0, x1 = np.take_along_axis(fpr, left, 1), np.take_along_axis(fpr, right, 1)
    y0, y1 = np.take_along_axis(tpr, left, 1), np.take_along_axis(tpr, right, 1)
    share = np.divide(np.maximum(grid - x0, 0), x1 - x0, out=np.zeros_like(x0), where=x1 > x0)
    value = (y0 + share * (y1 - y0)).T
    value[:, lost] = np.nan
    return value


def levelled(y: np.ndarray, p: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Scores (n,) of several networks on one scale: the share of the negative cases of its stratum that a case beats,
    ties half. A curve of these has the AUC within strata beside it, each stratum weighing as its positive cases.
    """
    found = np.full(len(p), np.nan)
    for code in np.unique(strata):
        rows = strata == code
        zeros = np.sort(p[rows & (y == 0)])
        if len(zeros):
            below, upto = np.searchsorted(zeros, p[rows]), np.searchsorted(zeros, p[rows], side="right")
            found[rows] = (below + upto) / (2 * len(zeros))
    return found


def _curve(
    y_true: np.ndarray, y_pred: np.ndarray, weights: Weights, grid: np.ndarray, strata: np.ndarray
) -> np.ndarray:
    """Mean over targets (classes) and seeds of the curves; y_pred (S, n) or (S, n, T), strata (S, n)."""
    curves = []
    several = len(np.unique(strata)) > 1
    for p, of in zip(y_pred, strata):
        labels, scores = (y_true[:, None], p[:, None]) if p.ndim == 1 else (targets_of(y_true, p), p)
        for label, score in zip(labels.T, scores.T):
            known = ~np.isnan(label)
            if several and known.any():
                score = levelled(label, score, of)
                known &= ~np.isnan(score)
            if len(np.unique(label[known])) == 2:
                curves.append(_rates(label[known], score[known], weights.take(known), grid))
    return np.mean(curves, axis=0) if curves else np.full((len(grid), weights.counts.shape[1]), np.nan)


def roc(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    patient: np.ndarray,
    *,
    task: str = BINARY.name,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    grid: np.ndarray = GRID,
    strata: np.ndarray | None = None,
) -> Roc:
    """ROC curve, averaged vertically over seeds (and, macro, over classes or targets), with a bootstrap band by
    patient.

    ``y_true`` and ``y_pred`` as in ``medgraft.stats.intervals.bootstrap`` for the tasks binary, multiclass and
    multilabel, with or without a leading axis of seeds; ``strata`` too: cases are ranked within them. A curve that is
    not defined is NaN.
    """
    y, p, patient = np.asarray(y_true, dtype=np.float64), np.asarray(y_pred, dtype=np.float64), np.asarray(patient)
    p = p[None] if p.ndim == KINDS[task].dimensions else p
    known = labelled_rows(y)
    of = np.broadcast_to(np.zeros(len(y)) if strata is None else np.asarray(strata), (len(p), len(y)))[:, known]
    y, p, patient = y[known], p[:, known], patient[known]
    nothing = np.full(len(grid), np.nan)
    if not len(y) or np.isnan(p).any():
        return Roc(grid, nothing, nothing, nothing)
    names, codes = np.unique(patient, return_inverse=True)
    tpr = _curve(y, p, Weights.unit(len(y)), grid, of)[:, 0]
    if np.isnan(tpr).any() or len(names) < MINIMUM_PATIENTS:
        return Roc(grid, tpr, nothing, nothing)
    drawn = np.concatenate(
        [_curve(y, p, Weights(codes, counts), grid, of) for _, counts in patient_counts(len(names), resamples, seed)],
        axis=1,
    )
    drawn = drawn[:, ~np.isnan(drawn).any(axis=0)]
    if drawn.shape[1] < resamples / 2:
        return Roc(grid, tpr, nothing, nothing)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=1)
    return Roc(grid, tpr, low, high)
