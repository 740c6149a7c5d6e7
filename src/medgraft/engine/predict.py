"""Prediction: windows through a model, joined to cases, made into rows. The only path there is.

Three ways to join, one for each word of ``Task.joins``: the scores of a case's windows are averaged, its maps are laid
over its own grid, or each window is measured alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from medgraft.data import loader
from medgraft.data.cases import Cases
from medgraft.data.dataset import CaseDataset
from medgraft.data.windows import DenseJoin, Window, join_scores, join_votes
from medgraft.tasks.task import Columns, Task

OnCase = Callable[[int, np.ndarray], None]


@dataclass
class Predicted:
    """Predictions of the cases of one part.

    ``columns`` are the task's rows (of ``predictions`` where windows join to cases, else of ``measures``). ``scores``
    holds, per case in order of ``cases``, the joined probabilities (n, answers); elsewhere it is empty.
    ``votes`` (n, 2), where windows vote: how many of a case's windows said yes, and how many there are.
    ``views`` has one set of columns a view where there were several, the clean one first; ``columns`` is their mean.
    """

    columns: Columns
    cases: list[int] = field(default_factory=list)
    scores: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    windows: dict[str, np.ndarray] = field(default_factory=dict)
    votes: np.ndarray | None = None
    views: list[Columns] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """The windows of one batch, and the places in it whose output counts."""

    windows: tuple[Window, ...]
    kept: tuple[int, ...]


def blocks(windows: Sequence[Window], batch_size: int) -> list[Block]:
    """Windows in order, ``batch_size`` at a time."""
    parts = [tuple(windows[i : i + batch_size]) for i in range(0, len(windows), batch_size)]
    return [Block(part, tuple(range(len(part)))) for part in parts]


def blocks_as_judged(
    windows: Sequence[Window], batch_size: int, counts: Sequence[int], places: Mapping[int, int]
) -> list[Block]:
    """Windows of some cases, each in the batch and at the place that it had when all of a part's cases were judged.

    What a kernel gives for a window can depend in the last bit on how many stand beside it and where. ``counts`` are
    the windows of each judged case, in the order of judging; ``places`` says which of them a manifest row is. Places of
    absent cases are filled with a window that is there.
    """
    first = np.concatenate([[0], np.cumsum(counts)])
    total = int(first[-1])
    found: dict[int, dict[int, Window]] = {}
    number: dict[int, int] = {}
    for window in windows:
        place = int(first[places[window.case]]) + number.setdefault(window.case, 0)
        number[window.case] += 1
        found.setdefault(place // batch_size, {})[place % batch_size] = window
    made = []
    for block, there in sorted(found.items()):
        length = min(batch_size, total - block * batch_size)
        filler = there[min(there)]
        made.append(Block(tuple(there.get(p, filler) for p in range(length)), tuple(sorted(there))))
    return made


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
    on_case: OnCase | None = None,
    views: int = 0,
    layout: Sequence[Block] | None = None,
) -> Predicted:
    """Predict every case of ``samples``; with ``views`` > 0 as the mean of the clean view and that many random ones.

    ``on_case(row, scores)`` receives the joined field (K, D, H, W) of a task that joins fields, one case at a time, so
    that no more than one case is ever in memory. ``layout`` says which windows share a batch (default: in order,
    ``batch_size`` at a time). Predictions do not depend on the number of workers.
    """
    model.eval()
    work = _Work(fabric, model, task, samples, facts, workers, layout or blocks(samples.eval_windows(), batch_size))
    if task.joins == "case":
        return _by_case(work, views)
    return _by_field(work, on_case) if task.joins == "field" else _by_window(work)


@dataclass(frozen=True)
class _Work:
    fabric: Fabric
    model: torch.nn.Module
    task: Task
    samples: CaseDataset
    facts: Cases
    workers: int
    layout: Sequence[Block]

    def outputs(self, view: int = 0) -> Iterator[tuple[Block, Mapping[str, Any], np.ndarray]]:
        """(block, batch, scores) of every batch, only the outputs that count; ``view`` > 0 for a random view."""
        samples = self.samples.seen(view) if view else self.samples
        parts = [list(block.windows) for block in self.layout]
        for number, batch in loader.part_batches(samples, parts, self.workers):
            block = self.layout[number]
            scores = self.task.scores(self.model(self.fabric.to_device(batch))).cpu().numpy()
            yield block, batch, scores[list(block.kept)] if len(block.kept) < len(block.windows) else scores


def _by_case(work: _Work, views: int) -> Predicted:
    """The mean of the scores of a case's windows, and their votes where windows vote."""
    task, samples, facts = work.task, work.samples, work.facts
    seen, windows = [], {}
    for view in range(views + 1):
        rows, starts, outputs = [], [], []
        for block, batch, scores in work.outputs(view):
            outputs.append(scores)
            rows.append(np.asarray(batch["case"])[list(block.kept)])
            starts.append(np.asarray(batch["start"])[list(block.kept), 0])
        every, rows_ = np.concatenate(outputs), np.concatenate(rows)
        cases, joined = join_scores(every, rows_)
        seen.append(joined)
        if not view:
            windows = {"case": rows_, "start": np.concatenate(starts), "scores": every}
    joined = np.mean(seen, axis=0) if views else seen[0]
    order = {int(row): place for place, row in enumerate(samples.cases)}
    truth = samples.labels()[[order[int(c)] for c in cases]]
    ids = [facts.ids[int(c)] for c in cases]
    patients = [facts.patients[int(c)] for c in cases]
    votes = None
    if samples.window.join == "vote":
        votes = np.stack(join_votes(windows["scores"][:, 0], windows["case"])[1:], axis=1)
    each = [task.rows(ids, patients, truth, scores) for scores in seen] if views else []
    columns = task.rows(ids, patients, truth, joined)
    return Predicted(columns, [int(c) for c in cases], joined, windows, votes, each)


def _by_field(work: _Work, on_case: OnCase | None) -> Predicted:
    """Maps laid over the grid that windows are cut from, brought back to the case's own, and measured there against its
    mask where there is one.
    """
    columns: Columns = {k: [] for k in ("case_id", "frame", "name", "value")}
    join: DenseJoin | None = None
    current = -1

    def finish() -> None:
        if join is None:
            return
        found, covered = work.samples.back(current, join.result(), join.covered)
        if on_case is not None:
            on_case(current, found)
        mask = work.facts.mask(current)
        if mask is not None:
            for key, values in measure(work.task, work.facts, current, mask, found, covered).items():
                columns[key].extend(values)

    for block, _, scores in work.outputs():
        for place, score in zip(block.kept, scores):
            window = block.windows[place]
            if window.case != current:
                finish()
                current = window.case
                join = DenseJoin((len(score), *work.samples.grid(current)))
            assert join is not None
            join.add(window, score)
    finish()
    return Predicted(columns, [int(c) for c in work.samples.cases])


def measure(task: Task, facts: Cases, row: int, mask: np.ndarray, found: np.ndarray, covered: np.ndarray) -> Columns:
    """Measures of a case (frame -1), and of each marked frame of a video."""
    mask = np.where(covered[None], mask, np.uint8(255))
    case_id = facts.ids[row]
    truth: list[tuple[int, np.ndarray]] = [(-1, mask)]
    parts = [found]
    if facts.kinds[row] == "video":
        for frame in np.flatnonzero((mask != 255).any(axis=(0, 2, 3))):
            truth.append((int(frame), mask[:, frame]))
            parts.append(found[:, frame])
    return task.rows([case_id] * len(truth), [facts.patients[row]] * len(truth), truth, parts)


def _by_window(work: _Work) -> Predicted:
    """Measures of each window against its own batch; of a case, the mean over its windows."""
    found: dict[tuple[str, str], list[float]] = {}
    for block, batch, scores in work.outputs():
        kept = list(block.kept)
        rows = [int(c) for c in np.asarray(batch["case"])[kept]]
        own = {key: value[kept] for key, value in batch.items()}
        ids, patients = [work.facts.ids[r] for r in rows], [work.facts.patients[r] for r in rows]
        said = work.task.rows(ids, patients, own, scores)
        for case, name, value in zip(said["case_id"], said["name"], said["value"]):
            found.setdefault((case, name), []).append(float(value))
    columns: Columns = {
        "case_id": [case for case, _ in found],
        "frame": [-1] * len(found),
        "name": [name for _, name in found],
        "value": [float(np.mean(values)) for values in found.values()],
    }
    return Predicted(columns, [int(c) for c in work.samples.cases])
