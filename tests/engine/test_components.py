"""Clean-up of components: what it does, who chooses it, and that it is judged and served alike."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import SimpleITK
from scipy import ndimage

from factory import make_dataset
from medgraft import config, flow, runs, serve, tables
from medgraft.datasets import Dataset, load_dataset
from medgraft.engine import compare, fit, search
from medgraft.engine import plan as planning
from medgraft.engine.build import load_model
from medgraft.engine.predict import predict_cases
from medgraft.engine.session import Training
from medgraft.errors import UserError
from medgraft.intake import scan as act
from medgraft.intake.options import ScanOptions
from medgraft.tasks.segment import Segment, largest_component
from medgraft.tasks.task import Columns, TaskSpec

SHAPE = (12, 20, 20)


def columns(task: Segment, cases: list[tuple[np.ndarray, np.ndarray]]) -> Columns:
    """Measure columns of (truth, called) masks, (K, ...) bool each."""
    ids = [f"c{n}" for n in range(len(cases))]
    truth = [(-1, t.astype(np.uint8)) for t, _ in cases]
    return task.rows(ids, ids, truth, [said.astype(np.float32) for _, said in cases])


def line(*places: int, n: int = 12) -> np.ndarray:
    found = np.zeros((1, 1, 1, n), bool)
    found[..., list(places)] = True
    return found


# ------------------------------------------------------------------ what it does


def test_the_largest_component_stays_and_corners_connect() -> None:
    called = np.zeros((4, 6, 6), bool)
    called[0, 0, 0] = called[1, 1, 1] = called[2, 2, 2] = True  # by corners alone
    called[3, 4:, 4:] = False
    called[0, 4, 4:] = True
    kept = largest_component(called)
    assert kept.sum() == 3 and kept[0, 0, 0] and kept[2, 2, 2] and not kept[0, 4, 4]
    picture = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0]], bool)
    assert largest_component(picture).astype(int).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    pair = line(0, 1, 5, 6)
    assert largest_component(pair).ravel().nonzero()[0].tolist() == [0, 1]  # of equal ones the first
    for whole in (np.zeros((2, 2), bool), np.ones((2, 2), bool)):
        assert (largest_component(whole) == whole).all()


def test_only_named_structures_are_cleaned_and_what_goes_is_background() -> None:
    scores = np.zeros((2, 1, 1, 12), np.float32)
    scores[0, ..., [0, 1, 2, 6]], scores[1, ..., [4, 8, 9]] = 0.9, 0.8
    for exclusive in (True, False):
        task = Segment(["a", "b"], exclusive=exclusive, largest=["b"])
        said = task.said(scores)
        assert said[0].ravel().nonzero()[0].tolist() == [0, 1, 2, 6] and said[1].ravel().nonzero()[0].tolist() == [8, 9]
        answer = task.answer(scores, {"case_id": "x", "kind": "image"}, threshold=None)
        assert answer.labels is not None and answer.labels[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 1, 0, 2, 2, 0, 0]
        assert answer.columns["b voxels"] == 2
    truth = np.zeros((2, 1, 1, 12), np.uint8)
    truth[1, ..., 4] = 1
    found = Segment(["a", "b"], largest=["b"]).count(truth, scores)
    assert {k: v.tolist() for k, v in found.items()} == {"tp": [0, 0], "fp": [4, 2], "fn": [0, 1]}


def test_it_is_chosen_where_the_mean_dice_does_not_fall_a_structure_at_a_time() -> None:
    weighs = Segment(["a"], weighs=True)
    better = (line(1, 2, 3), line(1, 2, 3, 8))  # the small part is wrong
    worse = (line(1, 2, 3, 8), line(1, 2, 3, 8))  # and here it belongs
    much = (line(1, 2, 3, 7, 8), line(1, 2, 3, 7, 8))
    one = (line(1, 2), line(1, 2, 3))
    none = (np.zeros_like(line()), line(3, 5, 9))  # a case without the structure takes no part in the mean
    for cases, chosen in (
        ([better], ("a",)),
        ([worse], ()),
        ([better, worse], ("a",)),  # as much lost as won: it does not fall
        ([better, much], ()),
        ([better, better, much], ("a",)),
        ([one], ()),  # nothing to take away
        ([none], ()),
        ([better, none], ("a",)),
    ):
        assert weighs.cleaned(columns(weighs, cases)) == chosen, len(cases)
    assert weighs.cleaned({k: [] for k in ("case_id", "frame", "name", "value")}) == ()
    assert Segment(["a"]).cleaned(columns(Segment(["a"]), [better])) == ()  # it was not weighed
    two = Segment(["a", "b"], weighs=True)
    mixed = [(np.concatenate([better[0], much[0]]), np.concatenate([better[1], much[1]]))]
    assert two.cleaned(columns(two, mixed)) == ("a",)
    told = columns(two, mixed)
    assert two.summary(told) == Segment(["a", "b"]).summary(columns(Segment(["a", "b"]), mixed))
    assert "largest.tp.a" in told["name"] and not any("largest" in n for n in columns(Segment(["a"]), [better])["name"])


# ------------------------------------------------------------------ named


def words(data: Path, out: Path, *more: str) -> list[str]:
    base = [f"data={data}", f"out={out}", "task=segment", "split.folds=2", "seeds=[0]", "threads=1", "workers=0"]
    base += ["report=false", "stats.resamples=100", "window={kind: cubes, length: 8, size: 16}", "device=cpu"]
    base += ["train={iterations: 60, batch_size: 2, learning_rate: 1e-2, augment: none, evaluations: 1}"]
    return [*base, "models=[{model: unet3d, start: random}]", *more]


def resolved(data: Dataset, out: Path, *more: str) -> planning.Plan:
    return planning.resolve(config.load_recipe(None, words(data.root, out, *more)), data)


CHOOSES = "grid={learning_rate: [1e-2, 1e-3]}"


def test_what_acts_is_in_the_name_and_nothing_else(tmp_path) -> None:
    made = make_dataset(tmp_path / "data", "volume", cases=8, masks=True, structures=2)
    plans = {w: resolved(made, tmp_path, CHOOSES, f"train.components={w}") for w in ("auto", "largest", "all")}
    assert all(planning.Plan.from_json(p.to_json()) == p for p in plans.values())

    def name(word: str, inner: int, largest: tuple[str, ...] = ()) -> str:
        plan = plans[word]
        return plan.cell(plan.arms[0], plan.arms[0].settings[0], outer=0, inner=inner, seed=0, largest=largest).hash

    inner = [name(w, 0) for w in plans]
    assert len(set(inner)) == 3  # auto weighs, largest cleans
    both = ("structure0", "structure1")
    assert name("auto", -1) == name("all", -1) != name("auto", -1, both[:1]) != name("auto", -1, both)
    assert name("auto", -1, both) == name("largest", -1)
    old = TaskSpec("segment", (), both)
    assert not {"largest", "weighs"} & set(old.to_json()) and TaskSpec.from_json(old.to_json()) == old
    assert "components" not in plans["all"].to_json()["arms"][0]["settings"][0]["train"]  # as older plans were


def test_without_a_part_that_selects_there_is_no_clean_up_and_it_is_said(tmp_path) -> None:
    made = make_dataset(tmp_path / "data", "volume", cases=8, masks=True)
    alone, two = resolved(made, tmp_path), resolved(made, tmp_path, CHOOSES)
    assert alone.arms[0].settings[0].train.components == "all" and two.arms[0].settings[0].train.components == "auto"
    said = [[line for line in plan.notes if "clean-up" in line] for plan in (alone, two)]
    assert len(said[0]) == 1 and "no patient selects" in said[0][0] and said[1] == []
    forced = resolved(made, tmp_path, "train.components=largest")
    assert forced.arms[0].settings[0].train.components == "largest"
    assert not any("clean-up" in line for line in forced.notes)
    pictures = make_dataset(tmp_path / "pictures", "image", cases=8, masks=True)
    flat = ["models=[{model: unet2d, start: random}]", "window={size: 32}", CHOOSES]
    assert resolved(pictures, tmp_path, *flat).arms[0].settings[0].train.components == "all"  # auto is for volumes
    named = resolved(pictures, tmp_path, *flat, "train.components=largest")
    assert named.arms[0].settings[0].train.components == "largest"


def test_components_of_labels_and_videos_are_refused(tmp_path) -> None:
    films = make_dataset(tmp_path / "films", "video", cases=8, masks=True)
    flat = ["models=[{model: unet2d, start: random}]", "window={size: 32}"]
    with pytest.raises(UserError, match="components are of masks of pictures and volumes"):
        resolved(films, tmp_path, *flat, "train.components=largest")
    with pytest.raises(UserError, match="components are of masks"):
        resolved(
            films,
            tmp_path,
            "task=classify",
            "target=finding",
            "train.components=largest",
            "window={size: 32}",
            "models=[{model: efficientnet_lite0}]",
        )


# ------------------------------------------------------------------ chosen, judged, served


def twins(root: Path, cases: int = 10) -> Dataset:
    """Volumes with a bright ball and a smaller bright speck. The first six learn and select: there the speck is
    nothing. The last four test: there it belongs to the structure, so that whoever looked at them would keep it.
    """
    raw = root / "raw"
    (raw / "labels").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    places = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"))
    for n in range(cases):
        ball = ((places - np.array([6, 6, 6 + n % 3])[:, None, None, None]) ** 2).sum(0) <= 14
        speck = ((places - np.array([6, 16, 15 - n % 2])[:, None, None, None]) ** 2).sum(0) <= 4
        part = "train" if n < 6 else "test"
        label = (ball | speck if part == "test" else ball).astype(np.uint8)
        values = (rng.normal(0, 5, SHAPE) + 100 * (ball | speck)).astype(np.float32)
        for folder, array in (("", values), ("labels", label)):
            image = SimpleITK.GetImageFromArray(array)
            image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
            SimpleITK.WriteImage(image, str(raw / folder / f"v{n}.nii.gz"))
        rows.append({"image": f"v{n}.nii.gz", "label": f"labels/v{n}.nii.gz", "part": part})
    with open(raw / "cases.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    options: dict[str, Any] = {"labels": "cases.csv", "masks": "label", "patient": "none", "out": root / "data"}
    options |= {"structures": {1: "ball"}, "identity": "keep", "split": "part"}
    act.scan(raw, config.build(ScanOptions, options))
    return load_dataset(root / "data")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, list[str]]:
    """A run whose select part says that the speck goes."""
    root = tmp_path_factory.mktemp("twins")
    data = twins(root)
    said: list[str] = []
    more = ["split.kind=column", "split.column=part", "grid={weight_decay: [0.01, 0.02]}", "seeds=[0, 1]"]
    return flow.run(config.load_recipe(None, words(data.root, root / "runs", *more)), say=said.append), data, said


def counts(root: Path, inner: bool) -> pl.DataFrame:
    records = {r["hash"]: r for r in runs.Run.open(root).records()}
    found = [h for h, r in records.items() if (r["inner"] >= 0) == inner]
    parts = [tables.read(root / "cells" / h / "measures.parquet", "measures") for h in found]
    return pl.concat(parts)


def test_the_part_that_selects_chooses_and_the_test_part_has_no_say(chosen) -> None:
    root, _, said = chosen
    assert any("fold 1: largest component alone of ball, by the select parts" in line for line in said)
    inner, test = counts(root, True), counts(root, False)
    assert inner["name"].str.starts_with("largest.").any() and not test["name"].str.starts_with("largest.").any()
    assert not set(inner["case_id"]) & set(test["case_id"])
    wide = inner.group_by("name").agg(pl.col("value").sum())
    total = dict(wide.iter_rows())
    assert total["fp.ball"] > total["largest.fp.ball"] and total["tp.ball"] == total["largest.tp.ball"]
    # no test case has its true speck: a look at the test part would have kept what there is of it
    lost = dict(test.filter(pl.col("name") == "fn.ball").group_by("case_id").agg(pl.col("value").min()).iter_rows())
    assert len(lost) == 4 and min(lost.values()) >= 25
    records = [r for r in runs.Run.open(root).records() if r["inner"] < 0]
    assert [r["context"]["task"]["largest"] for r in records] == [["ball"], ["ball"]]


def test_the_choice_reads_cells_of_inner_parts_alone(chosen, monkeypatch) -> None:
    root, _, _ = chosen
    plan, run = planning.read(root), runs.Run.open(root)
    asked: list[str] = []
    gather = runs.Run.gather

    def noted(self: runs.Run, name: str, only: list[str]) -> pl.DataFrame:
        asked.extend(only)
        return gather(self, name, only)

    monkeypatch.setattr(runs.Run, "gather", noted)
    choice = search.choose(plan, run, plan.arms[0], 0)
    assert choice.largest == ("ball",)
    inner = {cell.hash for s, cells in plan.searches(plan.arms[0], 0) if s == choice.setting for cell in cells}
    assert set(asked) == inner
    assert [c.hash for c in search.refits(plan, plan.arms[0], 0, choice)] == [
        r["hash"] for s in (0, 1) for r in run.records() if r["inner"] < 0 and r["seed"] == s
    ]


def test_judged_and_served_masks_are_cleaned_alike(chosen, tmp_path) -> None:
    root, data, _ = chosen
    raw = data.root.parent / "raw"
    files = [raw / f"v{n}.nii.gz" for n in (7, 9)]
    judged = serve.predict(root, files, out=tmp_path / "judged.csv", **{"as": "judged"})
    plain = serve.predict(root, files, out=tmp_path / "plain.csv")
    test = counts(root, False)
    for served, folder in ((judged, "judged"), (plain, "plain")):
        for row in served.rows:
            mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / folder / row["mask"])))
            assert ndimage.label(mask, np.ones((3, 3, 3)))[1] == 1 and mask.sum() > 30
            own = test.filter((pl.col("case_id") == row["study"]) & pl.col("name").is_in(["tp.ball", "fp.ball"]))
            sums = own.group_by("cell").agg(pl.col("value").sum())["value"]
            assert sums.min() - 8 <= mask.sum() <= sums.max() + 8  # the mean of two seeds lies about each


def test_a_refit_is_judged_as_was_chosen(chosen, tmp_path) -> None:
    """A network of a few steps calls scattered voxels: the cell that cleans counts the largest part of what the other
    counts.
    """
    _, data, _ = chosen
    more = [CHOOSES, "split.kind=column", "split.column=part", "train.iterations=6"]
    session, run = compare.prepare(config.load_recipe(None, words(data.root, tmp_path, *more)), data)
    plan, arm = session.plan, session.plan.arms[0]
    setting = arm.settings[0]
    said: dict[tuple[str, ...], dict[str, float]] = {}
    for largest in ((), ("ball",)):
        cell = plan.cell(arm, setting, outer=0, inner=-1, seed=0, steps=1000, largest=largest)
        fit.run_cell(session, run, Training(cell, arm, setting))
        table = tables.read(run.folder(cell) / "measures.parquet", "measures")
        called = (
            table.filter(pl.col("name").is_in(["tp.ball", "fp.ball"])).group_by("case_id").agg(pl.col("value").sum())
        )
        said[largest] = dict(called.iter_rows())
        record = next(r for r in run.records([cell.hash]))
        model, task, _ = load_model(session, arm, record)
        fields: dict[str, np.ndarray] = {}
        rows = session.rows(plan.folds[0].test)

        def keep(row: int, found: np.ndarray, fields: dict[str, np.ndarray] = fields) -> None:
            fields[session.cases.ids[row]] = found

        predict_cases(
            session.fabric, model, task, session.samples(rows, setting), session.cases, batch_size=2, on_case=keep
        )
        for case, field in fields.items():
            raw = Segment(["ball"]).said(field)[0]
            wanted = largest_component(raw) if largest else raw
            assert said[largest][case] == wanted.sum() > 0, case
    assert sum(said[()].values()) > sum(said["ball",].values())


def test_plain_serving_goes_by_the_majority_of_its_networks() -> None:
    said = serve.Said([], [], [], networks=3, cleaned=["a", "b", "a"])
    assert said.largest() == ("a",)
    assert serve.Said([], [], [], networks=2, cleaned=["a"]).largest() == ()  # a tie leaves it whole


def test_asked_for_it_needs_no_part_that_selects(tmp_path) -> None:
    data = twins(tmp_path)
    more = ["split.kind=column", "split.column=part", "split.inner=0"]
    for word, whole in (("largest", False), ("auto", True)):
        recipe = config.load_recipe(None, words(data.root, tmp_path / word, *more, f"train.components={word}"))
        root = flow.run(recipe, say=lambda text: None)
        served = serve.predict(root, [data.root.parent / "raw" / "v8.nii.gz"], out=tmp_path / f"{word}.csv")
        path = tmp_path / word / served.rows[0]["mask"]
        mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
        assert (ndimage.label(mask, np.ones((3, 3, 3)))[1] > 1) == whole
