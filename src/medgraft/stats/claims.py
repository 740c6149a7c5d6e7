"""Sentences of a source, put to the test: a verdict for each, with the intervals behind it.

A claim names arms that should be better, arms that they should be better than, and measures. Every pair is
compared by the paired bootstrap of patients on the cases that both judged, Holm-corrected within the claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medgraft.notices import Notice, notice, to_json
from medgraft.stats.compare import difference, holm
from medgraft.stats.intervals import bootstrap
from medgraft.stats.judged import Judged, Question
from medgraft.stats.metrics import better, for_task

Entry = dict[str, Any]


def verdicts(
    claims: Sequence[Mapping[str, Any]],
    asked: Question,
    judged: Mapping[str, Judged],
    thresholds: Mapping[str, np.ndarray],
    models: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
) -> list[Entry]:
    """One entry a claim: text, source, verdict, reason, comparisons.

    ``models`` are the entries of the summary (id, model, start, strategy, state, reason), judged or not. A comparison
    has a, b, metric, difference (positive: a is better, whatever the measure), low, high, p, p_holm, n. Verdicts:
    ``supported`` (every pair shown in its favour), ``partly`` (some, and none against), ``mixed`` (some for it, some
    against), ``contradicted`` (some shown against it, none for it), ``not shown``, ``not run`` (no pair of arms has
    results; the reason says why).
    """
    return [_verdict(claim, asked, judged, thresholds, models, dict(options)) for claim in claims]


def _verdict(
    claim: Mapping[str, Any],
    asked: Question,
    judged: Mapping[str, Judged],
    thresholds: Mapping[str, np.ndarray],
    models: Sequence[Mapping[str, Any]],
    options: dict[str, Any],
) -> Entry:
    found: list[Entry] = []
    absent: dict[str, Notice] = {}
    pairs = chosen_pairs(claim, models)
    unknown = [m for m in claim.get("metrics") or [] if m not in for_task(asked.task)]
    names = [m for m in claim.get("metrics") or [asked.primary] if m not in unknown]
    for a, b in pairs:
        gone = [m for m in (a, b) if m["id"] not in judged]
        for model in gone:
            state = [str(model.get("state") or "not run"), *([str(model["reason"])] if model.get("reason") else [])]
            absent[model["id"]] = notice("arm_without_result", model=model["id"], state=": ".join(state))
        if not gone:
            found += [_compared(asked, judged[a["id"]], judged[b["id"]], thresholds, name, options) for name in names]
    for entry, adjusted in zip(found, holm([entry["p"] for entry in found])):
        entry["p_holm"] = float(adjusted)
    alpha = 1 - options.get("confidence", 0.95)
    shown = [e for e in found if e["p_holm"] < alpha]
    if not pairs:
        verdict, reason = "not run", [notice("no_such_arms")]
    elif not found:
        reason = [notice("measures_not_taken", measures=unknown)] if unknown and not names else [*absent.values()]
        verdict = "not run"
    else:
        reason = [*absent.values(), *(notice("no_measure", measure=m) for m in unknown)]
        against = sum(e["difference"] < 0 for e in shown)
        if against:
            verdict = "contradicted" if against == len(shown) else "mixed"
        elif len(shown) == len(found):
            verdict = "supported"
        else:
            verdict = "partly" if shown else "not shown"
    return {
        "text": str(claim.get("text", "")),
        "source": str(claim.get("source") or ""),
        "published": str(claim.get("published") or ""),
        "verdict": verdict,
        "reason": to_json(reason),
        "comparisons": found,
    }


def chosen_pairs(
    claim: Mapping[str, Any], models: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Pairs (better, than) of model entries that a claim speaks of."""

    def fits(model: Mapping[str, Any], chooser: Mapping[str, Any]) -> bool:
        return all(
            str(model.get(key)) in ([value] if isinstance(value, str) else [str(v) for v in value])
            for key, value in chooser.items()
        )

    better = [m for m in models if fits(m, claim["better"])]
    than = claim.get("than") or {}
    others = [m for m in models if fits(m, than) and not any(m["id"] == b["id"] for b in better)]
    return [(a, b) for a in better for b in others if all(a.get(k) == b.get(k) for k in claim.get("within") or [])]


def _compared(
    asked: Question, a: Judged, b: Judged, thresholds: Mapping[str, np.ndarray], name: str, options: dict[str, Any]
) -> Entry:
    common = np.intersect1d(a.cases, b.cases)
    intervals = []
    for answers in (a, b):
        rows = np.isin(answers.cases, common)
        part = answers.take(rows)
        intervals.append(
            bootstrap(
                part.y_true,
                part.y_pred,
                part.patients,
                [name],
                task=asked.task,
                threshold=thresholds[answers.id][rows],
                **options,
            )[name]
        )
    higher = better(name) != "lower"
    found = difference(intervals[0], intervals[1], higher, options.get("confidence", 0.95))
    low, high = (found.low, found.high) if higher else (-found.high, -found.low)
    return {
        "a": a.id,
        "b": b.id,
        "metric": name,
        "difference": found.difference if higher else -found.difference,
        "low": low,
        "high": high,
        "p": found.p,
        "p_superior": found.p_superior,
        "n": len(common),
    }
