"""Linear heads against scikit-learn's own solutions, and the choice of their strength against a loop by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from medgraft.config import TrainConfig
from medgraft.data.dataset import TargetSpec
from medgraft.engine.features import fit_closed_form
from medgraft.models.heads import LinearHead
from medgraft.stats import metrics
from medgraft.tasks import linear
from medgraft.tasks.classify import Classify
from medgraft.tasks.regress import Regress


def cloud(n: int, size: int, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Correlated features (n, size), labels 0..classes-1, a quantity, and groups of up to three cases."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 8))
    x = hidden @ rng.normal(size=(8, size)) + 0.7 * rng.normal(size=(n, size))
    y = (hidden[:, :classes] + rng.normal(size=(n, classes))).argmax(1).astype(float)
    return linear.standardise(x)[0], y, hidden[:, 0] + 0.5 * rng.normal(size=n), rng.integers(n // 2, size=n)


def auc(truth: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> float:
    return metrics.point("auc", truth, scores, strata=folds)


def right(truth: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> float:
    return metrics.point("balanced_accuracy", truth.astype(int), scores)


def close(truth: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> float:
    return -metrics.point("mae", truth, scores)


@pytest.mark.parametrize("c", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize(("n", "size"), [(40, 300), (120, 30)])
def test_the_optimum_is_that_of_scikit_learn(n: int, size: int, c: float) -> None:
    for classes, kind, judge in ((2, "yes", auc), (4, "classes", right)):
        x, y, quantity, groups = cloud(n, size, classes)
        weights = linear.class_weights(y)
        assert weights.mean() == pytest.approx(1.0)
        assert np.ptp([weights[y == k].sum() for k in range(classes)]) < 1e-9
        oracle = LogisticRegression(C=c, max_iter=100_000, tol=1e-10, class_weight="balanced").fit(x, y)
        found = linear.fit(x, y, groups, kind=kind, judge=judge, c=c, seed=0, weights=weights)
        np.testing.assert_allclose(found.weight, oracle.coef_, atol=1e-5 * np.abs(oracle.coef_).max())
        np.testing.assert_allclose(found.bias, oracle.intercept_, atol=1e-5)
    oracle = Ridge(alpha=1 / c).fit(x, quantity)
    found = linear.fit(x, quantity, groups, kind="quantity", judge=close, c=c, seed=0)
    np.testing.assert_allclose(found.weight[0], oracle.coef_, atol=1e-6 * np.abs(oracle.coef_).max())
    assert found.bias[0] == pytest.approx(oracle.intercept_, abs=1e-8)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", ["yes", "classes", "quantity"])
def test_the_strength_is_the_choice_of_a_loop_by_hand(kind: str, seed: int) -> None:
    """Five grouped folds, each fitted alone by scikit-learn; of what the measure cannot tell apart the least loss."""
    x, y, quantity, groups = cloud(90, 40, 2 if kind == "yes" else 3, seed)
    y = quantity if kind == "quantity" else y
    judge = {"yes": auc, "classes": right, "quantity": close}[kind]
    splitter = GroupKFold(5) if kind == "quantity" else StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    fold, rated, losses, jackknife = np.zeros(len(y), int), [], [], []
    for c in linear.GRID:
        scores = np.zeros((len(y), 3) if kind == "classes" else len(y))
        for number, (train, held) in enumerate(splitter.split(x, y, groups)):
            fold[held] = number
            if kind == "quantity":
                scores[held] = Ridge(alpha=1 / c).fit(x[train], y[train]).predict(x[held])
                continue
            fitted = LogisticRegression(C=c, max_iter=100_000, tol=1e-10).fit(x[train], y[train])
            probability = fitted.predict_proba(x[held])
            scores[held] = probability if kind == "classes" else probability[:, 1]
        rated.append(judge(y, scores, fold))
        jackknife.append([judge(y[fold != k], scores[fold != k], fold[fold != k]) for k in range(5)])
        if kind == "quantity":
            losses.append(np.mean((scores - y) ** 2))
        else:
            p = scores[np.arange(len(y)), y.astype(int)] if kind == "classes" else np.where(y == 1, scores, 1 - scores)
            losses.append(-np.log(p).mean())
    first = int(np.argmax(rated))
    behind = np.array(jackknife[first]) - np.array(jackknife)
    error = np.sqrt(4 / 5 * ((behind - behind.mean(1, keepdims=True)) ** 2).sum(1))
    near = [k for k in range(5) if rated[first] - rated[k] <= error[k] or k == first]
    want = min(near, key=lambda k: losses[k])
    found = linear.fit(x, y, groups, kind=kind, judge=judge, c=None, seed=seed)
    assert found.c == linear.GRID[want]
    alone = linear.fit(x, y, groups, kind=kind, judge=judge, c=found.c, seed=seed)
    np.testing.assert_allclose(found.weight, alone.weight, atol=1e-5 * np.abs(alone.weight).max())  # warm or cold


def test_the_reported_measure_rules_where_it_can_tell() -> None:
    """A strength that ranks far better is taken although its loss is worse."""
    fold = np.repeat(np.arange(5), 8)
    y = np.tile([0.0, 1.0], 20)
    sharp, flat = np.where(y == 1, 0.51, 0.49) * 0.02, np.full(40, 0.5) + np.tile([0.1, 0.0, -0.1, 0.0], 10)
    assert auc(y, sharp, fold) == 1 and auc(y, flat, fold) < 0.8
    assert linear._chosen(y, [flat, sharp], fold, [0.1, 9.0], auc) == 1
    assert linear._chosen(y, [flat, flat + 0.01], fold, [0.2, 0.1], auc) == 1


def test_groups_stay_together_and_folds_without_a_class_are_left_out() -> None:
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], float)
    groups = np.arange(12) // 2
    held = linear._folds(y, groups, 0, "classes")
    assert len(held)
    for out in held:
        assert not set(groups[out]) & set(groups[~out])
        assert len(np.unique(y[~out])) == 3
    assert held.sum(0).max() == 1
    assert not len(linear._folds(y, np.zeros(12, int), 0, "classes"))  # one patient: nothing to fold


def specs(kind: str, n: int) -> list[TargetSpec]:
    if kind == "classes":
        return [TargetSpec("t", "classes", tuple("abc"), None)]
    return [TargetSpec(f"t{k}", "binary", ("no", "yes"), "yes") for k in range(n)]


def test_classes_weigh_the_same_and_an_absent_one_is_never_said() -> None:
    x, y, _, groups = cloud(90, 20, 2)
    rare = np.flatnonzero(y == 1)[8:]
    keep = np.setdiff1d(np.arange(90), rare)
    x, y, groups = x[keep], np.where(y[keep] == 1, 2.0, 0.0), groups[keep]  # class 1 has no case
    found = Classify(specs("classes", 1)).closed_form(x, y[:, None], groups, c=1e-3, seed=0)
    assert found is not None
    logits = x @ found.weight.T + found.bias
    assert (logits[:, 1] < logits[:, [0, 2]].min(1)).all()
    calls = logits.argmax(1)
    assert (calls[y == 2] == 2).mean() > 0.6  # eight cases beside forty or so: unweighted, none would be called
    plain = LogisticRegression(C=1e-3).fit(x, y)
    assert (plain.predict(x[y == 2]) == 2).mean() < 0.3


def test_a_yes_weighs_as_the_recipe_says() -> None:
    x, y, _, groups = cloud(80, 20, 2)
    y = np.where(np.arange(80) % 3 == 0, y, 0.0)
    for weight, balanced in ((1.0, False), (4.0, False), ("balanced", False), (1.0, True)):
        task = Classify(specs("yes", 1), weight=weight)
        task.fit(y[:, None])
        found = task.closed_form(x, y[:, None], groups, c=1e-2, seed=0, balanced=balanced)
        positive = {1.0: 1.0, 4.0: 4.0, "balanced": (y == 0).sum() / y.sum()}[weight]
        want = {0: 1.0, 1: positive}
        if balanced:
            want = {k: len(y) / (2 * (y == k).sum()) for k in (0, 1)}
        oracle = LogisticRegression(C=1e-2, tol=1e-10, max_iter=10_000, class_weight=want).fit(x, y)
        assert found is not None
        np.testing.assert_allclose(found.weight, oracle.coef_, atol=1e-4)
        np.testing.assert_allclose(found.bias, oracle.intercept_, atol=1e-4)


def test_a_missing_label_takes_no_part_and_each_quantity_has_its_own_ridge() -> None:
    x, _, quantity, groups = cloud(60, 10)
    both = np.column_stack([quantity, 100 - 3 * quantity])
    both[::4, 1] = np.nan
    task = Regress([TargetSpec("a", "regress", (), None), TargetSpec("b", "regress", (), None)])
    task.fit(both)
    found = task.closed_form(x, both, groups, c=1.0, seed=0)
    assert found is not None
    for j in range(2):
        known = ~np.isnan(both[:, j])
        spread, centre = np.nanstd(both[:, j]), np.nanmean(both[:, j])
        mine = (x[known] @ found.weight[j] + found.bias[j]) * spread + centre
        z, *_ = linear.standardise(x)
        oracle = Ridge(alpha=1.0).fit(z[known], (both[known, j] - centre) / spread)
        np.testing.assert_allclose(mine, oracle.predict(z[known]) * spread + centre, rtol=1e-4)


def test_constant_and_doubled_features_and_a_perfect_split_have_an_answer() -> None:
    x, y, _, groups = cloud(50, 12, 2)
    x = np.hstack([x, x, np.zeros((50, 3))])
    found = linear.fit(x, y, groups, kind="yes", judge=auc, c=1.0, seed=0)
    np.testing.assert_allclose(found.weight[0, :12], found.weight[0, 12:24], atol=1e-6)
    assert not found.weight[0, 24:].any()
    split = np.where(y == 1, 5.0, -5.0)[:, None]
    found = linear.fit(split, y, groups, kind="yes", judge=auc, c=None, seed=0)
    assert np.isfinite(found.weight).all() and found.weight[0, 0] > 0
    with np.errstate(all="raise"):
        linear.fit(1e3 * split, y, groups, kind="yes", judge=auc, c=1e4, seed=0)


def test_tasks_judge_by_the_measures_they_report() -> None:
    y, fold = np.tile([0.0, 1.0], 20), np.repeat([0, 1], 20)
    drifting = np.where(y == 1, 0.6, 0.4) + 0.3 * fold  # right in each fold, not across them
    assert Classify(specs("yes", 1))._ranked(y, drifting, fold) == 1
    task = Regress([TargetSpec("a", "regress", (), None)])
    assert task._close(y, y + 0.1, fold) > task._close(y, y + 0.5, fold)


@pytest.mark.parametrize("balanced", [False, True])
def test_drawing_classes_equally_often_means_weights_in_a_closed_form(balanced: bool) -> None:
    x, y, _, groups = cloud(60, 10)
    y = np.where(np.arange(60) % 3 == 0, y, 0.0)
    model = SimpleNamespace(head=LinearHead(10, 1))
    samples = SimpleNamespace(case_features=lambda: x, labels=lambda: y[:, None])
    setting = TrainConfig(logistic_c=0.1, balanced=balanced)
    fit_closed_form(model, Classify(specs("yes", 1)), samples, setting, groups=groups, seed=0)
    oracle = LogisticRegression(C=0.1, tol=1e-10, class_weight="balanced" if balanced else None).fit(x, y)
    np.testing.assert_allclose(model.head.linear.weight.detach().numpy(), oracle.coef_, atol=1e-3)
