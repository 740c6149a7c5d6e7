"""Every metric, written once: the point value and all bootstrap resamples come from the same lines.

A metric is a function ``f(y_true, y_pred, weights=None)``. Without weights it returns one float. With
``Weights`` it returns one value for each column of patient counts, that is for each resample, so a
bootstrap needs no loop over resamples. Shapes by task (n rows, C classes, T targets, K structures):

=============  ==========================  ==========================================
task           ``y_true``                  ``y_pred``
=============  ==========================  ==========================================
binary         (n,) 0 or 1                 (n,) probability of class 1
multiclass     (n,) class index 0..C-1     (n, C) probabilities
multilabel     (n, T) 0 or 1               (n, T) probabilities
regression     (n,) quantity               (n,) quantity, same unit
quantities     (n, T) quantities           (n, T) quantities, each in its target's unit
segmentation   None                        (n, K, 3) counts tp, fp, fn of each structure
=============  ==========================  ==========================================

Scores of different networks are not on one scale: where ``strata`` tell which fold's network scored a case, measures
that rank (AUC, average precision) count pairs within a stratum only. Rows whose label is NaN are dropped. A metric that
is not defined (one class only, no rows, a NaN score) is NaN; it is never an exception and never a number that looks
right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

import numpy as np
from scipy import sparse

BINS = 10  # of the expected calibration error and the reliability diagram
Value = Any  # float without weights, (B,) float64 with weights


@dataclass(frozen=True)
class Weights:
    """How often each patient stands in each resample.

    ``patient`` (n,) row of ``counts`` that each case belongs to; ``counts`` (P, B) float64, a patient's
    multiplicity in every one of B resamples. All cases of a patient share its count, so a patient is
    never split. ``strata`` (n,) codes of cases that may be ranked against each other; None: all.
    """

    patient: np.ndarray
    counts: np.ndarray
    strata: np.ndarray | None = None

    @staticmethod
    def unit(n: int, strata: np.ndarray | None = None) -> Weights:
        """Every case once: the point estimate."""
        return Weights(np.zeros(n, dtype=np.int64), np.ones((1, 1)), strata)

    def take(self, rows: np.ndarray) -> Weights:
        """The weights of some of the cases (mask or indices); patients stay as they are."""
        return Weights(self.patient[rows], self.counts, None if self.strata is None else self.strata[rows])

    def parts(self) -> list[np.ndarray]:
        """Rows of each stratum; one part of all cases where there are no strata."""
        if self.strata is None:
            return [np.arange(len(self.patient))]
        return [np.flatnonzero(self.strata == code) for code in np.unique(self.strata)]

    def sums(self, *columns: np.ndarray) -> np.ndarray:
        """Weighted sums over cases of each (n,) column: (len(columns), B). Cases are added up within patients first."""
        size = len(self.counts)
        return np.stack([np.bincount(self.patient, weights=column, minlength=size) for column in columns]) @ self.counts

    def grouped(self, group: np.ndarray, groups: int) -> np.ndarray:
        """Total weight in each group of cases, ``group`` (n,) in 0..groups-1: (groups, B)."""
        matrix = sparse.csr_matrix((np.ones(len(group)), (group, self.patient)), shape=(groups, len(self.counts)))
        return matrix @ self.counts


Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class Scale:
    """How the numbers of a measure are read and written; of a measure that only a file names these are all one knows.

    ``direction`` which of two values is the better one (None: best at one particular value, as a calibration slope
    of 1); ``decimals`` it is printed with (None: by its size); ``unit`` ``target`` (that of the target), none, or a
    unit of its own as printed (``px``); ``title`` its printed name in English and Chinese, where the tables of words
    have none.
    """

    direction: Direction | None = "higher"
    decimals: int | None = None
    unit: str = ""
    title: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Metric(Scale):
    """A metric's name, function and what a reader must know about it."""

    name: str
    function: Callable[..., Value]
    range: tuple[float, float]
    description: str
    tasks: tuple[str, ...]
    needs_threshold: bool = False
    interval: str = ""
    ranks: bool = False  # compares scores of cases, and so takes those of one network only

    @property
    def bounds(self) -> str:
        """How its interval is found (``stats.bounds``): ``auc``, ``share``, ``recalls``, ``ratio``, ``percentile``;
        else by range ``bounded``, ``error`` or ``below_one``.
        """
        low, high = self.range
        return self.interval or ("below_one" if low < 0 else "bounded" if high == 1 else "error")


METRICS: dict[str, Metric] = {}  # the one registry
#: Measures that a summary or a page names and that are no function of weighted cases.
SCALES: dict[str, Scale] = {
    "calibration_slope": Scale(None, 2),
    "calibration_intercept": Scale(None, 2),
    "bias": Scale(None, None, "target"),
}


def scale(name: str) -> Scale | None:
    """What is known of a measure by its plain name (``auc``); None of a stranger."""
    return METRICS.get(name) or SCALES.get(name)


def better(name: str) -> Direction | None:
    """Whether the ``higher`` or the ``lower`` of two values of a measure is the better one.

    None where neither is, or where the measure is not known.
    """
    known = scale(name)
    return known.direction if known else None


def sign(name: str) -> float:
    """-1 where less of a measure is better, else 1: times it, more is always better."""
    return -1.0 if better(name) == "lower" else 1.0


def best(values: Sequence[float], name: str) -> int | None:
    """Place of the best value of a measure, the first of equals; NaN is never best, and None without any number."""
    known = [i for i, value in enumerate(values) if not np.isnan(value)]
    return max(known, key=lambda i: sign(name) * values[i]) if known else None


def told(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What ``summary.json`` says of measures: ``{name: {direction, decimals, unit, description?, ranks?, title?}}``.

    A page reads it from there, and so ranks and prints a measure that only a task's own file knows.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        known = scale(name)
        if known is not None and name not in found:
            found[name] = {"direction": known.direction, "decimals": known.decimals, "unit": known.unit}
            if isinstance(known, Metric):
                found[name]["description"] = known.description
                found[name]["ranks"] = known.ranks
            if known.title:
                found[name]["title"] = list(known.title)
    return found


def labelled_rows(y_true: np.ndarray) -> np.ndarray:
    """Which rows (n,) hold a label at all; a multi-label row counts when any of its targets is known."""
    known = np.asarray(~np.isnan(y_true))
    return known if known.ndim == 1 else np.asarray(known.any(axis=1))


def metric(
    tasks: str,
    range: tuple[float, float],
    description: str,
    *,
    direction: Direction | None = "higher",
    decimals: int | None = 2,
    unit: str = "",
    title: tuple[str, str] | None = None,
    needs_threshold: bool = False,
    interval: str = "",
    ranks: bool = False,
) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    """Register a weighted function and give it clean input: labelled rows only, NaN where nothing is defined.

    ``tasks`` are kinds of question (``stats.kinds``), with a space between; the rest as in ``Metric``. A measure of a
    task of its own is registered so in that task's file. Raises ``ValueError`` when the name stands already.
    """

    def register(function: Callable[..., Value]) -> Callable[..., Value]:
        @wraps(function)
        def clean(
            y_true: np.ndarray | None,
            y_pred: np.ndarray,
            weights: Weights | None = None,
            threshold: Any = 0.5,
            strata: np.ndarray | None = None,
        ) -> Value:
            y_pred = np.asarray(y_pred, dtype=np.float64)
            n = len(y_pred)
            y_true = np.zeros(n) if y_true is None else np.asarray(y_true, dtype=np.float64)
            if len(y_true) != n:
                raise ValueError(f"{len(y_true)} labels for {n} predictions")
            labelled = labelled_rows(y_true)
            used = Weights.unit(n) if weights is None else weights
            if strata is not None:
                used = Weights(used.patient, used.counts, np.asarray(strata))
            options: dict[str, Any] = {}
            if needs_threshold:
                options["threshold"] = np.broadcast_to(np.asarray(threshold, dtype=np.float64), (n,))[labelled]
            if not labelled.all():
                y_true, y_pred, used = y_true[labelled], y_pred[labelled], used.take(labelled)
            if len(y_pred) == 0 or np.isnan(y_pred).any():
                value = np.full(used.counts.shape[1], np.nan)
            else:
                with np.errstate(divide="ignore", invalid="ignore"):
                    value = function(y_true, y_pred, used, **options)
            return float(value[0]) if weights is None else value

        name = function.__name__
        if scale(name) is not None:
            raise ValueError(f"a measure named {name} stands already")
        METRICS[name] = Metric(
            direction=direction,
            decimals=decimals,
            unit=unit,
            title=title,
            name=name,
            function=clean,
            range=range,
            description=description,
            tasks=tuple(tasks.split()),
            needs_threshold=needs_threshold,
            interval=interval,
            ranks=ranks,
        )
        return clean

    return register


# ---- ranking ----------------------------------------------------------------------------------


def _score_groups(score: np.ndarray) -> np.ndarray:
    """Number the distinct scores in ascending order: (n,) group of each case."""
    return np.unique(score, return_inverse=True)[1]


def _within_strata(
    part: Callable[..., tuple[np.ndarray, np.ndarray]], y: np.ndarray, p: np.ndarray, w: Weights
) -> np.ndarray:
    """A ratio whose (upper, lower) sums (B,) ``part`` takes of each stratum; one of a single class tells nothing."""
    upper, lower = np.zeros(w.counts.shape[1]), np.zeros(w.counts.shape[1])
    for rows in w.parts():
        if len(np.unique(y[rows])) == 2:
            of_part = part(y[rows], p[rows], w.take(rows))
            upper, lower = upper + of_part[0], lower + of_part[1]
    return upper / lower


def _auc(y: np.ndarray, p: np.ndarray, w: Weights) -> np.ndarray:
    """Pairs of a positive and a negative of one stratum that are in order, over all such pairs."""
    return _within_strata(_pairs, y, p, w)


def _pairs(y: np.ndarray, p: np.ndarray, w: Weights) -> tuple[np.ndarray, np.ndarray]:
    """(Pairs in order, pairs) in each resample (B,); ties are half in order."""
    positive = y == 1
    group = _score_groups(p)
    size, ones_in = np.bincount(group), np.bincount(group, weights=positive)
    # Climb the scores in as few steps as possible: a run of negatives and the run of positives above it
    # make one step, for nothing depends on the order within a run; scores that both classes share make their own.
    kind = np.where(ones_in == 0, 0, np.where(ones_in == size, 1, 2))
    new = (kind[1:] == 2) | (kind[1:] < kind[:-1])
    step_of_group = np.r_[0, np.cumsum(new)]
    step, steps = step_of_group[group], int(step_of_group[-1]) + 1
    tied = step_of_group[kind == 2]
    ones = w.take(positive).grouped(step[positive], steps)
    zeros = w.take(~positive).grouped(step[~positive], steps)
    below = np.cumsum(zeros, axis=0)
    n_ones, n_zeros = ones.sum(axis=0), below[-1].copy()
    below[tied] -= 0.5 * zeros[tied]
    return np.einsum("gb,gb->b", ones, below), n_ones * n_zeros


def _auprc(y: np.ndarray, p: np.ndarray, w: Weights) -> np.ndarray:
    """Precision at each positive case's score, among the cases of its stratum, averaged over the positive cases."""
    return _within_strata(_precisions, y, p, w)


def _precisions(y: np.ndarray, p: np.ndarray, w: Weights) -> tuple[np.ndarray, np.ndarray]:
    """(Sum over positive cases of the precision at their score, positive cases) in each resample (B,)."""
    positive = y == 1
    group = _score_groups(-p)  # descending
    groups = int(group.max()) + 1
    ones = w.take(positive).grouped(group[positive], groups)
    true = np.cumsum(ones, axis=0)
    called = np.cumsum(w.grouped(group, groups), axis=0)
    precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
    alone = called[-1] == true[-1]  # a resample without a negative case
    return np.where(alone, 0, np.einsum("gb,gb->b", ones, precision)), np.where(alone, 0, true[-1])


@metric(
    "binary",
    (0, 1),
    "chance that a random positive case scores above a random negative one (ties count half)",
    interval="auc",
    ranks=True,
)
def auc(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Area under the ROC curve, the Mann-Whitney statistic (Hanley and McNeil 1982)."""
    return _auc(y_true, y_pred, weights)


@metric(
    "binary",
    (0, 1),
    "average precision: precision at each positive case's score, averaged over the positive cases",
    interval="ratio",
    ranks=True,
)
def auprc(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Average precision: sum over distinct scores of (step in recall) x precision; no interpolation."""
    return _auprc(y_true, y_pred, weights)


def targets_of(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """0/1 labels (n, T), NaN = missing: multi-label as given, class indices one-versus-rest."""
    return y_true if y_true.ndim == 2 else (y_true[:, None] == np.arange(y_pred.shape[1])).astype(np.float64)


def _macro(
    function: Callable[..., Value], y_true: np.ndarray, y_pred: np.ndarray, weights: Weights, **options: Any
) -> np.ndarray:
    """Mean over the targets that have both classes in the data; NaN in a resample where one of them loses a class."""
    values = []
    for label, score in zip(targets_of(y_true, y_pred).T, y_pred.T):
        known = ~np.isnan(label)
        if len(np.unique(label[known])) == 2:
            values.append(function(label[known], score[known], weights.take(known), **options))
    return np.mean(values, axis=0) if values else np.full(weights.counts.shape[1], np.nan)


@metric(
    "multiclass multilabel",
    (0, 1),
    "mean over the classes (or targets) of the AUC of each against the rest",
    interval="ratio",
    ranks=True,
)
def macro_auc(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Macro one-versus-rest AUC (multi-class), or the mean AUC of the targets (multi-label)."""
    return _macro(_auc, y_true, y_pred, weights)


@metric(
    "multiclass multilabel",
    (0, 1),
    "mean over the classes (or targets) of the average precision of each against the rest",
    interval="ratio",
    ranks=True,
)
def macro_auprc(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Macro average precision."""
    return _macro(_auprc, y_true, y_pred, weights)


# ---- decisions --------------------------------------------------------------------------------


def check_labels(y_true: np.ndarray, y_pred: np.ndarray) -> None:
    """Raises ``ValueError`` when class labels are no indices of the classes that were scored (0 and 1 for one score).

    ``y_true`` (n,) or (n, T), NaN for unknown; ``y_pred`` (..., n) or (..., n, C).
    """
    classes = y_pred.shape[-1] if y_true.ndim == 1 and y_pred.ndim > 2 else 2
    known = y_true[~np.isnan(y_true)]
    odd = known[(known != np.floor(known)) | (known < 0) | (known >= classes)]
    if len(odd):
        raise ValueError(f"label {odd[0]:g} is no class index in 0..{classes - 1}")


def _table(y: np.ndarray, p: np.ndarray, w: Weights, threshold: np.ndarray) -> np.ndarray:
    """tp, fp, fn, tn (4, B); called positive at or above the threshold."""
    true, called = y == 1, p >= threshold
    return w.sums(true & called, ~true & called, true & ~called, ~true & ~called)


def _confusion(y: np.ndarray, p: np.ndarray, w: Weights) -> np.ndarray:
    """Weighted confusion (C true, C called, B); the called class has the highest probability (lowest index on ties)."""
    c = p.shape[1]
    return w.grouped(y.astype(np.int64) * c + p.argmax(axis=1), c * c).reshape(c, c, -1)


def _decided(y: np.ndarray, p: np.ndarray, w: Weights, threshold: np.ndarray) -> np.ndarray:
    """Confusion (C, C, B) of a binary or multi-class prediction."""
    if p.ndim == 2:
        return _confusion(y, p, w)
    tp, fp, fn, tn = _table(y, p, w, threshold)
    return np.stack([np.stack([tn, fp]), np.stack([fn, tp])])


@metric("binary multiclass", (0, 1), "share of cases called right", needs_threshold=True, interval="share")
def accuracy(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights, threshold: np.ndarray) -> Value:
    """Share of cases called right."""
    table = _decided(y_true, y_pred, weights, threshold)
    return np.trace(table) / table.sum(axis=(0, 1))


@metric(
    "binary multiclass",
    (0, 1),
    "share called right in each class, averaged over the classes",
    needs_threshold=True,
    interval="recalls",
)
def balanced_accuracy(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights, threshold: np.ndarray) -> Value:
    """Mean recall over the classes that the data hold; not defined with one class only."""
    table = _decided(y_true, y_pred, weights, threshold)
    present = np.unique(y_true.astype(np.int64))
    if len(present) < 2:
        return np.full(table.shape[-1], np.nan)
    recall = np.einsum("ccb->cb", table) / table.sum(axis=1)
    return recall[present].mean(axis=0)


@metric(
    "binary", (0, 1), "share of the positive cases that are called positive", needs_threshold=True, interval="share"
)
def sensitivity(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights, threshold: np.ndarray) -> Value:
    """Recall of the positive class: tp / (tp + fn)."""
    tp, _, fn, _ = _table(y_true, y_pred, weights, threshold)
    return tp / (tp + fn)


@metric(
    "binary", (0, 1), "share of the negative cases that are called negative", needs_threshold=True, interval="share"
)
def specificity(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights, threshold: np.ndarray) -> Value:
    """Recall of the negative class: tn / (tn + fp)."""
    _, fp, _, tn = _table(y_true, y_pred, weights, threshold)
    return tn / (tn + fp)


@metric(
    "binary", (0, 1), "share of the cases called positive that are positive", needs_threshold=True, interval="share"
)
def precision(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights, threshold: np.ndarray) -> Value:
    """Positive predictive value: tp / (tp + fp); not defined when nothing is called positive."""
    tp, fp, _, _ = _table(y_true, y_pred, weights, threshold)
    return tp / (tp + fp)


@metric("binary", (0, 1), "harmonic mean of precision and sensitivity", needs_threshold=True, interval="ratio")
def f1(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights, threshold: np.ndarray) -> Value:
    """2 tp / (2 tp + fp + fn); not defined without a positive case."""
    tp, fp, fn, _ = _table(y_true, y_pred, weights, threshold)
    return np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan)


@metric(
    "multiclass multilabel", (0, 1), "mean over the classes (or targets) of F1", needs_threshold=True, interval="ratio"
)
def macro_f1(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights, threshold: np.ndarray) -> Value:
    """Macro F1: of the called classes (multi-class) or at the threshold (multi-label), over those with a positive
    case.
    """
    if y_true.ndim == 1:
        table = _confusion(y_true, y_pred, weights)
        right = np.einsum("ccb->cb", table)
        values = 2 * right / (table.sum(axis=0) + table.sum(axis=1))
        values[table.sum(axis=1) == 0] = np.nan
        return values[np.unique(y_true.astype(np.int64))].mean(axis=0)
    values = []
    for label, score in zip(y_true.T, y_pred.T):
        known = ~np.isnan(label)
        if (label[known] == 1).any():
            tp, fp, fn, _ = _table(label[known], score[known], weights.take(known), threshold[known])
            values.append(np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan))
    return np.mean(values, axis=0) if values else np.full(weights.counts.shape[1], np.nan)


# ---- probabilities ----------------------------------------------------------------------------


@metric(
    "binary multiclass multilabel",
    (0, 2),
    "mean squared distance between probability and truth (0 is perfect; constant 0.5 gives 0.25 for two classes)",
    direction="lower",
    decimals=3,
)
def brier(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Brier score.

    Binary: mean (p - y)^2. Multi-class: sum over the classes, so up to 2 (Brier 1950). Multi-label: mean over the
    targets.
    """
    if y_pred.ndim == 1:
        loss = (y_pred - y_true) ** 2
    elif y_true.ndim == 1:
        loss = ((y_pred - targets_of(y_true, y_pred)) ** 2).sum(axis=1)
    else:
        values = []
        for label, score in zip(y_true.T, y_pred.T):
            known = ~np.isnan(label)
            if known.any():
                own: Any = brier  # wrapped once more, and the wrapper would drop rows again
                values.append(own.__wrapped__(label[known], score[known], weights.take(known)))
        return np.mean(values, axis=0)
    total, cases = weights.sums(loss, np.ones(len(loss)))
    return total / cases


def equal_mass_bins(score: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Bin of each score (n,): edges at its quantiles, so bins hold about as many cases; equal scores share a bin."""
    edges = np.unique(np.quantile(score, np.arange(1, bins) / bins))
    return np.searchsorted(edges, score, side="left")


def confidence_and_truth(y_true: np.ndarray, y_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What calibration compares: (probability, outcome). Multi-class: of the called class, and whether it was right."""
    if y_pred.ndim == 1:
        return y_pred, (y_true == 1).astype(np.float64)
    called = y_pred.argmax(axis=1)
    return y_pred[np.arange(len(y_pred)), called], (called == y_true).astype(np.float64)


@metric(
    "binary multiclass",
    (0, 1),
    "mean gap between predicted probability and observed share, over 10 bins that hold about as many cases each",
    direction="lower",
    decimals=3,
    interval="percentile",
)
def ece(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Expected calibration error over 10 equal-mass bins (Nixon et al. 2019); multi-class: of the top label (Guo et al.
    2017).

    The bins are laid on the given cases and stay fixed over the resamples.
    """
    probability, outcome = confidence_and_truth(y_true, y_pred)
    bins = equal_mass_bins(probability)
    gap = weights.sums(*[(probability - outcome) * (bins == b) for b in range(int(bins.max()) + 1)])
    return np.abs(gap).sum(axis=0) / weights.sums(np.ones(len(bins)))[0]


# ---- quantities -------------------------------------------------------------------------------


@metric(
    "regression",
    (-np.inf, 1),
    "share of the variance explained: 1 - SSE/SST; 0 = no better than the mean, below 0 = worse",
)
def r2(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Coefficient of determination 1 - SSE/SST (not the squared correlation); not defined when the truth is
    constant.
    """
    centred = y_true - y_true.mean()
    n, s, ss, sse = weights.sums(np.ones(len(centred)), centred, centred**2, (y_true - y_pred) ** 2)
    return _unless_constant(1 - sse / (ss - s**2 / n), ss - s**2 / n, ss)


@metric(
    "regression",
    (0, 1),
    "squared Pearson correlation: how well the truth follows the prediction along any straight line",
)
def squared_correlation(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Squared Pearson correlation; blind to offset and scale, so never below R2."""
    x, y = y_pred - y_pred.mean(), y_true - y_true.mean()
    n, sx, sy, sxx, syy, sxy = weights.sums(np.ones(len(x)), x, y, x**2, y**2, x * y)
    vx, vy = sxx - sx**2 / n, syy - sy**2 / n
    return _unless_constant(_unless_constant((sxy - sx * sy / n) ** 2 / (vx * vy), vx, sxx), vy, syy)


@metric(
    "regression",
    (0, np.inf),
    "mean absolute error, in the unit of the target",
    direction="lower",
    decimals=None,
    unit="target",
)
def mae(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Mean absolute error."""
    total, n = weights.sums(np.abs(y_true - y_pred), np.ones(len(y_true)))
    return total / n


@metric(
    "regression",
    (0, np.inf),
    "root mean squared error, in the unit of the target; large errors weigh more",
    direction="lower",
    decimals=None,
    unit="target",
)
def rmse(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Root mean squared error."""
    total, n = weights.sums((y_true - y_pred) ** 2, np.ones(len(y_true)))
    return np.sqrt(total / n)


@metric("quantities", (-np.inf, 1), "mean over the targets of R2, the share of the variance explained")
def macro_r2(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Mean of R2 over the targets that vary; several targets have several units, so their errors cannot be averaged."""
    values = []
    for truth, guess in zip(y_true.T, y_pred.T):
        known = ~np.isnan(truth)
        if known.any() and np.ptp(truth[known]) > 0:
            values.append(r2.__wrapped__(truth[known], guess[known], weights.take(known)))  # type: ignore[attr-defined]
    return np.mean(values, axis=0) if values else np.full(weights.counts.shape[1], np.nan)


def _unless_constant(value: np.ndarray, variance: np.ndarray, square: np.ndarray) -> np.ndarray:
    """NaN where a sum of squares about the mean is only rounding: the quantity is constant in that resample."""
    return np.where(variance > 1e-12 * square, value, np.nan)


# ---- overlap ----------------------------------------------------------------------------------


def overlap(counts: np.ndarray, name: str = "dice") -> np.ndarray:
    """Dice 2tp/(2tp+fp+fn) or IoU tp/(tp+fp+fn) of counts (..., 3); NaN where truth and prediction are both empty."""
    tp, fp, fn = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    double = 2 if name == "dice" else 1
    whole = double * tp + fp + fn
    return np.divide(double * tp, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def present(counts: np.ndarray) -> np.ndarray:
    """Which structures a case holds in truth, of counts (..., 3). Overlap judges these; the others ``absent_clear``."""
    return np.asarray((counts[..., 0] + counts[..., 2]) > 0)


def _per_case(counts: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    values = overlap(counts, name)  # (n, K)
    known = present(counts)
    n_known = known.sum(axis=1)
    case = np.where(known, values, 0).sum(axis=1) / np.maximum(n_known, 1)
    total, n = weights.sums(case, n_known > 0)
    return total / n


def _pooled(counts: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    structures = counts.shape[1]
    sums = weights.sums(*counts.reshape(len(counts), -1).T).reshape(structures, 3, -1)
    values = overlap(np.moveaxis(sums, 1, -1), name)  # (K, B)
    present = overlap(counts.sum(axis=0), name)  # a structure that nobody has or calls does not count
    return values[~np.isnan(present)].mean(axis=0) if (~np.isnan(present)).any() else np.full(values.shape[1], np.nan)


@metric(
    "segmentation",
    (0, 1),
    "overlap of drawn and predicted area, 2 x common / (drawn + predicted), averaged over the cases that hold it",
)
def dice(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Mean over cases of the Dice coefficient (itself the mean over the structures that the case holds in truth)."""
    return _per_case(y_pred, weights, "dice")


@metric("segmentation", (0, 1), "common area / joint area of drawn and predicted, averaged over the cases that hold it")
def iou(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Mean over cases of intersection over union (Jaccard)."""
    return _per_case(y_pred, weights, "iou")


@metric(
    "segmentation",
    (0, 1),
    "share of the cases without a structure in which none is drawn, averaged over the structures a case lacks",
    title=("Nothing drawn where nothing is", "无结构处未画出"),
)
def absent_clear(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Mean over the cases that lack a structure of whether the model draws none either; not defined without such."""
    lacks = ~present(y_pred)
    clear = (lacks & (y_pred[..., 1] == 0)).sum(axis=1) / np.maximum(lacks.sum(axis=1), 1)
    some = np.asarray(lacks.any(axis=1))
    total, n = weights.sums(clear * some, some)
    return total / n


@metric("segmentation", (0, 1), "Dice of all cases' pixels thrown together: large structures weigh more")
def pooled_dice(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Dice of the summed counts, mean over structures."""
    return _pooled(y_pred, weights, "dice")


@metric("segmentation", (0, 1), "intersection over union of all cases' pixels thrown together")
def pooled_iou(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> Value:
    """Intersection over union of the summed counts, mean over structures."""
    return _pooled(y_pred, weights, "iou")


def for_task(task: str) -> list[str]:
    """Names of the metrics of a task, in the order in which they are told."""
    return [m.name for m in METRICS.values() if task in m.tasks]


def point(
    name: str,
    y_true: np.ndarray | None,
    y_pred: np.ndarray,
    threshold: Any = 0.5,
    strata: np.ndarray | None = None,
) -> float:
    """The point value of a metric by name.

    Raises ``KeyError`` with the known names when there is no such metric.
    """
    if name not in METRICS:
        raise KeyError(f"no metric {name!r}; known: {', '.join(METRICS)}")
    return float(METRICS[name].function(y_true, y_pred, threshold=threshold, strata=strata))
