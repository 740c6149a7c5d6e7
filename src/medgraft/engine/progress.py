"""How far a run is: a line for each cell, and what is left."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable

from medgraft import runs
from medgraft.engine.plan import Arm, Plan
from medgraft.errors import UserError
from medgraft.files import read_json
from medgraft.progress import duration


class Progress:
    """One line per cell, with what is left; survives a lost terminal because ``medgraft status`` re-reads the
    folder.
    """

    def __init__(self, plan: Plan, run: runs.Run, say: Callable[[str], None]) -> None:
        self.plan, self.run, self.say = plan, run, say
        self.total = plan.size
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
        where = f"[{self.count + 1}/{self.total}] {cell.title}  step {step}/{steps}"
        line = f"{where}  waiting for data {facts['wait']:.0%}  {self._eta(step / steps)}"
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
        path = self.run.folder(cell) / "cell.json"
        facts = read_json(path) if path.is_file() else {}
        score = (
            "" if facts.get("score") is None or cell.inner < 0 else (f" | inner {facts['metric']} {facts['score']:.3f}")
        )
        wait = "" if facts.get("wait_share") is None else f" | data {facts['wait_share']:.0%} of step"
        done = f"{facts.get('state', '?')} {facts.get('seconds', 0):.0f} s"
        self.say(f"[{self.count}/{self.total}] {cell.title} | {done}{wait}{score} | {self._eta(0)}")

    def failed(self, arm: Arm, outer: int, error: Exception, cell: runs.Cell | None = None) -> None:
        """Name a failed cell in one line; the trace goes to ``errors.log``."""
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".splitlines()[0]
        head = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {arm.id} fold {outer + 1}\n"
        log = self.run.root / "errors.log"  # a full disk has no room for the trace; the reason is said all the same
        with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as stream:
            stream.write(head + "".join(traceback.format_exception(error)) + "\n")
        failed = cell or self._at_work(arm, outer)
        self.say(f"{arm.id} fold {outer + 1} failed: {reason} (trace in errors.log)")
        self.run.belongs(failed)
        self.run.mark(failed, f"failed: {reason[:200]}", reason=reason)

    def _at_work(self, arm: Arm, outer: int) -> runs.Cell:
        """The inner cell of a fold that was running when it failed."""
        cells = [c for _, group in self.plan.searches(arm, outer) for c in group]
        undone = next((c for c in cells if not self.run.done(c)), cells[0] if cells else None)
        return undone or self.plan.cell(arm, arm.settings[0], outer=outer, inner=-1, seed=0)

    def _eta(self, share: float) -> str:
        """What is left, at the pace of the cells trained in this session (cells found done say nothing about it)."""
        if self.trained + share < 0.5:
            return "ETA ?"
        left = (time.perf_counter() - self.began) / (self.trained + share) * (self.total - self.count - share)
        return f"ETA {duration(left)}"
