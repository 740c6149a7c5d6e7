"""The answers that look at no picture: found on the training part of each fold, judged as models are."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from conftest import quiet
from factory import make_dataset
from medgraft import flow, runs, store, tables
from medgraft.data.dataset import TargetSpec
from medgraft.datasets import load_dataset
from medgraft.engine import compare, trivial
from medgraft.tasks.classify import Classify
from medgraft.tasks.regress import Regress
from medgraft.tasks.segment import Segment

UNET = "models=[{model: unet2d, start: random}]"


def opened(recipe: Any) -> Any:
    return compare.prepare(recipe, load_dataset(recipe.data))[0]


def spoil(session: Any, patients: tuple[str, ...], column: str, value: Any) -> None:
    """Overwrite the labels of some patients in the data set of a session."""
    manifest = session.dataset.manifest
    hit = pl.col("patient_id").is_in(list(patients))
    new = manifest.with_columns(pl.when(hit).then(pl.lit(value)).otherwise(pl.col(column)).alias(column))
    object.__setattr__(session.dataset, "manifest", new)


def said(session: Any, name: str, outer: int = 0) -> list[tuple[str, float]]:
    """(case, score) of a trivial answer in a fold."""
    predictions = trivial.answers(session)[0].filter(pl.col("cell") == f"trivial.{name}.{outer}")
    return list(predictions.select("case_id", "y_pred").iter_rows())


def test_majority_is_that_of_the_training_part(recipe: Any) -> None:
    session = opened(recipe("split.folds=3", classes=2, cases=30, patients=30))
    fold = session.plan.folds[0]
    before = said(session, "majority")
    learns = session.dataset.manifest.filter(pl.col("patient_id").is_in(list(fold.learns)))
    share = (learns["label.finding"] == "class1").mean()
    assert [p for _, p in before] == pytest.approx([share] * len(fold.test))
    spoil(session, fold.test, "label.finding", "class1")  # what is tested has no say
    assert said(session, "majority") == before
    spoil(session, fold.learns, "label.finding", "class0")
    assert {p for _, p in said(session, "majority")} == {0.0}


def test_mean_and_median_are_those_of_the_training_part(recipe: Any) -> None:
    session = opened(recipe("target=size", "split.folds=3", regress=True, cases=30, patients=30))
    fold = session.plan.folds[1]
    learns = session.dataset.manifest.filter(pl.col("patient_id").is_in(list(fold.learns)))["label.size"].to_numpy()
    for name, value in (("mean", learns.mean()), ("median", np.median(learns))):
        assert [p for _, p in said(session, name, 1)] == pytest.approx([float(value)] * len(fold.test), rel=1e-5)
    spoil(session, fold.test, "label.size", 900.0)
    assert said(session, "mean", 1)[0][1] == pytest.approx(float(learns.mean()), rel=1e-5)


@pytest.mark.parametrize("kind", ["image", "video", "volume"])
def test_the_mean_shape_knows_no_tested_mask(recipe: Any, tmp_path: Path, kind: str) -> None:
    words = ["target=null", "task=segment", "split.folds=2", "window.length=4"]
    model = UNET if kind != "volume" else "models=[{model: unet3d, start: random}]"
    traced = "all" if kind == "volume" else "ends"
    session = opened(recipe(*words, model, kind=kind, masks=True, cases=8, patients=8, traced=traced))
    shape, fold = "trivial.mean_shape.0", session.plan.folds[0]
    there = dict(session.dataset.manifest.select("patient_id", "mask_id").iter_rows())

    def emptied(patients: tuple[str, ...]) -> pl.DataFrame:
        """Measures of fold 0 after the masks of some patients are made empty."""
        store.close_all()
        for patient in patients:
            path = store.path_of(session.dataset.root, there[patient])
            np.save(path, np.zeros_like(np.load(path)))
        store.close_all()
        return trivial.answers(session)[1].filter(pl.col("cell").str.ends_with(".0"))

    before = emptied(())
    assert _dice(before.filter(pl.col("cell") == shape)) > 0.5
    assert _dice(before.filter(pl.col("cell") == "trivial.empty.0")) == 0
    called = [_called(m.filter(pl.col("cell") == shape)) for m in (before, emptied(fold.test), emptied(fold.learns))]
    assert called[0] == called[1] > 0 and called[2] == 0  # it is the shape of those who learn, whoever is tested


def _called(measures: pl.DataFrame) -> float:
    """Voxels that are called the structure."""
    whole = measures.filter((pl.col("frame") == -1) & pl.col("name").is_in(["tp.structure0", "fp.structure0"]))
    return float(whole["value"].sum())


def _dice(measures: pl.DataFrame) -> float:
    sums = dict(measures.filter(pl.col("frame") == -1).group_by("name").agg(pl.col("value").sum()).iter_rows())
    return 2 * sums["tp.structure0"] / (2 * sums["tp.structure0"] + sums["fp.structure0"] + sums["fn.structure0"])


def test_tasks_say_their_answers_without_a_picture() -> None:
    grids = [(1, 4, 6)] * 3
    three = Classify([TargetSpec("t", "classes", ("a", "b", "c"), None)])
    (majority,) = three.trivial(np.array([[0.0], [1.0], [1.0], [np.nan]]), grids, "image")
    assert majority.scores((1, 4, 6)) == pytest.approx([1 / 3, 2 / 3, 0])
    two = Classify([TargetSpec("s", "binary", ("0", "1"), "1"), TargetSpec("t", "binary", ("0", "1"), "1")])
    (majority,) = two.trivial(np.array([[0.0, 1], [1, np.nan], [0, 1], [0, 0]]), grids, "image")
    assert majority.scores((1, 1, 1)) == pytest.approx([0.25, 2 / 3])
    assert two.trivial(np.array([[0.0, np.nan]]), grids[:1], "image") == []
    size = Regress([TargetSpec("ef", "regress", (), None)])
    mean, median = size.trivial(np.array([[1.0], [2.0], [9.0], [np.nan]]), grids, "image")
    assert (mean.scores((1, 1, 1))[0], median.scores((1, 1, 1))[0]) == (4.0, 2.0)


def test_mean_shape_by_hand() -> None:
    """Three masks of a half, two in the same half, one with a row that nobody judged; a grid of twice the side."""
    left = np.zeros((1, 1, 4, 4), np.uint8)
    left[..., :2] = 1
    right = 1 - left
    right[..., 3, :] = 255
    task = Segment(["a"])
    empty, shape = task.trivial([left, left, right], [(1, 4, 4)] * 3, "image")
    found = shape.scores((1, 4, 4))
    assert found[0, 0, 0].tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3])
    assert found[0, 0, 3].tolist() == pytest.approx([1, 1, 0, 0])  # the third says nothing there
    assert (task.said(shape.scores((1, 8, 8)))[0, 0] == np.repeat(np.repeat(left[0, 0], 2, 0), 2, 1)).all()
    assert not empty.scores((1, 8, 8)).any() and empty.scores((1, 8, 8)).shape == (1, 1, 8, 8)
    # structures that exclude each other: none reaches one half, and the likeliest is called all the same
    masks = []
    for first, second in ((4, 0), (4, 0), (0, 4), (0, 4), (0, 0)):
        mask = np.zeros((2, 1, 2, 2), np.uint8)
        mask[0], mask[1] = first > 0, second > 0
        masks.append(mask)
    masks.append(masks[0])
    both = Segment(["a", "b"], exclusive=True)
    shape = both.trivial(masks, [(1, 2, 2)] * 6, "image")[1]
    assert shape.scores((1, 2, 2))[:, 0, 0, 0].tolist() == pytest.approx([3 / 6, 2 / 6])
    assert both.said(shape.scores((1, 2, 2)))[0].all()
    # frames of a video lie upon each other, and each counts once
    clip = np.full((1, 6, 2, 2), 255, np.uint8)
    clip[:, 0], clip[:, 5], other = 1, 0, np.full((1, 3, 2, 2), 255, np.uint8)
    other[:, 1] = 1
    shape = task.trivial([clip, other], [(6, 2, 2), (3, 2, 2)], "video")[1]
    assert shape.scores((9, 2, 2)).shape == (1, 9, 2, 2) and np.allclose(shape.scores((9, 2, 2)), 2 / 3)


def test_a_run_prints_the_trivial_answer_and_keeps_it_apart(recipe: Any, tmp_path: Path) -> None:
    said_lines: list[str] = []
    words = ["train={iterations: 2, batch_size: 8, evaluations: 1}", "report=true"]
    root = flow.run(recipe(*words, cases=40, patients=40, signal=0.0), say=said_lines.append)
    summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
    (model,), (answer,) = summary["models"], summary["trivial"]
    primary = answer["metrics"]["case.auc"]
    assert (primary["value"], primary["n"]) == (0.5, 40) and answer["id"] == "trivial · majority"
    assert answer["metrics"]["case.accuracy"]["low"] is not None  # the same intervals
    assert model["beyond"]["id"] == answer["id"] and not model["beyond"]["shown"]
    assert any(w["kind"] == "not_beyond_trivial" for w in summary["run"]["warnings"])
    assert all("trivial" not in p["a"] + p["b"] for p in summary["pairs"]) and summary["winner"] is None
    with open(root / "leaderboard.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["state"], r["model"], r["rank"]) for r in rows][1:] == [("trivial", "trivial", "")]
    assert float(rows[1]["case.auc"]) == 0.5 and rows[1]["strategy"] == "majority" and rows[1]["parameters"] == ""
    run = runs.Run.open(root)
    assert not any("trivial" in r["arm"] for r in run.records()) and run.info["planned"] == 4
    assert not tables.read(root / "predictions.parquet", "predictions")["cell"].str.starts_with("trivial").any()
    assert "trivial" not in runs.status_text(runs.status(root))
    assert any(line.startswith("most frequent class, without looking: case.auc 0.500") for line in said_lines)
    html = (root / "report.html").read_text(encoding="utf-8")
    assert "Most frequent class" in html and "does not clearly beat the answer that looks at no picture" in html


def test_external_cases_get_the_answer_of_those_at_home(recipe: Any, tmp_path: Path) -> None:
    away = make_dataset(tmp_path / "away", "image", cases=9, classes=2, regress=True, seed=3)
    ids = away.manifest.with_columns(
        pl.concat_str(pl.lit("away-"), pl.col("patient_id")).alias("patient_id"),
        pl.concat_str(pl.lit("away-"), pl.col("case_id")).alias("case_id"),
        (pl.col("label.size") + 100).alias("label.size"),
    )
    tables.write(ids, tmp_path / "away" / "manifest.parquet", "manifest")
    made = recipe("target=size", f"split={{kind: external, test: {tmp_path / 'away'}}}", regress=True)
    root = flow.run(made, say=quiet)
    summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
    mean = next(a for a in summary["trivial"] if a["name"] == "mean")
    home = load_dataset(made.data).manifest["label.size"].mean()
    expected = float(np.mean(np.abs(ids["label.size"].to_numpy() - home)))
    assert mean["metrics"]["case.mae"]["value"] == pytest.approx(expected, rel=1e-5)
    assert mean["metrics"]["case.mae"]["n"] == 9 and mean["metrics"]["case.r2"]["value"] < 0
