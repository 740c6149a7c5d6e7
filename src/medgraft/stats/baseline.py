"""How far do acquisition facts alone get? A data set that size, length or brightness can solve proves nothing about
models.
"""

from __future__ import annotations

import numpy as np

from medgraft.stats.intervals import Interval, bootstrap
from medgraft.stats.kinds import BINARY, MULTICLASS


def _with_squares(z: np.ndarray) -> np.ndarray:
    return np.hstack([z, z**2])


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
    class has fewer patients than ``folds``; with fewer than two the value is NaN.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    facts, y, patient = (
        np.atleast_2d(np.asarray(facts, dtype=np.float64)),
        np.asarray(y, dtype=np.float64),
        np.asarray(patient),
    )
    if facts.shape[0] != len(y) or len(patient) != len(y):
        raise ValueError(f"facts {facts.shape}, {len(y)} labels and {len(patient)} patients do not fit")
    facts = np.where(np.isfinite(facts), facts, np.nan)
    known = ~np.isnan(y)
    facts, y, patient = facts[known], y[known], patient[known]
    facts = facts[:, ~np.isnan(facts).all(axis=0)]
    classes, codes = np.unique(y, return_inverse=True)
    kind, metric = (BINARY, "auc") if len(classes) <= 2 else (MULTICLASS, "macro_auc")
    scores = np.full((len(y), max(len(classes), 2)), np.nan)
    fold = np.zeros(len(y), dtype=np.int64)
    smallest = min((len(np.unique(patient[codes == c])) for c in range(len(classes))), default=0)
    folds = min(folds, smallest)
    if len(classes) >= 2 and folds >= 2 and facts.shape[1]:
        splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
        for number, (train, test) in enumerate(splitter.split(facts, codes, patient)):
            fold[test] = number
            model = make_pipeline(
                SimpleImputer(strategy="median", keep_empty_features=True),
                StandardScaler(),
                FunctionTransformer(_with_squares),
                StandardScaler(),
                LogisticRegression(C=1.0, max_iter=2000),
            )
            model.fit(facts[train], codes[train])
            if len(model.classes_) == len(classes):
                scores[test] = model.predict_proba(facts[test])
    y_pred = scores[:, 1] if kind is BINARY else scores
    return bootstrap(
        codes,
        y_pred,
        patient,
        [metric],
        task=kind.name,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
        strata=fold,
    )[metric]


def facts_alone(facts: np.ndarray, y: np.ndarray, patient: np.ndarray) -> str:
    """What size and brightness alone tell of a simulated set, in a sentence: it must be next to nothing.

    Arguments as in ``trivial_auc``.
    """
    found = trivial_auc(facts, y, patient)
    return (
        f"size, mean and spread of brightness alone give AUC {found.value:.2f} ({found.low:.2f} to "
        f"{found.high:.2f}); the limit is .65"
    )
