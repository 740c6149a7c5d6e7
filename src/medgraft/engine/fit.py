"""One cell, from its parts to its sealed folder: build, train, predict, write, DONE."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from medgraft import runs, tables
from medgraft.config import ArmConfig, TrainConfig
from medgraft.data import loader
from medgraft.data.dataset import CaseDataset
from medgraft.engine import explain, features, loop, optim, predict
from medgraft.engine.context import Context
from medgraft.errors import UserError
from medgraft.files import read_json
from medgraft.models import surgery, weights
from medgraft.models.model import Model, make_model
from medgraft.models.weights import LoadReport
from medgraft.tasks.task import Task

Progress = Callable[[runs.Cell, int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Outcome:
    """What a finished cell says: the selection metric, at which of how many steps, how long it took."""

    score: float
    best_step: int
    horizon: int
    seconds: float


def outcome(run: runs.Run, cell: runs.Cell) -> Outcome:
    """Read the outcome of a cell that is done."""
    facts = read_json(run.folder(cell) / "cell.json")
    score = facts["score"]
    return Outcome(float("nan") if score is None else score, facts["best_step"], facts["horizon"], facts["seconds"])


def build(
    context: Context, arm: ArmConfig, task: Task, setting: TrainConfig, *, seed: int, load_weights: bool = True
) -> tuple[Model, LoadReport | None]:
    """The model of an arm. Raises ``WeightsAbsent`` when its start is not on this machine."""
    window = context.window(arm)
    model, report = make_model(
        arm.model,
        start=arm.start,
        outputs=task.outputs,
        dense=task.dense,
        channels=int(context.dataset.info.get("channels", 1)),
        size=(window.length, *window.sides),
        dropout=setting.dropout,
        join=arm.join,
        folders=context.recipe.weights,
        download=context.recipe.download,
        seed=seed,
        load_weights=load_weights,
        options=arm.options,
        hidden=arm.hidden,
        auxiliary=setting.auxiliary_weight > 0 and arm.strategy in ("finetune", "gradual"),
    )
    if model.info.dims == 2:  # the layout in which convolutions of images are fastest, on CPUs and GPUs alike
        model.body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, report


def run_cell(
    context: Context,
    run: runs.Run,
    arm: ArmConfig,
    cell: runs.Cell,
    setting: TrainConfig,
    *,
    train: Sequence[int],
    judge: Sequence[int],
    stop_share: float = 1.0,
    progress: Progress | None = None,
) -> Outcome:
    """Train on the manifest rows ``train``, predict the rows ``judge``, and seal the cell.

    An inner cell (``cell.inner >= 0``) is scored on its select part while it trains; a refit looks at the
    test part once, at its end, and the look is logged. A cell that is done is not touched.
    """
    if run.done(cell):
        return outcome(run, cell)
    task = context.make_task(setting)
    model, report = build(context, arm, task, setting, seed=cell.seed)  # absent weights leave no trace of a cell
    folder = run.begin(cell)
    window, hu_window = context.window(arm), context.recipe.arm_window(arm).hu_window
    search = cell.inner >= 0

    # -- data, or its cached features -------------------------------------------------------------
    training: Any = context.samples(train, window, context.augment(setting), hu_window)
    judged: Any = context.samples(judge, window, context.augment(setting) if setting.tta else "none", hu_window)
    if on_features(arm, setting, task):
        cache = feature_cache(context, run, arm, model, report)
        training = features.FeatureSamples(training, cache)
        judged = (
            judged if setting.tta else features.FeatureSamples(judged, cache)
        )  # a random view has features of its own
        plan_workers, prefetch = 0, 2
    else:
        plan = memory_plan(context, training, setting)
        plan_workers, prefetch = (
            plan.workers if context.recipe.workers is None else context.recipe.workers,
            plan.prefetch,
        )
    if task.name == "regress":
        task.fit_scale(training.labels())  # type: ignore[attr-defined]
    if setting.positive_weight != 1:
        task.fit_weight(training.labels(), setting.positive_weight)  # type: ignore[attr-defined]

    def score(trained: torch.nn.Module) -> tuple[float, Any]:
        found = predict.predict_cases(
            context.fabric,
            trained,
            task,
            judged,
            context.cases,
            batch_size=setting.batch_size,
            workers=plan_workers,
            views=setting.tta,
        )
        return task.summary(found.columns)[task.metric], found

    def plain_score(trained: torch.nn.Module) -> tuple[float, Any]:
        value, found = score(trained)  # plain columns: they travel with the checkpoint
        return value, {"columns": found.columns, "views": found.views}

    # -- train --------------------------------------------------------------------------------------
    horizon = optim.steps_for(setting, len(training))
    extra: dict[str, Any] = {}
    if arm.strategy == "frozen_logistic":
        patients = context.dataset.manifest["patient_id"].to_numpy()[list(train)]
        context.fabric.to_device(model)
        extra["logistic_c"] = features.fit_logistic(model, task, training, setting, groups=patients, seed=cell.seed)
        history = loop.History(best_step=horizon)
        found = None
        if search:
            history.best_score, found = score(model)
    else:
        history, kept = loop.train(
            context.fabric,
            model,
            task,
            training,
            setting,
            seed=cell.seed,
            horizon=horizon,
            stop=max(1, round(stop_share * horizon)),
            how=arm.strategy,
            evaluate=plain_score if search else None,
            folder=folder,
            checkpoint_seconds=context.recipe.checkpoint_seconds,
            loading=loop.Loading(plan_workers, prefetch),
            progress=None if progress is None else lambda step, steps, facts: progress(cell, step, steps, facts),
        )
        found = predict.Predicted(**kept) if kept else None

    # -- predict: the select part while searching, the test part once -------------------------------
    split, measured = "select" if search else "test", []
    if search and "split_80_20" in context.recipe.compat:
        run.look(cell)  # the part that selects is the one that is reported: each such look counts
    if found is None:
        run.look(cell)
        history.best_score, found = score(model)
        if context.recipe.keep_windows and not task.dense:
            table = predict.window_table(
                found, task, judged, context.cases, cell=cell.hash, split=split, inner=cell.inner
            )
            tables.write(table, folder / "windows.parquet", "predictions")
        if found.votes is not None:
            measured.append(predict.vote_table(found, context.cases, cell=cell.hash))
    if task.dense:
        measured.append(predict.measure_table(found.columns, cell=cell.hash))
    else:
        tables.write(
            predict.view_table(found, cell=cell.hash, split=split, inner=cell.inner),
            folder / "predictions.parquet",
            "predictions",
        )

    # -- where it looks, held against the boxes that people drew ---------------------------------------
    if not search and context.recipe.explain and context.explains(model):
        pictures = context.samples(judge, window, "none", hu_window)
        measured.append(
            explain.explain(
                context.fabric, model, pictures, context.boxes, folder, most=context.recipe.explain, cell=cell.hash
            )
        )
    if measured:
        tables.write(pl.concat(measured), folder / "measures.parquet", "measures")

    # -- weights of chosen settings, then seal ---------------------------------------------------------
    if not search:
        save_model(folder, model, task, arm)
    result = Outcome(float(history.best_score), int(history.best_step), horizon, round(history.seconds, 3))
    run.finish(
        cell,
        score=result.score,
        best_step=result.best_step,
        horizon=horizon,
        seconds=result.seconds,
        wait_share=round(history.wait_share, 4),
        resumed_from=history.resumed_from,
        metric=task.metric,
        train_cases=len(train),
        judged_cases=len(judge),
        parameters=sum(p.numel() for p in model.parameters()),
        load=None if report is None else load_facts(model, report),
        **extra,
    )
    return result


def load_facts(model: Model, report: LoadReport) -> dict[str, Any]:
    """What ``cell.json`` keeps of a load: how much, from which card, and what its authors reached on their own data."""
    facts: dict[str, Any] = {"loaded": len(report.loaded), "share": report.share_of_parameters, "card": report.card}
    if (card := model.weight_card) is not None:
        facts |= {"source": card.source_data, "accuracy": weights.source_accuracy(card)}
    return facts


def on_features(arm: ArmConfig, setting: TrainConfig, task: Task) -> bool:
    """Whether a cell trains on cached features: a still body, and no augmentation asked for."""
    if task.dense or arm.strategy not in ("frozen", "frozen_logistic"):
        return False
    return arm.strategy == "frozen_logistic" or setting.augment in ("none", "auto")


def memory_plan(context: Context, samples: CaseDataset, setting: TrainConfig) -> loader.Plan:
    """Workers and prefetch within the recipe's memory budget. Raises ``UserError`` when not even one batch fits."""
    return loader.plan_memory(samples, setting.batch_size, context.recipe.memory_gb, context.threads)


def feature_cache(
    context: Context, run: runs.Run, arm: ArmConfig, model: Model, report: LoadReport | None
) -> dict[str, np.ndarray]:
    """Cached features of all usable cases under this arm's body and window.

    A random body is a function of the seed, so it has a cache of its own for each seed. Raises ``UserError``
    for a body that mixes the cases of a batch: what it says of one depends on the others, test cases included.
    """
    if surgery.mixes_cases(model.body):
        raise UserError(
            "a body with batch statistics says of a case what depends on the cases beside it, so its features cannot "
            "be kept",
            case=arm.id,
            fix="take out bn_mode: batch, or augment, or choose strategy=finetune",
        )
    window = context.recipe.arm_window(arm).model_dump(mode="json", exclude={"join"})
    body = runs.digest({k: float(v.double().sum()) for k, v in model.body.state_dict().items()})
    facts = {"model": arm.model, "body": body, "window": window, "data": context.data_hash, "threads": context.threads}
    facts |= {"options": arm.options} if arm.options else {}
    facts |= {"join": arm.join} if arm.join != "mean" else {}  # a sequence of frames, not their mean
    key = runs.digest(facts)[:12]
    if key not in context.features:

        def make() -> dict[str, np.ndarray]:
            rows = context.rows_of(None)
            samples = context.samples(rows, context.window(arm), "none", context.recipe.arm_window(arm).hu_window)
            return features.compute(context.fabric, model, samples, batch_size=16, workers=0)

        context.features[key] = features.cached(run.root / "features" / f"{key}.npz", make)
    return context.features[key]


def save_model(folder: Any, model: Model, task: Task, arm: ArmConfig) -> None:
    """``best.ckpt``: weights (only the head where the body is frozen and comes from a card) and the label scale."""
    state = model.state_dict()
    if arm.strategy in ("frozen", "frozen_logistic") and arm.start != "random" and not task.dense:
        state = {k: v for k, v in state.items() if k.startswith("head.")}
    scale = {k: torch.as_tensor(getattr(task, k)) for k in ("center", "scale") if hasattr(task, k)}
    loop.save_checkpoint(
        folder / "best.ckpt", {"model": {k: v.detach().cpu().clone() for k, v in state.items()}, "scale": scale}
    )


def load_model(context: Context, run: runs.Run, arm: ArmConfig, record: dict[str, Any]) -> tuple[Model, Task]:
    """The model and task of a finished refit cell, as they were judged."""
    setting = TrainConfig(**record["setting"])
    task = context.make_task(setting)
    whole = arm.start == "random" or task.dense or arm.strategy not in ("frozen", "frozen_logistic")
    model, _ = build(
        context, arm, task, setting, seed=record["seed"], load_weights=not whole
    )  # a head alone needs its card's body
    path = run.root / "cells" / record["hash"] / "best.ckpt"
    if not path.is_file():
        raise UserError("its checkpoint best.ckpt is missing", case=record["hash"], fix="run the recipe again")
    state = torch.load(path, map_location="cpu", weights_only=True)
    missing, unexpected = model.load_state_dict(state["model"], strict=False)
    if unexpected or any(not m.startswith("body.") for m in missing):
        raise UserError(
            "its checkpoint does not fit the model", case=record["hash"], fix="run the recipe again with this version"
        )
    for key, value in state["scale"].items():
        setattr(task, key, value.numpy())
    context.fabric.to_device(model)
    model.eval()
    return model, task


def read_log(path: Any) -> list[dict[str, float]]:
    """Rows of a cell's ``log.csv``."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as stream:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]
