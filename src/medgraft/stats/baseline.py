"""How far do acquisition facts alone get? A data set that size, length or brightness can solve proves nothing about
models.

Whether they get further than chance is told by a permutation of patients, not by the interval: the networks of
cross-validation share training patients, so their errors on noise go together and an interval that takes the folds for
independent lies wholly above one half too often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from medgraft.stats.association import donors
from medgraft.stats.intervals import Interval, bootstrap
from medgraft.stats.kinds import BINARY, MULTICLASS, Kind

PERMUTATIONS = 199  # the smallest p is 1 / 200
STEPS = 8  # of Newton's method at most; on noise three or four suffice
BLOCK = 1 << 22  # numbers of permuted facts held at a time
C = 1.0  # strength of the regressions, as scikit-learn names it


def _with_squares(z: np.ndarray) -> np.ndarray:
    return np.hstack([z, z**2])


@dataclass(frozen=True)
class _Asked:
    """Facts (n, f) of the cases with a label, class codes (n,), patients (n,), and who is held out when (n,); no fold
    where nothing can be trained.
    """

    facts: np.ndarray
    codes: np.ndarray
    patient: np.ndarray
    fold: np.ndarray
    classes: int
    folds: int

    @property
    def kind(self) -> tuple[Kind, str]:
        return (BINARY, "auc") if self.classes <= 2 else (MULTICLASS, "macro_auc")


def _ask(facts: np.ndarray, y: np.ndarray, patient: np.ndarray, folds: int, seed: int) -> _Asked:
    """Cases with a label, dealt into stratified folds by patient; raises ``ValueError`` where lengths differ."""
    from sklearn.model_selection import StratifiedGroupKFold

    facts, y = np.atleast_2d(np.asarray(facts, dtype=np.float64)), np.asarray(y, dtype=np.float64)
    patient = np.asarray(patient)
    if facts.shape[0] != len(y) or len(patient) != len(y):
        raise ValueError(f"facts {facts.shape}, {len(y)} labels and {len(patient)} patients do not fit")
    facts = np.where(np.isfinite(facts), facts, np.nan)
    known = ~np.isnan(y)
    facts, y, patient = facts[known], y[known], patient[known]
    facts = facts[:, ~np.isnan(facts).all(axis=0)]
    classes, codes = np.unique(y, return_inverse=True)
    fold = np.zeros(len(y), dtype=np.int64)
    smallest = min((len(np.unique(patient[codes == c])) for c in range(len(classes))), default=0)
    folds = min(folds, smallest)
    if len(classes) < 2 or folds < 2 or not facts.shape[1]:
        return _Asked(facts, codes, patient, fold, len(classes), 0)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(splitter.split(facts, codes, patient)):
        fold[test] = number
    return _Asked(facts, codes, patient, fold, len(classes), folds)


def trivial_auc(
    facts: np.ndarray,
    y: np.ndarray,
    patient: np.ndarray,
    folds: int = 5,
    seed: int = 0,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """AUC of a logistic regression on facts (n, f) such as height, width, frames and mean intensity, on patients it has
    not seen.

    ``y`` (n,) class indices (two classes: AUC of class 1; more: macro one-versus-rest), NaN rows dropped. Facts are
    standardised, each also squared so that 'the middle sizes' is found too; missing facts take the training median.
    Patients stay in one fold and folds are stratified. Cases are ranked within their fold, as those of models are:
    pooled raw scores of different folds have an AUC biased below .5 (Airola et al. 2011). Fewer folds are used when a
    class has fewer patients than ``folds``; with fewer than two the value is NaN. The interval holds the fitted
    regressions fixed; whether the value is more than chance is for ``chance`` to say.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    asked = _ask(facts, y, patient, folds, seed)
    kind, metric = asked.kind
    scores = np.full((len(asked.codes), max(asked.classes, 2)), np.nan)
    for number in range(asked.folds):
        train, test = asked.fold != number, asked.fold == number
        model = make_pipeline(
            SimpleImputer(strategy="median", keep_empty_features=True),
            StandardScaler(),
            FunctionTransformer(_with_squares),
            StandardScaler(),
            LogisticRegression(C=C, max_iter=2000),
        )
        model.fit(asked.facts[train], asked.codes[train])
        if len(model.classes_) == asked.classes:
            scores[test] = model.predict_proba(asked.facts[test])
    y_pred = scores[:, 1] if kind is BINARY else scores
    return bootstrap(
        asked.codes,
        y_pred,
        asked.patient,
        [metric],
        task=kind.name,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
        strata=asked.fold,
    )[metric]


def chance(
    facts: np.ndarray,
    y: np.ndarray,
    patient: np.ndarray,
    folds: int = 5,
    seed: int = 0,
    *,
    permutations: int = PERMUTATIONS,
) -> float:
    """How often facts that know nothing of the labels get as far as these: p by permutation of patients.

    Arguments as in ``trivial_auc``. Each patient gets the facts of another (of its cases in turn); labels and the folds
    that were stratified by them stay, which is a permutation of the labels with their folds. The statistic is the
    same cross-validated AUC, of ridge logistic regressions (each class against the rest) by Newton's method over a
    block of permutations at once. p = (1 + as high or higher) / (1 + permutations), one-sided; NaN where no
    regression can be trained.
    """
    asked = _ask(facts, y, patient, folds, seed)
    if not asked.folds:
        return float("nan")
    groups = np.unique(asked.patient, return_inverse=True)[1]
    observed = _auc(asked, np.arange(len(groups))[None])[0]
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // max(1, 2 * asked.facts.size))
    reached = 0
    for start in range(0, permutations, block):
        moved = donors(groups, rng, min(block, permutations - start))
        reached += int((_auc(asked, moved) >= observed - 1e-9).sum())
    return (1 + reached) / (1 + permutations)


def _auc(asked: _Asked, places: np.ndarray) -> np.ndarray:
    """Cross-validated AUC (m,) of facts dealt out anew: row k of ``places`` (m, n) says whose facts each case has."""
    labels = [asked.codes == 1] if asked.classes == 2 else [asked.codes == c for c in range(asked.classes)]
    order = np.zeros((len(labels), len(places)))  # pairs in order
    pairs = np.zeros(len(labels))
    for number in range(asked.folds):
        train, test = np.flatnonzero(asked.fold != number), np.flatnonzero(asked.fold == number)
        learnt, judged = _features(asked.facts[places[:, train]], asked.facts[places[:, test]])
        for k, yes in enumerate(labels):
            if yes[train].all() or not yes[train].any():
                continue
            scores = np.einsum("mnd,md->mn", judged, _newton(learnt, yes[train].astype(np.float64)))
            ones = int(yes[test].sum())
            ranks = rankdata(np.round(scores, 10), axis=1)
            order[k] += ranks[:, yes[test]].sum(axis=1) - ones * (ones + 1) / 2
            pairs[k] += ones * (len(test) - ones)
    return np.asarray((order[pairs > 0] / pairs[pairs > 0, None]).mean(axis=0)) if (pairs > 0).any() else order[0]


def _features(learnt: np.ndarray, judged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Facts (m, n, f) of training and test cases as the regressions take them, with a one in front: gaps filled,
    standardised, squared, standardised.
    """
    if np.isnan(learnt).any() or np.isnan(judged).any():
        nowhere = np.isnan(learnt).all(axis=1, keepdims=True)
        middle = np.nanmedian(np.where(nowhere, 0.0, learnt), axis=1, keepdims=True)
        learnt, judged = (np.where(np.isnan(x), middle, x) for x in (learnt, judged))
    for squares in (True, False):
        mean, spread = learnt.mean(axis=1, keepdims=True), learnt.std(axis=1, keepdims=True)
        spread = np.where(spread > 1e-12, spread, 1.0)
        learnt, judged = ((x - mean) / spread for x in (learnt, judged))
        if squares:
            learnt, judged = (np.concatenate([x, x**2], axis=2) for x in (learnt, judged))
    one = [np.concatenate([np.ones((*x.shape[:2], 1)), x], axis=2) for x in (learnt, judged)]
    return one[0], one[1]


def _newton(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights (m, d) of m ridge logistic regressions on features (m, n, d), the first one free of the penalty."""
    penalty = np.full(x.shape[2], 1.0 / C)
    penalty[0] = 1e-9
    weights = np.zeros((len(x), x.shape[2]))
    turned = np.ascontiguousarray(x.transpose(0, 2, 1))
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(np.matmul(x, weights[:, :, None])[:, :, 0], -30, 30)))
        slope = np.matmul(turned, (p - y)[:, :, None])[:, :, 0] + penalty * weights
        curve = np.matmul(turned * (p * (1 - p))[:, None, :], x) + np.diag(penalty)
        step = np.linalg.solve(curve, slope[:, :, None])[:, :, 0]
        weights = weights - step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def facts_alone(facts: np.ndarray, y: np.ndarray, patient: np.ndarray) -> str:
    """What size and brightness alone tell of a simulated set, in a sentence: it must be next to nothing.

    Arguments as in ``trivial_auc``.
    """
    found = trivial_auc(facts, y, patient)
    return (
        f"size, mean and spread of brightness alone give AUC {found.value:.2f} ({found.low:.2f} to "
        f"{found.high:.2f}); the limit is .65"
    )
