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

from medgraft import config, runs, store, tables
from medgraft.config import Recipe
from medgraft.datasets import joined, load_dataset
from medgraft.engine import compare, fit
from medgraft.engine.context import Context
from medgraft.errors import UserError, WeightsAbsent
from medgraft.stats import summary
from medgraft.stats.baseline import facts_alone, trivial_auc
from medgraft.stats.thresholds import youden_threshold


def run(recipe: Recipe, *, say: Callable[[str], None] = print) -> Path:
    """Run a recipe and return its folder with ``report.html``. Only missing cells are trained.

    Raises ``UserError`` when nothing could be judged. A failed cell is isolated, named and kept for the
    report; the other cells go on.
    """
    dataset = load_dataset(recipe.data)
    if not len(dataset.manifest):
        raise UserError("the data set holds no case", case=str(recipe.data), fix="see its rejects.csv, and scan again")
    if recipe.split.kind == "external":
        dataset = joined(dataset, recipe.split.test, recipe.out / recipe.name / "data")
    recipe = compare.with_defaults(recipe, dataset, say)
    context, the_run = compare.prepare(recipe, dataset)
    say(f"run folder {the_run.root}")
    report = compare.Progress(context, say)
    for arm in recipe.models:
        say(f"{arm.id}: {compare.loading_text(context, arm)}")
        try:
            compare.run_arm(context, the_run, arm, report)
        except WeightsAbsent as error:
            say(f"{arm.id}: not run: weights absent. {error}")
            compare.mark_absent(context, the_run, arm, str(error))
    return gather(context, the_run, say)


def gather(context: Context, the_run: runs.Run, say: Callable[[str], None]) -> Path:
    """Join the cells, compute the statistics, write the tables and the report."""
    hashes = compare.planned(context, the_run)
    cells = the_run.cells(hashes)
    if not len(cells.filter((pl.col("state") == "done") & (pl.col("inner") == -1))):
        states = "; ".join(sorted(set(cells["state"].to_list()))[:3]) if len(cells) else "no cell was run"
        raise UserError(
            f"no model could be judged ({states})", case=str(the_run.root), fix="see errors.log in the run folder"
        )
    tables.write(cells, the_run.root / "cells.parquet", "cells")
    predictions, measures = the_run.gather("predictions", hashes), the_run.gather("measures", hashes)
    tables.write(predictions, the_run.root / "predictions.parquet", "predictions")
    tables.write(measures, the_run.root / "measures.parquet", "measures")
    records = the_run.records(hashes)
    chosen = thresholds(cells, predictions) if context.task_name == "classify" else {}
    voting = {
        arm.id for arm in context.recipe.models if context.recipe.arm_window(arm).join == "vote"
    }  # the majority decides, not a threshold
    the_run.info["thresholds"] = {name: values for name, values in chosen.items() if name not in voting}
    facts = ("seconds", "parameters", "load", "score", "best_step", "horizon", "reason", "logistic_c", "wait_share")
    the_run.info["cell_facts"] = {r["hash"]: {k: r.get(k) for k in facts} for r in records}
    the_run.info["curves"] = {r["hash"]: fit.read_log(the_run.root / "cells" / r["hash"] / "log.csv") for r in records}
    the_run.info["baseline"] = baseline(context)
    the_run.save()
    stats = context.recipe.stats
    found = summary.summarise(
        predictions,
        measures,
        cells,
        the_run.info,
        resamples=stats.resamples,
        confidence=stats.confidence,
        seed=stats.seed,
    )
    summary.write_tables(found, the_run.root)
    for model in found["models"]:
        primary, confidence = found["run"]["primary_metric"], found["run"]["confidence"]
        metric = model.get("metrics", {}).get(primary)
        say(f"{model['id']}: " + (model["state"] if not metric else summary.sentence(primary, metric, confidence)))
    if not context.recipe.report:
        return the_run.root
    from medgraft.report import page

    path = page.build(the_run.root, lang=context.recipe.lang)
    say(f"report {path}")
    return the_run.root


def thresholds(cells: pl.DataFrame, predictions: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Youden thresholds of arms with one yes/no target: {arm: {outer fold: threshold}}.

    Each comes from the inner select predictions of the chosen setting within that outer fold alone, so
    the patients it is applied to had no say in it.
    """
    key = ["model", "start", "strategy", "outer", "setting"]
    chosen = cells.filter((pl.col("inner") == -1) & (pl.col("state") == "done")).select(key).unique()
    inner = cells.filter(pl.col("inner") >= 0).join(chosen, on=key, how="semi")
    arms = inner.select(
        pl.col("hash").alias("cell"),
        "outer",
        pl.concat_str(["model", "start", "strategy"], separator=" · ").alias("id"),
    )
    whole = predictions.filter(
        (pl.col("split") == "select") & pl.col("y_true").is_not_null() & (pl.col("window") == -1)
    )
    whole = whole.group_by("cell", "case_id", "target", "class", maintain_order=True).agg(
        pl.col("y_true").first(), pl.col("y_pred").mean()
    )  # over views
    joined = whole.join(arms, on="cell")
    found: dict[str, dict[str, float]] = {}
    for (name, outer), part in joined.group_by(["id", "outer"], maintain_order=True):
        if part.select("target", "class").n_unique() == 1 and part["y_true"].n_unique() == 2:
            found.setdefault(str(name), {})[str(outer)] = youden_threshold(
                part["y_true"].to_numpy(), part["y_pred"].to_numpy()
            )
    return found


def baseline(context: Context) -> dict[str, Any] | None:
    """What size, brightness and length alone can tell: AUC of a logistic regression on these facts, by grouped
    cross-validation.
    """
    if context.task_name != "classify" or len(context.targets) != 1 or context.targets[0].kind != "binary":
        return None
    samples = context.samples(
        context.rows_of(None), context.window(context.recipe.models[0]), "none", (-1000.0, 1000.0)
    )
    manifest = context.dataset.manifest[context.rows_of(None)]
    shape = np.array(manifest["shape"].to_list(), float)
    facts = np.column_stack(
        [shape[:, 1:], manifest["p005"].to_numpy(), manifest["p995"].to_numpy(), mean_intensity(context, manifest)]
    )
    patients = manifest["patient_id"].to_list()
    codes = {p: k for k, p in enumerate(sorted(set(patients)))}
    result = trivial_auc(facts, samples.labels()[:, 0], np.array([codes[p] for p in patients]))
    return {
        "facts": ["frames", "height", "width", "darkest", "brightest", "mean"],
        "auc": result.value,
        "low": result.low,
        "high": result.high,
    }


def mean_intensity(context: Context, manifest: pl.DataFrame) -> np.ndarray:
    """Mean stored value of each case (of at most 16 frames, evenly spread)."""
    means = []
    for array_id in manifest["array_id"]:
        array = store.open_array(context.store_root or context.dataset.root, array_id)
        step = max(1, array.shape[1] // 16)
        means.append(float(array[:, ::step].mean()))
    return np.array(means)


def demo(*, out: str = "demo", patients: int = 90, size: int = 128, difficulty: float = 0.35) -> Path:
    """Simulate, scan, compare three ways of transfer, report. Returns the path of ``report.html``."""
    from medgraft.intake import scan as act
    from medgraft.simulate import chest_xray

    root = Path(out)
    print("1/3 simulating chest X-rays in the RSNA format")
    made = chest_xray.simulate(
        root / "studies",
        patients=patients,
        images_per_patient=2,
        size=256,
        difficulty=difficulty,
        prevalence=0.45,
        seed=1,
    )
    print(made.text())
    print(facts_alone(made.facts, made.target, made.patient))
    print("2/3 scanning them")
    options = config.build(
        act.ScanOptions,
        {"out": root / "data", "layout": "rsna", "target": "pneumonia", "patient": "patient_id", "identity": "keep"},
    )
    print(act.scan(root / "studies", options).text())
    print("3/3 comparing three ways of transfer")
    recipe = config.build(
        Recipe,
        {
            "name": "xray",
            "data": root / "data",
            "out": root / "runs",
            "split": {"folds": 3},
            "window": {"size": size},
            "seeds": [0],
            "train": {"epochs": 4, "learning_rate": 3e-4, "evaluations": 2},
            "models": [
                {"model": "efficientnet_lite0", "strategy": "frozen_logistic"},
                {"model": "efficientnet_lite0", "strategy": "finetune"},
                {"model": "efficientnet_lite0", "start": "random", "train": {"learning_rate": 1e-3}},
            ],
        },
    )
    return run(recipe) / "report.html"
