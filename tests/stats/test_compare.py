"""DeLong, its clustered form, the paired bootstrap, McNemar and Holm against definitions written out and worked
values.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score
from stats_studies import clusters

from medgraft.stats.compare import delong, delong_test, difference, holm, mcnemar, paired_bootstrap
from medgraft.stats.intervals import bootstrap


def brute(y: np.ndarray, scores: list[np.ndarray], patient: np.ndarray) -> np.ndarray:
    """Obuchowski's covariance straight from her formulas, pair by pair and patient by patient."""
    k = len(scores)
    v10, v01 = [], []
    for p in scores:
        psi = np.array([[(a > b) + 0.5 * (a == b) for b in p[y == 0]] for a in p[y == 1]])
        v10.append(psi.mean(axis=1))
        v01.append(psi.mean(axis=0))
    ids = np.unique(patient)
    ones, zeros = patient[y == 1], patient[y == 0]
    m, n, i10, i01, i = len(ones), len(zeros), len(set(ones)), len(set(zeros)), len(ids)
    covariance = np.empty((k, k))
    for a in range(k):
        for b in range(k):
            s10 = s01 = s11 = s11t = 0.0
            for c in ids:
                x = [v10[j][ones == c].sum() - (ones == c).sum() * v10[j].mean() for j in (a, b)]
                z = [v01[j][zeros == c].sum() - (zeros == c).sum() * v01[j].mean() for j in (a, b)]
                s10 += x[0] * x[1]
                s01 += z[0] * z[1]
                s11 += x[0] * z[1]
                s11t += z[0] * x[1]
            covariance[a, b] = (
                s10 * i10 / ((i10 - 1) * m * m) + s01 * i01 / ((i01 - 1) * n * n) + (s11 + s11t) * i / ((i - 1) * m * n)
            )
    return covariance


def two_models(
    seed: int = 0, patients: int = 40, mixed: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    y, p, patient = clusters(seed, patients, 1.0)
    g = np.random.default_rng(seed + 1)
    if mixed:  # patients who hold both labels
        flip = g.random(len(y)) < 0.2
        y = np.where(flip, 1 - y, y)
    return y, np.round(p, 1), np.round(0.5 * p + 0.7 * g.normal(size=len(p)), 1), patient


def test_delong_of_a_worked_example() -> None:
    """Six cases by hand: positives 3, 4, 5 and negatives 1, 2, 4; V10 = 2/3, 5/6, 1 and V01 = 1, 1, 1/2."""
    y, p = np.array([0, 0, 0, 1, 1, 1]), np.array([1, 2, 4, 3, 4, 5.0])
    result = delong(y, [p])
    assert result.auc[0] == pytest.approx(5 / 6)
    assert result.covariance[0, 0] == pytest.approx((1 / 36) / 3 + (1 / 12) / 3)  # sample variances 1/36 and 1/12


@pytest.mark.parametrize("seed", range(3))
def test_clustered_covariance_equals_the_formulas(seed: int) -> None:
    y, a, b, patient = two_models(seed)
    result = delong(y, [a, b], patient)
    assert result.auc == pytest.approx([roc_auc_score(y, a), roc_auc_score(y, b)])
    assert result.covariance == pytest.approx(brute(y, [a, b], patient), rel=1e-10)
    assert result.clustered


def test_the_test_of_two_models_is_paired() -> None:
    """The variance of the difference takes the covariance of the two AUCs off, twice."""
    y, a, b, patient = two_models(0)
    parts = brute(y, [a, b], patient)
    result = delong_test(y, a, b, patient)
    spread = np.sqrt(parts[0, 0] + parts[1, 1] - 2 * parts[0, 1])
    assert parts[0, 1] > 0.1 * parts[0, 0], "two models of the same cases go together"
    assert (result.high - result.low) / 2 == pytest.approx(1.959963984540054 * spread, rel=1e-9)


def test_one_case_a_patient_is_plain_delong() -> None:
    y, a, b, _ = two_models(4)
    plain, clustered = delong(y, [a, b]), delong(y, [a, b], np.arange(len(y)) * 7)
    assert clustered.covariance == pytest.approx(plain.covariance, rel=1e-12) and not clustered.clustered
    assert plain.covariance == pytest.approx(brute(y, [a, b], np.arange(len(y))), rel=1e-10)


def test_duplicating_cases_within_their_patients_leaves_the_standard_error() -> None:
    y, a, b, patient = two_models(5)
    once = delong_test(y, a, b, patient)
    copies = 3
    again = delong_test(np.tile(y, copies), np.tile(a, copies), np.tile(b, copies), np.tile(patient, copies))
    naive = delong_test(np.tile(y, copies), np.tile(a, copies), np.tile(b, copies))
    assert again.p == pytest.approx(once.p, rel=1e-9) and again.high == pytest.approx(once.high, rel=1e-9)
    assert naive.p < once.p / 2  # what ignoring the patients would claim


def test_delong_keeps_its_level_and_agrees_with_the_bootstrap() -> None:
    rejected, z = 0, []
    for r in range(300):
        g = np.random.default_rng(r)
        y, p, patient = clusters(r, 60, 1.0)
        shared = np.repeat(g.normal(size=(2, 60)), np.bincount(patient), axis=1)
        a, b = p + shared[0], p + shared[1]  # two models equally good, with errors that stay within patients
        result = delong_test(y, a, b, patient)
        rejected += result.p < 0.05
        z.append(result.difference)
    assert 0.02 <= rejected / 300 <= 0.085
    paired = paired_bootstrap(y, a, b, patient, resamples=4000)
    assert paired.difference == pytest.approx(result.difference)
    assert paired.high - paired.low == pytest.approx(result.high - result.low, rel=0.1)
    assert paired.p == pytest.approx(result.p, abs=0.05)
    assert paired.p_superior == pytest.approx(result.p_superior, abs=0.04)


def test_seeds_average_the_components() -> None:
    y, a, b, patient = two_models(6)
    g = np.random.default_rng(0)
    seeds = a + 0.5 * g.normal(size=(3, len(a)))
    result = delong(y, [seeds, b], patient)
    assert result.auc[0] == pytest.approx(np.mean([roc_auc_score(y, s) for s in seeds]))
    assert delong(y, [np.stack([a, a]), b], patient).covariance == pytest.approx(delong(y, [a, b], patient).covariance)
    distribution = bootstrap(y, seeds, patient, resamples=4000)["auc"].distribution
    assert result.se[0] == pytest.approx(distribution.std(), rel=0.1)


def test_equal_models_and_models_that_cannot_be_judged() -> None:
    y, a, _, patient = two_models(7)
    same = delong_test(y, a, 2 * a + 1, patient)
    assert (same.difference, same.p, same.p_superior) == (0, 1, 0.5)
    equal = paired_bootstrap(y, a, 2 * a + 1, patient, resamples=200)
    assert (equal.difference, equal.low, equal.high, equal.p, equal.p_superior) == (0, 0, 0, 1, 0.5)
    assert np.isnan(delong_test(np.ones(len(y)), a, a, patient).p)
    assert np.isnan(delong_test(y, np.where(np.arange(len(a)) == 3, np.nan, a), a, patient).p)
    opposite = delong_test(y, y, 1 - y, patient)  # 1 against 0, without any variance to judge by
    assert opposite.difference == 1 and np.isnan(opposite.p)
    lone = delong_test(np.array([1, 0, 0, 0]), np.array([0.5, 0.1, 0.6, 0.7]), np.array([0.9, 0.1, 0.2, 0.3]))
    assert lone.difference == pytest.approx(-2 / 3) and np.isnan(lone.p)


def test_paired_bootstrap_orients_by_what_is_better() -> None:
    g = np.random.default_rng(0)
    y = g.normal(50, 10, 80)
    good, bad = y + g.normal(0, 2, 80), y + g.normal(0, 8, 80)
    result = paired_bootstrap(y, good, bad, np.arange(80), "mae", task="regression", resamples=1000)
    assert result.high < 0 and result.p_superior == 1 and result.p == pytest.approx(2 / 1001)
    back = paired_bootstrap(y, bad, good, np.arange(80), "mae", task="regression", resamples=1000)
    assert back.low == pytest.approx(-result.high) and back.p_superior == 0
    with pytest.raises(ValueError, match="same patients"):
        one = bootstrap(y, good, np.arange(80), ["mae"], task="regression", resamples=100)["mae"]
        difference(
            one, bootstrap(y[:60], bad[:60], np.arange(60), ["mae"], task="regression", resamples=100)["mae"], False
        )


def test_mcnemar_is_the_exact_binomial_and_refuses_clusters() -> None:
    a = np.array([1] * 12 + [0] * 3 + [1] * 30 + [0] * 5, dtype=bool)
    b = np.array([0] * 12 + [1] * 3 + [1] * 30 + [0] * 5, dtype=bool)
    result = mcnemar(a, b, np.arange(50))
    assert (result.only_a, result.only_b) == (12, 3)
    assert result.p == pytest.approx(binomtest(3, 15).pvalue)
    with pytest.raises(ValueError, match="one case a patient"):
        mcnemar(a, b, np.arange(50) // 2)


def test_holm_over_the_family() -> None:
    assert holm([0.01, np.nan, 0.04, 0.03]) == pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)
    assert np.isnan(holm([np.nan, np.nan])).all()
