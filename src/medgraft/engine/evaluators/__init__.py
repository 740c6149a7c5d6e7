"""What is looked at besides predictions, once a network is trained: each gives rows of ``measures.parquet``.

An evaluator is ``run(session, model, task, rows, training, folder) -> rows or None``; ``EVALUATORS`` holds them in
order. It looks at the part that the cell is judged on, after the look has been logged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from medgraft.engine.evaluators import explain
from medgraft.engine.session import Session, Training
from medgraft.models.model import Model
from medgraft.tasks.task import Task

Evaluator = Callable[[Session, Model, Task, Sequence[int], Training, Path], pl.DataFrame | None]

EVALUATORS: tuple[Evaluator, ...] = (explain.run,)
