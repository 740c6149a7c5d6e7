"""Sentences of a source, put to the test: a verdict for each, with the intervals behind it.

A claim names arms and a relation between them. For ``better`` these are arms that should be better and arms that they
should be better than; every pair is compared by the paired bootstrap of patients on the cases that both judged,
Holm-corrected within the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medgraft.errors import UserError, did_you_mean
from medgraft.notices import Notice, from_json, notice, to_json
from medgraft.stats.compare import difference, holm
from medgraft.stats.intervals import Interval, bootstrap
from medgraft.stats.judged import Entry, Judged
from medgraft.stats.kinds import Question
from medgraft.stats.metrics import better, for_task


@dataclass(frozen=True)
class Ground:
    """What a relation may draw on: models (entries of the summary, judged or not, that may name their ``run``), the
    answers and thresholds of those judged (by ``key_of``), and the options of the bootstrap.
    """

    asked: Question
    judged: Mapping[str, Judged]
    thresholds: Mapping[str, np.ndarray]
    models: Sequence[Mapping[str, Any]]
    options: dict[str, Any]
    drawn: dict[tuple[str, str, tuple[str, ...]], Interval] = field(default_factory=dict)


def key_of(model: Mapping[str, Any]) -> str:
    """What an entry's answers stand under: its id, with its run in front where claims range over several."""
    return f"{model['run']}: {model['id']}" if model.get("run") else str(model["id"])


def verdicts(
    claims: Sequence[Mapping[str, Any]],
    asked: Question,
    judged: Mapping[str, Judged],
    thresholds: Mapping[str, np.ndarray],
    models: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
) -> list[Entry]:
    """One entry a claim: text, source, published, verdict, reason (notices), comparisons.

    A claim's ``relation`` (``better`` where it names none) says what is compared and how it is judged. Verdicts:
    ``supported`` (every pair shown in its favour), ``partly`` (some, and none against), ``mixed`` (some for it, some
    against), ``contradicted`` (some shown against it, none for it), ``not shown``, ``not run`` (no arms with results;
    the reason says why).

    Raises ``UserError`` when a claim names a relation that is not known.
    """
    ground = Ground(asked, judged, thresholds, models, dict(options))
    return [_verdict(claim, ground) for claim in claims]


def _verdict(claim: Mapping[str, Any], ground: Ground) -> Entry:
    name = str(claim.get("relation") or BETTER)
    if name not in RELATIONS:
        raise UserError(
            f"no relation {name!r} of claims", case=str(claim.get("text", "")), fix=did_you_mean(name, RELATIONS)
        )
    verdict, reason, comparisons = RELATIONS[name](claim, ground)
    return {
        "text": str(claim.get("text", "")),
        "source": str(claim.get("source") or ""),
        "published": str(claim.get("published") or ""),
        "verdict": verdict,
        "reason": to_json(reason),
        "comparisons": comparisons,
    }


def _better(claim: Mapping[str, Any], ground: Ground) -> tuple[str, list[Notice], list[Entry]]:
    """Every arm of ``better`` against every arm of ``than``, by every measure, Holm-corrected within the claim.

    A comparison has a, b, metric, difference (positive: a is better, whatever the measure), low, high, p, p_holm, n.
    """
    asked, found = ground.asked, []
    absent: dict[str, Notice] = {}
    pairs = chosen_pairs(claim, ground.models)
    unknown = [m for m in claim.get("metrics") or [] if m not in for_task(asked.task)]
    names = [m for m in claim.get("metrics") or [asked.primary] if m not in unknown]
    for a, b in pairs:
        gone = [m for m in (a, b) if key_of(m) not in ground.judged]
        for model in gone:
            state = [str(model.get("state") or "not run")]
            state += [str(from_json(model["reason"]))] if model.get("reason") else []
            absent[key_of(model)] = notice("arm_without_result", model=key_of(model), state=": ".join(state))
        if not gone:
            found += [_compared(key_of(a), key_of(b), name, ground) for name in names]
    for entry, adjusted in zip(found, holm([entry["p"] for entry in found])):
        entry["p_holm"] = float(adjusted)
    if not pairs:
        return "not run", [notice("no_such_arms")], found
    if not found and unknown and not names:
        return "not run", [notice("measures_not_taken", measures=unknown)], found
    if not found:
        return "not run", [*absent.values()], found
    shown = [e for e in found if e["p_holm"] < 1 - ground.options.get("confidence", 0.95)]
    against = sum(e["difference"] < 0 for e in shown)
    if against:
        verdict = "contradicted" if against == len(shown) else "mixed"
    elif len(shown) == len(found):
        verdict = "supported"
    else:
        verdict = "partly" if shown else "not shown"
    return verdict, [*absent.values(), *(notice("no_measure", measure=m) for m in unknown)], found


BETTER = "better"
#: relation -> (verdict, reasons, comparisons) of a claim.
RELATIONS: dict[str, Callable[[Mapping[str, Any], Ground], tuple[str, list[Notice], list[Entry]]]] = {BETTER: _better}


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
    others = [m for m in models if fits(m, than) and not any(key_of(m) == key_of(b) for b in better)]
    return [(a, b) for a in better for b in others if all(a.get(k) == b.get(k) for k in claim.get("within") or [])]


def _drawn(key: str, name: str, common: np.ndarray, ground: Ground) -> Interval:
    """A measure of one model on some cases; drawn once for all comparisons and claims that ask for it."""
    wanted = (key, name, tuple(common.tolist()))
    if wanted not in ground.drawn:
        answers = ground.judged[key]
        rows = np.isin(answers.cases, common)
        part, at = answers.take(rows), ground.thresholds[key][rows]
        ground.drawn[wanted] = bootstrap(
            part.y_true, part.y_pred, part.patients, [name], task=ground.asked.task, threshold=at, **ground.options
        )[name]
    return ground.drawn[wanted]


def _compared(first: str, second: str, name: str, ground: Ground) -> Entry:
    a, b = ground.judged[first], ground.judged[second]
    common = np.intersect1d(a.cases, b.cases)
    intervals = [_drawn(key, name, common, ground) for key in (first, second)]
    higher = better(name) != "lower"
    apart = difference(intervals[0], intervals[1], higher, ground.options.get("confidence", 0.95))
    low, high = (apart.low, apart.high) if higher else (-apart.high, -apart.low)
    return {
        "a": first,
        "b": second,
        "metric": name,
        "difference": apart.difference if higher else -apart.difference,
        "low": low,
        "high": high,
        "p": apart.p,
        "p_superior": apart.p_superior,
        "n": len(common),
    }
