"""Who trains, who selects, who tests. A patient never stands in two roles; a split that does cannot be written.

Rows are ``{outer, inner, patient_id, role}``. The role ``test`` belongs to an outer fold (``inner`` -1);
``train`` and ``select`` belong to its inner parts. Without inner parts the training patients stand at
``inner`` -1 too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medgraft.datasets import Dataset
from medgraft.errors import UserError
from medgraft.files import write_json
from medgraft.notices import Notice, notice

Row = dict[str, Any]
ROLES = {
    "train": "train",
    "training": "train",
    "val": "select",
    "valid": "select",
    "validation": "select",
    "select": "select",
    "dev": "select",
    "test": "test",
    "testing": "test",
}


def make_splits(
    dataset: Dataset,
    *,
    kind: str = "kfold",
    folds: int = 5,
    inner: int = 1,
    test_share: float = 0.2,
    select_share: float = 0.2,
    column: str | None = None,
    target: str | None = None,
    seed: int = 0,
    compat: Sequence[str] = (),
) -> list[Row]:
    """Rows of ``splits.json``, a function of the data set and the arguments alone.

    ``kfold`` and ``nested`` test every patient once in ``folds`` parts; ``holdout`` tests one share;
    ``column`` takes the roles of a split column (train, val, test). ``inner`` is the number of inner
    parts: 1 holds out ``select_share`` of the training patients, k makes k folds, 0 none. Parts are
    grouped by patient and stratified by the classes of ``target``. Cases without that label take no
    part. ``compat`` with ``split_80_20`` (holdout only) selects on the test part, as a source did. Raises
    ``UserError`` when a class has fewer patients than parts, or a column names unknown roles.
    """
    frame = dataset.manifest
    if target is not None:
        frame = frame.filter(pl.col(f"label.{target}").is_not_null())
    if not len(frame):
        raise UserError("no case has a label", case=target or "", fix="check the label table")
    classes = _classes(frame, target)
    if kind == "column":
        rows = _by_column(frame, column, inner, select_share, classes, seed)
    elif kind in ("kfold", "nested", "holdout"):
        parts = folds if kind != "holdout" else max(2, round(1 / test_share))
        _enough(classes, parts, f"{parts} outer parts")
        tests = _parts(classes, parts, seed, "outer")
        rows = []
        if "split_80_20" in compat:
            return _selected_on_test(tests[0], classes)
        for outer, test in enumerate(tests if kind != "holdout" else tests[:1]):
            rows += _rows_of_fold(outer, sorted(set(classes) - test), test, inner, select_share, classes, seed)
    else:
        raise UserError(f"split kind {kind!r} is unknown", fix="use kfold, nested, holdout, column or external")
    check(rows)
    return rows


def _classes(frame: pl.DataFrame, target: str | None) -> dict[str, str]:
    """Patient -> stratum. A patient with several labels counts for the rarest of them."""
    if target is None or frame[f"label.{target}"].dtype != pl.String:
        return dict.fromkeys(sorted(frame["patient_id"].unique().to_list()), "")
    pairs = frame.select("patient_id", pl.col(f"label.{target}").alias("label")).unique().sort("patient_id", "label")
    count = dict(pairs.group_by("label").len().iter_rows())
    strata: dict[str, str] = {}
    for patient, label in pairs.iter_rows():
        if patient not in strata or (count[label], label) < (count[strata[patient]], strata[patient]):
            strata[patient] = label
    return strata


def _enough(classes: dict[str, str], parts: int, what: str) -> None:
    if len(classes) < parts:
        raise UserError(f"{len(classes)} patients cannot make {what}", fix="use fewer folds")
    for name in sorted(set(classes.values())):
        n = sum(1 for c in classes.values() if c == name)
        if name and n < parts:
            raise UserError(
                f"class {name} has {n} patients, too few for {what}", fix="use fewer folds, or leave the class out"
            )


def _parts(classes: dict[str, str], parts: int, seed: int, purpose: str) -> list[set[str]]:
    """Patients dealt into ``parts`` of equal size, class by class; the deal goes on where the last class stopped."""
    rng = np.random.Generator(np.random.Philox(key=[seed & (2**63 - 1), _number(purpose)]))
    dealt: list[set[str]] = [set() for _ in range(parts)]
    turn = 0
    for name in sorted(set(classes.values())):
        members = sorted(p for p, c in classes.items() if c == name)
        for place in rng.permutation(len(members)):
            dealt[turn % parts].add(members[int(place)])
            turn += 1
    return dealt


def _number(purpose: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=7).digest(), "little")


def _rows_of_fold(
    outer: int, learns: list[str], test: set[str], inner: int, select_share: float, classes: dict[str, str], seed: int
) -> list[Row]:
    rows = [{"outer": outer, "inner": -1, "patient_id": p, "role": "test"} for p in sorted(test)]
    if inner == 0:
        return rows + [{"outer": outer, "inner": -1, "patient_id": p, "role": "train"} for p in learns]
    known = {p: classes[p] for p in learns}
    parts = inner if inner > 1 else max(2, round(1 / select_share))
    _enough(known, min(parts, 2) if inner == 1 else parts, f"{parts} inner parts")
    chosen = _parts(known, parts, seed, f"inner {outer}")
    for number, select in enumerate(chosen if inner > 1 else chosen[:1]):
        rows += [
            {"outer": outer, "inner": number, "patient_id": p, "role": "select" if p in select else "train"}
            for p in learns
        ]
    return rows


def _selected_on_test(test: set[str], classes: dict[str, str]) -> list[Row]:
    """One part held out both for choosing and for reporting: the fault of a source, for ``compat`` alone."""
    rows = [{"outer": 0, "inner": -1, "patient_id": p, "role": "test"} for p in sorted(test)]
    rows += [
        {"outer": 0, "inner": 0, "patient_id": p, "role": "select" if p in test else "train"} for p in sorted(classes)
    ]
    check(rows, compat=("split_80_20",))
    return rows


def _by_column(
    frame: pl.DataFrame, column: str | None, inner: int, select_share: float, classes: dict[str, str], seed: int
) -> list[Row]:
    have = [c.removeprefix("split.") for c in frame.columns if c.startswith("split.")]
    if column is None or f"split.{column}" not in frame.columns:
        raise UserError(
            f"no split column {column!r}; there are {', '.join(have) or 'none'}",
            fix="scan with split=COLUMN, then split.column=COLUMN",
        )
    roles: dict[str, str] = {}
    for patient, case, value in frame.select("patient_id", "case_id", f"split.{column}").iter_rows():
        role = ROLES.get(str(value).strip().lower())
        if role is None:
            raise UserError(f"split {column} is {value!r}, not train, val or test", case=case)
        if roles.setdefault(patient, role) != role:
            raise UserError(
                f"patient {patient} stands in {roles[patient]} and in {role}",
                case=case,
                fix=f"mend the column {column}",
            )
    test = {p for p, r in roles.items() if r == "test"}
    select = {p for p, r in roles.items() if r == "select"}
    learns = sorted(p for p, r in roles.items() if r != "test")
    if not test and select:  # train and val only: what was held out is judged, selection is inside train
        test, select = select, set()
        learns = sorted(p for p, r in roles.items() if r == "train")
    if not test or not [p for p in learns if p not in select]:
        raise UserError(f"split column {column} has no {'test' if not test else 'train'} part")
    if select and inner == 1:
        rows = [{"outer": 0, "inner": -1, "patient_id": p, "role": "test"} for p in sorted(test)]
        return rows + [
            {"outer": 0, "inner": 0, "patient_id": p, "role": "select" if p in select else "train"} for p in learns
        ]
    return _rows_of_fold(0, learns, test, inner, select_share, classes, seed)


def check(rows: list[Row], compat: Sequence[str] = ()) -> None:
    """Raise ``UserError`` when a patient stands in two roles of one part, or in the test role and an inner part of one
    fold.

    Under ``compat`` ``split_80_20`` tested patients may select too; they never train.
    """
    seen: dict[tuple[int, int, str], str] = {}
    for row in rows:
        key = (row["outer"], row["inner"], row["patient_id"])
        if seen.setdefault(key, row["role"]) != row["role"]:
            raise UserError(
                f"patient {row['patient_id']} stands in {seen[key]} and in {row['role']} of fold {row['outer'] + 1}"
            )
        if row["role"] not in ("train", "select", "test"):
            raise UserError(f"role {row['role']!r} is unknown")
    tests = {(row["outer"], row["patient_id"]) for row in rows if row["role"] == "test"}
    for row in rows:
        allowed = ("test", "select") if "split_80_20" in compat else ("test",)
        if row["role"] not in allowed and (row["outer"], row["patient_id"]) in tests:
            raise UserError(f"patient {row['patient_id']} is tested and trained on in fold {row['outer'] + 1}")


def write_splits(rows: list[Row], path: Path, compat: Sequence[str] = ()) -> Path:
    """Write ``splits.json``. A split that shares a patient between roles is refused."""
    check(rows, compat)
    return write_json(path, {"rows": rows})


def same_pixels_in_two_roles(manifest: pl.DataFrame, parts: dict[int, dict[str, set[str]]]) -> list[Notice]:
    """The warning that a run must carry when an array stands under a patient that trains and another that is tested,
    else nothing.

    ``parts`` maps an outer fold to ``{"train": patients, "test": patients}``. Only stored arrays are compared, so it
    costs nothing.
    """
    shared = (
        manifest.group_by("array_id").agg(pl.col("patient_id").unique()).filter(pl.col("patient_id").list.len() > 1)
    )
    groups = [set(p) for p in shared["patient_id"].to_list()]
    crossed = [
        n
        for n, g in enumerate(groups)
        if any(g & p.get("train", set()) and g & p.get("test", set()) for p in parts.values())
    ]
    number = len(crossed)
    return [notice("two_roles", n=number)] if number else []
