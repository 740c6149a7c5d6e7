"""What is odd about the cases and the answers, and must be read with the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from medgraft.notices import Notice, notice
from medgraft.stats.bounds import FEW, TOO_FEW
from medgraft.stats.intervals import MINIMUM_PATIENTS, Interval
from medgraft.stats.judged import Judged
from medgraft.stats.kinds import Question

FEW_PATIENTS = 50  # below it intervals are rough
UNDEFINED_SHARE = 0.05  # of the resamples, from which on it is said
FEW_STEPS = 200  # of a network that trains; below it has rarely begun to learn
LEARNT = 0.9  # a training loss above this share of its first value has not clearly fallen


def of_data(
    asked: Question,
    judged: dict[str, Judged],
    intervals: dict[str, Interval],
    run: dict[str, Any],
    unit: str,
    warnings: list[Notice],
) -> None:
    """What is wrong with the cases themselves, said once."""
    if run.get("patient") == "none" and not any(w.kind == "patient_none" for w in warnings):
        warnings.append(notice("patients_unknown"))
    fewest = min((i.n_units for i in intervals.values()), default=0)
    if fewest < MINIMUM_PATIENTS:
        warnings.append(notice("too_few", n=fewest, units=unit))
    elif fewest < FEW_PATIENTS:
        warnings.append(notice("few", n=fewest, units=unit, few=FEW_PATIENTS))
    smallest = min((i.n_smallest for i in intervals.values() if i.n_smallest is not None), default=FEW)
    if fewest >= MINIMUM_PATIENTS and smallest < TOO_FEW:
        warnings.append(notice("too_few_of_class", n=smallest, units=unit, least=TOO_FEW))
    elif fewest >= MINIMUM_PATIENTS and smallest < FEW:
        warnings.append(notice("few_of_class", n=smallest, units=unit, few=FEW))
    absent: list[Notice] = []
    folds: list[Notice] = []
    for answers in judged.values():
        for name, y, classes in asked.kind.labels(asked, answers):
            present = set(np.unique(y[~np.isnan(y)]).astype(int))
            gone = [c for k, c in enumerate(classes) if k not in present]
            if len(present) < 2:
                absent.append(notice("one_class", target=name, classes=[classes[k] for k in present]))
            elif gone:
                absent.append(notice("class_absent", target=name, classes=gone))
            for fold in np.unique(answers.outer[0]):
                here = y[answers.outer[0] == fold]
                here = here[~np.isnan(here)]
                if len(here) and len(np.unique(here)) < len(present):
                    folds.append(notice("fold_lacks_class", target=name, fold=int(fold)))
    warnings += dict.fromkeys([*absent, *folds])


def of_coverage(by_case: dict[str, Judged], cells: pl.DataFrame, warnings: list[Notice]) -> None:
    """Which models were not judged on all the cases that some model was judged on."""
    union = set().union(*(set(a.cases.tolist()) for a in by_case.values()))
    folds = set(cells.filter(pl.col("inner") == -1)["outer"].to_list())
    partial = False
    for name, answers in by_case.items():
        if len(answers.cases) < len(union):
            partial = True
            missing = sorted(folds - set(np.unique(answers.outer).tolist()))
            counts = {"model": name, "n": len(answers.cases), "all": len(union)}
            warnings.append(
                notice("part_judged_folds", **counts, folds=missing) if missing else notice("part_judged", **counts)
            )
    if partial:
        warnings.append(notice("different_cases"))


def of_model(name: str, asked: Question, answers: Judged, interval: Interval, warnings: list[Notice]) -> None:
    """What is odd about one model's answers."""
    if np.isnan(answers.y_pred).any():
        return  # said when the answers were read
    scores = answers.y_pred.reshape(len(answers.seeds), len(answers.cases), -1)
    constant = [s for s, p in zip(answers.seeds, scores) if len(p) > 1 and (np.ptp(p, axis=0) == 0).all()]
    if constant and "constant" in asked.kind.caveats:
        warnings.append(notice("same_score", model=name, seeds=constant))
    elif "ties" in asked.kind.caveats and len(answers.cases) >= 10:
        fewest = min(len(np.unique(p)) for p in scores)
        if fewest < len(answers.cases) / 2:
            warnings.append(notice("tied_scores", model=name, n=fewest, all=len(answers.cases)))
    if np.isnan(interval.value):
        if "undefined" in asked.kind.caveats:
            warnings.append(notice("undefined", model=name, metric=asked.primary))
        return
    if interval.degenerate and not constant:
        warnings.append(notice("never_varies", model=name, metric=asked.primary, value=interval.value))
    if interval.undefined > UNDEFINED_SHARE and interval.n_units >= MINIMUM_PATIENTS:
        warnings.append(notice("often_undefined", model=name, metric=asked.primary, share=interval.undefined))


def of_training(cells: Mapping[str, str], facts: Mapping[str, Mapping[str, Any]]) -> list[Notice]:
    """Arms whose training stopped before it had learned: few steps of a whole network, or a loss that did not fall.

    ``cells`` maps a cell's hash to its arm, ``facts`` to what its training left: ``horizon`` (steps), ``losses`` (mean
    of the first and of the last steps; None where there were too few), ``body_trains``. An arm is told by its shortest
    training, and by the training whose loss fell least.
    """
    found: list[Notice] = []
    for arm in dict.fromkeys(cells.values()):
        own = [facts[cell] for cell, name in cells.items() if name == arm and cell in facts]
        steps = [f["horizon"] for f in own if f.get("body_trains") and f.get("horizon") is not None]
        if steps and min(steps) < FEW_STEPS:
            found.append(notice("few_steps", model=arm, n=min(steps), few=FEW_STEPS))
        losses = [(float(f["losses"][0]), float(f["losses"][1])) for f in own if f.get("losses")]
        stayed = [pair for pair in losses if pair[0] > 0 and pair[1] > LEARNT * pair[0]]
        if stayed:
            first, last = max(stayed, key=lambda pair: pair[1] / pair[0])
            found.append(notice("loss_stays", model=arm, first=first, last=last))
    return found
