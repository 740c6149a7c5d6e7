"""Do predicted probabilities mean what they say? Reliability bins, slope and intercept, with patient-level intervals.

Slope and intercept after Cox 1958 and Van Calster et al. 2019; the expected calibration error is the metric ``ece``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgraft.stats.intervals import MINIMUM_PATIENTS, Interval, limits, patient_counts
from medgraft.stats.kinds import BINARY, KINDS
from medgraft.stats.metrics import BINS, Weights, confidence_and_truth, equal_mass_bins

EDGE = 1e-6  # probabilities are kept this far from 0 and 1 before the logit
STEPS = 50  # Newton steps at most


@dataclass(frozen=True)
class Bin:
    """Cases of like prediction: mean probability, share that came true with its interval, number of predictions."""

    predicted: float
    observed: float
    low: float
    high: float
    n: int


def _clean(
    y_true: np.ndarray, y_pred: np.ndarray, patient: np.ndarray, task: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """(probability, outcome, patient) of all seeds one after another, and the number of seeds."""
    y, p, patient = np.asarray(y_true, dtype=np.float64), np.asarray(y_pred, dtype=np.float64), np.asarray(patient)
    p = p[None] if p.ndim == KINDS[task].dimensions else p
    if y.ndim == 2:  # every (case, target) is a prediction
        targets = y.shape[1]
        y, p, patient = y.T.ravel(), np.swapaxes(p, 1, 2).reshape(len(p), -1), np.tile(patient, targets)
    known = ~np.isnan(y)
    y, p, patient = y[known], p[:, known], patient[known]
    if not len(y):
        return np.empty(0), np.empty(0), patient, len(p)
    pairs = [confidence_and_truth(y, scores) for scores in p]
    return (
        np.concatenate([a for a, _ in pairs]),
        np.concatenate([b for _, b in pairs]),
        np.tile(patient, len(p)),
        len(p),
    )


def reliability(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    patient: np.ndarray,
    *,
    task: str = BINARY.name,
    bins: int = BINS,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Bin]:
    """Reliability diagram: bins that hold about as many predictions each, the same as those of ``ece``.

    Shapes as in ``medgraft.stats.intervals.bootstrap`` for binary, multiclass (the called class against whether it was
    right) and multilabel (all targets together). Seeds are thrown together, so ``n`` counts cases x seeds; the interval
    resamples patients. Empty when nothing is labelled or a score is NaN.
    """
    probability, outcome, patient, _ = _clean(y_true, y_pred, patient, task)
    if not len(probability) or np.isnan(probability).any():
        return []
    index = np.unique(equal_mass_bins(probability, bins), return_inverse=True)[1]
    n = np.bincount(index)
    predicted, observed = np.bincount(index, weights=probability) / n, np.bincount(index, weights=outcome) / n
    names, codes = np.unique(patient, return_inverse=True)
    low = high = np.full(len(n), np.nan)
    if len(names) >= MINIMUM_PATIENTS:
        columns = [column for b in range(len(n)) for column in ((index == b) * outcome, index == b)]
        sums = np.concatenate(
            [Weights(codes, c).sums(*columns) for _, c in patient_counts(len(names), resamples, seed)], axis=1
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = sums[0::2] / sums[1::2]
        bounds = np.array([limits(row, confidence) for row in drawn])
        # Where all of a bin's cases went one way no resample can differ: the exact binomial bound over its patients
        # instead.
        patients = np.array([len(np.unique(codes[index == b])) for b in range(len(n))])
        reach = 1 - ((1 - confidence) / 2) ** (1 / patients)
        low = np.where(observed == 0, 0.0, np.where(observed == 1, 1 - reach, bounds[:, 0]))
        high = np.where(observed == 0, reach, np.where(observed == 1, 1.0, bounds[:, 1]))
    return [
        Bin(float(a), float(o), float(below), float(above), int(k))
        for a, o, below, above, k in zip(predicted, observed, low, high, n)
    ]


def _slope(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted logistic regression of y (n,) on x (n,) for each column of w (n, B): (intercept, slope), NaN where it
    does not settle.
    """
    a, b = np.zeros(w.shape[1]), np.ones(w.shape[1])
    step = np.full((2, w.shape[1]), np.inf)
    with np.errstate(all="ignore"):
        for _ in range(STEPS):
            mean = 1 / (1 + np.exp(-(a + np.outer(x, b))))
            rest, curve = w * (y[:, None] - mean), w * mean * (1 - mean)
            g0, g1 = rest.sum(axis=0), x @ rest
            h00, h01, h11 = curve.sum(axis=0), x @ curve, (x**2) @ curve
            determinant = h00 * h11 - h01**2
            step = np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0]) / determinant
            size = np.abs(step).max(axis=0)
            step = step / np.maximum(size / 2, 1)  # short steps keep Newton from running away
            a, b = a + step[0], b + step[1]
            if not (size[np.isfinite(size)] > 1e-10).any():
                break
    settled = (np.abs(step).max(axis=0) < 1e-6) & (np.abs(b) < 1e3)
    return np.where(settled, a, np.nan), np.where(settled, b, np.nan)


def _intercept(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Intercept of a weighted logistic regression whose slope is held at 1 (B,)."""
    a = np.zeros(w.shape[1])
    step = np.full(w.shape[1], np.inf)
    with np.errstate(all="ignore"):
        for _ in range(STEPS):
            mean = 1 / (1 + np.exp(-(a + x[:, None])))
            step = np.clip((w * (y[:, None] - mean)).sum(axis=0) / (w * mean * (1 - mean)).sum(axis=0), -2, 2)
            a = a + step
            if not (np.abs(step[np.isfinite(step)]) > 1e-10).any():
                break
    return np.where(np.abs(step) < 1e-6, a, np.nan)


def slope_and_intercept(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    patient: np.ndarray,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    unit: str = "patient",
) -> dict[str, Interval]:
    """Calibration ``slope`` (1 = right, below 1 = too extreme) and ``intercept`` (0 = right, below 0 = predicts too
    much).

    Binary ``y_true`` (n,), ``y_pred`` (n,) or (S, n). The slope is that of a logistic regression of the truth on the
    logit of the prediction; the intercept is fitted with the slope held at 1 (calibration in the large). Probabilities
    are kept 1e-6 away from 0 and 1. NaN where one class is missing or the classes are fully separated.
    """
    y, p, patient = (
        np.asarray(y_true, dtype=np.float64),
        np.atleast_2d(np.asarray(y_pred, dtype=np.float64)),
        np.asarray(patient),
    )
    known = ~np.isnan(y)
    y, p, patient = y[known], p[:, known], patient[known]
    names, codes = np.unique(patient, return_inverse=True)
    logits = [np.log(q / (1 - q)) for q in np.clip(p, EDGE, 1 - EDGE)]

    def fit(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w = counts[codes]
        return np.mean([_slope(x, y, w)[1] for x in logits], axis=0), np.mean(
            [_intercept(x, y, w) for x in logits], axis=0
        )

    undefined = not len(y) or np.isnan(p).any() or len(np.unique(y)) < 2
    slope, intercept = (np.full(resamples, np.nan), np.full(resamples, np.nan))
    seeds: list[tuple[float, float]] = []
    if not undefined:
        one = np.ones((len(y), 1))
        seeds = [(float(_slope(x, y, one)[1][0]), float(_intercept(x, y, one)[0])) for x in logits]
        if len(names) >= MINIMUM_PATIENTS:
            for where, counts in patient_counts(len(names), resamples, seed, block_bytes=2**20):
                slope[where], intercept[where] = fit(counts)
    result = {}
    for k, (name, drawn) in enumerate((("slope", slope), ("intercept", intercept))):
        values = tuple(pair[k] for pair in seeds)
        value = float(np.mean(values)) if values else float("nan")
        low, high = limits(drawn, confidence) if not np.isnan(value) else (float("nan"), float("nan"))
        result[name] = Interval(
            value,
            low,
            high,
            len(y),
            len(names),
            unit,
            confidence,
            "percentile",
            float(np.isnan(drawn).mean()),
            values,
            drawn,
        )
    return result
