"""What a task says of cases, as rows of ``predictions.parquet`` and ``measures.parquet``."""

from __future__ import annotations

import polars as pl

from medgraft import tables
from medgraft.data.cases import Cases
from medgraft.data.dataset import CaseDataset
from medgraft.engine.predict import Predicted
from medgraft.tasks.task import Columns, Task


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
    predicted: Predicted, task: Task, samples: CaseDataset, facts: Cases, *, cell: str, split: str, inner: int
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
