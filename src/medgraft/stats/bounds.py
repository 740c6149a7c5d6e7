"""The interval of one number, by the method that keeps its promise for that measure.

The middle of resampled values, the usual way, holds the truth too seldom where a class has few patients or a number
lies near the end of its range (22 to 90 % instead of 95). Instead:

- **AUC**: all values that a score test would not reject. The variance of an AUC of theta is that of two normal scores
  (a binormal model), times how far the data's own components (DeLong 1988) depart from it, shrunk towards 1.
- **shares of cases** (accuracy, sensitivity, specificity, precision): Wilson's score interval (1927).
- **mean of several shares** (balanced accuracy): half way between Newcombe's bounds (1998), a little short near 1, and
  Agresti and Caffo's (2000), a little long there.
- **other measures between 0 and 1**: Wilson's with as many patients as would give the jackknife's standard error; of
  F1, average precision and means of AUCs that error is shrunk towards a share's, for it says little near 1.
- **errors and R2**: Student's t on the logarithm of the error, with the jackknife over patients.

Several cases of one patient count for fewer: the number of cases is divided by the design effect 1 + (m - 1) rho
(Donner and Klar 2000), with rho, the correlation within patients, from the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, owens_t
from scipy.stats import rankdata
from scipy.stats import t as student

PRIOR = 30.0  # patients' worth of trust in the binormal shape
TRUST = 10.0  # patients' worth of trust in a share's standard error, of measures made of ranks or counts
TOO_FEW, FEW = 3, 5  # patients of the smallest class: below the first no interval, below the second a warning
Bounds = tuple[float, float]
NOWHERE: Bounds = (float("nan"), float("nan"))


def critical(confidence: float, freedom: float) -> float:
    """Two-sided critical value of Student's t."""
    return float(student.ppf((1 + confidence) / 2, freedom))


def wilson(share: float, n: float, crit: float) -> Bounds:
    """Score interval of a share among ``n`` cases (need not be whole)."""
    middle = (share + crit**2 / (2 * n)) / (1 + crit**2 / n)
    half = crit * np.sqrt(max(share * (1 - share), 0) / n + crit**2 / (4 * n**2)) / (1 + crit**2 / n)
    low, high = max(0.0, float(middle - half)), min(1.0, float(middle + half))
    return (0.0 if share == 0 else low), (1.0 if share == 1 else high)


# ---- patients with several cases ------------------------------------------------------------------


def _crossed(residual: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """(Sum of products of residuals of two cases of a patient, how many ordered pairs that is)."""
    size = int(codes.max()) + 1
    sums, squares = np.bincount(codes, residual, size), np.bincount(codes, residual**2, size)
    count = np.bincount(codes, minlength=size)
    return float((sums**2 - squares).sum()), float((count * (count - 1)).sum())


def correlation(groups: list[tuple[np.ndarray, np.ndarray, float]]) -> float:
    """Correlation within patients, 0..1, pooled over groups of (residuals, patients, their variance)."""
    found = [(*_crossed(residual, codes), variance) for residual, codes, variance in groups if variance > 0]
    pairs = sum(p for _, p, _ in found)
    return float(np.clip(sum(c / v for c, _, v in found) / pairs, 0, 1)) if pairs else 0.0


def design_effect(codes: np.ndarray, rho: float) -> float:
    """How many cases of these patients say as much as one of a new patient: 1 + (m - 1) rho, m the mean number of
    cases of the patient of a case.
    """
    count = np.bincount(codes)
    return 1 + (float((count**2).sum() / count.sum()) - 1) * rho


# ---- AUC ------------------------------------------------------------------------------------------


def shared(theta: float) -> float:
    """Covariance of two comparisons that share a case, for two normal scores whose AUC is ``theta``."""
    h = ndtri(theta)
    return float(ndtr(h) - 2 * owens_t(h, 1 / np.sqrt(3)) - theta**2)


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


@dataclass(frozen=True)
class Placed:
    """An AUC and what its cases add to it, pairs being counted within strata.

    ``placed`` (n,) share of the stratum's other class that a case stands rightly against, ``pairs`` (n,) how many those
    are (0: the stratum has one class), ``centre`` (n,) the AUC of its stratum; ``auc`` the mean of ``placed`` weighted
    by ``pairs``.
    """

    auc: float
    placed: np.ndarray
    pairs: np.ndarray
    centre: np.ndarray


def place(y: np.ndarray, p: np.ndarray, strata: np.ndarray) -> Placed:
    """Components of the AUC of one network a stratum: labels (n,) of 0 and 1, scores (n,), codes of the strata (n,)."""
    placed, pairs, centre = np.zeros(len(y)), np.zeros(len(y)), np.zeros(len(y))
    for code in np.unique(strata):
        rows = strata == code
        ones = y[rows] == 1
        if ones.all() or not ones.any():
            continue
        v10, v01 = placements(y[rows], p[rows])
        of_part, other = np.empty(len(ones)), np.empty(len(ones))
        of_part[ones], of_part[~ones] = v10, v01
        other[ones], other[~ones] = (~ones).sum(), ones.sum()
        placed[rows], pairs[rows], centre[rows] = of_part, other, v10.mean()
    one = y == 1
    total = pairs[one].sum()
    auc = float((placed * pairs)[one].sum() / total) if total else float("nan")
    return Placed(auc, placed, pairs, centre)


def auc_bounds(y: np.ndarray, p: np.ndarray, codes: np.ndarray, strata: np.ndarray, confidence: float) -> Bounds:
    """Bounds of the mean AUC of S networks: labels (n,), scores (S, n), patients (n,) 0.., strata (S, n)."""
    parts = [place(y, scores, codes_) for scores, codes_ in zip(p, strata)]
    value = float(np.mean([part.auc for part in parts]))
    spread = [np.ptp(scores[rows]) for scores, codes_ in zip(p, strata) for rows in _rows(codes_)]
    if np.isnan(value) or max(spread) == 0:
        return NOWHERE
    placed, centre = np.mean([x.placed for x in parts], axis=0), np.mean([x.centre for x in parts], axis=0)
    pairs, total = parts[0].pairs, parts[0].pairs[y == 1].sum()
    within = min(max(value, 1e-6), 1 - 1e-6)
    binormal = max(shared(within), 1e-12)
    sides, groups = [], []
    for one in (True, False):
        mine = (y == 1) == one
        mine &= pairs > 0
        residual, other, of = placed[mine] - centre[mine], pairs[mine], strata[0][mine]
        freedom = len(residual) - len(np.unique(of))
        variance = float((residual**2).sum() / freedom) if freedom > 0 else 0.0
        few = float(np.mean(1 / other))  # a placement among few of the other class varies by that alone
        model = binormal + max(within * (1 - within) - 2 * binormal, 0) * few
        patients = len(np.unique(codes[mine]))
        trust = PRIOR + max(min(freedom, patients - 1), 0)
        departs = variance / model if 0 < value < 1 and freedom > 0 else 1.0
        ratio = (PRIOR + (trust - PRIOR) * departs) / trust
        sides.append((ratio, float((other**2).sum()) / total**2, trust, codes[mine]))
        groups.append((residual, codes[mine], variance))
    rho = correlation(groups)
    effects = [design_effect(own, rho) for *_, own in sides]
    weight = [ratio * share * effect for (ratio, share, _, _), effect in zip(sides, effects)]
    total /= effects[0] * effects[1]
    freedom = sum(weight) ** 2 / sum(w**2 / trust for w, (_, _, trust, _) in zip(weight, sides))
    crit = critical(confidence, freedom)

    def rejects(theta: float) -> bool:
        common = max(shared(theta), 0.0)
        variance = common * sum(weight) + max(theta * (1 - theta) - 2 * common, 0) / total
        return abs(value - theta) > crit * np.sqrt(variance)

    return _edge(rejects, value, 0.0), _edge(rejects, value, 1.0)


def _rows(strata: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(strata == code) for code in np.unique(strata)]


def _edge(rejects: object, inside: float, outside: float) -> float:
    """Where a test begins to reject between a value that it accepts and the end of the range."""
    for _ in range(40):
        middle = (inside + outside) / 2
        if rejects(middle):  # type: ignore[operator]
            outside = middle
        else:
            inside = middle
    return inside


# ---- shares ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """A share of cases and how many independent cases would tell as much."""

    value: float
    n: float
    crit: float

    @property
    def bounds(self) -> Bounds:
        return wilson(self.value, self.n, self.crit)


def shares(right: list[tuple[np.ndarray, np.ndarray]], confidence: float) -> list[Share]:
    """Shares of cases in groups of (right (n,) 0..1, patients (n,)), with one correlation within patients for all."""
    groups = [(x - x.mean(), codes, float(x.mean() * (1 - x.mean()))) for x, codes in right]
    rho = correlation(groups)
    several = any(len(np.unique(codes)) < len(codes) for _, codes in right)
    patients = len(np.unique(np.concatenate([codes for _, codes in right])))
    crit = critical(confidence, max(patients - 1, 1) if several else np.inf)
    return [Share(float(x.mean()), len(x) / design_effect(codes, rho), crit) for x, codes in right]


def mean_of_shares(parts: list[Share]) -> Bounds:
    """Bounds of the mean of independent shares: Newcombe's and Agresti and Caffo's, half way between."""
    value, k = float(np.mean([s.value for s in parts])), len(parts)
    bounds = [s.bounds for s in parts]
    down = np.sqrt(sum((s.value - low) ** 2 for s, (low, _) in zip(parts, bounds))) / k
    up = np.sqrt(sum((high - s.value) ** 2 for s, (_, high) in zip(parts, bounds))) / k
    drawn = [((s.value * s.n + 1) / (s.n + 2), s.n + 2) for s in parts]
    middle = float(np.mean([q for q, _ in drawn]))
    half = max(s.crit for s in parts) * np.sqrt(sum(q * (1 - q) / n for q, n in drawn)) / k
    low = ((value - down) + (middle - half)) / 2
    high = (min(1.0, value + up) + min(1.0, middle + half)) / 2
    return max(0.0, float(low)), min(1.0, float(high))


# ---- anything else --------------------------------------------------------------------------------


def spread(left_out: np.ndarray, value: float) -> float:
    """Standard error by the jackknife over patients: the values (P,) without each of them, about the whole."""
    known = left_out[~np.isnan(left_out)]
    return float(np.sqrt((len(known) - 1) / len(known) * ((known - value) ** 2).sum())) if len(known) > 1 else 0.0


def bounded(value: float, error: float, patients: int, counting: int, confidence: float) -> Bounds:
    """Of a mean of case values in 0..1 with a standard error; ``counting`` patients stand for it where nothing varies
    at an end of the range.
    """
    crit = critical(confidence, max(patients - 1, 1))
    if error > 1e-12 and 0 < value < 1:
        return wilson(value, value * (1 - value) / error**2, crit)
    return wilson(value, counting, crit) if value in (0, 1) else NOWHERE


def ratio(value: float, error: float, patients: int, counting: int, confidence: float) -> Bounds:
    """Of a measure in 0..1 made of ranks or counts, such as F1: near an end its standard error says little, so it is
    shrunk towards that of a share of ``counting`` patients (those of the smallest class).
    """
    if error <= 1e-12 and value not in (0, 1):
        return NOWHERE
    seen = error**2 / (value * (1 - value)) if error > 1e-12 and 0 < value < 1 else 0.0
    one_over_n = (counting * seen + TRUST / counting) / (counting + TRUST)
    return wilson(value, 1 / one_over_n, critical(confidence, max(patients - 1, 1)))


def of_error(value: float, error: float, patients: int, confidence: float) -> Bounds:
    """Of a positive number, on its logarithm."""
    if error <= 1e-12 or value <= 0:
        return NOWHERE
    reach = np.exp(critical(confidence, max(patients - 1, 1)) * error / value)
    return float(value / reach), float(value * reach)


def below_one(value: float, error: float, patients: int, confidence: float) -> Bounds:
    """Of a number that is 1 at best and has no lower end, on the logarithm of what it lacks."""
    low, high = of_error(1 - value, error, patients, confidence)
    return 1 - high, 1 - low
