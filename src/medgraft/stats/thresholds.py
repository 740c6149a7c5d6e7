"""Thresholds by a stated rule, to be chosen on inner parts and never on the cases that are judged."""

from __future__ import annotations

import numpy as np
import polars as pl

from medgraft.stats.judged import ID


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


def thresholds(cells: pl.DataFrame, predictions: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Youden thresholds of arms with one yes/no target: {arm: {outer fold: threshold}}.

    Each comes from the inner select predictions of the chosen setting within that outer fold alone, so
    the patients it is applied to had no say in it.
    """
    key = ["model", "start", "strategy", "outer", "setting"]
    chosen = cells.filter((pl.col("inner") == -1) & (pl.col("state") == "done")).select(key).unique()
    inner = cells.filter(pl.col("inner") >= 0).join(chosen, on=key, how="semi")
    arms = inner.select(pl.col("hash").alias("cell"), "outer", ID)
    whole = predictions.filter(
        (pl.col("split") == "select") & pl.col("y_true").is_not_null() & (pl.col("window") == -1)
    )
    whole = whole.group_by("cell", "case_id", "target", "class", maintain_order=True).agg(
        pl.col("y_true").first(), pl.col("y_pred").mean()
    )  # over views
    joined = whole.join(arms, on="cell")
    found: dict[str, dict[str, float]] = {}
    for (name, outer), part in joined.group_by(["id", "outer"], maintain_order=True):
        if part.select("target", "class").n_unique() == 1 and part["y_true"].n_unique() == 2:
            found.setdefault(str(name), {})[str(outer)] = youden_threshold(
                part["y_true"].to_numpy(), part["y_pred"].to_numpy()
            )
    return found
