"""Work that a scan hands out: jobs, the processes that do them, and their records as they end."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from medgraft import progress
from medgraft.files import cores

Records = list[dict[str, Any]]
_CHUNK = 8  # jobs in one message to a worker


@dataclass(frozen=True)
class Job:
    """What a worker does on its own. ``key`` names it in the journal, ``record`` does it and returns its line."""

    key: str

    @property
    def fragile(self) -> bool:
        """Whether it may bring its process down: then it is never done in the scan's own."""
        return False

    def record(self) -> dict[str, Any]:
        raise NotImplementedError

    def refused(self, reason: str, fix: str) -> dict[str, Any]:
        """The line of a job that could not be done."""
        return {"key": self.key, "reject": {"reason": reason, "fix": fix}}


def start_worker() -> None:
    """End this worker with its parent, also when the parent is killed: an orphan would keep pipes open for ever."""
    from multiprocessing import connection, parent_process

    parent = parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (connection.wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def read_items(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Records of several jobs; one message between processes."""
    return [job.record() for job in jobs]


def done(
    jobs: Sequence[Job], workers: int | None, shown: bool | None, *, small: bool, label: str = "scan"
) -> Iterator[Records]:
    """Records of jobs as they end, in ``workers`` processes (one for ``small`` work, else the cores), with progress
    ``shown``.
    """
    workers = workers or (1 if small else cores())
    with progress.bar(len(jobs), label, shown, rate="studies/s") as advance:
        for records in results(jobs, min(workers, max(1, len(jobs)))):
            yield records
            advance(len(records))


def results(todo: Sequence[Job], workers: int) -> Iterator[Records]:
    """Records of tasks as they end, in this process or in others."""
    if workers == 1:
        for task in todo:
            if not task.fragile:
                yield [task.record()]
        todo = [task for task in todo if task.fragile]
    size = max(1, min(_CHUNK, len(todo) // (workers * 4)))
    chunks = [todo[i : i + size] for i in range(0, len(todo), size)]
    while chunks:
        done, broken = yield from _pooled(chunks, workers)
        if not broken:
            return
        # A decoder brought its process down. Each study in hand gets a process of its own; the culprit is named.
        chunks = [c for n, c in enumerate(chunks) if n not in done and n not in broken]
        for task in (t for n in sorted(broken) for t in broken[n]):
            try:
                with _pool(1) as alone:
                    yield alone.submit(read_items, [task]).result()
            except concurrent.futures.process.BrokenProcessPool:
                yield [task.refused("its decoder crashed", "the file is damaged or hostile; leave it out")]


def _pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)


def _pooled(
    chunks: Sequence[Sequence[Job]], workers: int
) -> Generator[Records, None, tuple[set[int], dict[int, Sequence[Job]]]]:
    """Yield records; return (numbers of chunks done, chunks in hand when a worker died)."""
    done: set[int] = set()
    waiting = iter(enumerate(chunks))
    running: dict[concurrent.futures.Future[Records], int] = {}
    with _pool(workers) as pool:
        try:
            while True:
                while len(running) < workers * 3 and (pair := next(waiting, None)) is not None:
                    running[pool.submit(read_items, pair[1])] = pair[0]
                if not running:
                    return done, {}
                ended, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in ended:
                    records = future.result()
                    done.add(running.pop(future))
                    yield records
        except concurrent.futures.process.BrokenProcessPool:
            return done, {n: chunks[n] for n in range(len(chunks)) if n not in done and n in set(running.values())}
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
