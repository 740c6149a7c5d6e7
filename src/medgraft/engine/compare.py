"""Every arm of a plan, trained where it may learn and judged where it was never seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import polars as pl

from medgraft import config, notices, runs, splits, tables
from medgraft.config import Recipe
from medgraft.datasets import Dataset
from medgraft.engine import cohort, fit, pace
from medgraft.engine import plan as planning
from medgraft.engine.plan import Arm, Plan
from medgraft.engine.progress import Progress
from medgraft.engine.search import refits, search
from medgraft.engine.session import Session, Training
from medgraft.errors import WeightsAbsent
from medgraft.notices import Notice, notice


def run_arm(session: Session, run: runs.Run, arm: Arm, report: Progress) -> None:
    """Search, refit and judge one arm over all outer folds and seeds."""
    for fold in session.plan.folds:  # patients never cross
        try:
            # never sees fold.test
            choice = search(session, run, arm, fold.outer, progress=report.step, seen=report.cell)
        except WeightsAbsent:
            raise
        except Exception as error:
            report.failed(arm, fold.outer, error)
            continue
        if choice.setting.train.components == "auto":
            named = ", ".join(choice.largest) or "no structure"
            report.say(f"{arm.id} fold {fold.outer + 1}: largest component alone of {named}, by the select parts")
        cells = refits(session.plan, arm, fold.outer, choice)
        run.belongs(*cells)
        for cell in cells:
            try:
                fit.run_cell(session, run, Training(cell, arm, choice.setting, choice.stop_share), report.step)
            except WeightsAbsent:
                raise
            except Exception as error:
                report.failed(arm, fold.outer, error, cell)
            report.cell(cell)


def loading_text(session: Session, arm: Arm) -> str:
    """How an arm's batches will be fetched, in one line.

    Raises ``UserError`` where one batch exceeds the memory budget.
    """
    setting = arm.settings[0]
    if arm.on_features(setting, session.task):
        return "data: frozen features, computed once and kept in the run folder"
    samples = session.samples(session.rows(), setting, augmented=True)
    return fit.memory_plan(session, samples, setting.train.batch_size).text


def prepare(
    recipe: Recipe, dataset: Dataset, say: Callable[[str], None] = lambda line: None
) -> tuple[Session, runs.Run]:
    """The plan of a recipe, written into its run folder, and the session that works on it.

    Another plan in the same folder is grown by new cells, or put aside; which of the two is said before anything
    starts.
    """
    plan = planning.resolve(recipe, dataset)
    root = recipe.out / recipe.name
    if recipe.budget:
        plan = pace.settle(recipe, dataset, plan, root, say)
    before = planning.last(root)
    task = plan.make_task()
    manifest = dataset.manifest[planning.usable_rows(dataset, task)]
    run = runs.Run.create(
        root,
        recipe=recipe.model_dump(mode="json"),
        recipe_text=config.dump_recipe(recipe),
        dataset=dataset,
        case_digests=runs.case_digests(dataset, [t.name for t in plan.task.targets]),
        facts=facts_of(recipe, plan, dataset, manifest),
    )
    if before is not None:
        for line in changes(before, plan, run):
            say(line)
    splits.write_splits(planning.split_rows_of(plan), root / "splits.json", recipe.compat)
    tables.write(manifest, root / "manifest.parquet", "manifest")  # a run serves without its data set
    marked = dataset.frames.filter(
        (pl.col("mask_index") >= 0) & pl.col("array_id").is_in(manifest["array_id"].to_list())
    )
    tables.write(marked, root / "frames.parquet", "frames")
    planning.write(plan, root)
    for line in plan.notes:
        say(line)
    return Session.open(plan, dataset, root), run


def changes(before: Plan, plan: Plan, run: runs.Run) -> list[str]:
    """What a recipe changes in an existing run, in lines: nothing, growth by new cells, or another plan."""
    old = {cell.hash for cell in before.inner_cells}
    new = set(run.info["cells"])
    gone = [arm.id for arm in before.arms if arm.id not in {a.id for a in plan.arms}]
    come = [arm.id for arm in plan.arms if arm.id not in {a.id for a in before.arms}]
    lines = []
    if come:
        lines.append(f"the run grows by {', '.join(come)}")
    if more := [s for s in plan.seeds if s not in before.seeds]:
        lines.append(f"the run grows by seeds {', '.join(map(str, more))}")
    fewer = [s for s in before.seeds if s not in plan.seeds]
    stay = [{k: v for k, v in _told(p).items() if k not in {*come, *gone}} for p in (before, plan)]
    told = config.difference(stay[0], stay[1])
    if gone or fewer or told or not old <= new:
        what = [*(f"without {arm}" for arm in gone), *(f"without seed {s}" for s in fewer), *told[:4]]
        lines.append(f"this is another plan in the same run: {'; '.join(what) or 'its parts differ'}")
        lines.append(
            f"{len(old - new)} trainings of the plan before stay on disk and are neither judged nor served; "
            f"their looks at a test part count. A new run keeps both: name=NAME"
        )
    return lines


def _told(plan: Plan) -> dict[str, Any]:
    """What of a plan a person would name when it changed, apart from arms and seeds that come or go."""
    folds = {"folds": len(plan.folds), "split": plan.split_hash[:8], "threads": plan.threads, "device": plan.device}
    arms = {
        arm.id: {
            "start": arm.card,
            "head": asdict(arm.head),
            "options": arm.options,
            "settings": dict(enumerate(s.to_json() for s in arm.settings)),
        }
        for arm in plan.arms
    }
    return {**folds, "precision": plan.precision, **arms}


def seen_before(before: dict[str, Any]) -> Notice:
    """The warning that a page carries when its test parts had been looked at."""
    if not before["runs"]:
        return notice("looked_at_before", n=before["looks"])
    return notice("looked_at_by_others", n=before["looks"], runs=len(before["runs"]))


def facts_of(recipe: Recipe, plan: Plan, dataset: Dataset, manifest: pl.DataFrame) -> dict[str, Any]:
    """What ``run.json`` says of a plan, for judging, telling and serving."""
    task, targets = plan.make_task(), plan.task.targets
    outer = {fold.outer: {"train": set(fold.learns), "test": set(fold.test)} for fold in plan.folds}
    return {
        "task": plan.task.name,
        "question": task.question,
        "metric": {"name": task.metric.name, "higher_is_better": task.metric.direction != "lower"},
        "kind": plan.kind,
        "targets": [t.name for t in targets],
        "classes": {t.name: list(t.classes) for t in targets},
        "positive": {t.name: t.positive for t in targets},
        "target_specs": [asdict(t) for t in targets],
        "units": {t.name: dataset.info.get("targets", {}).get(t.name, {}).get("unit") for t in targets},
        "structures": list(plan.task.structures),
        "channels": plan.channels,
        "stored_with": dataset.info.get("stored_with", {}),
        "level": dataset.info.get("label_level", "case"),
        "patient": dataset.info.get("patient", "column"),
        "identity": dataset.info.get("identity"),
        "unit": "patient" if dataset.patients_known else "case",
        "patients": dict(zip(manifest["case_id"].to_list(), manifest["patient_id"].to_list())),
        "n_patients": manifest["patient_id"].n_unique(),
        "n_cases": len(manifest),
        "folds": len(plan.folds),
        "seeds": list(plan.seeds),
        "split_hash": plan.split_hash,
        "threads": plan.threads,
        "device": plan.device,
        "acquisition": acquisition(manifest),
        "unlabelled": len(dataset.manifest) - len(manifest),
        "flow": cohort.flow(dataset, plan, task),
        "planned": plan.size,
        "cells": {cell.hash: cell.arm for cell in plan.inner_cells},
        "warnings": notices.to_json(
            [
                *(config.COMPAT[name] for name in recipe.compat),
                *dataset.warnings,
                *task.remarks(dataset),
                *splits.same_pixels_in_two_roles(manifest, outer),
                *splits.remarks(manifest, planning.split_rows_of(plan), task.stratify),
            ]
        ),
        "negatives": planning.kinds_of_negatives(recipe, dataset, task) if recipe.negatives else None,
    }


def acquisition(manifest: pl.DataFrame) -> dict[str, Any]:
    """Ranges of the training acquisition, for refusing or flagging what a served model has never seen."""
    shape = manifest["shape"].to_list()
    spacing = [s for s in manifest["spacing"].to_list() if s is not None and all(v is not None for v in s)]
    return {
        "kind": sorted(manifest["kind"].unique().to_list()),
        "value_unit": sorted(manifest["value_unit"].drop_nulls().unique().to_list()),
        "frames": [min(s[1] for s in shape), max(s[1] for s in shape)],
        "height": [min(s[2] for s in shape), max(s[2] for s in shape)],
        "width": [min(s[3] for s in shape), max(s[3] for s in shape)],
        "spacing": [[min(s[k] for s in spacing), max(s[k] for s in spacing)] for k in range(3)] if spacing else None,
        "p005": [manifest["p005"].min(), manifest["p005"].max()],
        "p995": [manifest["p995"].min(), manifest["p995"].max()],
    }


def mark_absent(session: Session, run: runs.Run, arm: Arm, reason: str) -> None:
    """Leave one cell that says why an arm was not run."""
    plan = session.plan
    cell = plan.cell(arm, arm.settings[0], outer=plan.folds[0].outer, inner=-1, seed=plan.seeds[0])
    run.belongs(cell)
    run.mark(cell, "not run: weights absent", reason=reason)
