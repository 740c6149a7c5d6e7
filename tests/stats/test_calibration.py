"""Reliability, slope and intercept against statsmodels and against known distortions."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit
from stats_studies import study

from medgraft.stats import metrics
from medgraft.stats.calibration import reliability, slope_and_intercept
from medgraft.stats.intervals import patient_counts


def honest(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    p = expit(g.normal(-0.5, 1.2, n))
    return (g.random(n) < p).astype(float), p


def test_slope_and_intercept_equal_statsmodels_in_value_and_resamples() -> None:
    y, p = honest(150)
    p = expit(2 * logit(p) + 0.7)
    patient = np.arange(150) // 2
    result = slope_and_intercept(y, p, patient, resamples=20, seed=4)
    counts = np.concatenate([c for _, c in patient_counts(75, 20, 4)], axis=1)

    def fit(w: np.ndarray) -> tuple[float, float]:
        x = logit(p)
        slope = sm.GLM(y, sm.add_constant(x), family=sm.families.Binomial(), freq_weights=w).fit().params[1]
        return float(slope), float(
            sm.GLM(y, np.ones(len(y)), family=sm.families.Binomial(), offset=x, freq_weights=w).fit().params[0]
        )

    assert (result["slope"].value, result["intercept"].value) == pytest.approx(fit(np.ones(150)), abs=1e-5)
    for b in range(20):
        wanted = fit(counts[patient, b])
        assert (result["slope"].distribution[b], result["intercept"].distribution[b]) == pytest.approx(wanted, abs=1e-4)


def test_known_distortions_are_told() -> None:
    y, p = honest(3000)
    patient = np.arange(3000)
    right = slope_and_intercept(y, p, patient, resamples=200)
    assert right["slope"].low < 1 < right["slope"].high and right["intercept"].low < 0 < right["intercept"].high
    extreme = slope_and_intercept(y, expit(2 * logit(p)), patient, resamples=200)
    assert extreme["slope"].high < 0.6 and extreme["slope"].value == pytest.approx(right["slope"].value / 2, rel=1e-3)
    much = slope_and_intercept(y, expit(logit(p) + 1), patient, resamples=200)
    assert much["intercept"].high < -0.8 and much["slope"].value == pytest.approx(right["slope"].value, rel=1e-3)


def test_slope_that_does_not_exist_is_nan() -> None:
    y = np.r_[np.zeros(20), np.ones(20)]
    separated = slope_and_intercept(y, np.linspace(0.01, 0.99, 40), np.arange(40), resamples=20)
    assert np.isnan(separated["slope"].value)
    constant = slope_and_intercept(y, np.full(40, 0.5), np.arange(40), resamples=20)
    assert np.isnan(constant["slope"].value) and constant["intercept"].value == pytest.approx(0, abs=1e-9)
    assert np.isnan(slope_and_intercept(np.ones(40), y, np.arange(40), resamples=20)["intercept"].value)


def test_bins_are_those_of_the_calibration_error() -> None:
    y, p = honest(300, seed=1)
    bins = reliability(y, p, np.arange(300) // 3, resamples=200)
    assert len(bins) == 10 and sum(b.n for b in bins) == 300 and {b.n for b in bins} == {30}
    assert sum(b.n * abs(b.predicted - b.observed) for b in bins) / 300 == pytest.approx(metrics.ece(y, p))
    assert all(b.low <= b.observed <= b.high for b in bins)
    assert [b.predicted for b in bins] == sorted(b.predicted for b in bins)
    assert len(reliability(y, np.full(300, 0.4), np.arange(300), resamples=20)) == 1
    assert reliability(np.full(3, np.nan), np.zeros(3), np.arange(3)) == []


def test_multiclass_bins_compare_the_called_class() -> None:
    y, p = study("multiclass", 0)
    assert y is not None
    bins = reliability(y, p, np.arange(len(y)), task="multiclass", bins=4, resamples=50)
    assert sum(b.n * b.observed for b in bins) == pytest.approx(np.sum(p.argmax(axis=1) == y))
    assert sum(b.n * b.predicted for b in bins) == pytest.approx(p.max(axis=1).sum())


def test_intervals_of_bins_see_the_patients() -> None:
    """Ten copies of every case within its patient add no certainty."""
    y, p = honest(120, seed=2)
    once = reliability(y, p, np.arange(120), resamples=300)
    copies = reliability(np.tile(y, 10), np.tile(p, 10), np.tile(np.arange(120), 10), resamples=300)
    assert [b.low for b in copies] == pytest.approx([b.low for b in once])
    assert [b.high for b in copies] == pytest.approx([b.high for b in once])
    assert once[0].observed == 0 and once[0].high == pytest.approx(
        1 - 0.025 ** (1 / 12)
    )  # nothing seen in 12 is not a sure 0
