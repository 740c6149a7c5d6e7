"""Every two models on the cases that both judged, the rank of each with its interval, and what the best owes luck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from medgraft.notices import Notice, notice
from medgraft.stats.bounds import TOO_FEW
from medgraft.stats.compare import Difference, Influence, adjusted, influence, paired
from medgraft.stats.intervals import Interval, answers, bootstrap, rank_intervals
from medgraft.stats.judged import Entry, Judged
from medgraft.stats.kinds import Question
from medgraft.stats.metrics import METRICS, better


@dataclass(frozen=True)
class Calls:
    """What models said, and from which score on they call a case: the one ground of every comparison.

    ``judged`` and ``thresholds`` by name; what a measure says of a model on some cases is found once, however many
    comparisons ask.
    """

    asked: Question
    judged: Mapping[str, Judged]
    thresholds: Mapping[str, np.ndarray]
    options: Mapping[str, Any]
    known: dict[tuple[str, str, frozenset[str] | None], Influence] = field(default_factory=dict)
    cases: dict[str, frozenset[str]] = field(default_factory=dict)

    def cases_of(self, name: str) -> frozenset[str]:
        if name not in self.cases:
            self.cases[name] = frozenset(self.judged[name].cases.tolist())
        return self.cases[name]

    def on(self, name: str, common: frozenset[str] | None = None) -> tuple[Judged, np.ndarray]:
        """Answers and thresholds of a model, of some cases alone where they are not all."""
        found, at = self.judged[name], self.thresholds[name]
        if common is None or len(common) == len(found.cases):
            return found, at
        rows = np.isin(found.cases, list(common))
        return found.take(rows), at[rows]

    def adds(self, name: str, metric: str, common: frozenset[str]) -> Influence:
        """A measure of a model on some cases, and what each patient adds to it."""
        key = (name, metric, None if len(common) == len(self.judged[name].cases) else common)
        if key not in self.known:
            given, at = self.on(name, common)
            taken = given.taken(METRICS[metric].needs_threshold, at)
            self.known[key] = influence(answers(**taken, task=self.asked.task), metric)
        return self.known[key]

    def test(self, a: str, b: str, metric: str) -> tuple[Difference, int] | None:
        """a minus b on the cases that both judged, and how many those are; None where there is none."""
        common = self.cases_of(a) & self.cases_of(b)
        if not common:
            return None
        one, two = self.adds(a, metric, common), self.adds(b, metric, common)
        return paired(one, two, better(metric) != "lower", self.options.get("confidence", 0.95)), len(common)


def compare(
    calls: Calls, intervals: dict[str, Interval], level: str, warnings: list[Notice]
) -> tuple[list[Entry], dict[str, dict[str, int]], Entry | None]:
    """All pairs on the primary metric, corrected for the family; the rank of each model with its interval; and the
    winner (``luck``). Models with too few patients of a class stand alone.
    """
    asked, options = calls.asked, calls.options
    higher = better(asked.primary) != "lower"
    told = {name for name, i in intervals.items() if i.n_smallest is None or i.n_smallest >= TOO_FEW}
    ids = [name for name in calls.judged if name in told and not np.isnan(intervals[name].value)]
    ids.sort(key=lambda name: intervals[name].value, reverse=higher)  # the better one of a pair comes first
    pairs: list[Entry] = []
    tests: list[Difference] = []
    for a, b in combinations(ids, 2):
        found = calls.test(a, b, asked.primary)
        if found is not None:
            tests.append(found[0])
            pairs.append({"a": a, "b": b, "metric": f"{level}.{asked.primary}", **as_entry(found[0]), "n": found[1]})
    for pair, p in zip(pairs, adjusted(tests, seed=options.get("seed", 0))):
        pair["p_adjusted"] = float(p)
    everywhere = frozenset.intersection(*(calls.cases_of(i) for i in ids)) if ids else frozenset[str]()
    if len(ids) > 1 and not everywhere:
        warnings.append(notice("no_common_case"))
    if not everywhere:
        return pairs, {}, None

    def drawn(name: str) -> Interval:
        if len(everywhere) == len(calls.judged[name].cases):
            return intervals[name]
        given, at = calls.on(name, everywhere)
        taken = given.taken(METRICS[asked.primary].needs_threshold, at)
        return bootstrap(**taken, metrics=[asked.primary], task=asked.task, **options)[asked.primary]

    same = [drawn(name) for name in ids]
    ranks = rank_intervals(
        [i.value for i in same], np.stack([i.distribution for i in same]), higher, options["confidence"]
    )
    first = luck(same, [calls.adds(name, asked.primary, everywhere) for name in ids], higher)
    winner = None if first is None else {"id": ids[first["place"]], "metric": f"{level}.{asked.primary}", **first}
    return pairs, dict(zip(ids, ranks)), winner


def as_entry(test: Difference) -> Entry:
    """A difference as the summary writes it."""
    return {name: getattr(test, name) for name in ("difference", "low", "high", "p", "method", "p_superior")}


def luck(same: list[Interval], adds: list[Influence], higher_is_better: bool) -> Entry | None:
    """What the best of several models owes to having been picked: ``{place, value, optimism, expected, low, high}``.

    Numbers of equal models differ by chance, and the best of them is too good. Each is drawn towards their mean by the
    share of their spread that chance explains (empirical Bayes, James and Stein 1961; the spread by chance from the
    influences); ``optimism`` is how far the best one moves, ``expected`` where it lands, ``low`` and ``high`` its
    interval moved with it. None with fewer than two models or where nothing can be told.
    """
    values = np.array([i.value for i in same])
    if len(values) < 2 or np.isnan(values).any():
        return None
    pulls = np.stack([a.pull for a in adds])
    if np.isnan(pulls).any():
        return None
    apart = pulls - pulls.mean(axis=0)
    chance = float((apart**2).sum() / (len(values) - 1))
    seen = float(values.var(ddof=1))
    keep = max(0.0, 1 - chance / seen) if seen > 0 else 0.0
    best = int(values.argmax() if higher_is_better else values.argmin())
    optimism = float((1 - keep) * (values[best] - values.mean()))
    return {
        "place": best,
        "value": float(values[best]),
        "optimism": optimism if higher_is_better else -optimism,
        "expected": float(values[best] - optimism),
        "low": float(same[best].low - optimism),
        "high": float(same[best].high - optimism),
    }
