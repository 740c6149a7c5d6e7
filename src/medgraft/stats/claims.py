"""Sentences of a source, put to the test: a verdict for each, with the intervals behind it.

A claim names arms and a relation between them. For ``better`` these are arms that should be better and arms that they
should be better than; every pair is tested as on the leaderboard, on the cases that both judged, corrected within the
claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medgraft.errors import UserError, did_you_mean
from medgraft.notices import Notice, from_json, notice, to_json
from medgraft.stats.compare import Difference, adjusted
from medgraft.stats.judged import Entry
from medgraft.stats.metrics import better, for_task
from medgraft.stats.pairs import Calls, as_entry


@dataclass(frozen=True)
class Ground:
    """What a relation may draw on: models (entries of the summary, judged or not, that may name their ``run``), and the
    calls of those judged (by ``key_of``).
    """

    calls: Calls
    models: Sequence[Mapping[str, Any]]


def key_of(model: Mapping[str, Any]) -> str:
    """What an entry's answers stand under: its id, with its run in front where claims range over several."""
    return f"{model['run']}: {model['id']}" if model.get("run") else str(model["id"])


def verdicts(claims: Sequence[Mapping[str, Any]], calls: Calls, models: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """One entry a claim: text, source, published, verdict, reason (notices), comparisons.

    A claim's ``relation`` (``better`` where it names none) says what is compared and how it is judged. Verdicts:
    ``supported`` (every pair shown in its favour), ``partly`` (some, and none against), ``mixed`` (some for it, some
    against), ``contradicted`` (some shown against it, none for it), ``not shown``, ``not run`` (no arms with results;
    the reason says why).

    Raises ``UserError`` when a claim names a relation that is not known.
    """
    ground = Ground(calls, models)
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
    """Every arm of ``better`` against every arm of ``than``, by every measure, corrected within the claim.

    A comparison has a, b, metric, difference (positive: a is better, whatever the measure), low, high, p, p_adjusted,
    p_superior, n.
    """
    calls, asked, found = ground.calls, ground.calls.asked, []
    tests: list[Difference] = []
    absent: dict[str, Notice] = {}
    pairs = chosen_pairs(claim, ground.models)
    unknown = [m for m in claim.get("metrics") or [] if m not in for_task(asked.task)]
    names = [m for m in claim.get("metrics") or [asked.primary] if m not in unknown]
    for a, b in pairs:
        gone = [m for m in (a, b) if key_of(m) not in calls.judged]
        for model in gone:
            state = [str(model.get("state") or "not run")]
            state += [str(from_json(model["reason"]))] if model.get("reason") else []
            absent[key_of(model)] = notice("arm_without_result", model=key_of(model), state=": ".join(state))
        for name in names if not gone else []:
            told = calls.test(key_of(a), key_of(b), name)
            if told is not None:
                tests.append(told[0])
                found.append({"a": key_of(a), "b": key_of(b), "metric": name, **_favour(told[0], name), "n": told[1]})
    for entry, p in zip(found, adjusted(tests, seed=calls.options.get("seed", 0))):
        entry["p_adjusted"] = float(p)
    if not pairs:
        return "not run", [notice("no_such_arms")], found
    if not found and unknown and not names:
        return "not run", [notice("measures_not_taken", measures=unknown)], found
    if not found:
        return "not run", [*absent.values()], found
    shown = [e for e in found if e["p_adjusted"] < 1 - calls.options.get("confidence", 0.95)]
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


def _favour(test: Difference, name: str) -> Entry:
    """A difference as an entry, positive where a is the better one, whatever the measure."""
    entry = as_entry(test)
    del entry["method"]
    if better(name) == "lower":
        entry |= {"difference": -test.difference, "low": -test.high, "high": -test.low}
    return entry
