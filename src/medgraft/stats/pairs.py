"""Every two models on the cases that both judged, and the rank of each with its interval."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np

from medgraft.notices import Notice, notice
from medgraft.stats.compare import Difference, delong_test, difference, holm
from medgraft.stats.intervals import Interval, bootstrap, rank_intervals
from medgraft.stats.judged import Entry, Judged
from medgraft.stats.kinds import Question
from medgraft.stats.metrics import better


def _delong(one: Judged, two: Judged, confidence: float) -> Difference:
    assert one.y_true is not None
    return delong_test(one.y_true, one.y_pred, two.y_pred, one.patients, confidence)


#: Tests of two models on the same cases that stand in for the paired bootstrap, by the name that a kind gives.
TESTS: dict[str, Callable[[Judged, Judged, float], Difference]] = {"delong": _delong}


def _on(answers: Judged, cases: frozenset[str]) -> Judged:
    return answers if len(cases) == len(answers.cases) else answers.take(np.isin(answers.cases, list(cases)))


def compare(
    asked: Question,
    judged: dict[str, Judged],
    intervals: dict[str, Interval],
    level: str,
    options: dict[str, Any],
    warnings: list[Notice],
) -> tuple[list[Entry], dict[str, dict[str, int]]]:
    """All pairs on the primary metric with Holm over the family, and the rank of each model with its interval."""
    higher = better(asked.primary) != "lower"
    ids = [name for name in judged if not np.isnan(intervals[name].value)]
    ids.sort(key=lambda name: intervals[name].value, reverse=higher)  # the better one of a pair comes first
    cases = {name: frozenset(judged[name].cases.tolist()) for name in ids}

    @cache  # drawn once for a model and its cases, however many pairs and ranks ask
    def on(name: str, common: frozenset[str]) -> Interval:
        if len(common) == len(cases[name]):
            return intervals[name]
        part = _on(judged[name], common)
        return bootstrap(part.y_true, part.y_pred, part.patients, [asked.primary], task=asked.task, **options)[
            asked.primary
        ]

    pairs: list[Entry] = []
    for a, b in combinations(ids, 2):
        common = cases[a] & cases[b]
        if not common:
            continue
        boot = difference(on(a, common), on(b, common), higher, options["confidence"])
        test = boot
        if asked.kind.paired:
            test = TESTS[asked.kind.paired](_on(judged[a], common), _on(judged[b], common), options["confidence"])
        pairs.append(
            {
                "a": a,
                "b": b,
                "metric": f"{level}.{asked.primary}",
                "difference": boot.difference,
                "low": boot.low,
                "high": boot.high,
                "p": test.p,
                "method": test.method,
                "p_superior": boot.p_superior,
                "n": len(common),
            }
        )
    for pair, adjusted in zip(pairs, holm([pair["p"] for pair in pairs])):
        pair["p_holm"] = float(adjusted)
    everywhere = frozenset.intersection(*cases.values()) if cases else frozenset[str]()
    if len(ids) > 1 and not everywhere:
        warnings.append(notice("no_common_case"))
    if not everywhere:
        return pairs, {}
    same = [on(name, everywhere) for name in ids]
    found = rank_intervals(
        [i.value for i in same], np.stack([i.distribution for i in same]), higher, options["confidence"]
    )
    return pairs, dict(zip(ids, found))
