"""Confidence intervals by resampling whole patients.

Patients are drawn with replacement, all cases of a patient travel together (cluster bootstrap; Efron and
Tibshirani 1993, Davison and Hinkley 1997). Resample r of a patient list is a function of (seed, r) alone,
so two models judged on the same patients meet the same resamples and their difference is paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import norm

from medgraft.stats.kinds import BINARY, KINDS
from medgraft.stats.metrics import METRICS, Weights, labelled_rows

DRAW = 64  # resamples from one counter of the generator; part of what a seed means
BLOCK_BYTES = 10 * 2**20  # patient counts held at a time; about what the processor's cache keeps
CURVE_RESAMPLES = 1000  # at most, for bands and calibration
MINIMUM_DEFINED = 0.5  # below this share of defined resamples no interval is given
MINIMUM_PATIENTS = 3  # below this number no interval is given


@dataclass(frozen=True)
class Interval:
    """A number and how sure it is.

    ``value`` the estimate (the mean over seeds), ``low`` and ``high`` the bounds (NaN where the data cannot
    tell), ``n`` rows with a label, ``n_units`` units drawn (patients), ``unit`` what was drawn, ``undefined``
    share of resamples in which the metric is not defined, ``seed_values`` one value a seed, ``distribution``
    (B,) the resampled values, NaN where undefined.
    """

    value: float
    low: float
    high: float
    n: int
    n_units: int
    unit: str
    confidence: float
    method: str = "percentile"
    undefined: float = 0.0
    seed_values: tuple[float, ...] = ()
    distribution: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    @property
    def seed_sd(self) -> float:
        """Standard deviation over the seeds; NaN with one seed."""
        return float(np.std(self.seed_values, ddof=1)) if len(self.seed_values) > 1 else float("nan")

    @property
    def degenerate(self) -> bool:
        """Every resample gave the same value, so the width of the interval says nothing."""
        known = self.distribution[~np.isnan(self.distribution)]
        return len(known) > 0 and bool(np.ptp(known) < 1e-12)


def patient_counts(
    patients: int, resamples: int, seed: int = 0, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[slice, np.ndarray]]:
    """Multinomial patient counts in blocks: yields (which resamples, counts (patients, b) float64).

    Philox with key ``seed`` and one counter for each 64 resamples: the draws do not depend on the block
    size, on the machine's memory or on how many resamples are asked for.
    """
    small = np.uint16 if patients < 2**16 else np.uint32
    per_block = max(1, block_bytes // (8 * DRAW * patients)) * DRAW
    ones, rows = np.ones(DRAW * patients), np.arange(0, DRAW * patients + 1, patients)
    for start in range(0, resamples, per_block):
        stop = min(start + per_block, resamples)
        counts = np.empty((patients, stop - start))
        for first in range(start, stop, DRAW):
            generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, first // DRAW]))
            drawn = generator.integers(patients, size=DRAW * patients, dtype=small)
            # a sparse matrix adds up what stands twice: the quickest histogram of every row at once
            table = sparse.csr_matrix((ones, drawn.astype(np.int32), rows), shape=(DRAW, patients)).toarray()
            counts[:, first - start : first - start + DRAW] = table[: stop - first].T
        yield slice(start, stop), counts


def leave_one_out(patients: int, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[slice, np.ndarray]]:
    """Jackknife counts: column j leaves out patient j."""
    per_block = max(1, block_bytes // (8 * patients))
    for start in range(0, patients, per_block):
        stop = min(start + per_block, patients)
        counts = np.ones((patients, stop - start))
        counts[np.arange(start, stop), np.arange(stop - start)] = 0
        yield slice(start, stop), counts


#: Sums of absolute gaps: a resample holds patients twice and so is rougher than the data; that shift is taken off
# again.
RAISED_BY_RESAMPLING = frozenset({"ece"})


def bootstrap(
    y_true: np.ndarray | None,
    y_pred: np.ndarray,
    patient: np.ndarray,
    metrics: Sequence[str] = ("auc",),
    *,
    task: str = BINARY.name,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    threshold: Any = 0.5,
    unit: str = "patient",
    method: str = "percentile",
) -> dict[str, Interval]:
    """Patient-level bootstrap of several metrics on the same resamples.

    ``y_true`` and ``y_pred`` have the shapes of ``medgraft.stats.metrics`` for the ``task``; ``y_pred`` may have
    one more leading axis of S seeds, (S, n, ...): then the estimate is the mean over seeds and all seeds meet the
    same patients. ``patient`` (n,) any codes. ``threshold`` a number or (n,). Rows without a label are dropped
    before patients are drawn. ``method``: ``percentile`` or ``bca`` (bias-corrected and accelerated, Efron 1987,
    with the jackknife over patients).

    Raises ``ValueError`` on shapes that do not fit or an unknown metric, task or method.
    """
    if task not in KINDS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(KINDS)}")
    dimensions = KINDS[task].dimensions
    if method not in ("percentile", "bca"):
        raise ValueError(f"unknown method {method!r}; known: percentile, bca")
    for name in metrics:
        if name not in METRICS or task not in METRICS[name].tasks:
            raise ValueError(
                f"{name!r} is no metric of a {task} task; known: "
                f"{', '.join(m for m in METRICS if task in METRICS[m].tasks)}"
            )
    y_pred = np.asarray(y_pred, dtype=np.float64)
    if y_pred.ndim == dimensions:
        y_pred = y_pred[None]
    patient = np.asarray(patient)
    n = len(patient)
    y_true = None if y_true is None else np.asarray(y_true, dtype=np.float64)
    if y_pred.ndim != dimensions + 1 or y_pred.shape[1] != n or (y_true is not None and len(y_true) != n):
        raise ValueError(
            f"{n} patients do not fit predictions {y_pred.shape} and labels "
            f"{None if y_true is None else y_true.shape} ({task})"
        )
    threshold = np.broadcast_to(np.asarray(threshold, dtype=np.float64), (n,))
    if y_true is not None:
        labelled = labelled_rows(y_true)
        y_true, y_pred, patient, threshold = (
            y_true[labelled],
            y_pred[:, labelled],
            patient[labelled],
            threshold[labelled],
        )
    names, codes = np.unique(patient, return_inverse=True)

    def evaluate(blocks: Iterator[tuple[slice, np.ndarray]], size: int) -> dict[str, np.ndarray]:
        out = {name: np.full(size, np.nan) for name in metrics}
        for where, counts in blocks:
            weights = Weights(codes, counts)
            for name in metrics:
                out[name][where] = np.mean(
                    [METRICS[name].function(y_true, p, weights, threshold) for p in y_pred], axis=0
                )
        return out

    enough = len(names) >= MINIMUM_PATIENTS
    drawn = (
        evaluate(patient_counts(len(names), resamples, seed), resamples)
        if enough
        else {m: np.full(resamples, np.nan) for m in metrics}
    )
    left_out = evaluate(leave_one_out(len(names)), len(names)) if enough and method == "bca" else {}
    result = {}
    for name in metrics:
        seeds = tuple(float(METRICS[name].function(y_true, p, threshold=threshold)) for p in y_pred)
        value = float(np.mean(seeds)) if seeds else float("nan")
        if name in RAISED_BY_RESAMPLING and not np.isnan(drawn[name]).all():
            drawn[name] = np.maximum(drawn[name] - (np.nanmedian(drawn[name]) - value), 0.0)
        low, high = limits(drawn[name], confidence, value if method == "bca" else None, left_out.get(name))
        if np.isnan(value):
            low = high = float("nan")
        undefined = float(np.isnan(drawn[name]).mean()) if resamples else 1.0
        interval = Interval(
            value, low, high, len(codes), len(names), unit, confidence, method, undefined, seeds, drawn[name]
        )
        if interval.degenerate and value in METRICS[name].range:
            interval = _at_the_edge(interval, name, y_true, y_pred, threshold, codes)
        result[name] = interval
    return result


def _at_the_edge(
    interval: Interval, name: str, y_true: Any, y_pred: np.ndarray, threshold: np.ndarray, codes: np.ndarray
) -> Interval:
    """Bounds where all cases went one way: no resample can differ, yet nothing seen in a few patients is no certainty.

    Shares get the exact binomial bound (Clopper and Pearson 1934) over the patients who count in them; other metrics
    none.
    """
    counted = {
        "accuracy": lambda p: np.ones(len(p), dtype=bool),
        "sensitivity": lambda p: y_true == 1,
        "specificity": lambda p: y_true == 0,
        "precision": lambda p: p >= threshold,
    }
    if name not in counted:
        return replace(interval, low=float("nan"), high=float("nan"), method="none")
    units = min(len(np.unique(codes[counted[name](p)])) for p in y_pred)
    reach = 1 - ((1 - interval.confidence) / 2) ** (1 / units)
    low, high = (1 - reach, 1.0) if interval.value == 1 else (0.0, reach)
    return replace(interval, low=low, high=high, method="exact")


def limits(
    distribution: np.ndarray, confidence: float = 0.95, value: float | None = None, left_out: np.ndarray | None = None
) -> tuple[float, float]:
    """Bounds of an interval from resampled values (B,): percentile, or BCa when the estimate and the jackknife values
    are given.

    Resamples in which the metric is undefined are left out; when fewer than half are defined the bounds are NaN.
    """
    known = distribution[~np.isnan(distribution)]
    if len(known) == 0 or len(known) < MINIMUM_DEFINED * len(distribution):
        return float("nan"), float("nan")
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if value is not None and left_out is not None:
        tails = _bca_tails(tails, known, value, left_out[~np.isnan(left_out)])
    low, high = np.quantile(known, tails)
    return float(low), float(high)


def _bca_tails(tails: np.ndarray, known: np.ndarray, value: float, left_out: np.ndarray) -> np.ndarray:
    """Corrected tail probabilities (Efron and Tibshirani 1993, 14.10); unchanged where the correction is not
    defined.
    """
    below = (np.sum(known < value) + 0.5 * np.sum(known == value)) / len(known)
    pull = left_out.mean() - left_out if len(left_out) else np.zeros(1)
    spread = float(np.sum(pull**2))
    if not 0 < below < 1 or spread == 0:
        return tails
    bias, acceleration = norm.ppf(below), np.sum(pull**3) / (6 * spread**1.5)
    z = bias + norm.ppf(tails)
    return norm.cdf(bias + z / (1 - acceleration * z))


def rank_intervals(
    estimates: Sequence[float], distributions: np.ndarray, higher_is_better: bool, confidence: float = 0.95
) -> list[dict[str, int]]:
    """Rank of each of K models (1 = best) and its interval over paired resamples.

    ``distributions`` (K, B) from the same resamples. Ties share the better rank in ``low`` and the worse in
    ``high``, so equal models show as such. Resamples undefined for any model are left out.
    """
    sign = -1.0 if higher_is_better else 1.0
    points = sign * np.asarray(estimates, dtype=np.float64)
    values = sign * np.asarray(distributions, dtype=np.float64)
    values = values[:, ~np.isnan(values).any(axis=0)]
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    result = []
    for k in range(len(points)):
        rank = {"best": int(1 + np.sum(points < points[k]))}
        if values.shape[1]:
            lowest = 1 + np.sum(values < values[k], axis=0)
            highest = np.sum(values <= values[k], axis=0)
            rank["low"] = int(np.quantile(lowest, tails[0], method="lower"))
            rank["high"] = int(np.quantile(highest, tails[1], method="higher"))
        else:
            rank["low"], rank["high"] = 1, len(points)
        result.append(rank)
    return result
