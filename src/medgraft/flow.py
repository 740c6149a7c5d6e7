"""The whole way, from a recipe to a report: the only place where learning meets judging.

``run`` reads as the sentence it is: every arm searches on inner parts, is refitted, looks at each test
part once; then the cells are joined, judged and told.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medgraft import config, notices, runs, store, tables
from medgraft.config import Recipe, StatsConfig
from medgraft.datasets import joined, load_dataset
from medgraft.engine import compare, fit, pace
from medgraft.engine import trivial as without_looking
from medgraft.engine.defaults import with_defaults
from medgraft.engine.plan import Plan
from medgraft.engine.progress import Progress
from medgraft.engine.session import Session
from medgraft.errors import UserError, WeightsAbsent
from medgraft.options import DemoOptions


def run(recipe: Recipe, *, say: Callable[[str], None] = print, estimate: bool | None = None) -> Path:
    """Run a recipe and return its folder with ``report.html``. Only missing cells are trained.

    Raises ``UserError`` when nothing could be judged. A failed cell is isolated, named and kept for the
    report; the other cells go on. ``estimate`` says before the first fit how long the whole takes; default: where the
    recipe names no model.
    """
    estimate = not recipe.models if estimate is None else estimate
    dataset = load_dataset(recipe.data)
    if not len(dataset.manifest):
        raise UserError("the data set holds no case", case=str(recipe.data), fix="see its rejects.csv, and scan again")
    if recipe.split.kind == "external":
        dataset = joined(dataset, recipe.split.test, recipe.out / recipe.name / "data")
    recipe = with_defaults(recipe, dataset, say)
    session, the_run = compare.prepare(recipe, dataset, say)
    say(f"run folder {the_run.root}")
    for line in pace.told(pace.measure(session, the_run)) if estimate else []:
        say(line)
    report = Progress(session.plan, the_run, say)
    for arm in session.plan.arms:
        say(f"{arm.id}: {compare.loading_text(session, arm)}")
        try:
            compare.run_arm(session, the_run, arm, report)
        except WeightsAbsent as error:
            say(f"{arm.id}: not run: weights absent. {error}")
            compare.mark_absent(session, the_run, arm, str(error))
    return gather(recipe, session, the_run, say)


def gather(recipe: Recipe, session: Session, the_run: runs.Run, say: Callable[[str], None]) -> Path:
    """Join the cells of the plan, compute the statistics, write the tables and the report."""
    from medgraft.stats import summary, trivial, write  # with scipy, which no training needs
    from medgraft.stats.thresholds import thresholds

    records = the_run.records()
    hashes = [record["hash"] for record in records]
    cells = the_run.cells()
    if not len(cells.filter((pl.col("state") == "done") & (pl.col("inner") == -1))):
        states = "; ".join(sorted(set(cells["state"].to_list()))[:3]) if len(cells) else "no cell was run"
        raise UserError(
            f"no model could be judged ({states})", case=str(the_run.root), fix="see errors.log in the run folder"
        )
    tables.write(cells, the_run.root / "cells.parquet", "cells")
    predictions, measures = the_run.gather("predictions", hashes), the_run.gather("measures", hashes)
    refuse_strangers(predictions, session.plan)
    tables.write(predictions, the_run.root / "predictions.parquet", "predictions")
    tables.write(measures, the_run.root / "measures.parquet", "measures")
    chosen = thresholds(cells, predictions) if session.task.yes_no else {}
    voting = {  # the majority decides, not a threshold
        arm.id for arm in session.plan.arms if any(setting.window.join == "vote" for setting in arm.settings)
    }
    the_run.info["thresholds"] = {name: values for name, values in chosen.items() if name not in voting}
    facts = (
        *("seconds", "parameters", "load", "score", "best_step", "horizon", "reason", "logistic_c", "wait_share"),
        *("losses", "body_trains"),
    )
    the_run.info["cell_facts"] = {r["hash"]: {k: r.get(k) for k in facts} for r in records}
    the_run.info["curves"] = {r["hash"]: fit.read_log(the_run.root / "cells" / r["hash"] / "log.csv") for r in records}
    the_run.info["baseline"] = baseline(session, recipe.stats)
    the_run.info["looks_before"] = earlier_looks(session.plan, the_run)
    the_run.save()
    stats = recipe.stats
    found = summary.summarise(
        predictions,
        measures,
        cells,
        judged_facts(the_run),
        resamples=stats.resamples,
        confidence=stats.confidence,
        seed=stats.seed,
        beyond=trivial.Given(*without_looking.answers(session)),
    )
    write.write_tables(found, the_run.root)
    primary, confidence = found["run"]["primary_metric"], found["run"]["confidence"]
    for model in found["models"]:
        metric = model.get("metrics", {}).get(primary)
        say(f"{model['id']}: " + (model["state"] if not metric else write.sentence(primary, metric, confidence)))
    for answer in found["trivial"]:
        metric = answer["metrics"][primary]
        say(f"{answer['title']['en'].lower()}, without looking: " + write.sentence(primary, metric, confidence))
    if not recipe.report:
        return the_run.root
    from medgraft.report import page

    path = page.build(the_run.root, lang=recipe.lang)
    say(f"report {path}")
    return the_run.root


def judged_facts(the_run: runs.Run) -> dict[str, Any]:
    """``run.json`` as the statistics take it: the looks of the last plan, and what was looked at before it said
    aloud.
    """
    cells = set(the_run.info["cells"])
    looks = [look for look in the_run.info["looks"] if look["cell"] in cells]
    before = the_run.info["looks_before"]
    warnings = list(the_run.info["warnings"])
    if before["looks"]:
        warnings += notices.to_json([compare.seen_before(before)])
    from medgraft.stats.caveats import of_training

    warnings += notices.to_json(of_training(the_run.info["cells"], the_run.info["cell_facts"]))
    return {**the_run.info, "looks": looks, "warnings": warnings}


def earlier_looks(plan: Plan, the_run: runs.Run) -> dict[str, Any]:
    """How often the plan's test parts were looked at by earlier plans of this run, and by which other runs."""
    found = the_run.earlier_looks({plan.digest_of(fold.test) for fold in plan.folds})
    return {"looks": len(found), "runs": sorted({entry["run"] for entry in found if entry["run"]})}


def refuse_strangers(predictions: pl.DataFrame, plan: Plan) -> None:
    """Raise ``UserError`` for predictions of a class or target that the plan does not have: nothing joins by
    position.
    """
    known = {(t.name, c) for t in plan.task.targets for c in (t.classes if t.kind == "classes" else [t.positive or ""])}
    for target, said, cell in predictions.select("target", "class", "cell").unique(["target", "class"]).iter_rows():
        if (target, said or "") not in known:
            raise UserError(
                f"holds predictions of {target} {said!r}, the plan asks for "
                + ", ".join(f"{t} {c!r}" for t, c in sorted(known)),
                case=str(cell),
                fix="delete the folder of this cell and run again",
            )


def baseline(session: Session, stats: StatsConfig) -> dict[str, Any] | None:
    """What size, brightness and length alone can tell: AUC of a logistic regression on these facts, by grouped
    cross-validation, with the interval that the run's other numbers have, and how often facts that know nothing get as
    far (``p``).
    """
    if not session.task.yes_no:
        return None
    from medgraft.stats.baseline import chance, trivial_auc

    rows = session.rows()
    labels = session.samples(rows, session.plan.arms[0].settings[0]).labels()[:, 0]
    manifest = session.dataset.manifest[rows]
    shape = np.array(manifest["shape"].to_list(), float)
    brightness = mean_intensity(session.store_root or session.dataset.root, manifest)
    facts = np.column_stack([shape[:, 1:], manifest["p005"].to_numpy(), manifest["p995"].to_numpy(), brightness])
    patients = manifest["patient_id"].to_list()
    codes = {p: k for k, p in enumerate(sorted(set(patients)))}
    owners = np.array([codes[p] for p in patients])
    result = trivial_auc(facts, labels, owners, seed=stats.seed, resamples=stats.resamples, confidence=stats.confidence)
    return {
        "facts": ["frames", "height", "width", "darkest", "brightest", "mean"],
        "auc": result.value,
        "low": result.low,
        "high": result.high,
        "p": chance(facts, labels, owners, seed=stats.seed),
    }


def mean_intensity(root: Path, manifest: pl.DataFrame) -> np.ndarray:
    """Mean stored value of each case (of at most 16 frames, evenly spread)."""
    means = []
    for array_id in manifest["array_id"]:
        array = store.open_array(root, array_id)
        step = max(1, array.shape[1] // 16)
        means.append(float(array[:, ::step].mean()))
    return np.array(means)


def demo(options: DemoOptions, *, say: Callable[[str], None] = print) -> Path:
    """Simulate, scan, compare three ways of transfer, report. Returns the path of ``report.html``."""
    from medgraft.intake import scan as act
    from medgraft.intake.options import ScanOptions
    from medgraft.simulate import chest_xray
    from medgraft.stats.baseline import facts_alone

    root = options.out
    say("1/3 simulating chest X-rays in the RSNA format")
    made = chest_xray.simulate(
        root / "studies",
        patients=options.patients,
        images_per_patient=2,
        size=256,
        difficulty=options.difficulty,
        prevalence=0.45,
        seed=1,
    )
    say(made.text())
    say(facts_alone(made.facts, made.target, made.patient))
    say("2/3 scanning them")
    scanned = config.build(
        ScanOptions,
        {"out": root / "data", "layout": "rsna", "target": "pneumonia", "patient": "patient_id", "identity": "keep"},
    )
    say(act.scan(root / "studies", scanned).text())
    say("3/3 comparing three ways of transfer")
    recipe = config.build(
        Recipe,
        {
            "name": "xray",
            "data": root / "data",
            "out": root / "runs",
            "split": {"folds": 3},
            "window": {"size": options.size},
            "seeds": [0],
            "train": {"epochs": 4, "learning_rate": 3e-4, "evaluations": 2},
            "models": [
                {"model": "efficientnet_lite0", "strategy": "frozen_logistic"},
                {"model": "efficientnet_lite0", "strategy": "finetune"},
                {"model": "efficientnet_lite0", "start": "random", "train": {"learning_rate": 1e-3}},
            ],
        },
    )
    return run(recipe, say=say) / "report.html"
