"""Numbers with their confidence intervals, by whole patients.

The bounds are those of each measure's own method (``stats.bounds``). Beside them stand the values on resamples of
patients, for ranks and curves: patients are drawn with replacement, all cases of a patient travel together (cluster
bootstrap; Efron and Tibshirani 1993, Davison and Hinkley 1997). Resample r of a patient list is a function of (seed, r)
alone, so two models judged on the same patients meet the same resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import norm

from medgraft.stats import bounds
from medgraft.stats.kinds import BINARY, KINDS
from medgraft.stats.metrics import METRICS, Weights, check_labels, labelled_rows

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
    (B,) the resampled values, NaN where undefined, ``n_smallest`` patients of the smallest class.
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
    n_smallest: int | None = None

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


@dataclass(frozen=True)
class Answers:
    """What a measure is taken of, checked and with labelled rows alone.

    ``y`` (n,) or (n, T), None for counts; ``p`` (S, n, ...); ``codes`` (n,) patients 0..P-1 of ``names``; ``threshold``
    (n,); ``strata`` (S, n).
    """

    task: str
    y: np.ndarray | None
    p: np.ndarray
    codes: np.ndarray
    names: np.ndarray
    threshold: np.ndarray
    strata: np.ndarray

    def value(self, metric: str, seed: int) -> float:
        """A measure of one seed's answers."""
        function = METRICS[metric].function
        return float(function(self.y, self.p[seed], threshold=self.threshold, strata=self.strata[seed]))

    def over(self, metric: str, blocks: Iterator[tuple[slice, np.ndarray]], size: int) -> np.ndarray:
        """The mean over the seeds under each column of patient counts (size,)."""
        return self.all_over([metric], blocks, size)[metric]

    def all_over(
        self, metrics: Sequence[str], blocks: Iterator[tuple[slice, np.ndarray]], size: int
    ) -> dict[str, np.ndarray]:
        """``over`` of several measures, on the same draws."""
        out = {name: np.full(size, np.nan) for name in metrics}
        for where, counts in blocks:
            weights = Weights(self.codes, counts)
            for name in metrics:
                function = METRICS[name].function
                found = [function(self.y, p, weights, self.threshold, s) for p, s in zip(self.p, self.strata)]
                out[name][where] = np.mean(found, axis=0)
        return out

    def without_each(self, metric: str) -> np.ndarray:
        """A measure without each patient (P,)."""
        return self.over(metric, leave_one_out(len(self.names)), len(self.names))

    @property
    def smallest(self) -> int | None:
        """Patients of the smallest class that is there; None where the question has no classes."""
        if self.y is None or not KINDS[self.task].has_classes:
            return None
        columns = [self.y] if self.y.ndim == 1 else list(self.y.T)
        found = []
        for column in columns:
            classes = np.unique(column[~np.isnan(column)])
            if len(classes) > 1 or len(columns) == 1:
                found += [len(np.unique(self.codes[column == c])) for c in classes]
        return min(found, default=0)


def answers(
    y_true: np.ndarray | None,
    y_pred: np.ndarray,
    patient: np.ndarray,
    *,
    task: str = BINARY.name,
    threshold: Any = 0.5,
    strata: np.ndarray | None = None,
) -> Answers:
    """Check what a measure is taken of; rows without a label are dropped. Arguments as in ``bootstrap``."""
    if task not in KINDS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(KINDS)}")
    dimensions = KINDS[task].dimensions
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
    strata = np.zeros(n, dtype=np.int64) if strata is None else np.asarray(strata)
    strata = np.broadcast_to(strata, (len(y_pred), n))
    if y_true is not None:
        if KINDS[task].has_classes:
            check_labels(y_true, y_pred)
        known = labelled_rows(y_true)
        y_true, y_pred, patient = y_true[known], y_pred[:, known], patient[known]
        threshold, strata = threshold[known], strata[:, known]
    names, codes = np.unique(patient, return_inverse=True)
    return Answers(task, y_true, y_pred, codes, names, threshold, strata)


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
    strata: np.ndarray | None = None,
    unit: str = "patient",
    method: str = "best",
) -> dict[str, Interval]:
    """Several metrics with their intervals, and their values on the same patient resamples.

    ``y_true`` and ``y_pred`` have the shapes of ``medgraft.stats.metrics`` for the ``task``; ``y_pred`` may have
    one more leading axis of S seeds, (S, n, ...): then the estimate is the mean over seeds and all seeds meet the
    same patients. ``patient`` (n,) any codes. ``threshold`` a number or (n,). ``strata`` (n,) or (S, n): which network
    scored a case, where there are several; cases are ranked within a stratum only. Rows without a label are dropped
    before patients are drawn. ``method``: ``best``, that of each measure (``stats.bounds``); ``percentile``; or ``bca``
    (bias-corrected and accelerated, Efron 1987, with the jackknife over patients).

    Without bounds (NaN, method ``too few``) stand numbers of fewer than 3 patients, or with fewer than 3 of a class.
    Raises ``ValueError`` on shapes that do not fit, labels that are no classes, or an unknown metric, task or method.
    """
    if task not in KINDS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(KINDS)}")
    if method not in ("best", "percentile", "bca"):
        raise ValueError(f"unknown method {method!r}; known: best, percentile, bca")
    for name in metrics:
        if name not in METRICS or task not in METRICS[name].tasks:
            raise ValueError(
                f"{name!r} is no metric of a {task} task; known: "
                f"{', '.join(m for m in METRICS if task in METRICS[m].tasks)}"
            )
    given = answers(y_true, y_pred, patient, task=task, threshold=threshold, strata=strata)
    size, smallest = len(given.names), given.smallest
    enough = size >= MINIMUM_PATIENTS
    drawn = (
        given.all_over(metrics, patient_counts(size, resamples, seed), resamples)
        if enough
        else {m: np.full(resamples, np.nan) for m in metrics}
    )
    result = {}
    for name in metrics:
        seeds = tuple(given.value(name, s) for s in range(len(given.p)))
        value = float(np.mean(seeds)) if seeds else float("nan")
        if name in RAISED_BY_RESAMPLING and not np.isnan(drawn[name]).all():
            drawn[name] = np.maximum(drawn[name] - (np.nanmedian(drawn[name]) - value), 0.0)
        how = METRICS[name].bounds if method == "best" else method
        if np.isnan(value):
            low, high, how = *bounds.NOWHERE, "none"
        elif not enough or (smallest is not None and smallest < bounds.TOO_FEW):
            low, high, how = *bounds.NOWHERE, "too few"
        elif how in ("percentile", "bca"):
            left = given.without_each(name) if how == "bca" else None
            low, high = limits(drawn[name], confidence, value if how == "bca" else None, left)
        else:
            low, high = METHODS[how](given, name, value, confidence)
        undefined = float(np.isnan(drawn[name]).mean()) if resamples else 1.0
        result[name] = Interval(
            value, low, high, len(given.codes), size, unit, confidence, how, undefined, seeds, drawn[name], smallest
        )
    return result


# ---- the method of each measure -------------------------------------------------------------------


def _called_right(given: Answers) -> np.ndarray:
    """Share of the seeds that call a case right (n,), and each seed's positive calls are those at the threshold."""
    assert given.y is not None
    if given.p.ndim == 3:
        return np.asarray((given.p.argmax(axis=2) == given.y).mean(axis=0))
    return np.asarray(((given.p >= given.threshold) == (given.y == 1)).mean(axis=0))


def _of_auc(given: Answers, name: str, value: float, confidence: float) -> bounds.Bounds:
    assert given.y is not None
    return bounds.auc_bounds(given.y, given.p, given.codes, given.strata, confidence)


def _of_share(given: Answers, name: str, value: float, confidence: float) -> bounds.Bounds:
    assert given.y is not None
    right, counted = _called_right(given), np.ones(len(given.codes), dtype=bool)
    if name == "precision":
        said = (given.p >= given.threshold).mean(axis=0)
        counted, right = said > 0, given.y == 1
        n = float(said.sum())
    else:
        counted = {"sensitivity": given.y == 1, "specificity": given.y == 0}.get(name, counted)
        n = float(counted.sum())
    (found,) = bounds.shares([(right[counted].astype(np.float64), given.codes[counted])], confidence)
    return bounds.wilson(value, max(n, 1.0) * found.n / counted.sum(), found.crit)


def _of_recalls(given: Answers, name: str, value: float, confidence: float) -> bounds.Bounds:
    assert given.y is not None
    right = _called_right(given)
    classes = [given.y == c for c in np.unique(given.y)]
    return bounds.mean_of_shares(bounds.shares([(right[of], given.codes[of]) for of in classes], confidence))


def _by_error(function: Callable[..., bounds.Bounds]) -> Callable[..., bounds.Bounds]:
    def find(given: Answers, name: str, value: float, confidence: float) -> bounds.Bounds:
        error, size = bounds.spread(given.without_each(name), value), len(given.names)
        if function in (bounds.bounded, bounds.ratio):
            return function(value, error, size, given.smallest or size, confidence)
        return function(value, error, size, confidence)

    return find


#: Name of a method -> bounds of a measure's value.
METHODS: dict[str, Callable[[Answers, str, float, float], bounds.Bounds]] = {
    "auc": _of_auc,
    "share": _of_share,
    "recalls": _of_recalls,
    "bounded": _by_error(bounds.bounded),
    "ratio": _by_error(bounds.ratio),
    "error": _by_error(bounds.of_error),
    "below_one": _by_error(bounds.below_one),
}


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
