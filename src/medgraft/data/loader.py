"""Batches in order, made ahead by worker processes, within a stated memory budget."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from medgraft.data.batch import Batch, size_in_bytes
from medgraft.data.dataset import CaseDataset
from medgraft.data.windows import Window
from medgraft.errors import UserError

GIB = 1 << 30
#: Private memory of a worker at work, by how it started (seen: 25 to 100 MB forked, 400 to 430 MB spawned; see
# bench/bench_memory.py).
WORKER_BYTES = {"fork": 150 << 20, "spawn": 450 << 20, "forkserver": 450 << 20}
#: A batch in the making needs its stored values twice (windows, then stacked) and once in float32 where it is
# resampled.
WORKING_COPIES = 3


class Batches:
    """An iterator of (number, batch) that knows how long its user waited for it.

    ``waiting`` is the time in seconds spent inside ``next``, ``elapsed`` the time since the first
    ``next``, ``waiting_share`` their ratio: near 0 the network is the bottleneck, near 1 the data.
    """

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self._began: float | None = None
        self.waiting = 0.0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> tuple[Any, Batch]:
        began = time.perf_counter()
        if self._began is None:
            self._began = began
        try:
            number, result = next(self._source)
        finally:
            self.waiting += time.perf_counter() - began
        if isinstance(result, _Refusal):
            self.close()
            raise UserError(result.cause, case=result.case, fix=result.fix)
        return number, result

    def close(self) -> None:
        """Stop making batches and let the workers go. Call it when stopping before the end (early stopping)."""
        # Dropping the last reference ends the workers; nothing else may hold the loader's iterator.
        self._source = iter(())

    @property
    def elapsed(self) -> float:
        return 0.0 if self._began is None else time.perf_counter() - self._began

    @property
    def waiting_share(self) -> float:
        """Share of the time since the first batch that was spent waiting for data, 0 .. 1."""
        return self.waiting / self.elapsed if self._began is not None and self.elapsed > 0 else 0.0


def train_batches(
    dataset: CaseDataset,
    *,
    seed: int,
    first_step: int = 0,
    steps: int,
    batch_size: int,
    workers: int = 0,
    prefetch: int = 2,
    balanced: bool = False,
    context: str | None = None,
) -> Batches:
    """(step, batch) for steps ``first_step .. first_step + steps - 1``, in order.

    Each item of the loader is a whole batch, a function of (seed, step): the same for any number of
    workers, and resuming is starting at ``first_step``. ``prefetch`` is the number of batches each
    worker makes ahead; ``context`` how workers start (``fork``, ``spawn``, ``forkserver``; None: the
    system's way). A ``UserError`` in a worker arrives as it was raised.
    """
    make = partial(dataset.train_batch, seed, batch_size=batch_size, balanced=balanced)
    return Batches(_load(make, range(first_step, first_step + steps), workers, prefetch, context))


def eval_batches(
    dataset: CaseDataset,
    batch_size: int,
    workers: int = 0,
    *,
    prefetch: int = 2,
    windows: Sequence[Window] | None = None,
    context: str | None = None,
) -> Batches:
    """(number, batch) over all evaluation windows (or the given ones) in order; the last batch may be smaller."""
    chosen = dataset.eval_windows() if windows is None else list(windows)
    parts = [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
    return part_batches(dataset, parts, workers, prefetch=prefetch, context=context)


def part_batches(
    dataset: CaseDataset,
    parts: list[list[Window]],
    workers: int = 0,
    *,
    prefetch: int = 2,
    context: str | None = None,
) -> Batches:
    """(number, batch) of lists of windows, each list one batch."""
    return Batches(_load(partial(_eval_batch, dataset, parts), range(len(parts)), workers, prefetch, context))


def _eval_batch(dataset: CaseDataset, parts: list[list[Window]], number: int) -> Batch:
    return dataset.batch(parts[number])


@dataclass(frozen=True)
class _Refusal:
    """A ``UserError`` on its way from a worker: torch would wrap the exception in its trace."""

    cause: str
    case: str
    fix: str


class _Steps(TorchDataset):
    """The steps of a run as a map-style data set whose items are (number, batch)."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> tuple[int, Batch | _Refusal]:
        try:
            return number, self._make(number)
        except UserError as error:
            return number, _Refusal(error.cause, error.case, error.fix)


def _load(
    make: Callable[[int], Batch], numbers: range, workers: int, prefetch: int, context: str | None
) -> Iterator[Any]:
    if workers == 0:
        steps = _Steps(make)
        return (steps[number] for number in numbers)
    loader: DataLoader = DataLoader(
        _Steps(make),
        batch_size=None,
        sampler=numbers,  # type: ignore[arg-type]
        num_workers=workers,
        prefetch_factor=max(1, prefetch),
        multiprocessing_context=context,
        # Its own generator: the loader otherwise takes a number from torch's, which seeds dropout.
        generator=torch.Generator(),
    )
    return iter(loader)


@dataclass(frozen=True)
class Plan:
    """How batches are made within a memory budget: ``workers``, batches ``prefetch``-ed by each, windows a
    ``block`` of evaluation holds, and bytes of a batch. ``text`` says it in one line."""

    workers: int
    prefetch: int
    block: int
    bytes_per_batch: int
    text: str


def plan_memory(
    dataset: CaseDataset, batch_size: int, budget_gb: float, cores: int | None = None, context: str | None = None
) -> Plan:
    """Derive workers, prefetch and evaluation block from a budget for the data side of training.

    One batch is made and measured. Counted are the batch in use, the one being made with its working
    copies, and for each worker its own memory (by ``context``, how workers start) and its prefetched
    batches; those also have to fit into shared memory. Planned are as many workers as cores but one (at
    least one, at most 16) with four batches each; first prefetch gives way, then workers. The evaluation
    block grows from ``batch_size`` by doubling, to at most eight times that,, within what is left. Raises
    ``UserError`` when not even one batch fits without workers.
    """
    cores = cores or os.cpu_count() or 1
    sample = dataset.train_batch(0, 0, 1)
    each = size_in_bytes(sample)
    values = sample["x"].numel()
    bytes_per_batch = each * batch_size
    working = (each * WORKING_COPIES + 4 * values) * batch_size
    budget = int(budget_gb * GIB)
    alone = bytes_per_batch + working
    if alone > budget:
        most = budget // max(1, alone // batch_size)
        raise UserError(
            f"one batch of {batch_size} windows needs {alone / GIB:.2f} GB, the budget is {budget_gb:g} GB",
            fix=f"lower batch_size to {most}" if most else "cut smaller windows or raise the budget",
        )
    shared = _shared_memory()
    workers, prefetch = 0, 1
    own = WORKER_BYTES[
        context or multiprocessing.get_start_method(allow_none=True) or ("fork" if sys.platform == "linux" else "spawn")
    ]
    for count in range(min(16, max(1, cores - 1)), 0, -1):
        for ahead in (4, 3, 2, 1):
            need = bytes_per_batch * (1 + count * ahead) + count * (own + working)
            if need <= budget and (count * ahead + 1) * bytes_per_batch <= shared:
                workers, prefetch = count, ahead
                break
        if workers:
            break
    need = alone if not workers else bytes_per_batch * (1 + workers * prefetch) + workers * (own + working)
    scale = 1
    while scale < 8 and need * 2 * scale <= budget:
        scale *= 2
    text = (
        f"data: {workers} workers, {prefetch} batches ahead each, {bytes_per_batch / (1 << 20):.1f} MB a batch of "
        f"{batch_size} windows, "
        f"evaluation in blocks of {batch_size * scale}; {need / GIB:.2f} of {budget_gb:g} GB on {cores} cores"
    )
    return Plan(workers, prefetch, batch_size * scale, bytes_per_batch, text)


def _shared_memory() -> int:
    """Bytes free where workers leave their batches: /dev/shm on Linux, elsewhere the system's own limit is memory
    itself.
    """
    path = Path("/dev/shm")
    return shutil.disk_usage(path).free if path.is_dir() else 1 << 62
