"""What the trivial answers get on the cases that models were judged on, and whether a model clearly beats them.

They are judged as models are: same cases, same measures, same intervals, same paired test. They take no rank and stand
in no family of pairs; the tests of all models against them are a family of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from medgraft import tables
from medgraft.notices import Notice, notice
from medgraft.stats.collect import collect
from medgraft.stats.compare import Difference, adjusted
from medgraft.stats.estimates import model_metrics
from medgraft.stats.intervals import Interval
from medgraft.stats.judged import Entry, Judged, by_patient
from medgraft.stats.kinds import Question
from medgraft.stats.levels import patient_level
from medgraft.stats.metrics import better, sign
from medgraft.stats.pairs import Calls, as_entry


@dataclass(frozen=True)
class Given:
    """Tables of the trivial answers, with the columns of a run's own, and their titles (English, Chinese) by name."""

    predictions: pl.DataFrame = field(default_factory=lambda: tables.empty("predictions"))
    measures: pl.DataFrame = field(default_factory=lambda: tables.empty("measures"))
    cells: pl.DataFrame = field(default_factory=lambda: tables.empty("cells"))
    titles: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def judged(
    given: Given, asked: Question, by_case: Mapping[str, Judged], level: str, run: Mapping[str, Any]
) -> dict[str, Judged]:
    """The trivial answers at the level of the numbers, by name, on the cases that some model was judged on."""
    if not len(given.cells):
        return {}
    everyone = sorted({case for answers in by_case.values() for case in answers.cases.tolist()})
    found: dict[str, Judged] = {}
    for answers in collect(given.predictions, given.measures, given.cells, asked, dict(run), []).values():
        name = answers.id.split(" · ")[1]
        mine = replace(answers.take(np.isin(answers.cases, everyone)), id=f"trivial · {name}")
        at_level = by_patient(mine) if level == "patient" else mine
        if at_level is not None and len(at_level.cases):
            found[name] = at_level
    return found


def entries(
    given: Given, found: dict[str, Judged], asked: Question, level: str, options: Mapping[str, Any]
) -> list[Entry]:
    """One entry a trivial answer, best first: ``{id, name, title: {en, zh}, metrics}``."""
    made = []
    for name, answers in found.items():
        metrics, _ = model_metrics(asked, answers, level, np.full(len(answers.cases), 0.5), dict(options))
        if level == "case" and (merged := patient_level(found, name)) is not None:
            metrics |= model_metrics(asked, merged, "patient", np.full(len(merged.cases), 0.5), dict(options))[0]
        for entry in metrics.values():
            if entry.get("value") == 0 == entry.get("low"):  # an answer that is nothing is right nowhere, for certain
                entry |= {"low": None, "high": None}
        title = dict(zip(("en", "zh"), given.titles[name]))
        made.append({"id": answers.id, "name": name, "title": title, "metrics": metrics})

    def key(entry: Entry) -> tuple[bool, float, str]:
        value = sign(asked.primary) * entry["metrics"][f"{level}.{asked.primary}"]["value"]
        return bool(np.isnan(value)), 0.0 if np.isnan(value) else -value, entry["name"]

    return sorted(made, key=key)


def compare(
    given: Given,
    found: Mapping[str, Judged],
    calls: Calls,
    intervals: Mapping[str, Interval],
    warnings: list[Notice],
) -> dict[str, Entry]:
    """By model: its lead over the best of the trivial answers on the primary measure, on the cases that both judged:
    ``{id, value (of the trivial answer there), difference, low, high, p, p_adjusted, method, p_superior, n, shown}``.

    Models that do not clearly beat it get a notice. Where a class has too few patients for a test there is no p, and
    nothing is shown.
    """
    metric, confidence = calls.asked.primary, float(calls.options.get("confidence", 0.95))
    higher = better(metric) != "lower"
    at = {f"trivial · {name}": np.full(len(answers.cases), 0.5) for name, answers in found.items()}
    rivals = {answers.id: answers for answers in found.values()}
    both = Calls(calls.asked, {**calls.judged, **rivals}, {**calls.thresholds, **at}, calls.options)
    made: dict[str, Entry] = {}
    tests: list[Difference] = []
    for name in calls.judged:
        if np.isnan(intervals[name].value):
            continue
        values = {}
        for rival in rivals:
            common = both.cases_of(name) & both.cases_of(rival)
            value = both.adds(rival, metric, common).value if common else float("nan")
            if not np.isnan(value):
                values[rival] = value
        if not values:
            continue
        rival = (max if higher else min)(values, key=lambda r: values[r])
        test, n = both.test(name, rival, metric) or (None, 0)
        assert test is not None
        tests.append(test)
        made[name] = {"id": rival, "value": values[rival], **as_entry(test), "n": n}
    for (name, entry), p in zip(made.items(), adjusted(tests, seed=int(calls.options.get("seed", 0)))):
        ahead = (entry["difference"] > 0) == higher and entry["difference"] != 0
        entry["p_adjusted"] = float(p)
        entry["shown"] = bool(ahead and p < 1 - confidence)
        if not entry["shown"]:
            title = given.titles[entry["id"].partition(" · ")[2]]
            value = entry["value"] + entry["difference"]
            numbers = {"value": float(value), "reference": float(entry["value"])}
            warnings.append(notice("not_beyond_trivial", model=name, metric=metric, trivial=list(title), **numbers))
    return made
