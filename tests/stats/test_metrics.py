"""Every metric against scikit-learn or a definition written out by hand, and its weighted form against repeated
rows.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle
from stats_studies import TASKS, study

from medgraft.stats import metrics
from medgraft.stats.compare import compare_two
from medgraft.stats.metrics import METRICS, Weights, metric


def dice_by_hand(counts: np.ndarray, double: int) -> float:
    cases = []
    for case in counts:
        values = [double * tp / (double * tp + fp + fn) for tp, fp, fn in case if tp + fn > 0]
        if values:
            cases.append(np.mean(values))
    return float(np.mean(cases))


def ece_by_hand(y: np.ndarray, p: np.ndarray) -> float:
    bins = metrics.equal_mass_bins(p)
    return float(sum(np.mean(bins == b) * abs(p[bins == b].mean() - y[bins == b].mean()) for b in np.unique(bins)))


def expected(task: str, y: np.ndarray, p: np.ndarray, threshold: float) -> dict[str, float]:
    if task == "binary":
        called = p >= threshold
        return {
            "auc": oracle.roc_auc_score(y, p),
            "auprc": oracle.average_precision_score(y, p),
            "accuracy": oracle.accuracy_score(y, called),
            "balanced_accuracy": oracle.balanced_accuracy_score(y, called),
            "sensitivity": oracle.recall_score(y, called),
            "specificity": oracle.recall_score(y, called, pos_label=0),
            "precision": oracle.precision_score(y, called),
            "f1": oracle.f1_score(y, called),
            "brier": oracle.brier_score_loss(y, p),
            "ece": ece_by_hand(y, p),
        }
    if task == "multiclass":
        called = p.argmax(axis=1)
        return {
            "macro_auc": oracle.roc_auc_score(y, p, multi_class="ovr", average="macro"),
            "macro_auprc": oracle.average_precision_score(np.eye(p.shape[1])[y.astype(int)], p, average="macro"),
            "accuracy": oracle.accuracy_score(y, called),
            "balanced_accuracy": oracle.balanced_accuracy_score(y, called),
            "macro_f1": oracle.f1_score(y, called, average="macro"),
            "brier": float(np.mean(((np.eye(p.shape[1])[y.astype(int)] - p) ** 2).sum(axis=1))),
            "ece": ece_by_hand(called == y, p.max(axis=1)),
        }
    if task == "multilabel":
        return {
            "macro_auc": oracle.roc_auc_score(y, p, average="macro"),
            "macro_auprc": oracle.average_precision_score(y, p, average="macro"),
            "macro_f1": oracle.f1_score(y, p >= threshold, average="macro"),
            "brier": float(np.mean((y - p) ** 2)),
        }
    if task == "regression":
        return {
            "r2": oracle.r2_score(y, p),
            "squared_correlation": float(np.corrcoef(y, p)[0, 1] ** 2),
            "mae": oracle.mean_absolute_error(y, p),
            "rmse": oracle.root_mean_squared_error(y, p),
        }
    if task == "quantities":
        return {"macro_r2": oracle.r2_score(y, p)}
    total = p.sum(axis=0)
    lacking = [[fp == 0 for tp, fp, fn in case if tp + fn == 0] for case in p]
    return {
        "absent_clear": float(np.mean([np.mean(case) for case in lacking if case])),
        "dice": dice_by_hand(p, 2),
        "iou": dice_by_hand(p, 1),
        "pooled_dice": float(np.mean(2 * total[:, 0] / (2 * total[:, 0] + total[:, 1] + total[:, 2]))),
        "pooled_iou": float(np.mean(total[:, 0] / total.sum(axis=1))),
    }


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", range(3))
def test_point_values_agree_with_independent_definitions(task: str, seed: int) -> None:
    y, p = study(task, seed)
    wanted = expected(task, y, p, 0.35)  # scores are whole tenths, so this decides otherwise than 0.5
    assert set(wanted) == set(metrics.for_task(task))  # no metric goes unchecked
    for name, value in wanted.items():
        assert metrics.point(name, y, p, 0.35) == pytest.approx(value, abs=1e-12), name
    for name, value in expected(task, y, p, 0.5).items():  # scores that lie on the threshold are called positive
        assert metrics.point(name, y, p, 0.5) == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("task", TASKS)
def test_weighted_values_equal_repeating_the_rows(task: str) -> None:
    """The heart of the fast bootstrap: a patient's count acts as if all its rows stood that often in the data."""
    y, p = study(task, 7)
    g = np.random.default_rng(1)
    patient = g.integers(20, size=len(p))
    counts = g.integers(0, 4, size=(20, 15)).astype(float)
    weights = Weights(patient, counts)
    for name in metrics.for_task(task):
        fast = METRICS[name].function(y, p, weights)
        for b in range(counts.shape[1]):
            rows = np.repeat(np.arange(len(p)), counts[patient, b].astype(int))
            if name == "ece":  # its bins are laid on the whole data
                probability, outcome = metrics.confidence_and_truth(y, p)
                bins = metrics.equal_mass_bins(probability)[rows]
                gap = (probability - outcome)[rows]
                slow = sum(abs(gap[bins == k].sum()) for k in np.unique(bins)) / len(rows)
            else:
                slow = metrics.point(name, None if y is None else y[rows], p[rows])
            assert fast[b] == pytest.approx(slow, abs=1e-12), name


@pytest.mark.parametrize("task", TASKS)
def test_order_of_rows_changes_nothing(task: str) -> None:
    y, p = study(task, 3)
    order = np.random.default_rng(0).permutation(len(p))
    for name in metrics.for_task(task):
        assert metrics.point(name, None if y is None else y[order], p[order]) == pytest.approx(
            metrics.point(name, y, p), abs=1e-12
        ), name


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
@settings(max_examples=150, deadline=None)
def test_auc_counts_pairs(rows: list[tuple[bool, int]]) -> None:
    y, p = np.array([r[0] for r in rows], dtype=float), np.array([r[1] for r in rows], dtype=float)
    pairs = [(a > b) + 0.5 * (a == b) for a in p[y == 1] for b in p[y == 0]]
    value = metrics.auc(y, p)
    assert np.isnan(value) if not pairs else value == pytest.approx(np.mean(pairs), abs=1e-12)


def test_precision_needs_a_negative_case() -> None:
    """Among positives alone every precision is 1, which tells nothing: in the data, in a resample, in a fold."""
    y, p = np.array([1.0, 1, 0]), np.array([0.9, 0.8, 0.1])
    assert np.isnan(metrics.point("auprc", np.ones(3), p))
    drawn = METRICS["auprc"].function(y, p, Weights(np.arange(3), np.array([[1.0, 2], [1, 1], [1, 0]])))
    assert drawn[0] == 1 and np.isnan(drawn[1])
    folds = np.array([0, 0, 0, 1, 1])
    y, p = np.array([1.0, 0, 0, 1, 1]), np.array([0.5, 0.9, 0.1, 0.7, 0.8])
    assert metrics.point("auprc", y, p, strata=folds) == 0.5  # the second fold has no negative case


def test_auc_survives_any_rising_transform_and_flips_with_the_sign() -> None:
    y, p = study("binary", 5)
    assert metrics.auc(y, np.exp(3 * p)) == metrics.auc(y, p)
    assert metrics.auc(y, -p) == pytest.approx(1 - metrics.auc(y, p), abs=1e-12)


def test_missing_labels_are_dropped_and_nan_scores_never_pass() -> None:
    y, p = study("binary", 2)
    gaps = y.copy()
    gaps[5:9] = np.nan
    keep = ~np.isnan(gaps)
    holes = p.copy()
    holes[20] = np.nan
    for name in metrics.for_task("binary"):
        assert metrics.point(name, gaps, p) == pytest.approx(metrics.point(name, y[keep], p[keep]))
        assert np.isnan(metrics.point(name, y, holes)), name
    labels, scores = study("multilabel", 2)
    labels[4:30, 1] = np.nan
    per_target = [metrics.auc(labels[:, t], scores[:, t]) for t in range(3)]
    assert metrics.macro_auc(labels, scores) == pytest.approx(np.mean(per_target))


@pytest.mark.parametrize(
    ("name", "y", "p"),
    [
        ("auc", [1, 1], [0.2, 0.3]),
        ("auprc", [0, 0], [0.2, 0.3]),
        ("balanced_accuracy", [1, 1], [0.2, 0.7]),
        ("sensitivity", [0, 0], [0.2, 0.7]),
        ("specificity", [1, 1], [0.2, 0.7]),
        ("precision", [0, 1], [0.2, 0.3]),
        ("f1", [0, 0], [0.2, 0.7]),
        ("auc", [np.nan, np.nan], [0.2, 0.7]),
        ("r2", [5.1, 5.1, 5.1], [5, 6, 7]),
        ("squared_correlation", [1, 2, 3], [0.1, 0.1, 0.1]),
        ("mae", [np.nan], [1.0]),
        ("macro_auc", [0, 0], [[0.2, 0.8], [0.5, 0.5]]),
        ("dice", None, np.zeros((3, 2, 3))),
        ("pooled_dice", None, np.zeros((3, 2, 3))),
    ],
)
def test_undefined_is_nan(name: str, y: list[float] | None, p: list[float]) -> None:
    assert np.isnan(metrics.point(name, None if y is None else np.array(y, dtype=float), np.array(p, dtype=float)))


def test_an_absent_class_leaves_the_mean_over_the_others() -> None:
    y, p = study("multiclass", 4)
    keep = y != 2
    wanted = np.mean([oracle.roc_auc_score(y[keep] == c, p[keep, c]) for c in (0, 1, 3)])
    assert metrics.macro_auc(y[keep], p[keep]) == pytest.approx(wanted)
    assert metrics.balanced_accuracy(y[keep], p[keep]) == pytest.approx(
        np.mean([np.mean(p[y == c].argmax(axis=1) == c) for c in (0, 1, 3)])
    )


def test_perfect_and_constant_predictors() -> None:
    y = np.array([0, 0, 1, 1, 1.0])
    for name in ("auc", "auprc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1"):
        assert metrics.point(name, y, y) == 1, name
    assert metrics.point("brier", y, y) == metrics.point("ece", y, y) == 0
    constant = np.full(5, 0.6)
    assert metrics.point("auc", y, constant) == 0.5
    assert metrics.point("auprc", y, constant) == pytest.approx(0.6)
    assert metrics.point("ece", y, constant) == pytest.approx(0)


@pytest.mark.parametrize("task", TASKS)
def test_every_measure_has_its_direction(task: str) -> None:
    """Answers that are the truth itself beat any others, in the direction that the measure states."""
    y, p = study(task, 1)
    truth = np.eye(p.shape[1])[y.astype(int)] if task == "multiclass" else y
    if truth is None:
        truth = p * np.array([1, 0, 0])  # counts: true positives stay, errors go
    for name in metrics.for_task(task):
        best, worse = metrics.point(name, y, truth), metrics.point(name, y, p)
        assert best != worse and (best > worse) == (metrics.better(name) == "higher"), name


def test_registry_tells_what_a_reader_needs() -> None:
    for name, m in METRICS.items():
        low, high = m.range
        assert m.name == name and low < high and m.description and m.tasks and m.function.__doc__
    with pytest.raises(KeyError, match="no metric 'acc'"):
        metrics.point("acc", np.zeros(2), np.zeros(2))


def test_the_direction_of_a_measure_is_said_once_and_everything_follows_it() -> None:
    lower = {name for name in METRICS if metrics.better(name) == "lower"}
    assert lower == {"brier", "ece", "mae", "rmse"} and metrics.better("calibration_slope") is None
    assert metrics.better("nobody") is None and metrics.sign("nobody") == metrics.sign("auc") == 1
    nan = float("nan")
    assert metrics.sign("mae") == -1 and metrics.best([nan, 3.0, 1.0, 1.0], "mae") == 2
    assert metrics.best([0.2, 0.9, 0.9], "auc") == 1 and metrics.best([nan], "auc") is None
    y, close, far = np.arange(9.0), np.arange(9.0) + 0.1, np.arange(9.0) + 2
    found = compare_two(y, close, far, np.arange(9), "mae", task="regression")
    assert found.difference < 0 and found.p_superior > 0.95  # less error is better
    assert {n for n in METRICS if METRICS[n].unit == "target"} == {"mae", "rmse"}
    assert {n for n in METRICS if METRICS[n].decimals == 3} == {"brier", "ece"}


def test_a_task_registers_a_measure_of_its_own_in_its_own_file() -> None:
    @metric("landmark", (0, np.inf), "distance in pixels", direction="lower", decimals=1, unit="px", title=("D", "距"))
    def gap(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> np.ndarray:
        total, n = weights.sums(np.abs(y_pred - y_true), np.ones(len(y_true)))
        return total / n

    try:
        assert metrics.for_task("landmark") == ["gap"] and metrics.sign("gap") == -1
        assert metrics.point("gap", np.zeros(2), np.array([1.0, 3.0])) == 2
        told = {"direction": "lower", "decimals": 1, "unit": "px", "description": "distance in pixels", "ranks": False}
        assert metrics.told(["gap", "nobody", "bias"]) == {
            "gap": told | {"title": ["D", "距"]},
            "bias": {"direction": None, "decimals": None, "unit": "target"},
        }
        with pytest.raises(ValueError, match="gap stands already"):
            metric("landmark", (0, 1), "again")(gap)
    finally:
        del METRICS["gap"]
