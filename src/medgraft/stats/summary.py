"""Everything a report says about a finished run, computed from its tables: ``summary.json``.

The estimate of a model is the mean over its seeds of the metric pooled over the outer test folds, with a
patient-level bootstrap interval. Models are compared on the cases that both judged. What the data cannot
tell is null with a warning, never a number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from medgraft.notices import Notice, from_json, notice, of_state, to_json
from medgraft.stats import beside, cases, caveats, claims, curves, levels, pairs, trivial
from medgraft.stats.collect import collect
from medgraft.stats.estimates import inner_scores, model_metrics
from medgraft.stats.judged import ID, Entry
from medgraft.stats.kinds import Question, ask
from medgraft.stats.metrics import sign, told

#: Facts of run.json that go into the summary as they are.
KEPT = [
    "name",
    "created",
    "task",
    "kind",
    "targets",
    "classes",
    "positive",
    "units",
    "structures",
    "patient",
    "identity",
]
KEPT += ["data_hash", "split_hash", "looks", "versions", "recipe", "baseline"]


def summarise(
    predictions: pl.DataFrame,
    measures: pl.DataFrame,
    cells: pl.DataFrame,
    run: dict[str, Any],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    beyond: trivial.Given | None = None,
) -> dict[str, Any]:
    """The content of ``summary.json`` (docs/architecture.md) from the tables of a run.

    ``run`` holds what ``run.json`` holds: task (classify, regress, segment), targets, classes, positive, level, unit,
    ``patients`` {case_id: patient_id}, and where there are any ``thresholds`` {model id: number, or {outer fold:
    number}}, ``cell_facts`` {cell: {seconds, parameters, load, reason}}, ``curves`` {cell: rows of the training log}
    and warnings. ``beyond`` holds what the trivial answers said of the same test parts, where the task has any.
    Undefined numbers are NaN (null once written).

    Raises ``UserError`` when the tables hold nothing that can be judged.
    """
    warnings = [from_json(w) for w in run.get("warnings") or []]
    options: dict[str, Any] = {
        "resamples": resamples,
        "confidence": confidence,
        "seed": seed,
        "unit": str(run.get("unit") or "patient"),
    }
    asked = ask(predictions, measures, run)
    by_case = collect(predictions, measures, cells, asked, run, warnings)
    level, judged = levels.level_of(asked, by_case, run, warnings)
    primary = f"{level}.{asked.primary}"
    thresholds = {name: levels.threshold_of(run, name, answers) for name, answers in judged.items()}
    metrics, intervals = {}, {}
    for name, answers in judged.items():
        metrics[name], found = model_metrics(asked, answers, level, thresholds[name], options)
        if level == "case" and (merged := levels.patient_level(by_case, name)) is not None:
            extra, _ = model_metrics(asked, merged, "patient", levels.threshold_of(run, name, merged), options)
            metrics[name] |= extra
        intervals[name] = found[asked.primary]
    caveats.of_data(asked, judged, intervals, run, options["unit"], warnings)
    for name in judged:
        caveats.of_model(name, asked, judged[name], intervals[name], warnings)
    calls = pairs.Calls(asked, judged, thresholds, options)
    compared, ranks, winner = pairs.compare(calls, intervals, level, warnings)
    beyond = beyond or trivial.Given()
    without = trivial.judged(beyond, asked, by_case, level, run)
    leads = trivial.compare(beyond, without, calls, intervals, warnings)
    models = _models(asked, cells, run, metrics, ranks, primary, warnings)
    inner = inner_scores(asked, predictions, measures, cells, run)
    for model in models:
        model["inner_score"] = inner.get(model["id"])
        if model["id"] in leads:
            model["beyond"] = leads[model["id"]]
        if "threshold" in asked.kind.beside and model["id"] in thresholds:
            model["threshold"], model["threshold_rule"] = levels.threshold_told(run, judged[model["id"]])
    order = [m["id"] for m in models if m["id"] in judged]
    judged = {name: judged[name] for name in order}
    caveats.of_coverage(by_case, cells, warnings)
    beside.add(asked, predictions, measures, cells, run, models, by_case, options)
    wanted = (run.get("recipe") or {}).get("claims") or []
    verdicts = claims.verdicts(wanted, calls, models)
    everyone = sorted({c for a in judged.values() for c in a.cases})
    patients = {p for a in judged.values() for p in a.patients}
    refits = cells.filter(pl.col("inner") == -1)
    facts = {key: run[key] for key in KEPT if key in run}
    facts |= {
        "level": level,
        "unit": options["unit"],
        "n_patients": len(patients),
        "n_cases": len({c for a in by_case.values() for c in a.cases}),
        "folds": run.get("folds", refits["outer"].n_unique()),
        "seeds": run.get("seeds", sorted(refits["seed"].unique().to_list())),
        "resamples": resamples,
        "confidence": confidence,
        "stats_seed": seed,
        "pooled": "pooled over the outer test folds; measures that rank compare cases of one fold only",
        "primary_metric": primary,
        "measures": told(name.split(".")[1] for model in models for name in model["metrics"]),
        "majority": levels.majority(asked, by_case),
        "flow": {**(run.get("flow") or {}), "judged": levels.judged_counts(asked, by_case)},
        **({"negatives": {"column": run["negatives"]["column"]}} if run.get("negatives") else {}),
        "warnings": to_json(warnings),
    }
    return {
        "run": facts,
        "models": models,
        "trivial": trivial.entries(beyond, without, asked, level, options),
        "pairs": compared,
        "winner": winner,
        "roc": curves.roc_curves(asked, judged, options),
        "calibration": curves.calibration(asked, judged, options),
        "scatter": cases.scatter(asked, judged),
        "heatmap": cases.heatmap(asked, judged, everyone),
        "missed": cases.missed(asked, judged, thresholds),
        "curves": curves.training(cells, run),
        "claims": verdicts,
    }


def _models(
    asked: Question,
    cells: pl.DataFrame,
    run: dict[str, Any],
    metrics: dict[str, dict[str, Entry]],
    ranks: dict[str, dict[str, int]],
    primary: str,
    warnings: list[Notice],
) -> list[Entry]:
    """One entry for each model id in ``cells``, best first, those without a result last."""
    facts: dict[str, Entry] = run.get("cell_facts") or {}
    entries = []
    for (name,), part in (
        cells.with_columns(ID).sort("id", "outer", "inner", "seed", "hash").group_by(["id"], maintain_order=True)
    ):
        refits = part.filter(pl.col("inner") == -1)
        done = refits.filter(pl.col("state") == "done")
        state, reason = "done", None
        if name not in metrics:
            waiting = refits if len(refits) else part
            states = waiting["state"].to_list()
            state, reason = of_state(next((s for s in states if s.startswith(("not run", "failed"))), states[0]))
            if state == "done":
                state, reason = "failed", notice("none_labelled")
        elif len(done) < len(refits):
            others = sorted(set(refits.filter(pl.col("state") != "done")["state"].to_list()))
            counts = {"n": len(done), "all": len(refits), "states": others}
            reason = notice("part_done", **counts)
            warnings.append(notice("model_part_done", model=name, **counts))
        own = [facts[h] for h in part["hash"].to_list() if h in facts]
        refit_facts = [facts[h] for h in refits["hash"].to_list() if h in facts]
        details = next((f["reason"] for f in refit_facts if f.get("reason")), "")
        load = next((f["load"] for f in refit_facts if f.get("load")), None)
        seconds = [f["seconds"] for f in own if f.get("seconds") is not None]
        entries.append(
            {
                "id": name,
                "model": part["model"][0],
                "start": part["start"][0],
                "strategy": part["strategy"][0],
                "state": state,
                "reason": to_json([reason])[0] if reason else None,
                "details": str(details),
                "parameters": next((f["parameters"] for f in refit_facts if f.get("parameters") is not None), None),
                "metrics": metrics.get(str(name), {}),
                "rank": ranks.get(str(name)),
                "inner_score": None,
                "seconds": float(sum(seconds)) if seconds else None,
                "load": {k: load.get(k) for k in ("loaded", "share", "source", "accuracy")} if load else None,
            }
        )

    def key(entry: Entry) -> tuple[bool, bool, float, str]:
        value = sign(asked.primary) * entry["metrics"].get(primary, {}).get("value", float("nan"))
        return not entry["metrics"], bool(np.isnan(value)), 0.0 if np.isnan(value) else -value, entry["id"]

    return sorted(entries, key=key)
