"""Splits: patients never cross roles, every class in every part, the same split for the same seed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft import tables
from medgraft.datasets import Dataset
from medgraft.errors import UserError
from medgraft.files import read_json
from medgraft.splits import check, make_splits, remarks, write_splits


def dataset(patients: list[str], labels: list[str | None], **splits: list[str]) -> Dataset:
    rows: dict[str, Any] = {name: [None] * len(patients) for name in tables.SCHEMAS["manifest"]}
    rows |= {
        "patient_id": patients,
        "case_id": [f"c{i}" for i in range(len(patients))],
        "array_id": ["0" * 64] * len(patients),
    }
    manifest = pl.DataFrame(rows, schema=tables.SCHEMAS["manifest"]).with_columns(
        pl.Series("label.y", labels, dtype=pl.String)
    )
    manifest = manifest.with_columns(pl.Series(f"split.{k}", v) for k, v in splits.items())
    return Dataset(Path("."), {"patient": "column"}, manifest, tables.empty("frames"))


@st.composite
def studies(draw: st.DrawFn) -> tuple[Dataset, dict[str, set[str | None]]]:
    counts = draw(st.lists(st.integers(6, 25), min_size=1, max_size=4))  # patients of each class
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    patients: list[str] = []
    labels: list[str | None] = []
    for number, count in enumerate(counts):
        for p in range(count):
            for _ in range(int(rng.integers(1, 4))):
                patients.append(f"k{number}p{p}")
                labels.append(f"class{number}")
    order = rng.permutation(len(patients))
    made = dataset([patients[i] for i in order], [labels[i] for i in order])
    truth: dict[str, set[str | None]] = {}
    for patient, label in zip(patients, labels):
        truth.setdefault(patient, set()).add(label)
    return made, truth


@settings(max_examples=40, deadline=None)
@given(
    studies(), st.sampled_from(["kfold", "nested", "holdout"]), st.integers(2, 3), st.integers(0, 3), st.integers(0, 5)
)
def test_patients_never_cross_and_classes_are_spread(
    made: tuple[Dataset, dict[str, set[str | None]]], kind: str, folds: int, inner: int, seed: int
) -> None:
    data, truth = made
    try:
        rows = make_splits(data, kind=kind, folds=folds, inner=inner, target="y", seed=seed)
    except UserError as error:  # with five hold-out parts a class of few patients is refused
        assert kind == "holdout" or inner > 1
        assert "patients" in str(error)
        return
    assert rows == make_splits(data, kind=kind, folds=folds, inner=inner, target="y", seed=seed)
    tested = Counter(r["patient_id"] for r in rows if r["role"] == "test")
    assert set(tested.values()) == {1}
    if kind != "holdout":
        assert set(tested) == set(truth)
        share = Counter((r["outer"], next(iter(truth[r["patient_id"]]))) for r in rows if r["role"] == "test")
        for label in {c for _, c in share}:
            sizes = [share[(k, label)] for k in range(folds)]
            assert max(sizes) - min(sizes) <= 1, "each class is spread evenly"
    for outer in {r["outer"] for r in rows}:
        test = {r["patient_id"] for r in rows if r["outer"] == outer and r["role"] == "test"}
        parts = {r["inner"] for r in rows if r["outer"] == outer and r["role"] != "test"}
        assert parts == (set(range(inner)) if inner else {-1})
        for part in parts:
            mine = [
                (r["patient_id"], r["role"])
                for r in rows
                if (r["outer"], r["inner"]) == (outer, part) and r["role"] != "test"
            ]
            assert len(mine) == len(dict(mine)) and set(dict(mine)) == set(truth) - test
            if inner:
                assert set(dict(mine).values()) == {"train", "select"}


def test_another_seed_gives_other_parts() -> None:
    made = dataset([f"p{n}" for n in range(60)], ["ab"[n % 2] for n in range(60)])
    for options in ({"kind": "kfold", "inner": 0}, {"kind": "nested", "inner": 3}):
        parts = [make_splits(made, folds=3, target="y", seed=seed, **options) for seed in range(4)]
        assert len({json.dumps(rows) for rows in parts}) == 4


def test_unlabelled_cases_take_no_part_and_small_classes_are_named() -> None:
    patients = [f"p{i}" for i in range(12)]
    rows = make_splits(dataset(patients, ["a", "b"] * 5 + [None, None]), folds=3, inner=1, target="y")
    assert {r["patient_id"] for r in rows} == set(patients[:10])
    with pytest.raises(UserError, match="class rare has 2 patients"):
        make_splits(dataset(patients, ["a"] * 10 + ["rare"] * 2), folds=3, target="y")


def labelled(patients: list[str], **labels: list[Any]) -> Dataset:
    """A data set with label columns of any type."""
    made = dataset(patients, [None] * len(patients))
    manifest = made.manifest.drop("label.y").with_columns(pl.Series(f"label.{k}", v) for k, v in labels.items())
    return Dataset(made.root, made.info, manifest, made.frames)


def parts_in(rows: list[dict[str, Any]]) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for row in rows:
        if row["role"] == "test":
            found.setdefault(row["outer"], set()).add(row["patient_id"])
    return found


def test_every_target_is_dealt_out_and_a_case_with_any_label_takes_part() -> None:
    """Two targets known for different patients; the second has 10 positives of 100."""
    patients = [f"p{i:03d}" for i in range(100)]
    first = [str(i % 2) if i < 80 else None for i in range(100)]
    second = [None if i < 10 else str(int(i % 9 == 0)) for i in range(100)]
    made = labelled(patients, t1=first, t2=second)
    for seed in range(20):
        rows = make_splits(made, folds=5, inner=1, target=["t1", "t2"], seed=seed)
        assert rows == make_splits(made, folds=5, inner=1, target=["t1", "t2"], seed=seed)
        tests = parts_in(rows)
        assert set().union(*tests.values()) == set(patients)
        for part in tests.values():
            assert 16 <= len(part) <= 24
            assert sum(second[int(p[1:])] == "1" for p in part) == 2  # 10 positives, two in each fold
            assert 7 <= sum(first[int(p[1:])] == "1" for p in part) <= 9


def test_parts_stay_even_where_every_class_is_rare() -> None:
    """30 findings of one patient each: nothing but the room that is left says where a patient goes."""
    patients = [f"p{i:02d}" for i in range(30)]
    made = labelled(patients, a=["same"] * 30, b=[f"finding {i}" for i in range(30)])
    parts = parts_in(make_splits(made, folds=3, inner=0, target=["b", "a"]))
    assert sorted(len(part) for part in parts.values()) == [10, 10, 10]


def test_a_quantity_is_dealt_out_by_its_size() -> None:
    values = np.random.default_rng(0).lognormal(0, 1, 60).tolist()
    made = labelled([f"p{i:03d}" for i in range(60)], ef=values)
    spread = []
    for seed in range(10):
        tests = parts_in(make_splits(made, folds=5, inner=0, target=["ef"], seed=seed))
        means = [np.mean([np.log(values[int(p[1:])]) for p in part]) for part in tests.values()]
        assert {len(part) for part in tests.values()} == {12}
        spread.append(np.ptp(means))
    assert max(spread) < 0.25  # dealt at random it is about .65


def test_a_patient_of_several_classes_counts_for_all_of_them() -> None:
    """37 patients hold cases of both classes and 3 of one alone: 40 patients hold it, and each fold gets 8."""
    patients = [p for i in range(40) for p in [f"p{i:02d}"] * 2]
    labels = [x for i in range(40) for x in ("a", "b" if i < 37 else "a")]
    tests = parts_in(make_splits(dataset(patients, labels), folds=5, target="y"))
    alone = {f"p{i}" for i in (37, 38, 39)}
    assert sorted(len(part) for part in tests.values()) == [8] * 5
    assert max(len(part & alone) for part in tests.values()) == 1


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 0.9])
def test_the_share_that_was_asked_for_is_tested(share: float) -> None:
    patients = [f"p{i:03d}" for i in range(100)]
    made = dataset(patients, ["rare" if i % 5 == 0 else "common" for i in range(100)])
    rows = make_splits(made, kind="holdout", test_share=share, select_share=0.3, target="y")
    (test,) = parts_in(rows).values()
    assert abs(len(test) - 100 * share) <= 1
    assert abs(sum(int(p[1:]) % 5 == 0 for p in test) - 20 * share) <= 1
    select = {r["patient_id"] for r in rows if r["role"] == "select"}
    assert abs(len(select) - 0.3 * (100 - len(test))) <= 1.5


def test_the_selecting_part_holds_every_class_where_it_can() -> None:
    """45 negative and 5 positive patients in 5 folds: four positives train, and one of them selects."""
    patients = [f"p{i:02d}" for i in range(50)]
    made = dataset(patients, ["rare" if i < 5 else "common" for i in range(50)])
    for seed in range(10):
        rows = make_splits(made, folds=5, inner=1, target="y", seed=seed)
        for outer in range(5):
            select = {r["patient_id"] for r in rows if r["outer"] == outer and r["role"] == "select"}
            assert select & {f"p{i:02d}" for i in range(5)}
        assert remarks(made.manifest, rows, ["y"]) == []
    rows = make_splits(made, folds=5, inner=1, target="y")
    for row in rows:  # without a positive in one selecting part, it is said
        if row["outer"] == 2 and row["role"] == "select" and row["patient_id"] < "p05":
            row["role"] = "train"
    (said,) = remarks(made.manifest, rows, ["y"])
    assert said.kind == "select_lacks_class" and "rare" in str(said) and "fold 3" in str(said)


def test_a_giant_patient_is_named_and_the_fix_can_be_copied() -> None:
    patients = ["giant"] * 500 + [f"p{i:02d}" for i in range(40)]
    made = dataset(patients, [*(["a"] * 500), *("ab"[i % 2] for i in range(40))])
    rows = make_splits(made, folds=5, target="y")
    (said,) = remarks(made.manifest, rows, ["y"])
    assert said.kind == "giant_patient" and "500 of them of one patient" in str(said)
    few = dataset([f"p{i}" for i in range(11)], ["a"] * 5 + ["b"] * 5 + ["viral"])
    with pytest.raises(UserError, match=r"class viral has 1 patient, .*lower split.folds.*classes=\[a, b\]"):
        make_splits(few, folds=3, target="y")


def test_a_given_column_is_kept() -> None:
    patients = [f"p{i}" for i in range(9)]
    parts = ["TRAIN"] * 5 + ["Val"] * 2 + ["test"] * 2
    rows = make_splits(
        dataset(patients, ["a", "b"] * 4 + ["a"], official=parts), kind="column", column="official", target="y"
    )
    roles = {r["patient_id"]: r["role"] for r in rows}
    assert [roles[p] for p in patients] == ["train"] * 5 + ["select"] * 2 + ["test"] * 2
    with pytest.raises(UserError, match="patient p0 stands in train and in test"):
        make_splits(
            dataset(["p0", *patients[1:8], "p0"], ["a"] * 9, official=parts),
            kind="column",
            column="official",
            target="y",
        )
    with pytest.raises(UserError, match="'odd'"):
        make_splits(
            dataset(patients, ["a"] * 9, official=[*parts[:8], "odd"]), kind="column", column="official", target="y"
        )


def test_a_split_that_shares_a_patient_cannot_be_written(tmp_path: Path) -> None:
    rows = make_splits(dataset([f"p{i}" for i in range(10)], ["a", "b"] * 5), folds=2, target="y")
    assert read_json(write_splits(rows, tmp_path / "splits.json"))["rows"] == rows
    test = next(r for r in rows if r["role"] == "test")
    for wrong in ({**test, "inner": 0, "role": "train"}, {**test, "role": "select"}):
        with pytest.raises(UserError, match=test["patient_id"]):
            check([*rows, wrong])
    with pytest.raises(UserError):
        write_splits([*rows, {**test, "inner": 0, "role": "train"}], tmp_path / "bad.json")
    assert not (tmp_path / "bad.json").exists()
