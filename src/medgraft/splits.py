"""Who trains, who selects, who tests. A patient never stands in two roles; a split that does cannot be written.

Rows are ``{outer, inner, patient_id, role}``. The role ``test`` belongs to an outer fold (``inner`` -1);
``train`` and ``select`` belong to its inner parts. Without inner parts the training patients stand at
``inner`` -1 too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medgraft.datasets import Dataset
from medgraft.errors import UserError
from medgraft.files import write_json
from medgraft.notices import Notice, notice

Row = dict[str, Any]
Strata = dict[str, frozenset[str]]  # patient -> the classes that it holds
BLOCK = 5  # neighbours by value that are dealt out together, where the target is a quantity
QUANTITY = "\0"  # before the block of a quantity, for no class of a table begins so
GIANT = 2.0  # times the mean number of cases of a part: a part so large is named
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
    target: str | Sequence[str] | None = None,
    seed: int = 0,
    compat: Sequence[str] = (),
) -> list[Row]:
    """Rows of ``splits.json``, a function of the data set and the arguments alone.

    ``kfold`` and ``nested`` test every patient once in ``folds`` parts; ``holdout`` tests one share;
    ``column`` takes the roles of a split column (train, val, test). ``inner`` is the number of inner
    parts: 1 holds out ``select_share`` of the training patients, k makes k folds, 0 none. Parts are
    grouped by patient and stratified by the classes of every ``target``, and by the size of a quantity. Cases
    without any of these labels take no part. ``compat`` with ``split_80_20`` (holdout only) selects on the test
    part, as a source did. Raises ``UserError`` when the only target has a class of fewer patients than parts, or a
    column names unknown roles.
    """
    frame = dataset.manifest
    targets = [target] if isinstance(target, str) else list(target or [])
    if targets:
        frame = frame.filter(pl.any_horizontal(pl.col(f"label.{name}").is_not_null() for name in targets))
    if not len(frame):
        raise UserError("no case has a label", case=", ".join(targets), fix="check the label table")
    classes = strata(frame, targets)
    if kind == "column":
        rows = _by_column(frame, column, inner, select_share, classes, seed)
    elif kind in ("kfold", "nested", "holdout"):
        shares = [1 / folds] * folds if kind != "holdout" else _shares(test_share)
        _enough(classes, len(shares), f"{len(shares)} outer parts", len(targets) == 1)
        tests = _parts(classes, shares, seed, "outer")
        rows = []
        if "split_80_20" in compat:
            return _selected_on_test(tests[0], classes)
        one = len(targets) == 1
        for outer, test in enumerate(tests if kind != "holdout" else tests[:1]):
            rows += _rows_of_fold(outer, sorted(set(classes) - test), test, inner, select_share, classes, seed, one)
    else:
        raise UserError(f"split kind {kind!r} is unknown", fix="use kfold, nested, holdout, column or external")
    check(rows)
    return rows


def strata(frame: pl.DataFrame, targets: Sequence[str]) -> Strata:
    """What each patient holds: the classes of its cases, ``TARGET=CLASS`` where there are several targets. A quantity
    counts by its place among the patients' means, in blocks of five patients for one target and in quarters for
    several.
    """
    found: dict[str, set[str]] = {p: set() for p in sorted(frame["patient_id"].unique().to_list())}
    for name in targets:
        column = frame.select("patient_id", pl.col(f"label.{name}").alias("label")).drop_nulls()
        if column["label"].dtype != pl.String:
            means = column.group_by("patient_id").agg(pl.col("label").mean()).sort("label", "patient_id")
            size = BLOCK if len(targets) == 1 else max(1, -(-len(means) // 4))
            pairs = [(p, f"{QUANTITY}{place // size:06d}") for place, p in enumerate(means["patient_id"].to_list())]
        else:
            pairs = column.unique().sort("patient_id", "label").rows()
        for patient, label in pairs:
            found[patient].add(label if len(targets) == 1 else f"{name}={label}")
    return {patient: frozenset(held) for patient, held in found.items()}


def _shares(share: float) -> list[float]:
    """Shares of the parts of which the first is held out: as many equal ones as the share divides one, else two."""
    parts = round(1 / share)
    return [1 / parts] * parts if parts > 1 and abs(1 / parts - share) < 1e-3 else [share, 1 - share]


def _counts(classes: Strata) -> Counter[str]:
    return Counter(name for held in classes.values() for name in held)


def _enough(classes: Strata, parts: int, what: str, one_target: bool = True) -> None:
    if len(classes) < parts:
        raise UserError(f"{len(classes)} patients cannot make {what}", fix="use fewer folds")
    if not one_target or all(name.startswith(QUANTITY) for name in _counts(classes)):
        return  # several targets, or a quantity: a class that cannot be everywhere is named where the numbers stand
    for name, n in sorted(_counts(classes).items()):
        if n < parts:
            several = "1 patient" if n == 1 else f"{n} patients"
            key = "split.inner" if "inner" in what else "split.folds"
            others = sorted(name_ for name_, n_ in _counts(classes).items() if n_ >= parts)
            raise UserError(
                f"class {name} has {several}, too few for {what}",
                fix=f"lower {key}, or leave the class out: classes=[{', '.join(others)}]",
            )


def _parts(classes: Strata, shares: Sequence[float], seed: int, purpose: str) -> list[set[str]]:
    """Patients dealt into parts of these shares, class by class.

    Equal parts of patients of one class each: round by round, and the deal goes on where the last class stopped. Else
    by iterative stratification (Sechidis et al. 2011): the rarest class first, each patient to the part that still
    lacks most of it.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed & (2**63 - 1), _number(purpose)]))
    dealt: list[set[str]] = [set() for _ in shares]
    if len(set(shares)) == 1 and all(len(held) <= 1 for held in classes.values()):
        turn = 0
        for name in sorted({"".join(held) for held in classes.values()}):
            members = sorted(p for p, held in classes.items() if "".join(held) == name)
            for place in rng.permutation(len(members)):
                dealt[turn % len(shares)].add(members[int(place)])
                turn += 1
        return dealt
    order = sorted(classes)
    waiting = [order[int(i)] for i in rng.permutation(len(order))]
    counts = _counts(classes)
    room = [share * len(order) for share in shares]
    lacks = {name: [share * n for share in shares] for name, n in counts.items()}
    while waiting:
        left = _counts({p: classes[p] for p in waiting})
        rarest = min(left, key=lambda name: (left[name], name)) if left else None
        for patient in [p for p in waiting if rarest is None or rarest in classes[p]]:
            part = max(range(len(shares)), key=lambda k: (lacks[rarest][k] if rarest else 0, room[k], -k))
            dealt[part].add(patient)
            room[part] -= 1
            for name in classes[patient]:
                lacks[name][part] -= 1
        waiting = [p for p in waiting if rarest is not None and rarest not in classes[p]]
    return dealt


def _number(purpose: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=7).digest(), "little")


def _rows_of_fold(
    outer: int,
    learns: list[str],
    test: set[str],
    inner: int,
    select_share: float,
    classes: Strata,
    seed: int,
    one_target: bool = True,
) -> list[Row]:
    rows = [{"outer": outer, "inner": -1, "patient_id": p, "role": "test"} for p in sorted(test)]
    if inner == 0:
        return rows + [{"outer": outer, "inner": -1, "patient_id": p, "role": "train"} for p in learns]
    known = {p: classes[p] for p in learns}
    shares = [1 / inner] * inner if inner > 1 else _shares(select_share)
    parts = inner if inner > 1 else 2  # of one hold-out: what trains and what selects
    _enough(known, parts, f"{parts} inner parts", one_target)
    chosen = _parts(known, shares, seed, f"inner {outer}")
    if inner == 1:  # of equal parts the first that holds most classes, so that none is chosen without
        equal = [part for part, share in zip(chosen, shares) if share == shares[0]]
        chosen = [max(equal, key=lambda part: len(_counts({p: known[p] for p in part})))]
    for number, select in enumerate(chosen):
        rows += [
            {"outer": outer, "inner": number, "patient_id": p, "role": "select" if p in select else "train"}
            for p in learns
        ]
    return rows


def _selected_on_test(test: set[str], classes: Strata) -> list[Row]:
    """One part held out both for choosing and for reporting: the fault of a source, for ``compat`` alone."""
    rows = [{"outer": 0, "inner": -1, "patient_id": p, "role": "test"} for p in sorted(test)]
    rows += [
        {"outer": 0, "inner": 0, "patient_id": p, "role": "select" if p in test else "train"} for p in sorted(classes)
    ]
    check(rows, compat=("split_80_20",))
    return rows


def _by_column(
    frame: pl.DataFrame, column: str | None, inner: int, select_share: float, classes: Strata, seed: int
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
    classes = {p: held for p, held in classes.items() if p in roles}
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


def remarks(manifest: pl.DataFrame, rows: Sequence[Row], targets: Sequence[str] | None) -> list[Notice]:
    """What a reader must know of the parts: a selecting part that lacks a class which its training part holds, and a
    test part that one patient makes much larger than the others.
    """
    held = strata(manifest, [t for t in targets or () if manifest[f"label.{t}"].dtype == pl.String])
    found: list[Notice] = []
    roles: dict[tuple[int, int], dict[str, set[str]]] = {}
    for row in rows:
        roles.setdefault((row["outer"], row["inner"]), {}).setdefault(row["role"], set()).add(row["patient_id"])
    lacking: dict[str, list[int]] = {}
    for (outer, _), parts in sorted(roles.items()):
        if "select" in parts:
            there = _counts({p: held[p] for p in parts["select"] if p in held})
            for name in _counts({p: held[p] for p in parts.get("train", ()) if p in held}):
                if name not in there:
                    lacking.setdefault(name, []).append(outer)
    for name, outers in sorted(lacking.items()):
        found.append(notice("select_lacks_class", value=name, folds=sorted(set(outers))))
    cases: Mapping[str, int] = dict(manifest.group_by("patient_id").len().iter_rows())
    tests = {outer: parts["test"] for (outer, _), parts in roles.items() if "test" in parts}
    sizes = {outer: sum(cases.get(p, 0) for p in test) for outer, test in tests.items()}
    mean = sum(sizes.values()) / len(sizes) if sizes else 0
    for outer, size in sorted(sizes.items()):
        largest = max(cases.get(p, 0) for p in tests[outer])
        if len(sizes) > 1 and size > GIANT * mean and largest > size / 2:
            found.append(notice("giant_patient", fold=outer, n=largest, size=size, mean=round(mean)))
    return found
