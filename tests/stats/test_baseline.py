"""Acquisition facts alone: found when they tell the class, near .5 when they do not, never across patients."""

from __future__ import annotations

import numpy as np
import pytest

from medgraft.stats.baseline import _ask, _auc, chance, trivial_auc


def test_leaking_size_is_found_and_noise_is_not() -> None:
    g = np.random.default_rng(0)
    y = (np.arange(200) % 2).astype(float)
    size = np.where(y == 1, 512, 480) + g.normal(0, 20, 200)
    found = trivial_auc(np.c_[size, g.normal(size=200)], y, np.arange(200))
    assert found.value > 0.8 and found.low > 0.7
    middle = np.where(y == 1, 0, g.choice([-3, 3], 200)) + g.normal(size=200)  # no straight line finds it
    assert trivial_auc(middle[:, None], y, np.arange(200)).value > 0.85
    values = [
        trivial_auc(np.random.default_rng(s).normal(size=(100, 3)), y[:100], np.arange(100), seed=s).value
        for s in range(40)
    ]
    assert np.mean(values) == pytest.approx(0.5, abs=0.04)  # no bias from pooling the folds


def test_a_fact_that_names_the_patient_does_not_help() -> None:
    g = np.random.default_rng(1)
    patient = np.repeat(np.arange(30), 6)
    y = (np.arange(30) % 2).astype(float)[patient]
    facts = g.normal(size=(30, 5))[patient]  # constant within patients: an item-level split would be solved by it
    result = trivial_auc(facts, y, patient)
    assert result.low < 0.5 < result.high and result.n_units == 30


def test_scores_are_ranked_within_folds_and_not_across() -> None:
    """A fact that is the same everywhere knows nothing: AUC exactly .5. Across folds it would not be: a fold with fewer
    of a class leaves more of it to train on, so its score is higher and the pooled order is turned against the
    truth."""
    y = np.r_[np.zeros(9), np.ones(11), np.zeros(5), np.ones(3)]
    patient = np.r_[
        np.repeat([0, 1, 2], [5, 3, 1]), np.repeat([3, 4, 5, 6], [6, 2, 2, 1]), np.repeat([7, 8], [3, 2]), [9, 10, 11]
    ]
    result = trivial_auc(np.full((28, 2), 7.0), y, patient, folds=4)
    assert (result.value, result.n_units) == (0.5, 12)


def test_gaps_and_small_sets() -> None:
    g = np.random.default_rng(2)
    y = np.r_[np.zeros(40), np.ones(40), np.full(5, np.nan)]
    facts = np.c_[np.where(y == 1, 1, 0) + 0.2 * g.normal(size=85), np.full(85, np.nan), np.full(85, 7.0)]
    facts[::7, 0] = np.nan
    result = trivial_auc(facts, y, np.arange(85))
    assert result.value > 0.85 and result.n == 80
    three = trivial_auc(np.c_[np.arange(90) % 3 + 0.1 * g.normal(size=90)], np.arange(90) % 3, np.arange(90))
    assert three.value > 0.95
    assert np.isnan(trivial_auc(np.ones((6, 1)), np.array([0, 0, 0, 0, 0, 1]), np.arange(6)).value)
    assert np.isnan(trivial_auc(np.ones((6, 1)), np.zeros(6), np.arange(6)).value)


def _noise(seed: int, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Facts that know nothing, half of their spread shared within patients; labels of patients; owners of cases."""
    g = np.random.default_rng(seed)
    patient = np.repeat(np.arange(len(sizes)), sizes)
    y = g.permutation(np.arange(len(sizes)) % 2).astype(float)[patient]
    return g.normal(size=(len(sizes), 4))[patient] + g.normal(size=(len(patient), 4)), y, patient


def _rate(p: list[float]) -> float:
    return float(np.mean(np.array(p) <= 0.05))


def test_facts_that_know_nothing_raise_the_alarm_as_often_as_said() -> None:
    """120 sets of noise each, nominal .05: one case a patient, and one to four. The standard error is .02."""
    single = [chance(*_noise(s, np.ones(60, int)), seed=s, permutations=99) for s in range(120)]
    sizes = 1 + np.arange(60) % 4
    several = [chance(*_noise(1000 + s, sizes), seed=s, permutations=99) for s in range(120)]
    assert _rate(single) <= 0.105 and _rate(several) <= 0.105
    assert _rate(single + several) == pytest.approx(0.05, abs=0.04)
    assert np.mean(single) == pytest.approx(0.5, abs=0.1) and np.mean(several) == pytest.approx(0.5, abs=0.1)


def test_facts_that_tell_are_found_and_patients_stay_whole() -> None:
    facts, y, patient = _noise(0, np.ones(100, int))
    assert chance(facts, y, patient) > 0.05
    facts[:, 2] += 3 * y
    assert chance(facts, y, patient) == 1 / 200  # nothing of 199 comes near
    middle = np.where(y == 1, 0, np.random.default_rng(3).choice([-3, 3], 100))[:, None] + facts[:, :1]
    assert chance(middle, y, patient) == 1 / 200  # the squares are there
    # twelve cases a patient and facts of the patient alone: by case 30 patients would look like 360
    sets = [(np.random.default_rng(s), np.repeat(np.arange(30), 12)) for s in range(40)]
    p = [chance(g.normal(size=(30, 3))[who], (np.arange(30) % 2).astype(float)[who], who, seed=1) for g, who in sets]
    assert _rate(p) <= 0.15 and np.mean(p) == pytest.approx(0.5, abs=0.15)


def test_the_permuted_number_is_the_printed_one() -> None:
    """Newton's ridge regressions give the AUC of scikit-learn's pipeline, with gaps and a constant fact too."""
    facts, y, patient = _noise(5, 1 + np.arange(50) % 3)
    facts[:, 0] += y
    facts[::9, 1] = np.nan
    facts[:, 3] = 7.0
    found = _auc(_ask(facts, y, patient, 5, 0), np.arange(len(y))[None])[0]
    assert found == pytest.approx(trivial_auc(facts, y, patient).value, abs=2e-3)
    three = np.arange(90) % 3
    assert chance(three[:, None] + np.random.default_rng(0).normal(size=(90, 1)), three, np.arange(90)) == 1 / 200
    assert np.isnan(chance(np.ones((6, 1)), np.zeros(6), np.arange(6)))
    assert chance(np.full((40, 2), 7.0), np.arange(40) % 2, np.arange(40)) == 1.0  # nothing can be told: all alike
