"""DeLong, its clustered form, paired tests, McNemar and families against definitions written out and worked values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score
from stats_studies import clusters

from medgraft.stats.compare import Difference, adjusted, compare_two, delong, holm, influence, mcnemar, paired
from medgraft.stats.intervals import answers, bootstrap


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


@pytest.mark.parametrize("mixed", [False, True])
def test_the_test_of_two_models_is_paired(mixed: bool) -> None:
    """The variance of the difference takes the covariance of the two AUCs off, twice; t by Satterthwaite."""
    y, a, b, patient = two_models(0, mixed=mixed)
    parts = brute(y, [a, b], patient)
    result = compare_two(y, a, b, patient)
    spread = np.sqrt(parts[0, 0] + parts[1, 1] - 2 * parts[0, 1])
    assert parts[0, 1] > 0.1 * parts[0, 0], "two models of the same cases go together"
    pull, classes = result.pull, np.array([y[patient == p].max() for p in np.unique(patient)])
    assert np.sqrt((pull**2).sum()) == pytest.approx(spread, rel=1e-9 if not mixed else 0.02)
    sides = [(pull[classes == c] ** 2).sum() for c in (0, 1)]
    freedom = sum(sides) ** 2 / sum(v**2 / ((classes == c).sum() - 1) for c, v in enumerate(sides))
    assert (result.high - result.low) / 2 == pytest.approx(student.ppf(0.975, freedom) * np.sqrt(sum(sides)), rel=1e-9)
    assert result.p == pytest.approx(2 * student.sf(abs(result.difference) / np.sqrt(sum(sides)), freedom))
    assert (result.p < 0.05) == (result.low > 0 or result.high < 0)  # one method for both


def test_one_case_a_patient_is_plain_delong() -> None:
    y, a, b, _ = two_models(4)
    plain, clustered = delong(y, [a, b]), delong(y, [a, b], np.arange(len(y)) * 7)
    assert clustered.covariance == pytest.approx(plain.covariance, rel=1e-12) and not clustered.clustered
    assert plain.covariance == pytest.approx(brute(y, [a, b], np.arange(len(y))), rel=1e-10)


def test_duplicating_cases_within_their_patients_leaves_the_standard_error() -> None:
    y, a, b, patient = two_models(5)
    once = compare_two(y, a, b, patient)
    copies = 3
    again = compare_two(np.tile(y, copies), np.tile(a, copies), np.tile(b, copies), np.tile(patient, copies))
    naive = compare_two(np.tile(y, copies), np.tile(a, copies), np.tile(b, copies), np.arange(copies * len(y)))
    assert again.p == pytest.approx(once.p, rel=1e-9) and again.high == pytest.approx(once.high, rel=1e-9)
    assert naive.p < once.p / 2  # what ignoring the patients would claim


def test_delong_keeps_its_level_and_agrees_with_the_bootstrap() -> None:
    rejected, z = 0, []
    for r in range(300):
        g = np.random.default_rng(r)
        y, p, patient = clusters(r, 60, 1.0)
        shared = np.repeat(g.normal(size=(2, 60)), np.bincount(patient), axis=1)
        a, b = p + shared[0], p + shared[1]  # two models equally good, with errors that stay within patients
        result = compare_two(y, a, b, patient)
        rejected += result.p < 0.05
        z.append(result.difference)
    assert 0.02 <= rejected / 300 <= 0.085
    drawn = [bootstrap(y, p, patient, resamples=4000)["auc"].distribution for p in (a, b)]
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    assert high - low == pytest.approx(result.high - result.low, rel=0.1)
    assert np.mean(drawn[0] > drawn[1]) == pytest.approx(result.p_superior, abs=0.04)


def test_pairs_are_counted_within_folds() -> None:
    """Scores of five networks on five scales: shifting one fold's scores changes neither the test nor its width."""
    y, a, b, patient = two_models(8, mixed=False)
    fold = patient % 5
    shift = np.array([0, 3, -2, 7, 1.5])[fold]
    once = compare_two(y, a, b, patient, strata=fold)
    moved = compare_two(y, a + shift, b, patient, strata=fold)
    assert (moved.difference, moved.p, moved.low) == pytest.approx((once.difference, once.p, once.low))
    assert compare_two(y, a + shift, b, patient).difference < once.difference - 0.05  # pooled, it seems to have failed
    of_folds = [
        (roc_auc_score(y[fold == f], a[fold == f]), (y[fold == f] == 1).sum() * (y[fold == f] == 0).sum())
        for f in range(5)
    ]
    value = influence(answers(y, a, patient, strata=fold), "auc").value
    assert value == pytest.approx(sum(v * n for v, n in of_folds) / sum(n for _, n in of_folds))
    drawn = [bootstrap(y, p, patient, resamples=200, strata=fold)["auc"].distribution for p in (a, a + shift)]
    assert drawn[1] == pytest.approx(drawn[0], nan_ok=True)
    found = influence(answers(y, a, patient, strata=fold), "auc")
    drawn = bootstrap(y, a, patient, resamples=4000, strata=fold)["auc"].distribution
    assert np.sqrt((found.pull**2).sum()) == pytest.approx(np.nanstd(drawn), rel=0.15)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1", "brier"])
def test_the_jackknife_agrees_with_the_bootstrap(metric: str) -> None:
    y, a, b, patient = two_models(9, patients=120)
    a, b = (1 / (1 + np.exp(-p)) for p in (a, b))
    found = compare_two(y, a, b, patient, metric)
    drawn = [bootstrap(y, p, patient, [metric], resamples=4000)[metric].distribution for p in (a, b)]
    assert np.sqrt((found.pull**2).sum()) == pytest.approx((drawn[0] - drawn[1]).std(), rel=0.12)


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
    same = compare_two(y, a, 2 * a + 1, patient)
    assert (same.difference, same.p, same.p_superior) == (0, 1, 0.5)
    assert np.isnan(compare_two(np.ones(len(y)), a, a, patient).p)
    assert np.isnan(compare_two(y, np.where(np.arange(len(a)) == 3, np.nan, a), a, patient).p)
    opposite = compare_two(y, y, 1 - y, patient)  # 1 against 0: no spread, but all patients on one side
    assert opposite.difference == 1 and opposite.p == 2.0 ** (1 - len(np.unique(patient)))
    constant = compare_two(y, y, np.full(len(y), 0.3), patient)
    assert constant.difference == 0.5 and constant.p < 1e-6 and constant.low == constant.high == 0.5
    lone = compare_two(
        np.array([1, 0, 0, 0]), np.array([0.5, 0.1, 0.6, 0.7]), np.array([0.9, 0.1, 0.2, 0.3]), np.arange(4)
    )
    assert lone.difference == pytest.approx(-2 / 3) and np.isnan(lone.p)


def test_a_difference_is_oriented_by_what_is_better() -> None:
    g = np.random.default_rng(0)
    y = g.normal(50, 10, 80)
    good, bad = y + g.normal(0, 2, 80), y + g.normal(0, 8, 80)
    result = compare_two(y, good, bad, np.arange(80), "mae", task="regression")
    assert result.high < 0 and result.p_superior > 0.999 and result.p < 1e-6
    back = compare_two(y, bad, good, np.arange(80), "mae", task="regression")
    assert back.low == pytest.approx(-result.high) and back.p_superior < 0.001
    one, other = (
        influence(answers(y[:n], bad[:n], np.arange(n) + first, task="regression"), "mae")
        for n, first in ((60, 0), (60, 20))
    )
    with pytest.raises(ValueError, match="same patients"):  # as many patients, and not the same ones
        paired(one, other, False)


def test_five_positive_patients_are_not_taken_for_many() -> None:
    """Two equal models, 5 positive patients of 50 with several cases each: the normal test rejects in 11 % of studies,
    t in 3 to 7 %.
    """
    found = []
    for r in range(400):
        g = np.random.default_rng([r, 5])
        sizes = g.integers(1, 5, 50)
        patient = np.repeat(np.arange(50), sizes)
        y = (patient < 5).astype(float)
        own = [np.sqrt(0.6) * g.normal(size=50)[patient] + np.sqrt(0.4) * g.normal(size=len(y)) for _ in range(3)]
        a, b = (0.95 * y + np.sqrt(0.5) * own[0] + np.sqrt(0.5) * own[k] for k in (1, 2))
        found.append(compare_two(y, a, b, patient))
    t = np.mean([f.p < 0.05 for f in found])
    normal = np.mean([abs(f.difference) > 1.96 * np.sqrt((f.pull**2).sum()) for f in found])
    assert 0.02 <= t <= 0.08 < normal


def test_a_family_costs_less_than_holm_and_has_no_floor() -> None:
    """30 models, 435 pairs: the best and the worst are told apart, which 2 000 resamples times Holm could never do."""
    g = np.random.default_rng(0)
    y = g.normal(60, 10, 100)
    adds = [
        influence(answers(y, y + g.normal(0, 1 + 0.3 * j, 100), np.arange(100), task="regression"), "mae")
        for j in range(30)
    ]
    tests = [paired(adds[i], adds[j], False) for i in range(30) for j in range(i + 1, 30)]
    p = np.array([t.p for t in tests])
    found = adjusted(tests)
    assert (found >= p).all() and (found <= holm(p) + 1e-12).all() and (found < 0.05).sum() > (holm(p) < 0.05).sum()
    assert found[28] < 1e-4  # the first against the last, below any floor of resamples
    order = np.argsort(p)
    assert (np.diff(found[order]) >= -1e-12).all()
    assert adjusted(tests).tolist() == found.tolist()  # drawn by counters


def test_a_family_keeps_its_level() -> None:
    """Six equal models on one set of patients: some pair is called different in about 5 % of studies at most."""
    false = 0
    for r in range(200):
        g = np.random.default_rng([r, 7])
        y = g.normal(0, 10, 40)
        adds = [
            influence(answers(y, y + g.normal(0, 2, 40), np.arange(40), task="regression"), "mae") for _ in range(6)
        ]
        tests = [paired(adds[i], adds[j], False) for i in range(6) for j in range(i + 1, 6)]
        false += adjusted(tests, draws=1000, seed=r).min() < 0.05
    assert 0.01 <= false / 200 <= 0.09


def test_what_cannot_be_told_stays_out_of_the_family() -> None:
    nothing = Difference(0.1, *(float("nan"),) * 4, "paired t", np.arange(3), np.full(3, np.nan))
    y = np.arange(20.0)
    g = np.random.default_rng(1)
    adds = [influence(answers(y, y + g.normal(0, s, 20), np.arange(20), task="regression"), "mae") for s in (1, 2, 3)]
    tests = [paired(adds[0], adds[1], False), nothing, paired(adds[0], adds[2], False)]
    found = adjusted(tests)
    assert np.isnan(found[1]) and found[[0, 2]].tolist() == adjusted([tests[0], tests[2]]).tolist()


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
    from statsmodels.stats.multitest import multipletests

    for seed in range(20):
        values = np.random.default_rng(seed).random(12) ** 3
        values[3] = values[5]
        np.testing.assert_allclose(holm(values.tolist()), multipletests(values, method="holm")[1], rtol=1e-14)
