"""ROC curves against scikit-learn's, their bands against the resamples themselves, and the threshold rule."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_curve
from stats_studies import clusters, study

from medgraft.stats import metrics
from medgraft.stats.intervals import patient_counts
from medgraft.stats.roc import GRID, roc
from medgraft.stats.thresholds import youden_threshold


def on_grid(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """scikit-learn's curve at the grid; the upper end of each vertical step."""
    fpr, tpr, _ = roc_curve(y, p, drop_intermediate=False)
    return np.array(
        [tpr[fpr <= x + 1e-9].max() if (abs(fpr - x) < 1e-9).any() else np.interp(x, fpr, tpr) for x in GRID]
    )


def test_curve_and_band_agree_with_plain_resampling() -> None:
    y, p, patient = clusters(0, 40, 1.0)
    p = np.round(p, 1)
    curve = roc(y, p, patient, resamples=120, seed=2)
    assert curve.tpr == pytest.approx(on_grid(y, p))
    counts = np.concatenate([c for _, c in patient_counts(40, 120, 2)], axis=1)
    drawn = []
    for b in range(120):
        rows = np.repeat(np.arange(len(y)), counts[patient, b].astype(int))
        drawn.append(on_grid(y[rows], p[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    assert curve.low == pytest.approx(low) and curve.high == pytest.approx(high)
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(metrics.auc(y, p), abs=0.01)
    assert (np.diff(curve.tpr) >= -1e-12).all()


def test_macro_curve_averages_the_classes_and_seeds() -> None:
    y, p = study("multiclass", 0)
    assert y is not None
    curve = roc(y, np.stack([p, p[:, ::-1]]), np.arange(len(y)), task="multiclass", resamples=50)
    wanted = np.mean([on_grid(y == c, q[:, c]) for q in (p, p[:, ::-1]) for c in range(4)], axis=0)
    assert curve.tpr == pytest.approx(wanted)


def test_perfect_constant_and_undefined_curves() -> None:
    y = np.r_[np.zeros(20), np.ones(20)]
    assert roc(y, y, np.arange(40), resamples=50).low.min() == 1
    assert roc(y, np.full(40, 0.3), np.arange(40), resamples=50).tpr == pytest.approx(GRID)
    assert np.isnan(roc(np.ones(40), y, np.arange(40), resamples=50).tpr).all()
    assert np.isnan(roc(y, y, np.arange(40) // 20, resamples=50).low).all()


def test_youden_finds_the_best_cut() -> None:
    g = np.random.default_rng(0)
    y = (g.random(4000) < 0.3).astype(float)
    p = norm.cdf(g.normal(size=4000) + 2 * y - 1.5)
    cut = youden_threshold(y, p)
    index = [
        metrics.sensitivity(y, p, threshold=t) + metrics.specificity(y, p, threshold=t) for t in np.linspace(0, 1, 401)
    ]
    assert metrics.sensitivity(y, p, threshold=cut) + metrics.specificity(y, p, threshold=cut) >= max(index)
    assert norm.ppf(cut) == pytest.approx(-0.5, abs=0.2)  # theory: half-way between the classes
    with pytest.raises(ValueError, match="both classes"):
        youden_threshold(np.ones(4), np.arange(4.0))
    assert youden_threshold(np.array([0, 0, 1, 1.0]), np.array([0.1, 0.2, 0.8, 0.9])) == pytest.approx(0.5)


def test_curves_rank_within_folds() -> None:
    """Scores of five networks on five scales: the curve of each fold's cases among themselves, as the AUC beside it."""
    from stats_studies import auc_within

    g = np.random.default_rng(4)
    y = np.arange(200) % 2 * 1.0
    fold = np.arange(200) // 2 % 5
    p = y + g.normal(size=200)
    shift = np.array([0, 3, -2, 7, 1.5])[fold]
    plain, moved = (roc(y, s, np.arange(200), resamples=100, strata=fold) for s in (p, p + shift))
    assert moved.tpr == pytest.approx(plain.tpr) and moved.low == pytest.approx(plain.low)
    area = float(np.trapezoid(moved.tpr, moved.fpr))
    assert area == pytest.approx(auc_within(y, p, fold), abs=0.02)
    pooled = roc(y, p + shift, np.arange(200), resamples=100)
    assert np.trapezoid(pooled.tpr, pooled.fpr) < area - 0.1
