"""Linear heads on frozen features: logistic regression and ridge, their strength chosen within the training part.

A strength is chosen by grouped folds on the measure that is reported, pairs within folds where it ranks; among equals
the least loss decides. All folds and the whole part are solved together along one path of strengths, from the strongest
on, each from the solution before. The features are brought to their principal axes once; there a ridge is diagonal and
a logistic regression nearly so, which makes it the preconditioner of Newton's method by conjugate gradients (Lin et
al., JMLR 2008). The optimum is unique, so the path changes no number but the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

VERSION = 2  # of what a head is on given features; raise when its numbers change
GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # strengths tried where none is given, strongest penalty first
UNCHOSEN = 1e-2  # where no folds can be made
FOLDS = 5
PRECISE = 1e-12  # Newton decrement, squared, at which a solution is taken: of the objective's size
STEPS, PRODUCTS, HALVINGS = 100, 200, 40  # at most: Newton steps, products with the Hessian in one, halvings of a step

Kind = Literal["yes", "classes", "quantity"]
Judge = Callable[[np.ndarray, np.ndarray, np.ndarray], float]  # truth, scores, folds -> more is better


@dataclass(frozen=True)
class Fitted:
    """Coefficients ``weight (K, F)`` and ``bias (K,)`` on the features that were given, and the strength used."""

    weight: np.ndarray
    bias: np.ndarray
    c: float


def standardise(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, F) at mean 0 and deviation 1, with the mean and the deviation; a constant feature keeps its unit."""
    x = x.astype(np.float64)
    mean, spread = x.mean(0), x.std(0)
    spread[spread < 1e-8] = 1.0
    return (x - mean) / spread, mean, spread


def fold_in(
    weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights on standardised features as weights on the features themselves."""
    weight = weight / spread
    return weight, bias - weight @ mean


def class_weights(y: np.ndarray) -> np.ndarray:
    """Weights of cases (n,), of mean 1, by which every class of ``y`` weighs the same."""
    _, place, n = np.unique(y, return_inverse=True, return_counts=True)
    return (len(y) / (len(n) * n))[place]


def fit(
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    *,
    kind: Kind,
    judge: Judge,
    c: float | None,
    seed: int,
    weights: np.ndarray | None = None,
) -> Fitted:
    """A regression on standardised features ``x (n, F)``, of strength ``c``, or the best of ``GRID`` by folds grouped
    by ``groups (n,)``.

    It minimises c times the sum of the cases' losses plus half the squared weights; the bias is free. ``kind``: yes
    (``y`` 0 or 1, one logit, log loss), classes (``y`` 0..K-1, all of them present, K logits, log loss of their
    softmax), quantity (half the squared error). ``weights (n,)`` multiply the cases' losses. ``judge`` says how good
    scores of cases outside a fold's training are: probabilities of yes (n,), of the classes (n, K), or values (n,).
    """
    weights = np.ones(len(y)) if weights is None else weights
    held = np.zeros((0, len(y)), bool) if c else _folds(y, groups, seed, kind)
    learns = np.concatenate([~held, np.ones((1, len(y)), bool)])  # the last problem is the whole part
    strengths = [c] if c else list(GRID) if len(held) else [UNCHOSEN]
    axes, z = _principal(x)
    problems = _Problems(z, y, weights * learns, kind)
    path = []
    for strength in strengths:
        problems.solve(1.0 / strength)
        path.append(problems.solution.copy())
    best = 0
    if len(held):
        fold = np.where(held.any(0), held.argmax(0), -1)
        known = fold >= 0
        logits = [problems.outputs(found)[np.arange(len(y)), np.maximum(fold, 0)][known] for found in path]
        losses = [np.average(_loss(each, y[known], kind), weights=weights[known]) for each in logits]
        best = _chosen(y[known], [_scores(each, kind) for each in logits], fold[known], losses, judge)
    whole = path[best][:, -1]
    return Fitted((axes @ whole[:-1]).T, whole[-1], strengths[best])


def _chosen(
    y: np.ndarray, scores: Sequence[np.ndarray], fold: np.ndarray, losses: Sequence[float], judge: Judge
) -> int:
    """Place of the strength to take: of those whose measure is not behind the best one's by more than the difference's
    standard error (jackknife over folds), the one of least loss.

    A measure of few cases picks among equals by chance; the loss tells them apart.
    """
    parts = np.unique(fold)
    rated = np.array([judge(y, score, fold) for score in scores])
    if np.isnan(rated).all():
        return int(np.argmin(losses))
    first = int(np.nanargmax(rated))
    without = np.array([[judge(y[fold != k], score[fold != k], fold[fold != k]) for k in parts] for score in scores])
    behind = without[first] - without
    n = (~np.isnan(behind)).sum(1)
    middle = np.nansum(behind, 1) / np.maximum(n, 1)
    error = np.sqrt(np.nansum((behind - middle[:, None]) ** 2, 1) * (n - 1) / np.maximum(n, 1))
    near = rated[first] - rated <= error
    near[first] = True
    return min(np.flatnonzero(near).tolist(), key=lambda k: losses[k])


def _folds(y: np.ndarray, groups: np.ndarray, seed: int, kind: Kind) -> np.ndarray:
    """Who is held out: bool (folds, n), stratified by class and grouped; folds that lack a class in training are left
    out.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    folds = min(FOLDS, len(np.unique(groups)))
    if kind != "quantity":
        folds = min(folds, int(np.unique(y, return_counts=True)[1].min()))
    if folds < 2:
        return np.zeros((0, len(y)), bool)
    splitter: Any = (
        GroupKFold(folds) if kind == "quantity" else StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    )
    held = np.zeros((folds, len(y)), bool)
    for number, (_, out) in enumerate(splitter.split(y, y, groups)):
        held[number, out] = True
    classes = len(np.unique(y)) if kind != "quantity" else 0
    return held[[not classes or len(np.unique(y[~out])) == classes for out in held]]


def _principal(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal axes ``(F, r)`` of features ``(n, F)`` and the features along them ``(n, r)``: whatever a penalised
    regression can say of the features, it says within them.
    """
    n, size = x.shape
    square, vectors = np.linalg.eigh(x.T @ x if size <= n else x @ x.T)
    keep = square > max(square[-1], 1e-300) * 1e-12
    vectors, square = vectors[:, keep], square[keep]
    if size <= n:
        return vectors, x @ vectors
    root = np.sqrt(square)
    return x.T @ vectors / root, vectors * root


def _scores(logits: np.ndarray, kind: Kind) -> np.ndarray:
    if kind == "classes":
        raised = np.exp(logits - logits.max(-1, keepdims=True))
        return raised / raised.sum(-1, keepdims=True)
    return _sigmoid(logits[..., 0]) if kind == "yes" else logits[..., 0]


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -logit))


def _loss(logits: np.ndarray, y: np.ndarray, kind: Kind) -> np.ndarray:
    """Loss of each case, ``logits (n, ..., K)`` -> ``(n, ...)``."""
    label = y.reshape(-1, *[1] * (logits.ndim - 2))
    if kind == "yes":
        return np.logaddexp(0.0, logits[..., 0]) - label * logits[..., 0]
    if kind == "quantity":
        return 0.5 * (logits[..., 0] - label) ** 2
    top = logits.max(-1, keepdims=True)
    total = top[..., 0] + np.log(np.exp(logits - top).sum(-1))
    places = np.broadcast_to(label[..., None].astype(np.int64), (*logits.shape[:-1], 1))
    return total - np.take_along_axis(logits, places, -1)[..., 0]


class _Problems:
    """P penalised regressions over the same cases with other case weights, solved side by side.

    ``z (n, r)`` principal axes; ``weights (P, n)``. ``solution (r + 1, P, K)``: the last row is the free bias.
    """

    def __init__(self, z: np.ndarray, y: np.ndarray, weights: np.ndarray, kind: Kind) -> None:
        self.z, self.y, self.kind = np.hstack([z, np.ones((len(z), 1))]), y, kind
        self.weights = weights.T
        self.logits = int(y.max()) + 1 if kind == "classes" else 1
        self.solution = np.zeros((self.z.shape[1], self.weights.shape[1], self.logits))
        share = self.weights.sum(0) / len(z)
        self.square = (self.z**2).sum(0)[:, None] * share  # about the diagonal of the Gram matrix of each problem
        self.truth = np.eye(self.logits)[y.astype(np.int64)][:, None] if kind == "classes" else y[:, None, None]

    def outputs(self, solution: np.ndarray) -> np.ndarray:
        """Logits ``(n, P, K)``."""
        return (self.z @ solution.reshape(len(solution), -1)).reshape(len(self.z), *solution.shape[1:])

    def back(self, cases: np.ndarray) -> np.ndarray:
        """Sums over the cases ``(n, P, K)`` -> ``(r + 1, P, K)``."""
        return (self.z.T @ cases.reshape(len(cases), -1)).reshape(self.z.shape[1], *cases.shape[1:])

    def objective(self, logits: np.ndarray, solution: np.ndarray, penalty: float) -> np.ndarray:
        """Value of each problem (P,)."""
        size = 0.5 * penalty * (solution[:-1] ** 2).sum((0, 2))
        return (self.weights * _loss(logits, self.y, self.kind)).sum(0) + size

    def solve(self, penalty: float) -> None:
        """Go from the solution at hand to that of a penalty, by Newton's method with halved steps."""
        free = np.full((self.z.shape[1], 1, 1), penalty)
        free[-1] = 0.0
        logits = self.outputs(self.solution)
        value = self.objective(logits, self.solution, penalty)
        for _ in range(STEPS):
            gradient, curve, bend = self._slopes(logits)
            gradient = gradient + free * self.solution
            scale = self.square[:, :, None] * bend + free + 1e-12

            def product(vector: np.ndarray, curve: Callable[[np.ndarray], np.ndarray] = curve) -> np.ndarray:
                return self.back(curve(self.outputs(vector))) + free * vector

            step = _conjugate(product, -gradient, scale)
            decrement = -(gradient * step).sum((0, 2))
            if (decrement <= PRECISE * np.maximum(value, 1.0)).all():
                break
            value, logits = self._advance(step, decrement, logits, value, penalty)

    def _advance(
        self, step: np.ndarray, decrement: np.ndarray, logits: np.ndarray, value: np.ndarray, penalty: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take the step, halved in each problem until its value falls; where it never does, stay."""
        moved, length = self.outputs(step), np.ones(len(value))
        for _ in range(HALVINGS):
            trial, found = self.solution + length[:, None] * step, logits + length[:, None] * moved
            after = self.objective(found, trial, penalty)
            failed = after > value - 1e-4 * length * decrement + 1e-15 * np.abs(value)
            if not failed.any():
                break
            length = np.where(failed, length / 2, length)
        else:
            length = np.where(failed, 0.0, length)
            trial, found = self.solution + length[:, None] * step, logits + length[:, None] * moved
            after = np.where(failed, value, after)
        self.solution = trial
        return after, found

    def _slopes(self, logits: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray], np.ndarray]:
        """Gradient of the losses, the product with their second derivative in the logits, and its mean (P, 1)."""
        weight = self.weights[:, :, None]
        if self.kind == "quantity":
            return self.back(weight * (logits - self.truth)), lambda u: weight * u, np.ones((logits.shape[1], 1))
        score = _scores(logits, self.kind)
        p = score if self.kind == "classes" else score[..., None]
        bent = weight * p * (1 - p)
        bend = bent.sum((0, 2))[:, None] / (self.logits * self.weights.sum(0)[:, None])

        def curve(u: np.ndarray) -> np.ndarray:
            if self.kind == "yes":
                return bent * u
            return weight * p * (u - (p * u).sum(-1, keepdims=True))

        return self.back(weight * (p - self.truth)), curve, bend


def _conjugate(product: Callable[[np.ndarray], np.ndarray], right: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Solve ``product(s) = right`` for each problem (axis 1) by preconditioned conjugate gradients, as precisely as a
    Newton step needs it: to a hundredth of the gradient, finer the nearer the optimum.
    """

    def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        found: np.ndarray = (a * b).sum((0, 2))
        return found

    found, residual = np.zeros_like(right), right.copy()
    eased = residual / scale
    direction, size = eased.copy(), dot(residual, eased)
    enough = size * np.minimum(1e-4, size)  # of the preconditioned residual, squared
    for _ in range(PRODUCTS):
        going = size > np.maximum(enough, 1e-300)
        if not going.any():
            break
        along = product(direction)
        curved = dot(direction, along)
        alpha = np.where(going & (curved > 0), size / np.where(curved > 0, curved, 1.0), 0.0)[:, None]
        found = found + alpha * direction
        residual = residual - alpha * along
        eased = residual / scale
        after = dot(residual, eased)
        beta = np.where(going, after / np.where(size > 0, size, 1.0), 0.0)[:, None]
        direction = eased + beta * direction
        size = np.where(going, after, size)
    return found
