"""Is one model really better than another? Paired tests that respect patients with several cases.

The interval and the p of a difference come from one method: Student's t on the difference of what each patient adds to
either number (its influence). Of an AUC these are DeLong, DeLong and Clarke-Pearson's components (1988, by midranks,
Sun and Xu 2014) summed within patients (Obuchowski 1997) and fold by fold; of any other measure the jackknife over
patients. The degrees of freedom are Satterthwaite's over the classes, so that five positive patients are not taken for
many. Several comparisons: step-down over the smallest p (Westfall and Young 1993), whose joint distribution comes from
random signs and sizes of the same influences, never above Holm (1979). Decisions: exact McNemar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from medgraft.stats.bounds import TOO_FEW, place, placements
from medgraft.stats.intervals import Answers, answers
from medgraft.stats.metrics import better

TINY = 1e-12  # two orders of summation are not a difference
FAMILY_DRAWS = 10_000  # random multipliers for the joint distribution of a family


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
class Influence:
    """A number and what each patient adds to it.

    ``patients`` (P,) names; ``pull`` (P,) in the number's unit, so that the sum of squares is its variance; ``group``
    (P,) the class of each patient, 0 where there are none; ``n_smallest`` patients of the smallest class.
    """

    value: float
    patients: np.ndarray
    pull: np.ndarray
    group: np.ndarray
    n_smallest: int | None = None


@dataclass(frozen=True)
class Difference:
    """a minus b with its interval.

    ``p`` two-sided; ``p_superior`` how likely so small a lead or a larger deficit of a would be if both were equal:
    .5 = no idea, near 1 = a is ahead. ``patients`` and ``pull`` (P,) what each patient adds, for ``adjusted``.
    """

    difference: float
    low: float
    high: float
    p: float
    p_superior: float
    method: str
    patients: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    pull: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)


@dataclass(frozen=True)
class McNemar:
    """Cases that only a or only b got right, and the exact two-sided p that such a split is chance."""

    only_a: int
    only_b: int
    p: float


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


def influence(given: Answers, metric: str) -> Influence:
    """What each patient adds to a measure of some answers (``intervals.answers``), the mean over its seeds."""
    groups = np.zeros(len(given.names), dtype=np.int64)
    if given.smallest is not None and given.y is not None and given.y.ndim == 1:
        np.maximum.at(groups, given.codes, given.y.astype(np.int64))
    value = float(np.mean([given.value(metric, s) for s in range(len(given.p))]))
    pull = _auc_pull(given) if metric == "auc" else _pull(given, metric, value, groups)
    return Influence(value, given.names, pull, groups, given.smallest)


def _pull(given: Answers, metric: str, value: float, groups: np.ndarray) -> np.ndarray:
    """By the jackknife: the whole minus the number without each patient, its variance put right for each class."""
    size = np.bincount(groups)[groups]
    return np.nan_to_num(value - given.without_each(metric)) * np.sqrt((size - 1) / np.maximum(size, 1))


def _auc_pull(given: Answers) -> np.ndarray:
    assert given.y is not None
    pull, y = np.zeros(len(given.names)), given.y
    for scores, strata in zip(given.p, given.strata):
        part = place(y, scores, strata)
        total = part.pairs[y == 1].sum()
        for one in (True, False):
            mine = ((y == 1) == one) & (part.pairs > 0)
            adds = part.pairs[mine] * (part.placed[mine] - part.auc) / total
            patients = len(np.unique(given.codes[mine]))
            raised = np.sqrt(patients / (patients - 1)) if patients > 1 else float("nan")
            pull += raised * np.bincount(given.codes[mine], adds, len(pull)) / len(given.p)
    return pull


def paired(a: Influence, b: Influence, higher_is_better: bool = True, confidence: float = 0.95) -> Difference:
    """Test two numbers of the same patients. Raises ``ValueError`` when they are of other patients.

    Equal answers differ by 0 with p = 1. Where every patient adds the same to the difference (a perfect score against a
    constant one) there is no spread to judge by, and p is the chance that all fall to one side: 2 / 2^patients.
    """
    if len(a.patients) != len(b.patients) or (a.patients != b.patients).any():
        raise ValueError("the two numbers are not of the same patients")
    value, pull, method = a.value - b.value, a.pull - b.pull, "paired t"
    nothing = Difference(value, *(float("nan"),) * 4, method, a.patients, pull)
    few = min((i.n_smallest for i in (a, b) if i.n_smallest is not None), default=TOO_FEW)
    if np.isnan(value) or np.isnan(pull).any() or len(pull) < TOO_FEW or few < TOO_FEW:
        return nothing
    parts = [(float((pull[a.group == g] ** 2).sum()), int((a.group == g).sum())) for g in np.unique(a.group)]
    variance = sum(v for v, _ in parts)
    tiny = TINY * max(1.0, abs(a.value), abs(b.value))
    if variance < tiny**2 or (variance < 1e-15 and abs(value) < tiny):
        if abs(value) < tiny:
            return Difference(0.0, 0.0, 0.0, 1.0, 0.5, method, a.patients, pull)
        p = 2.0 ** (1 - len(pull))
        ahead = (value > 0) == higher_is_better
        return Difference(value, value, value, p, 1 - p / 2 if ahead else p / 2, "signs", a.patients, pull)
    freedom = variance**2 / sum(v**2 / max(n - 1, 1) for v, n in parts)
    error = np.sqrt(variance)
    half = student.ppf((1 + confidence) / 2, freedom) * error
    p = float(2 * student.sf(abs(value) / error, freedom))
    ahead = (value > 0) == higher_is_better
    superior = 1 - p / 2 if ahead else p / 2
    return Difference(value, value - half, value + half, p, superior, method, a.patients, pull)


def compare_two(
    y_true: np.ndarray | None,
    pred_a: np.ndarray,
    pred_b: np.ndarray,
    patient: np.ndarray,
    metric: str = "auc",
    *,
    confidence: float = 0.95,
    **options: Any,
) -> Difference:
    """Difference of a metric between two models on the same cases.

    Shapes and ``options`` (task, threshold, strata) as in ``medgraft.stats.intervals.answers``.
    """
    a, b = (influence(answers(y_true, p, patient, **options), metric) for p in (pred_a, pred_b))
    return paired(a, b, better(metric) != "lower", confidence)


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray, patient: np.ndarray | None = None) -> McNemar:
    """Exact McNemar test on two models' right-or-wrong (n,) booleans for the same cases.

    The test takes cases as independent: with several cases of one patient it raises ``ValueError``; compare accuracy by
    ``compare_two`` then.
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact

    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if patient is not None and len(np.unique(patient)) < len(a):
        raise ValueError("McNemar's test needs one case a patient; compare accuracy by compare_two")
    table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
    return McNemar(int(table[0][1]), int(table[1][0]), float(exact(table, exact=True).pvalue))


def holm(p: Sequence[float]) -> np.ndarray:
    """p values adjusted by Holm for the whole family; NaN stays NaN and does not count."""
    values = np.asarray(p, dtype=np.float64)
    adjusted = np.full(len(values), np.nan)
    order = np.argsort(values, kind="stable")[: int((~np.isnan(values)).sum())]  # NaN sorts last
    stricter = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stricter), 1.0)
    return adjusted


def adjusted(tests: Sequence[Difference], draws: int = FAMILY_DRAWS, seed: int = 0) -> np.ndarray:
    """p values of a family, adjusted for all of its tests; NaN stays NaN and does not count.

    Step-down over the smallest p: how often would the smallest of the p values not yet passed be as small by chance?
    The joint distribution of the tests is that of their influences times one standard normal number a patient (the
    multiplier bootstrap), so tests that share models and patients are not counted as strangers. Never above Holm's.
    """
    p = np.array([t.p for t in tests], dtype=np.float64)
    result = holm(p.tolist())
    moving = [i for i, t in enumerate(tests) if not np.isnan(t.p) and (t.pull**2).sum() > 0]
    if len(moving) < 2:
        return result
    names = np.unique(np.concatenate([tests[i].patients for i in moving]))
    pulls = np.zeros((len(names), len(moving)))
    for column, i in enumerate(moving):
        pulls[np.searchsorted(names, tests[i].patients), column] = tests[i].pull
    pulls /= np.sqrt((pulls**2).sum(axis=0))
    order = np.argsort(p[moving], kind="stable")
    reached = norm.isf(p[moving][order] / 2)  # on the scale of the multipliers
    beyond = np.zeros(len(moving))
    block = max(1, 2**24 // (8 * max(pulls.shape)))
    generator = np.random.Generator(np.random.Philox(key=seed))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        drawn = np.abs(generator.standard_normal((size, len(names))) @ pulls)[:, order]
        largest = np.maximum.accumulate(drawn[:, ::-1], axis=1)[:, ::-1]
        beyond += (largest >= reached).sum(axis=0)
    found = np.maximum.accumulate((1 + beyond) / (1 + draws))
    for place_, value in zip(order, found):
        i = moving[place_]
        result[i] = min(result[i], max(float(value), float(p[i])))
    return result
