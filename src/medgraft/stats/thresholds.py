"""Thresholds by a stated rule, to be chosen on inner parts and never on the cases that are judged."""

from __future__ import annotations

import numpy as np


def youden_threshold(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """The threshold with the largest sensitivity + specificity - 1 (Youden, Cancer 1950).

    ``y_true (n,)`` 0 or 1, ``y_pred (n,)`` scores; a case is positive when its score lies above the
    threshold. Thresholds lie half way between neighbouring scores, so that they do not hug a case; of
    equals the one nearest 0.5 is taken. Both classes must occur (``ValueError``).
    """
    y_true, y_pred = np.asarray(y_true, float), np.asarray(y_pred, float)
    if len(np.unique(y_true)) != 2:
        raise ValueError("both classes are needed")
    scores = np.unique(y_pred)
    if len(scores) == 1:
        return 0.5
    middles = (scores[1:] + scores[:-1]) / 2
    positive, negative = np.sort(y_pred[y_true == 1]), np.sort(y_pred[y_true == 0])
    sensitivity = 1 - np.searchsorted(positive, middles, side="right") / len(positive)
    specificity = np.searchsorted(negative, middles, side="right") / len(negative)
    gain = sensitivity + specificity
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    return float(middles[best[np.argmin(np.abs(middles[best] - 0.5))]])
