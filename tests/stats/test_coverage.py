"""Do the intervals hold the truth as often as they say? A few hundred studies in the hardest cells of the table of
docs/statistics.md (``bench/coverage.py`` makes it whole); and the score interval of an AUC as it was worked out.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from medgraft.stats import bounds
from medgraft.stats.intervals import bootstrap

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "coverage.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_bench", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = sys.modules["coverage_bench"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("cell", [(0.75, 50, 0.1, False), (0.98, 50, 0.5, False), (0.9, 50, 0.2, True)])
def test_intervals_hold_the_truth_in_small_studies(bench: ModuleType, cell: tuple[float, int, float, bool]) -> None:
    row = bench.run((cell, 250))
    assert all(0.915 <= share <= 0.99 for share in row["held"].values()), row["held"]  # 250 studies: two errors are .03
    assert all(share <= 0.08 for share in row["rejected"].values()), row["rejected"]


def test_every_cell_of_the_table_is_there(bench: ModuleType) -> None:
    found = list(bench.cells())
    assert len(found) == len(set(found)) == 54 and min(round(n * share) for _, n, share, _ in found) == 5
    rows = [
        {
            "cell": list(c),
            "studies": 1,
            "held": dict.fromkeys(bench.MEASURES, 0.95),
            "rejected": dict.fromkeys(bench.COMPARED, 0.05),
        }
        for c in found[:2]
    ]
    assert "| 0.75 | 50 | 25 | 1 | 95.0 |" in bench.page(rows) and "| 5.0 |" in bench.page(rows)


@pytest.mark.parametrize("theta", [0.5, 0.8, 0.98])
def test_the_binormal_covariance_is_that_of_two_normal_scores(theta: float) -> None:
    h = norm.ppf(theta)
    both = multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]]).cdf([h, h])
    assert bounds.shared(theta) == pytest.approx(both - theta**2, abs=1e-6)


def test_the_bounds_of_an_auc_are_where_the_score_test_turns() -> None:
    """By definition: at either bound the distance is the critical number of standard errors of that very value."""
    g = np.random.default_rng(3)
    y = np.repeat([0.0, 1.0], [70, 30])
    p = g.normal(1.2 * y)
    found = bootstrap(y, p, np.arange(100), ["auc"], resamples=64)["auc"]
    reach = []
    for theta in (found.low, found.high):
        model = bounds.shared(theta) * (1 / 30 + 1 / 70) + (theta * (1 - theta) - 2 * bounds.shared(theta)) / 2100
        reach.append(abs(found.value - theta) / np.sqrt(model))
    assert reach == pytest.approx([2.0, 2.0], rel=0.1)  # 1.96 but for t and the shape of these scores
    wide = bootstrap(y, p, np.arange(100), ["auc"], resamples=64, confidence=0.99)["auc"]
    assert wide.low < found.low < found.value < found.high < wide.high


def test_the_mean_of_two_shares_lies_half_way_between_two_methods() -> None:
    """20 of 25 and 45 of 50 by hand: Newcombe's square-and-add of Wilson's bounds, and Agresti and Caffo's."""
    from statsmodels.stats.proportion import proportion_confint

    parts = [bounds.Share(20 / 25, 25, 1.959964), bounds.Share(45 / 50, 50, 1.959964)]
    wilson = [proportion_confint(k, n, method="wilson") for k, n in ((20, 25), (45, 50))]
    down = np.sqrt((0.8 - wilson[0][0]) ** 2 + (0.9 - wilson[1][0]) ** 2) / 2
    up = np.sqrt((wilson[0][1] - 0.8) ** 2 + (wilson[1][1] - 0.9) ** 2) / 2
    a, b = 21 / 27, 46 / 52
    half = 1.959964 * np.sqrt(a * (1 - a) / 27 + b * (1 - b) / 52) / 2
    wanted = ((0.85 - down + (a + b) / 2 - half) / 2, (0.85 + up + (a + b) / 2 + half) / 2)
    assert bounds.mean_of_shares(parts) == pytest.approx(wanted, abs=1e-6)


def test_errors_hold_the_truth() -> None:
    held = {"rmse": 0, "mae": 0}
    for r in range(300):
        g = np.random.default_rng([r, 1])
        y = g.normal(0, 10, 30)
        found = bootstrap(y, y + g.normal(0, 3, 30), np.arange(30), list(held), task="regression", resamples=64)
        for name, true in (("rmse", 3.0), ("mae", 3 * np.sqrt(2 / np.pi))):
            held[name] += found[name].low <= true <= found[name].high
    assert all(0.915 <= n / 300 <= 0.985 for n in held.values()), held


def test_the_winner_of_equal_models_is_not_too_good_any_more() -> None:
    """Ten equal models of AUC .75 on 100 patients: the best prints .80, and .75 is expected of it."""
    from medgraft.stats.compare import influence
    from medgraft.stats.intervals import answers
    from medgraft.stats.pairs import luck

    printed, expected, held = [], [], 0
    for r in range(120):
        g = np.random.default_rng([r, 2])
        y = np.arange(100) % 2 * 1.0
        common = g.normal(size=100)
        arms = [0.954 * y + np.sqrt(0.5) * common + np.sqrt(0.5) * g.normal(size=100) for _ in range(10)]
        same = [bootstrap(y, p, np.arange(100), ["auc"], resamples=64)["auc"] for p in arms]
        won = luck(same, [influence(answers(y, p, np.arange(100)), "auc") for p in arms], True)
        assert won is not None
        printed.append(won["value"])
        expected.append(won["expected"])
        held += won["low"] <= 0.75 <= won["high"]
    assert np.mean(printed) > 0.785 and abs(np.mean(expected) - 0.75) < 0.015
    assert held / 120 >= 0.9
