"""Volumes of several spacings: what is decided, what is in a name, and that the source is what is judged and served."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import SimpleITK

from conftest import quiet
from factory import make_dataset
from medgraft import config, flow, runs, serve, tables
from medgraft.data import spacing as grids
from medgraft.datasets import Dataset, load_dataset
from medgraft.engine import fields
from medgraft.engine import plan as planning
from medgraft.engine.defaults import with_defaults
from medgraft.errors import UserError
from medgraft.files import read_json
from medgraft.intake import scan as act
from medgraft.intake.options import ScanOptions

ONE = (1.0, 1.0, 1.0)
MIXED = [(1.0, 0.8, 0.8), (4.0, 0.8, 0.8), (2.0, 1.6, 1.0)]
TURNS = [  # x, y, z of a source: as RAS, turned about an oblique axis, flipped, and axes in another order
    np.eye(3),
    np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]) @ np.diag([-1.0, -1.0, 1.0]),
    np.diag([1.0, -1.0, -1.0]),
    np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
]


def balls(root: Path, spacings: list[tuple[float, float, float]], cases: int = 6, size: float = 24.0) -> Path:
    """NIfTI volumes of ``size`` mm a side, each with a bright ball of 6 mm at a known place, in turned directions; a
    label map beside each, and a table.
    """
    (root / "labels").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for n in range(cases):
        sides = np.array(spacings[n % len(spacings)])
        shape = tuple(round(size / s) for s in sides)
        places = np.stack(np.meshgrid(*((np.arange(k) + 0.5) * s for k, s in zip(shape, sides)), indexing="ij"))
        centre = size / 2 + rng.uniform(-3, 3, 3)
        label = (((places - centre[:, None, None, None]) ** 2).sum(0) <= 36).astype(np.uint8)
        values = (rng.normal(0, 8, shape) + 100 * label).astype(np.float32)
        for folder, array in (("", values), ("labels", label)):
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing(sides[::-1].tolist())
            image.SetOrigin((10.0 * n, -20.0, 5.0))
            image.SetDirection(TURNS[n % len(TURNS)].reshape(-1).tolist())
            SimpleITK.WriteImage(image, str(root / folder / f"v{n}.nii.gz"))
        rows.append({"image": f"v{n}.nii.gz", "label": f"labels/v{n}.nii.gz"})
    with open(root / "cases.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["image", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return root


def scanned(raw: Path, out: Path) -> Dataset:
    options: dict[str, Any] = {"labels": "cases.csv", "masks": "label", "patient": "none", "out": out}
    options |= {"structures": {1: "ball"}, "identity": "keep"}
    act.scan(raw, config.build(ScanOptions, options))
    return load_dataset(out)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Balls in volumes of three spacings and four directions."""
    root = tmp_path_factory.mktemp("mixed")
    return scanned(balls(root / "raw", MIXED), root / "data")


def words(data: Path, out: Path, *more: str) -> list[str]:
    base = [f"data={data}", f"out={out}", "task=segment", "split.folds=2", "seeds=[0]", "threads=1", "workers=0"]
    base += ["report=false", "stats.resamples=100", "window={kind: cubes, length: 8, size: 16}", "device=cpu"]
    base += ["train={iterations: 60, batch_size: 2, learning_rate: 1e-2, augment: none}"]
    return [*base, "models=[{model: unet3d, start: random}]", *more]


def resolved(data: Dataset, out: Path, *more: str) -> planning.Plan:
    return planning.resolve(config.load_recipe(None, words(data.root, out, *more)), data)


def names(plan: planning.Plan) -> list[str]:
    return [
        plan.cell(arm, s, outer=fold.outer, inner=i, seed=0).hash
        for arm in plan.arms
        for s in arm.settings
        for fold in plan.folds
        for i in (-1, *fold.inner)
    ]


def under(data: Dataset, spacings: list[tuple[float | None, ...] | None]) -> Dataset:
    """The same data set with other spacings in its table, case after case."""
    column = pl.Series("spacing", (spacings * len(data.manifest))[: len(data.manifest)], dtype=pl.List(pl.Float64))
    return Dataset(data.root, data.info, data.manifest.with_columns(column), data.frames)


# ------------------------------------------------------------------ decided


def test_the_common_spacing_is_the_median_of_those_that_train(mixed) -> None:
    rows = list(range(6))
    found = fields.common_spacing(mixed, rows, rows)
    # in RAS (d, h, w) the fourth direction has other axes than the source
    table = np.array(mixed.manifest["spacing"].to_list())
    assert found.target == tuple(np.median(table, axis=0)) and "spacings differ" in found.told
    few = fields.common_spacing(mixed, rows, [0])
    assert few.target == tuple(table[0])  # who is only tested has no say
    assert few.told.startswith("spacings differ: ") and f"resampled to {grids.told(few.target)}" in few.told


@pytest.mark.parametrize(
    ("shape", "spacings", "target"),
    [
        ([20, 100, 100], [(5.0, 0.7, 0.8)] * 8 + [(2.0, 0.7, 0.8)] * 2, (2.0, 0.7, 0.8)),  # thick slices give way
        ([20, 100, 100], [(5.0, 0.7, 0.8)] * 19 + [(0.1, 0.7, 0.8)], (5.0, 0.7, 0.8)),  # a rare one does not decide
        ([20, 100, 100], [(5.0, 0.7, 0.8)] * 8 + [(0.1, 0.7, 0.8)] * 2, (0.8, 0.7, 0.8)),  # no finer than the pixels
        ([80, 100, 100], [(5.0, 0.7, 0.8)] * 8 + [(2.0, 0.7, 0.8)] * 2, (5.0, 0.7, 0.8)),  # as many slices as pixels
        ([20, 100, 100], [(2.0, 0.7, 0.8)] * 8 + [(1.0, 0.7, 0.8)] * 2, (2.0, 0.7, 0.8)),  # less than three times
        ([100, 100, 20], [(0.7, 0.8, 5.0)] * 8 + [(0.7, 0.8, 2.0)] * 2, (0.7, 0.8, 2.0)),  # whichever axis is thick
    ],
)
def test_thick_slices_give_way(tmp_path, shape, spacings, target) -> None:
    made = make_dataset(tmp_path, "volume", cases=1, masks=True)
    rows = pl.concat([made.manifest] * len(spacings)).with_columns(
        pl.Series("shape", [[1, *shape]] * len(spacings), dtype=made.manifest["shape"].dtype)
    )
    data = under(Dataset(made.root, made.info, rows, made.frames), spacings)
    every = range(len(spacings))
    found = fields.common_spacing(data, every, every).target
    assert found is not None and found == pytest.approx(target)


def test_spacings_that_are_alike_or_unknown_change_nothing(mixed, tmp_path) -> None:
    for spacings in ([ONE], [ONE, (1.0, 1.0, 1.009)], [None], [(None, None, None)]):
        data = under(mixed, spacings)
        plan = resolved(data, tmp_path)
        assert plan.arms[0].settings[0].window.spacing is None and plan.spacings == {}
        assert names(plan) == names(resolved(data, tmp_path, "window.spacing=none"))
        assert "spacing" not in plan.to_json()["arms"][0]["settings"][0]["window"] and "spacings" not in plan.to_json()
        assert not any("spacing" in line for line in plan.notes)


@pytest.mark.parametrize("wrong", [None, (0.0, 1.0, 1.0), (1000.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (math.nan, 1.0, 1.0)])
def test_a_missing_or_absurd_spacing_is_said_or_refused_by_name(mixed, tmp_path, wrong) -> None:
    data = under(mixed, [ONE, wrong, (2.0, 1.0, 1.0)])
    plan = resolved(data, tmp_path)
    (line,) = [line for line in plan.notes if "spacing" in line]
    case = data.manifest["case_id"][1]
    assert "unknown or absurd for 2 of 6 cases" in line and case in line and "nothing is resampled" in line
    assert plan.arms[0].settings[0].window.spacing is None
    with pytest.raises(UserError, match=f"{case}: the size of its voxels is unknown or absurd"):
        resolved(data, tmp_path, "window.spacing=[1, 1, 1]")
    assert not any("unknown" in line for line in resolved(data, tmp_path, "window.spacing=none").notes)


def test_the_default_patch_is_that_of_the_resampled_volumes(tmp_path) -> None:
    made = make_dataset(tmp_path / "data", "volume", cases=4, masks=True, shape=(1, 20, 40, 40))
    data = under(made, [(4.0, 1.0, 1.0), (4.0, 1.0, 1.0), (2.0, 1.0, 2.0), (2.0, 1.0, 2.0)])
    data.manifest.write_parquet(data.root / "manifest.parquet")
    said: list[str] = []
    recipe = config.load_recipe(
        None, [f"data={data.root}", f"out={tmp_path}", "task=segment", "device=cpu", "split.folds=2"]
    )
    recipe = with_defaults(recipe, data, said.append)
    # to 3 x 1 x 1.5 mm: 27 or 13 slices, 27 or 53 columns
    assert any("4 cases of 20x40x40 voxels in the middle, voxels of 3 x 1 x 1.5 mm" in line for line in said), said
    plan = planning.resolve(recipe, data)
    window = plan.arms[0].settings[0].window
    assert window.spacing == (3.0, 1.0, 1.5) and (window.length, window.sides) == (16, (40, 40))
    assert any("resampled to 3 x 1 x 1.5 mm" in line for line in plan.notes)
    asked = [f"data={data.root}", f"out={tmp_path}", "task=segment", "device=cpu", "split.folds=2"]
    own = with_defaults(config.load_recipe(None, [*asked, "window.spacing=[2, 1, 1]"]), data, said.append)
    window = planning.resolve(own, data).arms[0].settings[0].window
    # 40 or 20 slices, 40 or 80 columns
    assert window.spacing == (2.0, 1.0, 1.0) and (window.length, window.sides) == (24, (40, 56))
    assert any("4 cases of 30x40x60 voxels in the middle, voxels of 2 x 1 x 1 mm" in line for line in said), said


# ------------------------------------------------------------------ named


def test_the_spacing_and_the_spacings_of_the_cases_are_in_the_name(mixed, tmp_path) -> None:
    auto, none = resolved(mixed, tmp_path), resolved(mixed, tmp_path, "window.spacing=none")
    fixed = resolved(mixed, tmp_path, "window.spacing=[2, 1, 1]")
    assert not set(names(auto)) & set(names(none)) and not set(names(auto)) & set(names(fixed))
    assert planning.Plan.from_json(auto.to_json()) == auto and len(auto.spacings) == 6
    table = [tuple(s) for s in mixed.manifest["spacing"].to_list()]
    other = under(mixed, [*table[:2], (3.9, *table[2][1:]), *table[3:]])
    one, two = (resolved(d, tmp_path, "window.spacing=[2, 1, 1]") for d in (mixed, other))
    assert not set(names(one)) & set(names(two))  # of two folds one case is in every cell
    assert names(none) == names(resolved(other, tmp_path, "window.spacing=none"))  # where it is not read, it is silent
    told = [line for line in auto.notes if "spacing" in line]
    assert len(told) == 1 and told[0].startswith("spacings differ: ")
    assert not any("spacings" in line for line in (*none.notes, *fixed.notes))


def test_a_spacing_without_meaning_is_refused(mixed, tmp_path) -> None:
    labels = make_dataset(tmp_path / "labels", "volume", cases=12, patients=12)
    base = [f"data={labels.root}", f"out={tmp_path}", "target=finding", "split.folds=2"]
    base += ["models=[{model: resnet3d_10, start: random}]", "window={size: 16, length: 8}"]
    with pytest.raises(UserError, match="spacing is for masks of volumes"):
        planning.resolve(config.load_recipe(None, [*base, "window.spacing=[1, 1, 1]"]), labels)
    with pytest.raises(UserError, match="windows of kind slices are brought to their size"):
        resolved(
            mixed,
            tmp_path,
            "window.kind=slices",
            "window.length=1",
            "window.spacing=[1, 1, 1]",
            "models=[{model: unet2d, start: random}]",
        )
    flat = resolved(
        mixed, tmp_path, "window={kind: slices, length: 1, size: 32}", "models=[{model: unet2d, start: random}]"
    )
    assert flat.arms[0].settings[0].window.spacing is None and not any("spacings" in line for line in flat.notes)
    for wrong in ("[1, 1]", "[1, 0, 1]", "[1, -1, 1]", "often", "[1, .nan, 1]"):
        with pytest.raises(UserError, match=r"window\.spacing"):
            resolved(mixed, tmp_path, f"window.spacing={wrong}")


# ------------------------------------------------------------------ judged and served


@pytest.fixture(scope="module")
def finished(mixed: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    said: list[str] = []
    out = tmp_path_factory.mktemp("runs")
    recipe = config.load_recipe(None, words(mixed.root, out, "window.overlap=0.25", "train.augment=volume"))
    return flow.run(recipe, say=said.append), said


def truth_of(raw: Path, name: str) -> SimpleITK.Image:
    return SimpleITK.ReadImage(str(raw / "labels" / f"{name}.nii.gz"))


def on_source(mask: SimpleITK.Image, source: SimpleITK.Image) -> np.ndarray:
    moved = SimpleITK.Resample(mask, source, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
    return SimpleITK.GetArrayFromImage(moved) > 0


def test_the_source_grid_is_judged_and_as_judged_gives_its_counts(mixed, finished, tmp_path) -> None:
    root, said = finished
    assert any(line.startswith("spacings differ") for line in said)
    assert read_json(root / "plan.json")["arms"][0]["settings"][0]["window"]["spacing"] is not None
    raw = mixed.root.parent / "raw"
    files = [raw / f"v{n}.nii.gz" for n in (4, 1, 2, 3)]  # some of them, in another order than when they were judged
    served = serve.predict(root, files, out=tmp_path / "out.csv", **{"as": "judged"})
    measures = tables.read(root / "measures.parquet", "measures").filter(pl.col("frame") == -1)
    refits = [r["hash"] for r in runs.Run.open(root).records() if r["inner"] < 0]
    measures = measures.filter(pl.col("cell").is_in(refits))
    dice = []
    assert {row["study"] for row in served.rows} == {"v1", "v2", "v3", "v4"}
    for row in served.rows:
        truth = truth_of(raw, row["study"])
        yes = SimpleITK.GetArrayFromImage(truth) > 0
        mask = SimpleITK.ReadImage(str(tmp_path / "out" / row["mask"]))
        assert sorted(mask.GetSize()) == sorted(truth.GetSize())  # the source's own grid
        here = on_source(mask, truth)
        own = dict(measures.filter(pl.col("case_id") == row["study"]).select("name", "value").iter_rows())
        counted = (here & yes).sum(), (here & ~yes).sum(), (~here & yes).sum()
        assert tuple(own[f"{k}.ball"] for k in ("tp", "fp", "fn")) == counted
        dice.append(2 * counted[0] / (2 * counted[0] + counted[1] + counted[2]))
        volume = row["ball ml"]
        assert volume == pytest.approx(here.sum() * math.prod(truth.GetSpacing()) / 1000, rel=1e-5)
    assert min(dice) > 0.6 and np.mean(dice) > 0.75


def test_a_judged_mask_lies_where_the_given_file_lies(mixed, finished, tmp_path) -> None:
    """The pixels are the run's own, the place in the patient is that of the file that was given."""
    root, _ = finished
    image = SimpleITK.ReadImage(str(mixed.root.parent / "raw" / "v1.nii.gz"))
    image.SetOrigin((300.0, 200.0, -100.0))
    SimpleITK.WriteImage(image, str(tmp_path / "elsewhere.nii.gz"))
    served = serve.predict(root, [tmp_path / "elsewhere.nii.gz"], out=tmp_path / "out.csv", **{"as": "judged"})
    mask = SimpleITK.ReadImage(str(tmp_path / "out" / served.rows[0]["mask"]))
    yes = SimpleITK.GetArrayFromImage(truth_of(mixed.root.parent / "raw", "v1")) > 0
    here = on_source(mask, image)
    assert 2 * (here & yes).sum() / (here.sum() + yes.sum()) > 0.6


def test_plain_serving_resamples_too(mixed, finished, tmp_path) -> None:
    """A new study of a spacing that no training case had: its ball is found at its place in the patient."""
    root, _ = finished
    raw = balls(tmp_path / "raw", [(3.0, 1.2, 0.6)], cases=2)
    served = serve.predict(root, [raw / "v1.nii.gz"], out=tmp_path / "out.csv")
    truth = truth_of(raw, "v1")
    yes = SimpleITK.GetArrayFromImage(truth) > 0
    here = on_source(SimpleITK.ReadImage(str(tmp_path / "out" / served.rows[0]["mask"])), truth)
    assert 2 * (here & yes).sum() / (here.sum() + yes.sum()) > 0.75
    assert served.rows[0]["flag"] == ""  # within a quarter of the spacings that trained


def test_a_study_of_unknown_spacing_is_not_answered(mixed, finished, tmp_path) -> None:
    root, _ = finished
    good = mixed.root.parent / "raw" / "v0.nii.gz"
    image = SimpleITK.ReadImage(str(good))
    image.SetSpacing((1000.0, 1.0, 1.0))
    SimpleITK.WriteImage(image + 1, str(tmp_path / "odd.nii.gz"))
    served = serve.predict(root, [tmp_path / "odd.nii.gz", good], out=tmp_path / "out.csv")
    assert [r["study"] for r in served.rows] == ["v0"]
    (rejected,) = served.rejected
    assert rejected["source"] == "odd" and "unknown or absurd" in rejected["reason"]
    with pytest.raises(UserError, match="odd: the size of its voxels is unknown or absurd"):
        serve.predict(root, [tmp_path / "odd.nii.gz"], out=tmp_path / "out.csv")


def test_a_volume_thinner_than_the_patch_is_learned_and_judged(tmp_path) -> None:
    data = scanned(balls(tmp_path / "raw", [(1.0, 1.0, 1.0), (6.0, 1.0, 1.0)], cases=4, size=12.0), tmp_path / "data")
    more = ["window={kind: cubes, length: 32, size: 16, spacing: [3, 1, 1]}", "train.iterations=3"]
    root = flow.run(config.load_recipe(None, words(data.root, tmp_path / "runs", *more)), say=quiet)
    measures = tables.read(root / "measures.parquet", "measures").filter(pl.col("name") != "fp.ball")
    counted = measures.group_by("case_id", maintain_order=True).agg(pl.col("value").sum())
    raw = {f"v{n}": (SimpleITK.GetArrayFromImage(truth_of(tmp_path / "raw", f"v{n}")) == 1).sum() for n in range(4)}
    assert dict(counted.iter_rows()) == raw  # every voxel of the source's structure is counted, once
