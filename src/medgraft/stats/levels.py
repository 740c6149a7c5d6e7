"""At which level numbers stand (case or patient), and from which score on a case is called positive."""

from __future__ import annotations

from typing import Any

import numpy as np

from medgraft.notices import Notice, notice
from medgraft.stats.judged import Judged, by_patient
from medgraft.stats.kinds import Question


def level_of(
    asked: Question, by_case: dict[str, Judged], run: dict[str, Any], warnings: list[Notice]
) -> tuple[str, dict[str, Judged]]:
    """The level at which the numbers stand, and the answers at it."""
    wanted = str(run.get("level") or "case")
    if wanted == "patient" and asked.kind.by_patient:
        patients = {name: by_patient(answers) for name, answers in by_case.items()}
        whole = {name: answers for name, answers in patients.items() if answers is not None}
        if len(whole) == len(patients):
            return "patient", whole
        warnings.append(notice("labels_differ"))
    elif wanted == "study":
        warnings.append(notice("labels_on_studies"))
    return "case", by_case


def majority_share(y_true: np.ndarray) -> float:
    """Accuracy of always naming the most frequent class of yes/no or class labels (n,); NaN without labels."""
    known = y_true[~np.isnan(y_true)]
    return float(np.unique(known, return_counts=True)[1].max() / len(known)) if len(known) else float("nan")


def majority(asked: Question, by_case: dict[str, Judged]) -> float | None:
    """Accuracy of always naming the most frequent class, over all judged cases."""
    if "majority" not in asked.kind.beside or not by_case:
        return None
    truth = {c: float(y) for a in by_case.values() if a.y_true is not None for c, y in zip(a.cases.tolist(), a.y_true)}
    return majority_share(np.array(list(truth.values())))


def judged_counts(asked: Question, by_case: dict[str, Judged]) -> dict[str, Any]:
    """Cases that some model was judged on: ``{cases, patients, targets: {name: cases with a value}, models: {id:
    cases}}``; ``targets`` is empty where masks are judged.
    """
    patients: dict[str, str] = {}
    known: dict[str, set[str]] = {}
    for answers in by_case.values():
        cases = answers.cases.tolist()
        patients |= dict(zip(cases, answers.patients.tolist()))
        if answers.y_true is None:
            continue
        labels = answers.y_true.reshape(len(cases), -1)
        for k, target in enumerate(asked.targets):
            found = known.setdefault(target, set())
            found |= {case for case, there in zip(cases, ~np.isnan(labels[:, k])) if there}
    return {
        "cases": len(patients),
        "patients": len(set(patients.values())),
        "targets": {target: len(cases) for target, cases in known.items()},
        "models": {name: len(answers.cases) for name, answers in by_case.items()},
    }


def patient_level(by_case: dict[str, Judged], name: str) -> Judged | None:
    """A model's answers by patient, where that says something else than by case."""
    answers = by_case[name]
    return by_patient(answers) if len(np.unique(answers.patients)) < len(answers.cases) else None


def _given(run: dict[str, Any], name: str) -> Any:
    return (run.get("thresholds") or {}).get(name)


def threshold_of(run: dict[str, Any], name: str, answers: Judged) -> np.ndarray:
    """Threshold for each case (n,): 0.5 or as chosen on inner parts, for the fold that tested the case."""
    given = _given(run, name)
    if isinstance(given, dict):
        table = {int(k): float(v) for k, v in given.items()}
        return np.array([table.get(int(fold), 0.5) for fold in answers.outer[0]])
    return np.full(len(answers.cases), 0.5 if given is None else float(given))


def threshold_told(run: dict[str, Any], answers: Judged) -> tuple[Any, str]:
    if answers.votes is not None:
        return 0.5, "majority vote of the windows, each at 0.5"
    given = _given(run, answers.id)
    if given is None:
        return 0.5, "fixed at 0.5"
    return given, "Youden index on the inner parts" + (", for each outer fold" if isinstance(given, dict) else "")
