"""Prediction: windows through a model, joined to cases, made into rows. The only path there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from lightning_fabric import Fabric

from medgraft import store, tables
from medgraft.data import loader
from medgraft.data.dataset import CaseDataset
from medgraft.data.windows import DenseJoin, Window, join_scores, join_votes
from medgraft.datasets import Dataset
from medgraft.tasks.task import Columns, Task


class Cases:
    """Facts of the cases of a data set by manifest row: ids, kinds, and masks on the array's own grid."""

    def __init__(self, dataset: Dataset, store_root: Path | None = None) -> None:
        manifest = dataset.manifest
        self.ids: list[str] = manifest["case_id"].to_list()
        self.patients: list[str] = manifest["patient_id"].to_list()
        self.kinds: list[str] = manifest["kind"].to_list()
        self.shapes: list[list[int]] = manifest["shape"].to_list()
        self._arrays, self._masks = manifest["array_id"].to_list(), manifest["mask_id"].to_list()
        self._frames, self._root = dataset.frames, store_root or dataset.root

    def mask(self, row: int) -> np.ndarray | None:
        """Mask (K, D, H, W) uint8 of a case; frames that nobody traced are 255. None where there is no mask."""
        if self._masks[row] is None:
            return None
        stored = store.open_mask(self._root, self._masks[row])
        mask = np.full((stored.shape[1], *self.shapes[row][1:]), 255, np.uint8)
        traced = self._frames.filter((pl.col("array_id") == self._arrays[row]) & (pl.col("mask_index") >= 0))
        for frame, index in traced.select("frame", "mask_index").iter_rows():
            mask[:, frame] = stored[index]
        return mask


@dataclass
class Predicted:
    """Predictions of the cases of one part.

    ``columns`` are the task's rows (of ``predictions``, or of ``measures`` for dense tasks). ``scores``
    holds, per case in order of ``cases``, the joined probabilities (n, answers); for dense tasks it is empty.
    ``votes`` (n, 2), where windows vote: how many of a case's windows said yes, and how many there are.
    ``views`` has one set of columns a view where there were several, the clean one first; ``columns`` is their mean.
    """

    columns: Columns
    cases: list[int] = field(default_factory=list)
    scores: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    windows: dict[str, np.ndarray] = field(default_factory=dict)
    votes: np.ndarray | None = None
    views: list[Columns] = field(default_factory=list)


@torch.inference_mode()
def predict_cases(
    fabric: Fabric,
    model: torch.nn.Module,
    task: Task,
    samples: CaseDataset,
    facts: Cases,
    *,
    batch_size: int,
    workers: int = 0,
    on_case: Callable[[int, np.ndarray], None] | None = None,
    views: int = 0,
) -> Predicted:
    """Predict every case of ``samples``; with ``views`` > 0 as the mean of the clean view and that many random ones.

    ``on_case(row, scores)`` receives the joined field (K, D, H, W) of dense tasks, one case at a time, so
    that no more than one case is ever in memory. Predictions do not depend on the number of workers.
    """
    model.eval()
    if task.dense:
        return _dense(fabric, model, task, samples, facts, batch_size, workers, on_case)
    seen, windows = [], {}
    for view in range(views + 1):
        rows, starts, outputs = [], [], []
        for _, batch in loader.eval_batches(samples.seen(view) if view else samples, batch_size, workers):
            outputs.append(task.scores(model(fabric.to_device(batch))).cpu().numpy())
            rows.append(np.asarray(batch["case"]))
            starts.append(np.asarray(batch["start"])[:, 0])
        scores, rows_ = np.concatenate(outputs), np.concatenate(rows)
        cases, joined = join_scores(scores, rows_)
        seen.append(joined)
        if not view:
            windows = {"case": rows_, "start": np.concatenate(starts), "scores": scores}
    joined = np.mean(seen, axis=0) if views else seen[0]
    order = {int(row): place for place, row in enumerate(samples.cases)}
    truth = samples.labels()[[order[int(c)] for c in cases]]
    ids = [facts.ids[int(c)] for c in cases]
    patients = [facts.patients[int(c)] for c in cases]
    columns = task.rows(ids, patients, truth, joined)
    votes = (
        np.stack(join_votes(windows["scores"][:, 0], windows["case"])[1:], axis=1)
        if samples.window.join == "vote"
        else None
    )
    each = [task.rows(ids, patients, truth, scores) for scores in seen] if views else []
    return Predicted(columns, [int(c) for c in cases], joined, windows, votes, each)


def _dense(
    fabric: Fabric,
    model: torch.nn.Module,
    task: Task,
    samples: CaseDataset,
    facts: Cases,
    batch_size: int,
    workers: int,
    on_case: Callable[[int, np.ndarray], None] | None,
) -> Predicted:
    columns: Columns = {}
    join: DenseJoin | None = None
    current = -1

    def finish() -> None:
        if join is None:
            return
        field_ = join.result()
        if on_case is not None:
            on_case(current, field_)
        mask = facts.mask(current)
        if mask is not None:
            for key, values in _measure(task, facts, current, mask, field_, join.covered).items():
                columns.setdefault(key, []).extend(values)

    windows = iter(samples.eval_windows())
    for _, batch in loader.eval_batches(samples, batch_size, workers):
        scores = task.scores(model(fabric.to_device(batch))).cpu().numpy()
        for score in scores:
            window: Window = next(windows)
            if window.case != current:
                finish()
                current = window.case
                join = DenseJoin((task.outputs, *samples.grid(current)))
            assert join is not None
            join.add(window, score)
    finish()
    return Predicted(columns or {k: [] for k in ("case_id", "frame", "name", "value")}, [int(c) for c in samples.cases])


def _measure(task: Task, facts: Cases, row: int, mask: np.ndarray, field_: np.ndarray, covered: np.ndarray) -> Columns:
    """Counts of a case (frame -1), and of each traced frame of a video."""
    mask = np.where(covered[None], mask, np.uint8(255))
    case_id = facts.ids[row]
    truth: list[tuple[int, np.ndarray]] = [(-1, mask)]
    parts = [field_]
    if facts.kinds[row] == "video":
        for frame in np.flatnonzero((mask != 255).any(axis=(0, 2, 3))):
            truth.append((int(frame), mask[:, frame]))
            parts.append(field_[:, frame])
    return task.rows([case_id] * len(truth), [facts.patients[row]] * len(truth), truth, parts)


def prediction_table(columns: Columns, *, cell: str, split: str, inner: int) -> pl.DataFrame:
    """Task columns -> rows of ``predictions.parquet`` (whole cases: window -1)."""
    frame = pl.DataFrame(
        columns, schema_overrides={"y_true": pl.Float64, "y_pred": pl.Float64, "class": pl.String, "target": pl.String}
    )
    return tables.validate(
        frame.with_columns(
            pl.lit(cell).alias("cell"),
            pl.lit(split).alias("split"),
            pl.lit(inner).alias("inner"),
            pl.lit(-1).alias("window"),
            pl.lit(0).alias("window_start"),
            pl.lit(0).alias("view"),
        ),
        "predictions",
    )


def view_table(predicted: Predicted, *, cell: str, split: str, inner: int) -> pl.DataFrame:
    """Rows of ``predictions.parquet`` for whole cases: one a view where there were several (0 = clean), else one."""
    each = predicted.views or [predicted.columns]
    found = [prediction_table(columns, cell=cell, split=split, inner=inner) for columns in each]
    return pl.concat(
        [table.with_columns(pl.lit(view, dtype=pl.Int64).alias("view")) for view, table in enumerate(found)]
    )


def window_table(
    predicted: Predicted, task: Any, samples: CaseDataset, facts: Cases, *, cell: str, split: str, inner: int
) -> pl.DataFrame:
    """The single windows of ``predicted`` as rows of ``predictions.parquet``."""
    rows, scores = predicted.windows["case"], predicted.windows["scores"]
    order = {int(row): place for place, row in enumerate(samples.cases)}
    truth = samples.labels()[[order[int(c)] for c in rows]]
    columns = task.rows([facts.ids[int(c)] for c in rows], [facts.patients[int(c)] for c in rows], truth, scores)
    number: dict[int, int] = {}
    numbers = []
    for row in rows:
        numbers.append(number.setdefault(int(row), 0))
        number[int(row)] += 1
    repeat = len(columns["case_id"]) // max(1, len(rows))
    frame = prediction_table(columns, cell=cell, split=split, inner=inner)
    return frame.with_columns(
        pl.Series("window", numbers * repeat, dtype=pl.Int64),
        pl.Series("window_start", list(predicted.windows["start"]) * repeat, dtype=pl.Int64),
    )


def vote_table(predicted: Predicted, facts: Cases, *, cell: str) -> pl.DataFrame:
    """Votes as rows of ``measures.parquet``: ``votes`` (windows of a case that said yes) and ``windows`` (all of
    them).
    """
    assert predicted.votes is not None
    columns: Columns = {
        "case_id": [facts.ids[row] for row in predicted.cases for _ in range(2)],
        "frame": [-1] * predicted.votes.size,
        "name": ["votes", "windows"] * len(predicted.cases),
        "value": predicted.votes.reshape(-1).astype(float).tolist(),
    }
    return measure_table(columns, cell=cell)


def measure_table(columns: Columns, *, cell: str) -> pl.DataFrame:
    """Task columns of a dense task -> rows of ``measures.parquet``."""
    frame = pl.DataFrame(
        columns, schema_overrides={"frame": pl.Int64, "value": pl.Float64, "case_id": pl.String, "name": pl.String}
    )
    return tables.validate(frame.with_columns(pl.lit(cell).alias("cell")), "measures")
