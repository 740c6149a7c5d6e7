"""Every case by every model: agreement, heat map, and the cases that all models get wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from medgraft.stats.judged import Entry, Judged
from medgraft.stats.kinds import Question

WORST = 12  # cases listed where there is no right and wrong


def scatter(asked: Question, judged: dict[str, Judged]) -> dict[str, list[Entry]]:
    """Truth and mean prediction of each case, for quantities."""
    if "scatter" not in asked.kind.curves:
        return {}
    result: dict[str, list[Entry]] = {}
    for name, a in judged.items():
        assert a.y_true is not None
        truth, mean = a.y_true.reshape(len(a.cases), -1), a.y_pred.mean(axis=0).reshape(len(a.cases), -1)
        result[name] = [
            {"case_id": case, "target": target, "y_true": float(truth[i, t]), "y_pred": float(mean[i, t])}
            for t, target in enumerate(asked.targets)
            for i, case in enumerate(a.cases.tolist())
            if not np.isnan(truth[i, t])
        ]
    return result


def _known_cases(judged: dict[str, Judged]) -> dict[str, tuple[str, Any]]:
    """case -> (patient, truth) over all models."""
    found: dict[str, tuple[str, Any]] = {}
    for a in judged.values():
        for i, case in enumerate(a.cases.tolist()):
            found.setdefault(case, (str(a.patients[i]), None if a.y_true is None else a.y_true[i]))
    return found


def heatmap(asked: Question, judged: dict[str, Judged], cases: list[str]) -> dict[str, Any]:
    """Model x case, hardest cases first inside each class; NaN where a model did not judge a case."""
    known = _known_cases(judged)
    column = {case: j for j, case in enumerate(cases)}
    values = np.full((len(judged), len(cases)), np.nan)
    for i, a in enumerate(judged.values()):
        values[i, [column[c] for c in a.cases.tolist()]] = asked.kind.case_values(asked, a)
    counted = ~np.isnan(values)
    mean = np.where(counted, values, 0).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
    hardest = -mean if asked.kind.hardest == "high" else mean

    def key(j: int) -> tuple[Any, float, str]:
        truth = known[cases[j]][1]
        group = tuple(np.nan_to_num(np.atleast_1d(truth), nan=-1).tolist()) if asked.kind.wrong is not None else ()
        return group, float(hardest[j]), cases[j]

    order = sorted(range(len(cases)), key=key)
    told = [
        {"case_id": cases[j], "patient_id": known[cases[j]][0], "label": asked.kind.label(asked, known[cases[j]][1])}
        for j in order
    ]
    return {"models": list(judged), "cases": told, "values": values[:, order].tolist()}


def missed(asked: Question, judged: dict[str, Judged], thresholds: dict[str, np.ndarray]) -> list[Entry]:
    """Cases that every model gets wrong; where there is no right and wrong the worst by mean."""
    if not judged:
        return []
    shared = sorted(set.intersection(*(set(a.cases.tolist()) for a in judged.values())))
    if not shared:
        return []
    rows = {name: np.searchsorted(a.cases, shared) for name, a in judged.items()}  # cases are sorted
    values = {name: asked.kind.case_values(asked, judged[name])[rows[name]] for name in judged}
    mean = np.mean(list(values.values()), axis=0)
    known = _known_cases(judged)
    if (of_model := asked.kind.wrong) is not None:
        wrong = np.all([of_model(asked, a, thresholds[name])[rows[name]] for name, a in judged.items()], axis=0)
        chosen = [i for i in np.argsort(mean, kind="stable") if wrong[i].any()]
    else:
        hardest = -mean if asked.kind.hardest == "high" else mean
        chosen = [i for i in np.argsort(hardest, kind="stable") if not np.isnan(hardest[i])][:WORST]
        wrong = np.zeros((len(shared), 0), dtype=bool)
    result = []
    for i in chosen:
        entry = {
            "case_id": shared[i],
            "patient_id": known[shared[i]][0],
            "label": asked.kind.label(asked, known[shared[i]][1]),
            "values": {name: float(values[name][i]) for name in judged},
        }
        if wrong.shape[1] > 1:
            entry["targets"] = [t for (t, _), miss in zip(asked.columns, wrong[i]) if miss]
        result.append(entry)
    return result
