"""Every arm of a recipe, trained where it may learn and judged where it was never seen."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from medgraft import config, notices, runs, splits
from medgraft.config import ArmConfig, Recipe
from medgraft.datasets import EXTERNAL, Dataset, staged
from medgraft.engine import fit
from medgraft.engine.context import Context, infer_task, make_fabric
from medgraft.engine.search import inner_cells, search
from medgraft.errors import UserError, WeightsAbsent
from medgraft.files import read_json


def run_arm(context: Context, the_run: runs.Run, arm: ArmConfig, report: Progress) -> None:
    """Search, refit and judge one arm over all outer folds and seeds."""
    for outer, fold in sorted(context.outer.items()):  # patients never cross
        try:
            choice = search(
                context, the_run, arm, outer, progress=report.step, seen=report.cell
            )  # never sees fold["test"]
        except WeightsAbsent:
            raise
        except Exception as error:
            report.failed(the_run, arm, outer, error)
            continue
        for seed in context.recipe.seeds:
            cell = context.cell(
                arm, choice.setting, outer=outer, inner=-1, seed=seed, steps=round(choice.stop_share * 1000)
            )
            try:
                fit.run_cell(
                    context,
                    the_run,
                    arm,
                    cell,
                    choice.setting,
                    train=context.rows_of(fold["train"] | fold.get("select", set())),
                    judge=context.rows_of(fold["test"]),  # each look is logged
                    stop_share=choice.stop_share,
                    progress=report.step,
                )
            except WeightsAbsent:
                raise
            except Exception as error:
                report.failed(the_run, arm, outer, error, cell)
            report.cell(cell)


def loading_text(context: Context, arm: ArmConfig) -> str:
    """How an arm's batches will be fetched, in one line.

    Raises ``UserError`` where one batch exceeds the memory budget.
    """
    setting = context.recipe.arm_train(arm)
    if fit.on_features(arm, setting, context.make_task()):
        return "data: frozen features, computed once and kept in the run folder"
    samples = context.samples(
        context.rows_of(None), context.window(arm), context.augment(setting), context.recipe.arm_window(arm).hu_window
    )
    return fit.memory_plan(context, samples, setting).text


def with_defaults(recipe: Recipe, dataset: Dataset, say: Callable[[str], None]) -> Recipe:
    """A recipe without models gets a sensible set by kind of data and device, and says so.

    Without a GPU, networks that train get smaller windows and fewer epochs, and one seed stands in for
    three where the recipe leaves seeds open: more can be added later, and only their cells are computed.
    """
    if recipe.models:
        return recipe
    kind, quick = dataset.manifest["kind"][0], recipe.device in ("auto", "cpu") and not torch.cuda.is_available()
    lite = "efficientnet_lite0"
    size = {"window": {"size": 128}} if quick and not recipe.window.size else {}
    arms: list[dict[str, Any]]
    if infer_task(dataset, recipe)[0] == "segment":
        name = "unet3d" if kind == "volume" else "smp:unet-resnet18"
        arms = [
            {"model": name, "start": "random", **size, "train": {"learning_rate": 1e-3, "epochs": 20 if quick else 40}}
        ]
        if kind == "volume":
            arms[0].pop("window", None)
    else:
        epochs = {"epochs": 8} if quick else {}
        arms = [
            {"model": lite, "strategy": "frozen_logistic"},
            {"model": lite, "strategy": "finetune", **size, "train": {"learning_rate": 3e-4, **epochs}},
            {"model": lite, "start": "random", **size, "train": {"learning_rate": 1e-3, **epochs}},
        ]
        if kind != "image":
            name, side = {"video": ("r2plus1d_18", 40), "volume": ("resnet3d_18", 32)}[kind]
            small = {"size": side} if kind == "video" else {"size": side, "length": side}
            arms[2] = {
                "model": name,
                "start": "random",
                "window": small if quick else {},
                "train": {"learning_rate": 1e-3, **epochs},
            }
            if quick:  # fine-tuning every frame of every clip takes hours on a CPU
                arms[1] = {"model": lite, "strategy": "frozen", "train": {"learning_rate": 3e-3, "epochs": 30}}
    say(
        "no models were named; taking "
        + ", ".join(ArmConfig(**a).id for a in arms)
        + " (see recipe.yaml in the run folder)"
    )
    changes: dict[str, Any] = {"models": arms}
    if quick and "seeds" not in recipe.model_fields_set:
        changes["seeds"] = [0]
        say("no GPU here: smaller windows, fewer epochs and one seed. seeds=[0,1,2] adds the others later")
    return config.build(Recipe, {**recipe.model_dump(exclude_unset=True), **changes})


def prepare(recipe: Recipe, dataset: Dataset) -> tuple[Context, runs.Run]:
    """Data, task, splits and run folder; everything that can be wrong with a recipe is found here, before training."""
    task, targets, structures = infer_task(dataset, recipe)
    kinds = dataset.manifest["kind"].unique().to_list()
    if len(kinds) != 1:
        raise UserError(
            f"the data set mixes {', '.join(sorted(kinds))}",
            case=str(dataset.root),
            fix="scan each kind into a data set of its own",
        )
    fabric, threads = make_fabric(recipe)
    context = Context(recipe, dataset, kinds[0], task, targets, structures, fabric, threads)
    for arm in recipe.models:
        context.window(arm)  # an unknown model or an impossible window is named before anything is written
        for setting in recipe.arm_settings(arm):
            if setting.tta and task == "segment":
                raise UserError(
                    "test-time augmentation is for labels, not for masks", case=arm.id, fix="leave out train.tta"
                )
            if setting.positive_weight != 1 and (task != "classify" or any(t.kind != "binary" for t in targets)):
                raise UserError(
                    "positive_weight is for yes/no targets",
                    case=arm.id,
                    fix="leave out train.positive_weight, or use balanced=true",
                )
            if recipe.split.inner == 0 and (setting.patience or len(recipe.arm_settings(arm)) > 1):
                raise UserError(
                    "a search or early stopping needs inner parts", case=arm.id, fix="set split.inner=1 or more"
                )
    digests = runs.case_digests(dataset, [t.name for t in targets])
    context.data_hash = runs.digest(digests)
    root = recipe.out / recipe.name
    rows = split_rows(context)
    context.split_hash = runs.digest(rows)
    for row in rows:
        part = (
            context.outer.setdefault(row["outer"], {})
            if row["inner"] < 0
            else context.inner.setdefault((row["outer"], row["inner"]), {})
        )
        part.setdefault(row["role"], set()).add(row["patient_id"])
    for outer in {row["outer"] for row in rows}:
        learns = {row["patient_id"] for row in rows if row["outer"] == outer and row["role"] != "test"} - context.outer[
            outer
        ].get("test", set())
        context.outer.setdefault(outer, {})["train"] = learns
    used = context.rows_of(None)
    manifest = dataset.manifest[used]
    the_run = runs.Run.create(
        root,
        recipe=recipe.model_dump(mode="json"),
        recipe_text=config.dump_recipe(recipe),
        dataset=dataset,
        case_digests=digests,
        facts={
            "task": task,
            "kind": context.kind,
            "targets": [t.name for t in targets],
            "classes": {t.name: list(t.classes) for t in targets},
            "positive": {t.name: t.positive for t in targets},
            "target_specs": [asdict(t) for t in targets],
            "units": {t.name: dataset.info.get("targets", {}).get(t.name, {}).get("unit") for t in targets},
            "structures": structures,
            "channels": int(dataset.info.get("channels", 1)),
            "level": dataset.info.get("label_level", "case"),
            "patient": dataset.info.get("patient", "column"),
            "identity": dataset.info.get("identity"),
            "unit": "patient" if dataset.patients_known else "case",
            "patients": dict(zip(manifest["case_id"].to_list(), manifest["patient_id"].to_list())),
            "n_patients": manifest["patient_id"].n_unique(),
            "n_cases": len(manifest),
            "folds": len(context.outer),
            "seeds": list(recipe.seeds),
            "split_hash": context.split_hash,
            "threads": threads,
            "device": str(fabric.device),
            "acquisition": acquisition(manifest),
            "unlabelled": len(dataset.manifest) - len(used),
            "warnings": notices.to_json(
                [
                    *(config.COMPAT[name] for name in recipe.compat),
                    *dataset.warnings,
                    *splits.same_pixels_in_two_roles(manifest, context.outer),
                ]
            ),
            **({"negatives": kinds_of_negatives(context, manifest)} if recipe.negatives else {}),
        },
    )
    splits.write_splits(rows, root / "splits.json", recipe.compat)
    context.store_root = staged(dataset, recipe.stage)
    return context, the_run


def split_rows(context: Context) -> list[dict[str, Any]]:
    """Rows of ``splits.json``: made once for a run; asked for anew they come out the same."""
    recipe, dataset = context.recipe, context.dataset
    return splits.make_splits(
        replace(dataset, manifest=dataset.manifest[context.rows_of(None)]),
        kind="column" if recipe.split.kind == "external" else recipe.split.kind,
        folds=recipe.split.folds,
        inner=recipe.split.inner,
        test_share=recipe.split.test_share,
        select_share=recipe.split.selects,
        column=EXTERNAL if recipe.split.kind == "external" else recipe.split.column,
        target=context.targets[0].name if context.targets and context.task_name == "classify" else None,
        seed=recipe.split.seed,
        compat=recipe.compat,
    )


def kinds_of_negatives(context: Context, manifest: pl.DataFrame) -> dict[str, Any]:
    """``{column, kinds: {case: kind}}`` of the negative cases.

    Raises ``UserError`` where the question is not yes/no or the column is absent.
    """
    column = str(context.recipe.negatives)
    if context.task_name != "classify" or len(context.targets) != 1 or context.targets[0].kind != "binary":
        raise UserError(
            "kinds of negatives need one yes/no target",
            case=f"negatives={column}",
            fix="leave it out, or choose one target",
        )
    if f"label.{column}" not in manifest.columns:
        raise UserError(f"no label column {column!r}; there are {', '.join(context.dataset.targets)}", case="negatives")
    target = context.targets[0]
    rows = manifest.filter(pl.col(f"label.{target.name}").cast(pl.String) != target.positive).drop_nulls(
        f"label.{column}"
    )
    return {
        "column": column,
        "kinds": dict(zip(rows["case_id"].to_list(), rows[f"label.{column}"].cast(pl.String).to_list())),
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


def mark_absent(context: Context, the_run: runs.Run, arm: ArmConfig, reason: str) -> None:
    """Leave one cell that says why an arm was not run."""
    setting = context.recipe.arm_settings(arm)[0]
    the_run.mark(
        context.cell(arm, setting, outer=0, inner=-1, seed=context.recipe.seeds[0]),
        "not run: weights absent",
        reason=reason,
    )


def planned(context: Context, the_run: runs.Run) -> list[str]:
    """Hashes of all cells of the recipe that exist, chosen refits included; cells of other recipes are left out."""
    arms = {arm.id: arm for arm in context.recipe.models}
    wanted = {
        c.hash
        for arm in arms.values()
        for outer in context.outer
        for _, cells in inner_cells(context, arm, outer)
        for c in cells
    }
    refits = []
    for record in the_run.records():
        arm = arms.get(runs.arm_of(record))
        if arm is None or record["inner"] >= 0 or record["seed"] not in context.recipe.seeds:
            continue
        fresh = context.cell(
            arm,
            config.TrainConfig(**record["setting"]),
            outer=record["outer"],
            inner=-1,
            seed=record["seed"],
            steps=record["context"]["steps"],
        )
        if fresh.hash == record["hash"] and record["setting"] in [
            s.model_dump(mode="json") for s in context.recipe.arm_settings(arm)
        ]:
            refits.append(record["hash"])
    return sorted(wanted | set(refits))


class Progress:
    """One line per cell, with what is left; survives a lost terminal because ``medgraft status`` re-reads the
    folder.
    """

    def __init__(self, context: Context, say: Callable[[str], None]) -> None:
        self.context, self.say = context, say
        recipe = context.recipe
        inner = len({i for _, i in context.inner})
        self.total = sum(
            len(context.outer) * (len(recipe.arm_settings(arm)) * inner + len(recipe.seeds)) for arm in recipe.models
        )
        self.count, self.began, self.shown = 0, time.perf_counter(), 0.0
        self.since = self.began
        self.live = sys.stderr.isatty()
        self.trained = 0

    def step(self, cell: runs.Cell, step: int, steps: int, facts: dict[str, float]) -> None:
        """Called after every optimiser step; writes at most twice a second, to a terminal only."""
        now = time.perf_counter()
        if not self.live or (now - self.shown < 0.5 and step < steps):
            return
        self.shown = now
        line = (
            f"[{self.count + 1}/{self.total}] {cell.title}  step {step}/{steps}  waiting for data "
            f"{facts['wait']:.0%}  {self._eta(step / steps)}"
        )
        sys.stderr.write("\r\x1b[K" + line[: os.get_terminal_size(sys.stderr.fileno()).columns - 1])
        sys.stderr.flush()

    def cell(self, cell: runs.Cell) -> None:
        """Called when a cell is over (trained now or found done)."""
        self.count += 1
        now = time.perf_counter()
        self.trained += now - self.since > 0.05  # else it was found done
        self.since = now
        if self.live:
            sys.stderr.write("\r\x1b[K")
        facts_path = Path(self.context.recipe.out) / self.context.recipe.name / "cells" / cell.hash / "cell.json"
        facts = read_json(facts_path) if facts_path.is_file() else {}
        score = (
            "" if facts.get("score") is None or cell.inner < 0 else f" | inner {facts['metric']} {facts['score']:.3f}"
        )
        wait = "" if facts.get("wait_share") is None else f" | data {facts['wait_share']:.0%} of step"
        self.say(
            f"[{self.count}/{self.total}] {cell.title} | {facts.get('state', '?')} {facts.get('seconds', 0):.0f} "
            f"s{wait}{score} | {self._eta(0)}"
        )

    def failed(
        self, the_run: runs.Run, arm: ArmConfig, outer: int, error: Exception, cell: runs.Cell | None = None
    ) -> None:
        """Name a failed cell in one line; the trace goes to ``errors.log``."""
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".splitlines()[0]
        with open(the_run.root / "errors.log", "a", encoding="utf-8") as stream:
            stream.write(
                f"{time.strftime('%Y-%m-%d %H:%M:%S')} {arm.id} fold "
                f"{outer + 1}\n{''.join(traceback.format_exception(error))}\n"
            )
        failed = cell or context_cell(self.context, the_run, arm, outer)
        the_run.mark(failed, f"failed: {reason[:200]}", reason=reason)
        self.say(f"{arm.id} fold {outer + 1} failed: {reason} (trace in errors.log)")

    def _eta(self, share: float) -> str:
        """What is left, at the pace of the cells trained in this session (cells found done say nothing about it)."""
        if self.trained + share < 0.5:
            return "ETA ?"
        left = (time.perf_counter() - self.began) / (self.trained + share) * (self.total - self.count - share)
        return "ETA " + (
            f"{left / 3600:.1f} h" if left > 5400 else f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
        )


def context_cell(context: Context, the_run: runs.Run, arm: ArmConfig, outer: int) -> runs.Cell:
    """The inner cell of a fold that was running when it failed."""
    cells = [c for _, group in inner_cells(context, arm, outer) for c in group]
    return next(
        (c for c in cells if not the_run.done(c)),
        cells[0] if cells else context.cell(arm, context.recipe.arm_train(arm), outer=outer, inner=-1, seed=0),
    )
