"""Numbers of a page that the summary does not hold (limits of agreement, a share of cases) with their intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medgraft.stats.intervals import limits, patient_counts

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, made by resampling patients."""

    value: float
    low: float
    high: float


def patient_interval(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    values: np.ndarray,
    patients: list[str],
    confidence: float,
) -> list[Estimate]:
    """Bootstrap of patients for statistics of weighted values.

    ``statistic(values (n,), weights (n, B))`` returns (K, B); one ``Estimate`` for each of the K.
    """
    known = np.isfinite(values)
    values = values[known]
    _, owner = np.unique(np.array(patients, dtype=object)[known].astype(str), return_inverse=True)
    number = int(owner.max()) + 1
    point = statistic(values, np.ones((len(values), 1)))[:, 0]
    drawn = np.concatenate(
        [statistic(values, counts[owner]) for _, counts in patient_counts(number, RESAMPLES)], axis=1
    )
    return [Estimate(float(v), *limits(row, confidence)) for v, row in zip(point, drawn)]


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of values (n,) under each column of weights (n, B): (1, B)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (values @ weights / weights.sum(axis=0))[None]


def weighted_quantile(q: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Statistic for ``patient_interval``: the smallest value at which the share of weight reaches ``q``."""

    def statistic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        order = np.argsort(values, kind="stable")
        share = np.cumsum(weights[order], axis=0)
        reached = share >= q * share[-1] - 1e-9
        return values[order][reached.argmax(axis=0)][None]

    return statistic


def agreement(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Lower limit, bias and upper limit of agreement (mean and 1.96 SD) of differences: (3, B)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights.sum(axis=0)
        mean = values @ weights / total
        variance = (weights * (values[:, None] - mean) ** 2).sum(axis=0) / (total - 1)
    spread = 1.96 * np.sqrt(variance)
    return np.stack([mean - spread, mean, mean + spread])
