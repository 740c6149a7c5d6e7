"""Linear heads in closed form on frozen features: logistic regression and ridge, their strength chosen within the
training part.
"""

from __future__ import annotations

from typing import Any

import numpy as np

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # strengths tried where none is given


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


def fit(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, *, regress: bool, c: float | None, seed: int
) -> tuple[Any, float]:
    """A fitted regression on standardised features, and its strength: ``c``, or the best of ``GRID`` by grouped
    folds.
    """
    used = c or _choose(x, y, groups, seed, regress)
    return _estimator(used, regress).fit(x, y), used


def _estimator(c: float, regress: bool) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge

    return Ridge(alpha=1.0 / c) if regress else LogisticRegression(C=c, max_iter=2000)


def _choose(x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int, regress: bool) -> float:
    """The C with the least mean out-of-fold loss, over 5 grouped folds that can be trained on; 0.01 where none can."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    folds = min(5, len(np.unique(groups)))
    if not regress:
        folds = min(folds, int(np.unique(y, return_counts=True)[1].min()))
    if folds < 2:
        return 1e-2
    splitter: Any = GroupKFold(folds) if regress else StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    losses: list[list[float]] = []
    for train, held in splitter.split(x, y, groups):
        if not regress and len(np.unique(y[train])) < 2:
            continue
        losses.append([_loss(_estimator(c, regress).fit(x[train], y[train]), x[held], y[held], regress) for c in GRID])
    return GRID[int(np.argmin(np.mean(losses, axis=0)))] if losses else 1e-2


def _loss(fitted: Any, x: np.ndarray, y: np.ndarray, regress: bool) -> float:
    """Mean squared error, or mean negative log-likelihood (a class never seen in training counts as probability
    1e-6).
    """
    if regress:
        return float(np.mean((fitted.predict(x) - y) ** 2))
    probability = fitted.predict_proba(x)
    column = {label: k for k, label in enumerate(fitted.classes_)}
    right = np.array([probability[row, column[label]] if label in column else 0.0 for row, label in enumerate(y)])
    return float(-np.log(np.clip(right, 1e-6, 1.0)).mean())
