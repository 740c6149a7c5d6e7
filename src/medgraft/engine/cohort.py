"""The flow of cases: how many were found, refused, read, used, learned from and tested, as plain numbers.

They stand in ``run.json`` (``flow``), so that a page can draw them without the data set, and they add up: of each
source found = read + waiting + refused and read = used + unlabelled + left out; over all sources used = tested + those
that only learn + idle. What was judged in the end is added by the statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from medgraft.datasets import EXTERNAL, Dataset
from medgraft.engine.plan import Fold, Plan, usable_rows
from medgraft.tasks.task import Task


def flow(dataset: Dataset, plan: Plan, task: Task) -> dict[str, Any]:
    """``{sources, used, folds, tested, idle}``.

    ``sources``: one for each data set: ``role`` (train or test of an external split, else ""), ``name``, ``found`` as
    its scan counted (None for a data set that is older than these counts), ``read``, ``same_pixels`` (cases whose
    pixels another one has), ``unlabelled`` (no value of any target, or no mask), ``left_out`` (labelled otherwise than
    the run asks), ``used``, ``targets`` {name: cases used that have a value}. ``folds``: outer, learns, select (one an
    inner part), test and ``targets`` {name: {learns, test}}. ``tested`` and ``idle`` (used and in no fold) over all
    folds, each case once. Numbers of cases stand as ``{cases, patients}``.
    """
    manifest = dataset.manifest.with_row_index("row")
    used = manifest.filter(pl.col("row").is_in(usable_rows(dataset, task)))
    names = [target.name for target in task.targets]
    parts: list[tuple[dict[str, Any], pl.DataFrame]] = [
        (part, manifest.filter(pl.col(f"split.{EXTERNAL}") == part["role"])) for part in dataset.info.get("joined", [])
    ] or [({"role": "", "name": dataset.info.get("name"), "found": dataset.info.get("found")}, manifest)]
    tested = {p for fold in plan.folds for p in fold.test}
    learning = {p for fold in plan.folds for p in fold.learns}
    return {
        "sources": [_source(part, rows, used, names) for part, rows in parts],
        "used": _size(used),
        "targets": names,
        "folds": [_fold(fold, used, names) for fold in plan.folds],
        "tested": _size(_of(used, tested)),
        "idle": _size(used.filter(~pl.col("patient_id").is_in(list(tested | learning)))),
    }


def _size(rows: pl.DataFrame) -> dict[str, int]:
    return {"cases": rows.height, "patients": rows["patient_id"].n_unique()}


def _of(rows: pl.DataFrame, patients: Iterable[str]) -> pl.DataFrame:
    return rows.filter(pl.col("patient_id").is_in(list(patients)))


def _known(rows: pl.DataFrame, name: str) -> int:
    """How many cases have a value of a target."""
    return rows.height - rows[f"label.{name}"].null_count()


def _source(part: dict[str, Any], rows: pl.DataFrame, used: pl.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    own = used.filter(pl.col("row").is_in(rows["row"].to_list()))
    bare = rows.filter(pl.all_horizontal(pl.col(f"label.{n}").is_null() for n in names)) if names else None
    out = rows.height - own.height
    unlabelled = out if bare is None else bare.height
    return {
        "role": part["role"],
        "name": part["name"],
        "found": part.get("found"),
        "read": _size(rows),
        "same_pixels": rows.height - rows["array_id"].n_unique(),
        "unlabelled": unlabelled,
        "left_out": out - unlabelled,
        "used": _size(own),
        "targets": {name: _known(own, name) for name in names},
    }


def _fold(fold: Fold, used: pl.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    learns, test = _of(used, fold.learns), _of(used, fold.test)
    return {
        "outer": fold.outer,
        "learns": _size(learns),
        "select": [_size(_of(used, set(part.select) - set(fold.test))) for _, part in sorted(fold.inner.items())],
        "test": _size(test),
        "targets": {name: {"learns": _known(learns, name), "test": _known(test, name)} for name in names},
    }
