"""Association of a fact with a label: closed forms, scipy, and p values that hold when one patient brings many
images.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medgraft.stats.association import associate


def patients(n: int, each: int = 1) -> list[str]:
    return [f"p{i // each}" for i in range(n)]


def test_nothing_to_say_where_either_is_constant_or_unknown() -> None:
    assert associate(["x"] * 5, list("ababa"), patients(5)) is None
    assert associate([1, 2, 3, None, 5], ["a"] * 5, patients(5)) is None
    assert associate([None, 2.0, None], ["a", "b", "a"], patients(3)) is None


def test_a_fact_that_tells_the_label_has_strength_one_and_the_least_p() -> None:
    labels = list("ab" * 40)
    for fact in ([f"scanner {y}" for y in labels], [float(y == "b") for y in labels]):
        found = associate(fact, labels, patients(80), permutations=199)
        assert (
            found is not None
            and found.strength == pytest.approx(1.0, abs=0.01)
            and found.p == 1 / 200
            and found.n == 80
        )
    found = associate([float(v) ** 3 for v in range(50)], [float(v) for v in range(50)], patients(50), permutations=199)
    assert found is not None and (found.measure, found.strength) == ("spearman", pytest.approx(1.0))


def test_strengths_against_scipy() -> None:
    rng = np.random.default_rng(3)
    a, b, x, y = rng.integers(0, 3, 300), rng.integers(0, 4, 300), rng.normal(size=300), rng.normal(size=300)
    b = np.where(rng.random(300) < 0.5, a, b)
    x, y = x + 0.7 * a, y + 0.5 * x
    table = np.histogram2d(a, b, bins=(3, 4))[0]
    chi = stats.chi2_contingency(table, correction=False).statistic
    rows, columns = 3 - 4 / 299, 4 - 9 / 299
    corrected = np.sqrt(max(0, chi / 300 - 6 / 299) / (min(rows, columns) - 1))
    words = [f"a{v}" for v in a], [f"b{v}" for v in b]
    # type: ignore[union-attr]
    assert associate(*words, patients(300), permutations=9).strength == pytest.approx(corrected)
    h = stats.kruskal(*(x[a == k] for k in range(3))).statistic
    epsilon = np.sqrt(1 - (1 - h / 299) * 299 / 297)
    # type: ignore[union-attr]
    assert associate(list(x), words[0], patients(300), permutations=9).strength == pytest.approx(epsilon)
    # type: ignore[union-attr]
    assert associate(words[0], list(x), patients(300), permutations=9).strength == pytest.approx(epsilon)
    rho = abs(stats.spearmanr(x, y).statistic)
    # type: ignore[union-attr]
    assert associate(list(x), list(y), patients(300), permutations=9).strength == pytest.approx(rho)


@pytest.mark.parametrize("kind", ["category", "number"])
def test_many_images_of_a_patient_are_no_more_evidence_than_one(kind: str) -> None:
    """Scanner and label both belong to the patient and have nothing to do with each other: p must be below .05 in about
    5 of 100 sets.
    """
    rng = np.random.default_rng(11)
    low, naive = 0, 0
    for trial in range(120):
        sizes = rng.integers(1, 12, 24)
        who = np.repeat(np.arange(24), sizes)
        label = [f"l{v}" for v in rng.integers(0, 2, 24)[who]]
        scanner = rng.integers(0, 2, 24)[who]
        fact = (
            [f"s{v}" for v in scanner]
            if kind == "category"
            else list(rng.normal(size=24)[who] + 0.01 * rng.normal(size=len(who)))
        )
        found = associate(fact, label, [f"p{v}" for v in who], permutations=99, seed=trial)
        alone = associate(fact, label, patients(len(who)), permutations=99, seed=trial)
        low += found is not None and found.p <= 0.05
        naive += alone is not None and alone.p <= 0.05
    assert low <= 14 < 30 < naive


def test_the_same_numbers_for_the_same_seed() -> None:
    rng = np.random.default_rng(0)
    fact, label = [f"f{v}" for v in rng.integers(0, 3, 90)], [f"l{v}" for v in rng.integers(0, 2, 90)]
    assert associate(fact, label, patients(90, 3), seed=4) == associate(fact, label, patients(90, 3), seed=4)
