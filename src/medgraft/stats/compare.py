"""Is one model really better than another? Paired tests that respect patients with several cases.

- AUC: DeLong, DeLong and Clarke-Pearson 1988, by midranks (Sun and Xu 2014), with the clustered variance of
  Obuchowski 1997 where a patient has several cases (equal to DeLong's where each has one).
- any metric: the difference on the same patient resamples.
- decisions: exact McNemar. Several comparisons: Holm 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata

from medgraft.stats.intervals import Interval, bootstrap, limits
from medgraft.stats.metrics import better


@dataclass(frozen=True)
class Delong:
    """AUCs (K,) of K models on the same cases and their covariance (K, K); NaN where it cannot be told."""

    auc: np.ndarray
    covariance: np.ndarray
    n_patients: int
    clustered: bool

    @property
    def se(self) -> np.ndarray:
        """Standard errors (K,)."""
        return np.sqrt(np.diag(self.covariance))

    def interval(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Normal interval of each AUC, cut to 0..1."""
        half = norm.ppf((1 + confidence) / 2) * self.se
        return np.clip(self.auc - half, 0, 1), np.clip(self.auc + half, 0, 1)


@dataclass(frozen=True)
class Difference:
    """a minus b with its interval.

    ``p`` two-sided; ``p_superior`` the share of resamples in which a is the better one.
    """

    difference: float
    low: float
    high: float
    p: float
    p_superior: float
    method: str
    distribution: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)


@dataclass(frozen=True)
class McNemar:
    """Cases that only a or only b got right, and the exact two-sided p that such a split is chance."""

    only_a: int
    only_b: int
    p: float


def placements(y_true: np.ndarray, y_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Structural components of the AUC, by midranks in O(n log n).

    Returns (positives,) share of the negatives that each positive case beats (ties half), and (negatives,) share of
    the positives that beat each negative case; both have the AUC as their mean.
    """
    positive = np.asarray(y_true) == 1
    ones, zeros = y_pred[positive], y_pred[~positive]
    together = rankdata(np.r_[ones, zeros])
    v10 = (together[: len(ones)] - rankdata(ones)) / len(zeros)
    v01 = 1 - (together[len(ones) :] - rankdata(zeros)) / len(ones)
    return v10, v01


def delong(y_true: np.ndarray, models: Sequence[np.ndarray], patient: np.ndarray | None = None) -> Delong:
    """AUCs of one or more models on the same cases, with the covariance between them.

    ``y_true`` (n,) 0/1, NaN rows dropped; ``models`` K arrays (n,) or (S, n) with S seeds, whose structural components
    are averaged so that the AUC is the mean over the seeds; ``patient`` (n,) any codes, None = one patient a case. With
    fewer than two patients in a class the covariance is NaN; without cases in a class, or with a NaN score, so is the
    AUC.
    """
    y = np.asarray(y_true, dtype=np.float64)
    scores = [np.atleast_2d(np.asarray(p, dtype=np.float64)) for p in models]
    patient = np.arange(len(y)) if patient is None else np.asarray(patient)
    known = ~np.isnan(y)
    y, patient, scores = y[known], patient[known], [p[:, known] for p in scores]
    names, codes = np.unique(patient, return_inverse=True)
    k, size, clustered = len(scores), len(names), len(names) < len(y)
    positive = y == 1
    m, n = int(positive.sum()), int((~positive).sum())
    nowhere = np.full((k, k), np.nan)
    if m == 0 or n == 0 or any(np.isnan(p).any() for p in scores):
        return Delong(nowhere[0], nowhere, size, clustered)
    v10, v01 = np.empty((k, m)), np.empty((k, n))
    for row, seeds in enumerate(scores):
        parts = [placements(y, p) for p in seeds]
        v10[row] = np.mean([part[0] for part in parts], axis=0)
        v01[row] = np.mean([part[1] for part in parts], axis=0)
    auc = v10.mean(axis=1)
    # sums within patients of the components about the AUC: Obuchowski's V(X_i.) - m_i AUC and V(Y_i.) - n_i AUC
    ones = np.stack([np.bincount(codes[positive], weights=v - a, minlength=size) for v, a in zip(v10, auc)])
    zeros = np.stack([np.bincount(codes[~positive], weights=v - a, minlength=size) for v, a in zip(v01, auc)])
    with_one, with_zero = len(np.unique(codes[positive])), len(np.unique(codes[~positive]))
    if with_one < 2 or with_zero < 2:
        return Delong(auc, nowhere, size, clustered)
    s10 = with_one / ((with_one - 1) * m) * ones @ ones.T
    s01 = with_zero / ((with_zero - 1) * n) * zeros @ zeros.T
    s11 = size / (size - 1) * ones @ zeros.T
    return Delong(auc, s10 / m + s01 / n + (s11 + s11.T) / (m * n), size, clustered)


def delong_test(
    y_true: np.ndarray,
    pred_a: np.ndarray,
    pred_b: np.ndarray,
    patient: np.ndarray | None = None,
    confidence: float = 0.95,
) -> Difference:
    """Paired test of two AUCs on the same cases; ``pred_a`` and ``pred_b`` are (n,) or (S, n).

    Two models that order the cases alike differ by 0 with p = 1; a difference without variance has no p (NaN).
    """
    parts = delong(y_true, [pred_a, pred_b], patient)
    difference = float(parts.auc[0] - parts.auc[1])
    variance = float(parts.covariance[0, 0] + parts.covariance[1, 1] - 2 * parts.covariance[0, 1])
    method = "DeLong (clustered)" if parts.clustered else "DeLong"
    if np.isnan(difference) or np.isnan(variance):
        return Difference(difference, float("nan"), float("nan"), float("nan"), float("nan"), method)
    if variance < 1e-15:  # rounding of an exact zero
        same = abs(difference) < 1e-12
        bound = 0.0 if same else float("nan")
        return Difference(
            0.0 if same else difference,
            bound,
            bound,
            1.0 if same else float("nan"),
            0.5 if same else float("nan"),
            method,
        )
    z = difference / np.sqrt(variance)
    half = norm.ppf((1 + confidence) / 2) * np.sqrt(variance)
    return Difference(
        difference, difference - half, difference + half, float(2 * norm.sf(abs(z))), float(norm.cdf(z)), method
    )


def difference(a: Interval, b: Interval, higher_is_better: bool, confidence: float = 0.95) -> Difference:
    """Paired bootstrap from two intervals that were drawn with one seed on the same patients.

    p is twice the smaller share of resamples on either side of no difference, each with one added for the data
    themselves (Davison and Hinkley 1997), so it is never 0. Raises ``ValueError`` when the two were not drawn alike.
    """
    if len(a.distribution) != len(b.distribution) or (a.n, a.n_units) != (b.n, b.n_units):
        raise ValueError("the two intervals were not drawn from the same patients")
    d = a.distribution - b.distribution
    value = a.value - b.value
    known = d[~np.isnan(d)]
    low, high = limits(d, confidence)
    if np.isnan(value) or np.isnan(low):
        return Difference(value, float("nan"), float("nan"), float("nan"), float("nan"), "paired bootstrap", d)
    tiny = 1e-12 * max(1.0, abs(a.value), abs(b.value))  # two orders of summation are not a difference
    known = np.where(np.abs(known) < tiny, 0.0, known)
    p = min(1.0, 2 * (1 + min(int(np.sum(known <= 0)), int(np.sum(known >= 0)))) / (1 + len(known)))
    ahead = known > 0 if higher_is_better else known < 0
    superior = float(np.mean(ahead) + 0.5 * np.mean(known == 0))
    return Difference(value, low, high, p, superior, "paired bootstrap", d)


def paired_bootstrap(
    y_true: np.ndarray | None,
    pred_a: np.ndarray,
    pred_b: np.ndarray,
    patient: np.ndarray,
    metric: str = "auc",
    *,
    confidence: float = 0.95,
    **options: Any,
) -> Difference:
    """Difference of a metric between two models on the same cases, resampling patients jointly.

    Shapes and ``options`` (task, resamples, seed, threshold, unit) as in ``medgraft.stats.intervals.bootstrap``.
    """
    a, b = (bootstrap(y_true, p, patient, [metric], confidence=confidence, **options)[metric] for p in (pred_a, pred_b))
    return difference(a, b, better(metric) != "lower", confidence)


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray, patient: np.ndarray | None = None) -> McNemar:
    """Exact McNemar test on two models' right-or-wrong (n,) booleans for the same cases.

    The test takes cases as independent: with several cases of one patient it raises ``ValueError``; compare accuracy by
    ``paired_bootstrap`` then.
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact

    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if patient is not None and len(np.unique(patient)) < len(a):
        raise ValueError("McNemar's test needs one case a patient; compare accuracy by paired_bootstrap")
    table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
    return McNemar(int(table[0][1]), int(table[1][0]), float(exact(table, exact=True).pvalue))


def holm(p: Sequence[float]) -> np.ndarray:
    """p values adjusted by Holm for the whole family; NaN stays NaN and does not count."""
    from statsmodels.stats.multitest import multipletests

    values = np.asarray(p, dtype=np.float64)
    known = ~np.isnan(values)
    adjusted = np.full(len(values), np.nan)
    if known.any():
        adjusted[known] = multipletests(values[known], method="holm")[1]
    return adjusted
