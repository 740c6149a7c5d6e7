"""The fast bootstrap against a plain loop on the same draws, and whether its 95 % are 95 %."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from stats_studies import TASKS, clusters, study
from statsmodels.stats.proportion import proportion_confint

from medgraft.stats import metrics
from medgraft.stats.intervals import bootstrap, limits, patient_counts, rank_intervals
from medgraft.stats.metrics import METRICS


def all_counts(patients: int, resamples: int, seed: int = 0, **options: int) -> np.ndarray:
    return np.concatenate([counts for _, counts in patient_counts(patients, resamples, seed, **options)], axis=1)


def test_draws_are_multinomial_and_a_function_of_seed_and_number_alone() -> None:
    counts = all_counts(37, 3000, seed=5)
    assert (counts.sum(axis=0) == 37).all()
    assert counts.mean(axis=1) == pytest.approx(np.ones(37), abs=0.09)  # 5 standard errors
    assert counts.var() == pytest.approx(1 - 1 / 37, rel=0.03)
    assert np.array_equal(all_counts(37, 3000, seed=5, block_bytes=1), counts)
    assert np.array_equal(all_counts(37, 100, seed=5), counts[:, :100])
    assert not np.array_equal(all_counts(37, 3000, seed=6), counts)
    assert (all_counts(70_000, 3).sum(axis=0) == 70_000).all()  # beyond 16 bit


def test_auc_equals_a_loop_over_sklearn_on_the_same_resamples() -> None:
    y, p, patient = clusters(0, 60, 1.0)
    p = np.round(p, 1)  # ties
    result = bootstrap(y, p, patient, resamples=200, seed=3, method="percentile")["auc"]
    counts = all_counts(60, 200, seed=3)
    for b in range(200):
        rows = np.repeat(np.arange(len(y)), counts[patient, b].astype(int))  # whole patients, never a part of one
        assert result.distribution[b] == pytest.approx(roc_auc_score(y[rows], p[rows]), abs=1e-12)
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(result.distribution, [0.025, 0.975])))
    assert result.value == pytest.approx(roc_auc_score(y, p))
    assert (result.n, result.n_units, result.unit) == (len(y), 60, "patient")


@pytest.mark.parametrize("task", TASKS)
def test_rows_in_any_order_and_patients_under_any_name_give_the_same_interval(task: str) -> None:
    y, p = study(task, 1)
    patient = np.random.default_rng(0).integers(25, size=len(p))
    names = metrics.for_task(task)
    first = bootstrap(y, p, patient, names, task=task, resamples=130)
    order = np.random.default_rng(1).permutation(len(p))
    labels = np.array([f"p{code:03d}" for code in patient])
    again = bootstrap(None if y is None else y[order], p[order], labels[order], names, task=task, resamples=130)
    for name in names:
        assert again[name].distribution == pytest.approx(first[name].distribution, abs=1e-12, nan_ok=True), name
        assert first[name].low <= first[name].high


def test_seeds_are_averaged_on_the_same_patients() -> None:
    y, p, patient = clusters(1, 50, 1.0)
    q = p + np.random.default_rng(0).normal(size=len(p))
    one, other = (bootstrap(y, s, patient, resamples=150)["auc"] for s in (p, q))
    both = bootstrap(y, np.stack([p, q]), patient, resamples=150)["auc"]
    assert both.distribution == pytest.approx((one.distribution + other.distribution) / 2)
    assert both.value == pytest.approx((one.value + other.value) / 2)
    assert both.seed_sd == pytest.approx(abs(one.value - other.value) / np.sqrt(2))
    assert np.isnan(one.seed_sd)


def test_duplicating_every_case_within_its_patient_adds_no_certainty() -> None:
    y, p, patient = clusters(2, 80, 1.0)
    once = bootstrap(y, p, patient, ["auc", "brier"], resamples=300)
    thrice = bootstrap(np.tile(y, 3), np.tile(p, 3), np.tile(patient, 3), ["auc", "brier"], resamples=300)
    naive = bootstrap(np.tile(y, 3), np.tile(p, 3), np.arange(3 * len(y)), ["auc"], resamples=300)["auc"]
    for name in ("auc", "brier"):
        assert (thrice[name].low, thrice[name].high) == pytest.approx((once[name].low, once[name].high), abs=2e-3)
    assert naive.high - naive.low < 0.75 * (
        once["auc"].high - once["auc"].low
    )  # what case-level resampling would have claimed


def test_what_cannot_be_told_is_nan() -> None:
    y, p = np.array([0, 1, 1, 0.0]), np.array([0.1, 0.9, 0.4, 0.6])
    two = bootstrap(y, p, np.array([0, 0, 1, 1]), resamples=50)["auc"]
    assert two.value == 0.75 and np.isnan(two.low) and np.isnan(two.high)
    one_class = bootstrap(np.ones(4), p, np.arange(4), ["auc", "sensitivity"], resamples=50)
    assert np.isnan(one_class["auc"].value) and np.isnan(one_class["auc"].low)
    assert one_class["sensitivity"].value == 0.5 and one_class["sensitivity"].low < 0.5
    nobody = bootstrap(np.full(4, np.nan), p, np.arange(4), resamples=50)["auc"]
    assert np.isnan([nobody.value, nobody.low, nobody.high]).all() and nobody.n == 0
    lone = bootstrap(np.r_[1, np.zeros(30)], np.r_[0.5, np.linspace(0, 1, 30)], np.arange(31), resamples=500)["auc"]
    assert 0.25 < lone.undefined < 0.5  # (1 - 1/31)^31 of the resamples miss the only positive patient
    flat = bootstrap(np.r_[np.ones(10), np.zeros(10)], np.full(20, 0.3), np.arange(20), resamples=50)["auc"]
    assert flat.value == 0.5 and np.isnan(flat.low) and flat.degenerate  # it ranks nothing, so nothing is uncertain
    for y_odd, said in ((np.array([0, 1, 2, 1.0]), "label 2"), (np.array([0, 0.5, 1, 1]), "label 0.5")):
        with pytest.raises(ValueError, match=said):
            bootstrap(y_odd, p, np.arange(4))
    with pytest.raises(ValueError, match="'r2' is no metric of a binary task"):
        bootstrap(y, p, np.arange(4), ["r2"])
    with pytest.raises(ValueError, match="do not fit"):
        bootstrap(y, p[:3], np.arange(4))


def test_all_cases_right_is_no_certainty() -> None:
    """30 of 30 right tells more than 29 of 30, and less than certainty; every measure of 1 has a lower bound."""
    y = np.r_[np.ones(30), np.zeros(40)]
    p = np.r_[np.full(30, 0.9), np.linspace(0, 0.4, 40)]
    patient = np.arange(70)
    names = metrics.for_task("binary")
    result = bootstrap(y, p, patient, names, resamples=200)
    wilson = proportion_confint(30, 30, method="wilson")
    assert (result["sensitivity"].low, result["sensitivity"].high) == pytest.approx(wilson)
    one_wrong = bootstrap(y, np.r_[0.3, p[1:]], patient, names, resamples=200)
    for name in ("sensitivity", "accuracy", "balanced_accuracy", "auc", "auprc", "f1", "precision"):
        assert result[name].value == result[name].high == 1 and 0.8 < result[name].low < 0.98, name
        if name != "precision":
            assert one_wrong[name].low < result[name].low and one_wrong[name].high <= 1, name
    assert one_wrong["sensitivity"].high < 1
    none = bootstrap(y, 1 - y, patient, ["accuracy"], resamples=200)["accuracy"]
    assert none.low == 0 and none.high == pytest.approx(proportion_confint(0, 70, method="wilson")[1])


def test_too_few_patients_of_a_class_have_no_interval() -> None:
    g = np.random.default_rng(0)
    for positive, told in ((1, False), (2, False), (3, True), (5, True)):
        y = np.r_[np.ones(positive), np.zeros(100 - positive)]
        found = bootstrap(y, np.clip(g.normal(0.4 + 0.2 * y, 0.2), 0, 1), np.arange(100), metrics.for_task("binary"))
        for name, interval in found.items():
            assert interval.n_smallest == positive and not np.isnan(interval.value), name
            assert np.isfinite(interval.low) == told and (interval.method == "too few") == (not told), name


def test_each_measure_has_the_interval_of_its_kind() -> None:
    assert {METRICS[n].bounds for n in ("dice", "iou", "absent_clear")} == {"bounded"}
    assert {METRICS[n].bounds for n in ("f1", "macro_f1", "macro_auc", "auprc", "macro_auprc")} == {"ratio"}
    assert {METRICS[n].bounds for n in ("mae", "rmse", "brier")} == {"error"}
    assert (METRICS["r2"].bounds, METRICS["ece"].bounds) == ("below_one", "percentile")
    g = np.random.default_rng(2)
    y = g.normal(50, 10, 30)
    found = bootstrap(y, y + g.normal(0, 4, 30), np.arange(30), ["mae", "rmse", "r2"], task="regression")
    assert found["r2"].low < found["r2"].value < found["r2"].high < 1 and found["rmse"].low > 0
    error = found["rmse"]
    assert error.high / error.value == pytest.approx(error.value / error.low)  # even on the logarithm
    y = np.repeat([0.0, 1.0], 20)
    wrong = np.r_[np.zeros(8), np.ones(2), np.zeros(10)]  # 8 of 40 cases, all of four patients
    once = bootstrap(y, np.r_[wrong, 1 - wrong], np.arange(40), ["accuracy"])["accuracy"]
    assert (once.low, once.high) == pytest.approx(proportion_confint(36, 40, method="wilson"))
    owner = np.arange(40) // 2
    twice = bootstrap(y, np.r_[wrong, 1 - wrong], owner, ["accuracy"])["accuracy"]
    assert twice.high - twice.low > 1.2 * (once.high - once.low)  # both cases of a patient go the same way


def test_bca_agrees_with_scipy_on_a_mean() -> None:
    from scipy.stats import bootstrap as oracle

    g = np.random.default_rng(0)
    error = g.exponential(size=60)  # skewed, so BCa differs from percentile
    ours = bootstrap(np.zeros(60), error, np.arange(60), ["mae"], task="regression", resamples=20_000, method="bca")[
        "mae"
    ]
    theirs = oracle(
        (error,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.012)
    plain = limits(ours.distribution)
    assert ours.high - plain[1] > 0.02


def test_ranks_show_ties_and_certainty() -> None:
    g = np.random.default_rng(0)
    noise = g.normal(size=1000)
    distributions = np.stack([0.9 + 0.01 * noise, 0.5 + 0.01 * noise, 0.5 + 0.01 * noise])
    assert rank_intervals([0.9, 0.5, 0.5], distributions, True) == [
        {"best": 1, "low": 1, "high": 1},
        {"best": 2, "low": 2, "high": 3},
        {"best": 2, "low": 2, "high": 3},
    ]
    assert rank_intervals([0.9, 0.5, 0.5], distributions, False)[0] == {"best": 3, "low": 3, "high": 3}


def coverage(replications: int, resamples: int) -> tuple[float, float]:
    """Share of studies of 200 patients whose interval holds the true AUC: by patients, and by cases as if
    independent.
    """
    effect = 1.0
    truth = norm.cdf(effect / np.sqrt(2 * (0.8**2 + 0.6**2)))
    hits = np.zeros(2)
    for r in range(replications):
        y, p, patient = clusters(1000 + r, 200, effect)
        for k, unit in enumerate((patient, np.arange(len(y)))):
            interval = bootstrap(y, p, unit, resamples=resamples, seed=r)["auc"]
            hits[k] += interval.low <= truth <= interval.high
    return float(hits[0] / replications), float(hits[1] / replications)


def test_coverage_quick() -> None:
    by_patient, by_case = coverage(400, 400)
    assert 0.93 <= by_patient <= 0.97
    assert by_case < 0.90  # the fault that patient-level resampling mends


@pytest.mark.slow
def test_coverage() -> None:
    by_patient, by_case = coverage(3000, 1000)
    assert 0.94 <= by_patient <= 0.96
    assert by_case < 0.90


def test_the_calibration_error_lies_within_its_own_interval() -> None:
    """Resampling makes any set look worse calibrated; uncorrected, the interval of a good model lies above its
    value. Outcomes come as evenly as their probabilities allow, so that this model is a good one.
    """
    rng = np.random.default_rng(4)
    for _ in range(5):
        p = np.sort(rng.uniform(0.02, 0.98, 300))
        y = np.diff(np.floor(np.cumsum(p) + rng.uniform()), prepend=0)
        found = bootstrap(y, p, np.arange(300), ["ece"], resamples=400)["ece"]
        assert found.low < found.value < found.high and found.low >= 0
