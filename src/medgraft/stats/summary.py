"""Everything a report says about a finished run, computed from its tables: ``summary.json``.

The estimate of a model is the mean over its seeds of the metric pooled over the outer test folds, with a
patient-level bootstrap interval. Models are compared on the cases that both judged. What the data cannot
tell is null with a warning, never a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medgraft.files import write_csv, write_json
from medgraft.notices import Notice, from_json, notice, of_state, to_json
from medgraft.stats.beside import against_kinds, clean_view, majority_share, pointing_game
from medgraft.stats.calibration import reliability, slope_and_intercept
from medgraft.stats.claims import verdicts
from medgraft.stats.compare import Difference, delong_test, difference, holm
from medgraft.stats.intervals import MINIMUM_PATIENTS, Interval, bootstrap, rank_intervals
from medgraft.stats.judged import ID, Judged, Question, by_patient, collect, inner_parts, question
from medgraft.stats.metrics import METRICS, better, for_task, overlap, point, sign, told
from medgraft.stats.roc import roc

FEW_PATIENTS = 50  # below it intervals are rough
CURVE_RESAMPLES = 1000  # at most, for bands and calibration
WORST = 12  # cases listed where there is no right and wrong
UNDEFINED_SHARE = 0.05  # of the resamples, from which on it is said
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

Entry = dict[str, Any]


def summarise(
    predictions: pl.DataFrame,
    measures: pl.DataFrame,
    cells: pl.DataFrame,
    run: dict[str, Any],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """The content of ``summary.json`` (docs/architecture.md) from the tables of a run.

    ``run`` holds what ``run.json`` holds: task (classify, regress, segment), targets, classes, positive, level, unit,
    ``patients`` {case_id: patient_id}, and where there are any ``thresholds`` {model id: number, or {outer fold:
    number}}, ``cell_facts`` {cell: {seconds, parameters, load, reason}}, ``curves`` {cell: rows of the training log}
    and warnings. Undefined numbers are NaN (null once written).

    Raises ``UserError`` when the tables hold nothing that can be judged.
    """
    warnings = [from_json(w) for w in run.get("warnings") or []]
    options: dict[str, Any] = {
        "resamples": resamples,
        "confidence": confidence,
        "seed": seed,
        "unit": str(run.get("unit") or "patient"),
    }
    asked = question(predictions, measures, run)
    by_case = collect(predictions, measures, cells, asked, run, warnings)
    level, judged = _level(asked, by_case, run, warnings)
    primary = f"{level}.{asked.primary}"
    thresholds = {name: _threshold(run, name, answers) for name, answers in judged.items()}
    metrics, intervals = {}, {}
    for name, answers in judged.items():
        metrics[name], found = _model_metrics(asked, answers, level, thresholds[name], options)
        if level == "case" and (merged := _patient_level(by_case, name)) is not None:
            extra, _ = _model_metrics(asked, merged, "patient", _threshold(run, name, merged), options)
            metrics[name] |= extra
        intervals[name] = found[asked.primary]
    _warn_data(asked, judged, intervals, run, options["unit"], warnings)
    for name in judged:
        _warn_model(name, asked, judged[name], intervals[name], warnings)
    pairs, ranks = _compare(asked, judged, intervals, level, options, warnings)
    models = _models(asked, cells, run, metrics, ranks, primary, warnings)
    inner = _inner_scores(asked, predictions, measures, cells, run)
    for model in models:
        model["inner_score"] = inner.get(model["id"])
        if asked.task in ("binary", "multilabel") and model["id"] in thresholds:
            model["threshold"], model["threshold_rule"] = _threshold_told(run, judged[model["id"]])
    order = [m["id"] for m in models if m["id"] in judged]
    judged = {name: judged[name] for name in order}
    _warn_coverage(by_case, cells, warnings)
    _beside(asked, predictions, measures, cells, run, models, by_case, options, warnings)
    claims = verdicts((run.get("recipe") or {}).get("claims") or [], asked, judged, thresholds, models, options)
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
        "pooled": "pooled over the outer test folds",
        "primary_metric": primary,
        "measures": told(name.split(".")[1] for model in models for name in model["metrics"]),
        "majority": _majority(asked, by_case),
        **({"negatives": {"column": run["negatives"]["column"]}} if run.get("negatives") else {}),
        "warnings": to_json(warnings),
    }
    return {
        "run": facts,
        "models": models,
        "pairs": pairs,
        "roc": _roc(asked, judged, options),
        "calibration": _calibration(asked, judged, options),
        "scatter": _scatter(asked, judged),
        "heatmap": _heatmap(asked, judged, everyone),
        "missed": _missed(asked, judged, thresholds),
        "curves": _curves(cells, run),
        "claims": claims,
    }


# ---- levels and thresholds ----------------------------------------------------------------------


def _level(
    asked: Question, by_case: dict[str, Judged], run: dict[str, Any], warnings: list[Notice]
) -> tuple[str, dict[str, Judged]]:
    """The level at which the numbers stand, and the answers at it."""
    wanted = str(run.get("level") or "case")
    if wanted == "patient" and asked.task != "segmentation":
        patients = {name: by_patient(answers) for name, answers in by_case.items()}
        whole = {name: answers for name, answers in patients.items() if answers is not None}
        if len(whole) == len(patients):
            return "patient", whole
        warnings.append(notice("labels_differ"))
    elif wanted == "study":
        warnings.append(notice("labels_on_studies"))
    return "case", by_case


def _majority(asked: Question, by_case: dict[str, Judged]) -> float | None:
    """Accuracy of always naming the most frequent class, over all judged cases."""
    if asked.task not in ("binary", "multiclass") or not by_case:
        return None
    truth = {c: float(y) for a in by_case.values() if a.y_true is not None for c, y in zip(a.cases.tolist(), a.y_true)}
    return majority_share(np.array(list(truth.values())))


def _patient_level(by_case: dict[str, Judged], name: str) -> Judged | None:
    """A model's answers by patient, where that says something else than by case."""
    answers = by_case[name]
    return by_patient(answers) if len(np.unique(answers.patients)) < len(answers.cases) else None


def _given(run: dict[str, Any], name: str) -> Any:
    return (run.get("thresholds") or {}).get(name)


def _threshold(run: dict[str, Any], name: str, answers: Judged) -> np.ndarray:
    """Threshold for each case (n,): 0.5 or as chosen on inner parts, for the fold that tested the case."""
    given = _given(run, name)
    if isinstance(given, dict):
        table = {int(k): float(v) for k, v in given.items()}
        return np.array([table.get(int(fold), 0.5) for fold in answers.outer[0]])
    return np.full(len(answers.cases), 0.5 if given is None else float(given))


def _threshold_told(run: dict[str, Any], answers: Judged) -> tuple[Any, str]:
    if answers.votes is not None:
        return 0.5, "majority vote of the windows, each at 0.5"
    given = _given(run, answers.id)
    if given is None:
        return 0.5, "fixed at 0.5"
    return given, "Youden index on the inner parts" + (", for each outer fold" if isinstance(given, dict) else "")


# ---- metrics ------------------------------------------------------------------------------------


def _parts(asked: Question, answers: Judged) -> Iterable[tuple[str, str, list[str], Any, np.ndarray]]:
    """What metrics are taken of: (suffix, task, metrics, y_true, y_pred), the whole first, then each target, class or
    structure.
    """
    y, p = answers.y_true, answers.y_pred
    names = [t if asked.task != "multiclass" else c for t, c in asked.columns]
    yield "", asked.task, for_task(asked.task), y, p
    if asked.task == "multiclass" and y is not None:
        for k, name in enumerate(names):
            yield f".{name}", "binary", ["auc", "auprc"], np.where(np.isnan(y), np.nan, y == k), p[..., k]
    elif asked.task == "multilabel" and y is not None:
        for k, name in enumerate(names):
            yield (
                f".{name}",
                "binary",
                ["auc", "auprc", "sensitivity", "specificity", "f1", "brier", "ece"],
                y[:, k],
                p[..., k],
            )
    elif asked.task == "quantities" and y is not None:
        for k, name in enumerate(names):
            yield f".{name}", "regression", for_task("regression"), y[:, k], p[..., k]
    elif asked.task == "segmentation" and len(names) > 1:
        for k, name in enumerate(names):
            yield f".{name}", "segmentation", for_task("segmentation"), None, p[:, :, k : k + 1]


def _named(level: str, metric: str, suffix: str) -> str:
    """``case.auc``, ``case.auc.<target>``, ``pooled.dice.<structure>``."""
    return (
        f"pooled.{metric.removeprefix('pooled_')}{suffix}"
        if metric.startswith("pooled_")
        else f"{level}.{metric}{suffix}"
    )


def _model_metrics(
    asked: Question, answers: Judged, level: str, threshold: np.ndarray, options: dict[str, Any]
) -> tuple[dict[str, Entry], dict[str, Interval]]:
    """All metrics of a model by printed name, and the intervals of the whole by plain name."""
    entries: dict[str, Entry] = {}
    whole: dict[str, Interval] = {}
    for suffix, task, names, y, p in _parts(asked, answers):
        decisions = [n for n in names if METRICS[n].needs_threshold] if answers.votes is not None else []
        found = bootstrap(
            y, p, answers.patients, [n for n in names if n not in decisions], task=task, threshold=threshold, **options
        )
        said, least = answers.decided(threshold)
        if decisions:
            found |= bootstrap(y, said, answers.patients, decisions, task=task, threshold=least, **options)
        for name in names:
            scores, at = (said, least) if name in decisions else (p, threshold)
            entries[_named(level, name, suffix)] = _entry(found[name], _fold_mean(name, y, scores, answers.outer, at))
        if not suffix:
            whole = found
    if asked.task == "binary" and answers.y_true is not None:
        few = options | {"resamples": min(options["resamples"], CURVE_RESAMPLES)}
        for name, interval in slope_and_intercept(answers.y_true, answers.y_pred, answers.patients, **few).items():
            entries[f"{level}.calibration_{name}"] = _entry(interval, float("nan"))
    first = f"{level}.{asked.primary}"
    return {first: entries[first], **entries}, whole


def _fold_mean(name: str, y: Any, p: np.ndarray, outer: np.ndarray, threshold: np.ndarray) -> float:
    """Mean over folds and seeds of the metric within each fold; folds in which it is not defined are left out."""
    values = []
    for scores, folds in zip(p, outer):
        for fold in np.unique(folds):
            rows = folds == fold
            values.append(point(name, None if y is None else y[rows], scores[rows], threshold[rows]))
    known = [v for v in values if not np.isnan(v)]
    return float(np.mean(known)) if known else float("nan")


def _entry(interval: Interval, fold_mean: float) -> Entry:
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "unit": interval.unit,
        "n_units": interval.n_units,
        "seed_sd": interval.seed_sd,
        "fold_mean": fold_mean,
        "undefined": interval.undefined,
    }


def _beside(
    asked: Question,
    predictions: pl.DataFrame,
    measures: pl.DataFrame,
    cells: pl.DataFrame,
    run: dict[str, Any],
    models: list[Entry],
    by_case: dict[str, Judged],
    options: dict[str, Any],
    warnings: list[Notice],
) -> None:
    """Add to each model what stands beside its numbers, at the level of cases: ``against``, ``clean``, ``looks_at``."""
    kinds = (run.get("negatives") or {}).get("kinds") or {}
    views = int(predictions["view"].max() or 0) if len(predictions) else 0  # type: ignore[arg-type]
    clean = collect(predictions.filter(pl.col("view") == 0), measures, cells, asked, run, []) if views else {}
    pointed = pointing_game(measures, cells, run.get("patients") or {}, options) if asked.task == "binary" else {}
    augmented = set(predictions.filter(pl.col("view") > 0)["cell"].unique()) if views else set()
    of_id = dict(cells.filter(pl.col("inner") == -1).with_columns(ID).select("hash", "id").iter_rows())
    with_views = {of_id[c] for c in augmented if c in of_id}
    for model in models:
        name = model["id"]
        answers = by_case.get(name)
        if answers is None:
            continue
        threshold = _threshold(run, name, answers)
        if kinds and asked.task == "binary":
            model["against"] = against_kinds(answers, kinds, threshold, options)
        if name in with_views and name in clean:
            higher = better(asked.primary) != "lower"
            model["clean"] = clean_view(asked, answers, clean[name], threshold, for_task(asked.task), higher, options)
        if name in pointed:
            model["looks_at"] = pointed[name]


# ---- comparisons --------------------------------------------------------------------------------


def _on(answers: Judged, cases: set[str]) -> Judged:
    return answers if len(cases) == len(answers.cases) else answers.take(np.isin(answers.cases, list(cases)))


def _compare(
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
    cases = {name: set(judged[name].cases.tolist()) for name in ids}

    def on(name: str, common: set[str]) -> Interval:
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
        p, method = boot.p, boot.method
        if asked.task == "binary":
            one, two = _on(judged[a], common), _on(judged[b], common)
            assert one.y_true is not None
            test: Difference = delong_test(one.y_true, one.y_pred, two.y_pred, one.patients, options["confidence"])
            p, method = test.p, test.method
        pairs.append(
            {
                "a": a,
                "b": b,
                "metric": f"{level}.{asked.primary}",
                "difference": boot.difference,
                "low": boot.low,
                "high": boot.high,
                "p": p,
                "method": method,
                "p_superior": boot.p_superior,
                "n": len(common),
            }
        )
    for pair, adjusted in zip(pairs, holm([pair["p"] for pair in pairs])):
        pair["p_holm"] = float(adjusted)
    everywhere = set.intersection(*cases.values()) if cases else set()
    if len(ids) > 1 and not everywhere:
        warnings.append(notice("no_common_case"))
    if not everywhere:
        return pairs, {}
    same = [on(name, everywhere) for name in ids]
    found = rank_intervals(
        [i.value for i in same], np.stack([i.distribution for i in same]), higher, options["confidence"]
    )
    return pairs, dict(zip(ids, found))


# ---- models -------------------------------------------------------------------------------------


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


def _inner_scores(
    asked: Question, predictions: pl.DataFrame, measures: pl.DataFrame, cells: pl.DataFrame, run: dict[str, Any]
) -> dict[str, float | None]:
    """Mean over the inner cells of the chosen settings of the primary metric on their select parts."""
    scores: dict[str, float | None] = {}
    for name, parts in inner_parts(predictions, measures, cells, asked, run).items():
        values: list[float] = [
            point(asked.primary, answers.y_true, scored) for _, answers in parts for scored in answers.y_pred
        ]
        known = [v for v in values if not np.isnan(v)]
        scores[name] = float(np.mean(known)) if known else None
    return scores


# ---- warnings -----------------------------------------------------------------------------------


def _warn_data(
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
    absent: list[Notice] = []
    folds: list[Notice] = []
    for answers in judged.values():
        for name, y, classes in _labels(asked, answers):
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


def _warn_coverage(by_case: dict[str, Judged], cells: pl.DataFrame, warnings: list[Notice]) -> None:
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


def _labels(asked: Question, answers: Judged) -> Iterable[tuple[str, np.ndarray, list[str]]]:
    """(target, class index of each case, class names) of every target with classes."""
    y = answers.y_true
    if y is None or asked.task in ("regression", "quantities"):
        return
    if asked.task == "multilabel":
        for k, (target, name) in enumerate(asked.columns):
            yield target, y[:, k], [f"not {name}", name]
    else:
        yield asked.targets[0], y, asked.classes


def _warn_model(name: str, asked: Question, answers: Judged, interval: Interval, warnings: list[Notice]) -> None:
    """What is odd about one model's answers."""
    if np.isnan(answers.y_pred).any():
        return  # said when the answers were read
    scores = answers.y_pred.reshape(len(answers.seeds), len(answers.cases), -1)
    constant = [s for s, p in zip(answers.seeds, scores) if len(p) > 1 and (np.ptp(p, axis=0) == 0).all()]
    if constant and asked.task != "segmentation":
        warnings.append(notice("same_score", model=name, seeds=constant))
    elif asked.task == "binary" and len(answers.cases) >= 10:
        fewest = min(len(np.unique(p)) for p in scores)
        if fewest < len(answers.cases) / 2:
            warnings.append(notice("tied_scores", model=name, n=fewest, all=len(answers.cases)))
    if np.isnan(interval.value):
        if asked.task in ("regression", "quantities", "segmentation"):
            warnings.append(notice("undefined", model=name, metric=asked.primary))
        return
    if interval.degenerate and not constant:
        warnings.append(notice("never_varies", model=name, metric=asked.primary, value=interval.value))
    if interval.undefined > UNDEFINED_SHARE and interval.n_units >= MINIMUM_PATIENTS:
        warnings.append(notice("often_undefined", model=name, metric=asked.primary, share=interval.undefined))


# ---- figures ------------------------------------------------------------------------------------


def _few(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "resamples": min(options["resamples"], CURVE_RESAMPLES),
        "confidence": options["confidence"],
        "seed": options["seed"],
    }


def _roc(asked: Question, judged: dict[str, Judged], options: dict[str, Any]) -> dict[str, Any]:
    if asked.task not in ("binary", "multiclass", "multilabel"):
        return {}
    curves = {}
    for name, a in judged.items():
        assert a.y_true is not None
        curve = roc(a.y_true, a.y_pred, a.patients, task=asked.task, **_few(options))
        if not np.isnan(curve.tpr).any():
            curves[name] = {
                "fpr": curve.fpr.tolist(),
                "tpr": curve.tpr.tolist(),
                "low": curve.low.tolist(),
                "high": curve.high.tolist(),
            }
    return curves


def _calibration(asked: Question, judged: dict[str, Judged], options: dict[str, Any]) -> dict[str, Any]:
    if asked.task not in ("binary", "multiclass", "multilabel"):
        return {}
    result = {}
    for name, a in judged.items():
        assert a.y_true is not None
        bins = reliability(a.y_true, a.y_pred, a.patients, task=asked.task, **_few(options))
        if bins:
            result[name] = [
                {"predicted": b.predicted, "observed": b.observed, "low": b.low, "high": b.high, "n": b.n} for b in bins
            ]
    return result


def _scatter(asked: Question, judged: dict[str, Judged]) -> dict[str, list[Entry]]:
    """Truth and mean prediction of each case, for quantities."""
    if asked.task not in ("regression", "quantities"):
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


def case_values(asked: Question, answers: Judged) -> np.ndarray:
    """How right a model was about each case (n,), mean over its seeds: probability of the true class, Dice or absolute
    error.

    Several targets are averaged; several quantities only after dividing by each target's standard deviation.
    """
    y, p = answers.y_true, answers.y_pred
    if asked.task == "segmentation":
        values = overlap(p)  # (S, n, K)
        known = ~np.isnan(values)
        total = np.where(known, values, 0).sum(axis=(0, 2))
        return np.where(known.any(axis=(0, 2)), total / np.maximum(known.sum(axis=(0, 2)), 1), np.nan)
    assert y is not None
    if asked.task == "multiclass":
        return p[:, np.arange(len(y)), y.astype(np.int64)].mean(axis=0)
    truth, scores = y.reshape(len(y), -1), p.reshape(len(p), len(y), -1)
    if asked.task in ("binary", "multilabel"):
        right = np.where(truth == 1, scores, 1 - scores)
    else:
        spread = np.nanstd(truth, axis=0) if truth.shape[1] > 1 else np.ones(1)
        right = np.abs(scores - truth) / np.where(spread > 0, spread, 1)
    known = ~np.isnan(truth)
    return (np.where(known, right, 0).sum(axis=2) / known.sum(axis=1)).mean(axis=0)


def _label(asked: Question, y: Any) -> Any:
    """What a case is, in words: its class, its positive targets, or its quantity."""
    if y is None:
        return ""
    if asked.task in ("binary", "multiclass"):
        return asked.classes[int(y)]
    if asked.task == "multilabel":
        return ", ".join(t for (t, _), v in zip(asked.columns, y) if v == 1) or "none"
    return float(y) if asked.task == "regression" else ", ".join(f"{v:.4g}" for v in y)


def _known_cases(judged: dict[str, Judged]) -> dict[str, tuple[str, Any]]:
    """case -> (patient, truth) over all models."""
    found: dict[str, tuple[str, Any]] = {}
    for a in judged.values():
        for i, case in enumerate(a.cases.tolist()):
            found.setdefault(case, (str(a.patients[i]), None if a.y_true is None else a.y_true[i]))
    return found


def _heatmap(asked: Question, judged: dict[str, Judged], cases: list[str]) -> dict[str, Any]:
    """Model x case, hardest cases first inside each class; NaN where a model did not judge a case."""
    known = _known_cases(judged)
    column = {case: j for j, case in enumerate(cases)}
    values = np.full((len(judged), len(cases)), np.nan)
    for i, a in enumerate(judged.values()):
        values[i, [column[c] for c in a.cases.tolist()]] = case_values(asked, a)
    counted = ~np.isnan(values)
    mean = np.where(counted, values, 0).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
    hardest = -mean if asked.task in ("regression", "quantities") else mean
    grouped = asked.task in ("binary", "multiclass", "multilabel")

    def key(j: int) -> tuple[Any, float, str]:
        truth = known[cases[j]][1]
        group = tuple(np.nan_to_num(np.atleast_1d(truth), nan=-1).tolist()) if grouped else ()
        return group, float(hardest[j]), cases[j]

    order = sorted(range(len(cases)), key=key)
    told = [
        {"case_id": cases[j], "patient_id": known[cases[j]][0], "label": _label(asked, known[cases[j]][1])}
        for j in order
    ]
    return {"models": list(judged), "cases": told, "values": values[:, order].tolist()}


def _missed(asked: Question, judged: dict[str, Judged], thresholds: dict[str, np.ndarray]) -> list[Entry]:
    """Cases that every model gets wrong; where there is no right and wrong the worst by mean."""
    if not judged:
        return []
    shared = sorted(set.intersection(*(set(a.cases.tolist()) for a in judged.values())))
    if not shared:
        return []
    rows = {name: np.searchsorted(a.cases, shared) for name, a in judged.items()}  # cases are sorted
    values = {name: case_values(asked, judged[name])[rows[name]] for name in judged}
    mean = np.mean(list(values.values()), axis=0)
    known = _known_cases(judged)
    if asked.task in ("binary", "multiclass", "multilabel"):
        wrong = np.all([_wrong(asked, judged[name], thresholds[name])[rows[name]] for name in judged], axis=0)  # (n, T)
        chosen = [i for i in np.argsort(mean, kind="stable") if wrong[i].any()]
    else:
        hardest = -mean if asked.task in ("regression", "quantities") else mean
        chosen = [i for i in np.argsort(hardest, kind="stable") if not np.isnan(hardest[i])][:WORST]
        wrong = np.zeros((len(shared), 0), dtype=bool)
    result = []
    for i in chosen:
        entry = {
            "case_id": shared[i],
            "patient_id": known[shared[i]][0],
            "label": _label(asked, known[shared[i]][1]),
            "values": {name: float(values[name][i]) for name in judged},
        }
        if asked.task == "multilabel":
            entry["targets"] = [t for (t, _), miss in zip(asked.columns, wrong[i]) if miss]
        result.append(entry)
    return result


def _wrong(asked: Question, answers: Judged, threshold: np.ndarray) -> np.ndarray:
    """Whether the mean score over the seeds is on the wrong side (n, targets)."""
    y, mean = answers.y_true, answers.y_pred.mean(axis=0)
    assert y is not None
    if asked.task == "multiclass":
        return (mean.argmax(axis=1) != y)[:, None]
    truth, scores = y.reshape(len(y), -1), mean.reshape(len(y), -1)
    said = scores >= threshold[:, None] if answers.votes is None else answers.votes.mean(axis=0)[:, None] > 0.5
    return ~np.isnan(truth) & (said != (truth == 1))


def _curves(cells: pl.DataFrame, run: dict[str, Any]) -> dict[str, list[Entry]]:
    """Training curves by model, from the rows of the cells' logs."""
    logs: dict[str, list[dict[str, float]]] = run.get("curves") or {}
    result: dict[str, list[Entry]] = {}
    named = cells.with_columns(ID).sort("id", "outer", "inner", "seed", "hash")
    for name, cell, outer, inner, seed in named.select("id", "hash", "outer", "inner", "seed").rows():
        if rows := logs.get(cell):
            columns = {key: [row.get(key) for row in rows] for key in ("step", "train_loss", "select_score")}
            result.setdefault(name, []).append({"cell": cell, "outer": outer, "inner": inner, "seed": seed, **columns})
    return result


# ---- files and words ----------------------------------------------------------------------------


def sentence(name: str, entry: Entry, confidence: float = 0.95) -> str:
    """One estimate in words: ``case.auc 0.912 (95 % interval 0.880 to 0.941, 400 cases of 325 patients)``."""
    value, low, high = (entry.get(k) for k in ("value", "low", "high"))
    rows = "patients" if name.startswith("patient.") else "cases"
    of = f"{entry['n']} {rows}" + (
        f" of {entry['n_units']} {entry['unit']}s" if rows == "cases" and entry["unit"] != "case" else ""
    )
    if value is None or np.isnan(value):
        return f"{name} is not defined ({of})"
    if low is None or high is None or np.isnan(low) or np.isnan(high):
        return f"{name} {value:.3f} (no interval, {of})"
    return f"{name} {value:.3f} ({100 * confidence:g} % interval {low:.3f} to {high:.3f}, {of})"


def leaderboard(summary: dict[str, Any]) -> pl.DataFrame:
    """One row a model, best first: rank, name, state, then value, low and high of every metric."""
    names = list(dict.fromkeys(name for model in summary["models"] for name in model["metrics"]))
    rows = []
    for model in summary["models"]:
        rank = model["rank"] or {}
        row = {
            "rank": rank.get("best"),
            "rank_low": rank.get("low"),
            "rank_high": rank.get("high"),
            **{
                k: model[k]
                for k in ("id", "model", "start", "strategy", "state", "reason", "parameters", "seconds", "inner_score")
            },
            "reason": str(from_json(model["reason"])) if model["reason"] else "",
        }
        for name in names:
            entry = model["metrics"].get(name, {})
            row |= {
                name if part == "value" else f"{name}.{part}": _finite(entry.get(part))
                for part in ("value", "low", "high")
            }
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def _finite(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def write_tables(summary: dict[str, Any], run_dir: str | Path) -> None:
    """Write ``summary.json``, ``leaderboard.csv`` and ``pairs.csv``; each appears whole or not at all."""
    run_dir = Path(run_dir)
    columns = ["a", "b", "metric", "difference", "low", "high", "p", "p_holm", "method", "p_superior", "n"]
    schema = {
        c: pl.String if c in ("a", "b", "metric", "method") else pl.Int64 if c == "n" else pl.Float64 for c in columns
    }
    rows = [{c: _finite(pair[c]) if schema[c] == pl.Float64 else pair[c] for c in columns} for pair in summary["pairs"]]
    write_csv(leaderboard(summary), run_dir / "leaderboard.csv")
    write_csv(pl.DataFrame(rows, schema=schema), run_dir / "pairs.csv")
    write_json(run_dir / "summary.json", summary)
