"""One cell, from its parts to its sealed folder: build, train, predict, write, DONE."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from medgraft import runs, tables
from medgraft.data import loader
from medgraft.data.dataset import CaseDataset
from medgraft.engine import features, loop, optim, predict, rows
from medgraft.engine.build import build, fit_normalise, load_facts, save_model
from medgraft.engine.evaluators import EVALUATORS
from medgraft.engine.plan import STILL
from medgraft.engine.session import Session, Training
from medgraft.files import read_json, sha256
from medgraft.models.model import Model
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


@dataclass(frozen=True)
class Parts:
    """Who learns and who is judged: samples, or their cached features, and how batches are fetched."""

    learns: Any
    judged: Any
    judged_rows: list[int]
    loading: loop.Loading


@dataclass
class Learnt:
    """What training leaves: the history, what was predicted at the best look (while searching), a head's strength."""

    history: loop.History
    found: predict.Predicted | None = None
    facts: dict[str, Any] | None = None


def run_cell(session: Session, run: runs.Run, training: Training, progress: Progress | None = None) -> Outcome:
    """Train on the cell's training part, predict the part it is judged on, and seal it.

    An inner cell is scored on its select part while it trains; a refit looks at the test part once, at its end, and
    the look is logged. A cell that is done is not touched.
    """
    cell = training.cell
    if run.done(cell):
        return outcome(run, cell)
    task = session.plan.make_task(training.setting, inner=cell.inner, largest=training.largest)
    model, report = build(session.plan, training.arm, training.setting, task, seed=cell.seed)
    folder = run.begin(cell)  # after the build: absent weights leave no trace of a cell
    began = time.perf_counter()
    parts = parts_of(session, training, task, model)  # features among them, for the cell that needs them first
    ready = time.perf_counter() - began
    task.fit(parts.learns.labels())
    learnt = learn(session, training, task, model, parts, folder, progress)
    learnt.history.seconds += ready
    if not training.searches or "split_80_20" in session.plan.compat:  # there the part that selects is reported too
        run.look(cell, test_part(session, cell))
    if learnt.found is None:
        learnt.history.best_score, learnt.found = score(session, training, task, model, parts)
    write_tables(session, training, task, parts, learnt.found, folder)
    evaluate(session, training, task, model, parts, folder)
    return seal(run, training, task, model, report, parts, learnt, folder)


def test_part(session: Session, cell: runs.Cell) -> str:
    """Name of the test part that a cell looks at."""
    return session.plan.digest_of(session.plan.part(cell.outer, -1)[1])


def parts_of(session: Session, training: Training, task: Task, model: Model) -> Parts:
    """Data of a cell, or its cached features where the body is still."""
    setting, tta = training.setting, training.setting.train.tta > 0
    trains, judged = (session.rows(who) for who in session.plan.part(*training.part))
    learns: Any = session.samples(trains, setting, augmented=True, part=training.part)
    held: Any = session.samples(judged, setting, augmented=tta)
    if setting.normalise.kind == "data":
        fit_normalise(model, session.samples(trains, setting))
    if training.arm.on_features(setting, task):
        cache = features.of_training(session, training, model)
        learns = features.FeatureSamples(learns, cache)
        held = held if tta else features.FeatureSamples(held, cache)  # a random view has features of its own
        return Parts(learns, held, judged, loop.Loading(0, 2))
    return Parts(learns, held, judged, loading(session, learns, training))


def loading(session: Session, samples: CaseDataset, training: Training) -> loop.Loading:
    """How batches are fetched within the memory budget. Raises ``UserError`` when not even one batch fits."""
    means = session.plan.means
    plan = memory_plan(session, samples, training.setting.train.batch_size)
    return loop.Loading(plan.workers if means.workers is None else means.workers, plan.prefetch)


def memory_plan(session: Session, samples: CaseDataset, batch_size: int) -> loader.Plan:
    """Workers and prefetch within the memory budget. Raises ``UserError`` when not even one batch fits."""
    return loader.plan_memory(samples, batch_size, session.plan.means.memory_gb, session.plan.threads)


def score(
    session: Session, training: Training, task: Task, model: torch.nn.Module, parts: Parts
) -> tuple[float, predict.Predicted]:
    """The selection metric of a network on the part it is judged on, and what it predicted there."""
    train = training.setting.train
    found = predict.predict_cases(
        session.fabric,
        model,
        task,
        parts.judged,
        session.cases,
        batch_size=train.batch_size,
        workers=parts.loading.workers,
        views=train.tta,
    )
    return task.summary(found.columns)[task.metric.name], found


def learn(
    session: Session,
    training: Training,
    task: Task,
    model: Model,
    parts: Parts,
    folder: Path,
    progress: Progress | None,
) -> Learnt:
    """Train by the one loop, or set a linear head in closed form."""
    train, cell = training.setting.train, training.cell
    horizon = optim.steps_for(train, len(parts.learns))
    if training.arm.strategy == "frozen_logistic":
        patients = session.dataset.manifest["patient_id"].to_numpy()[parts.learns.cases]
        session.fabric.to_device(model)
        began = time.perf_counter()
        used = features.fit_closed_form(model, task, parts.learns, train, groups=patients, seed=cell.seed)
        history = loop.History(best_step=horizon, seconds=time.perf_counter() - began)
        learnt = Learnt(history, facts={"logistic_c": used, "horizon": horizon})
        if training.searches:
            learnt.history.best_score, learnt.found = score(session, training, task, model, parts)
        return learnt

    def look(trained: torch.nn.Module) -> tuple[float, Any]:
        value, found = score(session, training, task, trained, parts)
        return value, {"columns": found.columns, "views": found.views}  # plain columns travel with the checkpoint

    history, kept = loop.train(
        session.fabric,
        model,
        task,
        parts.learns,
        train,
        seed=cell.seed,
        horizon=horizon,
        stop=max(1, round(training.stop_share * horizon)),
        how=training.arm.strategy,
        evaluate=look if training.searches else None,
        folder=folder,
        checkpoint_seconds=session.plan.means.checkpoint_seconds,
        loading=parts.loading,
        progress=None if progress is None else lambda step, steps, facts: progress(cell, step, steps, facts),
    )
    return Learnt(history, predict.Predicted(**kept) if kept else None, {"horizon": horizon})


def write_tables(
    session: Session, training: Training, task: Task, parts: Parts, found: predict.Predicted, folder: Path
) -> None:
    """``predictions.parquet`` where windows join to cases, else ``measures.parquet``; votes and windows beside them."""
    cell = training.cell
    split = "select" if training.searches else "test"
    if task.joins != "case":
        tables.write(rows.measure_table(found.columns, cell=cell.hash), folder / "measures.parquet", "measures")
        return
    table = rows.view_table(found, cell=cell.hash, split=split, inner=cell.inner)
    tables.write(table, folder / "predictions.parquet", "predictions")
    if training.searches:
        return
    if found.votes is not None:
        tables.write(rows.vote_table(found, session.cases, cell=cell.hash), folder / "measures.parquet", "measures")
    if session.plan.means.keep_windows and found.windows:
        table = rows.window_table(
            found, task, parts.judged, session.cases, cell=cell.hash, split=split, inner=cell.inner
        )
        tables.write(table, folder / "windows.parquet", "predictions")


def evaluate(session: Session, training: Training, task: Task, model: Model, parts: Parts, folder: Path) -> None:
    """Add what the evaluators measure to ``measures.parquet``."""
    found = [run(session, model, task, parts.judged_rows, training, folder) for run in EVALUATORS]
    more = [table for table in found if table is not None]
    if not more:
        return
    path = folder / "measures.parquet"
    before = [tables.read(path, "measures")] if path.is_file() else []
    tables.write(pl.concat([*before, *more]), path, "measures")


def seal(
    run: runs.Run,
    training: Training,
    task: Task,
    model: Model,
    report: LoadReport | None,
    parts: Parts,
    learnt: Learnt,
    folder: Path,
) -> Outcome:
    """Keep the weights of a chosen setting, write the facts of the cell, then DONE."""
    facts, history = dict(learnt.facts or {}), learnt.history
    if not training.searches:
        save_model(folder, model, task, training.arm, training.setting)
        facts["weights"] = sha256(folder / "best.ckpt")
    result = Outcome(float(history.best_score), int(history.best_step), facts.pop("horizon"), round(history.seconds, 3))
    run.finish(
        training.cell,
        score=result.score,
        best_step=result.best_step,
        horizon=result.horizon,
        seconds=result.seconds,
        wait_share=round(history.wait_share, 4),
        resumed_from=history.resumed_from,
        metric=task.metric.name,
        train_cases=len(parts.learns),
        judged_cases=len(parts.judged_rows),
        parameters=sum(p.numel() for p in model.parameters()),
        losses=history.losses,
        body_trains=training.arm.strategy not in STILL,
        load=None if report is None else load_facts(model, report),
        **facts,
    )
    return result


def outcome(run: runs.Run, cell: runs.Cell) -> Outcome:
    """Read the outcome of a cell that is done."""
    facts = read_json(run.folder(cell) / "cell.json")
    found = facts["score"]
    return Outcome(float("nan") if found is None else found, facts["best_step"], facts["horizon"], facts["seconds"])


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of a cell's ``log.csv``."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as stream:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]
