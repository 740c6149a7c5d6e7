"""Small made-up studies for the tests of the statistics."""

from __future__ import annotations

import numpy as np

TASKS = ["binary", "multiclass", "multilabel", "regression", "quantities", "segmentation"]


def study(task: str, seed: int, n: int = 60, classes: int = 4) -> tuple[np.ndarray | None, np.ndarray]:
    """Labels and predictions with many ties."""
    g = np.random.default_rng(seed)
    if task == "binary":
        y = (g.random(n) < 0.4).astype(float)
        y[:2] = 0, 1
        return y, np.round(np.clip(0.3 * y + 0.7 * g.random(n), 0, 1), 1)
    if task == "multiclass":
        y = np.r_[np.arange(classes), g.integers(classes, size=n - classes)].astype(float)
        p = g.random((n, classes)) + 0.4 * np.eye(classes)[y.astype(int)]
        return y, p / p.sum(axis=1, keepdims=True)
    if task == "multilabel":
        y = (g.random((n, 3)) < 0.4).astype(float)
        y[0], y[1] = 0, 1
        return y, np.round(np.clip(0.3 * y + 0.7 * g.random((n, 3)), 0, 1), 1)
    if task == "regression":
        y = g.normal(60, 10, n)
        return y, y + g.normal(3, 6, n)
    if task == "quantities":
        y = g.normal(60, 10, (n, 2))
        return y, y + g.normal(3, 6, (n, 2))
    counts = g.integers(0, 50, (n, 2, 3)).astype(float)
    counts[3] = 0  # nothing drawn and nothing predicted
    counts[4, 0] = 0, 5, 0  # drawn where nothing is
    return None, counts


def clusters(seed: int, patients: int, effect: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patients with 1 to 4 cases that share label and a good part of their score."""
    g = np.random.default_rng(seed)
    sizes = g.integers(1, 5, size=patients)
    patient = np.repeat(np.arange(patients), sizes)
    label = (g.random(patients) < 0.4).astype(float)
    score = np.repeat(effect * label + 0.8 * g.normal(size=patients), sizes) + 0.6 * g.normal(size=len(patient))
    return label[patient], score, patient


def auc_within(y: np.ndarray, p: np.ndarray, fold: np.ndarray) -> float:
    """AUC of pairs within folds by scikit-learn, each fold weighted by its pairs of a positive and a negative."""
    from sklearn.metrics import roc_auc_score

    found = []
    for f in np.unique(fold):
        ones = y[fold == f] == 1
        if 0 < ones.sum() < len(ones):
            found.append((roc_auc_score(ones, p[fold == f]), ones.sum() * (~ones).sum()))
    return float(sum(value * n for value, n in found) / sum(n for _, n in found))
